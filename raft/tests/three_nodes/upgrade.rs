//! Programs that serve different cluster versions in one cluster. What a later program serves beside is played by an
//! option; real programs meet in `node/tests/upgrade.rs`.

use crate::support::*;
use stockroom_raft::storage::shop::version::{ClusterVersion, SERVED};
use stockroom_raft::{Cluster, RaftOptions, UpgradeError, UpgradePlan};
use stockroom_storage::shop::command::Command;

const NEXT: ClusterVersion = ClusterVersion(SERVED.newest.0 + 1);

/// A program that serves one version more.
fn later(options: &mut RaftOptions) {
    options.storage.served.newest = NEXT;
    options.version = "later".into();
}

/// One that has forgotten this one's version.
fn much_later(options: &mut RaftOptions) {
    (options.storage.served.oldest, options.storage.served.newest) = (NEXT, NEXT);
}

async fn run_program(cluster: &mut TestCluster, id: u64, program: fn(&mut RaftOptions)) {
    let node = cluster.node_mut(id);
    node.shut_down().await;
    node.configure = program;
    node.restart().await;
    cluster.leader().await;
}

fn in_force(cluster: &Cluster) -> ClusterVersion {
    cluster.reader().applied().cluster_version
}

/// What is worked out once the leader has heard all members since they started.
async fn plan(cluster: &TestCluster, on: u64) -> UpgradePlan {
    loop {
        let plan = cluster.on(on).finalize_upgrade(true, soon()).await.expect("a plan");
        if plan.members.iter().all(|member| member.answers && member.program.is_some()) {
            return plan;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn blocked(plan: &UpgradePlan) -> Vec<&str> {
    plan.blocked_by.iter().map(|concern| concern.code.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_can_be_taken_back_until_it_is_finalised() {
    let mut cluster = TestCluster::form(3, unchanged).await;
    done(&cluster.on(1), item("mug")).await;
    assert!(plan(&cluster, 2).await.already());

    run_program(&mut cluster, 3, later).await;
    run_program(&mut cluster, 2, later).await;
    done(&cluster.on(3), receive("mug", 3)).await;
    until("the plan names the node that is left", || async {
        let plan = plan(&cluster, 3).await;
        (plan.from, plan.to) == (SERVED.newest, NEXT) && blocked(&plan) == ["member_too_old"]
    })
    .await;
    for id in 1..=3 {
        match cluster.on(id).finalize_upgrade(false, soon()).await {
            Err(UpgradeError::Blocked(plan)) => {
                assert!(plan.blocked_by[0].why.contains("node 1 runs test"), "{plan:?}")
            }
            other => panic!("{other:?}"),
        }
    }

    // Back, and on again.
    run_program(&mut cluster, 2, unchanged).await;
    done(&cluster.on(2), receive("mug", 3)).await;
    cluster.agree().await;
    run_program(&mut cluster, 2, later).await;
    run_program(&mut cluster, 1, later).await;
    until("nothing stands against it", || async { plan(&cluster, 1).await.blocked_by.is_empty() }).await;
    assert_eq!(in_force(&cluster.on(1)), SERVED.newest, "to look changes nothing");
    let follower = cluster.follower().await;
    let done_as = cluster.on(follower).finalize_upgrade(false, soon()).await.expect("finalised");
    assert_eq!((done_as.from, done_as.to), (SERVED.newest, NEXT));
    cluster.agree().await;
    for node in cluster.running() {
        assert_eq!(in_force(&node.cluster()), NEXT);
    }
    assert!(cluster.on(1).finalize_upgrade(false, soon()).await.expect("again").already());

    // No way back from here.
    let node = cluster.node_mut(2);
    node.shut_down().await;
    node.configure = unchanged;
    let refused = node.try_restart().await.expect_err("too old").to_string();
    assert!(refused.contains("too old") && refused.contains("finalised"), "{refused}");
    node.configure = later;
    node.restart().await;
    done(&cluster.on(2), receive("mug", 3)).await;
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cluster_begins_with_what_its_founders_serve_and_takes_in_nobody_who_does_not() {
    let mut cluster = TestCluster::form(3, later).await;
    until("the newest version is in force", || async { (1..=3).all(|id| in_force(&cluster.on(id)) == NEXT) })
        .await;
    let join: Vec<String> = listed(&cluster.nodes).into_iter().map(|(_, address)| address).collect();
    let old = Node::start(4, join.clone(), unchanged).await;
    let why = old.stopped().await;
    assert!(why.contains("node 4 cannot come in") && why.contains("too old"), "{why}");
    let seen = cluster
        .nodes
        .iter()
        .flat_map(|node| node.cluster().status().turned_away)
        .find(|one| one.node_id == 4);
    assert_eq!(seen.expect("it is remembered").why, why);
    cluster.nodes.push(Node::start(5, join, later).await);
    done(&cluster.node(5).member().await, item("mug")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_begins_with_a_later_version_is_not_taken_in() {
    let cluster = TestCluster::form(1, unchanged).await;
    let join = listed(&cluster.nodes).into_iter().map(|(_, address)| address).collect();
    let why = Node::start(2, join, much_later).await.stopped().await;
    assert!(why.contains("too new") && why.contains("step by step"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_too_old_is_told_so_and_loses_nothing() {
    let mut cluster = TestCluster::form(3, unchanged).await;
    for id in 1..=3 {
        run_program(&mut cluster, id, later).await;
    }
    done(&cluster.on(1), item("mug")).await;
    let away = cluster.follower().await;
    cluster.node_mut(away).shut_down().await;
    // As if it had been there when all members were looked at.
    let leader = cluster.leader().await;
    done(&cluster.on(leader), Command::RaiseClusterVersion(NEXT)).await;
    let node = cluster.node_mut(away);
    node.configure = unchanged;
    node.restart().await;
    let why = node.stopped().await;
    assert!(why.contains("too old"), "{why}");
    node.halt().await;
    node.configure = later;
    node.restart().await;
    done(&cluster.on(away), receive("mug", 3)).await;
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_waits_for_a_member_that_does_not_answer() {
    let mut cluster = TestCluster::form(3, unchanged).await;
    for id in 1..=3 {
        run_program(&mut cluster, id, later).await;
    }
    let silent = cluster.follower().await;
    cluster.node_mut(silent).halt().await;
    until("its silence stands against it", || async {
        let plan = cluster.on(cluster.leader().await).finalize_upgrade(true, soon()).await.expect("a plan");
        blocked(&plan) == ["member_unreachable"]
    })
    .await;
    let leader = cluster.leader().await;
    let refused = cluster.on(leader).finalize_upgrade(false, soon()).await;
    assert!(matches!(refused, Err(UpgradeError::Blocked(_))), "{refused:?}");
    assert_eq!(in_force(&cluster.on(leader)), SERVED.newest);
}
