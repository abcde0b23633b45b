//! The types that openraft is run with.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};
use stockroom_shop::effect::Answer;

/// One entry's worth of proposals: an encoded [`stockroom_shop::command::Batch`], carried as bytes
/// and never looked into between the proposer and the apply thread.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchBytes(pub Bytes);

impl fmt::Debug for BatchBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BatchBytes({} bytes)", self.0.len())
    }
}

impl fmt::Display for BatchBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.0.len())
    }
}

/// What applying an entry answered, one for each of its proposals, in order. Empty for entries
/// that carry none (blank, membership). Never leaves the process in this form.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Answers(pub Arc<Vec<Answer>>);

/// openraft's `serde` feature asks for it of every type; answers travel as
/// [`crate::codec`] writes them, one by one.
impl Serialize for Answers {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("answers stay in their process"))
    }
}

impl<'de> Deserialize<'de> for Answers {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("answers stay in their process"))
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answers", self.0.len())
    }
}

/// A member of the cluster, as replicated in the membership.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Member {
    /// `host:port` that peers call (gRPC).
    pub peer_address: String,
    /// `host:port` that shops call (HTTP).
    pub http_address: String,
    /// Random, minted when the node's data directory was made: another one under the same id is
    /// another disk, which forgot its votes.
    pub incarnation: u64,
    /// A learner that becomes a voter once it has caught up.
    pub promote: bool,
}

openraft::declare_raft_types!(
    /// The types that openraft is run with.
    pub TypeConfig:
        D = BatchBytes,
        R = Answers,
        NodeId = u64,
        Node = Member,
        // One leader a term, as in the Raft paper, so that a log id is (term, index). openraft's default lets a
        // higher node take the same term over: safe, but nobody who looks at terms would believe it.
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);
