//! The members as an operator sees and changes them: by the HTTP interface of any node, past all faults.
//!
//! What the harness means the members to be is its own list ([`Cluster::ids`]); what they are the cluster says.
//! A removal that was decided is never taken back: its answer may be unknown, and it may still be committed.

use super::{Cluster, Standing};
use crate::history::NodeId;
use futures::future::join_all;
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A change goes through an election or two before its deadline.
const ANSWER_WITHIN: Duration = Duration::from_secs(12);
const SERVER_TIMEOUT_MS: u64 = 10_000;
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// What a node ends with that was removed, and finds out.
const SAYS_REMOVED: &str = "was removed from the cluster";
/// By whom the end of a removed node is excused.
const REMOVAL: &str = "removal";

/// How a member counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// In quorums.
    Voter,
    /// It only follows.
    Learner,
}

/// What an operator wants of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A learner becomes a voter.
    Promote,
    /// A voter becomes a learner, and stays one.
    Demote,
    /// It leaves.
    Remove,
}

impl Change {
    fn path(self) -> &'static str {
        match self {
            Change::Promote => "promote",
            Change::Demote => "demote",
            Change::Remove => "remove",
        }
    }

    fn goal(self) -> Option<Role> {
        match self {
            Change::Promote => Some(Role::Voter),
            Change::Demote => Some(Role::Learner),
            Change::Remove => None,
        }
    }
}

/// The members, as one node has them.
pub type Members = BTreeMap<NodeId, Role>;

fn members_of(body: &Value) -> Option<Members> {
    let role = |member: &Value| match member["role"].as_str()? {
        "voter" => Some(Role::Voter),
        "learner" => Some(Role::Learner),
        _ => None,
    };
    body["members"].as_array()?.iter().map(|member| Some((member["id"].as_u64()?, role(member)?))).collect()
}

impl Cluster {
    /// The members as one node has them.
    pub async fn members_at(&self, id: NodeId) -> Option<Members> {
        members_of(&self.ask(id, "/v1/cluster").await?)
    }

    /// The members as the leader has them.
    pub async fn members(&self) -> Option<Members> {
        self.members_at(self.leader().await?).await
    }

    /// Asks one node, as an operator does, and waits for its answer.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn operate(&self, id: NodeId, path: &str, body: &Value) -> Result<(u16, Value), String> {
        let url = format!("http://{}{path}", self.node(id).addresses.http_listen);
        let request = self.admin.post(url).timeout(ANSWER_WITHIN);
        let request = request.header("Stockroom-Timeout-Ms", SERVER_TIMEOUT_MS).json(body);
        let answer = request.send().await.map_err(|error| format!("{error:?}"))?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await.map_err(|error| format!("{error:?}"))?))
    }

    /// Asks one node after another for a change until the leader has it so, or the deadline has passed.
    ///
    /// # Errors
    /// What the last one that was asked said.
    pub async fn change_member(
        &self,
        id: NodeId,
        (change, force): (Change, bool),
        deadline: Instant,
    ) -> Result<(), String> {
        let path = format!("/v1/cluster/members/{id}/{}", change.path());
        let mut last = "nobody was asked".to_owned();
        while Instant::now() < deadline {
            if let Some(members) = self.members().await
                && members.get(&id).copied() == change.goal()
            {
                return Ok(());
            }
            let mut asked = self.ids();
            asked.retain(|other| *other != id);
            // Not of the run's seed: whom to ask depends on who answers anyway.
            asked.shuffle(&mut rand::rng());
            for node in asked {
                last = match self.operate(node, &path, &json!({ "force": force })).await {
                    Ok((200, _)) => break,
                    Ok((status, body)) => format!("node {node}: {status} {body}"),
                    Err(why) => format!("node {node}: {why}"),
                };
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        Err(last)
    }

    /// Waits until the leader has a member in a role; `None`: until it is no member.
    pub async fn wait_role(&self, id: NodeId, role: Option<Role>, deadline: Instant) -> bool {
        while Instant::now() < deadline {
            if self.members().await.is_some_and(|members| members.get(&id).copied() == role) {
                return true;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        false
    }

    /// Decides that a node is to be removed: from now on it is neither compared nor asked at the end, and it may
    /// stop itself, saying why.
    pub async fn leaves(&self, id: NodeId) {
        self.excuse(id, REMOVAL, "it is removed from the cluster").await;
        self.stands(id, Standing::Leaving);
    }

    /// Forgets a node that is down for good: it is neither started nor compared any more.
    pub async fn forget(&self, id: NodeId) {
        // Nobody gives this one back: nemeses that know its number can do no harm.
        self.node(id).process.lock().await.holds.insert("forgotten");
        self.stands(id, Standing::Gone);
    }

    /// What is gone stays gone.
    pub(super) fn stands(&self, id: NodeId, standing: Standing) {
        let mut nodes = self.nodes.lock().expect("no panic while held");
        if let Some((now, _)) = nodes.get_mut(&id).filter(|(now, _)| *now != Standing::Gone) {
            *now = standing;
        }
    }

    fn is_gone(&self, id: NodeId) -> bool {
        let nodes = self.nodes.lock().expect("no panic while held");
        nodes.get(&id).is_none_or(|(standing, _)| *standing == Standing::Gone)
    }

    /// How often a node ended that said that it was removed.
    pub fn said_removed(&self, id: NodeId) -> usize {
        let exits = self.exits();
        exits.iter().filter(|exit| exit.node == id && exit.last_line.contains(SAYS_REMOVED)).count()
    }

    /// A nemesis saw something that must not be: the run is violated.
    pub fn find(&self, what: String) {
        self.findings.lock().expect("no panic while held").push(what);
    }

    /// What was found.
    pub fn findings(&self) -> Vec<String> {
        self.findings.lock().expect("no panic while held").clone()
    }

    /// Finishes what was begun, as an operator would after the faults: what is to be removed is removed, and is told
    /// so; all others are voters, and every one of them says the same of the members.
    ///
    /// # Errors
    /// What could not be brought about until the deadline.
    pub async fn settle_members(&self, deadline: Instant) -> Result<String, String> {
        let meant = self.ids();
        let strangers = |members: &Members| -> Vec<NodeId> {
            members.keys().copied().filter(|id| !meant.contains(id)).collect()
        };
        let members = loop {
            match self.members().await {
                Some(members) => break members,
                None if Instant::now() > deadline => return Err("no node says that it leads".to_owned()),
                None => tokio::time::sleep(ASK_AGAIN).await,
            }
        };
        for id in strangers(&members) {
            let removed = self.change_member(id, (Change::Remove, true), deadline).await;
            removed.map_err(|why| format!("node {id} could not be removed: {why}"))?;
        }
        for id in &meant {
            // Those that joined are promoted by themselves; those that were demoted stay as they are.
            if self.members().await.is_some_and(|members| members.get(id) == Some(&Role::Learner)) {
                let promoted = self.change_member(*id, (Change::Promote, true), deadline).await;
                promoted.map_err(|why| format!("node {id} could not be promoted: {why}"))?;
            }
        }
        let leaving = self.that_are(|standing| standing == Standing::Leaving);
        for node in &leaving {
            self.see_off(node.id, 1, deadline).await?;
        }
        self.all_agree(&meant, deadline).await
    }

    /// Waits until a node that was removed has ended so many times and said why, as a service manager starts it again;
    /// then it is forgotten.
    ///
    /// # Errors
    /// Where it does not: it has to.
    pub async fn see_off(&self, id: NodeId, times: usize, deadline: Instant) -> Result<(), String> {
        // One whose disk another nemesis took meanwhile has nothing to say any more.
        while self.said_removed(id) < times && !self.is_gone(id) {
            if Instant::now() > deadline {
                let last = self.node(id).last_line();
                return Err(format!("node {id} was removed and does not say so; its last line: {last}"));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        self.kill(id).await.map_err(|error| format!("node {id} cannot be ended: {error:#}"))?;
        self.forget(id).await;
        Ok(())
    }

    async fn all_agree(&self, meant: &[NodeId], deadline: Instant) -> Result<String, String> {
        let wanted: Members = meant.iter().map(|id| (*id, Role::Voter)).collect();
        loop {
            let seen =
                join_all(meant.iter().map(|id| async move { (*id, self.members_at(*id).await) })).await;
            let differs = seen.iter().find(|(_, members)| members.as_ref() != Some(&wanted));
            match differs {
                None => return Ok(format!("all {} members agree that they are {meant:?}", meant.len())),
                Some((id, members)) if Instant::now() > deadline => {
                    return Err(format!("the members should be {meant:?}; node {id} has {members:?}"));
                }
                Some(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
    }
}
