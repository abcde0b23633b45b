//! Changes of the members, where this node leads.

use super::messages::change_of;
use super::{Intent, RETRY};
use crate::cluster::{Cluster, READY_WITHIN, lost_disk};
use crate::core::{CAUGHT_UP_ENTRIES, Core};
use crate::error::ChangeError;
use crate::plan::{self, Change, Plan, Standing};
use crate::proto::{
    ChangeRequest, ChangeResponse, HandOverRequest, HandOverResponse, change_response, hand_over_response,
};
use openraft::alias::LogIdOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, Precondition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use stockroom_storage::type_config::{Member, TypeConfig};
use tokio::time::Instant;

/// A change that is proposed is waited for at most so long: it needs one or two entries on a quorum.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

impl Cluster {
    /// Adds a node that only follows, and is promoted when it has caught up where it says so. Of
    /// the leader only.
    ///
    /// # Errors
    /// See [`ChangeError`]; refused where the id is a member with another disk.
    pub(crate) async fn add_learner(&self, node_id: u64, member: Member) -> Result<(), ChangeError> {
        self.must_lead()?;
        match self.core.members().get(&node_id) {
            Some((known, _)) if known.incarnation == member.incarnation => {
                let moved =
                    known.peer_address != member.peer_address || known.http_address != member.http_address;
                return if moved { self.readdress(node_id, member).await } else { Ok(()) };
            }
            Some(_) => return Err(ChangeError::Refused(lost_disk(node_id))),
            None => {}
        }
        let added = self.core.raft.add_learner(node_id, member, false);
        changed(tokio::time::timeout(COMMIT_TIMEOUT, added).await)
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
pub(super) async fn change_here(
    core: &Arc<Core>,
    change: Change,
    node_id: u64,
    intent: Intent,
    deadline: Instant,
) -> Result<Plan, ChangeError> {
    let cluster = Cluster { core: Arc::clone(core) };
    cluster.must_lead()?;
    // What is said of the members, but for a plan, must hold for good: so not while a change is half done.
    let known = match settled(core) {
        Err(busy) if !intent.plan_only => return Err(busy),
        known => known.unwrap_or_default(),
    };
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
pub(super) async fn transfer_soon(
    cluster: &Cluster,
    to: Option<u64>,
    deadline: Instant,
) -> Result<u64, ChangeError> {
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

type Write = Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

/// What became of a change of members.
fn changed(result: Result<Write, tokio::time::error::Elapsed>) -> Result<(), ChangeError> {
    match result {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            Err(ChangeError::NotLeader(forward.leader_id))
        }
        Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
            Err(ChangeError::Busy(error.to_string()))
        }
        Ok(Err(RaftError::APIError(ClientWriteError::PreconditionFailed(_)))) => {
            Err(ChangeError::Busy("the members were changed by somebody else just now".into()))
        }
        Ok(Err(error)) => Err(ChangeError::Unknown(error.to_string())),
        Err(_) => Err(ChangeError::Unknown("no quorum agreed in time".into())),
    }
}
