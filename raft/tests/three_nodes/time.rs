//! The replicated clock, and what it ends.

use crate::support::*;
use std::time::Duration;
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
