//! A member that is removed while it hears nothing of it.
//!
//! When it is back it takes itself for a member still: it must be told, say so and end, as often as it is started; it
//! must not answer as a member, and its attempts to be elected must not move the others to another term.

use super::network::{Links, between};
use super::{Effect, Entry, Injected, Nemesis, leader_or_any, wipe};
use crate::cluster::members::{Change, Role};
use crate::cluster::{Cluster, Needs};
use crate::history::NodeId;
use crate::network::Trouble;
use anyhow::Context as _;
use async_trait::async_trait;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

/// How long the removal may take while other faults go on: the silence has to be noticed first.
const REMOVED_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take until the removed one has ended twice, and a new one is a voter.
const TOLD_WITHIN: Duration = Duration::from_secs(40);
const VOTER_WITHIN: Duration = Duration::from_secs(30);
/// It ends, is started again, and ends again.
const TIMES: usize = 2;
const LOOK_EVERY: Duration = Duration::from_millis(250);
const NAME: &str = "remove-partitioned";

/// Those of this file.
pub const ENTRIES: &[Entry] = &[Entry {
    name: NAME,
    kind: "cluster",
    about: "a node is removed while it is cut off, and comes back; a new one takes its place",
    needs: || Needs { nodes: 3, ..Needs::default() },
    make: || Box::new(RemovePartitioned::default()),
}];

#[derive(Default)]
struct RemovePartitioned {
    begun: Option<Begun>,
}

struct Begun {
    node: NodeId,
    links: Links,
    harmed_before: u64,
    removed: Result<(), String>,
}

async fn harmed(cluster: &Cluster, links: &Links) -> anyhow::Result<u64> {
    let mut sum = 0;
    for (from, to, _) in links {
        sum += cluster.network().harmed(*from, *to).await?;
    }
    Ok(sum)
}

/// Whether a removed node is in a later term than the leader of the others: it got there by itself, and nothing
/// good can come of that.
async fn is_ahead(cluster: &Cluster, removed: NodeId) -> Option<String> {
    let term = cluster.sample(removed).await?.term;
    let leader = cluster.leader().await.filter(|leader| *leader != removed)?;
    let theirs = cluster.sample(leader).await?.term;
    (term > theirs)
        .then(|| format!("node {removed}, removed, is in term {term}, leader {leader} in term {theirs}"))
}

/// Watches a removed node until it has ended so often, saying why.
async fn until_told(cluster: &Cluster, node: NodeId) -> bool {
    let deadline = Instant::now() + TOLD_WITHIN;
    while cluster.said_removed(node) < TIMES && Instant::now() < deadline {
        if let Some(why) = is_ahead(cluster, node).await {
            cluster.find(why);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    cluster.said_removed(node) >= TIMES
}

#[async_trait]
impl Nemesis for RemovePartitioned {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let Some(node) = leader_or_any(cluster, 0.4, rng).await else { return Ok(None) };
        if !cluster.claim(wipe::NAME, node) {
            return Ok(None);
        }
        let others: Vec<NodeId> = cluster.ids_with_leaving().into_iter().filter(|id| *id != node).collect();
        let links = between(&[node], &others, Trouble::CUT);
        let harmed_before = harmed(cluster, &links).await?;
        cluster.network().impose(NAME, &links).await?;
        cluster.leaves(node).await;
        let deadline = Instant::now() + REMOVED_WITHIN;
        let removed = cluster.change_member(node, (Change::Remove, false), deadline).await;
        self.begun = Some(Begun { node, links, harmed_before, removed });
        let what = format!("node {node} is cut off, and removed meanwhile");
        Ok(Some(Injected { what, nodes: vec![node], hold_ms: None }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let begun = self.begun.take().context("it was injected")?;
        let node = begun.node;
        let harmed = harmed(cluster, &begun.links).await? - begun.harmed_before;
        cluster.network().lift(NAME).await?;
        let mut evidence = format!("{harmed} packets or pieces of streams were held");
        match &begun.removed {
            Ok(()) if until_told(cluster, node).await => {
                // It has said so as often as is asked of it.
                let seen_off = cluster.see_off(node, TIMES, Instant::now()).await;
                seen_off.map_err(anyhow::Error::msg)?;
                evidence += &format!("; node {node} said {TIMES} times that it was removed, and ended");
            }
            Ok(()) => evidence += &format!("; node {node} was removed and has not said so {TIMES} times yet"),
            Err(why) => evidence += &format!("; it could not be removed yet: {why}"),
        }
        let new = cluster.join().await?;
        if cluster.wait_role(new, Some(Role::Voter), Instant::now() + VOTER_WITHIN).await {
            cluster.unclaim(wipe::NAME, node);
            evidence += &format!("; node {new} is a voter in its place");
        }
        Ok(Effect { effective: harmed > 0 && begun.removed.is_ok(), evidence })
    }
}
