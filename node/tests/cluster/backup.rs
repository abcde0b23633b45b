//! Backups of a cluster that serves, and new clusters out of them.

use crate::harness::{Cluster, Orders, Server, free_ports, stderr, stockroom, until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Output;

/// Takes a backup of a node, as `stockctl backup create` does.
pub async fn take(node: &Server, to: &Path) {
    let answer = get(node, "/v1/admin/backup", &[]).await;
    assert_eq!(answer.status(), 200);
    std::fs::write(to, answer.bytes().await.expect("all of it")).expect("room");
}

async fn get(node: &Server, path: &str, headers: &[(&'static str, &str)]) -> reqwest::Response {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let request = client.get(format!("http://{}{path}", node.http));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.send().await.expect("an answer")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

async fn verify(file: &Path) -> Output {
    stockroom(&["verify", text(file)], &[]).await
}

/// Nodes of a new cluster with data directories below `dir`, none of them made yet.
pub fn new_nodes(dir: &Path, count: u16, settings: &[&str]) -> Vec<Server> {
    std::fs::create_dir_all(dir).expect("room");
    let port = free_ports(2 * count);
    (0..count).map(|at| Server::new(u64::from(at) + 1, dir, port + at, port + count + at, settings)).collect()
}

/// `stockroom restore` of `file` for these nodes.
pub async fn restore(file: &Path, nodes: &[Server]) -> Output {
    let members: Vec<_> =
        nodes.iter().map(|node| format!("{}={},{}", node.id, node.peer, node.http)).collect();
    let mut args = vec!["restore", text(file)];
    for (node, member) in nodes.iter().zip(&members) {
        args.extend(["--dir", text(&node.data_dir), "--member", member]);
    }
    stockroom(&args, &[]).await
}

/// Kills the cluster and goes on with a restored one.
async fn go_on_with(cluster: &mut Cluster, mut nodes: Vec<Server>) {
    futures::future::join_all(cluster.nodes.iter_mut().map(Server::kill)).await;
    nodes.iter_mut().for_each(Server::start);
    cluster.nodes = nodes;
    cluster.wait_until_ready().await;
}

async fn placed(cluster: &Cluster) -> u64 {
    let (_, stock) = until("the stock", || cluster.nodes[0].get("/v1/stock/mug")).await;
    stock["allocated"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_taken_under_load_becomes_a_cluster_that_keeps_what_was_acknowledged() {
    let mut cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(1_000).await;
    let before = cluster.orders("before", 60).await;
    let hold = json!({"id": "hold", "ttl_ms": 86_400_000, "lines": [{"sku": "mug", "quantity": 7}]});
    assert_eq!(cluster.write("hold", "/v1/reservations", &hold).await.0, 201);
    let made = cluster.write("made", "/v1/orders", &json!({"lines": [{"sku": "mug", "quantity": 1}]})).await;
    let session = get(&cluster.nodes[0], "/v1/items/mug", &[]).await.headers()["stockroom-session"].clone();
    let follower = (cluster.leader().await + 1) % 3;
    let dir = cluster.dir.path().to_owned();
    let file = dir.join("under-load.bak");
    let (meanwhile, ()) =
        tokio::join!(cluster.orders("meanwhile", 60), take(&cluster.nodes[follower], &file));

    let verified = verify(&file).await;
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success() && said.contains("clean"), "{said}{}", stderr(&verified));

    let nodes = new_nodes(&dir.join("restored"), 3, &[]);
    let restored = restore(&file, &nodes).await;
    assert!(restored.status.success(), "{}", stderr(&restored));
    let id = String::from_utf8_lossy(&restored.stdout).trim().to_owned();
    assert_ne!(id, cluster.id, "a cluster of its own");
    go_on_with(&mut cluster, nodes).await;

    // All that was acknowledged before the backup began, as it was; of what came meanwhile, all or nothing.
    for (order, acknowledged) in &before {
        assert_eq!(cluster.order(order).await, *acknowledged, "the same key hears the same answer");
    }
    assert_eq!(
        cluster.write("made", "/v1/orders", &json!({"lines": [{"sku": "mug", "quantity": 1}]})).await,
        made
    );
    let mut kept = 0;
    for (order, acknowledged) in &meanwhile {
        let path = format!("/v1/orders/{order}");
        let (status, body) = until(&path, || cluster.nodes[0].get(&path)).await;
        assert!(status == 404 || body == *acknowledged, "{order}: {status} {body}");
        kept += u64::from(status == 200);
    }
    assert_eq!(placed(&cluster).await, 60 + 1 + kept);
    let (_, stock) = until("the stock", || cluster.nodes[1].get("/v1/stock/mug")).await;
    assert_eq!([&stock["on_hand"], &stock["reserved"]], [&json!(1_000), &json!(7)]);

    // Nothing of the old cluster is taken for part of the new one.
    let refused = get(
        &cluster.nodes[0],
        "/v1/items/mug",
        &[("Stockroom-Consistency", "session"), ("Stockroom-Session", session.to_str().expect("ASCII"))],
    )
    .await;
    assert_eq!(refused.status(), 400);
    let again = cluster.bootstrap().await;
    assert!(again.status.success(), "{}", stderr(&again));
    assert_eq!(String::from_utf8_lossy(&again.stdout).trim(), id, "formed already");

    // It is a whole cluster: an order made by it has an id that the old one cannot have made, and one node may die.
    let new = cluster.write("new", "/v1/orders", &json!({"lines": [{"sku": "mug", "quantity": 1}]})).await.1;
    assert!(new["id"].as_str() > made.1["id"].as_str(), "{new} after {made:?}");
    cluster.assert_equal().await;
    cluster.assert_audits_clean().await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill().await;
    cluster.orders("without", 5).await;
    cluster.nodes[leader].start();
    cluster.wait_until_ready().await;
    cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_was_cut_or_changed_is_found_out_and_never_restored() {
    let cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(100).await;
    cluster.orders("some", 20).await;
    let dir = cluster.dir.path().to_owned();
    let good = dir.join("good.bak");
    take(&cluster.nodes[0], &good).await;
    let bytes = std::fs::read(&good).expect("written");
    let header = 20 + usize::from(bytes[8]) + 256 * usize::from(bytes[9]);
    for (name, bad) in [
        ("empty", Vec::new()),
        ("in-header", bytes[..header / 2].to_vec()),
        ("in-block", bytes[..header + 100].to_vec()),
        ("without-end", bytes[..bytes.len() - 1].to_vec()),
        ("flipped-header", flipped(&bytes, header - 5)),
        ("flipped-block", flipped(&bytes, header + 60)),
        ("flipped-end", flipped(&bytes, bytes.len() - 1)),
        ("longer", [&bytes[..], b"x"].concat()),
    ] {
        let file = dir.join(name);
        std::fs::write(&file, bad).expect("room");
        let verified = verify(&file).await;
        assert_eq!(verified.status.code(), Some(8), "{name}: {}", stderr(&verified));
        let nodes = new_nodes(&dir.join(format!("from-{name}")), 1, &[]);
        let restored = restore(&file, &nodes).await;
        assert_eq!(restored.status.code(), Some(8), "{name}: {}", stderr(&restored));
        assert!(!nodes[0].data_dir.join("identity").exists(), "{name} made a node");
    }
    let missing = verify(&dir.join("nowhere.bak")).await;
    assert_eq!(missing.status.code(), Some(5), "{}", stderr(&missing));
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 0x10;
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_needs_empty_directories_and_touches_nothing_else() {
    let cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(10).await;
    let dir = cluster.dir.path().to_owned();
    let file = dir.join("some.bak");
    take(&cluster.nodes[0], &file).await;

    // A directory that is in use, and one that has anything in it.
    let nodes = new_nodes(&dir, 1, &[]);
    let refused = restore(&file, &nodes).await;
    assert_eq!(refused.status.code(), Some(4), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("is not empty"), "{}", stderr(&refused));
    let mut nodes = new_nodes(&dir.join("other"), 2, &[]);
    std::fs::create_dir_all(&nodes[1].data_dir).expect("room");
    std::fs::write(nodes[1].data_dir.join("mine"), "kept").expect("room");
    let refused = restore(&file, &nodes).await;
    assert_eq!(refused.status.code(), Some(4), "{}", stderr(&refused));
    assert!(!nodes[0].data_dir.join("snapshot").exists(), "half a cluster was left");
    assert_eq!(std::fs::read_to_string(nodes[1].data_dir.join("mine")).expect("still there"), "kept");

    // As many directories as members.
    let dirs: Vec<PathBuf> = nodes.drain(..).map(|node| node.data_dir).collect();
    let output = stockroom(&["restore", text(&file), "--dir", text(&dirs[0])], &[]).await;
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("--member"), "{}", stderr(&output));
    cluster.assert_kept(&Orders::new(), 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_restored_node_is_joined_by_others() {
    let mut cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(100).await;
    let orders = cluster.orders("before", 20).await;
    let dir = cluster.dir.path().to_owned();
    let file = dir.join("some.bak");
    take(&cluster.nodes[2], &file).await;
    let mut nodes = new_nodes(&dir.join("restored"), 3, &[]);
    let restored = restore(&file, &nodes[..1]).await;
    assert!(restored.status.success(), "{}", stderr(&restored));
    let first = nodes[0].peer.clone();
    nodes[1..].iter_mut().for_each(|node| node.add_setting("--join", &first));
    go_on_with(&mut cluster, nodes).await;
    until_voters(&cluster, 3).await;
    cluster.assert_kept(&orders, 100).await;
    cluster.assert_equal().await;
    cluster.assert_audits_clean().await;
}

/// Waits until the cluster has this many voters.
pub async fn until_voters(cluster: &Cluster, count: usize) {
    until("all are voters", || async {
        let (_, body) = cluster.nodes[0].get("/v1/cluster").await?;
        let members: &Vec<Value> = body["members"].as_array()?;
        (members.iter().filter(|member| member["role"] == "voter").count() == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_quorum_still_gives_what_it_has() {
    let mut cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(100).await;
    let orders = cluster.orders("before", 20).await;
    cluster.assert_equal().await;
    cluster.nodes[0].kill().await;
    cluster.nodes[1].kill().await;
    let left = &cluster.nodes[2];
    let refused = get(left, "/v1/admin/backup", &[("Stockroom-Timeout-Ms", "300")]).await;
    assert_eq!(refused.status(), 503, "whether it is the newest is not known");
    let file = cluster.dir.path().join("left.bak");
    let answer = get(left, "/v1/admin/backup", &[("Stockroom-Consistency", "stale")]).await;
    assert_eq!(answer.status(), 200);
    std::fs::write(&file, answer.bytes().await.expect("all of it")).expect("room");
    let output = stockroom(&["verify", "--json", text(&file)], &[]).await;
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&said["verdict"], &said["checked"]["orders"]), (&json!("clean"), &json!(orders.len())));
}

/// Takes what was applied behind `after`, as `stockctl backup archive` does; how far it goes.
async fn archive(node: &Server, after: u64, dir: &Path) -> u64 {
    let answer = get(node, &format!("/v1/admin/log?after={after}"), &[]).await;
    assert_eq!(answer.status(), 200);
    let last =
        answer.headers()["stockroom-applied-index"].to_str().expect("ASCII").parse().expect("an index");
    let name = dir.join(format!("{after:012}.stklog"));
    std::fs::write(name, answer.bytes().await.expect("all of it")).expect("room");
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_log_beside_it_a_backup_gives_any_point_in_time() {
    let mut cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(1_000).await;
    cluster.orders("before", 20).await;
    let dir = cluster.dir.path().to_owned();
    let file = dir.join("some.bak");
    let answer = get(&cluster.nodes[0], "/v1/admin/backup", &[]).await;
    let start: u64 =
        answer.headers()["stockroom-applied-index"].to_str().expect("ASCII").parse().expect("an index");
    std::fs::write(&file, answer.bytes().await.expect("all of it")).expect("room");
    let log = dir.join("log");
    std::fs::create_dir_all(&log).expect("room");

    // Three pieces, from three nodes; the point is inside the second.
    cluster.orders("first", 10).await;
    let first = archive(&cluster.nodes[0], start, &log).await;
    let last_wanted = cluster.order("wanted").await;
    let point = last_wanted["log_index"].as_u64().expect("an index");
    let moment = last_wanted["created_at"].as_str().expect("a time").to_owned();
    // On the replicated clock, too, what comes now is later.
    until("the clock goes on", || async {
        let (_, body) = cluster.nodes[0].get("/v1/orders?limit=1000").await?;
        let (status, made) = cluster
            .write("probe", "/v1/stock/adjust", &json!({"sku": "mug", "delta": 1, "reason": "x"}))
            .await;
        assert!(status == 200 && body["items"].is_array(), "{made}");
        Some(())
    })
    .await;
    cluster.orders("unwanted", 10).await;
    let second = archive(&cluster.nodes[1], first, &log).await;
    cluster.orders("last", 5).await;
    let third = archive(&cluster.nodes[2], second, &log).await;
    assert!(start < first && first < point && point < second && second < third);
    let (_, digest, _) = cluster.assert_equal().await;
    assert!(!digest.is_empty());
    futures::future::join_all(cluster.nodes.iter_mut().map(Server::kill)).await;

    let (file, log) = (text(&file).to_owned(), text(&log).to_owned());
    let to_index = point.to_string();
    for (name, more, orders) in [
        ("all", vec![], 20 + 10 + 1 + 10 + 5),
        ("to-index", vec!["--to-index", &to_index], 20 + 10 + 1),
        ("to-time", vec!["--to-time", &moment], 20 + 10 + 1),
    ] {
        let mut node = new_nodes(&dir.join(name), 1, &[]).remove(0);
        let member = format!("1={},{}", node.peer, node.http);
        let data = text(&node.data_dir).to_owned();
        let args = ["restore", &file, "--archive", &log, "--dir", &data, "--member", &member];
        let output = stockroom(&[&args[..], &more[..]].concat(), &[]).await;
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        node.start();
        until("the restored node is ready", || async { node.is_ready().await.then_some(()) }).await;
        let (_, listed) = until("the orders", || node.get("/v1/orders?limit=1000")).await;
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(orders), "{name}");
        let (status, wanted) = until("the order", || node.get("/v1/orders/wanted")).await;
        assert_eq!((status, &wanted), (200, &last_wanted), "{name}");
        node.kill().await;
    }

    // What cannot be reached is said, and nothing is made.
    let node = &new_nodes(&dir.join("never"), 1, &[])[0];
    let member = format!("1={},{}", node.peer, node.http);
    let args = ["restore", &file, "--archive", &log, "--dir", text(&node.data_dir), "--member", &member];
    for (more, why) in [
        (["--to-index", "999999"], "ends with entry"),
        (["--to-index", "1"], "which is after it"),
        (["--to-time", "2099-01-01T00:00:00Z"], "ends with entry"),
    ] {
        let output = stockroom(&[&args[..], &more[..]].concat(), &[]).await;
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
    }
    std::fs::remove_file(Path::new(&log).join(format!("{first:012}.stklog"))).expect("there");
    let output = stockroom(&args, &[]).await;
    assert!(!output.status.success() && stderr(&output).contains("are missing"), "{}", stderr(&output));
    assert!(!node.data_dir.exists(), "a node was made");
}
