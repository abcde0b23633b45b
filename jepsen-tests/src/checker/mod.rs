//! History in, verdict and reason out.
//!
//! A checker is a pure function of the [`History`]: `jepsen-tests check FILE` runs the same ones again.
//!
//! - [`always`] judges every run. Each workload names what judges it besides: [`linearizable`] searches,
//!   [`list_append`] looks for cycles, the others count.
//! - [`writes`]: calls with one key are one write. [`effects`]: what writes do to stock, and the range in
//!   which a read's counters must lie, by the time of the read and by its applied index.

pub mod always;
pub mod effects;
pub mod expiry;
pub mod idempotency;
pub mod linearizable;
pub mod list_append;
pub mod session;
pub mod set;
pub mod totals;
pub mod writes;

use crate::history::History;
use serde::{Deserialize, Serialize};

/// What a checker found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Name of the checker.
    pub checker: String,
    /// What came out.
    pub result: Verdicts,
    /// One sentence for people: what was checked and how much of it, or what is wrong.
    pub summary: String,
    /// Of what is wrong: each violation with the smallest part of the history that shows it.
    pub violations: Vec<Violation>,
}

/// The three ends of a check. Only one of them is a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdicts {
    /// It holds for everything seen.
    Holds,
    /// It does not.
    Violated,
    /// Neither could be shown: too little happened, or the search ran out of time. A failed run.
    NotDecided,
}

/// One thing that must not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// What is wrong, in one sentence.
    pub what: String,
    /// The SKUs it is about, for the timelines of the report.
    pub skus: Vec<String>,
    /// Ids of the calls that show it, the fewest that do.
    pub ops: Vec<u64>,
}

/// Decides about a whole history.
pub type Checker = fn(&History) -> Verdict;

impl Verdict {
    /// Holds.
    pub fn holds(checker: &str, summary: impl Into<String>) -> Self {
        Self::new(checker, Verdicts::Holds, summary, Vec::new())
    }

    /// Neither holds nor is violated.
    pub fn not_decided(checker: &str, summary: impl Into<String>) -> Self {
        Self::new(checker, Verdicts::NotDecided, summary, Vec::new())
    }

    /// Holds where there are no violations.
    pub fn of(checker: &str, summary: impl Into<String>, violations: Vec<Violation>) -> Self {
        let result = if violations.is_empty() { Verdicts::Holds } else { Verdicts::Violated };
        Self::new(checker, result, summary, violations)
    }

    fn new(checker: &str, result: Verdicts, summary: impl Into<String>, violations: Vec<Violation>) -> Self {
        Verdict { checker: checker.to_owned(), result, summary: summary.into(), violations }
    }
}

/// The most violations a verdict carries. Its summary has their number.
const MOST_SHOWN: usize = 20;

/// Violations as they are found. A broken run breaks in thousands of places: the first ones are kept,
/// the others counted.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    kept: Vec<Violation>,
    count: usize,
}

impl Findings {
    /// One more.
    pub(crate) fn add(
        &mut self,
        what: impl Into<String>,
        skus: impl IntoIterator<Item = String>,
        ops: impl IntoIterator<Item = u64>,
    ) {
        self.count += 1;
        if self.kept.len() < MOST_SHOWN {
            let (skus, mut ops): (_, Vec<u64>) = (skus.into_iter().collect(), ops.into_iter().collect());
            ops.sort_unstable();
            ops.dedup();
            self.kept.push(Violation { what: what.into(), skus, ops });
        }
    }

    /// Whether no more are kept, so that a search for what explains one is in vain.
    pub(crate) fn is_full(&self) -> bool {
        self.kept.len() >= MOST_SHOWN
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The verdict: violated, or `checked`, what was looked at.
    pub(crate) fn verdict(self, checker: &str, checked: impl Into<String>) -> Verdict {
        let checked = checked.into();
        let summary = match (self.count, self.kept.first()) {
            (1, Some(only)) => format!("{} ({checked})", only.what),
            (count, Some(first)) => format!("{count} violations, the first: {} ({checked})", first.what),
            (_, None) => checked,
        };
        Verdict::of(checker, summary, self.kept)
    }

    /// The same, but nothing wrong is no pass where `undecided` says why.
    pub(crate) fn verdict_unless(
        self,
        checker: &str,
        checked: impl Into<String>,
        undecided: Option<String>,
    ) -> Verdict {
        match undecided {
            Some(why) if self.is_empty() => Verdict::not_decided(checker, why),
            _ => self.verdict(checker, checked),
        }
    }
}

/// What judges every run, whatever its workload.
pub const ALWAYS: &[Checker] = &[
    always::bounds,
    always::log_order,
    always::one_leader_per_term,
    always::digests,
    always::backups,
    always::probes,
    always::deaths,
    always::contract,
    always::enough,
];

/// All verdicts on a history: those of every run first, then those of its workload.
pub fn judge(history: &History, workload_checkers: &[Checker]) -> Vec<Verdict> {
    ALWAYS.iter().chain(workload_checkers).map(|check| check(history)).collect()
}
