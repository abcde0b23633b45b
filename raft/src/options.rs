//! What a node is started with, and the seams where a simulation puts its own world.

use crate::clock::{Clock, SystemClock};
use crate::disk_space::DiskMarks;
use crate::error::StartError;
use crate::network::{Connect, TcpConnect};
use std::{fmt, path::PathBuf, sync::Arc};
use stockroom_storage::StorageOptions;

/// How a node takes part in its cluster.
#[derive(Debug, Clone)]
pub struct RaftOptions {
    /// This node's id: above 0, unique in the cluster for ever.
    pub node_id: u64,
    /// The data directory.
    pub dir: PathBuf,
    /// Log, memtable, checkpoints, snapshot file.
    pub storage: StorageOptions,
    /// `host:port` at which peers reach this node.
    pub peer_address: String,
    /// `host:port` at which shops reach this node.
    pub http_address: String,
    /// Of the program, shown in reports.
    pub version: String,
    /// Peer addresses of a cluster to join; empty: wait to be bootstrapped.
    pub join: Vec<String>,
    /// The member that this node stands for, since it was rebuilt: removed once this one votes.
    pub replaces: Option<u64>,
    /// The first voters, each as id and peer address, this node among them: all that start with the same list form one
    /// cluster by themselves. Empty: wait for a bootstrap, or join.
    pub initial_cluster: Vec<(u64, String)>,
    /// Ms between two heartbeats of a leader.
    pub heartbeat_interval_ms: u64,
    /// Least ms without a leader before an election.
    pub election_timeout_min_ms: u64,
    /// Most ms without a leader before an election; also the leader's lease.
    pub election_timeout_max_ms: u64,
    /// Most proposals that came in at this node and have no answer yet; above it they are refused
    /// at once.
    pub proposals_in_flight: usize,
    /// Most bytes of them.
    pub bytes_in_flight: usize,
    /// Most bytes of proposals in one Raft entry, at most 1 MiB; also the most that one may have.
    pub max_entry_bytes: usize,
    /// Most proposals in one Raft entry, at most 16,384: an order id has 14 bits for the slot.
    pub max_entry_proposals: usize,
    /// Entries proposed and not yet applied, 1 or 2: more of them were measured to be slower.
    pub entries_in_flight: usize,
    /// How much room the disk of the data directory must have.
    pub disk_marks: DiskMarks,
    /// Ms a stopping node waits for what is in flight and for another to take over leadership.
    pub drain_timeout_ms: u64,
}

impl RaftOptions {
    /// Defaults for everything but what names this node.
    #[must_use]
    pub fn new(node_id: u64, dir: PathBuf, storage: StorageOptions) -> Self {
        RaftOptions {
            node_id,
            dir,
            storage,
            peer_address: String::new(),
            http_address: String::new(),
            version: String::new(),
            join: Vec::new(),
            replaces: None,
            initial_cluster: Vec::new(),
            heartbeat_interval_ms: 150,
            election_timeout_min_ms: 500,
            election_timeout_max_ms: 1_000,
            proposals_in_flight: 8_192,
            bytes_in_flight: 64 << 20,
            max_entry_bytes: 1 << 20,
            max_entry_proposals: 16_384,
            entries_in_flight: 2,
            disk_marks: DiskMarks::default(),
            drain_timeout_ms: 5_000,
        }
    }

    /// Refuses what cannot be.
    ///
    /// # Errors
    /// [`StartError::Option`] names the option.
    pub fn check(&self) -> Result<(), StartError> {
        let refuse = |what: &str| Err(StartError::Option(what.to_owned()));
        if self.node_id == 0 {
            return refuse("node_id must be above 0");
        }
        if self.peer_address.is_empty() {
            return refuse("peer_address must be host:port");
        }
        if !self.initial_cluster.is_empty() && !self.initial_cluster.iter().any(|(id, _)| *id == self.node_id)
        {
            return Err(StartError::Option(format!(
                "initial_cluster does not list node {}; a node that comes later is started with join",
                self.node_id
            )));
        }
        if !self.initial_cluster.is_empty() && !self.join.is_empty() {
            return refuse(
                "set initial_cluster for a first voter of a new cluster, or join for a later node; not both",
            );
        }
        if self.max_entry_bytes == 0 || self.max_entry_bytes > 1 << 20 {
            return refuse("max_entry_bytes must be 1 to 1,048,576");
        }
        if self.max_entry_proposals == 0 || self.max_entry_proposals > 16_384 {
            return refuse("max_entry_proposals must be 1 to 16,384");
        }
        if self.entries_in_flight == 0 || self.entries_in_flight > 16 {
            return refuse("entries_in_flight must be 1 to 16");
        }
        if self.heartbeat_interval_ms == 0 || self.heartbeat_interval_ms * 2 > self.election_timeout_min_ms {
            return refuse(
                "heartbeat_interval_ms must be above 0 and at most half of election_timeout_min_ms",
            );
        }
        if self.election_timeout_min_ms >= self.election_timeout_max_ms {
            return refuse("election_timeout_max_ms must be above election_timeout_min_ms");
        }
        Ok(())
    }
}

/// Where a simulation puts its own world.
#[derive(Clone)]
pub struct Seams {
    /// Wall and monotonic clock.
    pub clock: Arc<dyn Clock>,
    /// Makes connections to peers.
    pub connect: Arc<dyn Connect>,
    /// 64 random bits: cluster ids and incarnations.
    pub random: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Default for Seams {
    fn default() -> Self {
        Seams {
            clock: Arc::new(SystemClock::default()),
            connect: Arc::new(TcpConnect),
            random: Arc::new(rand::random),
        }
    }
}

impl fmt::Debug for Seams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seams")
            .field("clock", &self.clock)
            .field("connect", &self.connect)
            .finish_non_exhaustive()
    }
}
