//! A node that comes back from its peers, as an operator brings it back: stopped or dead, its files sound, damaged or gone,
//! `stockroom rebuild`, started again.
//!
//! Whatever its directory had is set aside, so it is lost to the cluster as in [`wipe`], a minority at a time; but
//! the new member comes up on the same machine, at the same addresses, with the same settings, while the others
//! still send to the old one there. Nobody but the new node removes the old one.

use super::{Effect, Entry, Injected, Nemesis, choice, damage, leader_or_any, wipe};
use crate::cluster::Cluster;
use crate::cluster::members::Role;
use crate::history::NodeId;
use crate::run::clients::TIMEOUT;
use anyhow::Context as _;
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

/// How long a rebuild may be refused for want of a leader, or of a majority of the others, while other faults go on.
const PREPARED_WITHIN: Duration = Duration::from_secs(35);
/// How long joining, catching up, promotion and the old one's removal may take.
const VOTER_WITHIN: Duration = Duration::from_secs(35);
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// A call that was made to the old number must have ended before the new one answers at its address.
const QUIET: Duration = TIMEOUT.saturating_add(Duration::from_millis(500));
pub(super) const NAME: &str = "rebuild";

/// Those of this file.
pub const ENTRIES: &[Entry] = &[Entry {
    name: NAME,
    kind: "cluster",
    about: "a node ends, its files sound, damaged or gone, and comes back from its peers by `stockroom rebuild` (a minority at a time)",
    needs: damage::small,
    make: || Box::new(Rebuild::default()),
}];

/// What is wrong with the files of the node.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Files {
    Sound,
    Flipped,
    Cut,
    Gone,
}

#[derive(Default)]
struct Rebuild {
    down: Option<Down>,
}

/// A node that is down for good under its number.
pub(super) struct Down {
    node: NodeId,
    since: Instant,
}

impl Down {
    /// From now on nobody asks it or starts it.
    pub(super) async fn now(cluster: &Cluster, node: NodeId) -> Self {
        cluster.forget(node).await;
        Down { node, since: Instant::now() }
    }

    /// Rebuilds it, and waits until the new member votes and has removed the old one. Gives that in words, and
    /// whether it came so far.
    pub(super) async fn comes_back(self, cluster: &Cluster) -> anyhow::Result<(bool, String)> {
        let old = self.node;
        tokio::time::sleep_until((self.since + QUIET).into()).await;
        let deadline = Instant::now() + PREPARED_WITHIN;
        let mut refusals = 0;
        let new = loop {
            match cluster.rebuild(old).await? {
                Ok(new) => break new,
                Err(why) if Instant::now() > deadline => {
                    cluster
                        .find(format!("node {old} could not be rebuilt within {PREPARED_WITHIN:?}: {why}"));
                    return Ok((false, format!("it was not rebuilt: {why}")));
                }
                Err(_) => refusals += 1,
            }
            tokio::time::sleep(ASK_AGAIN).await;
        };
        let deadline = Instant::now() + VOTER_WITHIN;
        let votes = cluster.wait_role(new, Some(Role::Voter), deadline).await;
        let replaced = votes && cluster.wait_role(old, None, deadline).await;
        let state = match (votes, replaced) {
            (true, true) => "is a voter and has removed the old one",
            (true, false) => "is a voter, and the old one is not removed yet",
            (false, _) => "is not a voter yet",
        };
        if replaced {
            unclaim(cluster, old);
        }
        Ok((replaced, format!("after {refusals} refusals node {old} was rebuilt: node {new} {state}")))
    }
}

/// Claims a node for a fault after which it is lost under its number. `false` where that would be one too many.
pub(super) fn claim(cluster: &Cluster, node: NodeId) -> bool {
    // Both: whoever damages files must not mend them in the directory of the new one.
    if !cluster.claim(wipe::NAME, node) {
        return false;
    }
    let claimed = cluster.claim(damage::CLAIM, node);
    if !claimed {
        cluster.unclaim(wipe::NAME, node);
    }
    claimed
}

pub(super) fn unclaim(cluster: &Cluster, node: NodeId) {
    cluster.unclaim(wipe::NAME, node);
    cluster.unclaim(damage::CLAIM, node);
}

fn spoil(cluster: &Cluster, node: NodeId, what: Files, rng: &mut StdRng) -> anyhow::Result<String> {
    let dir = &cluster.node(node).data_dir;
    match what {
        Files::Sound => Ok("its files sound".to_owned()),
        Files::Flipped => damage::any_file(dir, damage::How::Flip, rng),
        Files::Cut => damage::any_file(dir, damage::How::Cut, rng),
        Files::Gone => {
            std::fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
            Ok("its data directory is gone".to_owned())
        }
    }
}

#[async_trait]
impl Nemesis for Rebuild {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let node = leader_or_any(cluster, 0.4, rng).await.filter(|node| cluster.ids().contains(node));
        let Some(node) = node.filter(|node| claim(cluster, *node)) else { return Ok(None) };
        let cleanly = rng.random_bool(0.5);
        let taken = match cleanly {
            true => cluster.take_cleanly(node, NAME).await?,
            false => cluster.take(node, NAME).await?,
        };
        if !taken {
            unclaim(cluster, node);
            return Ok(None);
        }
        let down = Down::now(cluster, node).await;
        let files = choice(&[Files::Sound, Files::Flipped, Files::Cut, Files::Gone], rng).expect("some");
        let files = spoil(cluster, node, files, rng)?;
        self.down = Some(down);
        let how = if cleanly { "is stopped" } else { "is killed" };
        let what = format!("node {node} {how}, {files}; it is rebuilt");
        Ok(Some(Injected { what, nodes: vec![node], hold_ms: Some(rng.random_range(0..4_000)) }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let down = self.down.take().context("it was injected")?;
        let (effective, evidence) = down.comes_back(cluster).await?;
        Ok(Effect { effective, evidence })
    }
}
