//! Read indexes: many reads share one proof that the leader still leads.

use crate::Leadership;
use crate::core::Core;
use crate::network::Lane;
use crate::proposer::{REFUSED_PAUSE, StreamHandle, StreamReply};
use crate::proto::ConfirmRequest;
use openraft::RaftState;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stockroom_storage::shop::planted::{self, Bug};
use stockroom_storage::type_config::TypeConfig;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

/// Proofs under way at once: the next need not wait for a slow one.
pub(crate) const PROOFS_IN_FLIGHT: usize = 2;

/// Who waits for a read index.
#[derive(Debug)]
pub(crate) enum ReadWaiter {
    Caller(oneshot::Sender<u64>),
    Stream { stream: StreamHandle, read: u64 },
}

impl ReadWaiter {
    pub(crate) fn finish(self, log_index: u64) {
        match self {
            // A caller that gave up does not mind.
            ReadWaiter::Caller(caller) => drop(caller.send(log_index)),
            ReadWaiter::Stream { stream, read } => {
                let _ = stream.replies.send(StreamReply::Read { read, log_index });
            }
        }
    }
}

/// A leader proves that it leads at least so often, also where nobody waits for it: so fresh is what it can say of itself.
const CONFIRMED_EVERY: Duration = Duration::from_millis(50);

/// That this node led.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Confirmed {
    pub(crate) term: u64,
    /// Before it asked its peers.
    pub(crate) at: Instant,
    /// What was committed then.
    pub(crate) index: u64,
}

/// Reads that wait to be proven.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Mutex<Vec<ReadWaiter>>,
    arrived: Notify,
    /// The newest proof.
    confirmed: Mutex<Option<Confirmed>>,
}

impl Reads {
    pub(crate) fn push(&self, waiters: impl IntoIterator<Item = ReadWaiter>) {
        self.waiting.lock().expect("no holder of this lock can panic").extend(waiters);
        self.arrived.notify_one();
    }

    /// Waits until there is one. Of one consumer at a time.
    pub(crate) async fn ready(&self) {
        loop {
            let waiting = !self.waiting.lock().expect("no holder of this lock can panic").is_empty();
            if waiting {
                return;
            }
            self.arrived.notified().await;
        }
    }

    /// The newest proof that this node led in this term.
    pub(crate) fn confirmed(&self, term: u64) -> Option<Confirmed> {
        let confirmed = *self.confirmed.lock().expect("no holder of this lock can panic");
        confirmed.filter(|confirmed| confirmed.term == term)
    }

    fn confirm(&self, proof: Confirmed) {
        let mut confirmed = self.confirmed.lock().expect("no holder of this lock can panic");
        if confirmed.is_none_or(|before| (before.term, before.at) < (proof.term, proof.at)) {
            *confirmed = Some(proof);
        }
    }

    /// Takes all that arrived until now, but for callers that gave up. Followers' streams are
    /// only taken where `streams`; else they are told to ask elsewhere.
    pub(crate) fn take(&self, streams: bool) -> Vec<ReadWaiter> {
        let waiting = std::mem::take(&mut *self.waiting.lock().expect("no holder of this lock can panic"));
        let mut taken = Vec::with_capacity(waiting.len());
        for waiter in waiting {
            match waiter {
                ReadWaiter::Caller(caller) if caller.is_closed() => {}
                ReadWaiter::Stream { .. } if !streams => waiter.finish(0),
                waiter => taken.push(waiter),
            }
        }
        taken
    }
}

/// Leads: proves leadership for what waits, until this node leads no more.
pub(crate) async fn lead(core: &Arc<Core>, leadership: &mut watch::Receiver<Leadership>) {
    let in_flight = Arc::new(Semaphore::new(PROOFS_IN_FLIGHT));
    let mut due = Instant::now();
    loop {
        let ready = async {
            tokio::select! {
                () = core.reads.ready() => {}
                () = tokio::time::sleep_until(due) => {}
            }
            Arc::clone(&in_flight).acquire_owned().await.expect("the semaphore is never closed")
        };
        let permit = tokio::select! {
            permit = ready => permit,
            changed = leadership.changed() => {
                if changed.is_err() || !leadership.borrow_and_update().mine {
                    return;
                }
                continue;
            }
        };
        // Taken before the proof begins: it holds for all that arrived before, and no later one.
        let waiters = core.reads.take(true);
        let now = Instant::now();
        // Of the proofs that nobody waits for there is one at a time: where no quorum answers, reads must find a place.
        let is_only_one = in_flight.available_permits() + 1 == PROOFS_IN_FLIGHT;
        let is_wanted = !waiters.is_empty() || (now >= due && is_only_one);
        due = if is_wanted || now >= due { now + CONFIRMED_EVERY } else { due };
        if !is_wanted {
            continue;
        }
        let core = Arc::clone(core);
        tokio::spawn(async move {
            match prove(&core).await {
                Some(log_index) => waiters.into_iter().for_each(|waiter| waiter.finish(log_index)),
                None => {
                    tokio::time::sleep(REFUSED_PAUSE).await;
                    let (callers, streams): (Vec<_>, Vec<_>) =
                        waiters.into_iter().partition(|waiter| matches!(waiter, ReadWaiter::Caller(_)));
                    streams.into_iter().for_each(|stream| stream.finish(0));
                    core.reads.push(callers);
                }
            }
            drop(permit);
        });
    }
}

/// An index at or above everything acknowledged before this call, proven by a quorum.
///
/// openraft's own proof is not used: it takes an answer to entries for one to every request that it has made since with the same
/// last entry (`InflightAppendQueue::drain_acked`), also where that never left. What a peer answered before it voted
/// for another leader, and this one read after it was paused, would prove a read that came in between.
async fn prove(core: &Core) -> Option<u64> {
    if planted::is(Bug::StaleLeaseRead) {
        return Some(core.reader.applied().fingerprint.log_index);
    }
    let within = Duration::from_millis(core.options.election_timeout_max_ms);
    let Ok(Some(proof)) = tokio::time::timeout(within, proven(core, within)).await else {
        tracing::debug!("leadership could not be proven");
        return None;
    };
    core.reads.confirm(proof);
    Some(proof.index)
}

/// What is committed now, once so many voters said since that they voted for nobody later that no later leader can have
/// been elected before.
async fn proven(core: &Core, within: Duration) -> Option<Confirmed> {
    let at = Instant::now();
    // From openraft's core: what it publishes comes a moment later, when followers may have applied what is committed.
    let leads = |state: &RaftState<TypeConfig>| {
        let committed = state.local_committed().max(state.cluster_committed()).copied();
        (*state.vote_ref(), committed, Arc::clone(state.membership_state.effective()))
    };
    let (vote, committed, membership) = core.raft.with_raft_state(leads).await.ok()?;
    let (own, term) = (core.node_id(), vote.leader_id.term);
    // An entry of its own term: before, a leader does not know what is committed.
    let committed = committed.filter(|committed| committed.committed_leader_id().term == term)?;
    if !vote.committed || vote.leader_id.voted_for != own {
        return None;
    }
    let configs = membership.membership().get_joint_config();
    let (answers, mut holding) = mpsc::unbounded_channel();
    for (&node_id, member) in
        membership.nodes().filter(|(id, _)| configs.iter().any(|voters| voters.contains(*id)))
    {
        if node_id == own {
            let _ = answers.send(own);
            continue;
        }
        let address = core.address_of(node_id, member);
        let Ok(mut client) = core.dialer.client(&address, Lane::Control) else { continue };
        let request = ConfirmRequest { route: Some(core.route(node_id, member.incarnation)), term };
        let answers = answers.clone();
        // To its end, also where others were enough: a call that is given up costs the connection more.
        tokio::spawn(async move {
            if let Ok(Ok(answer)) = tokio::time::timeout(within, client.confirm(request)).await
                && answer.get_ref().holds
                && answer.get_ref().route.as_ref().is_some_and(|route| route.from_node == node_id)
            {
                let _ = answers.send(node_id);
            }
        });
    }
    drop(answers);
    let mut held = BTreeSet::new();
    let has_quorum = |held: &BTreeSet<u64>| {
        configs.iter().all(|voters| voters.intersection(held).count() * 2 > voters.len())
    };
    while !has_quorum(&held) {
        held.insert(holding.recv().await?);
    }
    // This node's own vote counted as well: as of now.
    (core.storage.log.vote() == Some(vote)).then(|| Confirmed { term, at, index: committed.index() })
}
