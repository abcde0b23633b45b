//! Damage on a disk: found by the scrub before it is needed, and the node rebuilt from the others by one command.

use crate::harness::{Cluster, Server, until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Files so small that a few hundred orders fill some.
pub const SMALL: &[&str] = &[
    "--log-segment-bytes",
    "65536",
    "--entry-max-bytes",
    "32768",
    "--checkpoint-interval-ms",
    "200",
    // Only where the test asks for it.
    "--scrub-interval-ms",
    "0",
];

async fn scrub(node: &Server) -> Option<Value> {
    let (status, body) = node.get("/v1/admin/scrub").await?;
    assert_eq!(status, 200, "{body}");
    Some(body)
}

pub async fn start_scrub(node: &Server) {
    let none = json!({});
    let (status, body) = until("it begins", || node.post("/v1/admin/scrub", None, &none)).await;
    assert_eq!(status, 200, "{body}");
}

async fn until_clean(node: &Server, times: u64) -> Value {
    until("a clean scrub", || async {
        let body = scrub(node).await?;
        (body["clean"] == times && body["running"] == false).then_some(body)
    })
    .await
}

/// Files with this extension below a directory, in order of their names.
pub fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("a name").path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Flips a bit of a file while its node runs, in place, at this share of its length.
pub fn flip(file: &Path, share: f64) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::options().read(true).write(true).open(file).expect("a file");
    let length = file.metadata().expect("a file").len();
    let mut at = (length as f64 * share) as u64;
    let mut byte = [0];
    // Where something was written.
    while byte[0] == 0 {
        at += 1;
        file.read_exact_at(&mut byte, at).expect("a byte that is not 0");
    }
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("room");
}

/// Waits until the node ends for what the scrub found; the last line of its log names the file and what to do.
async fn ends_for(node: &mut Server, file: &Path) {
    assert_eq!(node.ended().await, Some(3), "{}", node.log());
    let log = node.log();
    let last = log.lines().last().unwrap_or_default();
    let name = file.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(last.contains("this node stopped itself") && last.contains(&name), "{name}: {log}");
    assert!(last.contains("stockroom rebuild"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_reads_everything_at_its_rate_and_says_how_far_it_is() {
    let rate = ["--scrub-bytes-per-second", "65536"];
    let cluster = Cluster::of_three(&[SMALL, &rate].concat()).await;
    cluster.stock_mugs(10_000).await;
    cluster.orders("a", 600).await;
    let node = &cluster.nodes[0];
    let before = scrub(node).await.expect("an answer");
    assert_eq!(
        (&before["running"], &before["clean"], &before["next_in_ms"]),
        (&json!(false), &json!(0), &Value::Null)
    );
    start_scrub(node).await;
    until("it is on its way", || async {
        let body = scrub(node).await?;
        let (read, total) = (body["read_bytes"].as_u64()?, body["total_bytes"].as_u64()?);
        // Before its end, and while the node serves.
        (body["running"] == true && read > 0 && total > read).then_some(())
    })
    .await;
    // Once more changes nothing.
    start_scrub(node).await;
    let after = until_clean(node, 1).await;
    let read = after["read_bytes"].as_u64().expect("a number");
    let took = after["last_took_ms"].as_u64().expect("a number");
    assert!(read > 20_000 && after["finding"].is_null(), "{after}");
    assert!(took >= (read - 65_536 / 8) * 1_000 / 65_536, "faster than it may be: {after}");
    assert_eq!(node.metric("stockroom_scrubs_total").await, Some(1.0));
    assert_eq!(node.metric("stockroom_scrub_errors_total").await, Some(0.0));
    assert_eq!(node.metric("stockroom_scrub_progress").await, Some(1.0));
    assert!(node.metric("stockroom_scrub_read_bytes_total").await.is_some_and(|bytes| bytes > 20_000.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_runs_by_itself_where_that_is_set() {
    let often = ["--scrub-interval-ms", "300"];
    let settings: Vec<&str> =
        SMALL.iter().copied().filter(|s| *s != "--scrub-interval-ms" && *s != "0").collect();
    let cluster = Cluster::of_three(&[settings.as_slice(), &often].concat()).await;
    cluster.stock_mugs(10).await;
    until("a second one", || async {
        (scrub(&cluster.nodes[1]).await?["clean"].as_u64()? >= 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_finds_damage_that_nobody_has_read_and_names_the_file() {
    let mut cluster = Cluster::of_three(SMALL).await;
    cluster.stock_mugs(10_000).await;
    let mut orders = cluster.orders("a", 400).await;
    let follower = (cluster.leader().await + 1) % 3;
    crate::backup::take(&cluster.nodes[follower], &cluster.dir.path().join("a.bak")).await;
    start_scrub(&cluster.nodes[follower]).await;
    until_clean(&cluster.nodes[follower], 1).await;

    // The snapshot file that the backup left: the next start does without it.
    let node = &mut cluster.nodes[follower];
    let snapshot = files(&node.data_dir.join("snapshot"), "snap").pop().expect("a snapshot file");
    flip(&snapshot, 0.5);
    start_scrub(node).await;
    ends_for(node, &snapshot).await;
    node.start();
    cluster.wait_until_ready().await;
    orders.extend(cluster.orders("b", 20).await);
    cluster.assert_equal().await;

    // A row that is written once.
    let node = &mut cluster.nodes[follower];
    let rows = files(&node.data_dir.join("state"), "rows")
        .into_iter()
        .max_by_key(|path| path.metadata().map_or(0, |m| m.len()));
    let rows = rows.expect("rows");
    flip(&rows, 0.5);
    start_scrub(node).await;
    ends_for(node, &rows).await;
    node.start();
    cluster.wait_until_ready().await;
    orders.extend(cluster.orders("c", 20).await);
    cluster.assert_equal().await;
    cluster.assert_kept(&orders, 10_000).await;
    cluster.assert_audits_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_is_found_while_orders_come_in_is_told_with_what_to_do() {
    let mut cluster = Cluster::of_three(SMALL).await;
    cluster.stock_mugs(10_000).await;
    let mut orders = cluster.orders("before", 100).await;
    let follower = (cluster.leader().await + 1) % 3;
    crate::backup::take(&cluster.nodes[follower], &cluster.dir.path().join("a.bak")).await;
    let snapshot = files(&cluster.nodes[follower].data_dir.join("snapshot"), "snap").pop().expect("a file");
    flip(&snapshot, 0.5);
    // The next entry to be applied ends openraft, before anybody else has looked at what the scrub found.
    let (meanwhile, ()) =
        tokio::join!(cluster.orders("meanwhile", 300), start_scrub(&cluster.nodes[follower]));
    orders.extend(meanwhile);
    ends_for(&mut cluster.nodes[follower], &snapshot).await;
    cluster.nodes[follower].start();
    cluster.wait_until_ready().await;
    cluster.assert_equal().await;
    cluster.assert_kept(&orders, 10_000).await;
}
