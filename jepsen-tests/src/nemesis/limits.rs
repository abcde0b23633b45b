//! Too little CPU, too little memory: by control groups.

use super::{Effect, Entry, Injected, Nemesis, leader_or_any};
use crate::cluster::resources::Limited;
use crate::cluster::{Cluster, Needs};
use crate::history::NodeId;
use anyhow::Context as _;
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;
use std::time::Duration;

/// Of one core.
const CPU_PERCENT: std::ops::Range<u64> = 3..25;
/// What the node may take in addition to what it has when it is limited. A group pays only for memory that
/// is taken in it, files in the page cache too: the least is soon met, the most only under load.
const MEMORY_KIB: std::ops::Range<u64> = 256..6_144;
/// The supervisor sees within this that the kernel has killed a node.
const SEEN_WITHIN: Duration = Duration::from_millis(300);
/// How long a node that was killed may take until it is back.
const BACK_WITHIN: Duration = Duration::from_secs(20);

fn cgroups() -> Needs {
    Needs { root: true, cgroups: true, ..Needs::default() }
}

/// Those of this file.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "cpu",
        kind: "resources",
        about: "the leader, or any node, gets a small part of a core",
        needs: cgroups,
        make: || Box::new(Limit::new(Of::Cpu)),
    },
    Entry {
        name: "memory",
        kind: "resources",
        about: "a node gets little memory; the kernel may kill it",
        needs: || Needs { settings: super::small_files(), ..cgroups() },
        make: || Box::new(Limit::new(Of::Memory)),
    },
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Of {
    Cpu,
    Memory,
}

struct Limit {
    of: Of,
    limited: Option<(NodeId, Limited)>,
    exits_before: usize,
}

impl Limit {
    fn new(of: Of) -> Self {
        Limit { of, limited: None, exits_before: 0 }
    }
}

#[async_trait]
impl Nemesis for Limit {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let Some(id) = leader_or_any(cluster, 0.6, rng).await else { return Ok(None) };
        let Some(pid) = cluster.pid(id).await else { return Ok(None) };
        self.exits_before = cluster.exits().len();
        let name = format!("{}-{id}", if self.of == Of::Cpu { "cpu" } else { "memory" });
        let limited = match Limited::new(&name, pid) {
            Ok(limited) => limited,
            // It was killed in this moment: there is nothing to limit.
            Err(_) if cluster.pid(id).await != Some(pid) => return Ok(None),
            Err(error) => return Err(error),
        };
        let what = match self.of {
            Of::Cpu => {
                let percent = rng.random_range(CPU_PERCENT);
                limited.cpu(percent)?;
                format!("node {id} gets {percent} % of a core")
            }
            Of::Memory => {
                let kib = rng.random_range(MEMORY_KIB);
                cluster.may_be_killed(id, true).await;
                limited.memory(kib << 10)?;
                format!("node {id} gets only {kib} KiB of memory more")
            }
        };
        self.limited = Some((id, limited));
        Ok(Some(Injected { what, nodes: vec![id], hold_ms: None }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let (id, limited) = self.limited.take().context("it was injected")?;
        let (met, what) = match self.of {
            Of::Cpu => (limited.throttled(), "it waited for its quota"),
            Of::Memory => (limited.squeezed(), "the limit was met"),
        };
        drop(limited);
        let mut evidence = format!("{what} {met} times");
        if self.of == Of::Memory {
            tokio::time::sleep(SEEN_WITHIN).await;
            cluster.may_be_killed(id, false).await;
            let exits = cluster.exits();
            let killed = exits[self.exits_before..].iter().filter(|exit| exit.node == id).count();
            evidence = format!("{evidence}; the node ended {killed} times meanwhile");
            // One that another nemesis holds down comes back with that one.
            let _ = cluster.wait_ready(id, BACK_WITHIN).await;
        }
        Ok(Effect { effective: met > 0, evidence })
    }
}
