//! What a node does about its place in the cluster by itself: it forms the cluster that it is one of the first
//! voters of, says where it is now when it was moved, and notices that it was removed.

use crate::cluster::Cluster;
use crate::core::Core;
use crate::formation::{BootstrapError, ask_to_join, bootstrap_with};
use crate::node::Node;
use crate::proto::join_response::Result as JoinResult;
use std::sync::Arc;
use std::time::Duration;
use stockroom_storage::type_config::Member;
use tokio::time::Instant;

/// One attempt to form the cluster waits so long for nodes that are not there yet.
const FORM_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at whether this node is where the members have it.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// So long without a leader, a member asks whether it still is one.
const UNHEARD_FOR: Duration = Duration::from_secs(5);

/// Forms the cluster of the listed nodes, each of which does the same: exactly one comes of it, see [`crate::formation`].
/// Goes on until the cluster is there, also over restarts in the middle.
pub(crate) async fn form(node: Arc<Node>) {
    let listed = node.options.initial_cluster.clone();
    let half = || u128::from((node.seams.random)());
    let minted = half() << 64 | half();
    let mut told = String::new();
    while !is_formed(&node).await {
        let deadline = Instant::now() + FORM_WITHIN;
        match bootstrap_with(Arc::clone(&node.seams.connect), &listed, deadline, minted).await {
            Ok(_) => return,
            Err(error @ BootstrapError::Unreachable { .. }) => {
                let why = error.to_string();
                if why != told {
                    tracing::info!(why, "waiting for all nodes of the initial cluster");
                    told = why;
                }
            }
            // Another one's attempt may have succeeded while this one was refused.
            Err(_) if is_formed(&node).await => return,
            Err(error) => return node.stop.because(refused(&node, &error)),
        }
    }
}

async fn is_formed(node: &Node) -> bool {
    match node.core() {
        Some(core) => core.raft.is_initialized().await.unwrap_or(true),
        None => false,
    }
}

fn refused(node: &Node, error: &BootstrapError) -> String {
    let own = node.options.node_id;
    format!(
        "the initial cluster is not formed with this node: {error}. Where those nodes are a cluster already, this data \
         directory is not the one that node {own} had in it: it forgot what it voted for, and must not come back under \
         this id. Start it with a new id, an empty data directory and `join` instead of `initial_cluster`, and remove \
         the old id {own}. Where there is no cluster yet, give all nodes the same list, and those of an attempt that \
         failed empty data directories"
    )
}

/// Tells the leader where this node is, where the members have other addresses; and asks whether it is a member,
/// where it hears of no leader.
pub(crate) async fn announce(node: Arc<Node>, core: Arc<Core>) {
    let mut heard = Instant::now();
    let mut turn = 0;
    let mut referred = None;
    let cluster = Cluster { core: Arc::clone(&core) };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // The leader that its vote names may have forgotten it long ago.
        if core.leadership.borrow().mine || cluster.staleness_ms().is_some_and(|ms| ms < 2_000) {
            heard = Instant::now();
        }
        let members = core.members();
        // One that joined and was removed before it heard who the members are finds itself nowhere.
        let known = members.get(&core.node_id()).map(|(member, _)| member);
        let moved = known.is_some_and(|known| is_elsewhere(&core, known));
        if !moved && heard.elapsed() < UNHEARD_FOR {
            continue;
        }
        if core.leadership.borrow().mine {
            if let Some(known) = known {
                move_oneself(&cluster, known).await;
            }
            continue;
        }
        let is_referral = referred.is_some();
        let addresses = addresses(&core);
        let in_turn = addresses.get(turn % addresses.len().max(1));
        let Some(address) = referred.take().or_else(|| in_turn.cloned()) else { continue };
        turn += usize::from(!is_referral);
        match ask_to_join(&node, &address, Some(core.identity.cluster_id)).await {
            Ok(response) if response.result() == JoinResult::Refused => {
                return node.stop.because(response.message);
            }
            Ok(response) => {
                tracing::debug!(address, result = ?response.result(), moved, "said where this node is");
                // Who leads now may have come to the cluster since this node last heard of it. One step at a time: two
                // that refer to each other would keep it from the others.
                let leader = response.leader_address;
                referred = (!is_referral && !leader.is_empty() && leader != address).then_some(leader);
            }
            Err(status) => tracing::debug!(address, %status, "a peer does not answer"),
        }
    }
}

/// Whether the members have this node at other addresses than its own.
fn is_elsewhere(core: &Core, known: &Member) -> bool {
    let options = &core.options;
    known.peer_address != options.peer_address || known.http_address != options.http_address
}

async fn move_oneself(cluster: &Cluster, known: &Member) {
    let core = &cluster.core;
    let moved = Member {
        peer_address: core.options.peer_address.clone(),
        http_address: core.options.http_address.clone(),
        ..known.clone()
    };
    if let Err(error) = cluster.readdress(core.node_id(), moved).await {
        tracing::debug!(%error, "this leader's own addresses could not be changed yet");
    }
}

/// Where others may be: the leader first.
fn addresses(core: &Core) -> Vec<String> {
    let (own, leader) = (core.node_id(), core.leadership.borrow().leader);
    let mut members: Vec<_> = core.members().into_iter().filter(|(id, _)| *id != own).collect();
    members.sort_by_key(|(id, _)| Some(*id) != leader);
    let mut addresses: Vec<String> =
        members.iter().map(|(id, (member, _))| core.address_of(*id, member)).collect();
    let configured = core.options.initial_cluster.iter().map(|(_, address)| address);
    addresses.extend(core.options.join.iter().chain(configured).cloned());
    addresses.retain(|address| *address != core.options.peer_address);
    addresses
}

/// What the leader says to one who takes itself for a member and is none; `None` where it is one, or where this node
/// cannot be sure.
pub(crate) fn removed(core: &Core, node_id: u64) -> Option<String> {
    use openraft::async_runtime::watch::WatchReceiver as _;
    let metrics = core.raft.server_metrics();
    let members = Arc::clone(&metrics.borrow_watched().committed_membership_config);
    if members.membership().get_node(&node_id).is_some() {
        return None;
    }
    // A leader that lost its place without knowing might not have heard of a new member.
    let sure = core
        .confirmation(0)
        .is_some_and(|confirmed| confirmed.confirmed_ms_ago < core.options.election_timeout_min_ms);
    sure.then(|| {
        format!(
            "node {node_id} was removed from the cluster and takes no part in it any more. Nothing is lost by that: what it had is \
             on the others. To have it back, start it with a new id, an empty data directory and `join`",
        )
    })
}
