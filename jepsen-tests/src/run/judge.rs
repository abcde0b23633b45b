//! History in, verdicts out: of a run that has just ended, and of a file.

use super::plan::find_workload;
use crate::checker::{self, Checker, Verdict, Verdicts};
use crate::history::{History, RunInfo};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// How long one checker may take. Each has a limit of its own; this one is for those that break it.
const PATIENCE: Duration = Duration::from_secs(300);
/// Name of the file of a [`Summary`].
pub const VERDICTS: &str = "verdicts.json";

/// What came of a run: the file `verdicts.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The worst of all verdicts.
    pub result: Verdicts,
    /// What the run was.
    pub run: RunInfo,
    /// What was asked for and could not be had on that machine, and why.
    pub skipped: Vec<(String, String)>,
    /// How long it took in all, with starting and judging.
    pub seconds: f64,
    /// How many calls ended how.
    pub calls: Calls,
    /// Faults by nemesis.
    pub faults: BTreeMap<String, Count>,
    /// What each checker found.
    pub verdicts: Vec<Verdict>,
}

/// How many calls ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "Jepsen's words")]
pub struct Calls {
    pub ok: u64,
    pub fail: u64,
    pub info: u64,
}

/// How many faults of one nemesis there were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// `process`, `network`, `clock`, `disk`, `cluster` or `resources`.
    pub kind: String,
    /// That took effect.
    pub effective: u64,
    /// In all.
    pub total: u64,
}

impl Summary {
    /// Judges a history. What is not in it (what was skipped, how long it took) is left empty.
    ///
    /// # Errors
    /// Where it is of a workload that there is not.
    pub fn of(history: &Arc<History>) -> anyhow::Result<Self> {
        let verdicts = judge(history)?;
        Ok(Summary {
            result: worst(&verdicts),
            run: history.run.clone(),
            skipped: Vec::new(),
            seconds: 0.0,
            calls: calls(history),
            faults: faults(history),
            verdicts,
        })
    }

    /// Writes it into the directory of a run.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let path = dir.join(VERDICTS);
        std::fs::write(&path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads it from the directory of a run.
    ///
    /// # Errors
    /// Where there is none, or it is something else.
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(VERDICTS);
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{} has another form", path.display()))
    }

    /// How many faults took effect.
    pub fn effective(&self) -> u64 {
        self.faults.values().map(|count| count.effective).sum()
    }
}

/// 0 where all hold, 8 where one is violated, 9 where one is not decided.
pub fn exit_code(result: Verdicts) -> u8 {
    match result {
        Verdicts::Holds => 0,
        Verdicts::Violated => 8,
        Verdicts::NotDecided => 9,
    }
}

/// Asks every checker that always runs, and those of the history's workload, at the same time.
fn judge(history: &Arc<History>) -> anyhow::Result<Vec<Verdict>> {
    let workload = find_workload(&history.run.workload)?;
    let running: Vec<_> = workload
        .checkers
        .iter()
        .chain(checker::ALWAYS)
        .enumerate()
        .map(|(place, checker)| (place, ask(*checker, history.clone())))
        .collect();
    Ok(running
        .into_iter()
        .map(|(place, answer)| match answer.recv_timeout(PATIENCE) {
            Ok(verdict) => verdict,
            Err(mpsc::RecvTimeoutError::Timeout) => Verdict::not_decided(
                &format!("checker {place}"),
                format!("it did not end within {PATIENCE:?}"),
            ),
            // What it said is on standard error.
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Verdict::not_decided(&format!("checker {place}"), "it panicked: a bug of the harness")
            }
        })
        .collect())
}

/// On a thread of its own, because it may take longer than anybody waits.
fn ask(checker: Checker, history: Arc<History>) -> mpsc::Receiver<Verdict> {
    let (answer, receive) = mpsc::channel();
    std::thread::spawn(move || answer.send(checker(&history)));
    receive
}

fn worst(verdicts: &[Verdict]) -> Verdicts {
    let any = |wanted| verdicts.iter().any(|verdict| verdict.result == wanted);
    match (any(Verdicts::Violated), any(Verdicts::NotDecided) || verdicts.is_empty()) {
        (true, _) => Verdicts::Violated,
        (_, true) => Verdicts::NotDecided,
        _ => Verdicts::Holds,
    }
}

fn calls(history: &History) -> Calls {
    let mut calls = Calls::default();
    for op in &history.ops {
        match op.outcome {
            Some(crate::history::Outcome::Ok { .. }) => calls.ok += 1,
            Some(crate::history::Outcome::Fail { .. }) => calls.fail += 1,
            Some(crate::history::Outcome::Info { .. }) | None => calls.info += 1,
        }
    }
    calls
}

/// Faults by nemesis.
pub fn faults(history: &History) -> BTreeMap<String, Count> {
    let mut faults: BTreeMap<String, Count> = BTreeMap::new();
    for nemesis in &history.run.nemeses {
        faults.entry(nemesis.clone()).or_default();
    }
    for fault in &history.faults {
        let count = faults.entry(fault.nemesis.clone()).or_default();
        count.kind.clone_from(&fault.kind);
        count.effective += u64::from(fault.effective);
        count.total += 1;
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_outweighs_all_and_nothing_checked_is_no_pass() {
        let holds = Verdict::holds("a", "");
        let open = Verdict::not_decided("b", "");
        let mut violated = Verdict::holds("c", "");
        violated.result = Verdicts::Violated;
        assert_eq!(worst(&[]), Verdicts::NotDecided);
        assert_eq!(worst(std::slice::from_ref(&holds)), Verdicts::Holds);
        assert_eq!(worst(&[holds.clone(), open.clone()]), Verdicts::NotDecided);
        assert_eq!(worst(&[open, holds, violated]), Verdicts::Violated);
    }
}
