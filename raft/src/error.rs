//! Why an answer could not be had.

use crate::plan::Plan;
use std::time::Duration;

/// Could not get an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Definite: no leader was found within the deadline.
    #[error("no leader within the deadline")]
    NoLeader,
    /// Definite: too many proposals or bytes in flight, or the memtable is full.
    #[error("overloaded: {what}")]
    Overloaded {
        /// Of what there is too much.
        what: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// Definite: the deadline passed before the proposal was handed to the log.
    #[error("the deadline passed before it was proposed")]
    TimedOutBefore,
    /// Definite: larger than an entry may be.
    #[error("the proposal has {bytes} bytes, at most {most} fit into an entry")]
    TooLarge {
        /// Encoded.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// Definite: this node is stopping, or not a member of a cluster yet.
    #[error("{0}")]
    NotServing(String),
    /// Definite: it would begin something new, and too few disks have room for it.
    #[error("{}", disk_full_text(.nodes))]
    DiskFull {
        /// Whose disks are full.
        nodes: Vec<u64>,
    },
    /// Not definite: it may or may not have been done.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

fn disk_full_text(nodes: &[u64]) -> String {
    let nodes: Vec<String> = nodes.iter().map(u64::to_string).collect();
    format!(
        "the disks of too many nodes are full ({}): nothing new is begun, what was begun goes on",
        nodes.join(", ")
    )
}

/// A read index could not be had; nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader proved within the deadline that it still is one.
    #[error("no leader confirmed itself within the deadline")]
    NoLeader,
    /// A leader answered, but this node has not applied its index within the deadline.
    #[error("this node has applied {applied}, the read needs {needed}")]
    Behind {
        /// Log index shown here.
        applied: u64,
        /// Log index the leader named.
        needed: u64,
    },
    /// This node is stopping.
    #[error("{0}")]
    NotServing(String),
}

/// A change of the cluster could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Ask the leader.
    #[error("node {0:?} leads, this one does not")]
    NotLeader(Option<u64>),
    /// Nothing was changed; the message says why and what to do.
    #[error("{0}")]
    Refused(String),
    /// Nothing was changed: there is no such member.
    #[error("{0}")]
    NoSuchMember(String),
    /// Nothing was changed: the plan says what is unsafe.
    #[error("{}", unsafe_text(.0))]
    Unsafe(Box<Plan>),
    /// Nothing was changed: one change at a time.
    #[error("{0}")]
    Busy(String),
    /// It may or may not be changed: look at the members.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

fn unsafe_text(plan: &Plan) -> String {
    let whys: Vec<&str> = plan.unsafe_because.iter().map(|concern| concern.why.as_str()).collect();
    whys.join("; ")
}

/// The node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An option that cannot be.
    #[error("{0}")]
    Option(String),
    /// Its disk or the bytes on it.
    #[error(transparent)]
    Storage(#[from] stockroom_storage::error::StorageError),
    /// It found before that it had lost what it acknowledged.
    #[error("{0}")]
    Refused(String),
    /// openraft does not start.
    #[error("{0}")]
    Raft(String),
}
