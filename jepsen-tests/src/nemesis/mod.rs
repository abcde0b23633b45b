//! Nemeses: what is done to the cluster while clients use it.

mod backup;
mod clock;
mod damage;
mod disk;
mod leadership;
mod limits;
mod members;
mod network;
mod power;
mod process;
mod promotion;
mod rebuild;
mod removal;
mod rolling;
mod room;
mod scrub;
mod snapshots;
mod torn;
mod wipe;

use crate::cluster::{Cluster, Needs};
use crate::history::NodeId;
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// A nemesis, as `list` shows it.
pub struct Entry {
    /// The name under which it is asked for.
    pub name: &'static str,
    /// `process`, `network`, `clock`, `disk`, `cluster` or `resources`.
    pub kind: &'static str,
    /// What it does, in one sentence.
    pub about: &'static str,
    /// What it needs of the machine and of the cluster. A machine that has not got it skips the nemesis by name.
    pub needs: fn() -> Needs,
    /// Makes one for a run.
    pub make: fn() -> Box<dyn Nemesis>,
}

/// What an injection did.
#[derive(Debug, Clone)]
pub struct Injected {
    /// In words, with the nodes.
    pub what: String,
    /// The nodes it was done to.
    pub nodes: Vec<NodeId>,
    /// How long it should last before it is healed, in milliseconds; the runner's choice where `None`.
    pub hold_ms: Option<u64>,
}

/// Whether a fault really took effect, and how that is known.
#[derive(Debug, Clone)]
pub struct Effect {
    /// Whether it did.
    pub effective: bool,
    /// What was measured.
    pub evidence: String,
}

/// Injects one fault at a time and heals it. The runner calls `inject` and `heal` in turns, with pauses
/// of its own; several nemeses of one run act at the same time, each unaware of the others.
#[async_trait]
pub trait Nemesis: Send {
    /// Begins a fault. `Ok(None)`: there is nothing to be done to just now (no leader, all down).
    ///
    /// # Errors
    /// Where the harness itself cannot do it: the run fails, because a fault that is not injected is no test.
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>>;

    /// Ends it and says whether it took effect.
    ///
    /// # Errors
    /// Where the harness itself cannot end it.
    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect>;
}

/// All of them, as `list` shows them: see [`all`].
const PARTS: &[&[Entry]] = &[
    process::ENTRIES,
    wipe::ENTRIES,
    network::ENTRIES,
    clock::ENTRIES,
    disk::ENTRIES,
    torn::ENTRIES,
    damage::ENTRIES,
    scrub::ENTRIES,
    room::ENTRIES,
    power::ENTRIES,
    snapshots::ENTRIES,
    members::ENTRIES,
    removal::ENTRIES,
    promotion::ENTRIES,
    rebuild::ENTRIES,
    leadership::ENTRIES,
    rolling::ENTRIES,
    backup::ENTRIES,
    limits::ENTRIES,
];

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Entry> {
    PARTS.iter().flat_map(|part| part.iter())
}

/// Settings with which a run of a minute has what otherwise takes a day: snapshots, a log that is purged,
/// tables that are written.
fn small_files() -> Vec<(&'static str, String)> {
    vec![
        ("--snapshot-min-log-bytes", (64 << 10).to_string()),
        ("--log-keep-bytes", "0".to_owned()),
        ("--log-keep-entries", "16".to_owned()),
        ("--log-segment-bytes", (2 << 20).to_string()),
        ("--checkpoint-interval-ms", "250".to_owned()),
    ]
}

/// The leader, with that chance, or any node.
async fn leader_or_any(cluster: &Cluster, chance: f64, rng: &mut StdRng) -> Option<NodeId> {
    let leader = cluster.leader().await.filter(|_| rng.random_bool(chance));
    leader.or_else(|| choice(&cluster.ids(), rng))
}

/// One of them.
fn choice<T: Copy>(from: &[T], rng: &mut StdRng) -> Option<T> {
    from.choose(rng).copied()
}

/// Nodes, in words.
fn named(nodes: &[NodeId]) -> String {
    let numbers: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    format!("node {}", numbers.join(", "))
}
