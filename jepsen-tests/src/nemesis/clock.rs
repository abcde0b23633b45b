//! Wall clocks that are wrong, by libfaketime.
//!
//! The shop's time is the median of the voters' clocks, so this is done to a minority at a time: what is
//! promised of holds and deadlines is promised as long as a majority of clocks is right.

use super::{Effect, Entry, Injected, Nemesis, leader_or_any};
use crate::cluster::clock::Clock;
use crate::cluster::{Cluster, Needs, Node};
use crate::history::NodeId;
use anyhow::Context as _;
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

/// Steps of a time service, and what a broken battery or a wrong zone do, in milliseconds.
const SMALL_MS: std::ops::Range<i64> = 60..2_000;
const LARGE_MS: std::ops::Range<i64> = 30_000..100_000_000;
/// How often a strobing clock changes, and how fast.
const FLIPS: std::ops::Range<u64> = 20..60;
const FLIP_MS: std::ops::Range<u64> = 10..150;
/// Nodes tell one another their clocks a few times a second.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A clock that differs by so much shows the fault and not the wobble of the comparison.
const SHOWS_MS: i64 = 40;

fn faketime() -> Needs {
    Needs { faketime: true, ..Needs::default() }
}

/// Those of this file.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "clock-jump",
        kind: "clock",
        about: "the clock of a minority jumps, by a little or by up to a day, ahead or back",
        needs: faketime,
        make: || Box::new(Wrong::new(How::Jump)),
    },
    Entry {
        name: "clock-skew",
        kind: "clock",
        about: "the clock of a minority runs too fast or too slow",
        needs: faketime,
        make: || Box::new(Wrong::new(How::Skew)),
    },
    Entry {
        name: "clock-strobe",
        kind: "clock",
        about: "the clock of a minority jumps to and fro many times a second",
        needs: faketime,
        make: || Box::new(Wrong::new(How::Strobe)),
    },
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Jump,
    Skew,
    Strobe,
}

/// A claim to the clock of a node: a minority of them may be wrong at a time.
const CLAIM: &str = "clock";

struct Wrong {
    how: How,
    node: Option<NodeId>,
    flips: u64,
    /// The largest difference seen so far, in milliseconds.
    seen_ms: Option<i64>,
}

impl Wrong {
    fn new(how: How) -> Self {
        Wrong { how, node: None, flips: 0, seen_ms: None }
    }

    /// Looks how far off the node says that it is.
    async fn look(&mut self, cluster: &Cluster, id: NodeId) {
        let shown = shown_ms(cluster, id).await;
        self.seen_ms = [self.seen_ms, shown].into_iter().flatten().max_by_key(|ms| ms.abs());
    }

    async fn until_seen(&mut self, cluster: &Cluster, id: NodeId, at_least: i64) {
        let deadline = Instant::now() + TOLD_WITHIN;
        while self.seen_ms.is_none_or(|ms| ms.abs() < at_least) && Instant::now() < deadline {
            self.look(cluster, id).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn clock(node: &Node) -> anyhow::Result<&Clock> {
    node.clock.as_deref().context("the cluster was started without libfaketime")
}

/// How far a node's clock is from the cluster's, as it says itself, in milliseconds.
async fn shown_ms(cluster: &Cluster, id: NodeId) -> Option<i64> {
    let body = cluster.ask(id, "/v1/cluster").await?;
    let member = body["members"].as_array()?.iter().find(|member| member["id"] == id)?;
    member["report"]["clock_offset_ms"].as_i64()
}

/// Ahead or back.
fn offset_ms(rng: &mut StdRng) -> i64 {
    let size = if rng.random_bool(0.5) { rng.random_range(SMALL_MS) } else { rng.random_range(LARGE_MS) };
    if rng.random_bool(0.5) { size } else { -size }
}

#[expect(clippy::cast_precision_loss, reason = "a day in milliseconds is far below 2^52")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

#[async_trait]
impl Nemesis for Wrong {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let Some(id) = leader_or_any(cluster, 0.6, rng).await else { return Ok(None) };
        let Some(running) = cluster.running_for(id).await else { return Ok(None) };
        if !cluster.claim(CLAIM, id) {
            return Ok(None);
        }
        (self.node, self.seen_ms, self.flips) = (Some(id), None, 0);
        let node = cluster.node(id);
        let (clock, ms) = (clock(&node)?, offset_ms(rng));
        let (what, hold_ms) = match self.how {
            How::Jump => {
                clock.offset(seconds(ms))?;
                self.until_seen(cluster, id, (ms.abs() / 2).max(SHOWS_MS)).await;
                (format!("the clock of node {id} jumps by {ms} ms"), None)
            }
            How::Skew => {
                let rate = if rng.random_bool(0.5) {
                    rng.random_range(1.05..3.0)
                } else {
                    rng.random_range(0.05..0.95)
                };
                clock.rate(rate, running.as_secs_f64())?;
                (format!("the clock of node {id} runs at {rate:.2} times the rate"), None)
            }
            How::Strobe => {
                for flip in 0..rng.random_range(FLIPS) {
                    clock.offset(if flip % 2 == 0 { seconds(ms) } else { 0.0 })?;
                    self.flips += 1;
                    tokio::time::sleep(Duration::from_millis(rng.random_range(FLIP_MS))).await;
                    self.look(cluster, id).await;
                }
                (format!("the clock of node {id} jumps by {ms} ms and back, {} times", self.flips), Some(0))
            }
        };
        Ok(Some(Injected { what, nodes: vec![id], hold_ms }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let id = self.node.take().context("it was injected")?;
        self.look(cluster, id).await;
        clock(&cluster.node(id))?.offset(0.0)?;
        cluster.unclaim(CLAIM, id);
        let Some(ms) = self.seen_ms else {
            return Ok(Effect {
                effective: false,
                evidence: "the node was never asked what it shows".into(),
            });
        };
        let evidence = format!("the node said that it was {ms} ms off the cluster's clock");
        Ok(Effect { effective: ms.abs() >= SHOWS_MS, evidence })
    }
}
