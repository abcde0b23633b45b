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
//! | `alarms` | what is wrong with a node while it goes on |
//! | `disk_space` | room on the disks: alarms, and refusals of what can wait |
//! | `slow_disk` | a leader whose disk is far slower than the others' hands over |
//! | `maintenance` | snapshots, purging, promotion of learners |
//! | `arrival` | a node forms its initial cluster, says where it is now, notices that it was removed |
//! | `rebuild` | a node comes back from its peers as a new member, and the old one is removed |
//! | `backup` | a snapshot file of now; a new cluster out of one; whether a node answers |
//! | `formation`, `files` | forming a cluster exactly once, and joining one; the small files that say so |
//! | `leadership` | who leads, as all parts of a node hear of it |
//! | `node`, `core`, `stop` | a node's life, what its parts share, and why it ends |

mod alarms;
mod arrival;
mod backup;
mod clock;
mod cluster;
mod core;
mod disk_space;
mod error;
mod files;
mod formation;
mod forward;
mod leadership;
mod maintenance;
mod members;
mod network;
mod node;
mod options;
mod peers;
mod plan;
mod proposer;
mod reads;
mod rebuild;
mod reports;
mod server;
mod slow_disk;
mod snapshot;
mod stop;
mod ticker;
mod upgrade;
mod wire;

/// What `build.rs` made of `proto/raft.proto`.
#[allow(missing_docs, clippy::all, reason = "generated; the proto file is the documentation")]
pub(crate) mod proto {
    tonic::include_proto!("stockroom.raft.v1");
}

pub use alarms::Alarm;
pub use backup::{Alive, NewVoter, ask, identity_of, refound, refusal_of};
pub use clock::{Clock, SystemClock};
pub use cluster::{Cluster, MemberStatus, Report, Role, Served, Status};
pub use disk_space::{DiskMarks, DiskReport, Room};
pub use error::{ChangeError, ProposeError, ReadError, StartError};
pub use formation::{BootstrapError, Formed, bootstrap, bootstrap_with};
pub use members::{HandedOver, Intent};
pub use network::{Connect, PeerIo, TcpConnect};
pub use node::{Phase, Running, start, start_on};
pub use options::{RaftOptions, Seams};
pub use plan::{Change, Concern, Plan, Quorum};
pub use rebuild::{Rebuilt, Seen, View, known_peers, prepare_rebuild, rebuilt, view_of};
pub use server::Incoming;
pub use stockroom_storage as storage;
pub use upgrade::{MemberProgram, TurnedAway, UpgradeError, UpgradePlan};

pub(crate) use leadership::Leadership;
pub(crate) use stop::Stop;
