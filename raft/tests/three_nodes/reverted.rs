//! Nodes whose logs went back: they lost what they had acknowledged.

use crate::support::*;
use std::path::Path;
use stockroom_raft::RaftOptions;
use stockroom_storage::log_store::LogOptions;

/// Small files, and what is in a snapshot leaves the log soon.
fn tiny(options: &mut RaftOptions) {
    options.storage.snapshot_min_log_bytes = 32 << 10;
    options.storage.purge_margin_bytes = 0;
    options.storage.purge_margin_entries = 5;
    options.storage.log = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("readable");
        if entry.file_type().expect("readable").is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
}

async fn write(cluster: &TestCluster, on: u64, entries: u64) {
    for n in 0..entries {
        let name = format!("{:0500}-{n}", 0);
        let served = cluster.on(on).propose(proposal(item(&name[name.len() - 60..])), soon()).await;
        served.expect("an answer");
    }
}

/// Node `id` is stopped, and an older copy of its directory is put in its place.
async fn replaced_by_an_older_copy(cluster: &mut TestCluster, id: u64, leader: u64, entries: u64) {
    cluster.node_mut(id).shut_down().await;
    let (dir, older) = (cluster.node(id).dir.clone(), cluster.node(id).dir.with_extension("older"));
    copy(&dir, &older);
    cluster.node_mut(id).restart().await;
    write(cluster, leader, entries).await;
    cluster.agree().await;
    cluster.node_mut(id).halt().await;
    std::fs::remove_dir_all(&dir).expect("it is there");
    std::fs::rename(&older, &dir).expect("it takes its place");
}

async fn stops_and_the_others_go_on(cluster: &mut TestCluster, id: u64, leader: u64) {
    let term = cluster.on(leader).status().term;
    cluster.node_mut(id).restart().await;
    let why = cluster.node(id).stopped().await;
    assert!(why.contains("acknowledged") && why.contains("new id"), "{why}");
    cluster.node_mut(id).halt().await;
    write(cluster, leader, 20).await;
    let status = cluster.on(leader).status();
    assert_eq!((status.leader, status.term), (Some(leader), term), "the leader must not be moved by it");
    // Whoever starts it again hears the same: it must not slip in when there is another leader.
    let again = cluster.node_mut(id).try_restart().await.expect_err("it must not start").to_string();
    assert!(again.contains("acknowledged") && again.contains("new id"), "{again}");
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_on_an_older_copy_of_its_directory_stops_and_the_leader_goes_on() {
    let mut cluster = TestCluster::form(3, unchanged).await;
    done(&cluster.on(1), item("mug")).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    replaced_by_an_older_copy(&mut cluster, follower, leader, 5).await;
    stops_and_the_others_go_on(&mut cluster, follower, leader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_went_back_behind_the_purged_log_stops_and_the_leader_goes_on() {
    let mut cluster = TestCluster::form(3, tiny).await;
    done(&cluster.on(1), item("mug")).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let purged = |cluster: &TestCluster| cluster.on(leader).purged();
    let applied = |cluster: &TestCluster| cluster.on(leader).reader().applied().fingerprint.log_index;
    let before = applied(&cluster);
    replaced_by_an_older_copy(&mut cluster, follower, leader, 200).await;
    // The leader purges what the follower has, and what it had acknowledged as well.
    let acknowledged = applied(&cluster);
    until("the leader has purged", || async {
        write(&cluster, leader, 20).await;
        purged(&cluster) > Some(acknowledged)
    })
    .await;
    assert!(before < acknowledged);
    stops_and_the_others_go_on(&mut cluster, follower, leader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_last_log_file_is_gone_stops_and_the_leader_goes_on() {
    let mut cluster = TestCluster::form(3, |options| options.storage.log.segment_bytes = 16 << 10).await;
    done(&cluster.on(1), item("mug")).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    write(&cluster, leader, 200).await;
    cluster.agree().await;
    cluster.node_mut(follower).halt().await;
    // Files of the log are numbered; nothing in those before says that there was another.
    let mut files: Vec<_> = std::fs::read_dir(cluster.node(follower).dir.join("log"))
        .expect("it is there")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    files.sort();
    assert!(files.len() > 2, "{files:?}");
    for file in files.iter().rev().take(2) {
        std::fs::remove_file(file).expect("it is there");
    }
    stops_and_the_others_go_on(&mut cluster, follower, leader).await;
}
