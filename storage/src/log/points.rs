//! What each change does to where the log stands. The front, the writer and recovery share it.

use crate::codec::{LogId, LogPoints, Payload, Vote};

/// One change of the log; one record.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Opens a segment: where the log stands, and up to which group the segments before count.
    SegmentStart {
        points: LogPoints,
        continues_after: u64,
    },
    Vote(Vote),
    Entry {
        log_id: LogId,
        payload: Payload,
    },
    /// Entries after this one are dropped; all of them where it is `None`.
    Truncate(Option<LogId>),
    /// Entries up to this one are dropped.
    Purge(LogId),
    Committed(Option<LogId>),
    /// Says nothing but which groups are durable.
    Seal,
}

impl LogPoints {
    /// Makes `change`, which must have been checked.
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::SegmentStart { points, .. } => *self = points.clone(),
            Change::Vote(vote) => self.vote = Some(*vote),
            Change::Entry { log_id, .. } => {
                if self.last.is_none() {
                    self.first = log_id.index;
                }
                self.last = Some(*log_id);
            }
            Change::Truncate(after) => {
                if after.as_ref().map(|id| id.index) < self.last_index() {
                    self.last = *after;
                }
            }
            Change::Purge(upto) => {
                self.first = self.first.max(upto.index + 1);
                if self.last_index() <= Some(upto.index) {
                    self.last = Some(*upto);
                }
                if self.purged.as_ref().map(|id| id.index) < Some(upto.index) {
                    self.purged = Some(*upto);
                }
            }
            Change::Committed(committed) => self.committed = *committed,
            Change::Seal => {}
        }
    }

    pub(crate) fn last_index(&self) -> Option<u64> {
        self.last.as_ref().map(|id| id.index)
    }

    pub(crate) fn purged_index(&self) -> Option<u64> {
        self.purged.as_ref().map(|id| id.index)
    }
}
