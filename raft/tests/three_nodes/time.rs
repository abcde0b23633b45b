//! The replicated clock, and what it ends.

use crate::support::*;
use std::sync::Arc;
use std::time::Duration;
use stockroom_raft::ProposeError;
use stockroom_storage::shop::reservation::ReservationStatus;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_is_due_expires_within_500_ms_on_an_idle_cluster() {
    let cluster = TestCluster::form(3, unchanged).await;
    done(&cluster.on(1), item("mug")).await;
    done(&cluster.on(1), receive("mug", 5)).await;
    // The hold begins when it is decided, which an answer may be long in telling.
    let began = Instant::now();
    done(&cluster.on(1), reserve("hold-1", "mug", 5, 1_000)).await;
    let expired = || async { reservation(&cluster.on(2), "hold-1") == Some(ReservationStatus::Expired) };
    until("the hold expires", expired).await;
    let took = began.elapsed();
    assert!(took > Duration::from_millis(850), "{took:?}: too early");
    // By the replicated clock, so that a slow machine does not matter: nothing came after the tick.
    let late = cluster.on(2).reader().applied().clock.0 - expires_at(&cluster.on(2), "hold-1");
    assert!(late <= 500, "{late} ms too late");
}

/// A clock that jumps must neither end holds early nor keep them for long.
async fn a_jump_of_the_leaders_clock_moves_no_hold(jump_ms: i64) {
    let cluster = TestCluster::form(3, unchanged).await;
    done(&cluster.on(1), item("mug")).await;
    done(&cluster.on(1), receive("mug", 5)).await;
    done(&cluster.on(1), reserve("long", "mug", 1, 30 * 60 * 1_000)).await;
    let leader = cluster.leader().await;
    cluster.node(leader).clock.turn_ms(jump_ms);
    // Leadership may be handed over just then: the hold begins when it is decided, and the answer comes later.
    let began = Instant::now();
    done(&cluster.on(1), reserve("short", "mug", 1, 1_500)).await;
    let before = cluster.on(leader).reader().applied().clock.0;
    until("the short hold expires", || async {
        done(&cluster.on(1), receive("mug", 1)).await;
        reservation(&cluster.on(2), "short") == Some(ReservationStatus::Expired)
    })
    .await;
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1_300) && took < Duration::from_secs(8), "{took:?}");
    let moved = cluster.on(leader).reader().applied().clock.0 - before;
    assert!(moved < 60_000, "the replicated clock moved by {moved} ms in {took:?}");
    assert_eq!(reservation(&cluster.on(2), "long"), Some(ReservationStatus::Held));
    // It raises the alarm, and another one leads.
    until("leadership is handed over", || async { cluster.leader().await != leader }).await;
    done(&cluster.on(1), receive("mug", 1)).await;
    assert_eq!(reservation(&cluster.on(1), "long"), Some(ReservationStatus::Held));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_jumps_hours_ahead_ends_no_hold_early() {
    a_jump_of_the_leaders_clock_moves_no_hold(5 * 3_600_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_jumps_hours_back_keeps_no_hold_longer() {
    a_jump_of_the_leaders_clock_moves_no_hold(-5 * 3_600_000).await;
}

/// A new leader that has not applied any stamp yet has no clock. The only other voter that it hears is hours ahead: from
/// the two it must not make one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_stamps_nothing_before_it_has_applied_the_stamps_before_its_term() {
    const HOURS_MS: i64 = 5 * 3_600_000;
    let held: Vec<HeldWorker> = (0..3).map(|_| HeldWorker::new("apply")).collect();
    let mut nodes = Vec::new();
    for (id, held) in (1..).zip(&held) {
        nodes.push(Node::start_with(id, Arc::new(held.clone())).await);
    }
    let mut cluster = TestCluster::form_of(nodes).await;
    let ahead = cluster.leader().await;
    let next = cluster.follower().await;
    let other = (1..=3).find(|id| ![ahead, next].contains(id)).expect("three nodes");
    let next_applies = &held[next as usize - 1];
    // Nothing was stamped so far.
    next_applies.hold(true);
    // Too large to be applied without the worker; and all others come after it.
    let stamped = done(&cluster.on(ahead), item_with("mug", &"x".repeat(2_000))).await;
    done(&cluster.on(ahead), receive("mug", 5)).await;
    done(&cluster.on(ahead), reserve("long", "mug", 1, 30 * 60 * 1_000)).await;
    let before = cluster.on(ahead).reader().applied().clock.0;
    assert!(before > 0 && stamped.node_id == ahead);
    assert_eq!(cluster.on(next).reader().applied().clock.0, 0, "it has applied a stamp");
    cluster.node_mut(other).halt().await;
    cluster.node(ahead).clock.turn_ms(HOURS_MS);
    until("the next one leads", || async {
        // By itself, too, it hands over: its clock is off.
        let _ = cluster.on(ahead).transfer(Some(next), soon()).await;
        cluster.leader().await == next
    })
    .await;
    let while_held = Instant::now() + Duration::from_secs(2);
    let answer = cluster.on(next).propose(proposal(receive("mug", 1)), while_held).await;
    assert_eq!(
        answer,
        Err(ProposeError::TimedOutBefore),
        "it was stamped before the stamps before it were known"
    );
    next_applies.hold(false);
    done(&cluster.on(next), receive("mug", 1)).await;
    let moved = cluster.on(next).reader().applied().clock.0 - before;
    assert!(moved < 60_000, "the replicated clock moved by {moved} ms");
    assert_eq!(reservation(&cluster.on(next), "long"), Some(ReservationStatus::Held));
}
