//! Many proposals -> one entry; answers back to each caller.
//!
//! Proposals that came in here and those forwarded by followers wait in one [`Queue`]. On the
//! leader, [`lead`] drains it into entries; on a follower, [`crate::forward`] drains it into the
//! stream to the leader. What a leader definitely did not take goes back to the front.

use crate::core::Core;
use crate::error::ProposeError;
use crate::proto::{Answered, DiskFull, Refusal, answered, refusal};
use crate::{Leadership, Served, disk_space};
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use stockroom_storage::codec::{ProposalBytes, encode_answer, encode_batch};
use stockroom_storage::shop::effect::Answer;
use stockroom_storage::type_config::{BatchBytes, TypeConfig};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;

/// What an entry or a frame needs beside each proposal: its length, and room for the stamp.
const OVERHEAD_BYTES: usize = 8;
/// Answers to a follower go in messages of about so much: a command of a few bytes may be answered by an order of hundreds
/// of lines, and a thousand of those would be more than one message may have.
pub(crate) const ANSWERS_BYTES: usize = 4 << 20;
/// From so many proposals an entry on, callers wait for CPU rather than for the disk, and the CPU that an entry costs every
/// node, whatever is in it, is worth saving.
const MANY: usize = 16;
/// How often the consumer of a queue lets others run before it takes what is there: requests that have arrived are
/// read and queued in the meantime.
const GATHERING_TURNS: usize = 8;
/// After a refusal by a leader that still seems to lead (its lease ran out, it hands over), wait
/// so long before asking again.
pub(crate) const REFUSED_PAUSE: Duration = Duration::from_millis(20);
/// What an overloaded node tells its callers.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Proposals and bytes that came in here and have no answer yet.
#[derive(Debug)]
pub(crate) struct Limits {
    most_proposals: usize,
    most_bytes: usize,
    proposals: AtomicUsize,
    bytes: AtomicUsize,
    /// Set by the maintenance task.
    pub(crate) memtable_full: AtomicBool,
}

impl Limits {
    pub(crate) fn new(most_proposals: usize, most_bytes: usize) -> Arc<Self> {
        Arc::new(Limits {
            most_proposals,
            most_bytes,
            proposals: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            memtable_full: AtomicBool::new(false),
        })
    }

    /// Room for one more, or at once the reason why not.
    pub(crate) fn enter(self: &Arc<Self>, bytes: usize) -> Result<Permit, ProposeError> {
        let overloaded = |what| Err(ProposeError::Overloaded { what, retry_after: RETRY_AFTER });
        if self.memtable_full.load(Ordering::Relaxed) {
            return overloaded("the memtable is full");
        }
        // Counted first and taken back by the permit, so that two at once cannot both pass.
        let permit = Permit { limits: Arc::clone(self), bytes };
        let proposals = self.proposals.fetch_add(1, Ordering::Relaxed);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if proposals >= self.most_proposals {
            return overloaded("proposals in flight");
        }
        if before + bytes > self.most_bytes {
            return overloaded("bytes in flight");
        }
        Ok(permit)
    }

    pub(crate) fn in_flight(&self) -> (usize, usize) {
        (self.proposals.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// One proposal's room.
#[derive(Debug)]
pub(crate) struct Permit {
    limits: Arc<Limits>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limits.proposals.fetch_sub(1, Ordering::Relaxed);
        self.limits.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

type Proposed = Result<Served, ProposeError>;

/// Where one caller waits for all its proposals: woken once, when the last has its answer.
#[derive(Debug)]
pub(crate) struct Group {
    state: Mutex<GroupState>,
    done: Notify,
}

#[derive(Debug)]
struct GroupState {
    slots: Vec<Slot>,
    open: usize,
    /// The caller's deadline passed; it heard what was known then.
    closed: bool,
}

#[derive(Debug)]
enum Slot {
    /// Here, and nowhere else: giving up is definite.
    Queued,
    /// Handed to a log or a leader: giving up leaves the outcome unknown.
    Handed,
    Done(Proposed),
}

impl Group {
    pub(crate) fn new(proposals: usize) -> Arc<Self> {
        let slots = (0..proposals).map(|_| Slot::Queued).collect();
        Arc::new(Group {
            state: Mutex::new(GroupState { slots, open: proposals, closed: false }),
            done: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, GroupState> {
        self.state.lock().expect("no holder of this lock can panic")
    }

    /// From here on its outcome may be unknown. False where the caller gave up before.
    fn hand(&self, slot: usize) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.slots[slot] = Slot::Handed;
        true
    }

    /// It was definitely not taken. False where the caller gave up already.
    fn take_back(&self, slot: usize) -> bool {
        let mut state = self.lock();
        state.slots[slot] = Slot::Queued;
        !state.closed
    }

    pub(crate) fn finish(&self, slot: usize, result: Proposed) {
        let mut state = self.lock();
        if matches!(state.slots[slot], Slot::Done(_)) {
            return;
        }
        state.slots[slot] = Slot::Done(result);
        state.open -= 1;
        if state.open == 0 {
            self.done.notify_one();
        }
    }

    /// The answers in order, or at the deadline what is known then.
    pub(crate) async fn wait(&self, deadline: Instant, leader_known: impl FnOnce() -> bool) -> Vec<Proposed> {
        let all_done = async {
            while self.lock().open > 0 {
                self.done.notified().await;
            }
        };
        let _ = tokio::time::timeout_at(deadline, all_done).await;
        let never_left = if leader_known() { ProposeError::TimedOutBefore } else { ProposeError::NoLeader };
        let mut state = self.lock();
        state.closed = true;
        let outcome = |slot: &mut Slot| match std::mem::replace(slot, Slot::Queued) {
            Slot::Done(result) => result,
            Slot::Handed => Err(ProposeError::Unknown("no answer within the deadline".into())),
            Slot::Queued => Err(never_left.clone()),
        };
        state.slots.iter_mut().map(outcome).collect()
    }
}

/// What goes back on a follower's stream.
#[derive(Debug)]
pub(crate) enum StreamReply {
    Answers(Vec<Answered>),
    Read { read: u64, log_index: u64 },
}

/// One follower's stream.
#[derive(Debug, Clone)]
pub(crate) struct StreamHandle {
    pub(crate) id: u64,
    /// Bounded by what the follower may have in flight.
    pub(crate) replies: mpsc::UnboundedSender<StreamReply>,
}

/// Who waits for an answer.
#[derive(Debug)]
pub(crate) enum Origin {
    Caller { group: Arc<Group>, slot: usize, _permit: Option<Permit> },
    Stream { stream: StreamHandle, sequence: u64 },
}

/// One proposal on its way.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) proposal: ProposalBytes,
    pub(crate) deadline: Instant,
    pub(crate) origin: Origin,
}

impl Item {
    pub(crate) fn finish(self, result: Proposed) {
        match self.origin {
            Origin::Caller { group, slot, .. } => group.finish(slot, result),
            Origin::Stream { stream, sequence } => {
                let answered = Answered { sequence, result: Some(to_wire(result)) };
                // Where the stream is gone its follower has told its callers already.
                let _ = stream.replies.send(StreamReply::Answers(vec![answered]));
            }
        }
    }

    /// Tells a follower to route it again; a caller's own is given back to do so here.
    fn bounce(self) -> Option<Item> {
        match &self.origin {
            Origin::Caller { group, slot, .. } => group.take_back(*slot).then_some(self),
            Origin::Stream { stream, sequence } => {
                let refused = Refusal { reason: refusal::Reason::NotLeader.into(), retry_after_ms: 0 };
                let answered =
                    Answered { sequence: *sequence, result: Some(answered::Result::Refused(refused)) };
                let _ = stream.replies.send(StreamReply::Answers(vec![answered]));
                None
            }
        }
    }
}

fn to_wire(result: Proposed) -> answered::Result {
    let refused = |reason: refusal::Reason, after: Duration| {
        let retry_after_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
        answered::Result::Refused(Refusal { reason: reason.into(), retry_after_ms })
    };
    match result {
        Ok(served) => answered::Result::Answer(encode_answer(&served.answer).into()),
        Err(ProposeError::Unknown(why)) => answered::Result::Unknown(why),
        Err(ProposeError::Overloaded { retry_after, .. }) => {
            refused(refusal::Reason::Overloaded, retry_after)
        }
        Err(ProposeError::DiskFull { nodes }) => answered::Result::DiskFull(DiskFull { nodes }),
        Err(ProposeError::TooLarge { .. }) => refused(refusal::Reason::TooLarge, Duration::ZERO),
        Err(ProposeError::TimedOutBefore) => refused(refusal::Reason::TimedOut, Duration::ZERO),
        Err(ProposeError::NoLeader | ProposeError::NotServing(_)) => {
            refused(refusal::Reason::NotLeader, Duration::ZERO)
        }
    }
}

/// Proposals that wait to be handed on, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    /// Told when there are as many as are wanted.
    enough: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<Item>,
    /// The consumer sleeps until there are so many: to wake it for each would cost more than to queue it.
    wanted: usize,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder of this lock can panic")
    }

    pub(crate) fn push_all(&self, items: impl IntoIterator<Item = Item>) {
        let mut waiting = self.lock();
        waiting.items.extend(items);
        self.tell(&waiting);
    }

    fn tell(&self, waiting: &Waiting) {
        if waiting.items.len() >= waiting.wanted {
            self.enough.notify_one();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().items.is_empty()
    }

    /// Waits until there are so many. Of one consumer at a time.
    pub(crate) async fn has(&self, wanted: usize) {
        loop {
            {
                let mut waiting = self.lock();
                if waiting.items.len() >= wanted {
                    return;
                }
                waiting.wanted = wanted;
            }
            self.enough.notified().await;
        }
    }

    /// Takes the oldest, up to a number and a sum of bytes. What its caller gave up is dropped;
    /// `streams`: whether those of followers are taken too, or sent back to be routed again.
    pub(crate) fn take(&self, most: usize, most_bytes: usize, streams: bool) -> Vec<Item> {
        let (now, mut bytes, mut taken) = (Instant::now(), OVERHEAD_BYTES, Vec::new());
        let items = &mut self.lock().items;
        while taken.len() < most {
            let Some(item) = items.pop_front() else { break };
            let size = item.proposal.0.len() + OVERHEAD_BYTES;
            if bytes + size > most_bytes && !taken.is_empty() {
                items.push_front(item);
                break;
            }
            let wanted = match &item.origin {
                Origin::Stream { .. } if !streams => {
                    item.bounce();
                    continue;
                }
                _ if item.deadline <= now => false,
                Origin::Caller { group, slot, .. } => group.hand(*slot),
                Origin::Stream { .. } => true,
            };
            if wanted {
                bytes += size;
                taken.push(item);
            } else {
                item.finish(Err(ProposeError::TimedOutBefore));
            }
        }
        taken
    }

    /// Puts back, in their order, what a leader definitely did not take; followers are told to
    /// route theirs again.
    pub(crate) fn put_back(&self, items: Vec<Item>) {
        let mut waiting = self.lock();
        for item in items.into_iter().rev() {
            if let Some(item) = item.bounce() {
                waiting.items.push_front(item);
            }
        }
        self.tell(&waiting);
    }

    /// Lets go of everything: nobody is left to take it.
    pub(crate) fn refuse_all(&self, why: &str) {
        let items = std::mem::take(&mut self.lock().items);
        for item in items {
            item.finish(Err(ProposeError::NotServing(why.to_owned())));
        }
    }

    /// Lets go of what nobody waits for any more; `streams` as in [`Queue::take`].
    pub(crate) fn sweep(&self, streams: bool) {
        let now = Instant::now();
        let items = &mut self.lock().items;
        for item in std::mem::take(items) {
            match &item.origin {
                Origin::Stream { .. } if !streams => drop(item.bounce()),
                _ if item.deadline <= now => item.finish(Err(ProposeError::TimedOutBefore)),
                _ => items.push_back(item),
            }
        }
    }
}

/// Where the last entry or frame took `last` proposals, and those were many: lets what is ready to run come first, as it
/// mostly brings more. Costs no time where nothing is.
pub(crate) async fn gather(last: usize) {
    if last >= MANY {
        for _ in 0..GATHERING_TURNS {
            tokio::task::yield_now().await;
        }
    }
}

/// Leads: proposes what is queued, until this node leads no more.
pub(crate) async fn lead(core: &Arc<Core>, leadership: &mut watch::Receiver<Leadership>) {
    let in_flight = Arc::new(Semaphore::new(core.options.entries_in_flight));
    let mut last = 0;
    loop {
        let ready = async {
            core.queue.has(1).await;
            let permit = Arc::clone(&in_flight).acquire_owned().await.expect("the semaphore is never closed");
            // An entry costs every node the same, whatever is in it. So the next one leaves as soon as none
            // is in flight, or at least as many wait as the one before has taken.
            tokio::select! {
                () = core.queue.has(last) => {}
                () = core.none_in_flight() => {}
            }
            gather(last).await;
            permit
        };
        let permit = tokio::select! {
            permit = ready => permit,
            changed = leadership.changed() => {
                if changed.is_err() || !leadership.borrow_and_update().mine {
                    return;
                }
                continue;
            }
            () = tokio::time::sleep(Duration::from_millis(100)) => {
                // Entries are stuck without a quorum: callers whose time is over make room.
                core.queue.sweep(true);
                continue;
            }
        };
        let Some(stamp_ms) = core.stamp_ms() else {
            // A new cluster whose voters have not said yet what time it is. Callers whose time is over make room here, too.
            core.queue.sweep(true);
            tokio::time::sleep(REFUSED_PAUSE).await;
            continue;
        };
        // Counted before it leaves the queue: what is taken is always seen in one of the two.
        let entry = InFlight::new(core, permit);
        let mut items = core.queue.take(core.options.max_entry_proposals, core.options.max_entry_bytes, true);
        if core.disk.refuses() {
            items = disk_space::refuse(core, items);
        }
        if !items.is_empty() {
            last = items.len();
            propose(core, stamp_ms, items, entry).await;
        }
    }
}

/// One entry's place among those in flight.
struct InFlight {
    core: Arc<Core>,
    _permit: OwnedSemaphorePermit,
}

impl InFlight {
    fn new(core: &Arc<Core>, permit: OwnedSemaphorePermit) -> Self {
        core.entries.fetch_add(1, Ordering::AcqRel);
        InFlight { core: Arc::clone(core), _permit: permit }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.core.entries.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.core.landed.notify_one();
        }
    }
}

async fn propose(core: &Arc<Core>, stamp_ms: u64, items: Vec<Item>, entry: InFlight) {
    metrics::histogram!("stockroom_raft_proposals_per_entry").record(items.len() as f64);
    metrics::counter!("stockroom_raft_entries_proposed_total").increment(1);
    let proposals: Vec<ProposalBytes> = items.iter().map(|item| item.proposal.clone()).collect();
    let batch = BatchBytes(encode_batch(stamp_ms, &proposals));
    let (responder, answer) = ProgressResponder::<TypeConfig, ClientWriteResult<TypeConfig>>::complete_only();
    if let Err(fatal) = core.raft.client_write_ff(batch, Some(responder)).await {
        let unknown = ProposeError::Unknown(fatal.to_string());
        items.into_iter().for_each(|item| item.finish(Err(unknown.clone())));
        return;
    }
    tokio::spawn(async move {
        let core = &entry.core;
        match answer.await {
            Ok(Ok(written)) => answer_all(items, &written.data.0, core.node_id()),
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => {
                core.queue.put_back(items);
                // Holding its place: a leader whose lease ran out is not asked without a pause.
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
            Ok(Err(error)) => unknown_all(items, &error.to_string()),
            Err(_) => unknown_all(items, "this node stopped before it knew"),
        }
        drop(entry);
    });
}

pub(crate) fn unknown_all(items: impl IntoIterator<Item = Item>, why: &str) {
    for item in items {
        item.finish(Err(ProposeError::Unknown(why.to_owned())));
    }
}

/// Gives each its answer; each follower's stream gets all of its answers in one message, or in a few where they are large.
fn answer_all(items: Vec<Item>, answers: &[Answer], node_id: u64) {
    if answers.len() != items.len() {
        // It was applied, but not as it was proposed: our own mistake, and no answer can be told.
        tracing::error!(proposals = items.len(), answers = answers.len(), "an entry was answered wrongly");
        return unknown_all(items, "applied, but the answers were lost");
    }
    let mut streams: BTreeMap<u64, (StreamHandle, Vec<Answered>, usize)> = BTreeMap::new();
    for (item, answer) in items.into_iter().zip(answers) {
        match item.origin {
            Origin::Caller { group, slot, .. } => {
                group.finish(slot, Ok(Served { answer: answer.clone(), node_id }));
            }
            Origin::Stream { stream, sequence } => {
                let answer = encode_answer(answer);
                let (stream, answers, bytes) =
                    streams.entry(stream.id).or_insert_with(|| (stream, Vec::new(), 0));
                *bytes += answer.len();
                let result = Some(answered::Result::Answer(answer.into()));
                answers.push(Answered { sequence, result });
                if *bytes >= ANSWERS_BYTES {
                    let _ = stream.replies.send(StreamReply::Answers(std::mem::take(answers)));
                    *bytes = 0;
                }
            }
        }
    }
    for (stream, answers, _) in streams.into_values() {
        let _ = stream.replies.send(StreamReply::Answers(answers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(group: &Arc<Group>, slot: usize, bytes: usize, ms: u64) -> Item {
        Item {
            proposal: ProposalBytes(vec![0; bytes].into()),
            deadline: Instant::now() + Duration::from_millis(ms),
            origin: Origin::Caller { group: Arc::clone(group), slot, _permit: None },
        }
    }

    #[tokio::test]
    async fn giving_up_is_definite_only_before_it_was_handed_on() {
        let (group, queue) = (Group::new(2), Queue::default());
        queue.push_all([item(&group, 0, 10, 100), item(&group, 1, 10, 100)]);
        let handed = queue.take(1, 1_000, true);
        let answers = group.wait(Instant::now() + Duration::from_millis(100), || true).await;
        assert!(matches!(answers[0], Err(ProposeError::Unknown(_))), "{answers:?}");
        assert_eq!(answers[1], Err(ProposeError::TimedOutBefore));
        assert!(queue.take(9, 1_000, true).is_empty(), "nobody waits for it any more");
        drop(handed);
    }

    #[tokio::test]
    async fn what_a_leader_refused_keeps_its_place_and_is_definite_again() {
        let (group, queue) = (Group::new(3), Queue::default());
        queue.push_all((0..3).map(|slot| item(&group, slot, 10 + slot, 100)));
        queue.put_back(queue.take(2, 1_000, true));
        let taken = queue.take(9, 1_000, true);
        assert_eq!(taken.iter().map(|item| item.proposal.0.len()).collect::<Vec<_>>(), [10, 11, 12]);
        queue.put_back(taken);
        let answers = group.wait(Instant::now(), || false).await;
        assert_eq!(answers, vec![Err(ProposeError::NoLeader); 3]);
    }

    #[tokio::test]
    async fn an_entry_has_its_limits() {
        let (group, queue) = (Group::new(5), Queue::default());
        queue.push_all((0..5).map(|slot| item(&group, slot, 100, 100)));
        assert_eq!(queue.take(3, 10_000, true).len(), 3);
        assert_eq!(queue.take(3, 150, true).len(), 1, "a second does not fit");
        assert_eq!(queue.take(3, 50, true).len(), 1, "one is taken in any case");
    }

    #[tokio::test]
    async fn the_consumer_is_woken_once_there_are_enough() {
        let (group, queue) = (Group::new(4), Queue::default());
        let push =
            |slots: std::ops::Range<usize>| queue.push_all(slots.map(|slot| item(&group, slot, 10, 100)));
        let mut three = std::pin::pin!(queue.has(3));
        assert!(futures::poll!(&mut three).is_pending());
        push(0..2);
        assert!(futures::poll!(&mut three).is_pending(), "two are not enough");
        queue.has(1).await;
        push(2..4);
        three.await;
        queue.put_back(queue.take(9, 1_000, true));
        queue.has(4).await;
    }

    #[test]
    fn above_the_limit_is_refused_at_once() {
        let limits = Limits::new(2, 100);
        let first = limits.enter(60).expect("room");
        assert!(matches!(limits.enter(60), Err(ProposeError::Overloaded { what: "bytes in flight", .. })));
        let second = limits.enter(40).expect("a refusal takes no room");
        assert!(matches!(limits.enter(0), Err(ProposeError::Overloaded { what: "proposals in flight", .. })));
        drop((first, second));
        assert_eq!(limits.in_flight(), (0, 0));
        limits.memtable_full.store(true, Ordering::Relaxed);
        assert!(limits.enter(1).is_err());
    }
}
