//! What backup, restore and recovery need of replication: a snapshot file of now, a new cluster out of one, and
//! whether a cluster is alive.

use crate::files;
use crate::network::{Dialer, Lane, TcpConnect};
use crate::proto::hello_response::State;
use crate::proto::{HelloRequest, MemberInfo, PrepareRequest};
use crate::{Cluster, maintenance, wire};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use stockroom_storage::error::StorageError;
use stockroom_storage::fs::RealFileSystem;
use stockroom_storage::identity::{self, Identity};
use stockroom_storage::refound::{Founder, Refounded, must_be_empty, write_snapshots};
use stockroom_storage::snapshot::SnapshotFile;
use stockroom_storage::type_config::Member;

impl Cluster {
    /// A verified snapshot file that holds everything up to `log_index`, which this node has applied: the newest
    /// one, or one that is written for this, of which openraft is told, too: it has to know of it to keep the log short.
    ///
    /// # Errors
    /// [`StorageError::is_no_room`] where the disk is full; anything else stops the node.
    pub async fn snapshot_at_least(&self, log_index: u64) -> Result<SnapshotFile, StorageError> {
        maintenance::write_snapshot(&self.core, log_index).await
    }
}

/// One voter of a cluster that begins with a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVoter {
    /// Becomes its data directory: empty, or not there yet.
    pub dir: PathBuf,
    /// Its id.
    pub node_id: u64,
    /// Where peers will reach it.
    pub peer_address: String,
    /// Where shops will reach it.
    pub http_address: String,
}

/// Makes the data directories of a new cluster whose state is that of `source`. Started, they are that cluster.
/// Where it fails, the directories are empty again as far as the disk allows, and none is a node.
///
/// # Errors
/// [`StorageError::Foreign`] where a directory is not empty; whatever else the disk says.
pub fn refound(source: &SnapshotFile, voters: &[NewVoter]) -> Result<Refounded, StorageError> {
    for voter in voters {
        must_be_empty(&voter.dir)?;
    }
    let made = make(source, voters);
    if made.is_err() {
        for voter in voters {
            // What is left over is told apart by not being empty.
            for name in ["snapshot", "formation", "identity"] {
                let path = voter.dir.join(name);
                let _ =
                    if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            }
        }
    }
    made
}

fn make(source: &SnapshotFile, voters: &[NewVoter]) -> Result<Refounded, StorageError> {
    let fs = RealFileSystem;
    let cluster_id: u128 = rand::random();
    let founders: Vec<Founder> = voters
        .iter()
        .map(|voter| Founder {
            dir: voter.dir.clone(),
            node_id: voter.node_id,
            member: Member {
                peer_address: voter.peer_address.clone(),
                http_address: voter.http_address.clone(),
                // 0 stands for "not known" in frames.
                incarnation: rand::random::<u64>().max(1),
                promote: false,
            },
        })
        .collect();
    let refounded = write_snapshots(source, cluster_id, &founders)?;
    let members = founders.iter().map(|founder| MemberInfo {
        node_id: founder.node_id,
        incarnation: founder.member.incarnation,
        peer_address: founder.member.peer_address.clone(),
        http_address: founder.member.http_address.clone(),
        voter: true,
    });
    // So that each knows the others without its state, and a bootstrap of the same nodes finds them formed.
    let formation =
        PrepareRequest { cluster_id: wire::cluster_id_bytes(cluster_id), members: members.collect() };
    for founder in &founders {
        files::store_formation(&fs, &founder.dir, &formation)?;
    }
    // Last: from here on they are nodes.
    for Founder { dir, node_id, member } in &founders {
        let incarnation = member.incarnation;
        identity::store(&fs, dir, &Identity { cluster_id, node_id: *node_id, incarnation, group_id: 0 })?;
    }
    Ok(refounded)
}

/// What a node that answers says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alive {
    /// Its id.
    pub node_id: u64,
    /// Of its data directory.
    pub incarnation: u64,
    /// The cluster it is a member of.
    pub cluster_id: Option<u128>,
    /// Who leads, as far as it knows.
    pub leader: Option<u64>,
}

/// Asks the node at a peer address what it is; `None` where nobody answers in time.
pub async fn ask(peer_address: &str, within: Duration) -> Option<Alive> {
    let dialer = Dialer::new(Arc::new(TcpConnect));
    let mut client = dialer.client(peer_address, Lane::Control).ok()?;
    let hello = tokio::time::timeout(within, client.hello(HelloRequest {})).await.ok()?.ok()?.into_inner();
    let member = hello.state() == State::Member;
    Some(Alive {
        node_id: hello.node_id,
        incarnation: hello.incarnation,
        cluster_id: wire::cluster_id(&hello.cluster_id).filter(|_| member),
        leader: Some(hello.leader).filter(|leader| *leader != 0),
    })
}

/// The node that a data directory belongs to; `None` where it belongs to none yet.
///
/// # Errors
/// [`StorageError`] where its identity cannot be read.
pub fn identity_of(dir: &Path) -> Result<Option<Identity>, StorageError> {
    identity::load(&RealFileSystem, dir)
}

/// Why a data directory must not be used any more: its node lost what it had acknowledged. `None` where nothing
/// speaks against it.
///
/// # Errors
/// [`StorageError`] where that cannot be read.
pub fn refusal_of(dir: &Path) -> Result<Option<String>, StorageError> {
    files::load_refusal(&RealFileSystem, dir)
}
