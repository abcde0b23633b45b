//! One run: cluster up, clients and nemeses at work, heal, settle, last reads, verdicts, report.
