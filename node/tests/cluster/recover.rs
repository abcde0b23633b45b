//! A majority lost for good: what is left becomes a new cluster, and only then.

use crate::backup::{new_nodes, until_voters};
use crate::harness::{Cluster, Server, stderr, stockroom, until};
use serde_json::json;
use std::process::Output;

async fn recover(args: &[&str]) -> Output {
    stockroom(&[&["recover"], args].concat(), &[]).await
}

fn dir_of(node: &Server) -> &str {
    node.data_dir.to_str().expect("UTF-8")
}

#[track_caller]
fn refused(output: &Output, code: i32, why: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
    assert!(stderr(output).contains(why), "{why:?} is not in\n{}", stderr(output));
    assert!(stderr(output).contains("next: "), "says nothing of what to do:\n{}", stderr(output));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_nodes_becomes_a_new_cluster_that_others_join() {
    let mut cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(1_000).await;
    let mut orders = cluster.orders("before", 40).await;
    cluster.assert_equal().await;
    let leader = cluster.leader().await;
    let survivor = (leader + 1) % 3;
    let others = [leader, (leader + 2) % 3];
    let old = dir_of(&cluster.nodes[survivor]).to_owned();
    let to = cluster.dir.path().join("recovered").join(format!("node-{}", survivor + 1));
    let to = to.to_str().expect("UTF-8").to_owned();

    // As long as it runs, and as long as the others have a leader.
    refused(&recover(&[&old, "--to", &to]).await, 4, "its node runs");
    cluster.nodes[survivor].kill().await;
    refused(&recover(&[&old, "--to", &to, "--cluster-id", &cluster.id]).await, 7, "majority");
    // A majority is here, or is half here and half answers.
    cluster.nodes[others[0]].kill().await;
    let other = dir_of(&cluster.nodes[others[0]]).to_owned();
    refused(&recover(&[&old, &other, "--to", &to]).await, 7, "majority");
    refused(&recover(&[&old, "--to", &to]).await, 7, "majority");
    // Both are gone. It must be wanted.
    cluster.nodes[others[1]].kill().await;
    let plan = recover(&["--plan", &old]).await;
    let said = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(plan.status.success() && said.contains(&cluster.id) && said.contains("no answer"), "{said}");
    refused(&recover(&[&old, "--to", &to]).await, 7, "id was not given");
    refused(&recover(&[&old, "--to", &to, "--cluster-id", "0123"]).await, 7, "not the id");
    refused(&recover(&[&old, "--to", &other, "--cluster-id", &cluster.id]).await, 4, "not empty");
    let done = recover(&[&old, "--to", &to, "--cluster-id", &cluster.id]).await;
    assert!(done.status.success(), "{}", stderr(&done));
    let id = String::from_utf8_lossy(&done.stdout).lines().last().unwrap_or_default().to_owned();
    assert_ne!(id, cluster.id);

    // It serves at once, alone, under its old addresses; two others join it with empty directories.
    let dir = cluster.dir.path().join("recovered");
    let mut lost: Vec<Server> = cluster.nodes.drain(..).collect();
    let mut first = lost.remove(survivor);
    first.data_dir = to.clone().into();
    first.start();
    let peer = first.peer.clone();
    cluster.nodes.push(first);
    cluster.wait_until_ready().await;
    cluster.assert_kept(&orders, 1_000).await;
    orders.extend(cluster.orders("alone", 10).await);
    for (at, mut node) in new_nodes(&dir, 2, &["--join", &peer]).into_iter().enumerate() {
        node.id = 11 + at as u64;
        node.data_dir = dir.join(format!("joined-{at}"));
        node.start();
        cluster.nodes.push(node);
    }
    until_voters(&cluster, 3).await;
    cluster.wait_until_ready().await;
    for id in orders.keys() {
        assert_eq!(cluster.order(id).await, orders[id], "the same key hears the same answer");
    }
    // A lost node that comes back is alone, whatever it tries.
    lost[0].start();
    until("the lost node serves", || async { lost[0].get("/livez").await }).await;
    orders.extend(cluster.orders("with-a-ghost", 10).await);
    cluster.assert_kept(&orders, 1_000).await;
    cluster.assert_equal().await;
    cluster.assert_audits_clean().await;
    let (_, ghost) = until("the lost node says what it sees", || lost[0].get("/v1/cluster")).await;
    assert_eq!((&ghost["leader"], &ghost["cluster_id"]), (&json!(null), &json!(cluster.id)));
    lost[0].kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_are_left_of_five_the_one_that_goes_further_is_taken() {
    let mut cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(1_000).await;
    let peers: Vec<String> = cluster.nodes.iter().map(|node| node.peer.clone()).collect();
    let more = new_nodes(&cluster.dir.path().join("more"), 2, &["--join", &peers.join(",")]);
    for (at, mut node) in more.into_iter().enumerate() {
        node.id = 4 + at as u64;
        node.data_dir = cluster.dir.path().join(format!("more-{at}"));
        node.start();
        cluster.nodes.push(node);
    }
    until_voters(&cluster, 5).await;
    let mut orders = cluster.orders("all", 10).await;
    cluster.assert_equal().await;
    let leader = cluster.leader().await;
    let (behind, ahead) = ((leader + 1) % 5, (leader + 2) % 5);
    cluster.nodes[behind].kill().await;
    orders.extend(cluster.orders("without-the-one", 10).await);
    let ahead_index = until("the other has it all", || async {
        let mine = cluster.nodes[ahead].fingerprint().await?.0;
        let led = cluster.nodes[leader].fingerprint().await?.0;
        (mine >= led).then_some(mine)
    })
    .await;
    for at in (0..5).filter(|at| *at != behind) {
        cluster.nodes[at].kill().await;
    }
    let (behind_dir, ahead_dir) =
        (dir_of(&cluster.nodes[behind]).to_owned(), dir_of(&cluster.nodes[ahead]).to_owned());
    let to = cluster.dir.path().join("recovered");
    let to = to.to_str().expect("UTF-8");
    let done = recover(&[&behind_dir, &ahead_dir, "--to", to, "--cluster-id", &cluster.id]).await;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{}", stderr(&done));
    let chosen = format!("state of node {}, at log index", cluster.nodes[ahead].id);
    assert!(said.contains(&chosen) && said.contains("instead would lose"), "{said}");
    let mut first = cluster.nodes.remove(ahead);
    first.data_dir = to.into();
    first.start();
    cluster.nodes = vec![first];
    cluster.wait_until_ready().await;
    cluster.assert_kept(&orders, 1_000).await;
    let (index, ..) = cluster.nodes[0].fingerprint().await.expect("serves");
    assert!(index > ahead_index, "{index}");
    cluster.assert_audits_clean().await;
}
