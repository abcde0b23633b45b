//! The cluster as its nodes see it, and who of them answers: what most commands begin with.

use crate::{
    client::{Answer, Call, Client, base_url},
    problem::{Exit, Failure},
    upgrade::Versions,
};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;

/// Not heard of for so long, a node does not answer. The servers count alike.
pub const SILENT_MS: u64 = 3_000;

/// `GET /v1/cluster`: the cluster as one node sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct View {
    /// Minted once, when the cluster was made.
    pub cluster_id: Value,
    /// Who says this.
    pub node_id: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<u64>,
    /// The Raft term it is in.
    pub term: u64,
    /// Which commands, rules and formats are in force.
    #[serde(default)]
    pub cluster_version: Value,
    /// The newest entry that it knows to be committed.
    #[serde(default)]
    pub committed: u64,
    /// All members it knows of.
    pub members: Vec<Member>,
    /// What nodes it has heard of say is wrong with them.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
    /// Nodes that it did not take in.
    #[serde(default)]
    pub turned_away: Vec<TurnedAway>,
}

/// What somebody should look after, while the node goes on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Alarm {
    /// Whose.
    pub node: u64,
    /// What kind.
    pub code: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub next: String,
}

/// A node that asked to be taken in, and was refused.
#[derive(Debug, Clone, Deserialize)]
pub struct TurnedAway {
    /// Node id.
    pub id: u64,
    /// And what to do.
    pub why: String,
    /// Since it asked.
    pub ms_ago: u64,
}

/// One member, as the answering node sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct Member {
    /// Node id.
    pub id: u64,
    /// Where it serves HTTP.
    pub http_address: String,
    /// Where its peers reach it.
    #[serde(default)]
    pub peer_address: String,
    /// `voter` or `learner`.
    pub role: String,
    /// What it last said of itself; `None` where the answering node has not heard from it.
    pub report: Option<Report>,
}

impl Member {
    /// Asks it once, at the address that it advertises.
    ///
    /// # Errors
    /// Whatever it says or does not say; another node answers there.
    pub async fn ask(&self, client: &Client, call: Call) -> Result<Answer, Failure> {
        client.ask(&base_url(&self.http_address)?, &call.of_node(self.id)).await
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// How far its state is.
    pub applied_index: u64,
    /// Of its history.
    #[serde(default)]
    pub digest: Value,
    /// Of its state.
    #[serde(default)]
    pub state_hash: Value,
    /// Entries behind the leader.
    #[serde(default)]
    pub lag: Value,
    /// Of its program.
    #[serde(default)]
    pub version: Value,
    /// The cluster versions that its program serves.
    #[serde(default)]
    pub serves: Option<Versions>,
    /// How old this report is.
    #[serde(default)]
    pub heard_ms_ago: Option<u64>,
    /// Mean time of a sync of its log.
    #[serde(default)]
    pub sync_us: Option<u64>,
    /// Its wall clock minus the cluster's.
    #[serde(default)]
    pub clock_offset_ms: Value,
}

/// Asks every endpoint for its view; those that do not answer are errors in the list.
pub async fn views(client: &Client) -> Vec<(String, Result<View, Failure>)> {
    let ask = |endpoint: &str| {
        let endpoint = endpoint.to_owned();
        async move {
            let view =
                client.ask(&endpoint, &Call::get("/v1/cluster")).await.and_then(|answer| answer.parse());
            (endpoint, view)
        }
    };
    join_all(client.endpoints().map(ask)).await
}

/// The view of the leader, or of whoever knows of the newest term.
///
/// # Errors
/// Nobody answers.
pub async fn best(client: &Client) -> Result<View, Failure> {
    let mut best: Option<View> = None;
    let mut last = None;
    let mut turned_away = Vec::new();
    for (_, view) in views(client).await {
        match view {
            Ok(mut view) => {
                // Each knows of those that asked it.
                turned_away.append(&mut view.turned_away);
                let rank = |view: &View| (view.term, view.leader == Some(view.node_id));
                if best.as_ref().is_none_or(|best| rank(&view) > rank(best)) {
                    best = Some(view);
                }
            }
            Err(failure) => last = Some(failure),
        }
    }
    let best = best.ok_or_else(|| last.expect("there is at least one endpoint, and none answered"))?;
    Ok(View { turned_away, ..best })
}

/// Whether a member answers, as this view's node sees it.
pub fn answers(view: &View, member: &Member) -> bool {
    member.id == view.node_id
        || member.report.as_ref().is_some_and(|report| report.heard_ms_ago.unwrap_or(0) < SILENT_MS)
}

/// The members of these ids, or all, from whoever knows of the newest term.
///
/// # Errors
/// Nobody answers, or there is no such member.
pub async fn members(client: &Client, wanted: &[u64]) -> Result<Vec<Member>, Failure> {
    of_ids(&best(client).await?, wanted)
}

/// The members of these ids, or all.
///
/// # Errors
/// There is no such member.
pub fn of_ids(view: &View, wanted: &[u64]) -> Result<Vec<Member>, Failure> {
    let known: BTreeSet<u64> = view.members.iter().map(|m| m.id).collect();
    if let Some(id) = wanted.iter().find(|id| !known.contains(id)) {
        let ids: Vec<String> = known.iter().map(ToString::to_string).collect();
        let detail = format!("node {id} is no member; the members are {}", ids.join(", "));
        return Err(Failure::local(Exit::NotFound, "unknown_node", "No such node", detail));
    }
    Ok(view.members.iter().filter(|m| wanted.is_empty() || wanted.contains(&m.id)).cloned().collect())
}
