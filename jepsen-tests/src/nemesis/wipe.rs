//! A data directory that is lost.
//!
//! The node has forgotten its votes and what it has acknowledged, so it never comes back under its old
//! number: a new, empty node joins in its place, gets a snapshot, and becomes a voter. The old number stays
//! a member until members can be removed: after one loss a cluster of three has four voters of whom three
//! live, and three are a quorum. With w of n lost and replaced, n live of n + w, and as long as w is a
//! minority of n, the n that live are a majority of n + w. So no more than a minority is lost in one run.
//! Nothing acknowledged goes with them: two quorums have a node in common, and a quorum of those that
//! still count does without all that are lost.

use super::{Effect, Entry, Injected, Nemesis, leader_or_any};
use crate::cluster::{Cluster, Needs};
use crate::history::NodeId;
use anyhow::Context as _;
use async_trait::async_trait;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

/// How long joining, catching up and promotion may take while other faults go on.
const VOTER_WITHIN: Duration = Duration::from_secs(40);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Its name, and the claim to a node that is lost for good.
pub(super) const NAME: &str = "wipe";

/// Those of this file.
pub const ENTRIES: &[Entry] = &[Entry {
    name: NAME,
    kind: "process",
    about: "a node loses its data directory for good; a new node takes its place (a minority in a run)",
    needs: || Needs { nodes: 3, ..Needs::default() },
    make: || Box::new(Wipe::default()),
}];

#[derive(Default)]
struct Wipe {
    replaced: Option<(NodeId, NodeId)>,
}

/// Whether the cluster counts a node as a voter, as the node itself or any other says.
async fn is_voter(cluster: &Cluster, id: NodeId) -> bool {
    let Some(body) = cluster.ask(id, "/v1/cluster").await else { return false };
    let members = body["members"].as_array();
    members.is_some_and(|members| members.iter().any(|m| m["id"] == id && m["role"] == "voter"))
}

/// Removes the data of a node that was taken, and starts a new one in its place.
pub(super) async fn replace(cluster: &Cluster, old: NodeId) -> anyhow::Result<NodeId> {
    let dir = &cluster.node(old).data_dir;
    std::fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
    let new = cluster.next_id();
    cluster.forget(old).await;
    cluster.join(new).await?;
    Ok(new)
}

#[async_trait]
impl Nemesis for Wipe {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let Some(old) = leader_or_any(cluster, 0.4, rng).await else { return Ok(None) };
        if !cluster.claim(NAME, old) {
            return Ok(None);
        }
        if !cluster.take(old, NAME).await? {
            cluster.unclaim(NAME, old);
            return Ok(None);
        }
        let new = replace(cluster, old).await?;
        self.replaced = Some((old, new));
        let what = format!("node {old} loses its data for good; node {new}, empty, takes its place");
        Ok(Some(Injected { what, nodes: vec![old, new], hold_ms: Some(0) }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let (old, new) = self.replaced.take().context("it was injected")?;
        let gone = !cluster.node(old).data_dir.exists();
        let deadline = Instant::now() + VOTER_WITHIN;
        while !is_voter(cluster, new).await && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let voter = is_voter(cluster, new).await;
        let role = if voter { "is a voter" } else { "is not a voter yet" };
        let evidence = format!("the directory of node {old} is gone; node {new} {role}");
        Ok(Effect { effective: gone, evidence })
    }
}
