//! The writer: drains the queue, writes all that waits at once, syncs once, answers in order.
//!
//! After the first failed write or sync it touches no file any more: what a failed sync left on the
//! disk is unknown, and a second one may report success for bytes that were dropped.

use super::housekeeper::Chore;
use super::pace::Pace;
use super::points::Change;
use super::record::{Draft, Header, Place};
use super::segment::Segment;
use super::table::{Held, Table, Written};
use crate::codec::{LogId, LogPoints};
use crate::error::StorageError;
use crate::fs::Lock;
use crate::shop::planted::{self, Bug};
use crate::type_config::TypeConfig;
use openraft::storage::IOFlushed;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// One write takes at most this much from the queue, so that the first in it is not kept waiting for
/// the last. A group may be longer by one append.
const GROUP_BYTES: usize = 4 << 20;
/// Without work for so long, the writer seals the log: from then on, damage to the last synced group
/// is told apart from a torn tail.
const IDLE_BEFORE_SEAL: Duration = Duration::from_millis(100);

/// What the log's front, its readers and its writer share.
pub(crate) struct Shared {
    table: Mutex<Table>,
    /// Last durable index.
    pub(crate) durable: watch::Sender<u64>,
    pub(crate) poisoned: watch::Sender<Option<StorageError>>,
    /// Told when the queue got shorter.
    pub(crate) room: Notify,
    pub(crate) metrics: Metrics,
    pub(crate) pace: Pace,
    pub(crate) lock: Lock,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let table = self.table();
        write!(f, "Log({:?}, {} entries)", table.points, table.slots.len())
    }
}

impl Shared {
    pub(crate) fn new(table: Table, lock: Lock) -> Self {
        let metrics = Metrics::new();
        metrics.log_bytes.set(table.slots.bytes_after(None) as f64);
        Shared {
            durable: watch::Sender::new(table.durable()),
            table: Mutex::new(table),
            poisoned: watch::Sender::new(None),
            room: Notify::new(),
            metrics,
            pace: Pace::default(),
            lock,
        }
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere is no reason to answer readers with another.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handles, so that counting costs no look-up.
#[derive(Clone)]
pub(crate) struct Metrics {
    sync_seconds: metrics::Histogram,
    syncs_total: metrics::Counter,
    append_bytes_total: metrics::Counter,
    log_bytes: metrics::Gauge,
}

impl Metrics {
    fn new() -> Self {
        use metrics::Unit;
        metrics::describe_histogram!(
            "stockroom_log_sync_seconds",
            Unit::Seconds,
            "Time of one sync of the log to disk"
        );
        metrics::describe_counter!("stockroom_log_syncs_total", "Syncs of the log to disk");
        metrics::describe_counter!(
            "stockroom_log_append_bytes_total",
            Unit::Bytes,
            "Bytes written to the log, headers included"
        );
        metrics::describe_gauge!(
            "stockroom_log_bytes",
            Unit::Bytes,
            "Bytes of the entries in the log that are not purged"
        );
        Metrics {
            sync_seconds: metrics::histogram!("stockroom_log_sync_seconds"),
            syncs_total: metrics::counter!("stockroom_log_syncs_total"),
            append_bytes_total: metrics::counter!("stockroom_log_append_bytes_total"),
            log_bytes: metrics::gauge!("stockroom_log_bytes"),
        }
    }
}

/// Whom to tell when a piece of work is durable.
pub(crate) enum Done {
    Nobody,
    Flushed(IOFlushed<TypeConfig>),
    Saved(oneshot::Sender<Result<(), StorageError>>),
}

impl Done {
    pub(crate) fn tell(self, result: Result<(), StorageError>) {
        match self {
            Done::Nobody => {}
            Done::Flushed(callback) => callback.io_completed(result.map_err(Into::into)),
            // Who does not wait any more need not hear it.
            Done::Saved(answer) => drop(answer.send(result)),
        }
    }
}

/// Of the planted bug only: a group is written so long after it was acknowledged.
const WRITTEN_LATE: Duration = Duration::from_millis(100);

/// A change on its way to the disk.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) sequence: u64,
    pub(crate) change: Change,
    pub(crate) draft: Draft,
}

/// What the writer is asked for.
pub(crate) enum Request {
    /// Write these changes, sync, tell.
    Write { items: Vec<Item>, bytes: usize, done: Done },
    /// The committed point moved while the writer slept.
    Wake,
    /// Seal the log and end.
    Close(oneshot::Sender<Result<(), StorageError>>),
}

impl Request {
    /// Somebody waits for a vote to be saved.
    fn is_vote(&self) -> bool {
        matches!(self, Request::Write { done: Done::Saved(_), .. })
    }

    /// Tells who waits that it was not done.
    fn refuse(self, error: &StorageError) {
        match self {
            Request::Write { done, .. } => done.tell(Err(error.clone())),
            Request::Wake => {}
            Request::Close(answer) => drop(answer.send(Err(error.clone()))),
        }
    }
}

/// Records on their way to the disk with one write.
#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    slots: u32,
    last: Option<(usize, Header)>,
    written: Vec<Written>,
    waiting: Vec<Done>,
    last_sequence: u64,
    wants_sync: bool,
}

/// Owns the end of the log.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    segment: Arc<Segment>,
    /// Where the next group goes.
    position: u64,
    /// Number of the next group.
    group_number: u64,
    /// Last group known to be durable.
    durable: u64,
    /// Bytes were written since the last sync.
    dirty: bool,
    /// The last record is a seal, and nothing is to be added to it.
    sealed: bool,
    /// Where the log stands as of the last record.
    points: LogPoints,
    /// The last change that was taken off the queue.
    taken: u64,
    /// The newest committed point that was saved with no change after that one.
    committed: Option<LogId>,
    group: Group,
    chores: mpsc::UnboundedSender<Chore>,
    next: oneshot::Receiver<Result<Segment, StorageError>>,
}

impl Drop for Writer {
    /// A writer that panicked must not leave anybody waiting for it.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = StorageError::Stopped("the writer of the log panicked".to_owned());
            self.shared.table().poisoned = Some(error.clone());
            self.shared.poisoned.send_replace(Some(error.clone()));
            for done in std::mem::take(&mut self.group.waiting) {
                done.tell(Err(error.clone()));
            }
        }
    }
}

/// Where the writer begins.
pub(crate) struct Start {
    pub(crate) segment: Arc<Segment>,
    pub(crate) position: u64,
    pub(crate) group_number: u64,
}

fn ask_for_segment(
    chores: &mpsc::UnboundedSender<Chore>,
    generation: u64,
) -> oneshot::Receiver<Result<Segment, StorageError>> {
    let (answer, next) = oneshot::channel();
    // Where the housekeeper is gone, the receiver says so when the segment is needed.
    let _ = chores.send(Chore::Make { generation, answer });
    next
}

impl Writer {
    /// A writer that goes on at `start`, up to where everything is durable.
    pub(crate) fn new(shared: Arc<Shared>, start: Start, chores: mpsc::UnboundedSender<Chore>) -> Self {
        let (points, taken) = {
            let table = shared.table();
            (table.points.clone(), table.sequence())
        };
        let next = ask_for_segment(&chores, start.segment.generation + 1);
        Writer {
            shared,
            segment: start.segment,
            position: start.position,
            group_number: start.group_number,
            durable: start.group_number - 1,
            dirty: false,
            sealed: false,
            committed: points.committed,
            points,
            taken,
            group: Group::default(),
            chores,
            next,
        }
    }

    /// Works until the log is closed or dropped.
    pub(crate) async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Request>) {
        let closing = loop {
            let request = if self.sealed {
                queue.recv().await
            } else {
                match tokio::time::timeout(IDLE_BEFORE_SEAL, queue.recv()).await {
                    Ok(request) => request,
                    Err(_) => match self.seal().await {
                        Ok(()) => continue,
                        Err(error) => return self.poison(error, VecDeque::new(), queue).await,
                    },
                }
            };
            let mut batch = VecDeque::new();
            let closing = self.take(request, &mut batch, &mut queue);
            if let Err(error) = self.write(&mut batch).await {
                if let Some(Some(answer)) = closing {
                    batch.push_back(Request::Close(answer));
                }
                return self.poison(error, batch, queue).await;
            }
            if let Some(answer) = closing {
                break answer;
            }
        };
        match (self.seal().await, closing) {
            (Ok(()), None) => {}
            (Ok(()), Some(answer)) => {
                let (finish, finished) = oneshot::channel();
                if self.chores.send(Chore::Finish(finish)).is_ok() {
                    // An error says that the housekeeper is gone, which is as good.
                    let _ = finished.await;
                }
                let _ = answer.send(Ok(()));
                queue.close();
                while let Ok(late) = queue.try_recv() {
                    late.refuse(&StorageError::Stopped("the log is closed".to_owned()));
                }
            }
            (Err(error), answer) => {
                let batch = answer.map(Request::Close).into_iter().collect();
                self.poison(error, batch, queue).await;
            }
        }
    }

    /// Takes what waits; answers whom to tell when the log is closed, if that is what comes next.
    #[expect(clippy::option_option, reason = "closed by nobody who waits is another thing than not closed")]
    fn take(
        &mut self,
        first: Option<Request>,
        batch: &mut VecDeque<Request>,
        queue: &mut mpsc::UnboundedReceiver<Request>,
    ) -> Option<Option<oneshot::Sender<Result<(), StorageError>>>> {
        let Some(mut request) = first else { return Some(None) };
        let mut taken = 0;
        let closing = loop {
            match request {
                Request::Close(answer) => break Some(Some(answer)),
                Request::Write { ref items, bytes, .. } => {
                    taken += bytes;
                    self.taken = items.last().map_or(self.taken, |item| item.sequence);
                }
                Request::Wake => {}
            }
            batch.push_back(request);
            if taken >= GROUP_BYTES {
                break None;
            }
            match queue.try_recv() {
                Ok(next) => request = next,
                Err(_) => break None,
            }
        };
        let mut table = self.shared.table();
        table.queued_bytes -= taken;
        table.idle = false;
        self.shared.room.notify_one();
        drop(table);
        self.note_committed();
        closing
    }

    /// A committed point may name an entry that is still in the queue, in place of one with the same index that is on the
    /// disk: a start must not find the one without the other. So it has to wait until the queue is empty.
    fn note_committed(&mut self) {
        let table = self.shared.table();
        if table.sequence() == self.taken {
            self.committed = table.points.committed;
        }
    }

    /// Writes a batch, taking off its front what need not be answered with an error any more.
    async fn write(&mut self, batch: &mut VecDeque<Request>) -> Result<(), StorageError> {
        self.sealed = false;
        if planted::is(Bug::AckBeforeSync) && !batch.iter().any(Request::is_vote) {
            tokio::time::sleep(WRITTEN_LATE).await;
        }
        while let Some(request) = batch.pop_front() {
            let Request::Write { items, done, .. } = request else { continue };
            // From here on it is answered with its group, whichever way that ends.
            self.group.waiting.push(done);
            for item in items {
                if !self.fits(&item.draft) {
                    // Told only when all of it is durable: not with the part in this group.
                    let done = self.group.waiting.pop();
                    let flushed = self.flush();
                    self.group.waiting.extend(done);
                    flushed?;
                    self.switch().await?;
                }
                self.add(&item.draft, &item.change, item.sequence);
                self.group.wants_sync = true;
            }
        }
        self.add_committed().await?;
        self.flush()
    }

    fn fits(&self, draft: &Draft) -> bool {
        let end = self.position + (self.group.bytes.len() + draft.record_bytes()) as u64;
        end <= self.segment.bytes
    }

    fn add(&mut self, draft: &Draft, change: &Change, sequence: u64) {
        let group = &mut self.group;
        let at = group.bytes.len();
        let place = Place {
            generation: self.segment.generation,
            group: self.group_number,
            durable: self.durable,
            slot: group.slots,
        };
        let header = draft.write(&mut group.bytes, place, self.segment.salt);
        group.last = Some((at, header));
        group.slots += 1;
        group.last_sequence = group.last_sequence.max(sequence);
        if let Change::Entry { log_id, .. } = change {
            group.written.push(Written {
                sequence,
                index: log_id.index,
                generation: self.segment.generation,
                offset: self.position + at as u64,
            });
        }
        self.points.apply(change);
    }

    /// Adds a change that nobody waits for.
    async fn add_own(&mut self, change: &Change) -> Result<(), StorageError> {
        let draft = Draft::new(change);
        if !self.fits(&draft) {
            self.flush()?;
            self.switch().await?;
        }
        self.add(&draft, change, 0);
        Ok(())
    }

    /// The committed point rides along: alone it is not worth a sync.
    async fn add_committed(&mut self) -> Result<(), StorageError> {
        if self.committed != self.points.committed {
            self.add_own(&Change::Committed(self.committed)).await?;
        }
        Ok(())
    }

    /// Writes the group, syncs it if it wants that, and tells those who wait.
    fn flush(&mut self) -> Result<(), StorageError> {
        if let Some((at, mut header)) = self.group.last {
            header.close_group(&mut self.group.bytes[at..], self.segment.salt);
            self.segment.file.write_all_at(&self.group.bytes, self.position).map_err(|error| {
                StorageError::io(format!("writing {}", self.segment.path.display()), &error)
            })?;
            self.dirty = true;
            self.position += self.group.bytes.len() as u64;
            self.group_number += 1;
            self.shared.metrics.append_bytes_total.increment(self.group.bytes.len() as u64);
            let mut table = self.shared.table();
            self.group.written.iter().for_each(|written| table.placed(written));
        }
        if self.group.wants_sync {
            self.sync()?;
        }
        // Those who wait have nothing unsynced in a group that does not want a sync.
        let waiting = std::mem::take(&mut self.group.waiting);
        self.publish();
        waiting.into_iter().for_each(|done| done.tell(Ok(())));
        self.retire_purged();
        let mut bytes = std::mem::take(&mut self.group.bytes);
        bytes.clear();
        bytes.shrink_to(GROUP_BYTES);
        self.group = Group { bytes, ..Group::default() };
        Ok(())
    }

    fn publish(&mut self) {
        if self.group.wants_sync {
            let mut table = self.shared.table();
            let durable = table.synced(self.group.last_sequence);
            self.shared.metrics.log_bytes.set(table.slots.bytes_after(None) as f64);
            // Under the lock, so that a truncation cannot come in between and be undone.
            self.shared.durable.send_if_modified(|current| std::mem::replace(current, durable) != durable);
        }
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        let begin = Instant::now();
        self.shared.pace.begin(begin);
        self.segment
            .file
            .sync_data()
            .map_err(|error| StorageError::io(format!("syncing {}", self.segment.path.display()), &error))?;
        let end = Instant::now();
        self.shared.pace.end(end);
        self.shared.metrics.sync_seconds.record(end.duration_since(begin));
        self.shared.metrics.syncs_total.increment(1);
        self.dirty = false;
        self.durable = self.group_number - 1;
        Ok(())
    }

    /// Lets go of the segments that the durable purge point has passed.
    fn retire_purged(&mut self) {
        if !self.group.wants_sync {
            return;
        }
        let purged = self.points.purged_index();
        for segment in self.shared.table().take_purged(purged, self.segment.generation) {
            // Where the housekeeper is gone the files stay until the next start.
            let _ = self.chores.send(Chore::Retire(segment));
        }
    }

    /// Goes on in the next segment, whose first record says where the log stands.
    async fn switch(&mut self) -> Result<(), StorageError> {
        if self.dirty {
            self.sync()?;
        }
        self.segment = Arc::new(self.next_segment().await?);
        let generation = self.segment.generation;
        if planted::is(Bug::VoteNotSynced) {
            self.points.vote = self.shared.table().points.vote;
        }
        self.position = super::segment::DATA_OFFSET;
        let held = Held { segment: Arc::clone(&self.segment), last_index: None };
        self.shared.table().segments.insert(generation, held);
        self.next = ask_for_segment(&self.chores, generation + 1);
        let start =
            Change::SegmentStart { points: self.points.clone(), continues_after: self.group_number - 1 };
        self.add(&Draft::new(&start), &start, 0);
        Ok(())
    }

    /// The segment that was made in advance. Where the disk was full then, it may not be now.
    async fn next_segment(&mut self) -> Result<Segment, StorageError> {
        let gone =
            |_| Err(StorageError::Stopped("the worker that makes segments of the log is gone".to_owned()));
        match (&mut self.next).await.unwrap_or_else(gone) {
            Err(StorageError::Io { kind: io::ErrorKind::StorageFull, .. }) => {
                let again = ask_for_segment(&self.chores, self.segment.generation + 1);
                again.await.unwrap_or_else(gone)
            }
            next => next,
        }
    }

    /// Writes down that all is durable.
    async fn seal(&mut self) -> Result<(), StorageError> {
        if self.sealed {
            return Ok(());
        }
        self.note_committed();
        self.add_committed().await?;
        self.flush()?;
        if self.dirty {
            self.sync()?;
        }
        self.add_own(&Change::Seal).await?;
        self.flush()?;
        self.sync()?;
        let mut table = self.shared.table();
        self.sealed = table.points.committed == self.points.committed;
        table.idle = self.sealed;
        Ok(())
    }

    /// Answers everything with the error, for ever, and touches no file.
    async fn poison(
        mut self,
        error: StorageError,
        batch: VecDeque<Request>,
        mut queue: mpsc::UnboundedReceiver<Request>,
    ) {
        tracing::error!(%error, "the log is poisoned: nothing more is written");
        self.shared.table().poisoned = Some(error.clone());
        self.shared.poisoned.send_replace(Some(error.clone()));
        for done in std::mem::take(&mut self.group.waiting) {
            done.tell(Err(error.clone()));
        }
        batch.into_iter().for_each(|request| request.refuse(&error));
        self.shared.room.notify_one();
        while let Some(request) = queue.recv().await {
            request.refuse(&error);
            self.shared.room.notify_one();
        }
    }
}
