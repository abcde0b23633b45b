//! Members that come and go while clients use the cluster.
//!
//! Each turn ends with as many voters as it began with. Where other faults hold it up for too long, the rest is done
//! when they are healed, by [`Cluster::settle_members`], which is also what judges it.

use super::{Effect, Entry, Injected, Nemesis, choice, wipe};
use crate::cluster::members::{Change, Role};
use crate::cluster::{Cluster, Needs};
use crate::history::NodeId;
use anyhow::Context as _;
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

/// How long each step may take while other faults go on.
const STEP_WITHIN: Duration = Duration::from_secs(30);

/// Those of this file.
pub const ENTRIES: &[Entry] = &[Entry {
    name: "members",
    kind: "cluster",
    about: "a follower or the leader is replaced by a new node, removed before there is one, or a learner for a while",
    needs: || Needs { nodes: 3, ..Needs::default() },
    make: || Box::new(Members::default()),
}];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    /// First the new one, then the old one goes.
    Replace,
    /// First the old one goes, by force: meanwhile there is one voter less.
    RemoveFirst,
    /// It becomes a learner, by force, and a voter again.
    Demote,
}

#[derive(Default)]
struct Members {
    begun: Option<Begun>,
}

struct Begun {
    step: Step,
    old: NodeId,
    new: Option<NodeId>,
    /// Changes that were really made.
    made: Vec<String>,
}

impl Begun {
    async fn change(&mut self, cluster: &Cluster, change: Change, force: bool) -> bool {
        let deadline = Instant::now() + STEP_WITHIN;
        let made = cluster.change_member(self.old, (change, force), deadline).await;
        match &made {
            Ok(()) => self.made.push(format!("node {}: {change:?}", self.old)),
            Err(why) => self.made.push(format!("node {}: {change:?} not done yet ({why})", self.old)),
        }
        made.is_ok()
    }

    async fn remove(&mut self, cluster: &Cluster, force: bool) -> bool {
        cluster.leaves(self.old).await;
        let removed = self.change(cluster, Change::Remove, force).await;
        if removed && cluster.see_off(self.old, 1, Instant::now() + STEP_WITHIN).await.is_ok() {
            self.made.push("it said so and ended".to_owned());
        }
        removed
    }

    async fn becomes_voter(&mut self, cluster: &Cluster, new: NodeId) -> bool {
        let voter = cluster.wait_role(new, Some(Role::Voter), Instant::now() + STEP_WITHIN).await;
        self.made.push(format!("node {new} is {}", if voter { "a voter" } else { "no voter yet" }));
        voter
    }
}

#[async_trait]
impl Nemesis for Members {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let Some(leader) = cluster.leader().await else { return Ok(None) };
        let leads = rng.random_bool(0.4);
        let mut fitting = cluster.ids();
        fitting.retain(|id| (*id == leader) == leads);
        let Some(old) = choice(&fitting, rng) else { return Ok(None) };
        let mut step = choice(&[Step::Replace, Step::Replace, Step::RemoveFirst, Step::Demote], rng)
            .expect("there are some");
        // With fewer voters the others bear less.
        if step != Step::Replace && !cluster.claim(wipe::NAME, old) {
            step = Step::Replace;
        }
        let mut begun = Begun { step, old, new: None, made: Vec::new() };
        let whom = if leads { "the leader" } else { "a follower" };
        let what = match step {
            Step::Replace => {
                let new = cluster.join().await?;
                begun.new = Some(new);
                format!("node {new} comes in for node {old}, {whom}")
            }
            Step::RemoveFirst => {
                begun.remove(cluster, true).await;
                format!("node {old}, {whom}, is removed, and a new one comes in")
            }
            Step::Demote => {
                begun.change(cluster, Change::Demote, true).await;
                format!("node {old}, {whom}, is a learner for a while")
            }
        };
        let nodes = [Some(old), begun.new].into_iter().flatten().collect();
        self.begun = Some(begun);
        Ok(Some(Injected { what, nodes, hold_ms: Some(rng.random_range(0..2_000)) }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let mut begun = self.begun.take().context("it was injected")?;
        let done = match (begun.step, begun.new) {
            (Step::Replace, Some(new)) => {
                begun.becomes_voter(cluster, new).await && begun.remove(cluster, false).await
            }
            (Step::Replace | Step::RemoveFirst, _) => {
                let new = cluster.join().await?;
                begun.becomes_voter(cluster, new).await
            }
            (Step::Demote, _) => begun.change(cluster, Change::Promote, false).await,
        };
        if begun.step != Step::Replace && done {
            cluster.unclaim(wipe::NAME, begun.old);
        }
        Ok(Effect { effective: done, evidence: begun.made.join("; ") })
    }
}
