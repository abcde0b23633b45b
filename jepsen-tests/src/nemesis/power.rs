//! Power that is lost: all that was not synced is gone.

use super::{Effect, Entry, Injected, Nemesis, leader_or_any, named};
use crate::cluster::disk::Loss;
use crate::cluster::{Cluster, Needs};
use crate::history::NodeId;
use anyhow::Context as _;
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;

fn own_disks() -> Needs {
    Needs { root: true, own_disks: true, ..Needs::default() }
}

/// Those of this file.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "power-loss",
        kind: "disk",
        about: "one node and its disk lose power: what was not synced is gone",
        needs: own_disks,
        make: || Box::new(PowerLoss::new("power-loss", false)),
    },
    Entry {
        name: "power-loss-all",
        kind: "disk",
        about: "all nodes and their disks lose power at the same time",
        needs: own_disks,
        make: || Box::new(PowerLoss::new("power-loss-all", true)),
    },
];

struct PowerLoss {
    name: &'static str,
    all: bool,
    lost: Vec<(NodeId, Loss)>,
}

impl PowerLoss {
    fn new(name: &'static str, all: bool) -> Self {
        PowerLoss { name, all, lost: Vec::new() }
    }
}

#[async_trait]
impl Nemesis for PowerLoss {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let nodes = match self.all {
            true => cluster.ids(),
            false => leader_or_any(cluster, 0.5, rng).await.into_iter().collect(),
        };
        // Together: one that dies later could still tell clients what the others have lost.
        let taken = futures::future::join_all(nodes.iter().map(|id| cluster.take(*id, self.name))).await;
        let mut dead = Vec::new();
        for (id, taken) in nodes.into_iter().zip(taken) {
            if taken? {
                dead.push(id);
            }
        }
        let losses = futures::future::join_all(dead.iter().map(|id| async move {
            let node = cluster.node(*id);
            node.disk.as_ref().context("the cluster was started without disks of its own")?.lose_power().await
        }))
        .await;
        self.lost.clear();
        for (id, loss) in dead.iter().zip(losses) {
            self.lost.push((*id, loss.with_context(|| format!("the disk of node {id}"))?));
        }
        let hold_ms = if rng.random_bool(0.5) { 0 } else { rng.random_range(500..5_000) };
        let what = format!("{} and their disks lose power", named(&dead));
        Ok((!dead.is_empty()).then_some(Injected { what, nodes: dead, hold_ms: Some(hold_ms) }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let lost = std::mem::take(&mut self.lost);
        for (id, _) in &lost {
            cluster.give_back(*id, self.name).await?;
        }
        let real = lost.iter().filter(|(_, loss)| loss.synced_is_there && !loss.unsynced_is_there).count();
        let evidence = format!(
            "mounted again, {real} of {} disks had the harness's synced file and not its unsynced one",
            lost.len()
        );
        Ok(Effect { effective: real > 0 && real == lost.len(), evidence })
    }
}
