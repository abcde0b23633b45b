//! What each node last said of itself, what a quorum confirmed and when, and whether nodes at one
//! applied index have the same state.

use crate::proto::NodeReport;
use crate::wire::wide;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use stockroom_storage::reader::Fingerprint;
use tokio::time::Instant;

/// Between two reports on a stream.
pub(crate) const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// Fingerprints of peers that wait until this node has applied their index.
const MOST_PENDING: usize = 1_024;
/// Confirmations that wait until this node has applied their index: 10 s of reports.
const MOST_MARKS: usize = 100;

/// A report and when it was made, as far as is known here.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) report: NodeReport,
    pub(crate) at: Instant,
    /// It ended its stream to this node since.
    pub(crate) left: bool,
}

/// A peer's state and ours at one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) theirs: Fingerprint,
    pub(crate) ours: Fingerprint,
}

/// At and below `committed` lies everything that was acknowledged before `confirmed`.
#[derive(Debug, Clone, Copy)]
struct Mark {
    committed: u64,
    confirmed: Instant,
}

/// All that was heard.
#[derive(Debug, Default)]
pub(crate) struct Board {
    heard: BTreeMap<u64, Heard>,
    /// Not compared yet, in the order heard.
    pending: VecDeque<(u64, Fingerprint)>,
    /// Of each peer, how the last comparison went; `None`: the same.
    compared: BTreeMap<u64, Option<Difference>>,
    marks: VecDeque<Mark>,
}

pub(crate) fn fingerprint(report: &NodeReport) -> Option<Fingerprint> {
    Some(Fingerprint {
        log_index: report.log_index,
        digest: wide(&report.digest)?,
        state_hash: wide(&report.state_hash)?,
    })
}

impl Board {
    /// A report made `heard_ms_ago` as it says; the newest of a node is kept.
    pub(crate) fn hear(&mut self, report: NodeReport, now: Instant) {
        let at = now.checked_sub(Duration::from_millis(report.heard_ms_ago)).unwrap_or(now);
        let node_id = report.node_id;
        if self.heard.get(&node_id).is_some_and(|before| before.at > at) {
            return;
        }
        if let Some(fingerprint) = fingerprint(&report)
            && self.heard.get(&node_id).is_none_or(|before| before.report.log_index != report.log_index)
        {
            if self.pending.len() >= MOST_PENDING {
                self.pending.pop_front();
            }
            self.pending.push_back((node_id, fingerprint));
        }
        self.heard.insert(node_id, Heard { report, at, left: false });
    }

    /// A node ended its stream to this one: it was stopped, or follows another leader.
    pub(crate) fn leave(&mut self, node_id: u64) {
        if let Some(heard) = self.heard.get_mut(&node_id) {
            heard.left = true;
        }
    }

    pub(crate) fn of(&self, node_id: u64) -> Option<&Heard> {
        self.heard.get(&node_id)
    }

    /// All reports, with their age.
    pub(crate) fn reports(&self, now: Instant) -> Vec<NodeReport> {
        let aged = |heard: &Heard| {
            let age = now.saturating_duration_since(heard.at).as_millis();
            NodeReport { heard_ms_ago: u64::try_from(age).unwrap_or(u64::MAX), ..heard.report.clone() }
        };
        self.heard.values().map(aged).collect()
    }

    /// Forgets nodes that are no members.
    pub(crate) fn retain(&mut self, members: &[u64]) {
        self.heard.retain(|node_id, _| members.contains(node_id));
        self.compared.retain(|node_id, _| members.contains(node_id));
    }

    /// Compares what peers said with our own state at the same index; returns new differences.
    pub(crate) fn compare(
        &mut self,
        applied: u64,
        ours_at: impl Fn(u64) -> Option<Fingerprint>,
    ) -> Vec<(u64, Difference)> {
        let (ready, waiting): (VecDeque<_>, VecDeque<_>) =
            self.pending.drain(..).partition(|(_, theirs)| theirs.log_index <= applied);
        self.pending = waiting;
        let mut new = Vec::new();
        for (node_id, theirs) in ready {
            // Too long ago to be remembered: nothing can be said of it.
            let Some(ours) = ours_at(theirs.log_index) else { continue };
            let difference = (ours != theirs).then_some(Difference { theirs, ours });
            let before = self.compared.insert(node_id, difference);
            if let Some(difference) = difference
                && before.flatten().is_none()
            {
                new.push((node_id, difference));
            }
        }
        new
    }

    /// Why this node must stop: a majority of the voters has another state than it has.
    pub(crate) fn odd_one_out(&self, own: u64, voters: &[u64]) -> Option<Difference> {
        let mut differing = voters.iter().filter(|node_id| **node_id != own).filter_map(|node_id| {
            let difference: &Option<Difference> = self.compared.get(node_id)?;
            *difference
        });
        let first = differing.next()?;
        (1 + differing.count() > voters.len() / 2).then_some(first)
    }

    /// A leader said that a quorum confirmed it at `confirmed`.
    pub(crate) fn confirmed(&mut self, committed: u64, confirmed: Instant) {
        if self.marks.len() >= MOST_MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back(Mark { committed, confirmed });
    }

    /// The latest moment before which everything acknowledged is applied here.
    pub(crate) fn shows_all_before(&mut self, applied: u64) -> Option<Instant> {
        let newest =
            self.marks.iter().filter(|mark| mark.committed <= applied).map(|mark| mark.confirmed).max()?;
        self.marks.retain(|mark| mark.confirmed >= newest);
        Some(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn report(node_id: u64, log_index: u64, digest: u128) -> NodeReport {
        NodeReport {
            node_id,
            log_index,
            digest: Bytes::copy_from_slice(&digest.to_be_bytes()),
            state_hash: Bytes::copy_from_slice(&9_u128.to_be_bytes()),
            ..NodeReport::default()
        }
    }

    fn own(log_index: u64) -> Option<Fingerprint> {
        Some(Fingerprint { log_index, digest: 7, state_hash: 9 })
    }

    #[test]
    fn the_odd_one_out_of_a_majority_stops_and_no_other() {
        let mut board = Board::default();
        board.hear(report(2, 5, 8), Instant::now());
        assert_eq!(board.compare(4, own), [], "not applied here yet");
        assert_eq!(board.compare(5, own).len(), 1);
        assert_eq!(board.odd_one_out(1, &[1, 2, 3]), None, "one against one");
        board.hear(report(3, 6, 7), Instant::now());
        board.compare(6, own);
        assert_eq!(board.odd_one_out(1, &[1, 2, 3]), None, "the other one is odd");
        board.hear(report(3, 7, 8), Instant::now());
        board.compare(7, own);
        let difference = board.odd_one_out(1, &[1, 2, 3]).expect("two against one");
        assert_eq!((difference.ours.digest, difference.theirs.digest), (7, 8));
    }

    #[test]
    fn two_voters_cannot_say_who_is_wrong() {
        let mut board = Board::default();
        board.hear(report(2, 5, 8), Instant::now());
        board.compare(5, own);
        assert_eq!(board.odd_one_out(1, &[1, 2]), None);
    }

    #[tokio::test]
    async fn staleness_counts_from_the_last_confirmation_that_is_applied() {
        let mut board = Board::default();
        let start = Instant::now();
        assert_eq!(board.shows_all_before(100), None, "it cannot know");
        board.confirmed(5, start);
        board.confirmed(9, start + Duration::from_secs(1));
        assert_eq!(board.shows_all_before(4), None);
        assert_eq!(board.shows_all_before(5), Some(start));
        assert_eq!(board.shows_all_before(9), Some(start + Duration::from_secs(1)));
    }
}
