//! Writes, each with all the times it was sent.

use crate::history::{Answer, Call, Consistency, History, Known, Line, Meta, Micros, Op, Outcome, Settled};
use std::collections::HashMap;

/// One write, however often it was sent: calls with the same key and the same body.
#[derive(Debug, Clone)]
pub struct Write<'a> {
    /// Its key.
    pub key: Option<&'a str>,
    /// What was asked.
    pub call: &'a Call,
    /// Every time it was sent, in order of invocation.
    pub sends: Vec<&'a Op>,
    /// It did not take place before this.
    pub invoked: Micros,
    /// What is known of it in the end.
    pub fate: Fate<'a>,
}

/// What is known in the end of whether a write took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate<'a> {
    /// The shop decided it before this time, and said this.
    Decided(&'a Answer, Micros),
    /// It did not take place and will not.
    Never,
    /// Nobody knows.
    Unknown,
}

impl<'a> Write<'a> {
    /// The answer where it says that the write was done.
    pub fn done(&self) -> Option<(&'a Answer, Micros)> {
        match self.fate {
            Fate::Decided(Answer::Refused { .. }, _) => None,
            Fate::Decided(answer, by) => Some((answer, by)),
            Fate::Never | Fate::Unknown => None,
        }
    }

    /// Whether it may have changed anything.
    pub fn possible(&self) -> bool {
        self.done().is_some() || self.fate == Fate::Unknown
    }

    /// When it was decided, at the latest; never, where that is unknown.
    pub fn by(&self) -> Micros {
        match self.fate {
            Fate::Decided(_, by) => by,
            Fate::Never | Fate::Unknown => Micros::MAX,
        }
    }

    /// Id of the call that stands for it in reports: the first that was answered, else the first sent.
    pub fn op(&self) -> u64 {
        let answered = self.sends.iter().find(|op| matches!(op.outcome, Some(Outcome::Ok { .. })));
        answered.or(self.sends.first()).map_or(0, |op| op.id)
    }

    /// Where in the log it was decided, as the headers of its answers say.
    pub fn decided_at(&self) -> Option<u64> {
        self.sends.iter().filter(|op| !says_nothing(op)).find_map(|op| op.meta()?.applied_index)
    }
}

/// Whether an answer is about the key alone: the key stands for another body, or was abandoned.
fn is_about_key(answer: &Answer) -> bool {
    matches!(answer, Answer::Refused { code, .. } if code == "key_reused" || code == "abandoned")
}

/// Whether a call neither took place nor says anything of the state.
fn says_nothing(op: &Op) -> bool {
    matches!(op.outcome, Some(Outcome::Fail { .. }))
        || matches!(op.known(), Known::Answered(answer, _) if is_about_key(answer))
}

/// All writes of a history, in order of invocation.
pub fn all(history: &History) -> Vec<Write<'_>> {
    let mut writes: Vec<Write<'_>> = Vec::new();
    let mut known: HashMap<&str, Vec<usize>> = HashMap::new();
    for op in history.ops.iter().filter(|op| op.call.is_write()) {
        let places = op.key.as_deref().map(|key| known.entry(key).or_default());
        let same = places.as_ref().and_then(|p| p.iter().find(|at| writes[**at].call == &op.call).copied());
        match (same, places) {
            (Some(at), _) => writes[at].sends.push(op),
            (None, places) => {
                if let Some(places) = places {
                    places.push(writes.len());
                }
                writes.push(Write {
                    key: op.key.as_deref(),
                    call: &op.call,
                    sends: vec![op],
                    invoked: op.invoked,
                    fate: Fate::Unknown,
                });
            }
        }
    }
    for write in &mut writes {
        let counted = write.sends.iter().filter(|op| !says_nothing(op));
        write.invoked = counted.map(|op| op.invoked).min().unwrap_or(write.invoked);
        write.fate = fate(&write.sends);
    }
    writes
}

/// An answer counts for all sends: they are one write. So does the end of its key.
fn fate<'a>(sends: &[&'a Op]) -> Fate<'a> {
    let answers = sends.iter().filter_map(|op| match op.known() {
        Known::Answered(answer, by) => Some((answer, by)),
        Known::Never | Known::Unknown => None,
    });
    let decided = answers.clone().filter(|(answer, _)| !is_about_key(answer)).min_by_key(|(_, by)| *by);
    if let Some((answer, by)) = decided {
        return Fate::Decided(answer, by);
    }
    let ended = sends.iter().any(|op| matches!(op.settled, Some((_, Settled::Abandoned))));
    // A key that belongs to another body, or is abandoned, lets no send of this body through, not even
    // one that nobody heard of again.
    let ended = ended || answers.into_iter().next().is_some();
    let open = sends.iter().any(|op| matches!(op.known(), Known::Unknown));
    if ended || !open { Fate::Never } else { Fate::Unknown }
}

/// A read that was answered.
#[derive(Debug, Clone, Copy)]
pub struct Read<'a> {
    /// The call.
    pub op: &'a Op,
    /// How fresh it had to be.
    pub consistency: &'a Consistency,
    /// What it saw.
    pub answer: &'a Answer,
    /// The headers.
    pub meta: &'a Meta,
    /// When it was answered.
    pub completed: Micros,
}

impl Read<'_> {
    /// Whether it may not be older than what was answered before it was invoked.
    pub fn is_linearizable(&self) -> bool {
        *self.consistency == Consistency::Linearizable
    }
}

/// All reads that were answered, in order of invocation.
pub fn reads(history: &History) -> impl Iterator<Item = Read<'_>> {
    history.ops.iter().filter_map(|op| {
        let consistency = match &op.call {
            Call::ReadStock { consistency, .. }
            | Call::ReadMovements { consistency, .. }
            | Call::ReadReservation { consistency, .. }
            | Call::ReadOrder { consistency, .. }
            | Call::ListOrders { consistency } => consistency,
            _ => return None,
        };
        let Some(Outcome::Ok { answer, meta }) = &op.outcome else { return None };
        Some(Read { op, consistency, answer, meta, completed: op.completed.unwrap_or(Micros::MAX) })
    })
}

/// Where a line stands: `main` unless it says otherwise.
pub fn location(line: &Line) -> &str {
    line.location.as_deref().unwrap_or("main")
}

/// Lines as they are compared: with their location.
pub fn plain(lines: &[Line]) -> Vec<(&str, &str, u64)> {
    lines.iter().map(|line| (line.sku.as_str(), location(line), line.quantity)).collect()
}
