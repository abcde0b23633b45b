//! Disks that run full, on file systems of their own: needs root, to mount them.

use crate::harness::{Cluster, Orders, Server, until};
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1 << 20;
/// Small files, and marks that a small file system can have.
const SMALL: &[&str] = &[
    "--sled-cache-bytes",
    "8388608",
    "--disk-low-bytes",
    "41943040",
    "--disk-full-bytes",
    "25165824",
    "--checkpoint-interval-ms",
    "200",
];

/// Files of the log that are full after a few hundred orders.
const SHORT_LOG: &[&str] = &["--log-segment-bytes", "65536", "--entry-max-bytes", "32768"];
const LONG_LOG: &[&str] = &["--log-segment-bytes", "4194304"];

/// A file system in memory, gone when this is dropped.
struct Mount(PathBuf);

impl Mount {
    /// `None` where this process may not mount.
    fn of(dir: &Path, bytes: u64) -> Option<Self> {
        std::fs::create_dir_all(dir).expect("room");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(dir)
            .output()
            .is_ok_and(|output| output.status.success());
        if mounted { Some(Mount(dir.to_owned())) } else { None }
    }

    fn free(&self) -> u64 {
        let space = rustix::fs::statvfs(&self.0).expect("it is mounted");
        space.f_bavail * space.f_frsize
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all room but this.
    fn leave(&self, bytes: u64) {
        let filler = File::options().create(true).append(true).open(self.filler()).expect("a file");
        loop {
            let now = filler.metadata().expect("a file").len();
            let length = (now + self.free()).saturating_sub(bytes);
            rustix::fs::ftruncate(&filler, length.min(now)).expect("a shorter file");
            let more = length.saturating_sub(now);
            let flags = rustix::fs::FallocateFlags::empty();
            if more == 0 || rustix::fs::fallocate(&filler, flags, now, more).is_ok() {
                return;
            }
            // The node was faster.
        }
    }

    /// Gives it back.
    fn empty(&self) {
        std::fs::remove_file(self.filler()).expect("it was filled");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a node that was killed may not have let go of it yet.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A cluster of three on file systems of 128 MiB each; `None`, and said loudly, where this process may not mount.
/// The cluster must be dropped first.
async fn small_disks(test: &str, log: &[&str]) -> Option<(Cluster, Vec<Mount>)> {
    let mut mounts = Vec::new();
    let cluster = Cluster::of_three_in(
        std::path::Path::new(crate::harness::STOCKROOM),
        &[SMALL, log].concat(),
        |node| {
            mounts.extend(Mount::of(&node.data_dir, 128 * MIB));
            mounts.len() as u64 == node.id
        },
    )
    .await;
    if cluster.is_none() {
        eprintln!("SKIPPED: {test}: this process may not mount a file system (it takes root)");
    }
    Some((cluster?, mounts))
}

async fn reserve(node: &Server, id: &str) -> (u16, Value) {
    let body = json!({"id": id, "ttl_ms": 600_000, "lines": [{"sku": "mug", "quantity": 1}]});
    let key = format!("key-{id}");
    until("an answer", || node.post("/v1/reservations", Some(&key), &body)).await
}

async fn alarms(node: &Server) -> Vec<(u64, String)> {
    let (_, body) = until("the cluster", || node.get("/v1/cluster")).await;
    let text = |alarm: &Value| alarm["code"].as_str().unwrap_or_default().to_owned();
    let alarms = body["alarms"].as_array().cloned().unwrap_or_default();
    alarms.iter().map(|alarm| (alarm["node"].as_u64().unwrap_or_default(), text(alarm))).collect()
}

async fn until_alarms(cluster: &Cluster, expected: &[(usize, &str)]) {
    let mut expected: Vec<(u64, String)> =
        expected.iter().map(|(at, code)| (cluster.nodes[*at].id, (*code).to_owned())).collect();
    expected.sort();
    for node in &cluster.nodes {
        let what = format!("node {} tells of {expected:?}", node.id);
        until(&what, || async { (alarms(node).await == expected).then_some(()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disks_refuse_new_orders_with_507_and_let_the_rest_go_on() {
    let Some((cluster, mounts)) = small_disks("full disks", SHORT_LOG).await else { return };
    cluster.stock_mugs(1_000).await;
    let mut orders = cluster.orders("before", 20).await;
    let (status, held) = reserve(&cluster.nodes[0], "hold").await;
    assert_eq!(status, 201, "{held}");
    let leader = cluster.leader().await;
    let (first, second) = ((leader + 1) % 3, (leader + 2) % 3);

    // Little room: told everywhere, and the node is ready all the same.
    mounts[first].leave(30 * MIB);
    until_alarms(&cluster, &[(first, "disk_low")]).await;
    let (status, ready) = until("an answer", || cluster.nodes[first].get("/readyz?verbose")).await;
    let ready = ready.as_str().expect("text").to_owned();
    assert!(status == 200 && ready.contains("[!]disk_low alarm: ") && ready.contains("RUNBOOK"), "{ready}");
    assert_eq!(cluster.nodes[first].metric("stockroom_disk_room").await, Some(1.0));
    assert_eq!(cluster.nodes[first].metric("stockroom_alarm{code=\"disk_low\"}").await, Some(1.0));

    // One full disk is no reason to refuse.
    mounts[first].leave(20 * MIB);
    until_alarms(&cluster, &[(first, "disk_full")]).await;
    orders.extend(cluster.orders("one-full", 20).await);

    // Two are.
    mounts[second].leave(20 * MIB);
    until_alarms(&cluster, &[(first, "disk_full"), (second, "disk_full")]).await;
    // The leader may take some before it looks at its list of alarms again.
    let mut taken = 0;
    loop {
        let id = format!("taken-{taken}");
        let probe = json!({"id": id, "lines": [{"sku": "mug", "quantity": 1}]});
        let key = format!("key-{id}");
        match until("an answer", || cluster.nodes[leader].post("/v1/orders", Some(&key), &probe)).await {
            (507, _) => break,
            (201, body) => drop(orders.insert(id, body)),
            other => panic!("{other:?}"),
        }
        taken += 1;
        assert!(taken < 1_000, "nothing is refused");
    }
    let order = json!({"id": "refused", "lines": [{"sku": "mug", "quantity": 1}]});
    for node in &cluster.nodes {
        let (status, refused) =
            until("an answer", || node.post("/v1/orders", Some("key-refused"), &order)).await;
        assert_eq!(
            (status, &refused["code"], &refused["definite"]),
            (507, &json!("disk_full"), &json!(true))
        );
        assert_eq!(refused["retryable"], json!(true), "{refused}");
        let mut full = [cluster.nodes[first].id, cluster.nodes[second].id];
        full.sort_unstable();
        assert_eq!(refused["nodes"], json!(full), "{refused}");
        assert!(refused["next_steps"][0].as_str().is_some_and(|step| step.contains("RUNBOOK")), "{refused}");
        // What was decided before is heard again, and what was begun goes on.
        let known = json!({"id": "before-0", "lines": [{"sku": "mug", "quantity": 1}]});
        let (status, known) =
            until("an answer", || node.post("/v1/orders", Some("key-before-0"), &known)).await;
        assert_eq!((status, &known), (201, &orders["before-0"]));
        assert_eq!(until("a read", || node.get("/v1/orders/refused")).await.0, 404, "refused is not done");
        assert!(node.is_ready().await);
    }
    let (status, cancelled) = cluster.write("cancel-hold", "/v1/reservations/hold/cancel", &json!({})).await;
    assert_eq!((status, cancelled["status"].as_str()), (200, Some("cancelled")), "{cancelled}");

    // It clears by itself, and the refused write is done under its key.
    mounts[second].empty();
    until_alarms(&cluster, &[(first, "disk_full")]).await;
    let placed = until("orders are taken again", || async {
        let (status, body) = cluster.nodes[first].post("/v1/orders", Some("key-refused"), &order).await?;
        (status == 201).then_some(body)
    })
    .await;
    orders.insert("refused".into(), placed);
    mounts[first].empty();
    until_alarms(&cluster, &[]).await;
    cluster.assert_equal().await;
    cluster.assert_kept(&orders, 1_000).await;
    cluster.assert_audits_clean().await;
}

/// Places orders, fifty a round.
async fn load(cluster: &Cluster, prefix: &str, rounds: usize) -> Orders {
    let mut orders = Orders::new();
    for round in 0..rounds {
        orders.extend(cluster.orders(&format!("{prefix}-{round}"), 50).await);
    }
    orders
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_room_for_a_snapshot_refuses_backups_and_goes_on() {
    let Some((cluster, mounts)) = small_disks("snapshots without room", LONG_LOG).await else { return };
    cluster.stock_mugs(10_000).await;
    let mut orders = cluster.orders("before", 20).await;
    let full = (cluster.leader().await + 1) % 3;
    let node = &cluster.nodes[full];
    // The log's next file is made ahead, so the log goes on for a while.
    mounts[full].leave(8 << 10);
    orders.extend(load(&cluster, "full", 2).await);
    let (status, refused) = until("a refusal", || async {
        let answer = node.get("/v1/admin/backup").await?;
        (answer.0 != 429).then_some(answer)
    })
    .await;
    assert_eq!((status, &refused["code"], &refused["definite"]), (507, &json!("no_room"), &json!(true)));
    until("the node tells why", || async {
        let alarms = alarms(node).await;
        let of_it = |code: &str| alarms.contains(&(node.id, code.to_owned()));
        (of_it("snapshot_waits") && of_it("checkpoint_waits") && of_it("disk_full")).then_some(())
    })
    .await;
    assert!(node.is_ready().await, "it goes on");
    // Others give one.
    crate::backup::take(&cluster.nodes[(full + 1) % 3], &cluster.dir.path().join("other.bak")).await;
    mounts[full].empty();
    until_alarms(&cluster, &[]).await;
    crate::backup::take(node, &cluster.dir.path().join("own.bak")).await;
    orders.extend(load(&cluster, "after", 1).await);
    cluster.assert_equal().await;
    cluster.assert_kept(&orders, 10_000).await;
    cluster.assert_audits_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_log_finds_no_room_stops_says_so_and_comes_back_with_everything() {
    let Some((mut cluster, mounts)) = small_disks("a log without room", SHORT_LOG).await else { return };
    cluster.stock_mugs(100_000).await;
    let mut orders = cluster.orders("before", 20).await;
    let full = (cluster.leader().await + 1) % 3;
    mounts[full].leave(0);
    for round in 0.. {
        orders.extend(load(&cluster, &format!("full-{round}"), 10).await);
        if !cluster.nodes[full].runs() {
            break;
        }
        assert!(round < 20, "its log still finds room");
    }
    let node = &mut cluster.nodes[full];
    assert_eq!(node.ended().await, Some(3), "{}", node.log());
    let log = node.log();
    let last = log.lines().last().unwrap_or_default();
    for part in [
        "its log cannot be written",
        ".wal",
        "No space left",
        "Make room",
        "nothing that was acknowledged is lost",
    ] {
        assert!(last.contains(part), "{part:?} is not in the last line: {log}");
    }
    orders.extend(load(&cluster, "without", 1).await);
    mounts[full].empty();
    cluster.nodes[full].start();
    cluster.wait_until_ready().await;
    orders.extend(load(&cluster, "with", 1).await);
    cluster.assert_equal().await;
    cluster.assert_kept(&orders, 100_000).await;
    cluster.assert_audits_clean().await;
}
