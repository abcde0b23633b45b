//! The file of a history: JSON lines, one record a line.
//!
//! A call is written twice, when it is invoked and when it ends (and again when it is settled), a fault
//! too: so a file that is cut anywhere still says what was under way. Reading keeps the last record of
//! each. A file written by hand may say everything once.

use super::{Fault, History, Op, Record};
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

/// Appends records to a file; each is handed to the operating system before [`Writer::write`] returns.
pub struct Writer {
    file: File,
    path: PathBuf,
    line: Vec<u8>,
}

impl Writer {
    /// Begins a file.
    ///
    /// # Errors
    /// Where there is one already, or none can be made.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create_new(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Writer { file, path: path.to_owned(), line: Vec::new() })
    }

    /// Adds a record.
    ///
    /// # Errors
    /// Where it cannot be written: the file may end in a part of a line then.
    pub fn write(&mut self, record: &Record) -> anyhow::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, record)?;
        self.line.push(b'\n');
        // One write a record: a harness that is killed leaves whole lines.
        self.file.write_all(&self.line).with_context(|| format!("cannot write to {}", self.path.display()))
    }
}

/// Reads a file. A last line that was cut is left out; what else cannot be read is an error.
///
/// # Errors
/// Where the file cannot be read, or a line is no record; the message has the line's number.
pub fn read(path: &Path) -> anyhow::Result<History> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut file = BufReader::new(file);
    let mut parts = Parts::default();
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        file.read_until(b'\n', &mut line).with_context(|| format!("cannot read {}", path.display()))?;
        if line.is_empty() {
            break;
        }
        let whole = line.ends_with(b"\n");
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(record) => parts.add(record),
            Err(_) if !whole => break,
            Err(error) => {
                return Err(error).with_context(|| format!("{}:{number} is no record", path.display()));
            }
        }
    }
    let history = parts.into_history();
    ensure!(
        !history.run.workload.is_empty(),
        "{} does not say which run it is: its first line should be {{\"record\":\"run\",\"workload\":...}}",
        path.display()
    );
    Ok(history)
}

/// Records by what they are about, so that a later one replaces an earlier one.
#[derive(Default)]
struct Parts {
    history: History,
    ops: BTreeMap<u64, Op>,
    faults: BTreeMap<(u64, String), Fault>,
}

impl Parts {
    fn add(&mut self, record: Record) {
        match record {
            Record::Run(run) => self.history.run = run,
            Record::Op(op) => {
                self.ops.insert(op.id, *op);
            }
            Record::Fault(fault) => {
                self.faults.insert((fault.from, fault.nemesis.clone()), fault);
            }
            Record::Sample(sample) => self.history.samples.push(sample),
            Record::Exit(exit) => self.history.exits.push(exit),
            Record::Probe(probe) => self.history.probes.push(probe),
            Record::Backup(backup) => self.history.backups.push(backup),
        }
    }

    fn into_history(self) -> History {
        let mut history = self.history;
        history.ops = self.ops.into_values().collect();
        history.faults = self.faults.into_values().collect();
        history
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Call, Line, Outcome, RunInfo};

    fn op(id: u64) -> Op {
        Op {
            id,
            client: 1,
            node: 2,
            key: Some(format!("k{id}")),
            call: Call::Receive { lines: vec![Line::new("mug", 3)] },
            invoked: 10 + id,
            completed: None,
            outcome: None,
            settled: None,
        }
    }

    fn fault(from: u64, until: Option<u64>) -> Fault {
        Fault {
            nemesis: "kill".into(),
            kind: "process".into(),
            what: "node 1 killed".into(),
            nodes: vec![1],
            from,
            until,
            effective: until.is_some(),
            evidence: String::new(),
        }
    }

    fn records() -> Vec<Record> {
        let run = RunInfo { workload: "stock".into(), seed: 7, ..RunInfo::default() };
        let answer = Answer::Done { log_index: Some(9) };
        let ended = Op {
            completed: Some(20),
            outcome: Some(Outcome::Ok { answer, meta: Default::default() }),
            ..op(0)
        };
        vec![
            Record::Run(run),
            Record::Op(Box::new(op(0))),
            Record::Op(Box::new(op(1))),
            Record::Fault(fault(11, None)),
            Record::Op(Box::new(ended)),
            Record::Fault(fault(11, Some(30))),
        ]
    }

    fn written(dir: &Path) -> PathBuf {
        let path = dir.join("history.jsonl");
        let mut writer = Writer::create(&path).expect("a new file");
        for record in records() {
            writer.write(&record).expect("there is room");
        }
        path
    }

    #[test]
    fn the_last_record_of_a_call_and_of_a_fault_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let history = read(&written(dir.path())).expect("readable");
        assert_eq!(history.run.seed, 7);
        assert_eq!(history.ops.len(), 2);
        assert_eq!(history.ops[0].completed, Some(20));
        assert_eq!(history.ops[1], op(1), "one that never ended is there too");
        assert_eq!(history.faults, [fault(11, Some(30))]);
    }

    #[test]
    fn a_file_cut_at_any_byte_after_its_first_line_is_readable() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = written(dir.path());
        let bytes = std::fs::read(&path).expect("readable");
        let first = bytes.iter().position(|byte| *byte == b'\n').expect("lines");
        for length in first..bytes.len() {
            std::fs::write(&path, &bytes[..length]).expect("writable");
            let history = read(&path).unwrap_or_else(|error| panic!("cut at {length}: {error:#}"));
            // A last line without its newline is whole where nothing but the newline is missing.
            let lines = bytes[..=length].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(history.ops.len(), lines.saturating_sub(1).min(2), "cut at {length}");
        }
    }

    #[test]
    fn a_line_in_the_middle_that_is_no_record_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = written(dir.path());
        let text = std::fs::read_to_string(&path).expect("readable");
        std::fs::write(&path, text.replacen("\"id\":1", "\"id\":true", 1)).expect("writable");
        let error = read(&path).expect_err("line 3 is broken");
        assert!(error.to_string().ends_with("history.jsonl:3 is no record"), "{error}");
    }

    #[test]
    fn a_file_that_does_not_say_its_run_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("history.jsonl");
        std::fs::write(&path, "").expect("writable");
        assert!(read(&path).expect_err("empty").to_string().contains("does not say which run"));
    }
}
