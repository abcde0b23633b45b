//! Forming, changing and leading a cluster, as an operator does it: real processes, over HTTP.

use crate::harness::{Cluster, Server, alone, free_ports, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tempfile::TempDir;

/// Three nodes that are started with one list, and not yet started.
struct Listed {
    nodes: Vec<Server>,
    _dir: TempDir,
}

fn listed() -> Listed {
    let dir = tempfile::tempdir().expect("a directory");
    let port = free_ports(6);
    let list: Vec<String> = (0..3).map(|at| format!("{}=127.0.0.1:{}", at + 1, port + 3 + at)).collect();
    let list = list.join(",");
    let nodes = (0..3)
        .map(|at| {
            let settings = ["--initial-cluster", list.as_str()];
            Server::new(u64::from(at) + 1, dir.path(), port + at, port + 3 + at, &settings)
        })
        .collect();
    Listed { nodes, _dir: dir }
}

/// Waits until all have one leader, and answers the ids of the clusters that they are members of.
async fn clusters(nodes: &[Server]) -> BTreeSet<String> {
    until("all are ready", || async {
        let mut ids = BTreeSet::new();
        for node in nodes {
            let (status, body) = node.get("/v1/cluster").await?;
            (status == 200 && body["leader"].is_u64() && body["members"].as_array()?.len() == 3)
                .then_some(())?;
            ids.insert(body["cluster_id"].as_str()?.to_owned());
        }
        Some(ids)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_one_list_form_one_cluster_and_a_wiped_one_does_not_form_another() {
    let _alone = alone().await;
    let mut cluster = listed();
    cluster.nodes[0].start();
    let says = "waiting for all nodes of the initial cluster";
    until("it waits", || async { cluster.nodes[0].log().contains(says).then_some(()) }).await;
    let (status, body) = until("it answers", || cluster.nodes[0].get("/v1/items")).await;
    assert_eq!((status, body["code"].as_str()), (503, Some("not_a_member")), "{body}");
    cluster.nodes[1].start();
    until("it waits, too", || async { cluster.nodes[1].log().contains(says).then_some(()) }).await;
    // One goes away in the middle.
    cluster.nodes[0].kill().await;
    cluster.nodes[2].start();
    cluster.nodes[0].start();
    let ids = clusters(&cluster.nodes).await;
    assert_eq!(ids.len(), 1, "{ids:?}");
    // Started again, also all at once, they are what they were.
    for node in &mut cluster.nodes {
        node.kill().await;
    }
    cluster.nodes.iter_mut().for_each(Server::start);
    assert_eq!(clusters(&cluster.nodes).await, ids);
    // A wiped one finds the cluster formed without this disk, and forms none, alone or with another wiped one.
    let mut wiped: Vec<Server> = cluster.nodes.drain(..2).collect();
    for node in &mut wiped {
        node.kill().await;
        std::fs::remove_dir_all(&node.data_dir).expect("its directory");
        node.start();
    }
    for node in &mut wiped {
        let code = node.ended().await;
        let log = node.log();
        assert_eq!(code, Some(3), "{log}");
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains("new id") && last.contains("empty data directory"), "{log}");
    }
    let (_, body) = until("the third answers", || cluster.nodes[0].get("/v1/cluster")).await;
    assert!(ids.contains(body["cluster_id"].as_str().unwrap_or_default()), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_killed_while_they_form_a_cluster_form_one() {
    let _alone = alone().await;
    let mut cluster = listed();
    cluster.nodes.iter_mut().for_each(Server::start);
    // Wherever each of them stands: waiting, half prepared, or a member.
    for (round, pause_ms) in [150, 250, 350, 500, 700].into_iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        cluster.nodes[round % 3].kill().await;
        cluster.nodes[round % 3].start();
    }
    let ids = clusters(&cluster.nodes).await;
    assert_eq!(ids.len(), 1, "{ids:?}");
}

async fn post(cluster: &Cluster, node: usize, path: &str, body: Value) -> (u16, Value) {
    until(path, || cluster.nodes[node].post(path, None, &body)).await
}

async fn voters(cluster: &Cluster, node: usize) -> Vec<u64> {
    let (_, body) = until("the members", || cluster.nodes[node].get("/v1/cluster")).await;
    let members = body["members"].as_array().expect("members").iter();
    members.filter(|member| member["role"] == "voter").filter_map(|member| member["id"].as_u64()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_replaced_and_a_live_one_is_not_removed_by_mistake() {
    let mut cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(1_000).await;
    let mut orders = cluster.orders("before", 20).await;
    let leader = cluster.leader().await;
    let (dead, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let dead_id = cluster.nodes[dead].id;
    // As long as all live: shown, and refused, and nothing changed.
    let remove = format!("/v1/cluster/members/{dead_id}/remove");
    let plan = |id: u64| format!("/v1/cluster/members/{id}/plan");
    let shown = until("all are heard of", || async {
        let shown = cluster.nodes[other].post(&plan(dead_id), None, &json!({"change": "remove"})).await?;
        (shown.1["before"]["live"] == 3).then_some(shown)
    })
    .await;
    assert_eq!((shown.0, &shown.1["before"]["fault_tolerance"]), (200, &json!(1)), "{}", shown.1);
    assert_eq!(shown.1["after"]["fault_tolerance"], json!(0));
    let (status, refused) = post(&cluster, other, &remove, json!({})).await;
    assert_eq!((status, refused["code"].as_str()), (409, Some("unsafe_change")), "{refused}");
    assert_eq!(refused["definite"], true);
    assert_eq!(voters(&cluster, leader).await.len(), 3);

    cluster.nodes[dead].kill().await;
    // The other live one may not go now, by no force.
    let other_id = cluster.nodes[other].id;
    let remove_other = format!("/v1/cluster/members/{other_id}/remove");
    until("the leader misses the dead one", || async {
        let body = json!({"change": "remove"});
        let (_, plan) = cluster.nodes[leader].post(&plan(other_id), None, &body).await?;
        (plan["before"]["live"] == 2).then_some(())
    })
    .await;
    let (status, refused) = post(&cluster, other, &remove_other, json!({"force": true})).await;
    assert_eq!((status, &refused["plan"]["unsafe"][0]["code"]), (409, &json!("loses_quorum")), "{refused}");

    // A new node comes in, with what the plan says.
    let (status, add) = post(&cluster, other, &plan(4), json!({"change": "add"})).await;
    assert_eq!((status, &add["unsafe"]), (200, &json!([])), "{add}");
    let join: Vec<&str> = add["join"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(join.len(), 2, "{add}");
    let port = free_ports(2);
    let mut new = Server::new(4, cluster.dir.path(), port, port + 1, &["--join", &join.join(",")]);
    new.start();
    let gone = cluster.nodes.remove(dead);
    cluster.nodes.push(new);
    until("it votes", || async { voters(&cluster, 0).await.contains(&4).then_some(()) }).await;
    let (status, removed) = post(&cluster, 1, &remove, json!({})).await;
    assert_eq!((status, &removed["done"]), (200, &json!(true)), "{removed}");
    let (status, again) = post(&cluster, 1, &remove, json!({})).await;
    assert_eq!((status, again["code"].as_str()), (404, Some("member_not_found")), "{again}");
    orders.extend(cluster.orders("after", 20).await);
    cluster.wait_until_ready().await;
    cluster.assert_equal().await;
    cluster.assert_kept(&orders, 1_000).await;

    // The old one, should it come back, is told.
    let mut gone = gone;
    gone.start();
    let code = gone.ended().await;
    let log = gone.log();
    assert!(code == Some(3) && log.lines().last().unwrap_or_default().contains("was removed"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_on_request_and_a_moved_node_comes_back() {
    let mut cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(1_000).await;
    let orders = cluster.orders("before", 20).await;
    let leader = cluster.leader().await;
    let (asked, to) = ((leader + 1) % 3, (leader + 2) % 3);
    let body = json!({"to": cluster.nodes[to].id});
    let (status, moved) = until("it is handed over", || async {
        let answer = cluster.nodes[asked].post("/v1/cluster/leader/transfer", None, &body).await?;
        // Shortly after the start the leader may not have heard of all.
        (answer.1["code"] != "transfer_refused").then_some(answer)
    })
    .await;
    assert_eq!((status, moved["leader"].as_u64()), (200, Some(cluster.nodes[to].id)), "{moved}");
    assert_eq!(cluster.leader().await, to);
    let (status, refused) = post(&cluster, asked, "/v1/cluster/leader/transfer", json!({"to": 99})).await;
    assert_eq!((status, refused["code"].as_str()), (409, Some("transfer_refused")), "{refused}");

    // All three move to other machines at once: only they know where each of them is now, from the list of old and new
    // addresses that they are started with.
    let port = free_ports(6);
    let (http, peer) =
        (|at: u16| format!("127.0.0.1:{}", port + at), |at: u16| format!("127.0.0.1:{}", port + 3 + at));
    let hints: Vec<String> = (0..3).map(peer).collect();
    for node in &mut cluster.nodes {
        assert_eq!(node.terminate().await, Some(0), "{}", node.log());
    }
    for (at, node) in (0..).zip(&mut cluster.nodes) {
        (node.http, node.peer) = (http(at), peer(at));
        node.add_setting("--join", &hints.join(","));
        node.start();
    }
    cluster.leader().await;
    until("the members are where they are", || async {
        let (_, body) = cluster.nodes[0].get("/v1/cluster").await?;
        let members = body["members"].as_array()?;
        let at = |member: &Value| {
            cluster.nodes.iter().any(|node| {
                member["peer_address"] == node.peer.as_str() && member["http_address"] == node.http.as_str()
            })
        };
        members.iter().all(at).then_some(())
    })
    .await;
    cluster.wait_until_ready().await;
    cluster.assert_kept(&orders, 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_change_of_the_members_is_made_at_a_time() {
    let mut cluster = Cluster::of_three(&[]).await;
    let force = json!({"force": true});
    let path = |node: &Server, change: &str| format!("/v1/cluster/members/{}/{change}", node.id);
    let refused = until("a change is refused while another one is under way", || async {
        let leader = &cluster.nodes[cluster.leader().await];
        for node in &cluster.nodes {
            let path = path(node, "promote");
            until("all vote", || async {
                leader.post(&path, None, &force).await.filter(|(status, _)| *status == 200)
            })
            .await;
        }
        let followers: Vec<&Server> = cluster.nodes.iter().filter(|node| node.id != leader.id).collect();
        // A change that no majority has agreed to is not complete: both followers stand still for that long, which is
        // less than a leader waits for them.
        followers.iter().for_each(|node| node.signal(Signal::STOP));
        let paths = [path(followers[0], "demote"), path(followers[1], "demote")];
        let (first, second) = tokio::join!(leader.ask_within(&paths[0], &force, 5_000), async {
            // So that the first is under way, as a rule; what follows holds in either order.
            tokio::time::sleep(Duration::from_millis(150)).await;
            let second = leader.ask_within(&paths[1], &force, 300).await;
            followers.iter().for_each(|node| node.signal(Signal::CONT));
            second
        });
        // It is agreed to once they go on; on a busy machine another one may lead by then, or the second came first.
        let (first, second) = (first?, second?);
        (first.0 == 200 && second.1["code"] == "change_in_progress").then_some(second)
    })
    .await;
    assert_eq!(
        (refused.0, &refused.1["definite"], &refused.1["retryable"]),
        (409, &json!(true), &json!(true))
    );
    // It was not done: one of three votes no more, not two.
    cluster.wait_until_ready().await;
    assert_eq!(voters(&cluster, cluster.leader().await).await.len(), 2);
    for node in &mut cluster.nodes {
        assert_eq!(node.terminate().await, Some(0), "{}", node.log());
    }
}
