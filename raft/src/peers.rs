//! What this node learned of each peer by calling it.
//!
//! A follower must never lose what it acknowledged: others counted on it. Where its directory was replaced by an
//! older copy, or files of its log are gone, it cannot tell that by itself. So the leader tells each peer what it
//! had from it, and the peer looks whether that is there.

use crate::proto;
use openraft::vote::leader_id_std::CommittedLeaderId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use stockroom_storage::codec::LogId;
use tokio::sync::watch;

/// The newest entry that a peer told the leader of `term` to have made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) term: u64,
    pub(crate) log_id: LogId,
}

impl From<Acknowledged> for proto::Acknowledged {
    fn from(acknowledged: Acknowledged) -> Self {
        let Acknowledged { term, log_id } = acknowledged;
        proto::Acknowledged {
            leader_term: term,
            entry_term: log_id.committed_leader_id().term,
            log_index: log_id.index,
        }
    }
}

impl From<proto::Acknowledged> for Acknowledged {
    fn from(acknowledged: proto::Acknowledged) -> Self {
        let proto::Acknowledged { leader_term, entry_term, log_index } = acknowledged;
        Acknowledged { term: leader_term, log_id: LogId::new(CommittedLeaderId::new(entry_term), log_index) }
    }
}

/// One peer with one data directory.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    acknowledged: Mutex<Option<Acknowledged>>,
    reverted: AtomicBool,
    /// Where it is, as the newest word of it or of the members has it. openraft keeps calling the address that a member
    /// had when it began to.
    address: Mutex<Option<String>>,
    /// How often it did not take leadership that was handed to it.
    pub(crate) declined: watch::Sender<u64>,
}

impl Peer {
    fn lock(&self) -> MutexGuard<'_, Option<Acknowledged>> {
        self.acknowledged.lock().expect("no holder of this lock can panic")
    }

    /// Where it is, where that was said since this node started.
    pub(crate) fn address(&self) -> Option<String> {
        self.address.lock().expect("no holder of this lock can panic").clone()
    }

    pub(crate) fn is_at(&self, address: &str) {
        *self.address.lock().expect("no holder of this lock can panic") = Some(address.to_owned());
    }

    /// It says that it has made `log_id` durable, and with it all before.
    pub(crate) fn acknowledge(&self, term: u64, log_id: LogId) {
        let mut newest = self.lock();
        if newest.is_none_or(|newest| (newest.term, newest.log_id) < (term, log_id)) {
            *newest = Some(Acknowledged { term, log_id });
        }
    }

    /// What it acknowledged to the leader of `term`.
    pub(crate) fn acknowledged(&self, term: u64) -> Option<Acknowledged> {
        self.lock().filter(|newest| newest.term == term)
    }

    /// Whether it had the entry at `index` in `term`.
    pub(crate) fn had(&self, term: u64, index: u64) -> bool {
        self.acknowledged(term).is_some_and(|newest| newest.log_id.index >= index)
    }

    /// It lost what it had. Said once.
    pub(crate) fn has_reverted(&self, node_id: u64, why: &str) {
        if !self.reverted.swap(true, Ordering::Relaxed) {
            metrics::counter!("stockroom_raft_log_reversions_total").increment(1);
            tracing::error!(
                peer = node_id,
                why,
                "this node lost what it had acknowledged, and is left out: replace it by a new one with a new id"
            );
        }
    }
}

/// All peers, by id and incarnation. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peers(Arc<Mutex<ByDisk>>);

type ByDisk = HashMap<(u64, u64), Arc<Peer>>;

impl Peers {
    pub(crate) fn of(&self, node_id: u64, incarnation: u64) -> Arc<Peer> {
        let mut peers = self.0.lock().expect("no holder of this lock can panic");
        Arc::clone(peers.entry((node_id, incarnation)).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term), index)
    }

    #[test]
    fn the_newest_of_a_term_counts_and_another_disk_is_another_peer() {
        let peers = Peers::default();
        let peer = peers.of(2, 22);
        peer.acknowledge(3, log_id(2, 10));
        peer.acknowledge(3, log_id(2, 9));
        assert_eq!(peer.acknowledged(3), Some(Acknowledged { term: 3, log_id: log_id(2, 10) }));
        assert!(peer.had(3, 10) && !peer.had(3, 11) && !peer.had(4, 1));
        // A new term begins anew: a later leader may have had entries removed.
        peer.acknowledge(4, log_id(2, 5));
        assert!(peer.had(4, 5) && !peer.had(4, 6) && !peer.had(3, 5));
        assert_eq!(peers.of(2, 22).acknowledged(4), peer.acknowledged(4));
        assert_eq!(peers.of(2, 23).acknowledged(4), None);
    }
}
