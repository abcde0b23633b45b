//! What operators do to the members: asked of any node, done by the leader, one change at a time.

use crate::cluster::{Cluster, READY_WITHIN, changed};
use crate::core::{CAUGHT_UP_ENTRIES, Core};
use crate::error::ChangeError;
use crate::network::Lane;
use crate::plan::{self, Change, Concern, Plan, Quorum, Standing};
use crate::proto::change_request::Kind as ChangeKind;
use crate::proto::not_done::Kind as NotDoneKind;
use crate::proto::peer_client::PeerClient;
use crate::proto::{
    ChangeRequest, ChangeResponse, ConcernInfo, HandOverRequest, HandOverResponse, NotDone, PlanInfo,
    QuorumInfo, change_response, hand_over_response,
};
use openraft::alias::LogIdOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{ChangeMembers, Precondition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use stockroom_storage::type_config::{Member, TypeConfig};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// A change that is proposed is waited for at most so long: it needs one or two entries on a quorum.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Before the leader is looked for again.
const RETRY: Duration = Duration::from_millis(50);

/// How a change is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Intent {
    /// Although it is unsafe, where that can be.
    pub force: bool,
    /// Only work it out, and change nothing.
    pub plan_only: bool,
}

/// Leadership as it was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandedOver {
    /// Who leads now.
    pub leader: u64,
    /// In which term, as far as this node has heard.
    pub term: u64,
    /// It led before: nothing was done.
    pub already: bool,
    /// From the question to the moment at which the new leader was known here.
    pub took: Duration,
}

impl Cluster {
    /// Changes one member, by way of the leader, wherever it is. The answer is definite but for
    /// [`ChangeError::Unknown`]; asking for the same again is always safe.
    ///
    /// # Errors
    /// See [`ChangeError`]: among them the plan, where it is unsafe.
    pub async fn change(
        &self,
        change: Change,
        node_id: u64,
        intent: Intent,
        deadline: Instant,
    ) -> Result<Plan, ChangeError> {
        let plan = self.ask(change, node_id, Intent { plan_only: true, ..intent }, deadline).await?;
        if intent.plan_only || plan.already {
            return Ok(plan);
        }
        match self.ask(change, node_id, intent, deadline).await {
            // It was a member when the plan was made: an earlier attempt of ours did it.
            Err(ChangeError::NoSuchMember(_)) if change == Change::Remove => Ok(plan),
            // As it was planned: a new leader, to which the old one handed over, sees it otherwise.
            done => done.map(|_| plan),
        }
    }

    async fn ask(
        &self,
        change: Change,
        node_id: u64,
        intent: Intent,
        deadline: Instant,
    ) -> Result<Plan, ChangeError> {
        let mut unknown = None;
        loop {
            let leader = self.core.leadership.borrow().leader;
            let answer = match leader {
                Some(leader) if leader == self.node_id() => {
                    change_here(&self.core, change, node_id, intent, deadline).await
                }
                Some(leader) => self.ask_leader(leader, change, node_id, intent, deadline).await,
                None => Err(ChangeError::NotLeader(None)),
            };
            match answer {
                Err(ChangeError::NotLeader(_)) => {}
                // A busy leader is done with the change before in a moment.
                Err(ChangeError::Busy(_)) => {}
                Err(ChangeError::Unknown(ref why)) => unknown = Some(why.clone()),
                answer => return answer,
            }
            if Instant::now() + RETRY >= deadline {
                // To work something out changes nothing: then it is only that nobody answered.
                return match unknown {
                    Some(_) if intent.plan_only => Err(ChangeError::NotLeader(None)),
                    Some(why) => Err(ChangeError::Unknown(why)),
                    None => answer,
                };
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    pub(crate) fn client_of(
        &self,
        leader: u64,
    ) -> Result<(PeerClient<Channel>, crate::proto::Route), ChangeError> {
        let member = self.core.members().remove(&leader).ok_or(ChangeError::NotLeader(None))?.0;
        let client = self.core.dialer.client(&self.core.address_of(leader, &member), Lane::Control);
        let client = client.map_err(|status| ChangeError::Unknown(status.message().to_owned()))?;
        Ok((client, self.core.route(leader, member.incarnation)))
    }

    async fn ask_leader(
        &self,
        leader: u64,
        change: Change,
        node_id: u64,
        intent: Intent,
        deadline: Instant,
    ) -> Result<Plan, ChangeError> {
        let (mut client, route) = self.client_of(leader)?;
        let mut request = ChangeRequest {
            route: Some(route),
            node_id,
            force: intent.force,
            plan_only: intent.plan_only,
            remaining_ms: remaining_ms(deadline),
            ..ChangeRequest::default()
        };
        request.set_kind(kind_of(change));
        let answer = tokio::time::timeout_at(deadline, client.change(request)).await;
        match received(leader, answer)?.result {
            Some(change_response::Result::Done(plan)) => Ok(plan.into()),
            Some(change_response::Result::NotDone(not_done)) => Err(not_done.into()),
            None => Err(ChangeError::Unknown(format!("node {leader} answered nothing"))),
        }
    }

    /// Hands leadership over, by way of the leader, and waits until this node knows the new one.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn hand_leadership_over(
        &self,
        to: Option<u64>,
        deadline: Instant,
    ) -> Result<HandedOver, ChangeError> {
        let begun = Instant::now();
        let mut leadership = self.core.leadership.clone();
        let mut after = leadership.clone();
        // What it waits for is a borrow, which must not be held while waiting for anything else.
        let known = leadership.wait_for(|now| now.leader.is_some());
        let before = match tokio::time::timeout_at(deadline, known).await {
            Ok(Ok(now)) => Some(*now),
            _ => None,
        };
        let Some(before) = before else { return Err(ChangeError::NotLeader(None)) };
        let handed = |now: crate::Leadership, already| HandedOver {
            leader: now.leader.unwrap_or_default(),
            term: now.term,
            already,
            took: begun.elapsed(),
        };
        let from = before.leader.unwrap_or_default();
        if to == Some(from) {
            return Ok(handed(before, true));
        }
        let leader = if before.mine {
            transfer_soon(self, to, deadline).await?
        } else {
            self.ask_to_hand_over(from, to, deadline).await?
        };
        // It may have moved on since; what counts is that a later term has begun.
        let moved = after
            .wait_for(|now| now.leader == Some(leader) || (now.leader.is_some() && now.term > before.term));
        match tokio::time::timeout_at(deadline, moved).await {
            Ok(Ok(now)) => Ok(handed(*now, false)),
            _ => Err(ChangeError::Unknown(format!("node {leader} leads, but this node has not heard of it"))),
        }
    }

    async fn ask_to_hand_over(
        &self,
        leader: u64,
        to: Option<u64>,
        deadline: Instant,
    ) -> Result<u64, ChangeError> {
        let (mut client, route) = self.client_of(leader)?;
        let request = HandOverRequest {
            route: Some(route),
            to: to.unwrap_or_default(),
            remaining_ms: remaining_ms(deadline),
        };
        let answer = tokio::time::timeout_at(deadline, client.hand_over(request)).await;
        match received(leader, answer)?.result {
            Some(hand_over_response::Result::Leader(leader)) => Ok(leader),
            Some(hand_over_response::Result::NotDone(not_done)) => Err(not_done.into()),
            None => Err(ChangeError::Unknown(format!("node {leader} answered nothing"))),
        }
    }

    /// A member comes back at other addresses, with the data directory that it had. Of the leader only.
    pub(crate) async fn readdress(&self, node_id: u64, moved: Member) -> Result<(), ChangeError> {
        let members = self.core.members();
        let other = members.iter().find(|(id, (other, _))| {
            **id != node_id
                && (other.peer_address == moved.peer_address || other.http_address == moved.http_address)
        });
        if let Some((other, _)) = other {
            return Err(ChangeError::Refused(format!(
                "node {node_id} comes back at addresses of which node {other} has one ({} for peers, {} for HTTP): give each \
                 node its own",
                moved.peer_address, moved.http_address
            )));
        }
        let promote = members.get(&node_id).is_some_and(|(known, _)| known.promote);
        let moved = Member { promote, ..moved };
        let (peer, http) = (moved.peer_address.clone(), moved.http_address.clone());
        let change = ChangeMembers::SetNodes(BTreeMap::from([(node_id, moved)]));
        commit(&self.core, change, true, settled(&self.core)?).await?;
        tracing::info!(node_id, peer, http, "a member has moved to other addresses");
        Ok(())
    }
}

fn remaining_ms(deadline: Instant) -> u32 {
    let remaining = deadline.saturating_duration_since(Instant::now()).as_millis();
    u32::try_from(remaining).unwrap_or(u32::MAX)
}

/// An answer of the leader; where there is none, it may have done what it was asked.
fn received<T>(
    leader: u64,
    answer: Result<Result<Response<T>, Status>, tokio::time::error::Elapsed>,
) -> Result<T, ChangeError> {
    let unknown =
        |why: &str| ChangeError::Unknown(format!("node {leader}, which leads, did not answer: {why}"));
    match answer {
        Ok(Ok(response)) => Ok(response.into_inner()),
        // Not meant for it, or not a member any more: it did nothing.
        Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => {
            Err(ChangeError::NotLeader(None))
        }
        Ok(Err(status)) => Err(unknown(status.message())),
        Err(_) => Err(unknown("no answer in time")),
    }
}

/// The members as the leader knows them.
fn standings(core: &Core) -> BTreeMap<u64, Standing> {
    let metrics = core.raft.metrics().borrow_watched().clone();
    let last = metrics.last_log_index.unwrap_or_default();
    let replication = metrics.replication.unwrap_or_default();
    let own = core.node_id();
    let standing = |(node_id, (member, votes)): (u64, (Member, bool))| {
        let matched = replication.get(&node_id).and_then(Option::as_ref);
        let standing = Standing {
            votes,
            live: node_id == own || core.is_there(node_id, READY_WITHIN),
            caught_up: node_id == own
                || matched.is_some_and(|matched| last.saturating_sub(matched.index()) <= CAUGHT_UP_ENTRIES),
            peer_address: member.peer_address,
        };
        (node_id, standing)
    };
    core.members().into_iter().map(standing).collect()
}

type MembershipId = Option<LogIdOf<TypeConfig>>;

/// Where the members stand in the log, once the change before is complete.
fn settled(core: &Core) -> Result<MembershipId, ChangeError> {
    let metrics = core.raft.server_metrics();
    let metrics = metrics.borrow_watched();
    let effective = &metrics.membership_config;
    if effective.log_id() != metrics.committed_membership_config.log_id()
        || effective.get_joint_config().len() > 1
    {
        return Err(ChangeError::Busy("another change of the members is not complete yet".into()));
    }
    Ok(*effective.log_id())
}

/// Does it, where this node leads.
async fn change_here(
    core: &Arc<Core>,
    change: Change,
    node_id: u64,
    intent: Intent,
    deadline: Instant,
) -> Result<Plan, ChangeError> {
    let cluster = Cluster { core: Arc::clone(core) };
    cluster.must_lead()?;
    let known = settled(core);
    let plan =
        plan::plan(&standings(core), core.node_id(), change, node_id).map_err(ChangeError::NoSuchMember)?;
    if intent.plan_only || plan.already {
        return Ok(plan);
    }
    if change == Change::Add {
        return Err(ChangeError::Refused("a node comes in by being started with `join`".into()));
    }
    if plan.refusal(intent.force).is_some() {
        return Err(ChangeError::Unsafe(Box::new(plan)));
    }
    let known = known?;
    if node_id == core.node_id() && change != Change::Promote {
        let leader = transfer_soon(&cluster, None, deadline).await?;
        return Err(ChangeError::NotLeader(Some(leader)));
    }
    let forced: Vec<&str> = plan.unsafe_because.iter().map(|concern| concern.code.as_str()).collect();
    if !forced.is_empty() {
        tracing::warn!(node_id, ?change, ?forced, "an unsafe change of the members is forced");
    }
    let member = core.members().remove(&node_id).map(|(member, _)| member).unwrap_or_default();
    let votes = core.voters().contains(&node_id);
    let (members, retain) = as_openraft(change, node_id, member, votes);
    // It goes on where the caller's time is over.
    match tokio::time::timeout_at(deadline, commit(core, members, retain, known)).await {
        Ok(committed) => committed?,
        Err(_) => return Err(ChangeError::Unknown("no majority agreed within the deadline".into())),
    }
    tracing::info!(node_id, ?change, "the members were changed");
    Ok(plan)
}

/// [`Cluster::transfer`] with some patience: a leader has not heard of all right after it took over.
async fn transfer_soon(cluster: &Cluster, to: Option<u64>, deadline: Instant) -> Result<u64, ChangeError> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let voters = cluster.core.voters();
    if let Some(to) = to
        && !voters.contains(&to)
    {
        return Err(ChangeError::Refused(format!("node {to} is no voter: the voters are {voters:?}")));
    }
    let until = deadline.min(Instant::now() + PATIENCE);
    loop {
        match cluster.transfer(to, deadline).await {
            Err(ChangeError::Refused(_)) if Instant::now() + RETRY < until => tokio::time::sleep(RETRY).await,
            handed => return handed,
        }
    }
}

/// The change in openraft's words, and whether a voter that votes no more stays as a learner.
fn as_openraft(
    change: Change,
    node_id: u64,
    member: Member,
    votes: bool,
) -> (ChangeMembers<u64, Member>, bool) {
    let id = BTreeSet::from([node_id]);
    match change {
        Change::Add | Change::Promote => (ChangeMembers::AddVoterIds(id), true),
        Change::Remove if !votes => (ChangeMembers::RemoveNodes(id), false),
        Change::Demote | Change::Remove => {
            // Else it would be promoted again: at once after it was demoted, and in a removal whose second half is lost
            // with its leader.
            let stays =
                ChangeMembers::SetNodes(BTreeMap::from([(node_id, Member { promote: false, ..member })]));
            let batch = ChangeMembers::Batch(vec![stays, ChangeMembers::RemoveVoters(id)]);
            (batch, change == Change::Demote)
        }
    }
}

/// Proposes a change on top of `known`, and sees it through also where its caller gives up: it has two halves.
async fn commit(
    core: &Arc<Core>,
    change: ChangeMembers<u64, Member>,
    retain: bool,
    known: MembershipId,
) -> Result<(), ChangeError> {
    let core = Arc::clone(core);
    let committing = tokio::spawn(async move {
        let only_on_top = [Precondition::LastMembershipLogId { last_membership_log_id: known }];
        let change = core.raft.change_membership_if(change, retain, only_on_top);
        changed(tokio::time::timeout(COMMIT_TIMEOUT, change).await)
    });
    committing.await.unwrap_or_else(|error| Err(ChangeError::Unknown(error.to_string())))
}

/// A change whose leader went away half way stays half done until somebody completes it. Of the leader, from time to
/// time; `since` says since when it is seen.
pub(crate) async fn complete_half_done(core: &Core, since: &mut Option<Instant>) {
    /// The one who made it completes it sooner.
    const PATIENCE: Duration = Duration::from_secs(2);
    let half_done = {
        let metrics = core.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let committed = &metrics.committed_membership_config;
        (metrics.state.is_leader() && committed.get_joint_config().len() > 1).then(|| *committed.log_id())
    };
    let Some(log_id) = half_done else {
        *since = None;
        return;
    };
    if since.get_or_insert_with(Instant::now).elapsed() < PATIENCE {
        return;
    }
    *since = None;
    // A change of nothing leads from the joint configuration to its goal. A voter that was to be removed stays as a
    // learner: to remove it is asked for again.
    let nothing = ChangeMembers::AddVoterIds(BTreeSet::new());
    let on_top = [Precondition::LastMembershipLogId { last_membership_log_id: log_id }];
    let change = core.raft.change_membership_if(nothing, true, on_top);
    match changed(tokio::time::timeout(COMMIT_TIMEOUT, change).await) {
        Ok(()) => tracing::info!("completed a change of members that was left half done"),
        Err(error) => {
            tracing::warn!(%error, "a change of members that was left half done is not complete yet")
        }
    }
}

/// Serves [`Cluster::change`] of other nodes.
pub(crate) async fn serve_change(core: &Arc<Core>, request: ChangeRequest) -> ChangeResponse {
    let deadline = Instant::now() + Duration::from_millis(request.remaining_ms.into());
    let intent = Intent { force: request.force, plan_only: request.plan_only };
    let answer = match change_of(request.kind()) {
        Some(change) => change_here(core, change, request.node_id, intent, deadline).await,
        None => Err(ChangeError::Refused("this node does not know this kind of change: is it older?".into())),
    };
    let result = match answer {
        Ok(plan) => change_response::Result::Done(plan.into()),
        Err(error) => change_response::Result::NotDone(error.into()),
    };
    ChangeResponse { result: Some(result) }
}

/// Serves [`Cluster::hand_leadership_over`] of other nodes.
pub(crate) async fn serve_hand_over(core: &Arc<Core>, request: HandOverRequest) -> HandOverResponse {
    let deadline = Instant::now() + Duration::from_millis(request.remaining_ms.into());
    let cluster = Cluster { core: Arc::clone(core) };
    let result = match transfer_soon(&cluster, (request.to != 0).then_some(request.to), deadline).await {
        Ok(leader) => hand_over_response::Result::Leader(leader),
        Err(error) => hand_over_response::Result::NotDone(error.into()),
    };
    HandOverResponse { result: Some(result) }
}

fn kind_of(change: Change) -> ChangeKind {
    match change {
        Change::Add => ChangeKind::Add,
        Change::Promote => ChangeKind::Promote,
        Change::Demote => ChangeKind::Demote,
        Change::Remove => ChangeKind::Remove,
    }
}

fn change_of(kind: ChangeKind) -> Option<Change> {
    match kind {
        ChangeKind::Add => Some(Change::Add),
        ChangeKind::Promote => Some(Change::Promote),
        ChangeKind::Demote => Some(Change::Demote),
        ChangeKind::Remove => Some(Change::Remove),
        ChangeKind::Unspecified => None,
    }
}

impl From<ChangeError> for NotDone {
    fn from(error: ChangeError) -> Self {
        let (kind, why, plan) = match error {
            ChangeError::NotLeader(_) => (NotDoneKind::NotLeader, String::new(), None),
            ChangeError::NoSuchMember(why) => (NotDoneKind::NoSuchMember, why, None),
            ChangeError::Unsafe(plan) => (NotDoneKind::Unsafe, String::new(), Some((*plan).into())),
            ChangeError::Busy(why) => (NotDoneKind::Busy, why, None),
            ChangeError::Refused(why) => (NotDoneKind::Unspecified, why, None),
            ChangeError::Unknown(why) => (NotDoneKind::Unknown, why, None),
        };
        NotDone { kind: kind.into(), why, plan }
    }
}

impl From<NotDone> for ChangeError {
    fn from(not_done: NotDone) -> Self {
        let (kind, why) = (not_done.kind(), not_done.why);
        match (kind, not_done.plan) {
            (NotDoneKind::NotLeader, _) => ChangeError::NotLeader(None),
            (NotDoneKind::NoSuchMember, _) => ChangeError::NoSuchMember(why),
            (NotDoneKind::Unsafe, Some(plan)) => ChangeError::Unsafe(Box::new(plan.into())),
            (NotDoneKind::Busy, _) => ChangeError::Busy(why),
            (NotDoneKind::Unknown, _) => ChangeError::Unknown(why),
            (NotDoneKind::Unsafe | NotDoneKind::Unspecified, _) => ChangeError::Refused(why),
        }
    }
}

impl From<Quorum> for QuorumInfo {
    fn from(Quorum { voters, majority, live }: Quorum) -> Self {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        QuorumInfo { voters: count(voters), majority: count(majority), live: count(live) }
    }
}

impl From<QuorumInfo> for Quorum {
    fn from(QuorumInfo { voters, majority, live }: QuorumInfo) -> Self {
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Quorum { voters: count(voters), majority: count(majority), live: count(live) }
    }
}

impl From<Concern> for ConcernInfo {
    fn from(Concern { code, why, instead, forceable }: Concern) -> Self {
        ConcernInfo { code, why, instead, forceable }
    }
}

impl From<ConcernInfo> for Concern {
    fn from(ConcernInfo { code, why, instead, forceable }: ConcernInfo) -> Self {
        Concern { code, why, instead, forceable }
    }
}

impl From<Plan> for PlanInfo {
    fn from(plan: Plan) -> Self {
        PlanInfo {
            node_id: plan.node_id,
            before: Some(plan.before.into()),
            after: Some(plan.after.into()),
            already: plan.already,
            unsafe_because: plan.unsafe_because.into_iter().map(Into::into).collect(),
            notes: plan.notes,
            join: plan.join,
        }
    }
}

impl From<PlanInfo> for Plan {
    fn from(plan: PlanInfo) -> Self {
        Plan {
            node_id: plan.node_id,
            before: plan.before.unwrap_or_default().into(),
            after: plan.after.unwrap_or_default().into(),
            already: plan.already,
            unsafe_because: plan.unsafe_because.into_iter().map(Into::into).collect(),
            notes: plan.notes,
            join: plan.join,
        }
    }
}
