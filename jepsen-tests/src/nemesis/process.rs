//! Processes: killed, paused, lost.

use super::{Effect, Entry, Injected, Nemesis, choice};
use crate::cluster::{Cluster, Needs};
use crate::history::NodeId;
use anyhow::Context as _;
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use std::time::{Duration, Instant};

/// How long a pause lasts: longer than the leader's lease, so that another leader is elected meanwhile.
const PAUSE_MS: std::ops::Range<u64> = 2_500..6_000;
/// How long a node is given to get going before it is killed at its start.
const START_MS: std::ops::Range<u64> = 5..400;
/// How often it is killed at its start.
const STARTS: std::ops::RangeInclusive<u64> = 2..=6;
/// How long another leader is waited for.
const ELECTION: Duration = Duration::from_secs(6);

/// Those of this file.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "kill",
        kind: "process",
        about: "kill -9 of one node: any, or the leader; started again at once or late",
        needs: Needs::default,
        make: || Box::new(Kill::new(Whom::One)),
    },
    Entry {
        name: "kill-leader",
        kind: "process",
        about: "kill -9 of the leader, started again at once: it must not go on in its old term",
        needs: Needs::default,
        make: || Box::new(Kill::new(Whom::LeaderAtOnce)),
    },
    Entry {
        name: "kill-majority",
        kind: "process",
        about: "kill -9 of a majority at the same time",
        needs: Needs::default,
        make: || Box::new(Kill::new(Whom::Majority)),
    },
    Entry {
        name: "kill-all",
        kind: "process",
        about: "kill -9 of all nodes at the same time",
        needs: Needs::default,
        make: || Box::new(Kill::new(Whom::All)),
    },
    Entry {
        name: "kill-at-start",
        kind: "process",
        about: "kill -9 of one node, again and again while it starts",
        needs: Needs::default,
        make: || Box::new(KillAtStart::default()),
    },
    Entry {
        name: "pause",
        kind: "process",
        about: "SIGSTOP of the leader, or of any node, for longer than its lease",
        needs: Needs::default,
        make: || Box::new(Pause::default()),
    },
    Entry {
        name: "pause-kill-resume",
        kind: "process",
        about: "the leader is paused, its successor is killed, the old leader resumes",
        needs: Needs::default,
        make: || Box::new(PauseKillResume::default()),
    },
];

#[derive(Clone, Copy, PartialEq)]
enum Whom {
    One,
    LeaderAtOnce,
    Majority,
    All,
}

struct Kill {
    whom: Whom,
    down: Vec<NodeId>,
    dead: u64,
}

impl Kill {
    fn new(whom: Whom) -> Self {
        Kill { whom, down: Vec::new(), dead: 0 }
    }

    async fn victims(&self, cluster: &Cluster, rng: &mut StdRng) -> Vec<NodeId> {
        let mut all = cluster.ids();
        match self.whom {
            Whom::One => {
                let leader = cluster.leader().await.filter(|_| rng.random_bool(0.5));
                leader.or_else(|| choice(&all, rng)).into_iter().collect()
            }
            Whom::LeaderAtOnce => cluster.leader().await.into_iter().collect(),
            Whom::Majority => {
                all.shuffle(rng);
                all.truncate(all.len() / 2 + 1);
                all
            }
            Whom::All => all,
        }
    }
}

#[async_trait]
impl Nemesis for Kill {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let victims = self.victims(cluster, rng).await;
        // All at once: one that dies later could still tell the others what it heard.
        let kills = futures::future::join_all(victims.iter().map(|id| cluster.kill(*id))).await;
        self.dead = 0;
        for killed in kills {
            self.dead += u64::from(killed?);
        }
        self.down.clone_from(&victims);
        let late = self.whom != Whom::LeaderAtOnce && rng.random_bool(0.5);
        let hold_ms = if late { rng.random_range(1_000..6_000) } else { rng.random_range(0..60) };
        let again = if late { "late" } else { "at once" };
        let what = format!("kill -9 of {}, started again {again}", super::named(&victims));
        Ok((!victims.is_empty()).then_some(Injected { what, nodes: victims, hold_ms: Some(hold_ms) }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        for id in std::mem::take(&mut self.down) {
            cluster.start_node(id).await?;
        }
        let evidence =
            format!("{} processes were running and were waited for until they were dead", self.dead);
        Ok(Effect { effective: self.dead > 0, evidence })
    }
}

#[derive(Default)]
struct KillAtStart {
    node: Option<NodeId>,
    /// After how many milliseconds of each start.
    after_ms: Vec<u64>,
    dead: u64,
}

#[async_trait]
impl Nemesis for KillAtStart {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let Some(node) = choice(&cluster.ids(), rng) else { return Ok(None) };
        self.dead = u64::from(cluster.kill(node).await?);
        let starts = rng.random_range(STARTS);
        self.after_ms = (0..starts).map(|_| rng.random_range(START_MS)).collect();
        self.node = Some(node);
        for after in &self.after_ms {
            cluster.start_node(node).await?;
            tokio::time::sleep(Duration::from_millis(*after)).await;
            self.dead += u64::from(cluster.kill(node).await?);
        }
        let what = format!("kill -9 of node {node}, and {starts} times more while it started");
        Ok(Some(Injected { what, nodes: vec![node], hold_ms: Some(0) }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        if let Some(node) = self.node.take() {
            cluster.start_node(node).await?;
        }
        let evidence = format!("dead {} times, {:?} ms after each start", self.dead, self.after_ms);
        Ok(Effect { effective: self.dead > 1, evidence })
    }
}

#[derive(Default)]
struct Pause {
    node: Option<NodeId>,
}

/// Whether the kernel says that the process is stopped.
async fn is_stopped(cluster: &Cluster, node: NodeId) -> bool {
    let Some(pid) = cluster.pid(node).await else { return false };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which may have brackets and spaces in it.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

async fn until_stopped(cluster: &Cluster, node: NodeId) -> bool {
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        if is_stopped(cluster, node).await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

#[async_trait]
impl Nemesis for Pause {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let leader = cluster.leader().await.filter(|_| rng.random_bool(0.8));
        let Some(node) = leader.or_else(|| choice(&cluster.ids(), rng)) else { return Ok(None) };
        if !cluster.pause(node).await? {
            return Ok(None);
        }
        self.node = Some(node);
        let role = if leader.is_some() { "the leader" } else { "any" };
        let what = format!("SIGSTOP of node {node} ({role})");
        Ok(Some(Injected { what, nodes: vec![node], hold_ms: Some(rng.random_range(PAUSE_MS)) }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let node = self.node.take().context("it was injected")?;
        let effective = until_stopped(cluster, node).await;
        cluster.resume(node).await?;
        let evidence = if effective { "was in state T until now" } else { "was not in state T at the end" };
        Ok(Effect { effective, evidence: evidence.to_owned() })
    }
}

#[derive(Default)]
struct PauseKillResume {
    paused: Option<NodeId>,
    killed: Option<NodeId>,
}

#[async_trait]
impl Nemesis for PauseKillResume {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let Some(first) = cluster.leader().await else { return Ok(None) };
        if !cluster.pause(first).await? {
            return Ok(None);
        }
        self.paused = Some(first);
        let deadline = Instant::now() + ELECTION;
        while self.killed.is_none() && Instant::now() < deadline {
            if let Some(second) = cluster.leader().await.filter(|leader| *leader != first)
                && cluster.kill(second).await?
            {
                self.killed = Some(second);
            }
        }
        cluster.resume(first).await?;
        let second = self.killed.map_or("nobody".to_owned(), |second| format!("node {second}"));
        let what = format!("leader {first} paused, its successor {second} killed, {first} resumed");
        let nodes = [Some(first), self.killed].into_iter().flatten().collect();
        Ok(Some(Injected { what, nodes, hold_ms: Some(rng.random_range(0..3_000)) }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        self.paused = None;
        let Some(killed) = self.killed.take() else {
            return Ok(Effect { effective: false, evidence: "no successor was elected".to_owned() });
        };
        cluster.start_node(killed).await?;
        Ok(Effect {
            effective: true,
            evidence: format!("node {killed} led while the first was stopped, and died"),
        })
    }
}
