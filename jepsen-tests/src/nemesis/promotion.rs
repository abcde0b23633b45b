//! A leader that dies while a learner becomes a voter: the change has two halves, and the second may be left to the
//! next leader.

use super::{Effect, Entry, Injected, Nemesis, choice, wipe};
use crate::cluster::members::{Change, Role};
use crate::cluster::{Cluster, Needs};
use crate::history::NodeId;
use anyhow::Context as _;
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::json;
use std::time::{Duration, Instant};

/// How long a new node may take until it is a learner, and each change while other faults go on.
const STEP_WITHIN: Duration = Duration::from_secs(20);
const VOTER_WITHIN: Duration = Duration::from_secs(40);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A learner that has caught up is promoted at the leader's next look, which it takes five times a second.
const BY_ITSELF_MS: std::ops::Range<u64> = 0..400;
/// What is asked for takes two entries.
const ASKED_FOR_MS: std::ops::Range<u64> = 0..25;

/// Those of this file.
pub const ENTRIES: &[Entry] = &[Entry {
    name: "promote-kill",
    kind: "cluster",
    about: "the leader is killed while a new learner, or one that was a voter, becomes a voter",
    needs: || Needs { nodes: 3, ..Needs::default() },
    make: || Box::new(PromoteKill::default()),
}];

#[derive(Default)]
struct PromoteKill {
    begun: Option<Begun>,
}

struct Begun {
    learner: NodeId,
    /// It is new: another one has to go for it.
    new: bool,
    killed: Option<NodeId>,
}

/// Kills the leader soon after a new node is a learner, and before it is seen to be a voter.
async fn kill_at_learner(
    cluster: &Cluster,
    learner: NodeId,
    rng: &mut StdRng,
) -> anyhow::Result<Option<NodeId>> {
    let (deadline, late) = (Instant::now() + STEP_WITHIN, rng.random_range(BY_ITSELF_MS));
    while Instant::now() < deadline {
        let Some(leader) = cluster.leader().await else { continue };
        let role = |members: Option<crate::cluster::members::Members>| members?.get(&learner).copied();
        match role(cluster.members_at(leader).await) {
            Some(Role::Voter) => return Ok(None),
            Some(Role::Learner) => {
                tokio::time::sleep(Duration::from_millis(late)).await;
                let still = role(cluster.members_at(leader).await) == Some(Role::Learner);
                return Ok((cluster.kill(leader).await? && still).then_some(leader));
            }
            None => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
    Ok(None)
}

/// Asks for a promotion and kills the leader before there is an answer.
async fn kill_at_request(
    cluster: &Cluster,
    (leader, learner): (NodeId, NodeId),
    rng: &mut StdRng,
) -> anyhow::Result<Option<NodeId>> {
    let path = format!("/v1/cluster/members/{learner}/promote");
    let body = json!({});
    let late = Duration::from_millis(rng.random_range(ASKED_FOR_MS));
    tokio::select! {
        biased;
        killed = async { tokio::time::sleep(late).await; cluster.kill(leader).await } => {
            Ok(killed?.then_some(leader))
        }
        // It was too quick for us.
        _ = cluster.operate(learner, &path, &body) => Ok(None),
    }
}

#[async_trait]
impl Nemesis for PromoteKill {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let Some(leader) = cluster.leader().await else { return Ok(None) };
        let mut followers = cluster.ids();
        followers.retain(|id| *id != leader);
        let Some(follower) = choice(&followers, rng) else { return Ok(None) };
        let new = rng.random_bool(0.5) || !cluster.claim(wipe::NAME, follower);
        let (learner, killed) = if new {
            let learner = cluster.join().await?;
            (learner, kill_at_learner(cluster, learner, rng).await?)
        } else {
            let deadline = Instant::now() + STEP_WITHIN;
            let demoted = cluster.change_member(follower, (Change::Demote, true), deadline).await;
            let leader = cluster.leader().await.filter(|leader| demoted.is_ok() && *leader != follower);
            match leader {
                Some(leader) => (follower, kill_at_request(cluster, (leader, follower), rng).await?),
                None => (follower, None),
            }
        };
        self.begun = Some(Begun { learner, new, killed });
        let who =
            killed.map_or("nobody was killed".to_owned(), |killed| format!("leader {killed} was killed"));
        let what = format!("{who} while learner {learner} was being promoted");
        let hold_ms = if rng.random_bool(0.5) { 0 } else { rng.random_range(1_000..5_000) };
        let nodes = killed.into_iter().chain([learner]).collect();
        Ok(Some(Injected { what, nodes, hold_ms: Some(hold_ms) }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let Begun { learner, new, killed } = self.begun.take().context("it was injected")?;
        // Another fault may have taken the leader's place since: whoever is down comes back.
        for id in cluster.ids().into_iter().filter(|id| killed == Some(*id)) {
            cluster.start_node(id).await?;
        }
        let deadline = Instant::now() + VOTER_WITHIN;
        let voter = match new {
            true => cluster.wait_role(learner, Some(Role::Voter), deadline).await,
            false => cluster.change_member(learner, (Change::Promote, false), deadline).await.is_ok(),
        };
        if voter && new {
            // The dead one has been replaced, so to speak.
            let mut old = cluster.ids();
            old.retain(|id| *id != learner && killed.is_none_or(|killed| killed == *id));
            if let Some(old) = old.first().copied() {
                cluster.leaves(old).await;
                if cluster.change_member(old, (Change::Remove, false), deadline).await.is_ok() {
                    let _ = cluster.see_off(old, 1, Instant::now() + STEP_WITHIN).await;
                }
            }
        }
        if voter && !new {
            cluster.unclaim(wipe::NAME, learner);
        }
        let role = if voter { "is a voter now" } else { "is no voter yet" };
        let evidence = match killed {
            Some(killed) => {
                format!("when node {killed} was dead nobody had seen a voter in node {learner}; it {role}")
            }
            None => format!("the promotion was too quick, or did not begin; node {learner} {role}"),
        };
        Ok(Effect { effective: killed.is_some() && voter, evidence })
    }
}
