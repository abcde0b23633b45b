//! What the parts of one running member share.

use crate::alarms::Alarms;
use crate::clock::{Clock, OFFSET_ALARM_MS, ReplicatedClock};
use crate::disk_space::{self, Disk};
use crate::maintenance::Writing;
use crate::network::Dialer;
use crate::options::RaftOptions;
use crate::peers::Peers;
use crate::proposer::{Limits, Queue};
use crate::proto::{NodeReport, Route};
use crate::reads::Reads;
use crate::reports::{Board, REPORT_INTERVAL};
use crate::slow_disk::{self, SlowDisk};
use crate::upgrade::Admission;
use crate::{Leadership, Stop, proto, wire};
use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use stockroom_storage::Storage;
use stockroom_storage::identity::Identity;
use stockroom_storage::reader::Reader;
use stockroom_storage::shop::planted;
use stockroom_storage::state_machine::StateMachine;
use stockroom_storage::type_config::{Member, TypeConfig};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// A node that says nothing for so long is not waited for, where this one is being stopped.
const SILENT: Duration = Duration::from_secs(1);
/// A leader whose clock is off tries to hand leadership over this often.
const OFFSET_TRANSFER_INTERVAL: Duration = Duration::from_secs(10);

/// What the parts of one running member share.
pub(crate) struct Core {
    pub(crate) options: RaftOptions,
    pub(crate) identity: Identity,
    pub(crate) raft: Raft,
    pub(crate) reader: Reader,
    pub(crate) storage: Storage,
    pub(crate) dialer: Dialer,
    pub(crate) peers: Peers,
    pub(crate) time: Arc<dyn Clock>,
    pub(crate) queue: Queue,
    pub(crate) reads: Reads,
    pub(crate) limits: Arc<Limits>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// Entries proposed and not yet applied.
    pub(crate) entries: AtomicUsize,
    /// Told when the last one of them is.
    pub(crate) landed: Notify,
    /// No new proposals: the node is stopping.
    pub(crate) draining: AtomicBool,
    pub(crate) stop: Stop,
    /// Ends the tasks of this member.
    pub(crate) ending: CancellationToken,
    pub(crate) next_stream: AtomicU64,
    /// Held by each follower's stream that is served here, until the last answer is on its way.
    pub(crate) streams: Arc<()>,
    pub(crate) board: Mutex<Board>,
    pub(crate) clock: Mutex<ReplicatedClock>,
    pub(crate) alarms: Alarms,
    pub(crate) disk: Disk,
    pub(crate) snapshots: Writing,
    pub(crate) admission: Admission,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Core {
    pub(crate) fn node_id(&self) -> u64 {
        self.identity.node_id
    }

    /// The route of what this node sends to a member now.
    pub(crate) fn route(&self, to_node: u64, to_incarnation: u64) -> Route {
        let cluster_version = self.reader.applied().cluster_version.0;
        Route { cluster_version, ..wire::route(&self.identity, to_node, to_incarnation) }
    }

    pub(crate) fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().expect("no holder of this lock can panic")
    }

    pub(crate) fn clock(&self) -> MutexGuard<'_, ReplicatedClock> {
        self.clock.lock().expect("no holder of this lock can panic")
    }

    /// The members now, voters first: (id, member, votes).
    pub(crate) fn members(&self) -> BTreeMap<u64, (Member, bool)> {
        let config = Arc::clone(&self.raft.server_metrics().borrow_watched().membership_config);
        let voters: Vec<u64> = config.membership().voter_ids().collect();
        config.nodes().map(|(id, member)| (*id, (member.clone(), voters.contains(id)))).collect()
    }

    /// Where a member is, as far as is known here.
    pub(crate) fn address_of(&self, node_id: u64, member: &Member) -> String {
        let peer = self.peers.of(node_id, member.incarnation);
        peer.address().unwrap_or_else(|| member.peer_address.clone())
    }

    /// What the members say of where they are counts, each time they change.
    fn note_addresses(&self, noted: &mut Option<u64>) {
        let config = Arc::clone(&self.raft.server_metrics().borrow_watched().membership_config);
        let newest = config.log_id().as_ref().map(|log_id| log_id.index());
        if newest != *noted {
            *noted = newest;
            for (node_id, member) in config.nodes() {
                self.peers.of(*node_id, member.incarnation).is_at(&member.peer_address);
            }
        }
    }

    pub(crate) fn voters(&self) -> Vec<u64> {
        let config = Arc::clone(&self.raft.server_metrics().borrow_watched().membership_config);
        let mut voters: Vec<u64> = config.membership().voter_ids().collect();
        voters.sort_unstable();
        voters.dedup();
        voters
    }

    /// Newest committed entry known here.
    pub(crate) fn committed(&self) -> u64 {
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let index =
            |log_id: &Option<_>| log_id.as_ref().map_or(0, openraft::alias::LogIdOf::<TypeConfig>::index);
        index(&metrics.cluster_committed).max(index(&metrics.local_committed))
    }

    /// The stamp of an entry proposed now; see [`ReplicatedClock::stamp_ms`]. `None` as well until this leader
    /// has applied an entry of its own term, and with it every stamp before: else it might take the clock
    /// for unset, and begin a new one at a median that a single wall clock can move.
    pub(crate) fn stamp_ms(&self) -> Option<u64> {
        if !self.applied_of_own_term() {
            return None;
        }
        let (voters, now) = (self.voters(), self.time.monotonic());
        let applied = self.reader.applied();
        let mut clock = self.clock();
        clock.applied(applied.clock.0, false, now);
        let follows = clock.follows();
        clock.sample(self.node_id(), self.time.wall_ms(), follows, now);
        clock.stamp_ms(&voters, now)
    }

    pub(crate) fn applied_of_own_term(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let term = metrics.vote.leader_id.term;
        metrics.last_applied.as_ref().is_some_and(|applied| applied.committed_leader_id().term == term)
    }

    /// Whether nothing that was taken waits for its answer, of callers here or at followers.
    pub(crate) fn is_idle(&self) -> bool {
        self.limits.in_flight().0 == 0 && self.queue.is_empty() && self.entries.load(Ordering::Acquire) == 0
    }

    /// Waits until no entry is in flight. Of one consumer at a time.
    pub(crate) async fn none_in_flight(&self) {
        while self.entries.load(Ordering::Acquire) > 0 {
            self.landed.notified().await;
        }
    }

    /// What this node says of itself.
    pub(crate) fn report(&self) -> NodeReport {
        let applied = self.reader.applied();
        let wide = |value: u128| Bytes::copy_from_slice(&value.to_be_bytes());
        let now = self.time.monotonic();
        let (wall_ms, clock) = (self.time.wall_ms(), self.clock());
        let shown = clock.now_ms(now).unwrap_or(wall_ms);
        let mut report = NodeReport {
            node_id: self.node_id(),
            log_index: applied.fingerprint.log_index,
            digest: wide(applied.fingerprint.digest),
            state_hash: wide(applied.fingerprint.state_hash),
            version: self.options.version.clone(),
            wall_ms,
            follows_clock: clock.follows(),
            clock_offset_ms: i64::try_from(i128::from(wall_ms) - i128::from(shown)).unwrap_or(0),
            heard_ms_ago: 0,
            lag: self.committed().saturating_sub(applied.fingerprint.log_index),
            sync_us: slow_disk::as_reported(self.storage.log.sync_time()),
            stopping: self.draining.load(Ordering::Relaxed),
            alarms: self.alarms.as_reported(),
            versions: Some(wire::versions_info(self.options.storage.served)),
            cluster_version: applied.cluster_version.0,
            ..NodeReport::default()
        };
        self.disk.say(&mut report);
        report
    }

    /// Whether a voter was heard within `patience`, and did not end its stream since.
    pub(crate) fn is_there(&self, node_id: u64, patience: Duration) -> bool {
        self.board().of(node_id).is_some_and(|heard| !heard.left && heard.at.elapsed() < patience)
    }

    /// Whether so many voters are gone that nothing which is in flight here can be decided.
    pub(crate) fn lost_its_quorum(&self) -> bool {
        let (own, voters) = (self.node_id(), self.voters());
        let there = |node_id: &&u64| **node_id == own || self.is_there(**node_id, SILENT);
        self.leadership.borrow().mine && voters.iter().filter(there).count() * 2 <= voters.len()
    }

    /// Whether every other voter is gone or is being stopped, too: nobody is left to take a proposal.
    pub(crate) fn all_stop(&self) -> bool {
        let own = self.node_id();
        self.voters()
            .into_iter()
            .filter(|node_id| *node_id != own)
            .all(|node_id| self.stops_or_is_silent(node_id))
    }

    /// Whether a node is being stopped, or says nothing.
    pub(crate) fn stops_or_is_silent(&self, node_id: u64) -> bool {
        let board = self.board();
        board.of(node_id).is_none_or(|heard| heard.report.stopping || heard.at.elapsed() >= SILENT)
    }

    /// A follower's report, as it arrived here, the leader.
    pub(crate) fn hear_follower(&self, mut report: NodeReport) {
        let now = self.time.monotonic();
        {
            let mut clock = self.clock();
            clock.sample(report.node_id, report.wall_ms, report.follows_clock, now);
            if let Some(shown) = clock.now_ms(now) {
                report.clock_offset_ms =
                    i64::try_from(i128::from(report.wall_ms) - i128::from(shown)).unwrap_or(0);
            }
        }
        report.lag = self.committed().saturating_sub(report.log_index);
        report.heard_ms_ago = 0;
        self.board().hear(report, Instant::now());
    }

    /// What a quorum confirmed of this leader; `None` where it cannot say.
    pub(crate) fn confirmation(&self, echo_us: u64) -> Option<proto::Leadership> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if !metrics.state.is_leader() {
            return None;
        }
        let committed = metrics.cluster_committed.as_ref()?;
        // Before an entry of its own is committed, a leader does not know all that was.
        if committed.committed_leader_id().term != metrics.vote.leader_id.term {
            return None;
        }
        let confirmed = self.reads.confirmed(metrics.vote.leader_id.term)?;
        let age = confirmed.at.elapsed();
        // What was acknowledged is applied here; openraft's metrics may be a moment older.
        let applied = self.reader.applied().fingerprint.log_index;
        Some(proto::Leadership {
            echo_us,
            committed_index: committed.index().max(confirmed.index).max(applied),
            confirmed_ms_ago: u64::try_from(age.as_millis()).unwrap_or(u64::MAX).saturating_add(1),
            follows_clock: self.clock().follows(),
        })
    }

    /// Ten times a second: clocks, reports, comparisons, alarms.
    pub(crate) async fn pulse(self: Arc<Self>) {
        let mut interval = tokio::time::interval(REPORT_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut transferred: Option<Instant> = None;
        let mut slow_disk = SlowDisk::default();
        let mut noted = None;
        loop {
            interval.tick().await;
            let applied = self.reader.applied();
            let now = self.time.monotonic();
            self.clock().applied(applied.clock.0, false, now);
            let leads = self.leadership.borrow().mine;
            if leads {
                // Keeps the clock in step with the median while nothing is written.
                self.stamp_ms();
                if let Some(confirmed) = self.confirmation(0) {
                    let age = Duration::from_millis(confirmed.confirmed_ms_ago);
                    let at = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
                    self.board().confirmed(confirmed.committed_index, at);
                }
            }
            self.board().hear(self.report(), Instant::now());
            self.note_addresses(&mut noted);
            self.compare(applied.fingerprint.log_index);
            if let Some(error) = self.storage.failure() {
                self.stop.because(format!("{error}{}", error.advice()));
            }
            self.observe(leads);
            disk_space::decide(&self, leads);
            if leads {
                slow_disk.look(&self).await;
            } else {
                slow_disk = SlowDisk::default();
            }
            if leads
                && transferred.is_none_or(|at| at.elapsed() > OFFSET_TRANSFER_INTERVAL)
                && self.clock_is_off()
            {
                transferred = Some(Instant::now());
                self.hand_over_for_the_clock().await;
            }
        }
    }

    /// Compares with peers at one index; the odd one out of a majority stops.
    fn compare(&self, applied: u64) {
        let (own, voters) = (self.node_id(), self.voters());
        let members: Vec<u64> = self.members().into_keys().collect();
        let mut board = self.board();
        if !members.is_empty() {
            board.retain(&members);
        }
        if planted::nodes_may_differ() {
            return;
        }
        for (node_id, difference) in board.compare(applied, |index| self.reader.fingerprint_at(index)) {
            metrics::counter!("stockroom_raft_state_differences_total").increment(1);
            tracing::error!(
                peer = node_id,
                log_index = difference.ours.log_index,
                ours = format!("{:032x}/{:032x}", difference.ours.digest, difference.ours.state_hash),
                theirs = format!("{:032x}/{:032x}", difference.theirs.digest, difference.theirs.state_hash),
                "two nodes have different states at one index"
            );
        }
        if let Some(difference) = board.odd_one_out(own, &voters) {
            self.stop.because(format!(
                "the state of node {own} at index {} differs from that of a majority: digest {:032x} here and {:032x} \
                 there, state hash {:032x} here and {:032x} there. Keep the data directory for study, and rebuild \
                 the node from the others: stockroom rebuild (RUNBOOK, \"Damage\")",
                difference.ours.log_index,
                difference.ours.digest,
                difference.theirs.digest,
                difference.ours.state_hash,
                difference.theirs.state_hash,
            ));
        }
    }

    fn observe(&self, leads: bool) {
        let stats = self.reader.stats();
        let full = stats.memtable_limit_bytes > 0 && stats.memtable_bytes >= stats.memtable_limit_bytes;
        self.limits.memtable_full.store(full, Ordering::Relaxed);
        let (proposals, bytes) = self.limits.in_flight();
        let (committed, applied) = (self.committed(), self.reader.applied().fingerprint.log_index);
        metrics::gauge!("stockroom_raft_proposals_in_flight").set(proposals as f64);
        metrics::gauge!("stockroom_raft_bytes_in_flight").set(bytes as f64);
        metrics::gauge!("stockroom_raft_committed_index").set(committed as f64);
        metrics::gauge!("stockroom_raft_applied_index").set(applied as f64);
        metrics::gauge!("stockroom_raft_lag_entries").set(committed.saturating_sub(applied) as f64);
        metrics::gauge!("stockroom_raft_term").set(self.leadership.borrow().term as f64);
        metrics::gauge!("stockroom_raft_is_leader").set(if leads { 1.0 } else { 0.0 });
        let sync_seconds = self.storage.log.sync_time().unwrap_or_default().as_secs_f64();
        let in_force = self.reader.applied().cluster_version;
        metrics::gauge!("stockroom_cluster_version").set(f64::from(in_force.0));
        metrics::gauge!("stockroom_raft_sync_seconds").set(sync_seconds);
        if let Some(own) = self.board().of(self.node_id()) {
            metrics::gauge!("stockroom_raft_clock_offset_ms").set(own.report.clock_offset_ms as f64);
        }
    }

    fn clock_is_off(&self) -> bool {
        let offset = self.clock().offset_ms(self.node_id(), &self.voters(), self.time.monotonic());
        offset.is_some_and(|offset| offset.abs() > OFFSET_ALARM_MS)
    }

    /// A leader whose wall clock is far off the median says so, and lets another lead.
    async fn hand_over_for_the_clock(&self) {
        let (voters, now) = (self.voters(), self.time.monotonic());
        let offset_of = |node_id| self.clock().offset_ms(node_id, &voters, now);
        let own = offset_of(self.node_id()).unwrap_or_default();
        metrics::counter!("stockroom_raft_clock_alarms_total").increment(1);
        tracing::error!(
            offset_ms = own,
            "this leader's wall clock is far off the voters' median; check its time service"
        );
        let in_step = |node_id| offset_of(node_id).is_some_and(|offset| offset.abs() <= OFFSET_ALARM_MS);
        if let Some(successor) = self.successor(in_step)
            && let Err(error) = self.raft.trigger().transfer_leader(successor).await
        {
            tracing::warn!(%error, "leadership could not be handed over");
        }
    }

    /// A voter that answers, has all that this leader has or nearly so, and is `fit`: the one
    /// that has the most.
    pub(crate) fn successor(&self, fit: impl Fn(u64) -> bool) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched().clone();
        let last = metrics.last_log_index.unwrap_or_default();
        let replication = metrics.replication.as_ref()?;
        let fresh =
            |node_id| self.is_there(node_id, 5 * REPORT_INTERVAL) && !self.stops_or_is_silent(node_id);
        metrics
            .membership_config
            .membership()
            .voter_ids()
            .filter(|node_id| *node_id != self.node_id() && fresh(*node_id) && fit(*node_id))
            .filter_map(|node_id| Some((replication.get(&node_id)?.as_ref()?.index(), node_id)))
            .filter(|(matched, _)| last.saturating_sub(*matched) <= CAUGHT_UP_ENTRIES)
            .max()
            .map(|(_, node_id)| node_id)
    }
}

/// Entries that a node may be behind and still counts as caught up: those in flight, and a few more
/// for the time a report takes.
pub(crate) const CAUGHT_UP_ENTRIES: u64 = 64;
