//! A node that stopped itself comes back from the others by one command.

use crate::harness::{Cluster, Server, stderr, stockroom, until};
use crate::scrub::{SMALL, files, start_scrub};
use openraft::entry::RaftEntry as _;
use openraft::storage::{RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _};
use openraft::{EntryPayload, alias::EntryOf};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;
use stockroom_storage::StorageOptions;
use stockroom_storage::codec::{LogId, encode_batch, encode_proposal};
use stockroom_storage::fs::RealFileSystem;
use stockroom_storage::identity;
use stockroom_storage::log_store::LogOptions;
use stockroom_storage::shop::command::{Command, PutItem};
use stockroom_storage::shop::ids::{IdempotencyKey, Sku};
use stockroom_storage::type_config::{BatchBytes, TypeConfig};

/// `stockroom rebuild` with the settings that the node is started with, and the others as peers.
async fn rebuild(cluster: &Cluster, at: usize, more: &[&str]) -> Output {
    let node = &cluster.nodes[at];
    let others = cluster.nodes.iter().filter(|other| other.id != node.id);
    let join = others.map(|other| other.peer.clone()).collect::<Vec<_>>().join(",");
    let id = node.configured().to_string();
    let dir = node.data_dir.to_str().expect("UTF-8");
    let settings = [
        "rebuild",
        "--node-id",
        &id,
        "--data-dir",
        dir,
        "--http-listen",
        &node.http,
        "--peer-listen",
        &node.peer,
        "--join",
        &join,
    ];
    stockroom(&[&settings, more].concat(), &[]).await
}

/// Rebuilds a node that has ended, starts it as before, and waits until the cluster is whole under its new id.
async fn comes_back(cluster: &mut Cluster, at: usize) -> PathBuf {
    let planned = rebuild(cluster, at, &["--plan"]).await;
    assert!(
        planned.status.success() && stderr(&planned).contains("nothing was done"),
        "{}",
        stderr(&planned)
    );
    let done = rebuild(cluster, at, &[]).await;
    let said = stderr(&done);
    assert!(done.status.success(), "{said}");
    let new: u64 = String::from_utf8_lossy(&done.stdout).trim().parse().expect("the new id");
    let node = &mut cluster.nodes[at];
    let (old, configured) = (node.id, node.configured());
    (node.id, node.configured_before) = (new, Some(configured));
    cluster.nodes[at].start();
    until_members(cluster, old).await;
    let aside: Vec<_> = std::fs::read_dir(cluster.dir.path())
        .expect("a directory")
        .map(|entry| entry.expect("a name").path())
        .filter(|path| {
            path.to_string_lossy().contains(&format!("node-{}.set-aside-", cluster.nodes[at].configured()))
        })
        .collect();
    let newest = aside.into_iter().max().expect("the old directory");
    assert!(said.contains(newest.to_str().expect("UTF-8")), "{said}");
    newest
}

/// Waits until the members are these nodes, all of them voters, and `old` is none.
async fn until_members(cluster: &Cluster, old: u64) {
    let expected: BTreeMap<u64, String> =
        cluster.nodes.iter().map(|node| (node.id, "voter".to_owned())).collect();
    assert!(!expected.contains_key(&old));
    for node in &cluster.nodes {
        let what = format!("node {} knows the members {expected:?}", node.id);
        until(&what, || async {
            let (_, body) = node.get("/v1/cluster").await?;
            let member = |member: &Value| Some((member["id"].as_u64()?, member["role"].as_str()?.to_owned()));
            let members: Option<BTreeMap<_, _>> = body["members"].as_array()?.iter().map(member).collect();
            (members? == expected).then_some(())
        })
        .await;
    }
    cluster.wait_until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_damaged_log_is_rebuilt_from_its_peers_by_one_command() {
    let mut cluster = Cluster::of_three(SMALL).await;
    cluster.stock_mugs(10_000).await;
    let mut orders = cluster.orders("before", 1_000).await;
    let at = (cluster.leader().await + 1) % 3;
    let refused = rebuild(&cluster, at, &[]).await;
    assert_eq!(refused.status.code(), Some(4), "a node that runs: {}", stderr(&refused));

    // The scrub finds what nobody asks for; the next start refuses, and both say what to do.
    let wal = sealed_segment(&cluster.nodes[at]);
    damage_an_entry(&wal);
    let node = &mut cluster.nodes[at];
    start_scrub(node).await;
    assert_eq!(node.ended().await, Some(3), "{}", node.log());
    node.start();
    assert_eq!(node.ended().await, Some(1), "{}", node.log());
    let log = node.log();
    let stopped: Vec<&str> = log.lines().filter(|line| line.contains("is damaged at byte")).collect();
    assert!(stopped.len() >= 2, "{log}");
    for line in [stopped[stopped.len() - 1], log.lines().last().unwrap_or_default()] {
        assert!(line.contains(wal.to_str().expect("UTF-8")) && line.contains("stockroom rebuild"), "{log}");
    }
    orders.extend(cluster.orders("without", 20).await);

    // While the others are no majority, what it has may be needed.
    let other = (at + 1) % 3;
    cluster.nodes[other].kill().await;
    let refused = rebuild(&cluster, at, &[]).await;
    assert_eq!(refused.status.code(), Some(7), "{}", stderr(&refused));
    assert!(cluster.nodes[at].data_dir.join("identity").exists(), "nothing was changed");
    cluster.nodes[other].start();
    until("it leads again", || async { cluster.nodes[other].is_ready().await.then_some(()) }).await;

    let aside = comes_back(&mut cluster, at).await;
    assert!(aside.join("identity").exists(), "kept for study");
    orders.extend(cluster.orders("after", 20).await);
    cluster.assert_equal().await;
    cluster.assert_kept(&orders, 10_000).await;
    // It stays who it is, with the settings that it always had.
    let node = &mut cluster.nodes[at];
    assert_eq!(node.terminate().await, Some(0), "{}", node.log());
    node.start();
    cluster.wait_until_ready().await;
    cluster.assert_equal().await;
    cluster.assert_audits_clean().await;
}

/// Turns a bit of an order over: between entries lie records of other kinds, which only a start reads.
fn damage_an_entry(wal: &Path) {
    use std::os::unix::fs::FileExt as _;
    let bytes = std::fs::read(wal).expect("a segment");
    let order = b"before-";
    let at = bytes.windows(order.len()).position(|window| window == order).expect("an order");
    let file = std::fs::File::options().write(true).open(wal).expect("a segment");
    file.write_all_at(&[bytes[at] ^ 0x10], at as u64).expect("room");
}

/// A file of its log that is full and is kept: the oldest ones may be purged meanwhile, the newest are in use.
fn sealed_segment(node: &Server) -> PathBuf {
    let segments = files(&node.data_dir.join("log"), "wal");
    assert!(segments.len() > 2, "{segments:?}");
    segments[segments.len() - 3].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_data_directory_is_gone_is_rebuilt_too_and_once_more() {
    let mut cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(1_000).await;
    let mut orders = cluster.orders("before", 20).await;
    let at = cluster.leader().await;
    cluster.nodes[at].kill().await;
    std::fs::remove_dir_all(&cluster.nodes[at].data_dir).expect("its directory");
    cluster.leader().await;
    let done = rebuild(&cluster, at, &["--new-id", "9"]).await;
    assert!(done.status.success(), "{}", stderr(&done));
    let node = &mut cluster.nodes[at];
    let old = std::mem::replace(&mut node.id, 9);
    node.configured_before = Some(old);
    cluster.nodes[at].start();
    until_members(&cluster, old).await;
    orders.extend(cluster.orders("after", 20).await);

    // Again: its settings have the first id, and nothing is left that says the second one, but its address in the cluster.
    cluster.nodes[at].kill().await;
    std::fs::remove_dir_all(&cluster.nodes[at].data_dir).expect("its directory");
    cluster.leader().await;
    let done = rebuild(&cluster, at, &[]).await;
    let said = stderr(&done);
    assert!(done.status.success() && said.contains("node 9 of cluster"), "{said}");
    cluster.nodes[at].id = String::from_utf8_lossy(&done.stdout).trim().parse().expect("the new id");
    cluster.nodes[at].start();
    until_members(&cluster, 9).await;
    orders.extend(cluster.orders("again", 20).await);
    cluster.assert_equal().await;
    cluster.assert_kept(&orders, 1_000).await;
}

/// Writes an entry of another history behind the last one in the log of a stopped node, applies it, and makes all of it
/// durable: what a mistake in replication would leave. Every checksum matches, and the log id is one that the leader
/// has given to something else.
async fn another_history(dir: &Path) -> u64 {
    let identity = identity::load(&RealFileSystem, dir).expect("readable").expect("a member");
    let options = StorageOptions {
        log: LogOptions { segment_bytes: 2 << 20, cache_bytes: 0 },
        ..StorageOptions::new(dir)
    };
    let mut storage = stockroom_storage::open(options, &identity).await.expect("it opens");
    let last = storage.log.last_log_id().expect("entries");
    let applied = storage.reader.applied().fingerprint.log_index;
    assert_eq!(applied, last.index, "it was stopped in order");
    let item = Command::PutItem(PutItem {
        sku: Sku::new("ghost").expect("a SKU"),
        name: None,
        price: None,
        attributes: None,
        expected_version: None,
    });
    let proposal = encode_proposal(Some(IdempotencyKey::new("ghost").expect("a key")), item);
    let clock = storage.reader.applied().clock.0;
    let id = LogId::new(*last.committed_leader_id(), last.index + 1);
    let entry = || {
        let batch = BatchBytes(encode_batch(clock, std::slice::from_ref(&proposal)));
        EntryOf::<TypeConfig>::new(id, EntryPayload::Normal(batch))
    };
    storage.log.blocking_append([entry()]).await.expect("room");
    storage.log.save_committed(Some(id)).await.expect("room");
    let entries = futures::stream::iter([Ok((entry(), None))]);
    storage.state_machine.apply(entries).await.expect("it applies");
    storage.close().await.expect("room");
    id.index
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_digest_differs_from_the_others_stops_itself_and_says_so() {
    let mut cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(1_000).await;
    let mut orders = cluster.orders("before", 20).await;
    cluster.assert_equal().await;
    let leader = cluster.leader().await;
    let at = (leader + 1) % 3;
    let node = &mut cluster.nodes[at];
    assert_eq!(node.terminate().await, Some(0), "{}", node.log());
    // The others give the next log ids to these.
    orders.extend(cluster.orders("without", 20).await);
    assert_eq!(cluster.leader().await, leader, "in the same term");
    let forged = another_history(&cluster.nodes[at].data_dir).await;
    let (applied, ..) = until("the leader", || cluster.nodes[leader].fingerprint()).await;
    assert!(forged <= applied, "the leader has another entry {forged}");

    let node = &mut cluster.nodes[at];
    node.start();
    assert_eq!(node.ended().await, Some(3), "{}", node.log());
    let log = node.log();
    let last = log.lines().last().unwrap_or_default();
    for part in ["this node stopped itself", "differs from that of a majority", "digest", "stockroom rebuild"]
    {
        assert!(last.contains(part), "{part:?} is not in the last line: {log}");
    }
    // Only the odd one out: the others have heard of it, and serve.
    for other in [leader, (at + 1) % 3] {
        assert!(cluster.nodes[other].runs() && cluster.nodes[other].is_ready().await);
    }
    let differences = cluster.nodes[leader].metric("stockroom_raft_state_differences_total").await;
    assert!(differences.is_some_and(|count| count >= 1.0), "{differences:?}");
    orders.extend(cluster.orders("after", 20).await);
    comes_back(&mut cluster, at).await;
    cluster.assert_equal().await;
    cluster.assert_kept(&orders, 1_000).await;
    cluster.assert_audits_clean().await;
}
