//! Replication; carries commands, never looks inside one.
//!
//! | file | does |
//! |---|---|
//! | `cluster` | [`Cluster`]: propose, read index, status, members |
//! | `proposer` | many proposals -> one entry; answers back to each caller |
//! | `forward` | a follower's coalesced stream to the leader, both ends |
//! | `reads` | many reads share one proof that the leader still leads |
//! | `members`, `plan` | what operators do to the members; quorum and fault tolerance before and after |
//! | `upgrade` | which cluster versions the members serve, and raising the one in force |
//! | `network`, `server` | peer RPC, the calling and the serving side |
//! | `snapshot` | snapshot files on their way between nodes |
//! | `wire` | openraft message <-> bytes; who a frame is from and for |
//! | `clock` | the replicated clock: the voters' median, slewed |
//! | `ticker` | leader only: lets time pass when something is due |
//! | `peers` | what a leader learned of each peer: what it acknowledged |
//! | `reports` | what nodes say of themselves, and whether they agree |
//! | `slow_disk` | a leader whose disk is far slower than the others' hands over |
//! | `maintenance` | snapshots, purging, promotion of learners |
//! | `arrival` | a node forms its initial cluster, says where it is now, notices that it was removed |
//! | `backup` | a snapshot file of now; a new cluster out of one; whether a node answers |
//! | `formation`, `files` | forming a cluster exactly once, and joining one; the small files that say so |
//! | `node`, `core` | a node's life, and what its parts share |

mod arrival;
mod backup;
mod clock;
mod cluster;
mod core;
mod error;
mod files;
mod formation;
mod forward;
mod maintenance;
mod members;
mod network;
mod node;
mod options;
mod peers;
mod plan;
mod proposer;
mod reads;
mod reports;
mod server;
mod slow_disk;
mod snapshot;
mod ticker;
mod upgrade;
mod wire;

/// What `build.rs` made of `proto/raft.proto`.
#[allow(missing_docs, clippy::all, reason = "generated; the proto file is the documentation")]
pub(crate) mod proto {
    tonic::include_proto!("stockroom.raft.v1");
}

pub use backup::{Alive, NewVoter, ask, identity_of, refound, refusal_of};
pub use clock::{Clock, SystemClock};
pub use cluster::{Cluster, MemberStatus, Report, Role, Served, Status};
pub use error::{ChangeError, ProposeError, ReadError, StartError};
pub use formation::{BootstrapError, Formed, bootstrap, bootstrap_with};
pub use members::{HandedOver, Intent};
pub use network::{Connect, PeerIo, TcpConnect};
pub use node::{Phase, Running, start, start_on};
pub use options::{RaftOptions, Seams};
pub use plan::{Change, Concern, Plan, Quorum};
pub use server::Incoming;
pub use stockroom_storage as storage;
pub use upgrade::{MemberProgram, TurnedAway, UpgradeError, UpgradePlan};

/// Who leads, as far as is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Leadership {
    pub(crate) leader: Option<u64>,
    pub(crate) term: u64,
    /// This node does.
    pub(crate) mine: bool,
}

impl Leadership {
    /// What openraft reports now, after this was seen. `leader` is whom it takes for the leader; the vote
    /// is (term, whom it is for).
    fn seen(self, leader: Option<u64>, vote: (u64, u64), leads: bool) -> Self {
        let (term, voted_for) = vote;
        Leadership {
            // openraft knows of a new leader a moment before it reports the vote for it: until then the term is that
            // of the leader before.
            leader: leader.filter(|leader| *leader == voted_for),
            // What it reports before it has read its vote is no term.
            term: term.max(self.term),
            mine: leads,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Leadership;

    #[test]
    fn a_leader_is_named_beside_its_own_term_only() {
        let first = Leadership { leader: Some(1), term: 4, mine: false };
        // Node 2 leads term 5, and the vote that is reported is still that for node 1 in term 4.
        let between = first.seen(Some(2), (4, 1), false);
        assert_eq!(between, Leadership { leader: None, term: 4, mine: false });
        let after = between.seen(Some(2), (5, 2), false);
        assert_eq!(after, Leadership { leader: Some(2), term: 5, mine: false });
        // Just after a start openraft reports no vote yet.
        assert_eq!(Leadership { term: 5, ..Leadership::default() }.seen(None, (0, 0), false).term, 5);
    }
}

/// Why a node has to stop: the first reason counts.
#[derive(Debug, Clone)]
pub(crate) struct Stop(std::sync::Arc<tokio::sync::watch::Sender<Option<String>>>);

impl Default for Stop {
    fn default() -> Self {
        Stop(std::sync::Arc::new(tokio::sync::watch::Sender::new(None)))
    }
}

impl Stop {
    pub(crate) fn because(&self, why: String) {
        self.0.send_if_modified(|reason| {
            if reason.is_some() {
                return false;
            }
            tracing::error!(reason = why, "this node has to stop");
            *reason = Some(why);
            true
        });
    }

    pub(crate) fn is_told(&self) -> bool {
        self.0.borrow().is_some()
    }

    pub(crate) async fn reason(&self) -> String {
        let mut reason = self.0.subscribe();
        let reason = reason.wait_for(Option::is_some).await.expect("the sender is held here");
        reason.clone().expect("waited for one")
    }
}
