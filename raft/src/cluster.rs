//! One node's part in the cluster: what the API and the node's own tasks ask of it.

use crate::core::Core;
use crate::error::{ChangeError, ProposeError, ReadError};
use crate::network::Lane;
use crate::peers::Acknowledged;
use crate::proposer::{Group, Item, Origin};
use crate::proto::HelloRequest;
use crate::reads::ReadWaiter;
use crate::reports::{Heard, REPORT_INTERVAL, fingerprint};
use crate::slow_disk;
use crate::upgrade::TurnedAway;
use crate::wire;
use openraft::async_runtime::watch::WatchReceiver;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use stockroom_storage::codec::ProposalBytes;
use stockroom_storage::identity::Identity;
use stockroom_storage::log_store::Missing;
use stockroom_storage::reader::{Fingerprint, Reader};
use stockroom_storage::shop::effect::Answer;
use stockroom_storage::shop::planted::{self, Bug};
use stockroom_storage::shop::version::{ClusterVersion, Versions};
use stockroom_storage::type_config::Member;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// One node's part in the cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub(crate) core: Arc<Core>,
}

/// An answer and who gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// What was decided.
    pub answer: Answer,
    /// The leader that decided.
    pub node_id: u64,
}

/// What a node last said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Where its state stands.
    pub fingerprint: Fingerprint,
    /// Entries behind the leader's newest committed one.
    pub lag: u64,
    /// Of its program.
    pub version: String,
    /// Since it was heard; 0 for this node itself.
    pub heard_ms_ago: u64,
    /// Its wall clock minus the replicated clock, in ms.
    pub clock_offset_ms: i64,
    /// Time of a sync of its log, over the last seconds; `None` where nothing was synced.
    pub sync: Option<Duration>,
    /// It is being stopped.
    pub stopping: bool,
    /// The cluster versions that its program serves.
    pub versions: Versions,
    /// The one in force where it stands.
    pub cluster_version: ClusterVersion,
}

/// How a member counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Counts in quorums.
    Voter,
    /// Only follows.
    Learner,
}

/// One member as it is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its id.
    pub node_id: u64,
    /// Where peers reach it.
    pub peer_address: String,
    /// Where shops reach it.
    pub http_address: String,
    /// How it counts.
    pub role: Role,
    /// `None` where nothing was heard of it.
    pub report: Option<Report>,
}

/// The cluster as it is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Minted when it was bootstrapped.
    pub cluster_id: u128,
    /// This node.
    pub node_id: u64,
    /// Who leads, where that is known.
    pub leader: Option<u64>,
    /// In which term.
    pub term: u64,
    /// In order of id.
    pub members: Vec<MemberStatus>,
    /// Newest committed entry this node knows of.
    pub committed: u64,
    /// Which commands, rules and formats are in force, as far as this node has applied.
    pub cluster_version: ClusterVersion,
    /// Nodes that asked this one of late to be taken in, and were refused.
    pub turned_away: Vec<TurnedAway>,
}

/// A node that has not heard of its leader for so long is not ready.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(3);
/// Nor is one that is so many entries behind.
const READY_LAG_ENTRIES: u64 = 1_000;
impl Cluster {
    /// Hands a proposal to the leader, wherever it is, and waits for the answer. Routes again
    /// within the deadline where a leader definitely did not take it.
    ///
    /// # Errors
    /// See [`ProposeError`]: all but [`ProposeError::Unknown`] are definite.
    pub async fn propose(&self, proposal: ProposalBytes, deadline: Instant) -> Result<Served, ProposeError> {
        let mut answers = self.propose_all(vec![proposal], deadline).await;
        answers.pop().expect("one answer for each proposal")
    }

    /// Many independent proposals at once (`/batch`), answers in the same order.
    pub async fn propose_all(
        &self,
        proposals: Vec<ProposalBytes>,
        deadline: Instant,
    ) -> Vec<Result<Served, ProposeError>> {
        let group = Group::new(proposals.len());
        let mut items = Vec::with_capacity(proposals.len());
        for (slot, proposal) in proposals.into_iter().enumerate() {
            match self.admit(&proposal) {
                Ok(permit) => items.push(Item {
                    proposal,
                    deadline,
                    origin: Origin::Caller { group: Arc::clone(&group), slot, _permit: Some(permit) },
                }),
                Err(error) => {
                    let reason = reason(&error);
                    metrics::counter!("stockroom_raft_proposal_refusals_total", "reason" => reason)
                        .increment(1);
                    group.finish(slot, Err(error));
                }
            }
        }
        if !items.is_empty() {
            self.core.queue.push_all(items);
        }
        let answers = group.wait(deadline, || self.core.leadership.borrow().leader.is_some()).await;
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            if matches!(
                error,
                ProposeError::Unknown(_) | ProposeError::NoLeader | ProposeError::TimedOutBefore
            ) {
                metrics::counter!("stockroom_raft_proposal_failures_total", "reason" => reason(error))
                    .increment(1);
            }
        }
        answers
    }

    fn admit(&self, proposal: &ProposalBytes) -> Result<crate::proposer::Permit, ProposeError> {
        if self.core.draining.load(Ordering::Relaxed) {
            return Err(ProposeError::NotServing("this node is stopping".into()));
        }
        let (bytes, most) = (proposal.0.len(), self.core.options.max_entry_bytes);
        if bytes > most {
            return Err(ProposeError::TooLarge { bytes, most });
        }
        self.core.limits.enter(bytes)
    }

    /// The read index of the leader at a moment after this call; waits until this node has applied it.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_index(&self, deadline: Instant) -> Result<u64, ReadError> {
        if self.core.draining.load(Ordering::Relaxed) {
            return Err(ReadError::NotServing("this node is stopping".into()));
        }
        if planted::is(Bug::ReadWithoutReadIndex) {
            return Ok(self.core.reader.applied().fingerprint.log_index);
        }
        let (sender, answer) = oneshot::channel();
        self.core.reads.push([ReadWaiter::Caller(sender)]);
        let Ok(Ok(needed)) = tokio::time::timeout_at(deadline, answer).await else {
            return Err(ReadError::NoLeader);
        };
        if self.core.reader.wait_applied(needed, deadline).await {
            Ok(needed)
        } else {
            Err(ReadError::Behind { applied: self.core.reader.applied().fingerprint.log_index, needed })
        }
    }

    /// Upper bound, in ms, of how far this node's applied state is behind the leader's committed
    /// state in time; `None` where it cannot know.
    #[must_use]
    pub fn staleness_ms(&self) -> Option<u64> {
        let applied = self.core.reader.applied().fingerprint.log_index;
        let since = self.core.board().shows_all_before(applied)?;
        u64::try_from(since.elapsed().as_millis()).ok()
    }

    /// Reads this node's replica.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.core.reader
    }

    /// The cluster as it is known here.
    #[must_use]
    pub fn status(&self) -> Status {
        let core = &self.core;
        let own = core.report();
        let leadership = *core.leadership.borrow();
        let now = Instant::now();
        let mut board = core.board();
        board.hear(own, now);
        let member = |(node_id, (member, votes)): (u64, (Member, bool))| MemberStatus {
            node_id,
            peer_address: member.peer_address,
            http_address: member.http_address,
            role: if votes { Role::Voter } else { Role::Learner },
            report: board.of(node_id).and_then(|heard| report(heard, now)),
        };
        Status {
            cluster_id: core.identity.cluster_id,
            node_id: core.node_id(),
            leader: leadership.leader,
            term: leadership.term,
            members: core.members().into_iter().map(member).collect(),
            committed: core.committed(),
            cluster_version: core.reader.applied().cluster_version,
            turned_away: core.admission.turned_away(),
        }
    }

    /// Whether this node is a member and keeps up: (check, ok, detail) each.
    #[must_use]
    pub fn readiness(&self) -> Vec<(&'static str, bool, String)> {
        let core = &self.core;
        let member = core.members().contains_key(&core.node_id());
        let leader = core.leadership.borrow().leader;
        let applied = core.reader.applied().fingerprint.log_index;
        let lag = core.committed().saturating_sub(applied);
        let staleness = self.staleness_ms();
        let fresh = staleness.is_some_and(|ms| u128::from(ms) <= READY_WITHIN.as_millis());
        vec![
            (
                "serving",
                !core.draining.load(Ordering::Relaxed),
                "takes requests unless it is stopping".into(),
            ),
            (
                "member",
                member,
                format!("node {} of cluster {:032x}", core.node_id(), core.identity.cluster_id),
            ),
            ("leader", leader.is_some(), leader.map_or("none known".into(), |id| format!("node {id} leads"))),
            ("keeps_up", lag <= READY_LAG_ENTRIES, format!("{lag} committed entries not applied yet")),
            (
                "fresh",
                fresh,
                staleness
                    .map_or("no leader confirmed itself yet".into(), |ms| format!("at most {ms} ms stale")),
            ),
        ]
    }

    /// The log of this node begins after this entry; `None`: nothing was purged yet.
    #[must_use]
    pub fn purged(&self) -> Option<u64> {
        self.core.raft.metrics().borrow_watched().purged.as_ref().map(|log_id| log_id.index())
    }

    /// This node's id.
    #[must_use]
    pub fn node_id(&self) -> u64 {
        self.core.node_id()
    }

    /// Hands leadership to a voter that has caught up and answers; to the one that has the most
    /// where none is named. Returns who leads then. Of the leader only.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn transfer(&self, to: Option<u64>, deadline: Instant) -> Result<u64, ChangeError> {
        self.must_lead()?;
        let (own, mut tried) = (self.node_id(), Vec::new());
        loop {
            let fit = |node_id: u64| to.is_none_or(|to| to == node_id) && !tried.contains(&node_id);
            match self.core.successor(fit) {
                Some(successor) => match self.hand_over(successor, deadline).await? {
                    Some(leader) => return Ok(leader),
                    None => tried.push(successor),
                },
                None => break,
            }
        }
        if let Some(leader) = self.core.leadership.borrow().leader.filter(|leader| *leader != own) {
            return Ok(leader);
        }
        if !tried.is_empty() {
            return Err(ChangeError::Unknown(format!("asked to take over, and did not: {tried:?}")));
        }
        let whom = to.map_or("no other voter".to_owned(), |to| format!("node {to} is no other voter that"));
        Err(ChangeError::Refused(format!("{whom} has caught up and answers")))
    }

    /// Waits until another one leads. `None`: the successor declined, is being stopped, or went silent.
    async fn hand_over(&self, successor: u64, deadline: Instant) -> Result<Option<u64>, ChangeError> {
        let Some((member, _)) = self.core.members().remove(&successor) else { return Ok(None) };
        let peer = self.core.peers.of(successor, member.incarnation);
        let mut declined = peer.declined.subscribe();
        let unknown = |why: String| Err(ChangeError::Unknown(why));
        if let Err(fatal) = self.core.raft.trigger().transfer_leader(successor).await {
            return unknown(fatal.to_string());
        }
        let own = self.node_id();
        let mut leadership = self.core.leadership.clone();
        let moved = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != own));
        let address = self.core.address_of(successor, &member);
        let ends = async {
            while !self.core.stops_or_is_silent(successor) && self.is_reachable(&address).await {
                tokio::time::sleep(REPORT_INTERVAL).await;
            }
        };
        tokio::select! {
            moved = tokio::time::timeout_at(deadline, moved) => match moved {
                Ok(Ok(now)) => Ok(now.leader),
                Ok(Err(_)) => unknown("this node stopped".into()),
                Err(_) => unknown("nobody took over within the deadline".into()),
            },
            _ = declined.changed() => Ok(None),
            () = ends => Ok(None),
        }
    }

    /// False where nobody listens at an address. One that is only slow counts as reachable.
    async fn is_reachable(&self, address: &str) -> bool {
        let Ok(mut client) = self.core.dialer.client(address, Lane::Control) else {
            return false;
        };
        let asked = tokio::time::timeout(5 * REPORT_INTERVAL, client.hello(HelloRequest {}));
        !matches!(asked.await, Ok(Err(_)))
    }

    pub(crate) fn must_lead(&self) -> Result<(), ChangeError> {
        let leadership = *self.core.leadership.borrow();
        if leadership.mine { Ok(()) } else { Err(ChangeError::NotLeader(leadership.leader)) }
    }
}

/// Why a node whose data directory is gone cannot come back under its id, and what to do.
pub(crate) fn lost_disk(node_id: u64) -> String {
    format!(
        "node {node_id} is a member of the cluster with another data directory, and this one is empty: it forgot what \
         it voted for and what it acknowledged, so it must not count under this id. Start it as a new node with a new \
         id and an empty data directory, set to join the cluster, and remove the old id {node_id}"
    )
}

/// Why a node that lost what it had told the leader of a term to be durable must stop, and what to do.
pub(crate) fn lost_log(own: &Identity, acknowledged: &Acknowledged, missing: &Missing) -> String {
    let last = missing.last.map_or("nothing".to_owned(), |last| format!("entry {last}"));
    format!(
        "node {} lost what it had acknowledged: the leader of term {} had entry {} from it, and its log has a vote of \
         term {} and ends with {last}. Its data directory was replaced by an older copy, or files of its log are gone. {}",
        own.node_id,
        acknowledged.term,
        acknowledged.log_id,
        missing.voted_in,
        own.must_be_replaced(),
    )
}

fn reason(error: &ProposeError) -> &'static str {
    match error {
        ProposeError::NoLeader => "no_leader",
        ProposeError::Overloaded { .. } => "overloaded",
        ProposeError::TimedOutBefore => "timed_out",
        ProposeError::TooLarge { .. } => "too_large",
        ProposeError::NotServing(_) => "not_serving",
        ProposeError::Unknown(_) => "unknown",
    }
}

fn report(heard: &Heard, now: Instant) -> Option<Report> {
    let age = now.saturating_duration_since(heard.at).as_millis();
    Some(Report {
        fingerprint: fingerprint(&heard.report)?,
        lag: heard.report.lag,
        version: heard.report.version.clone(),
        heard_ms_ago: u64::try_from(age).unwrap_or(u64::MAX),
        clock_offset_ms: heard.report.clock_offset_ms,
        sync: slow_disk::sync_time(heard.report.sync_us),
        stopping: heard.report.stopping,
        versions: wire::versions(heard.report.versions),
        cluster_version: ClusterVersion(heard.report.cluster_version).max(ClusterVersion::FIRST),
    })
}

/// Members as openraft wants them.
pub(crate) type Members = BTreeMap<u64, Member>;
