//! What is lost when nodes die: nothing that was acknowledged.

use crate::harness::{Cluster, Orders, Server, free_ports, until};
use std::path::{Path, PathBuf};

/// Thresholds so small that a few hundred orders make several snapshots and leave little of the log.
const TINY: &[&str] = &[
    "--snapshot-min-log-bytes",
    "65536",
    "--log-segment-bytes",
    "65536",
    "--entry-max-bytes",
    "32768",
    "--log-keep-bytes",
    "0",
    "--log-keep-entries",
    "16",
    "--checkpoint-interval-ms",
    "200",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_order_survives_the_leader_killed_while_writes_go_on() {
    let mut cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(1_000).await;
    let mut orders = cluster.orders("before", 50).await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill().await;
    orders.extend(cluster.orders("without", 50).await);
    cluster.nodes[leader].start();
    orders.extend(cluster.orders("with", 50).await);
    cluster.wait_until_ready().await;
    cluster.assert_kept(&orders, 1_000).await;
    cluster.assert_equal().await;
    cluster.assert_audits_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_order_survives_a_leader_killed_and_restarted_at_once() {
    let mut cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(1_000).await;
    let mut orders = Orders::new();
    for round in 0..3 {
        orders.extend(cluster.orders(&format!("round-{round}"), 20).await);
        let leader = cluster.leader().await;
        cluster.nodes[leader].kill().await;
        cluster.nodes[leader].start();
    }
    orders.extend(cluster.orders("end", 20).await);
    cluster.wait_until_ready().await;
    cluster.assert_kept(&orders, 1_000).await;
    cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_order_survives_all_three_killed_at_once() {
    let mut cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(1_000).await;
    let mut orders = cluster.orders("before", 60).await;
    futures::future::join_all(cluster.nodes.iter_mut().map(Server::kill)).await;
    cluster.nodes.iter_mut().for_each(Server::start);
    cluster.wait_until_ready().await;
    cluster.assert_kept(&orders, 1_000).await;
    orders.extend(cluster.orders("after", 20).await);
    cluster.assert_kept(&orders, 1_000).await;
    cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_gets_the_same_answer_after_the_leader_died() {
    let mut cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(10).await;
    let first = cluster.order("once").await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill().await;
    assert_eq!(cluster.order("once").await, first);
    cluster.nodes[leader].start();
    cluster.wait_until_ready().await;
    cluster.assert_kept(&Orders::from([("once".into(), first)]), 10).await;
}

/// Places orders until the leader has purged the log after `index`.
async fn orders_until_purged(cluster: &Cluster, leader: usize, index: u64, orders: &mut Orders) {
    for round in 0.. {
        orders.extend(cluster.orders(&format!("purge-{round}"), 200).await);
        let purged = cluster.nodes[leader].metric("stockroom_log_purged_index").await;
        if purged.is_some_and(|purged| purged > index as f64) {
            return;
        }
        assert!(round < 40, "the log is never purged: {purged:?}, beyond {index}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_behind_the_purged_log_catches_up_from_the_snapshot_file() {
    let mut cluster = Cluster::of_three(TINY).await;
    cluster.stock_mugs(100_000).await;
    let mut orders = cluster.orders("before", 20).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let (behind, ..) = cluster.assert_equal().await;
    cluster.nodes[follower].kill().await;
    orders_until_purged(&cluster, leader, behind, &mut orders).await;
    cluster.nodes[follower].start();
    orders.extend(cluster.orders("meanwhile", 50).await);
    cluster.wait_until_ready().await;
    cluster.assert_equal().await;
    cluster.assert_kept(&orders, 100_000).await;
    cluster.assert_audits_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_joins_as_a_learner_and_is_promoted_when_it_has_caught_up() {
    let mut cluster = Cluster::of_three(TINY).await;
    cluster.stock_mugs(100_000).await;
    let leader = cluster.leader().await;
    let mut orders = Orders::new();
    orders_until_purged(&cluster, leader, 0, &mut orders).await;
    add_node(&mut cluster, 4);
    orders.extend(cluster.orders("meanwhile", 50).await);
    until_voter(&cluster, 4).await;
    cluster.wait_until_ready().await;
    cluster.assert_equal().await;
    cluster.assert_kept(&orders, 100_000).await;
}

/// A node with an empty directory, joining by the addresses of the others.
fn add_node(cluster: &mut Cluster, id: u64) {
    let port = free_ports(2);
    let peers: Vec<_> = cluster.nodes.iter().map(|node| node.peer.as_str()).collect();
    let settings: Vec<&str> = [TINY, &["--join"]].concat();
    let join = peers.join(",");
    let settings = [settings.as_slice(), &[join.as_str()]].concat();
    let mut node = Server::new(id, cluster.dir.path(), port, port + 1, &settings);
    node.start();
    cluster.nodes.push(node);
}

async fn until_voter(cluster: &Cluster, id: u64) {
    until("the new node is a voter", || async {
        let (_, body) = cluster.nodes[0].get("/v1/cluster").await?;
        let member = body["members"].as_array()?.iter().find(|member| member["id"] == id)?.clone();
        (member["role"] == "voter").then_some(())
    })
    .await;
}

/// The directories of the tables in a data directory.
fn tables(data_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data_dir.join("state"))
        .expect("a data directory")
        .map(|entry| entry.expect("a name").path());
    let is_tables =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("sled"));
    let found: Vec<_> = entries.filter(is_tables).collect();
    assert!(!found.is_empty(), "no tables in {}", data_dir.display());
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_tables_are_rebuilt_to_the_same_state_hash() {
    rebuilt_after(|tables| std::fs::remove_dir_all(tables).expect("the tables of a stopped node")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_tables_are_rebuilt_to_the_same_state_hash() {
    rebuilt_after(|tables| {
        let mut damaged = 0;
        for file in std::fs::read_dir(tables).expect("the tables of a stopped node") {
            let path = file.expect("a name").path();
            if path.is_file() {
                let mut bytes = std::fs::read(&path).expect("a file");
                bytes.iter_mut().step_by(97).for_each(|byte| *byte ^= 0x5a);
                std::fs::write(&path, bytes).expect("room");
                damaged += 1;
            }
        }
        assert!(damaged > 0, "nothing was damaged");
    })
    .await;
}

async fn rebuilt_after(harm: impl Fn(&Path)) {
    let mut cluster = Cluster::of_three(TINY).await;
    cluster.stock_mugs(100_000).await;
    let orders = cluster.orders("before", 400).await;
    let before = cluster.assert_equal().await;
    let follower = (cluster.leader().await + 1) % 3;
    let node = &mut cluster.nodes[follower];
    assert_eq!(node.terminate().await, Some(0), "{}", node.log());
    tables(&node.data_dir).iter().for_each(|tables| harm(tables));
    node.start();
    cluster.wait_until_ready().await;
    let after = cluster.assert_equal().await;
    assert!(after.0 >= before.0);
    cluster.assert_kept(&orders, 100_000).await;
    cluster.assert_audits_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_is_refused_under_its_old_id_and_comes_back_under_a_new_one() {
    let mut cluster = Cluster::of_three(TINY).await;
    cluster.stock_mugs(1_000).await;
    let orders = cluster.orders("before", 20).await;
    let follower = (cluster.leader().await + 1) % 3;
    cluster.nodes[follower].kill().await;
    let mut wiped = cluster.nodes.remove(follower);
    std::fs::remove_dir_all(&wiped.data_dir).expect("its directory");
    let peers: Vec<_> = cluster.nodes.iter().map(|node| node.peer.clone()).collect();
    wiped.add_setting("--join", &peers.join(","));
    wiped.start();
    let code = wiped.ended().await;
    let log = wiped.log();
    assert!(code.is_some_and(|code| code != 0), "{log}");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("new id") && last.contains(&wiped.id.to_string()), "{log}");
    add_node(&mut cluster, 4);
    until_voter(&cluster, 4).await;
    cluster.wait_until_ready().await;
    cluster.assert_kept(&orders, 1_000).await;
    cluster.assert_equal().await;
}
