//! Read indexes: many reads share one proof that the leader still leads.

use crate::Leadership;
use crate::core::Core;
use crate::proposer::{REFUSED_PAUSE, StreamHandle, StreamReply};
use openraft::{LinearizerOption, ReadPolicy};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stockroom_storage::shop::planted::{self, Bug};
use tokio::sync::{Notify, Semaphore, oneshot, watch};

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

/// Reads that wait to be proven.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Mutex<Vec<ReadWaiter>>,
    arrived: Notify,
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
    loop {
        let ready = async {
            core.reads.ready().await;
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
        if waiters.is_empty() {
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
async fn prove(core: &Core) -> Option<u64> {
    if planted::is(Bug::StaleLeaseRead) {
        return Some(core.reader.applied().fingerprint.log_index);
    }
    let lease = Duration::from_millis(core.options.election_timeout_max_ms);
    let option = LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(lease);
    match core.raft.get_read_linearizer(option).await {
        Ok(linearizer) => Some(linearizer.read_log_id().index()),
        Err(error) => {
            tracing::debug!(%error, "leadership could not be proven");
            None
        }
    }
}
