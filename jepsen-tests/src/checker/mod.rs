//! History in, verdict and reason out.
//!
//! A checker is a pure function of the [`History`]: `jepsen-tests check FILE` runs the same ones again.

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

/// What judges every run, whatever its workload.
pub const ALWAYS: &[Checker] = &[];
