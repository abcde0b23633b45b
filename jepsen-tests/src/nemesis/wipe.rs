//! A data directory that is lost.
//!
//! The node has forgotten its votes and what it has acknowledged, so it never comes back under its old
//! number: a new, empty node joins in its place, gets a snapshot, becomes a voter, and then the old number is
//! removed. In between a cluster of three has four voters of whom three live, and three are a quorum. With w of n lost and
//! not removed yet, n live of n + w, and as long as w is a minority of n, the n that live are a majority of n + w.
//! Nothing acknowledged goes with them: two quorums have a node in common, and a quorum of those that
//! still count does without all that are lost.

use super::{Effect, Entry, Injected, Nemesis, leader_or_any};
use crate::cluster::members::{Change, Role};
use crate::cluster::{Cluster, Needs};
use crate::history::NodeId;
use anyhow::Context as _;
use async_trait::async_trait;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

/// How long joining, catching up, promotion and the old one's removal may take while other faults go on.
const VOTER_WITHIN: Duration = Duration::from_secs(40);
/// Its name, and the claim to a node without which the members have to do.
pub(super) const NAME: &str = "wipe";

/// Those of this file.
pub const ENTRIES: &[Entry] = &[Entry {
    name: NAME,
    kind: "process",
    about: "a node loses its data directory for good; a new node takes its place (a minority at a time)",
    needs: || Needs { nodes: 3, ..Needs::default() },
    make: || Box::new(Wipe::default()),
}];

#[derive(Default)]
struct Wipe {
    replaced: Option<(NodeId, NodeId)>,
}

/// Removes the data of a node that was taken, and starts a new one in its place.
pub(super) async fn replace(cluster: &Cluster, old: NodeId) -> anyhow::Result<NodeId> {
    let dir = &cluster.node(old).data_dir;
    std::fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
    cluster.forget(old).await;
    cluster.join().await
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
        let voter = cluster.wait_role(new, Some(Role::Voter), deadline).await;
        let mut role = "is not a voter yet";
        if voter {
            role = "is a voter, and the old number is not removed yet";
            // Where other faults hold it up, it is done when they are healed, and counts as lost until then.
            if cluster.change_member(old, (Change::Remove, false), deadline).await.is_ok() {
                cluster.unclaim(NAME, old);
                role = "is a voter, and the old number is removed";
            }
        }
        let evidence = format!("the directory of node {old} is gone; node {new} {role}");
        Ok(Effect { effective: gone, evidence })
    }
}
