//! A cluster is formed exactly once.

use crate::support::*;
use stockroom_raft::{BootstrapError, Phase, bootstrap};
use tokio::time::Instant;

async fn waiting(count: u64) -> Vec<Node> {
    let mut nodes = Vec::new();
    for id in 1..=count {
        nodes.push(Node::start(id, Vec::new(), unchanged).await);
    }
    nodes
}

fn waits(node: &Node) -> bool {
    matches!(*node.running().phase.borrow(), Phase::WaitingForBootstrap)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_bootstrap_of_the_same_nodes_changes_nothing() {
    let cluster = TestCluster::form(3, unchanged).await;
    assert!(!cluster.formed.already);
    done(&cluster.on(1), item("mug")).await;
    let again = bootstrap(&listed(&cluster.nodes), soon()).await.expect("the same answer");
    assert_eq!((again.cluster_id, again.already), (cluster.formed.cluster_id, true));
    assert!(cluster.on(2).status().members.len() == 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_of_other_nodes_is_refused_by_name_and_touches_none() {
    let cluster = TestCluster::form(1, unchanged).await;
    let fresh = Node::start(2, Vec::new(), unchanged).await;
    let list = vec![(1, cluster.nodes[0].address.to_string()), (2, fresh.address.to_string())];
    match bootstrap(&list, soon()).await {
        Err(BootstrapError::Refused { node_id: 1, why, .. }) => {
            assert!(why.contains("member of cluster"), "{why}")
        }
        other => panic!("{other:?}"),
    }
    assert!(waits(&fresh), "node 2 must be untouched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_asks_all_before_it_touches_one() {
    let nodes = waiting(2).await;
    let mut list = listed(&nodes);
    // Nobody listens there.
    let unused =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    list.push((3, unused.to_string()));
    let short = Instant::now() + std::time::Duration::from_secs(1);
    match bootstrap(&list, short).await {
        Err(BootstrapError::Unreachable { node_id: 3, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(nodes.iter().all(waits));
    list.pop();
    list[1].0 = 7;
    match bootstrap(&list, soon()).await {
        Err(BootstrapError::Refused { node_id: 7, why, .. }) => assert!(why.contains("has id 2"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(nodes.iter().all(waits));
    assert!(matches!(bootstrap(&[], soon()).await, Err(BootstrapError::List(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bootstraps_at_once_form_one_cluster() {
    let nodes = waiting(3).await;
    let list = listed(&nodes);
    let runs = (0..4).map(|_| {
        let list = list.clone();
        tokio::spawn(async move { bootstrap(&list, soon()).await })
    });
    let mut formed = Vec::new();
    for run in futures::future::join_all(runs).await {
        formed.push(run.expect("no panic").expect("they agree"));
    }
    assert!(formed.iter().all(|one| one.cluster_id == formed[0].cluster_id), "{formed:?}");
    assert_eq!(formed.iter().filter(|one| !one.already).count(), 1, "{formed:?}");
    let cluster = TestCluster { nodes, formed: formed[0] };
    cluster.leader().await;
    done(&cluster.on(3), item("mug")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_goes_on_where_an_earlier_one_broke_off() {
    let mut nodes = waiting(3).await;
    let formed = bootstrap(&listed(&nodes), soon()).await.expect("it forms");
    // As if it had been interrupted before node 3 heard of it, and before node 1 began: nothing
    // but the parts that were stored, on disks that never saw Raft.
    for node in &mut nodes {
        node.halt().await;
        for name in ["log", "state", "snapshot"] {
            let _ = std::fs::remove_dir_all(node.dir.join(name));
        }
    }
    for name in ["identity", "formation"] {
        std::fs::remove_file(nodes[2].dir.join(name)).expect("it is there");
    }
    for node in &mut nodes {
        node.restart().await;
    }
    assert!(waits(&nodes[2]) && !waits(&nodes[0]));
    let resumed = bootstrap(&listed(&nodes), soon()).await.expect("it goes on");
    assert_eq!((resumed.cluster_id, resumed.already), (formed.cluster_id, false));
    let cluster = TestCluster { nodes, formed };
    cluster.leader().await;
    done(&cluster.on(3), item("mug")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_of_another_node_is_refused_at_the_start() {
    let mut cluster = TestCluster::form(1, unchanged).await;
    cluster.nodes[0].halt().await;
    cluster.nodes[0].id = 9;
    let why = cluster.nodes[0].try_restart().await.expect_err("it must not start").to_string();
    assert!(why.contains("belongs to node 1"), "{why}");
}
