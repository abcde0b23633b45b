//! A node that is rebuilt from its peers: its data directory is gone or damaged, so it comes back as a new member, with
//! an id of its own, and the old one is removed once the new one votes.
//!
//! `stockroom rebuild` leaves a small file in the new data directory, from which the node knows all of that at every
//! start, whatever its settings say: also where it is started again by a program that knows nothing of it.

use crate::cluster::Cluster;
use crate::core::Core;
use crate::error::ChangeError;
use crate::members::Intent;
use crate::network::{Dialer, Lane, TcpConnect};
use crate::plan::Change;
use crate::proto::hello_response::State;
use crate::proto::{HelloRequest, RebuiltInfo};
use crate::{files, wire};
use openraft::async_runtime::watch::WatchReceiver as _;
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
    /// The member that it stands for, to be removed; `None` where there was none, or it is removed.
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
    Ok(info.map(|RebuiltInfo { configured, replaces, node_id, join, .. }| Rebuilt {
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
        replaces_incarnation: 0,
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
/// A node that is so far behind does not know the members well enough.
const FRESH_MS: u64 = 1_000;
/// One attempt to remove the old member.
const REMOVE_WITHIN: Duration = Duration::from_secs(10);
const ALARM: &str = "old_member_stays";

/// Removes the member that this node stands for, once this one votes.
pub(crate) async fn finish(core: Arc<Core>) {
    let Some(old) = core.options.replaces else { return };
    let cluster = Cluster { core: Arc::clone(&core) };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // What is not committed may be undone, and what is long past says nothing of who has the old id now.
        let config = Arc::clone(&core.raft.server_metrics().borrow_watched().committed_membership_config);
        let votes = config.membership().voter_ids().any(|id| id == cluster.node_id());
        if !votes || cluster.staleness_ms().is_none_or(|ms| ms > FRESH_MS) {
            continue;
        }
        let there = config.membership().get_node(&old).map(|member| member.incarnation);
        match stands_for(&core, there) {
            Ok(true) => {}
            Ok(false) => {
                core.alarms.clear(ALARM);
                return tracing::info!(old, new = cluster.node_id(), "the rebuild is complete");
            }
            Err(error) => {
                tracing::warn!(%error, "how far the rebuild is cannot be stored yet");
                continue;
            }
        }
        let deadline = Instant::now() + REMOVE_WITHIN;
        match cluster.change(Change::Remove, old, Intent::default(), deadline).await {
            // The next look sees that it is gone.
            Ok(_) | Err(ChangeError::NoSuchMember(_)) => {}
            Err(error @ ChangeError::Unsafe(_)) => core.alarms.raise(
                ALARM,
                format!("node {} stands for node {old}, which cannot be removed: {error}", cluster.node_id()),
                "bring back the members that do not answer; it is tried again by itself (RUNBOOK, \"Damage\")",
            ),
            Err(error) => tracing::info!(old, %error, "the old member could not be removed yet"),
        }
    }
}

/// Whether the member that has the old id now, on the disk `there`, is the one that this node stands for. The answer is
/// stored before it is acted on: a later node may be given the old id, and must not be removed when this one is started
/// again.
fn stands_for(core: &Core, there: Option<u64>) -> Result<bool, StorageError> {
    let (fs, dir) = (core.options.storage.fs.as_ref(), &core.options.dir);
    let Some(before) = files::load_rebuilt(fs, dir)? else { return Ok(there.is_some()) };
    let after = noted(before.clone(), there);
    if after != before {
        files::store_rebuilt(fs, dir, &after)?;
    }
    Ok(after.replaces != 0)
}

/// What is known of a rebuild once the member with the old id, if any, was seen on the disk `there`.
fn noted(info: RebuiltInfo, there: Option<u64>) -> RebuiltInfo {
    match there {
        Some(disk) if [0, disk].contains(&info.replaces_incarnation) => {
            RebuiltInfo { replaces_incarnation: disk, ..info }
        }
        _ => RebuiltInfo { replaces: 0, ..info },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_disk_that_had_the_old_id_at_first_is_removed() {
        let begun = RebuiltInfo { replaces: 2, node_id: 4, ..RebuiltInfo::default() };
        let seen = noted(begun.clone(), Some(22));
        assert_eq!((seen.replaces, seen.replaces_incarnation), (2, 22));
        assert_eq!(noted(seen.clone(), Some(22)), seen, "tried again after a crash");
        // It crashed after the removal, and the id came back before it did.
        assert_eq!(noted(seen.clone(), Some(23)).replaces, 0);
        assert_eq!(noted(seen, None).replaces, 0);
        // Somebody else removed it.
        assert_eq!(noted(begun, None).replaces, 0);
    }
}
