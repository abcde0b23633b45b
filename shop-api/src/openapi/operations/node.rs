//! What operators ask of one node: its state as a file, its log, disk and snapshot; and its probes.

use super::cluster::TAG;
use super::{Answers, JSON, Operation, TEXT, answer, operation};
use crate::Call;
use crate::codes::Code::{self, *};

/// Of what takes a whole node's state out.
const TAKING_CODES: [Code; 8] =
    [BackupRunning, InvalidParameter, NoLeader, Behind, TooStale, NotServing, NoRoom, StorageFailed];

fn taken(description: &'static str, content: &'static [(&'static str, &'static str)]) -> Answers {
    Answers { headers: &[("Stockroom-Staleness-Ms", "StalenessMs")], ..answer(200, description, content) }
}

pub(super) fn files(call: Call) -> Operation {
    match call {
        Call::Backup => Operation {
            description: "Everything up to one entry of the log, of this node, as one file: compressed, with a \
                          checksum for each block and one for the whole at its end. A file without its end is no \
                          backup. `stockctl backup create` writes and checks it, `stockroom verify` and `stockroom \
                          restore` read it. Everything that was acknowledged before the call is in it, unless \
                          `Stockroom-Consistency` asks for less: `stale` works without a leader. Writes go on \
                          meanwhile; one runs at a time.",
            codes: &TAKING_CODES,
            parameters: &["Consistency", "MaxStalenessMs", "TimeoutMs"],
            ..operation(
                TAG,
                "Take a backup of this node",
                vec![taken("The file.", &[("application/vnd.stockroom.backup", "")])],
            )
        },
        Call::ReadLog => Operation {
            description: "What was applied here behind one entry of the log, as one file of the same kind as a backup: \
                          compressed, with checksums, of no use without its end. `stockctl backup archive` keeps such \
                          files beside a backup, so that `stockroom restore --to-index` or `--to-time` gives any point \
                          in between. A log is purged behind the node's own snapshot files: ask often enough.",
            codes: &[
                BackupRunning,
                InvalidParameter,
                MissingParameter,
                LogPurged,
                NoLeader,
                Behind,
                TooStale,
                NotServing,
            ],
            parameters: &["After", "Consistency", "MaxStalenessMs", "TimeoutMs"],
            ..operation(
                TAG,
                "Read the log behind an entry",
                vec![taken("The file.", &[("application/vnd.stockroom.log", "")])],
            )
        },
        _ => Operation {
            description: "Items, stock, reservations, orders and movements of this node at one entry of the log, with \
                          nothing left out, as lines of JSON. A line `{\"section\": NAME}` says what the lines after it \
                          are; the last line is `{\"end\": ...}`, with how many there are of each: without it the answer \
                          was cut off. Receipts are not in it. `stockctl export` writes a file for each section, \
                          `stockroom import` makes a cluster of them.",
            codes: &TAKING_CODES,
            parameters: &["Consistency", "MaxStalenessMs", "TimeoutMs"],
            ..operation(
                TAG,
                "Export this node's shop",
                vec![taken("The lines.", &[("application/x-ndjson", "ExportLine")])],
            )
        },
    }
}

pub(super) fn scrub(call: Call) -> Operation {
    match call {
        Call::GetScrub => Operation {
            description: "Reading all of log, tables and snapshot file, at the rate of `scrub_bytes_per_second`, so \
                          that damage shows before it is needed. It begins by itself every `scrub_interval_ms`. Damage \
                          ends the node, with a message that names the file.",
            ..operation(
                TAG,
                "How this node's scrub stands",
                vec![answer(200, "As it stands.", &[(JSON, "Scrub")])],
            )
        },
        _ => Operation {
            description: "Where one is running, it goes on.",
            body: Some("Empty"),
            ..operation(TAG, "Scrub this node's disk now", vec![answer(200, "It runs.", &[(JSON, "Scrub")])])
        },
    }
}

pub(super) fn looks(call: Call) -> Operation {
    const SNAPSHOT: &[(&str, &str)] = &[(JSON, "NodeSnapshot")];
    match call {
        Call::LogEntries => Operation {
            description: "As they lie on this node now, in order, decoded: also those that are not committed and may \
                          be taken back. Without `from`, the newest ones up to `to`. An answer has about a mebibyte of \
                          entries at most; `next_from` says where it goes on.",
            codes: &[InvalidParameter, LogPurged, NotServing, StorageFailed, Internal],
            parameters: &["From", "To", "Limit", "Commands"],
            ..operation(
                TAG,
                "Look into this node's log",
                vec![answer(200, "The entries.", &[(JSON, "LogEntries")])],
            )
        },
        Call::GetSnapshot => operation(
            TAG,
            "Show this node's snapshot",
            vec![answer(200, "The newest one that is finished and verified.", SNAPSHOT)],
        ),
        _ => Operation {
            description: "Of what this node has applied by now. Does not wait: it is there once `snapshot.log_index` is \
                          `writing_index` or more. Where one is being written already, or nothing has been applied since \
                          the last one, no other one is begun. Nodes write theirs by themselves as their logs grow; \
                          this is for the time before planned work.",
            body: Some("Empty"),
            ..operation(TAG, "Have this node write a snapshot", vec![answer(200, "Begun.", SNAPSHOT)])
        },
    }
}

pub(super) fn probes(call: Call) -> Operation {
    const READY: &[(&str, &str)] = &[(TEXT, ""), (JSON, "Readiness")];
    match call {
        Call::Live => Operation {
            description: "Fails for nothing but a dead process.",
            ..operation(TAG, "Is the process alive?", vec![answer(200, "It is.", &[(TEXT, "")])])
        },
        Call::Ready => Operation {
            parameters: &["Verbose", "Accept"],
            ..operation(
                TAG,
                "Should this node be sent requests?",
                vec![answer(200, "It should.", READY), answer(503, "It should not; says why.", READY)],
            )
        },
        Call::Metrics => {
            operation(TAG, "Metrics for Prometheus", vec![answer(200, "As text.", &[(TEXT, "")])])
        }
        Call::OpenApi => {
            operation(TAG, "This document", vec![answer(200, "OpenAPI 3.1.", &[(JSON, "Document")])])
        }
        Call::Docs => {
            operation(TAG, "This document as a page", vec![answer(200, "A page.", &[("text/html", "")])])
        }
        _ => Operation {
            codes: &[RouteNotFound],
            ..operation(
                TAG,
                "A file that the page loads",
                vec![answer(200, "A file.", &[("text/css", ""), ("text/javascript", ""), ("image/png", "")])],
            )
        },
    }
}
