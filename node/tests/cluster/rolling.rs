//! A restart of all nodes, one after the other, under load: a client that tries the next node on a refusal notices
//! nothing but a short wait.

use crate::harness::Cluster;
use crate::load::{Load, assert_all_there};
use std::time::{Duration, Instant};

/// Restarts each node in turn, the leader as often as it is its turn, `restarts` in all; when each began and ended.
async fn restart_in_turn(cluster: &mut Cluster, restarts: usize) -> Vec<(Instant, Instant, bool)> {
    let mut windows = Vec::new();
    for at in 0..restarts {
        let leader = cluster.leader().await;
        // Every third is whoever leads, so that of ten restarts at least some hand leadership over.
        let node = if at % 3 == 0 { leader } else { at % cluster.nodes.len() };
        let begun = Instant::now();
        assert_eq!(cluster.nodes[node].terminate().await, Some(0), "{}", cluster.nodes[node].log());
        cluster.nodes[node].start();
        // An operator goes on when the node is ready again, and caught up.
        cluster.wait_until_ready().await;
        windows.push((begun, Instant::now(), node == leader));
    }
    windows
}

/// The longest time within a window in which no order was acknowledged.
fn longest_gap(answered: &[Instant], (from, to): (Instant, Instant)) -> Duration {
    let within = answered.iter().copied().filter(|at| *at > from && *at < to);
    let mut before = from;
    let mut longest = Duration::ZERO;
    for at in within.chain([to]) {
        longest = longest.max(at.duration_since(before));
        before = at;
    }
    longest
}

async fn roll(restarts: usize) -> (Vec<Duration>, usize, usize) {
    let mut cluster = Cluster::of_three(&[]).await;
    let load = Load::start(&cluster).await;
    let windows = restart_in_turn(&mut cluster, restarts).await;
    let seen = load.stop().await;
    let gaps: Vec<_> =
        windows.iter().map(|(from, to, _)| longest_gap(&seen.answered, (*from, *to))).collect();
    for ((from, to, led), gap) in windows.iter().zip(&gaps) {
        println!(
            "restart of {}: gap {gap:?}, in all {:?}",
            if *led { "the leader" } else { "a follower" },
            to.duration_since(*from)
        );
    }
    let (count, refusals) = (seen.orders.len(), seen.refusals);
    assert_all_there(&cluster, seen.orders).await;
    (gaps, count, refusals)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_request() {
    let (gaps, orders, _) = roll(3).await;
    assert!(gaps.len() == 3 && orders > 0);
}

/// Slow: the README says how to run it. The bound is for a machine that does nothing else.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures time: see the README"]
async fn ten_restarts_have_a_median_gap_of_half_a_second_at_most() {
    let (mut gaps, orders, refusals) = roll(10).await;
    gaps.sort_unstable();
    let median = (gaps[4] + gaps[5]) / 2;
    println!(
        "{orders} orders, {refusals} refusals tried elsewhere, none failed; gaps {gaps:?}; median {median:?}"
    );
    assert!(median <= Duration::from_millis(500), "{median:?}");
}
