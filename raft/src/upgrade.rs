//! Upgrades: which cluster versions the members serve, and raising the one in force once all of them can.
//!
//! A node counts on what the members say of their programs. A node that is started with an older one between that and the
//! entry that raises stops before it; nothing is lost by that.

use crate::cluster::{Cluster, READY_WITHIN};
use crate::core::Core;
use crate::error::ProposeError;
use crate::plan::Concern;
use crate::proposer::{Group, Item, Origin};
use crate::proto::not_done::Kind as NotDoneKind;
use crate::proto::{
    MemberProgram as ProgramInfo, NotDone, UpgradeInfo, UpgradeRequest, UpgradeResponse, upgrade_response,
};
use crate::wire;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use stockroom_storage::codec::encode_proposal;
use stockroom_storage::shop::command::Command;
use stockroom_storage::shop::version::{ClusterVersion, Versions};
use stockroom_storage::version::must_serve;
use tokio::time::Instant;

/// Before the leader is looked for again.
const RETRY: Duration = Duration::from_millis(50);
/// A node that asks again and again is turned away once.
const MOST_TURNED_AWAY: usize = 16;
/// A new cluster tries for so long to begin with the newest version of its founders.
const BEGIN_WITHIN: Duration = Duration::from_secs(60);

/// What one member runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberProgram {
    /// Its id.
    pub node_id: u64,
    /// It counts in quorums.
    pub votes: bool,
    /// It was heard a moment ago.
    pub answers: bool,
    /// Version of its program; `None` where nothing was heard of it.
    pub program: Option<String>,
    /// The cluster versions that it serves.
    pub versions: Versions,
    /// The one in force where it stands.
    pub in_force: ClusterVersion,
}

/// What finalising an upgrade would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradePlan {
    /// In force now.
    pub from: ClusterVersion,
    /// The newest that any member serves.
    pub to: ClusterVersion,
    /// In order of id.
    pub members: Vec<MemberProgram>,
    /// Why it cannot be done now; empty where it can, or where there is nothing to do.
    pub blocked_by: Vec<Concern>,
}

impl UpgradePlan {
    /// The newest version that any member serves is in force already.
    #[must_use]
    pub fn already(&self) -> bool {
        self.from == self.to
    }

    fn of(members: Vec<MemberProgram>, from: ClusterVersion) -> Self {
        let newest =
            members.iter().filter(|member| member.program.is_some()).map(|member| member.versions.newest);
        let to = newest.max().unwrap_or(from).max(from);
        let blocks = |member: &MemberProgram| if to == from { None } else { obstacle(member, to) };
        let blocked_by = members.iter().filter_map(blocks).collect();
        UpgradePlan { from, to, members, blocked_by }
    }
}

/// Why a member stands against a version.
fn obstacle(member: &MemberProgram, to: ClusterVersion) -> Option<Concern> {
    let MemberProgram { node_id, versions, .. } = member;
    let (code, why, instead) = match &member.program {
        Some(program) if member.answers && !versions.serve(to) => (
            "member_too_old",
            format!("node {node_id} runs {program}, which serves cluster version {versions} and not {to}"),
            format!("Restart node {node_id} with the newer program."),
        ),
        Some(_) if member.answers => return None,
        _ => (
            "member_unreachable",
            format!(
                "node {node_id} does not answer: with an older program than the others' it could not come back once \
                 version {to} is in force"
            ),
            format!(
                "Start node {node_id} with the newer program; where it is gone for good, remove it first: stockctl member \
                 remove {node_id}"
            ),
        ),
    };
    Some(Concern { code: code.into(), why, instead, forceable: false })
}

/// Why an upgrade was not finalised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// Nothing was changed: no leader answered, or it could not decide now.
    #[error("{0}")]
    NotNow(String),
    /// Nothing was changed: the plan says which members stand against it.
    #[error("{}", whys(.0))]
    Blocked(Box<UpgradePlan>),
    /// It may or may not be in force: look at the cluster.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

fn whys(plan: &UpgradePlan) -> String {
    let whys: Vec<&str> = plan.blocked_by.iter().map(|concern| concern.why.as_str()).collect();
    whys.join("; ")
}

/// A node that was not taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnedAway {
    /// The id that it has.
    pub node_id: u64,
    /// Where peers reach it.
    pub peer_address: String,
    /// And what to do.
    pub why: String,
    /// Since it last asked.
    pub ago: Duration,
}

/// Who comes in, and with which cluster versions.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    /// Nobody comes in while an upgrade is finalised: the one that comes and the one that looks at all members would miss
    /// each other.
    pub(crate) gate: tokio::sync::Mutex<()>,
    /// A version that this leader proposed; from then on it is asked of those who come in.
    raising: AtomicU32,
    turned_away: Mutex<VecDeque<(TurnedAway, Instant)>>,
}

impl Admission {
    pub(crate) fn turn_away(&self, node_id: u64, peer_address: &str, why: &str) {
        let mut turned_away = self.turned_away.lock().unwrap_or_else(PoisonError::into_inner);
        turned_away.retain(|(known, _)| known.node_id != node_id);
        if turned_away.len() >= MOST_TURNED_AWAY {
            turned_away.pop_front();
        }
        tracing::warn!(node_id, peer_address, why, "a node was not taken in");
        let (peer_address, why) = (peer_address.to_owned(), why.to_owned());
        turned_away
            .push_back((TurnedAway { node_id, peer_address, why, ago: Duration::ZERO }, Instant::now()));
    }

    pub(crate) fn turned_away(&self) -> Vec<TurnedAway> {
        let turned_away = self.turned_away.lock().unwrap_or_else(PoisonError::into_inner);
        turned_away.iter().map(|(one, at)| TurnedAway { ago: at.elapsed(), ..one.clone() }).collect()
    }
}

/// Why a node with such a program cannot come in; `None` where it may, or where only a leader can say.
pub(crate) fn cannot_serve(core: &Core, node_id: u64, served: Versions) -> Option<String> {
    let in_force = core.reader.applied().cluster_version;
    // What is in force here is in force everywhere; whether more is, a leader that has applied its own term knows.
    let leads = core.leadership.borrow().mine && core.applied_of_own_term();
    if !leads && served.newest >= in_force {
        return None;
    }
    let asked = in_force.max(ClusterVersion(core.admission.raising.load(Ordering::Acquire)));
    let refused = must_serve(served, asked, "the cluster").err()?;
    Some(format!("node {node_id} cannot come in: {refused}"))
}

fn members(core: &Core) -> Vec<MemberProgram> {
    let own = core.node_id();
    core.board().hear(core.report(), Instant::now());
    let members = core.members();
    let board = core.board();
    let program = |(node_id, (_, votes)): (u64, (_, bool))| {
        let heard = board.of(node_id);
        MemberProgram {
            node_id,
            votes,
            answers: node_id == own
                || heard.is_some_and(|heard| !heard.left && heard.at.elapsed() < READY_WITHIN),
            program: heard.map(|heard| heard.report.version.clone()),
            versions: wire::versions(heard.and_then(|heard| heard.report.versions)),
            in_force: heard.map_or(ClusterVersion::FIRST, |heard| in_force(heard.report.cluster_version)),
        }
    };
    members.into_iter().map(program).collect()
}

fn in_force(number: u32) -> ClusterVersion {
    ClusterVersion(number).max(ClusterVersion::FIRST)
}

impl Cluster {
    /// Puts the newest cluster version that all members serve in force, by way of the leader, wherever it is; or only works
    /// out what that would do. To ask again is always safe.
    ///
    /// # Errors
    /// See [`UpgradeError`]; definite but for [`UpgradeError::Unknown`].
    pub async fn finalize_upgrade(
        &self,
        plan_only: bool,
        deadline: Instant,
    ) -> Result<UpgradePlan, UpgradeError> {
        let mut unknown = None;
        loop {
            let leader = self.core.leadership.borrow().leader;
            let answer = match leader {
                Some(leader) if leader == self.node_id() => raise_here(&self.core, plan_only, deadline).await,
                Some(leader) => self.ask_to_raise(leader, plan_only, deadline).await,
                None => Err(UpgradeError::NotNow("no leader is known".into())),
            };
            match &answer {
                Err(UpgradeError::NotNow(_)) => {}
                Err(UpgradeError::Unknown(why)) => unknown = Some(why.clone()),
                _ => return answer,
            }
            if Instant::now() + RETRY >= deadline {
                return match unknown {
                    Some(why) if plan_only => Err(UpgradeError::NotNow(why)),
                    Some(why) => Err(UpgradeError::Unknown(why)),
                    None => answer,
                };
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn ask_to_raise(
        &self,
        leader: u64,
        plan_only: bool,
        deadline: Instant,
    ) -> Result<UpgradePlan, UpgradeError> {
        let not_now = |why: String| UpgradeError::NotNow(why);
        let (mut client, route) = self.client_of(leader).map_err(|error| not_now(error.to_string()))?;
        let remaining = deadline.saturating_duration_since(Instant::now()).as_millis();
        let remaining_ms = u32::try_from(remaining).unwrap_or(u32::MAX);
        let request = UpgradeRequest { route: Some(route), plan_only, remaining_ms };
        let unknown =
            |why: &str| UpgradeError::Unknown(format!("node {leader}, which leads, did not answer: {why}"));
        let answer = match tokio::time::timeout_at(deadline, client.upgrade(request)).await {
            Ok(Ok(answer)) => answer.into_inner().result,
            Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => {
                return Err(not_now(status.message().to_owned()));
            }
            Ok(Err(status)) => return Err(unknown(status.message())),
            Err(_) => return Err(unknown("no answer in time")),
        };
        match answer {
            Some(upgrade_response::Result::Done(plan)) => Ok(plan.into()),
            Some(upgrade_response::Result::Blocked(plan)) => {
                Err(UpgradeError::Blocked(Box::new(plan.into())))
            }
            Some(upgrade_response::Result::NotDone(not_done)) => Err(match not_done.kind() {
                NotDoneKind::Unknown => UpgradeError::Unknown(not_done.why),
                _ => not_now(not_done.why),
            }),
            None => Err(unknown("an answer without a result")),
        }
    }
}

/// Does it, where this node leads.
async fn raise_here(
    core: &Arc<Core>,
    plan_only: bool,
    deadline: Instant,
) -> Result<UpgradePlan, UpgradeError> {
    let not_now = |why: &str| Err(UpgradeError::NotNow(why.to_owned()));
    let Ok(_nobody_comes_in) = tokio::time::timeout_at(deadline, core.admission.gate.lock()).await else {
        return not_now("a node is being taken in");
    };
    if !core.leadership.borrow().mine || !core.applied_of_own_term() {
        return not_now("this node does not lead, or has only begun to");
    }
    let plan = UpgradePlan::of(members(core), core.reader.applied().cluster_version);
    if plan_only || plan.already() {
        return Ok(plan);
    }
    if !plan.blocked_by.is_empty() {
        return Err(UpgradeError::Blocked(Box::new(plan)));
    }
    core.admission.raising.fetch_max(plan.to.0, Ordering::AcqRel);
    match propose(core, Command::RaiseClusterVersion(plan.to), deadline).await {
        Ok(()) => Ok(plan),
        Err(ProposeError::Unknown(why)) => Err(UpgradeError::Unknown(why)),
        Err(error) => {
            core.admission.raising.store(0, Ordering::Release);
            not_now(&error.to_string())
        }
    }
}

/// Proposes a command of the node's own.
async fn propose(core: &Core, command: Command, deadline: Instant) -> Result<(), ProposeError> {
    let group = Group::new(1);
    core.queue.push_all([Item {
        proposal: encode_proposal(None, command),
        deadline,
        origin: Origin::Caller { group: Arc::clone(&group), slot: 0, _permit: None },
    }]);
    let leader_known = || core.leadership.borrow().leader.is_some();
    let mut answers = group.wait(deadline, leader_known).await;
    answers.pop().expect("one answer for each proposal").map(|_| ())
}

/// Serves [`Cluster::finalize_upgrade`] of other nodes.
pub(crate) async fn serve(core: &Arc<Core>, request: &UpgradeRequest) -> UpgradeResponse {
    let deadline = Instant::now() + Duration::from_millis(request.remaining_ms.into());
    let not_done = |kind: NotDoneKind, why| {
        upgrade_response::Result::NotDone(NotDone { kind: kind.into(), why, plan: None })
    };
    let result = match raise_here(core, request.plan_only, deadline).await {
        Ok(plan) => upgrade_response::Result::Done(plan.into()),
        Err(UpgradeError::Blocked(plan)) => upgrade_response::Result::Blocked((*plan).into()),
        Err(UpgradeError::Unknown(why)) => not_done(NotDoneKind::Unknown, why),
        Err(UpgradeError::NotNow(why)) => not_done(NotDoneKind::Busy, why),
    };
    UpgradeResponse { result: Some(result) }
}

/// A new cluster begins with the newest version that all its founders serve. Where that fails, an operator finalises.
pub(crate) fn begin_at(core: Arc<Core>, version: ClusterVersion) {
    if version <= ClusterVersion::FIRST {
        return;
    }
    let ending = core.ending.clone();
    let begin = async move {
        let deadline = Instant::now() + BEGIN_WITHIN;
        while core.reader.applied().cluster_version < version && Instant::now() < deadline {
            if let Err(error) = propose(&core, Command::RaiseClusterVersion(version), deadline).await {
                tracing::debug!(%error, "the first cluster version is not in force yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    tokio::spawn(async move { ending.run_until_cancelled(begin).await });
}

/// Proposes the command that only a `next-version` build knows, in force or not, as a careless program would.
#[cfg(feature = "next-version")]
pub(crate) async fn rehearse(core: Arc<Core>) {
    const EVERY: Duration = Duration::from_millis(100);
    loop {
        tokio::time::sleep(EVERY).await;
        let _ = propose(&core, Command::Rehearse, Instant::now() + EVERY * 20).await;
    }
}

impl From<UpgradePlan> for UpgradeInfo {
    fn from(plan: UpgradePlan) -> Self {
        let program = |member: MemberProgram| ProgramInfo {
            node_id: member.node_id,
            voter: member.votes,
            answers: member.answers,
            program: member.program.unwrap_or_default(),
            versions: Some(wire::versions_info(member.versions)),
            cluster_version: member.in_force.0,
        };
        UpgradeInfo {
            from_version: plan.from.0,
            to_version: plan.to.0,
            members: plan.members.into_iter().map(program).collect(),
            blocked_by: plan.blocked_by.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<UpgradeInfo> for UpgradePlan {
    fn from(plan: UpgradeInfo) -> Self {
        let program = |member: ProgramInfo| MemberProgram {
            node_id: member.node_id,
            votes: member.voter,
            answers: member.answers,
            program: Some(member.program).filter(|program| !program.is_empty()),
            versions: wire::versions(member.versions),
            in_force: in_force(member.cluster_version),
        };
        UpgradePlan {
            from: in_force(plan.from_version),
            to: in_force(plan.to_version),
            members: plan.members.into_iter().map(program).collect(),
            blocked_by: plan.blocked_by.into_iter().map(Into::into).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One member a word: its newest version, `?` where nothing was heard of it, with `!` behind where it is silent.
    fn plan(members: &str, from: u32) -> (u32, Vec<(&'static str, String)>) {
        let member = |(node_id, word): (u64, &str)| {
            let newest = word.trim_end_matches('!').parse().ok();
            MemberProgram {
                node_id,
                votes: true,
                answers: !word.ends_with(['!', '?']),
                program: newest.map(|newest: u32| format!("0.{newest}")),
                versions: Versions { oldest: ClusterVersion(1), newest: ClusterVersion(newest.unwrap_or(1)) },
                in_force: ClusterVersion(from),
            }
        };
        let members = (1..).zip(members.split(' ')).map(member).collect();
        let plan = UpgradePlan::of(members, ClusterVersion(from));
        let code = |code: &str| match code {
            "member_too_old" => "old",
            "member_unreachable" => "silent",
            other => panic!("{other}"),
        };
        let blocked =
            plan.blocked_by.iter().map(|concern| (code(&concern.code), concern.why[5..6].to_owned()));
        (plan.to.0, blocked.collect())
    }

    #[test]
    fn the_newest_version_of_all_is_the_goal_and_whoever_does_not_serve_it_blocks() {
        let blocked = |code, node: &str| (code, node.to_owned());
        assert_eq!(plan("1 1 1", 1), (1, vec![]));
        assert_eq!(plan("2 1 1", 1), (2, vec![blocked("old", "2"), blocked("old", "3")]));
        assert_eq!(plan("2 2 2", 1), (2, vec![]));
        assert_eq!(plan("2 2 2", 2), (2, vec![]));
        // Which program a silent one comes back with nobody knows.
        assert_eq!(plan("2 2 2!", 1), (2, vec![blocked("silent", "3")]));
        assert_eq!(plan("2 2 ?", 1), (2, vec![blocked("silent", "3")]));
        // Where there is nothing to raise, nobody stands against it.
        assert_eq!(plan("2 2 ?", 2), (2, vec![]));
        assert_eq!(plan("3 2 2", 1), (3, vec![blocked("old", "2"), blocked("old", "3")]));
    }

    #[test]
    fn a_plan_goes_over_the_wire_and_back() {
        let member = MemberProgram {
            node_id: 3,
            votes: false,
            answers: true,
            program: Some("0.1.0".into()),
            versions: stockroom_storage::shop::version::SERVED,
            in_force: ClusterVersion(1),
        };
        let plan = UpgradePlan::of(vec![member], ClusterVersion(1));
        assert_eq!(UpgradePlan::from(UpgradeInfo::from(plan.clone())), plan);
    }
}
