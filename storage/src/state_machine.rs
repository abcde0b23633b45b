//! Committed entries -> shop -> memtable, on the apply thread.

use crate::cache::{Cached, RowCache};
use crate::codec;
use crate::error::StorageError;
use crate::shop::planted::{self, Bug};
use crate::shop::state::step;
use crate::shop::version::ClusterVersion;
use crate::snapshot::{SnapshotFile, SnapshotReceiver, Snapshots};
use crate::spawn::on_worker;
use crate::store::Store;
use crate::tables::Frozen;
use crate::type_config::{Answers, TypeConfig};
use futures::{Stream, StreamExt};
use openraft::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// Entries handed to the apply thread at once: enough to keep it busy, few enough that answers
/// do not wait for strangers.
const ENTRIES_AT_ONCE: usize = 16;
/// Entries of no more than this together are applied where they arrive: that takes tens of microseconds, as long as to
/// wake the apply thread and to be woken by it, which a lone caller would wait for.
const APPLIED_IN_PLACE_BYTES: usize = 1 << 10;

struct Job {
    entries: Vec<EntryResponder<TypeConfig>>,
    done: oneshot::Sender<Result<(), StorageError>>,
}

/// The snapshot file in use, shared by whoever sends it.
pub(crate) type Newest = Arc<Mutex<Option<SnapshotFile>>>;

/// openraft's state machine over the tables. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StateMachine {
    store: Arc<Store>,
    snapshots: Snapshots,
    newest: Newest,
    /// Newer than the state at the start, and there was no room to install it.
    withheld: Option<SnapshotFile>,
    /// Written, and not yet known to openraft.
    prepared: Newest,
    applier: Arc<Mutex<Applier>>,
    jobs: mpsc::UnboundedSender<Job>,
}

impl StateMachine {
    /// Starts the apply thread, which ends with the last clone.
    pub(crate) fn new(
        store: Arc<Store>,
        snapshots: Snapshots,
        newest: Newest,
        withheld: Option<SnapshotFile>,
    ) -> Result<Self, StorageError> {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let applier = Arc::new(Mutex::new(Applier::new(store.clone())));
        let worker = {
            let applier = applier.clone();
            async move {
                while let Some(job) = queue.recv().await {
                    // Nobody waits any more where the node is being stopped.
                    let _ = job.done.send(apply_with(&applier, job.entries));
                }
            }
        };
        let spawned = store.spawn.spawn("apply", Box::pin(worker));
        spawned.map_err(|error| StorageError::io("starting the apply thread", &error))?;
        Ok(StateMachine { store, snapshots, newest, withheld, prepared: Newest::default(), applier, jobs })
    }

    /// Entries come from one place, and the next ones once these are applied: the lock is never waited for.
    async fn apply_all(&self, entries: Vec<EntryResponder<TypeConfig>>) -> Result<(), StorageError> {
        if entries.iter().map(|(entry, _)| batch_bytes(entry)).sum::<usize>() <= APPLIED_IN_PLACE_BYTES {
            return apply_with(&self.applier, entries);
        }
        let stopped = || StorageError::Stopped("the apply thread has ended".to_owned());
        let (done, outcome) = oneshot::channel();
        self.jobs.send(Job { entries, done }).map_err(|_| stopped())?;
        outcome.await.map_err(|_| stopped())?
    }

    /// The newest finished snapshot file, but none that openraft would have to install without room.
    pub fn newest_snapshot(&self) -> Option<SnapshotFile> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let withheld = || self.withheld.clone().filter(|file| file.log_index() <= self.applied_index());
        newest.or_else(withheld)
    }

    fn applied_index(&self) -> u64 {
        self.store.applied().fingerprint.log_index
    }

    fn set_newest(&self, file: &SnapshotFile) {
        self.store.cover(file.log_index());
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(file.clone());
    }

    /// Writes a snapshot file of now and verifies it. openraft takes it when it is next asked for a snapshot, and writes
    /// none itself: an error of its own would end the node, while a disk that is full for a while need not.
    ///
    /// # Errors
    /// What the disk says; [`StorageError::is_no_room`] where it is full: nothing is lost, and nothing left over.
    pub async fn prepare_snapshot(&self) -> Result<SnapshotFile, StorageError> {
        let file = on_worker(&*self.store.spawn, "snapshot", self.clone().build()).await?;
        *self.prepared() = Some(file.clone());
        Ok(file)
    }

    fn prepared(&self) -> MutexGuard<'_, Option<SnapshotFile>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether openraft does not know yet of the newest snapshot file that was prepared.
    pub fn has_prepared_snapshot(&self) -> bool {
        self.prepared().is_some()
    }

    /// Whether there is room to make a snapshot file the state of this node.
    ///
    /// # Errors
    /// [`StorageError::is_no_room`].
    pub fn room_to_install(&self, file: &SnapshotFile) -> Result<(), StorageError> {
        self.store.kind.room_for("a snapshot", file.own_bytes())
    }

    /// Begins to receive a snapshot file from a peer, or goes on with what is there of it.
    ///
    /// # Errors
    /// [`StorageError`] where the disk refuses.
    pub fn receive_snapshot(&self, id: &str, bytes: u64) -> Result<SnapshotReceiver, StorageError> {
        self.snapshots.receive(id, bytes, &self.store.kind)
    }

    /// Makes a received or fetched snapshot file the state of this node.
    pub(crate) async fn install(&self, file: &SnapshotFile) -> Result<(), StorageError> {
        let (machine, file) = (self.clone(), file.clone());
        let install = async move {
            machine.store.marker.hold(file.cluster_version())?;
            machine.store.exchange(|kind| machine.snapshots.load(&file, kind)).await?;
            machine.set_newest(&file);
            Ok(())
        };
        on_worker(&*self.store.spawn, "install", install).await
    }

    async fn build(self) -> Result<SnapshotFile, StorageError> {
        let started = Instant::now();
        let build = |frozen: &Frozen| {
            let file = self.snapshots.build(frozen)?;
            self.set_newest(&file);
            Ok(file)
        };
        let file = self.store.with_frozen(build).await?;
        metrics::histogram!("stockroom_snapshot_seconds").record(started.elapsed());
        metrics::gauge!("stockroom_snapshot_bytes").set(file.bytes() as f64);
        tracing::info!(
            index = file.log_index(),
            bytes = file.bytes(),
            ms = started.elapsed().as_millis() as u64,
            "wrote and verified a snapshot file"
        );
        Ok(file)
    }
}

/// Applies with the one applier there is; fails for good after it panicked.
fn apply_with(
    applier: &Mutex<Applier>,
    entries: Vec<EntryResponder<TypeConfig>>,
) -> Result<(), StorageError> {
    let applier =
        applier.lock().map_err(|_| StorageError::Stopped("applying an entry panicked".to_owned()))?;
    applier.apply(entries)
}

fn batch_bytes(entry: &openraft::alias::EntryOf<TypeConfig>) -> usize {
    match &entry.payload {
        EntryPayload::Normal(batch) => batch.0.len(),
        _ => 0,
    }
}

/// No entry may be applied twice, and none with proposals after one that was left out. (openraft's own
/// suite leaves out others.)
fn may_follow(entry: &openraft::alias::EntryOf<TypeConfig>, applied: u64) -> bool {
    let index = entry.log_id().index;
    match entry.payload {
        EntryPayload::Normal(_) => index == applied + 1,
        _ => index > applied,
    }
}

/// Applies entries, one after the other.
#[derive(Debug)]
struct Applier {
    store: Arc<Store>,
    cache: RefCell<RowCache>,
    seconds: metrics::Histogram,
    index: metrics::Gauge,
    orders: metrics::Counter,
    reserved: metrics::Gauge,
    allocated: metrics::Gauge,
}

impl Applier {
    fn new(store: Arc<Store>) -> Self {
        Applier {
            store,
            cache: RefCell::default(),
            seconds: metrics::histogram!("stockroom_apply_seconds"),
            index: metrics::gauge!("stockroom_applied_index"),
            orders: metrics::counter!("stockroom_orders_placed_total"),
            reserved: metrics::gauge!("stockroom_units_reserved"),
            allocated: metrics::gauge!("stockroom_units_allocated"),
        }
    }

    fn apply(&self, entries: Vec<EntryResponder<TypeConfig>>) -> Result<(), StorageError> {
        for (entry, responder) in entries {
            let answers = self.apply_entry(entry)?;
            if let Some(responder) = responder {
                responder.send(answers);
            }
        }
        Ok(())
    }

    fn apply_entry(&self, entry: openraft::alias::EntryOf<TypeConfig>) -> Result<Answers, StorageError> {
        let log_id = entry.log_id();
        let applied = self.store.read().progress.log_id;
        if applied.is_some_and(|applied| !may_follow(&entry, applied.index)) {
            let why = format!("entry {log_id} was to be applied after {applied:?}");
            return Err(StorageError::Stopped(why));
        }
        match entry.payload {
            EntryPayload::Blank => {
                self.store.change(|tables| tables.advance(log_id));
                Ok(Answers::default())
            }
            EntryPayload::Membership(membership) => {
                self.store.change(|tables| {
                    tables.progress.membership =
                        StoredMembershipOf::<TypeConfig>::new(Some(log_id), membership);
                    tables.advance(log_id);
                });
                Ok(Answers::default())
            }
            EntryPayload::Normal(batch) => self.apply_batch(log_id, &batch.0),
        }
    }

    fn apply_batch(&self, log_id: LogIdOf<TypeConfig>, batch: &[u8]) -> Result<Answers, StorageError> {
        let started = Instant::now();
        let mut batch = codec::decode_batch(batch).map_err(|error| {
            tracing::error!(%error, index = log_id.index, "this node stops");
            StorageError::Stopped(format!("entry {log_id} cannot be read: {error}"))
        })?;
        planted::applied_again(log_id.index, &mut batch);
        planted::began_leading(log_id.committed_leader_id().term, || self.store.term_began(&log_id));
        let (in_force, prepared) = {
            let tables = self.store.read();
            self.cache.borrow_mut().follow(&tables);
            let rows = Cached { tables: &tables, cache: &self.cache };
            let step = step(&rows, log_id.index, &batch).map_err(|fault| {
                tracing::error!(%fault, index = log_id.index, "this node stops");
                StorageError::Stopped(fault.to_string())
            })?;
            (tables.head.cluster_version, tables.prepare(log_id, step, &mut self.cache.borrow_mut())?)
        };
        if prepared.cluster_version() > in_force {
            self.raise(log_id, prepared.cluster_version())?;
        }
        if planted::is(Bug::HalfOrder) {
            self.store.show_bit_by_bit(&prepared);
        }
        let (answers, head) = self.store.change(|tables| {
            let before = tables.head.orders_placed;
            let answers = tables.absorb(prepared);
            self.orders.increment(tables.head.orders_placed - before);
            (answers, (tables.progress.log_index(), tables.head.units_reserved, tables.head.units_allocated))
        });
        self.seconds.record(started.elapsed());
        self.index.set(head.0 as f64);
        self.reserved.set(head.1 as f64);
        self.allocated.set(head.2 as f64);
        Ok(Answers(Arc::new(answers)))
    }

    /// Before an entry takes effect that puts a later cluster version in force: the data directory says so first, or this
    /// program stops, as it does not serve it.
    fn raise(&self, log_id: LogIdOf<TypeConfig>, to: ClusterVersion) -> Result<(), StorageError> {
        self.store.marker.hold(to).inspect_err(|error| {
            tracing::error!(%error, index = log_id.index, "this node stops");
        })?;
        tracing::info!(version = to.0, index = log_id.index, "a later cluster version is in force");
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<TypeConfig>>, StoredMembershipOf<TypeConfig>), io::Error> {
        let tables = self.store.read();
        Ok((tables.progress.log_id, tables.progress.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        if let Some(error) = self.store.failure() {
            return Err(error.into());
        }
        let mut chunks = entries.ready_chunks(ENTRIES_AT_ONCE);
        while let Some(chunk) = chunks.next().await {
            self.apply_all(chunk.into_iter().collect::<Result<_, _>>()?).await?;
        }
        Ok(())
    }

    /// openraft is asked for one whenever one was prepared, now and then twice. It needs no other where it has one, and an
    /// error of one that is written for it would end the node.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Self> {
        (force || self.has_prepared_snapshot() || self.newest_snapshot().is_none()).then(|| self.clone())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        if snapshot.meta() != *meta {
            return Err(
                StorageError::Format(format!("a snapshot of {:?}, not {meta:?}", snapshot.meta())).into()
            );
        }
        Ok(self.install(&snapshot).await?)
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotFile>>, io::Error> {
        Ok(self.newest_snapshot().map(as_snapshot))
    }
}

fn as_snapshot(file: SnapshotFile) -> SnapshotOf<TypeConfig, SnapshotFile> {
    SnapshotOf::<TypeConfig, SnapshotFile> { meta: file.meta(), snapshot: file }
}

/// At a start with a purged log openraft has a snapshot built where it is shown none, and looks at nothing but how far that
/// reaches. The disk has no room for one, and the one that is withheld reaches beyond what was purged.
fn as_far_as_purged(
    withheld: &SnapshotFile,
    purged: Option<LogIdOf<TypeConfig>>,
) -> SnapshotOf<TypeConfig, SnapshotFile> {
    let meta = SnapshotMetaOf::<TypeConfig> { last_log_id: purged, ..Default::default() };
    SnapshotOf::<TypeConfig, SnapshotFile> { meta, snapshot: withheld.clone() }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotFile>, io::Error> {
        let prepared = self.prepared().take();
        let file = match (prepared, &self.withheld) {
            (Some(file), _) => file,
            (None, Some(withheld)) => return Ok(as_far_as_purged(withheld, self.store.log().last_purged())),
            (None, None) => on_worker(&*self.store.spawn, "snapshot", self.clone().build()).await?,
        };
        Ok(as_snapshot(file))
    }
}
