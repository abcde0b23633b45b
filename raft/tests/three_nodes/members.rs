//! Nodes that come, go, fall behind and lose their disks.

use crate::support::*;
use std::sync::Arc;
use std::time::Duration;
use stockroom_raft::{Change, Intent, RaftOptions, Rebuilt, Role, prepare_rebuild};
use stockroom_storage::log_store::LogOptions;
use tokio::time::Instant;

/// Less than what a silent peer is waited for.
const SOON: Duration = Duration::from_secs(20);

/// Snapshots and purging after a few entries.
fn tiny(options: &mut RaftOptions) {
    options.storage.snapshot_min_log_bytes = 32 << 10;
    options.storage.purge_margin_bytes = 0;
    options.storage.purge_margin_entries = 5;
    options.storage.log = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
}

/// Writes until the leader has purged beyond `index`.
async fn write_until_purged(cluster: &TestCluster, beyond: u64) {
    let leader = cluster.leader().await;
    let deadline = soon();
    for n in 0.. {
        let items = (0..50).map(|m| proposal(item(&format!("{:050}-{n}-{m}", 0)))).collect();
        for answer in cluster.on(leader).propose_all(items, soon()).await {
            answer.expect("an answer");
        }
        if cluster.on(leader).purged().is_some_and(|purged| purged > beyond) {
            return;
        }
        assert!(Instant::now() < deadline, "purged {:?}, not beyond {beyond}", cluster.on(leader).purged());
    }
}

/// Removes a member, whatever that costs. Of an outcome that was unknown the members tell.
async fn removed(cluster: &TestCluster, id: u64) {
    until("it is removed", || async {
        let leader = cluster.leader().await;
        let force = Intent { force: true, plan_only: false };
        let _ = cluster.on(leader).change(Change::Remove, id, force, soon()).await;
        cluster.role_of(leader, id).await.is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_follows_and_is_promoted_once_it_has_caught_up() {
    let mut cluster = TestCluster::form(3, unchanged).await;
    done(&cluster.on(1), item("mug")).await;
    let join = listed(&cluster.nodes).into_iter().map(|(_, address)| address).collect();
    cluster.nodes.push(Node::start(4, join, unchanged).await);
    until("it votes", || async { cluster.role_of(1, 4).await == Some(Role::Voter) }).await;
    done(&cluster.node(4).member().await, receive("mug", 3)).await;
    cluster.agree().await;
    // It may be removed again; then nobody knows it.
    removed(&cluster, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_to_the_voter_that_is_named() {
    let cluster = TestCluster::form(3, unchanged).await;
    let leader = cluster.leader().await;
    let to = cluster.follower().await;
    until("the leader has heard of it", || async {
        cluster.on(leader).transfer(Some(to), soon()).await == Ok(to) || cluster.leader().await == to
    })
    .await;
    assert_eq!(cluster.leader().await, to);
    done(&cluster.on(leader), item("mug")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_the_purged_log_catches_up_from_a_snapshot_while_writes_go_on() {
    let mut cluster = TestCluster::form(3, tiny).await;
    let follower = cluster.follower().await;
    done(&cluster.on(follower), item("mug")).await;
    let left_at = cluster.on(follower).reader().applied().fingerprint.log_index;
    cluster.node_mut(follower).halt().await;
    write_until_purged(&cluster, left_at + 10).await;
    cluster.node_mut(follower).restart().await;
    write_until_purged(&cluster, left_at + 20).await;
    cluster.agree().await;
    let stats = cluster.on(follower).reader().stats();
    assert!(stats.snapshot_log_index > left_at, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_catches_up_from_a_snapshot_and_is_promoted() {
    let mut cluster = TestCluster::form(3, tiny).await;
    write_until_purged(&cluster, 10).await;
    let join = vec![cluster.nodes[0].address.to_string()];
    cluster.nodes.push(Node::start(4, join, tiny).await);
    write_until_purged(&cluster, 30).await;
    let leader = cluster.leader().await;
    until("it votes", || async { cluster.role_of(leader, 4).await == Some(Role::Voter) }).await;
    cluster.agree().await;
}

/// Much for a new node to apply, and not enough for a snapshot file to be written or the log to be purged.
fn long_log(options: &mut RaftOptions) {
    options.storage.snapshot_min_log_bytes = 512 << 10;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_begins_with_a_snapshot_where_the_log_would_take_longer() {
    let mut cluster = TestCluster::form(3, long_log).await;
    let leader = cluster.leader().await;
    let write = async |cluster: &TestCluster, entries: usize| {
        for n in 0..entries {
            let items = (0..50).map(|m| proposal(item(&format!("{:050}-{n}-{m}", 0)))).collect();
            for answer in cluster.on(leader).propose_all(items, soon()).await {
                answer.expect("an answer");
            }
        }
    };
    write(&cluster, 2).await;
    let join: Vec<_> = listed(&cluster.nodes).into_iter().map(|(_, address)| address).collect();
    cluster.nodes.push(Node::start(4, join.clone(), long_log).await);
    until("it votes", || async { cluster.role_of(leader, 4).await == Some(Role::Voter) }).await;
    assert_eq!(cluster.on(4).purged(), None, "so little is sent as the log");

    write(&cluster, 30).await;
    let written = cluster.on(leader).reader().applied().fingerprint.log_index;
    // All nodes have one list, with themselves in it: it must not wait for itself to say who it is.
    let listing_itself =
        Node::start_prepared(5, long_log, |node| [vec![node.address.to_string()], join].concat());
    cluster.nodes.push(listing_itself.await);
    write(&cluster, 2).await;
    let votes = until("it votes", || async { cluster.role_of(leader, 5).await == Some(Role::Voter) });
    tokio::time::timeout(SOON, votes).await.expect("it votes soon");
    assert!(cluster.on(5).purged() >= Some(written), "its log begins behind a snapshot");
    assert_eq!(cluster.on(leader).purged(), None, "which is no reason to purge another one's");
    done(&cluster.on(5), receive(&format!("{:050}-0-0", 0), 3)).await;
    cluster.agree().await;
}

/// The followers that it knows: one that is no member yet itself and waits, one that is behind in applying.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_does_not_wait_for_a_peer_that_has_no_snapshot() {
    let held = HeldWorker::new("apply");
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(match id {
            3 => Node::start_with(id, Arc::new(held.clone())).await,
            _ => Node::start(id, Vec::new(), tiny).await,
        });
    }
    let mut cluster = TestCluster::form_of(nodes).await;
    until("node 1 leads", || async {
        let _ = cluster.on(2).hand_leadership_over(Some(1), soon()).await;
        cluster.leader().await == 1
    })
    .await;
    held.hold(true);
    write_until_purged(&cluster, 30).await;
    let join = [3, 1].map(|id| cluster.node(id).address.to_string()).to_vec();
    let votes = async {
        cluster.nodes.push(Node::start(4, join, tiny).await);
        until("it votes", || async { cluster.role_of(1, 4).await == Some(Role::Voter) }).await;
    };
    tokio::time::timeout(SOON, votes).await.expect("it votes soon");
    held.hold(false);
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_new_nodes_that_know_each_other_do_not_wait_for_each_other() {
    let mut cluster = TestCluster::form(3, long_log).await;
    let leader = cluster.leader().await;
    for n in 0..30 {
        let items = (0..50).map(|m| proposal(item(&format!("{:050}-{n}-{m}", 0)))).collect();
        for answer in cluster.on(leader).propose_all(items, soon()).await {
            answer.expect("an answer");
        }
    }
    let listeners = [4, 5].map(|id| (id, Node::prepare(id, long_log)));
    let mut new = Vec::new();
    for (_, prepared) in listeners {
        new.push(prepared.await);
    }
    let others: Vec<String> = new.iter().map(|(node, _)| node.address.to_string()).collect();
    let join = [others, vec![cluster.node(leader).address.to_string()]].concat();
    let votes = async {
        for (mut node, listener) in new {
            node.run(listener, join.clone()).await;
            cluster.nodes.push(node);
        }
        until("both vote", || async {
            cluster.role_of(leader, 4).await == Some(Role::Voter)
                && cluster.role_of(leader, 5).await == Some(Role::Voter)
        })
        .await;
    };
    tokio::time::timeout(SOON, votes).await.expect("they vote soon");
    cluster.agree().await;
}

/// As a program does it at every start: what the file of the rebuild says goes before the settings.
fn as_rebuilt(options: &mut RaftOptions) {
    let rebuilt = stockroom_raft::rebuilt(&options.dir).expect("readable");
    options.replaces = rebuilt.and_then(|rebuilt| rebuilt.replaces);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuilt_node_removes_nobody_who_comes_later_under_the_old_id() {
    let mut cluster = TestCluster::form(3, unchanged).await;
    done(&cluster.on(1), item("mug")).await;
    let join: Vec<String> = [1, 3].map(|id| cluster.node(id).address.to_string()).to_vec();
    cluster.node_mut(2).halt().await;
    cluster.nodes.retain(|node| node.id != 2);
    let rebuilt = Node::start_prepared(4, as_rebuilt, |node| {
        let rebuilt = Rebuilt { configured: 2, replaces: Some(2), node_id: 4, join: join.clone() };
        prepare_rebuild(&node.dir, &rebuilt).expect("an empty directory");
        join.clone()
    });
    cluster.nodes.push(rebuilt.await);
    until("node 2 is removed", || async { cluster.role_of(1, 2).await.is_none() }).await;
    let dir = cluster.node(4).dir.clone();
    let replaces = || stockroom_raft::rebuilt(&dir).expect("readable").expect("it was rebuilt").replaces;
    until("the rebuild is complete", || async { replaces().is_none() }).await;

    cluster.nodes.push(Node::start(2, join, unchanged).await);
    until("the new node 2 votes", || async { cluster.role_of(1, 2).await == Some(Role::Voter) }).await;
    cluster.node_mut(4).halt().await;
    cluster.node_mut(4).restart().await;
    cluster.leader().await;
    until("node 4 is fresh", || async { cluster.on(4).staleness_ms().is_some_and(|ms| ms < 500) }).await;
    assert_eq!(replaces(), None, "it has nobody to remove");
    assert_eq!(cluster.role_of(1, 2).await, Some(Role::Voter));
    done(&cluster.on(2), receive("mug", 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_state_and_snapshot_fetches_a_snapshot_before_it_takes_part() {
    let mut cluster = TestCluster::form(3, tiny).await;
    write_until_purged(&cluster, 10).await;
    let follower = cluster.follower().await;
    until("it has purged its log too", || async { cluster.on(follower).purged() > Some(0) }).await;
    cluster.node_mut(follower).halt().await;
    std::fs::remove_dir_all(cluster.node(follower).dir.join("snapshot")).expect("it is there");
    cluster.node_mut(follower).restart().await;
    cluster.leader().await;
    done(&cluster.on(follower), item("mug")).await;
    cluster.agree().await;
}

/// Its peers have no snapshot that reaches so far, and would not write one by themselves for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_needs_a_newer_snapshot_than_its_peers_have_gets_one() {
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(Node::start(id, Vec::new(), if id == 3 { tiny } else { unchanged }).await);
    }
    let mut cluster = TestCluster::form_of(nodes).await;
    until("node 3 has purged its log", || async {
        let items = (0..50).map(|m| proposal(item(&format!("{:050}-{m}", 0)))).collect();
        for answer in cluster.on(1).propose_all(items, soon()).await {
            answer.expect("an answer");
        }
        cluster.on(3).purged() > Some(10)
    })
    .await;
    cluster.node_mut(3).halt().await;
    std::fs::remove_dir_all(cluster.node(3).dir.join("snapshot")).expect("it is there");
    tokio::time::timeout(PATIENCE, cluster.node_mut(3).restart()).await.expect("a snapshot in time");
    cluster.leader().await;
    cluster.agree().await;
}

/// Node 3 has lost its whole data directory, and is started again under its id.
async fn wiped(cluster: &mut TestCluster, join: Vec<String>) {
    done(&cluster.on(1), item("mug")).await;
    cluster.node_mut(3).halt().await;
    std::fs::remove_dir_all(&cluster.node(3).dir).expect("it is there");
    cluster.node_mut(3).restart_joining(join).await;
    let why = cluster.node(3).stopped().await;
    assert!(why.contains("new id") && why.contains("remove the old id 3"), "{why}");
    cluster.node_mut(3).halt().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_that_waits_is_refused_under_its_old_id() {
    let mut cluster = TestCluster::form(3, unchanged).await;
    wiped(&mut cluster, Vec::new()).await;
    done(&cluster.on(1), receive("mug", 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_that_joins_is_refused_under_its_old_id_and_comes_back_under_a_new_one() {
    let mut cluster = TestCluster::form(3, unchanged).await;
    let join = vec![cluster.nodes[0].address.to_string()];
    wiped(&mut cluster, join.clone()).await;
    cluster.nodes.pop();
    cluster.nodes.push(Node::start(4, join, unchanged).await);
    until("it votes", || async { cluster.role_of(1, 4).await == Some(Role::Voter) }).await;
    removed(&cluster, 3).await;
    done(&cluster.on(4), receive("mug", 1)).await;
    cluster.agree().await;
    until("node 4 knows who is left", || async { cluster.on(4).status().members.len() == 3 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_crashed_while_it_joined_goes_on_with_it() {
    let mut cluster = TestCluster::form(1, unchanged).await;
    done(&cluster.on(1), item("mug")).await;
    let join = vec![cluster.nodes[0].address.to_string()];
    let mut joining = Node::start(2, join.clone(), unchanged).await;
    joining.member().await;
    joining.halt().await;
    // As if it had crashed before it could store whose it is: the cluster knows it already.
    for name in ["log", "state", "snapshot"] {
        let _ = std::fs::remove_dir_all(joining.dir.join(name));
    }
    std::fs::remove_file(joining.dir.join("identity")).expect("it is there");
    joining.restart_joining(join).await;
    joining.member().await;
    cluster.nodes.push(joining);
    until("it votes", || async { cluster.role_of(1, 2).await == Some(Role::Voter) }).await;
    cluster.agree().await;
}
