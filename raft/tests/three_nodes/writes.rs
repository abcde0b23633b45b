//! Writes and reads, while all is well and while nodes are lost.

use crate::support::*;
use futures::future::BoxFuture;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use stockroom_raft::{Cluster, Connect, PeerIo, ProposeError, RaftOptions, ReadError, Role};
use stockroom_storage::shop::command::Command;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_on_any_node_is_decided_by_the_leader_and_readable_everywhere() {
    let cluster = TestCluster::form(3, unchanged).await;
    let leader = cluster.leader().await;
    for id in 1..=3 {
        let served = done(&cluster.on(id), item(&format!("mug-{id}"))).await;
        assert_eq!(served.node_id, leader);
        for reader in 1..=3 {
            let shown = cluster.on(reader).read_index(soon()).await.expect("a read index");
            assert!(shown >= served.answer.log_index, "node {reader} shows {shown}");
            let view = cluster.on(reader);
            let view = view.reader().view().expect("a view");
            assert!(view.item(&sku(&format!("mug-{id}"))).expect("readable").is_some());
        }
    }
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_proposals_share_an_entry_and_each_hears_its_own_answer() {
    let cluster = TestCluster::form(3, unchanged).await;
    let follower = cluster.on(cluster.follower().await);
    let before = done(&follower, item("mug")).await.answer.log_index;
    let proposals = (0..2_000).map(|n| proposal(item(&format!("sku-{n}")))).collect();
    let answers = follower.propose_all(proposals, soon()).await;
    let mut last = 0;
    for (n, answer) in answers.into_iter().enumerate() {
        let answer = answer.expect("an answer").answer;
        let Ok(stockroom_storage::shop::effect::Reply::Item { item, .. }) = answer.outcome else {
            panic!("{n}: {:?}", answer.outcome);
        };
        assert_eq!(item.sku, sku(&format!("sku-{n}")));
        last = last.max(answer.log_index);
    }
    assert!(last - before <= 100, "2,000 proposals took {} entries", last - before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_leader_is_lost_nothing_acknowledged_is_missing() {
    let mut cluster = TestCluster::form(3, unchanged).await;
    done(&cluster.on(1), item("mug")).await;
    done(&cluster.on(1), receive("mug", 1_000)).await;
    let mut placed = Vec::new();
    for round in 0..3 {
        let leader = cluster.leader().await;
        let survivor = cluster.follower().await;
        for n in 0..20 {
            let id = format!("order-{round}-{n}");
            if n == 10 {
                cluster.node_mut(leader).halt().await;
            }
            insist(|| cluster.on(survivor), order(&id, "mug", 1)).await.expect("the shop agrees");
            placed.push(id);
        }
        cluster.node_mut(leader).restart().await;
        cluster.agree().await;
    }
    let view = cluster.on(1);
    view.read_index(soon()).await.expect("a read index");
    let view = view.reader().view().expect("a view");
    for id in &placed {
        assert!(view.order(&order_name(id)).expect("readable").is_some(), "{id} is missing");
    }
    let stock = view.stock(&sku("mug")).expect("readable");
    assert_eq!(stock[0].counters.allocated, placed.len() as u64, "an order counted twice, or not at all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_outage_loses_nothing_acknowledged() {
    let mut cluster = TestCluster::form(3, unchanged).await;
    done(&cluster.on(1), item("mug")).await;
    let clock = cluster.on(1).reader().applied().clock;
    for id in 1..=3 {
        cluster.node_mut(id).halt().await;
    }
    for id in 1..=3 {
        cluster.node_mut(id).restart().await;
    }
    cluster.leader().await;
    let on = cluster.on(2);
    on.read_index(soon()).await.expect("a read index");
    assert!(on.reader().view().expect("a view").item(&sku("mug")).expect("readable").is_some());
    let served = done(&on, receive("mug", 3)).await;
    assert!(served.answer.log_index > 0 && on.reader().applied().clock >= clock, "the clock went back");
    cluster.agree().await;
}

// On one thread nothing runs between the start and the look.
#[tokio::test]
async fn a_node_knows_its_term_from_the_moment_it_runs() {
    let mut cluster = TestCluster::form(1, unchanged).await;
    let before = cluster.on(1).status().term;
    cluster.node_mut(1).halt().await;
    cluster.node_mut(1).restart().await;
    let after = cluster.on(1).status().term;
    assert!(after >= before && before > 0, "term {before}, and after a restart {after}");
}

/// All nodes are told to stop at the same time.
async fn all_stop(cluster: &mut TestCluster) -> Duration {
    let began = Instant::now();
    let stops = cluster.nodes.iter_mut().map(Node::shut_down);
    futures::future::join_all(stops).await;
    began.elapsed()
}

fn patient(options: &mut stockroom_raft::RaftOptions) {
    options.drain_timeout_ms = 20_000;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_nodes_are_stopped_at_once_none_waits_for_another_to_lead() {
    let mut cluster = TestCluster::form(3, patient).await;
    done(&cluster.on(1), item("mug")).await;
    until("the leader has an idea of its followers", || async {
        cluster.on(1).status().members.iter().all(|member| member.report.is_some())
    })
    .await;
    let took = all_stop(&mut cluster).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_nodes_are_stopped_at_once_under_load_every_caller_hears_and_none_waits_long() {
    let mut cluster = TestCluster::form(3, patient).await;
    done(&cluster.on(1), item("mug")).await;
    let write = |on: Cluster| async move {
        let mut written = 0;
        while on.propose(proposal(receive("mug", 1)), soon()).await.is_ok() {
            written += 1;
        }
        written
    };
    let writing: Vec<_> = (0..6).map(|n| tokio::spawn(write(cluster.on(n % 3 + 1)))).collect();
    until("writes are under way", || async {
        let view = cluster.on(2).reader().view().expect("a view").stock(&sku("mug")).expect("readable");
        view.first().is_some_and(|stock| stock.counters.on_hand > 50)
    })
    .await;
    let took = all_stop(&mut cluster).await;
    let mut written = 0;
    for writer in writing {
        written += writer.await.expect("no panic");
    }
    assert!(took < Duration::from_secs(4), "{took:?}");
    for id in 1..=3 {
        cluster.node_mut(id).restart().await;
    }
    cluster.agree().await;
    let view = cluster.on(1);
    view.read_index(soon()).await.expect("a read index");
    let stock = view.reader().view().expect("a view").stock(&sku("mug")).expect("readable");
    assert!(stock[0].counters.on_hand >= written, "{written} were acknowledged: {stock:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_acknowledged_and_nothing_is_read() {
    let mut cluster = TestCluster::form(3, unchanged).await;
    done(&cluster.on(1), item("mug")).await;
    let leader = cluster.leader().await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.node_mut(id).halt().await;
    }
    let short = || Instant::now() + Duration::from_millis(1_500);
    let late = proposal(receive("mug", 5));
    let answer = cluster.on(leader).propose(late.clone(), short()).await;
    assert!(answer.is_err(), "{answer:?}");
    let read = cluster.on(leader).read_index(short()).await;
    assert_eq!(read, Err(ReadError::NoLeader));
    until("it says that it may be stale", || async {
        cluster.on(leader).staleness_ms().is_none_or(|ms| ms > 1_000)
    })
    .await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.node_mut(id).restart().await;
    }
    // The same key settles what was unknown, once.
    cluster.leader().await;
    let on = cluster.on(leader);
    let settled = insist_on(|| cluster.on(leader), late).await;
    assert!(settled.is_ok(), "{settled:?}");
    on.read_index(soon()).await.expect("a read index");
    let stock = on.reader().view().expect("a view").stock(&sku("mug")).expect("readable");
    assert_eq!(stock[0].counters.on_hand, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_knows_how_stale_it_may_be() {
    let cluster = TestCluster::form(3, unchanged).await;
    for id in 1..=3 {
        until("every node knows", || async { cluster.on(id).staleness_ms().is_some_and(|ms| ms < 1_000) })
            .await;
        let ready = cluster.on(id).readiness();
        assert!(ready.iter().all(|(_, ok, _)| *ok), "{ready:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_shows_what_every_node_said_of_itself() {
    let cluster = TestCluster::form(3, unchanged).await;
    let index = done(&cluster.on(1), item("mug")).await.answer.log_index;
    for id in 1..=3 {
        until("it has heard of all", || async {
            let status = cluster.on(id).status();
            assert_eq!((status.cluster_id, status.node_id), (cluster.formed.cluster_id, id));
            status.members.len() == 3
                && status.members.iter().all(|member| {
                    assert_eq!(member.role, Role::Voter);
                    member.report.as_ref().is_some_and(|report| {
                        report.version == "test" && report.fingerprint.log_index >= index && report.lag == 0
                    })
                })
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_hands_leadership_over_and_loses_no_write() {
    let mut cluster = TestCluster::form(3, unchanged).await;
    done(&cluster.on(1), item("mug")).await;
    let leader = cluster.leader().await;
    let survivor = cluster.follower().await;
    let on = cluster.on(survivor);
    let writing = tokio::spawn(async move {
        for _ in 0..200 {
            done(&on, receive("mug", 1)).await;
        }
    });
    until("the leader has an idea of its followers", || async {
        cluster.on(leader).status().members.iter().all(|member| member.report.is_some())
    })
    .await;
    let began = Instant::now();
    cluster.node_mut(leader).shut_down().await;
    let next = cluster.on(survivor).status().leader;
    assert!(next.is_some_and(|next| next != leader), "nobody led when the leader had stopped: {next:?}");
    writing.await.expect("every write has a known outcome, although the leader stopped");
    assert!(began.elapsed() < Duration::from_secs(20));
    cluster.node_mut(leader).restart().await;
    cluster.agree().await;
    let view = cluster.on(leader);
    let stock = view.reader().view().expect("a view").stock(&sku("mug")).expect("readable");
    assert_eq!(stock[0].counters.on_hand, 200);
}

/// What is in flight takes longer than a silent node is waited for: the followers are not silent, only their disks slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_drains_goes_on_hearing_its_followers() {
    let held = [2, 3].map(|_| HeldWorker::new("log-writer"));
    let mut nodes = vec![Node::start(1, Vec::new(), patient).await];
    for (id, held) in (2..).zip(&held) {
        nodes.push(Node::start_with(id, Arc::new(held.clone())).await);
    }
    let mut cluster = TestCluster::form_of(nodes).await;
    until("node 1 leads", || async {
        let _ = cluster.on(2).hand_leadership_over(Some(1), soon()).await;
        cluster.leader().await == 1
    })
    .await;
    done(&cluster.on(1), item("mug")).await;
    until("it has heard of all", || async {
        cluster.on(1).status().members.iter().all(|member| member.report.is_some())
    })
    .await;
    cluster.agree().await;
    held.iter().for_each(|disk| disk.hold(true));
    let on = cluster.on(1);
    let mut writing = Box::pin(async move { done(&on, receive("mug", 5)).await });
    assert!(futures::poll!(&mut writing).is_pending(), "it is in flight");
    let writing = tokio::spawn(writing);
    let mut leader = cluster.nodes.remove(0);
    let stopping = tokio::spawn(async move { leader.shut_down().await });
    // Not a wait for something: so long the disks take.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!stopping.is_finished(), "it gave up what was in flight");
    held.iter().for_each(|disk| disk.hold(false));
    stopping.await.expect("it stops");
    let leads = |id: u64| cluster.on(id).status().leader == Some(id);
    assert!(leads(2) || leads(3), "nobody led when the leader had stopped");
    writing.await.expect("its outcome is known, although the leader stopped");
}

/// Reaches nobody.
#[derive(Debug)]
struct Nowhere;

impl Connect for Nowhere {
    fn connect(&self, _: String) -> BoxFuture<'static, io::Result<Box<dyn PeerIo>>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }
}

/// Followers that cannot reach the leader of a new cluster do not say what time it is: nothing can be stamped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_that_nobody_waits_for_make_room_also_where_there_is_no_time_yet() {
    let mut nodes =
        vec![Node::start(1, Vec::new(), |options: &mut RaftOptions| options.proposals_in_flight = 1).await];
    for id in 2..=3 {
        let deaf = Node::start_prepared(id, unchanged, |node| {
            node.connect = Some(Arc::new(Nowhere));
            Vec::new()
        });
        nodes.push(deaf.await);
    }
    let cluster = TestCluster::form_of(nodes).await;
    for _ in 0..2 {
        until("there is room for one", || async {
            let deadline = Instant::now() + Duration::from_millis(100);
            match cluster.on(1).propose(proposal(item("mug")), deadline).await {
                Err(ProposeError::TimedOutBefore) => true,
                Err(ProposeError::Overloaded { .. }) => false,
                other => panic!("{other:?}"),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn above_the_limits_a_write_is_refused_at_once() {
    let cluster = TestCluster::form(1, |options| options.proposals_in_flight = 10).await;
    let began = Instant::now();
    let proposals = (0..100).map(|n| proposal(item(&format!("sku-{n}")))).collect();
    let answers = cluster.on(1).propose_all(proposals, soon()).await;
    let refused = |answer: &&Result<_, ProposeError>| matches!(answer, Err(ProposeError::Overloaded { .. }));
    assert_eq!(answers.iter().filter(refused).count(), 90);
    assert!(answers[..10].iter().all(Result::is_ok), "{answers:?}");
    let large = proposal(Command::PatchMetadata(stockroom_storage::shop::command::PatchMetadata {
        order: order_name("o"),
        changes: [("k".into(), Some("x".repeat(2 << 20).into()))].into(),
    }));
    let answer = cluster.on(1).propose(large, soon()).await;
    assert!(matches!(answer, Err(ProposeError::TooLarge { .. })), "{answer:?}");
    assert!(began.elapsed() < PATIENCE, "nothing waited for a deadline");
}
