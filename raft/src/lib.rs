//! Replication; carries commands, never looks inside one.
#![allow(missing_docs, unused_variables, clippy::todo)]

use std::time::Duration;
pub use stockroom_storage as storage;
use stockroom_storage::codec::ProposalBytes;
use stockroom_storage::reader::{Fingerprint, Reader};
use stockroom_storage::shop::effect::Answer;
use tokio::time::Instant;

/// One node's part in the cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cluster;

/// An answer and who gave it.
#[derive(Debug, Clone)]
pub struct Served {
    pub answer: Answer,
    /// The leader that decided.
    pub node_id: u64,
}

/// Could not get an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Definite: no leader was found within the deadline.
    #[error("no leader within the deadline")]
    NoLeader,
    /// Definite: too many proposals or bytes in flight, or the memtable is full.
    #[error("overloaded: {what}")]
    Overloaded { what: &'static str, retry_after: Duration },
    /// Definite: the deadline passed before the proposal was handed to the log.
    #[error("the deadline passed before it was proposed")]
    TimedOutBefore,
    /// Definite: larger than an entry may be.
    #[error("the proposal has {bytes} bytes, at most {most} fit into an entry")]
    TooLarge { bytes: usize, most: usize },
    /// Definite: this node is stopping, or not a member of a cluster yet.
    #[error("{0}")]
    NotServing(String),
    /// Not definite: it may or may not have been done.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// A read index could not be had; nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("no leader confirmed itself within the deadline")]
    NoLeader,
    /// A leader answered, but this node has not applied its index within the deadline.
    #[error("this node has applied {applied}, the read needs {needed}")]
    Behind { applied: u64, needed: u64 },
    #[error("{0}")]
    NotServing(String),
}

/// What a node last said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub fingerprint: Fingerprint,
    /// Entries behind the leader's newest committed one.
    pub lag: u64,
    pub version: String,
    /// Since it was heard; 0 for this node itself.
    pub heard_ms_ago: u64,
    /// Its wall clock minus the replicated clock, in ms.
    pub clock_offset_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Voter,
    Learner,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    pub node_id: u64,
    pub peer_address: String,
    pub http_address: String,
    pub role: Role,
    /// `None` where nothing was heard of it.
    pub report: Option<Report>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub cluster_id: u128,
    pub node_id: u64,
    pub leader: Option<u64>,
    pub term: u64,
    pub members: Vec<MemberStatus>,
    /// Newest committed entry this node knows of.
    pub committed: u64,
}

impl Cluster {
    /// Hands a proposal to the leader, wherever it is, and waits for the answer. Routes again
    /// within the deadline where a leader definitely did not take it.
    pub async fn propose(&self, proposal: ProposalBytes, deadline: Instant) -> Result<Served, ProposeError> {
        todo!()
    }
    /// Many independent proposals at once (`/batch`), answers in the same order.
    pub async fn propose_all(
        &self,
        proposals: Vec<ProposalBytes>,
        deadline: Instant,
    ) -> Vec<Result<Served, ProposeError>> {
        todo!()
    }
    /// The read index of the leader at a moment after this call; waits until this node has applied it.
    pub async fn read_index(&self, deadline: Instant) -> Result<u64, ReadError> {
        todo!()
    }
    /// Upper bound, in ms, of how far this node's applied state is behind the leader's committed
    /// state in time; `None` where it cannot know.
    pub fn staleness_ms(&self) -> Option<u64> {
        todo!()
    }
    pub fn reader(&self) -> &Reader {
        todo!()
    }
    pub fn status(&self) -> Status {
        todo!()
    }
    /// Whether this node is a member and keeps up: (check, ok, detail) each.
    pub fn readiness(&self) -> Vec<(&'static str, bool, String)> {
        todo!()
    }
    pub fn node_id(&self) -> u64 {
        todo!()
    }
}
