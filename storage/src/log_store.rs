//! openraft's log over the write-ahead log: entries, vote, committed and purge points.

mod reader;

pub use reader::{LogReader, MAX_APPEND_BYTES};

use crate::codec::{LogId, Payload, Vote};
use crate::error::StorageError;
use crate::fs::FileSystem;
use crate::identity::Identity;
use crate::log::housekeeper::{Chore, Housekeeper};
use crate::log::points::Change;
use crate::log::record::{Draft, record_bytes};
use crate::log::recover::{Recovered, recover};
use crate::log::segment::{DATA_OFFSET, MAX_OPENING_BYTES};
use crate::log::table::Table;
use crate::log::wal::{Done, Item, Request, Shared, Writer};
use crate::shelf::Pace;
use crate::shop::planted::{self, Bug};
use crate::spawn::{Spawn, ThreadSpawn};
use crate::type_config::TypeConfig;
use openraft::alias::EntryOf;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use std::any::Any;
use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Bytes handed to the log and not yet written. Beyond them `append` waits; proposals in flight are
/// limited long before.
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// How the log uses disk and memory.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// Length of a file of the log, at least 16 KiB and below 4 GiB. An entry must fit into one. A
    /// longer one makes changes of files rarer and the first start slower: it is zeroed before use.
    pub segment_bytes: u64,
    /// Bytes of payloads kept in memory for followers that are not far behind.
    pub cache_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { segment_bytes: 16 << 20, cache_bytes: 64 << 20 }
    }
}

/// The Raft log on this disk. Clones are handles to the same log; openraft's is the only one that
/// changes it. When the last one is dropped the log seals itself.
#[derive(Debug, Clone)]
pub struct LogStore {
    reader: LogReader,
    queue: mpsc::UnboundedSender<Request>,
    max_record_bytes: usize,
}

/// How far a log goes that lost what its node had acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// The term of its vote.
    pub voted_in: u64,
    /// Its last entry.
    pub last: Option<LogId>,
}

impl LogStore {
    /// Opens the log in `dir`, which becomes its own, and makes all that it holds durable before it
    /// answers. The workers run on threads.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] where bytes that were durable have changed,
    /// [`StorageError::Foreign`] where a file is another node's, [`StorageError::Format`] where one is
    /// of another version, [`StorageError::Io`].
    pub fn open(
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        identity: &Identity,
        options: LogOptions,
    ) -> Result<LogStore, StorageError> {
        Self::open_with(fs, dir, identity, options, &ThreadSpawn)
    }

    /// As [`LogStore::open`], with the workers where `spawn` puts them.
    ///
    /// # Errors
    /// As [`LogStore::open`].
    pub fn open_with(
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        identity: &Identity,
        options: LogOptions,
        spawn: &dyn Spawn,
    ) -> Result<LogStore, StorageError> {
        let segment_bytes = options.segment_bytes.clamp(16 << 10, u64::from(u32::MAX) - (1 << 20));
        make_directory(&*fs, dir)
            .map_err(|error| StorageError::io(format!("making {}", dir.display()), &error))?;
        let lock = fs.lock(dir).map_err(|error| in_use(dir, &error))?;
        let mut keeper = Housekeeper {
            fs,
            dir: dir.to_owned(),
            identity: *identity,
            segment_bytes,
            spares: Vec::new(),
            _lock: lock.clone(),
        };
        let Recovered { points, slots, segments, start } = recover(&mut keeper)?;
        let shared = Arc::new(Shared::new(Table::new(points, slots, segments, options.cache_bytes), lock));
        let (chores, for_keeper) = mpsc::unbounded_channel::<Chore>();
        let (queue, for_writer) = mpsc::unbounded_channel();
        let writer = Writer::new(Arc::clone(&shared), start, chores);
        let no_worker = |error: io::Error| StorageError::io("starting a worker of the log", &error);
        spawn.spawn("log-segments", Box::pin(keeper.run(for_keeper))).map_err(no_worker)?;
        spawn.spawn("log-writer", Box::pin(writer.run(for_writer))).map_err(no_worker)?;
        let max_record_bytes = usize::try_from(segment_bytes - DATA_OFFSET - MAX_OPENING_BYTES)
            .expect("a segment is shorter than 4 GiB");
        Ok(LogStore { reader: LogReader { shared }, queue, max_record_bytes })
    }

    /// Waits for what is queued, writes down that all is durable, and stops the log. Calls after it
    /// fail.
    ///
    /// # Errors
    /// [`StorageError::Poisoned`] or the error that poisoned the log.
    pub async fn close(&self) -> Result<(), StorageError> {
        let (answer, closed) = oneshot::channel();
        self.queue.send(Request::Close(answer)).map_err(|_| stopped())?;
        closed.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// The last index through which the log, or the snapshot that it was purged for, is durable on
    /// this disk. 0 also stands for none. It falls only when entries are truncated, which are never
    /// applied ones.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.reader.shared.durable.subscribe()
    }

    /// Waits until the log is durable through `index`, as [`LogStore::durable`] says.
    ///
    /// # Errors
    /// The error that poisoned the log; [`StorageError::Stopped`] where it was closed before.
    pub async fn wait_durable(&self, index: u64) -> Result<(), StorageError> {
        let (mut durable, mut poisoned) = (self.durable(), self.poisoned());
        tokio::select! {
            biased;
            _ = durable.wait_for(|durable| *durable >= index) => Ok(()),
            error = poisoned.wait_for(Option::is_some) => {
                Err(error.ok().and_then(|error| error.clone()).unwrap_or_else(stopped))
            }
            () = self.queue.closed() => Err(stopped()),
        }
    }

    /// Time that a sync of this log takes, over the last few seconds; `None` where nothing was synced.
    pub fn sync_time(&self) -> Option<Duration> {
        self.reader.shared.pace.mean(Instant::now())
    }

    /// Becomes the error once a write or sync failed; from then on nothing is written, and the
    /// process must end.
    pub fn poisoned(&self) -> watch::Receiver<Option<StorageError>> {
        self.reader.shared.poisoned.subscribe()
    }

    /// The last entry, durable or not; the purge point where there is none.
    pub fn last_log_id(&self) -> Option<LogId> {
        self.reader.shared.table().points.last
    }

    /// The last entry that was purged.
    pub fn last_purged(&self) -> Option<LogId> {
        self.reader.shared.table().points.purged
    }

    /// Index of the first entry that is still there, or of the one that would come first.
    pub fn first_index(&self) -> u64 {
        self.reader.shared.table().slots.first()
    }

    /// Entries of `from..to` that are still there: at least one, and no more than this many bytes of payload.
    pub(crate) fn entries(
        &self,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<EntryOf<TypeConfig>>, StorageError> {
        let read = self.reader.read(from, to, max_bytes);
        read.map_err(|error| StorageError::io("reading the log", &error))
    }

    /// Bytes of the entries in the log.
    pub fn bytes(&self) -> u64 {
        self.reader.shared.table().slots.bytes_after(None)
    }

    /// Bytes of the entries after `index`.
    pub fn bytes_since(&self, index: u64) -> u64 {
        self.reader.shared.table().slots.bytes_after(Some(index))
    }

    /// The last index up to which the log may be purged so that at least `margin_bytes` of it stay;
    /// `None` where it has no more than that.
    pub fn purgeable_index(&self, margin_bytes: u64) -> Option<u64> {
        self.reader.shared.table().slots.index_before_bytes(margin_bytes)
    }

    /// The id of the entry at `index`, or of the purge point if that is there.
    pub fn log_id(&self, index: u64) -> Option<LogId> {
        let table = self.reader.shared.table();
        let purged = table.points.purged.filter(|purged| purged.index == index);
        table.slots.log_id(index).or(purged)
    }

    /// Reads every entry, and what lies between them, from the disk. For tests; a node does so at a bounded rate.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] where a sum does not match.
    pub fn verify(&self) -> Result<(), StorageError> {
        self.scrub(&|_| Ok(()))
    }

    /// Reads every entry, and what lies between them, from the disk. `pace` is told the bytes of each; it may take its
    /// time, or end it.
    pub(crate) fn scrub(&self, pace: &Pace) -> Result<(), StorageError> {
        // Few at a time: a segment that is held is not used again.
        const AT_ONCE: usize = 256;
        let mut next = 0;
        // The segment of the entry before, and where that ended.
        let mut before = (0, 0);
        loop {
            let places = self.reader.shared.table().places(next, AT_ONCE);
            let Some((last, ..)) = places.last() else { return Ok(()) };
            next = last + 1;
            for (index, segment, offset, length) in places {
                let (generation, end) = before;
                if generation == segment.generation && end < offset {
                    segment.check_between(end, offset)?;
                }
                segment.read_entry(offset, length, index)?;
                before = (segment.generation, offset + record_bytes(length as usize) as u64);
                pace(length as usize)?;
            }
        }
    }

    /// Has no strong reference any more once everybody has let go of the directory: handles, readers, and the workers,
    /// which end a moment after those.
    pub fn holders(&self) -> Weak<dyn Any + Send + Sync> {
        Arc::downgrade(&self.reader.shared.lock)
    }

    /// The last vote, durable or not.
    pub fn vote(&self) -> Option<Vote> {
        self.reader.shared.table().points.vote
    }

    /// What is missing here of what this node once told the leader of `term` that it had made durable: the
    /// entry `acknowledged`, or the vote for that leader. `None` where all is there, and where a later leader may
    /// have had the entry removed.
    pub fn missing(&self, term: u64, acknowledged: &LogId) -> Option<Missing> {
        // Under one lock: a truncation comes after the vote for the leader that wants it.
        let table = self.reader.shared.table();
        let points = &table.points;
        let voted_in = points.vote.map_or(0, |vote| vote.leader_id.term);
        let is_there = points.purged_index() >= Some(acknowledged.index)
            || table.slots.log_id(acknowledged.index) == Some(*acknowledged);
        if voted_in > term || (voted_in == term && is_there) {
            return None;
        }
        Some(Missing { voted_in, last: points.last })
    }

    /// Checks `changes`, makes them in memory and queues them, all under one lock: the queue has the
    /// order in which readers see them.
    fn submit(
        &self,
        done: Done,
        changes: impl FnOnce(&Table) -> Result<Vec<(Change, Draft)>, StorageError>,
    ) -> Result<(), StorageError> {
        let mut table = self.reader.shared.table();
        if let Some(error) = &table.poisoned {
            return Err(StorageError::Poisoned(error.to_string()));
        }
        let mut bytes = 0;
        let mut items = Vec::new();
        for (change, draft) in changes(&table)? {
            bytes += draft.record_bytes();
            items.push(Item { sequence: table.apply(&change, draft.payload_bytes()), change, draft });
        }
        table.queued_bytes += bytes;
        self.reader.shared.durable.send_if_modified(|durable| {
            // Only a truncation lowers it.
            let lowered = table.durable() < *durable;
            *durable = table.durable().min(*durable);
            lowered
        });
        let mut done = done;
        if planted::is(Bug::AckBeforeSync) && matches!(done, Done::Flushed(_)) {
            self.reader.shared.durable.send_replace(table.synced(u64::MAX));
            std::mem::replace(&mut done, Done::Nobody).tell(Ok(()));
        }
        self.queue.send(Request::Write { items, bytes, done }).map_err(|_| stopped())
    }

    /// Waits until the writer has taken enough off the queue.
    async fn wait_for_room(&self) {
        let shared = &self.reader.shared;
        loop {
            {
                let table = shared.table();
                if table.queued_bytes < MAX_QUEUED_BYTES || table.poisoned.is_some() {
                    return;
                }
            }
            tokio::select! {
                () = shared.room.notified() => {}
                () = self.queue.closed() => return,
            }
        }
    }

    fn check_entries(
        &self,
        table: &Table,
        entries: Vec<(LogId, Payload)>,
    ) -> Result<Vec<(Change, Draft)>, StorageError> {
        let mut next = table.points.last_index().map(|last| last + 1);
        let mut changes = Vec::with_capacity(entries.len());
        for (log_id, payload) in entries {
            if let Some(next) = next.filter(|next| *next != log_id.index) {
                let what = format!("entry {} would leave a hole: the next one is {next}", log_id.index);
                return Err(refused(what));
            }
            next = Some(log_id.index + 1);
            let index = log_id.index;
            let change = Change::Entry { log_id, payload };
            let draft = Draft::new(&change);
            if draft.record_bytes() > self.max_record_bytes {
                let limit = self.max_record_bytes;
                return Err(refused(format!(
                    "entry {index} takes {} bytes, a segment {limit}",
                    draft.record_bytes()
                )));
            }
            changes.push((change, draft));
        }
        Ok(changes)
    }
}

fn stopped() -> StorageError {
    StorageError::Stopped("the log is closed".to_owned())
}

fn refused(message: String) -> StorageError {
    StorageError::Io { what: "appending to the log".to_owned(), kind: io::ErrorKind::InvalidInput, message }
}

fn with_draft(change: Change) -> Vec<(Change, Draft)> {
    let draft = Draft::new(&change);
    vec![(change, draft)]
}

fn in_use(dir: &Path, error: &io::Error) -> StorageError {
    if error.kind() == io::ErrorKind::WouldBlock {
        return StorageError::Foreign(format!(
            "{} is in use by another process: stop that one, or give this node a data directory of its own",
            dir.display()
        ));
    }
    StorageError::io(format!("locking {}", dir.display()), error)
}

/// Makes `dir`, and its own name durable.
fn make_directory(fs: &dyn FileSystem, dir: &Path) -> io::Result<()> {
    fs.create_dir_all(dir)?;
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => fs.sync_dir(parent),
        None => Ok(()),
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let table = self.reader.shared.table();
        Ok(LogState { last_purged_log_id: table.points.purged, last_log_id: table.points.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if planted::is(Bug::VoteNotSynced) {
            self.reader.shared.table().points.vote = Some(*vote);
            return Ok(());
        }
        let (answer, saved) = oneshot::channel();
        self.submit(Done::Saved(answer), |_| Ok(with_draft(Change::Vote(*vote))))?;
        Ok(saved.await.unwrap_or_else(|_| Err(stopped()))?)
    }

    /// Never waits for the disk: the point is written with the next group, or when the log is idle.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut table = self.reader.shared.table();
        table.points.committed = committed;
        if std::mem::take(&mut table.idle) {
            self.queue.send(Request::Wake).map_err(|_| stopped())?;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let table = self.reader.shared.table();
        // Applied may run ahead of what this disk had when it lost power.
        let saved = table.points.committed;
        Ok(saved.and_then(|saved| match &table.points.last {
            Some(last) if last.index < saved.index => Some(*last),
            Some(_) => Some(saved),
            None => None,
        }))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<TypeConfig>> + Send,
        I::IntoIter: Send,
    {
        let entries = entries.into_iter().map(|entry| (entry.log_id, entry.payload)).collect();
        self.wait_for_room().await;
        self.submit(Done::Flushed(callback), |table| self.check_entries(table, entries))?;
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.submit(Done::Nobody, |table| {
            let after = last_log_id.as_ref().map(|id| id.index);
            if after >= table.points.last_index() {
                return Ok(Vec::new());
            }
            if after < table.points.purged_index() {
                return Err(refused(format!("truncating after {after:?} reaches into what is purged")));
            }
            // What is left may be the purge point, or nothing.
            let kept = after.and_then(|index| table.slots.log_id(index));
            Ok(with_draft(Change::Truncate(kept.or(table.points.purged))))
        })?;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.submit(Done::Nobody, |table| {
            if table.points.purged_index() >= Some(log_id.index) {
                return Ok(Vec::new());
            }
            Ok(with_draft(Change::Purge(log_id)))
        })?;
        Ok(())
    }
}
