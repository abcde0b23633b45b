//! The entries of this node's log, decoded, for whoever looks into it. Reads only.

use crate::codec::{self, Membership, Payload};
use crate::error::StorageError;
use crate::reader::Reader;
use crate::shop::command::Batch;
use crate::snapshot::SnapshotFile;
use crate::type_config::{Member, TypeConfig};
use openraft::alias::EntryOf;

/// One call decodes about as much: what a reader waits for, and what is in memory for it.
const MAX_READ_BYTES: usize = 1 << 20;

/// How far this node's log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogExtent {
    /// The first entry that was not purged, or the one that would come first.
    pub first: u64,
    /// The last one, committed or not; 0 where there was none yet.
    pub last: u64,
    /// Bytes of the entries that are there.
    pub bytes: u64,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place.
    pub index: u64,
    /// The term of the leader that made it.
    pub term: u64,
    /// Of what it carries.
    pub bytes: u64,
    /// What it carries.
    pub contents: Contents,
}

/// What an entry carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// Nothing: a new leader's first one.
    Blank,
    /// Who the members are from here on.
    Members {
        /// One list of voters; two while one hands over to the other.
        voters: Vec<Vec<u64>>,
        /// All members, voters and learners, by id.
        members: Vec<(u64, Member)>,
    },
    /// What the shop was asked.
    Commands(Batch),
}

impl Reader {
    /// How far the log goes.
    pub fn log_extent(&self) -> LogExtent {
        let last = self.log.last_log_id().map_or(0, |log_id| log_id.index);
        LogExtent { first: self.log.first_index(), last, bytes: self.log.bytes() }
    }

    /// The entries from `from` to `to` that are there, in order: at most `limit`, and no more than about a mebibyte of
    /// them, but one at least. For a thread that may block.
    ///
    /// # Errors
    /// [`StorageError`] where they cannot be read.
    pub fn log_entries(&self, from: u64, to: u64, limit: usize) -> Result<Vec<LogEntry>, StorageError> {
        let most = u64::try_from(limit).unwrap_or(u64::MAX);
        let end = to.saturating_add(1).min(from.saturating_add(most));
        let entries = self.log.entries(from, end, MAX_READ_BYTES)?;
        entries.iter().map(decoded).collect()
    }

    /// The newest finished snapshot file of this node.
    pub fn snapshot(&self) -> Option<SnapshotFile> {
        self.machine.newest_snapshot()
    }
}

fn decoded(entry: &EntryOf<TypeConfig>) -> Result<LogEntry, StorageError> {
    let (bytes, contents) = match &entry.payload {
        Payload::Blank => (0, Contents::Blank),
        Payload::Normal(batch) => (batch.0.len(), Contents::Commands(codec::decode_batch(&batch.0)?)),
        Payload::Membership(membership) => {
            (codec::encode_membership(membership).len(), of_members(membership))
        }
    };
    let term = entry.log_id.committed_leader_id().term;
    Ok(LogEntry { index: entry.log_id.index, term, bytes: bytes as u64, contents })
}

fn of_members(membership: &Membership) -> Contents {
    let voters = membership.get_joint_config().iter().map(|voters| voters.iter().copied().collect());
    let members = membership.nodes().map(|(node_id, member)| (*node_id, member.clone()));
    Contents::Members { voters: voters.collect(), members: members.collect() }
}
