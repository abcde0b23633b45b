//! Disks that are slow, fail or are full: by the fault shim, without root.
//!
//! After a failed sync nobody knows what is on a disk, so a node that stops itself and says why does right;
//! one that goes on as if nothing had been does not, and the checkers of what was acknowledged find it.

use super::{Effect, Entry, Injected, Nemesis, leader_or_any, named, small_files};
use crate::cluster::shim::{Done, Faults, Order, Scope};
use crate::cluster::{Cluster, Needs};
use crate::history::NodeId;
use anyhow::Context as _;
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use std::time::Duration;

/// How many writes or syncs go well before the one that fails.
const COUNTDOWN: std::ops::RangeInclusive<u64> = 1..=40;
/// How much longer a sync takes: a busy disk, and one that hangs.
const SLOW_US: std::ops::Range<u64> = 5_000..80_000;
const HANGS_US: std::ops::Range<u64> = 400_000..2_500_000;
/// How long a node that stopped itself may take until it is back.
pub(super) const BACK_WITHIN: Duration = Duration::from_secs(20);

/// The log is small and written to the tables often, so that faults meet all files and not the log alone.
fn shim() -> Needs {
    Needs { shim: true, settings: small_files(), ..Needs::default() }
}

/// Those of this file.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "slow-sync",
        kind: "disk",
        about: "syncs of one node, or of all, take much longer, or hang for seconds",
        needs: shim,
        make: || Box::new(Spoiled::new("slow-sync", What::SlowSync)),
    },
    Entry {
        name: "sync-error",
        kind: "disk",
        about: "a sync fails with EIO, once or again and again: the node must stop and say so",
        needs: shim,
        make: || Box::new(Spoiled::new("sync-error", What::SyncError)),
    },
    Entry {
        name: "write-error",
        kind: "disk",
        about: "a write fails with EIO, once or again and again",
        needs: shim,
        make: || Box::new(Spoiled::new("write-error", What::WriteError)),
    },
    Entry {
        name: "disk-full",
        kind: "disk",
        about: "writes find the disk full (ENOSPC): all of them, or those that make a file longer",
        needs: shim,
        make: || Box::new(Spoiled::new("disk-full", What::Full)),
    },
    Entry {
        name: "short-write",
        kind: "disk",
        about: "a write writes only a part and says so; at times the rest then finds the disk full",
        needs: shim,
        make: || Box::new(Spoiled::new("short-write", What::Short)),
    },
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    SlowSync,
    SyncError,
    WriteError,
    Full,
    Short,
}

impl What {
    fn done(self) -> Done {
        match self {
            What::SlowSync => Done::Slowed,
            What::SyncError => Done::SyncErrors,
            What::WriteError => Done::WriteErrors,
            What::Full => Done::Fulls,
            What::Short => Done::Shorts,
        }
    }
}

struct Spoiled {
    name: &'static str,
    what: What,
    /// The nodes, and how often it had been done to each before.
    nodes: Vec<(NodeId, u64)>,
    exits_before: usize,
}

/// The orders to a node's shim.
pub(super) fn faults(node: &crate::cluster::Node) -> anyhow::Result<&Faults> {
    node.faults.as_deref().context("the cluster was started without the fault shim")
}

impl Spoiled {
    fn new(name: &'static str, what: What) -> Self {
        Spoiled { name, what, nodes: Vec::new(), exits_before: 0 }
    }

    /// Orders to give, the one that sets it off last, and what it is in words.
    fn draw(&self, rng: &mut StdRng) -> (String, Vec<(Order, u64)>) {
        let count = rng.random_range(COUNTDOWN);
        let repeats = rng.random_bool(0.3);
        let scopes = [(Scope::All, "any file"), (Scope::Log, "the log"), (Scope::NotLog, "no log file")];
        let (scope, of) = *scopes.choose(rng).expect("there are three");
        let mut orders = vec![(Order::Scope, scope as u64), (Order::Seed, rng.random())];
        let nth = |what: &str| match repeats {
            true => format!("from the {count}. {what} of {of} on"),
            false => format!("at the {count}. {what} of {of}"),
        };
        let words = match self.what {
            What::SlowSync => {
                let us = match rng.random_bool(0.3) {
                    true => rng.random_range(HANGS_US),
                    false => rng.random_range(SLOW_US),
                };
                orders.push((Order::SyncDelayUs, us));
                return (format!("each sync of {of} takes {} ms longer", us / 1_000), orders);
            }
            What::SyncError => nth("sync") + " EIO",
            What::WriteError => nth("write") + " EIO",
            What::Full => {
                let growth = rng.random_bool(0.5);
                orders.push((Order::FullGrowth, u64::from(growth)));
                nth(if growth { "write that makes a file longer" } else { "write" }) + " ENOSPC"
            }
            What::Short => {
                let then_full = rng.random_bool(0.3);
                orders.push((Order::ShortThenFull, u64::from(then_full)));
                let then = if then_full { ", and the next finds the disk full" } else { "" };
                nth("write") + " only a part is written" + then
            }
        };
        orders.push((Order::Repeats, u64::from(repeats)));
        let order = match self.what {
            What::SyncError => Order::SyncError,
            What::WriteError => Order::WriteError,
            What::Full => Order::Full,
            What::SlowSync | What::Short => Order::Short,
        };
        orders.push((order, count));
        (words, orders)
    }
}

#[async_trait]
impl Nemesis for Spoiled {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let Some(one) = leader_or_any(cluster, 0.5, rng).await else { return Ok(None) };
        let everywhere = self.what == What::SlowSync && rng.random_bool(0.3);
        let nodes = if everywhere { cluster.ids() } else { vec![one] };
        let (words, orders) = self.draw(rng);
        self.exits_before = cluster.exits().len();
        for id in &nodes {
            let node = cluster.node(*id);
            let faults = faults(&node)?;
            self.nodes.push((*id, faults.done(self.what.done())?));
            if self.what != What::SlowSync {
                cluster.excuse(*id, self.name, &format!("{}: {words}", self.name)).await;
            }
            for (order, value) in &orders {
                faults.order(*order, *value)?;
            }
        }
        Ok(Some(Injected { what: format!("{}: {words}", named(&nodes)), nodes, hold_ms: None }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let mut done = 0;
        let nodes = std::mem::take(&mut self.nodes);
        for (id, before) in &nodes {
            let node = cluster.node(*id);
            let faults = faults(&node)?;
            faults.calm()?;
            done += faults.done(self.what.done())? - before;
        }
        for (id, _) in &nodes {
            // One that another nemesis holds down comes back with that one.
            let _ = cluster.wait_ready(*id, BACK_WITHIN).await;
            cluster.excuse_ends(*id, self.name).await;
        }
        let exits = cluster.exits();
        let ended = exits[self.exits_before..].iter().filter(|exit| exit.excuse.is_some()).count();
        let evidence = format!("the shim did it {done} times; nodes stopped themselves {ended} times");
        Ok(Effect { effective: done > 0, evidence })
    }
}
