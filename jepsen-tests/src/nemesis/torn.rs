//! A write that is torn: the power goes while the disk writes it.
//!
//! Cutting bytes off the log of a stopped node would be no fair fault: nobody but the node knows which of
//! them it had synced, and acknowledged. So the fault shim tears a write while it is made: some of its
//! sectors reach the file, no call on the disk comes back any more, and the node is killed. Nothing of
//! that write can have been acknowledged, and the node must start again without a complaint.

use super::disk::faults;
use super::{Effect, Entry, Injected, Nemesis, leader_or_any};
use crate::cluster::shim::{Done, Order, Scope};
use crate::cluster::{Cluster, Needs};
use crate::history::NodeId;
use anyhow::Context as _;
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

/// How long a write is waited for.
const WRITES_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How many writes go well before.
const COUNTDOWN: std::ops::Range<u64> = 1..60;
const NAME: &str = "torn-tail";

/// Those of this file.
pub const ENTRIES: &[Entry] = &[Entry {
    name: NAME,
    kind: "disk",
    about: "power is lost in the middle of a write to the log: some of its sectors are there, some are not",
    needs: || Needs { shim: true, ..Needs::default() },
    make: || Box::new(TornTail::default()),
}];

#[derive(Default)]
struct TornTail {
    node: Option<NodeId>,
    taken: bool,
}

#[async_trait]
impl Nemesis for TornTail {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let Some(id) = leader_or_any(cluster, 0.5, rng).await else { return Ok(None) };
        if !cluster.is_up(id).await {
            return Ok(None);
        }
        let node = cluster.node(id);
        let faults = faults(&node)?;
        let before = faults.done(Done::Torn)?;
        let count = rng.random_range(COUNTDOWN);
        for (order, value) in
            [(Order::Scope, Scope::Log as u64), (Order::Seed, rng.random()), (Order::Tear, count)]
        {
            faults.order(order, value)?;
        }
        let deadline = Instant::now() + WRITES_WITHIN;
        while faults.done(Done::Torn)? == before && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        faults.order(Order::Tear, 0)?;
        faults.order(Order::Scope, 0)?;
        if faults.done(Done::Torn)? == before {
            return Ok(None);
        }
        self.node = Some(id);
        self.taken = cluster.take(id, NAME).await?;
        if !self.taken {
            // Another nemesis has stopped it meanwhile. It must die in any case: it waits for ever.
            cluster.kill(id).await?;
        }
        let what = format!("the {count}. write to the log of node {id} is torn, and the node dies");
        let hold_ms = if rng.random_bool(0.5) { 0 } else { rng.random_range(500..4_000) };
        Ok(Some(Injected { what, nodes: vec![id], hold_ms: Some(hold_ms) }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let id = self.node.take().context("it was injected")?;
        let cut = cluster.said(id, "cut a torn tail")?;
        match self.taken {
            true => cluster.give_back(id, NAME).await?,
            false => cluster.start_node(id).await?,
        }
        // Where another nemesis keeps it from getting ready, that is for the probes at the end to judge.
        let ready = cluster.wait_ready(id, super::disk::BACK_WITHIN).await.is_ok();
        let told = if cluster.said(id, "cut a torn tail")? > cut { "it cut a torn tail" } else { "" };
        let ready = if ready { "it is ready again" } else { "it is not ready yet" };
        let evidence =
            [ready, told].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
        Ok(Effect { effective: true, evidence: format!("the shim tore a write; {evidence}") })
    }
}
