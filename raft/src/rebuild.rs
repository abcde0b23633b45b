//! A node that is rebuilt from its peers: its data directory is gone or damaged, so it comes back as a new member, with
//! an id of its own, and the old one is removed once the new one votes.
//!
//! `stockroom rebuild` leaves a small file in the new data directory, from which the node knows all of that at every
//! start, whatever its settings say: also where it is started again by a program that knows nothing of it.

use crate::cluster::{Cluster, Role};
use crate::core::Core;
use crate::error::ChangeError;
use crate::members::Intent;
use crate::network::{Dialer, Lane, TcpConnect};
use crate::plan::Change;
use crate::proto::hello_response::State;
use crate::proto::{HelloRequest, RebuiltInfo};
use crate::{files, wire};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use stockroom_storage::error::StorageError;
use stockroom_storage::fs::RealFileSystem;
use tokio::time::Instant;

/// What a rebuilt node knows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The id that its settings may go on to say.
    pub configured: u64,
    /// The member that it stands for, to be removed; `None` where there was none.
    pub replaces: Option<u64>,
    /// Its own id.
    pub node_id: u64,
    /// Peer addresses of the cluster.
    pub join: Vec<String>,
}

/// What the data directory `dir` says of a rebuild; `None` where its node was never rebuilt.
///
/// # Errors
/// [`StorageError`] where that cannot be read.
pub fn rebuilt(dir: &Path) -> Result<Option<Rebuilt>, StorageError> {
    let info = files::load_rebuilt(&RealFileSystem, dir)?;
    Ok(info.map(|RebuiltInfo { configured, replaces, node_id, join }| Rebuilt {
        configured,
        replaces: Some(replaces).filter(|id| *id != 0),
        node_id,
        join,
    }))
}

/// Makes `dir`, which must not be a node's, the data directory of a rebuilt node.
///
/// # Errors
/// [`StorageError::Foreign`] where it is a node's; whatever else the disk says.
pub fn prepare_rebuild(dir: &Path, rebuilt: &Rebuilt) -> Result<(), StorageError> {
    for taken in ["identity", "log", "incarnation"] {
        if dir.join(taken).exists() {
            return Err(StorageError::Foreign(format!("{} is a node's data directory", dir.display())));
        }
    }
    let info = RebuiltInfo {
        configured: rebuilt.configured,
        replaces: rebuilt.replaces.unwrap_or(0),
        node_id: rebuilt.node_id,
        join: rebuilt.join.clone(),
    };
    files::store_rebuilt(&RealFileSystem, dir, &info)
}

/// Peer addresses that the data directory `dir` knows of its cluster without its state; as far as they can be read.
pub fn known_peers(dir: &Path) -> Vec<String> {
    let formed = files::load_formation(&RealFileSystem, dir).unwrap_or_default();
    let mut peers: Vec<String> = formed.into_iter().map(|member| member.peer_address).collect();
    peers.extend(rebuilt(dir).ok().flatten().map(|rebuilt| rebuilt.join).unwrap_or_default());
    peers
}

/// A member as another one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its id.
    pub node_id: u64,
    /// Where peers reach it.
    pub peer_address: String,
    /// Counts in quorums.
    pub votes: bool,
}

/// A cluster as one of its members sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Who says this.
    pub node_id: u64,
    /// Of the cluster.
    pub cluster_id: u128,
    /// Who leads.
    pub leader: Option<u64>,
    /// All members.
    pub members: Vec<Seen>,
}

/// Asks the node at a peer address how it sees its cluster; `None` where nobody answers in time, or it is no member.
pub async fn view_of(peer_address: &str, within: Duration) -> Option<View> {
    let dialer = Dialer::new(Arc::new(TcpConnect));
    let mut client = dialer.client(peer_address, Lane::Control).ok()?;
    let hello = tokio::time::timeout(within, client.hello(HelloRequest {})).await.ok()?.ok()?.into_inner();
    if hello.state() != State::Member {
        return None;
    }
    let seen = |member: crate::proto::MemberInfo| Seen {
        node_id: member.node_id,
        peer_address: member.peer_address,
        votes: member.voter,
    };
    Some(View {
        node_id: hello.node_id,
        cluster_id: wire::cluster_id(&hello.cluster_id)?,
        leader: Some(hello.leader).filter(|leader| *leader != 0),
        members: hello.members.into_iter().map(seen).collect(),
    })
}

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// One attempt to remove the old member.
const REMOVE_WITHIN: Duration = Duration::from_secs(10);
const ALARM: &str = "old_member_stays";

/// Removes the member that this node stands for, once this one votes.
pub(crate) async fn finish(core: Arc<Core>) {
    let Some(old) = core.options.replaces else { return };
    let cluster = Cluster { core: Arc::clone(&core) };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let members = cluster.status().members;
        let votes =
            members.iter().any(|member| member.node_id == cluster.node_id() && member.role == Role::Voter);
        if !votes || core.leadership.borrow().leader.is_none() {
            continue;
        }
        let deadline = Instant::now() + REMOVE_WITHIN;
        let removed = match members.iter().any(|member| member.node_id == old) {
            true => cluster.change(Change::Remove, old, Intent::default(), deadline).await.map(|_| ()),
            false => Err(ChangeError::NoSuchMember(String::new())),
        };
        match removed {
            Ok(()) | Err(ChangeError::NoSuchMember(_)) => {
                core.alarms.clear(ALARM);
                return tracing::info!(old, new = cluster.node_id(), "the rebuild is complete");
            }
            Err(error @ ChangeError::Unsafe(_)) => core.alarms.raise(
                ALARM,
                format!("node {} stands for node {old}, which cannot be removed: {error}", cluster.node_id()),
                "bring back the members that do not answer; it is tried again by itself (RUNBOOK, \"Damage\")",
            ),
            Err(error) => tracing::info!(old, %error, "the old member could not be removed yet"),
        }
    }
}
