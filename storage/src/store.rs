//! The tables of one node behind their lock, and who may do what to them when.
//!
//! - The apply thread is the only one that changes rows.
//! - Checkpoint, snapshot and audit take turns: each freezes the memtable, writes the frozen part to the base,
//!   and works on that, which nobody else changes meanwhile, while applies go on into a new memtable. So a
//!   snapshot needs no pause, and there is never more than one frozen part.
//! - Installing a snapshot takes its turn too, and then exchanges the tables whole.

use crate::base::{Base, MemoryBase};
use crate::codec;
use crate::disk_base::{DiskBase, DiskOptions, Places};
use crate::error::StorageError;
use crate::keys;
use crate::log_store::LogStore;
use crate::memtable::Layer;
use crate::redo::Redo;
use crate::scrub::Scrub;
use crate::shelf::{Sealed, damage};
use crate::shop::ids::TimestampMs;
use crate::shop::planted::{self, Bug};
use crate::shop::version::ClusterVersion;
use crate::spawn::Spawn;
use crate::tables::{Fingerprint, Frozen, Prepared, Tables};
use crate::type_config::TypeConfig;
use crate::version::Marker;
use openraft::alias::LogIdOf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// How far a node has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Newest applied entry, and what it led to.
    pub fingerprint: Fingerprint,
    /// The replicated clock there.
    pub clock: TimestampMs,
    /// Which commands, rules and formats are in force there.
    pub cluster_version: ClusterVersion,
}

/// Where the base lies.
#[derive(Debug, Clone)]
pub(crate) enum BaseKind {
    /// sled and the shelf, in generations below this directory.
    Disk(DiskOptions),
    /// In memory, for simulation.
    Memory,
}

/// Names the generation that is in use; the others are leftovers.
const CURRENT: &str = "CURRENT";

impl BaseKind {
    fn generation(dir: &std::path::Path) -> Option<u64> {
        std::fs::read_to_string(dir.join(CURRENT)).ok()?.trim().parse().ok()
    }

    /// Opens the generation in use, where there is one; `whole` proves every row that was written once.
    pub fn open(&self, whole: bool) -> Result<Option<Arc<dyn Base>>, StorageError> {
        let BaseKind::Disk(disk) = self else { return Ok(None) };
        match Self::generation(&disk.dir) {
            Some(generation) if disk.places(generation).table.is_dir() => {
                // Left over where a switch was killed. They cost room, and no promise.
                if let Err(error) = Self::remove_others(disk, generation) {
                    tracing::warn!(%error, "what an earlier state left on this disk stays behind");
                }
                Ok(Some(Arc::new(DiskBase::open(disk, generation, whole)?)))
            }
            _ => Ok(None),
        }
    }

    /// Makes one that has only what is in the sealed files of a snapshot; not in use before [`BaseKind::switch`].
    pub fn create(&self, sealed: &Sealed) -> Result<(Arc<dyn Base>, u64), StorageError> {
        match self {
            BaseKind::Memory if sealed.manifest.files().next().is_some() => Err(StorageError::Format(
                "a base in memory has no place for the files of a snapshot".to_owned(),
            )),
            BaseKind::Memory => Ok((Arc::new(MemoryBase::default()), 0)),
            BaseKind::Disk(disk) => {
                let generation = Self::generation(&disk.dir).map_or(1, |generation| generation + 1);
                let Places { table, shelf } = disk.places(generation);
                let io = |error: &std::io::Error| {
                    StorageError::io(format!("making {} anew", table.display()), error)
                };
                remove_base(&table).map_err(|e| io(&e))?;
                remove_base(&shelf).map_err(|e| io(&e))?;
                std::fs::create_dir_all(&table).map_err(|e| io(&e))?;
                Ok((Arc::new(DiskBase::create(disk, generation, sealed)?), generation))
            }
        }
    }

    /// Whether rows of so many bytes, compressed, can be loaded.
    pub fn room_for(&self, what: &str, bytes: u64) -> Result<(), StorageError> {
        match self {
            BaseKind::Disk(disk) => disk.room_for(what, bytes),
            BaseKind::Memory => Ok(()),
        }
    }

    /// Whether damage was found since the state was last proved or built anew.
    pub fn is_damaged(&self) -> bool {
        matches!(self, BaseKind::Disk(disk) if damage::is_marked(&*disk.fs, &disk.dir))
    }

    /// Damage was found: the next start reads everything.
    pub fn mark_damaged(&self) {
        if let BaseKind::Disk(disk) = self {
            damage::mark(&*disk.fs, &disk.dir);
        }
    }

    /// Where the state lies.
    pub fn place(&self) -> std::path::PathBuf {
        match self {
            BaseKind::Disk(disk) => disk.dir.clone(),
            BaseKind::Memory => "memory".into(),
        }
    }

    /// The state was proved whole, or built anew.
    pub fn is_whole(&self) {
        if let BaseKind::Disk(disk) = self {
            damage::unmark(&*disk.fs, &disk.dir);
        }
    }

    /// Puts a generation in use, for the next start too, and removes the one before. No sync: after
    /// a power loss either generation, or none, is proved or thrown away at the start.
    pub fn switch(&self, generation: u64) -> Result<(), StorageError> {
        let BaseKind::Disk(disk) = self else { return Ok(()) };
        let dir = &disk.dir;
        let io =
            |error: &std::io::Error| StorageError::io(format!("writing {}/{CURRENT}", dir.display()), error);
        let new = dir.join("CURRENT.tmp");
        std::fs::write(&new, format!("{generation}\n")).map_err(|e| io(&e))?;
        std::fs::rename(&new, dir.join(CURRENT)).map_err(|e| io(&e))?;
        Self::remove_others(disk, generation).map_err(|e| io(&e))
    }

    /// Removes every generation but this one.
    fn remove_others(disk: &DiskOptions, generation: u64) -> std::io::Result<()> {
        let Places { table, shelf } = disk.places(generation);
        for entry in std::fs::read_dir(&disk.dir)? {
            let path = entry?.path();
            // On Linux open files stay readable until their last reader is gone.
            if path.is_dir() && path != table && path != shelf {
                remove_base(&path)?;
            }
        }
        Ok(())
    }
}

/// Removes a sled with what lies beside it.
fn remove_base(path: &std::path::Path) -> std::io::Result<()> {
    let missing = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    match std::fs::remove_file(Redo::beside(path).path) {
        Err(error) if !missing(&error) => return Err(error),
        _ => {}
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if !missing(&error) => Err(error),
        _ => Ok(()),
    }
}

/// When the memtable goes to the base, and when proposals have to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemtableLimits {
    /// Frozen and written at this size.
    pub checkpoint_bytes: usize,
    /// Frozen and written after this time, where anything changed.
    pub checkpoint_interval: Duration,
    /// Beyond it nothing new is proposed.
    pub max_bytes: usize,
}

/// The tables of one node.
#[derive(Debug)]
pub(crate) struct Store {
    tables: RwLock<Tables>,
    turn: tokio::sync::Mutex<()>,
    checkpointer: Mutex<CheckpointerState>,
    wake: Notify,
    pub limits: MemtableLimits,
    pub kind: BaseKind,
    /// Which cluster version holds in the data directory.
    pub marker: Marker,
    /// Where workers run.
    pub spawn: Arc<dyn Spawn>,
    /// Newest entry of which the local log is durable.
    pub durable: watch::Receiver<u64>,
    /// Also keeps the directory locked for as long as the base is open.
    log: LogStore,
    applied: watch::Sender<Applied>,
    pub scrub: Scrub,
    checkpoint_index: AtomicU64,
    /// Newest entry in a finished snapshot file.
    covered: AtomicU64,
    checkpoint_seconds: metrics::Histogram,
    memtable_bytes: metrics::Gauge,
}

#[derive(Debug, Default)]
struct CheckpointerState {
    stop: bool,
    failed: Option<StorageError>,
    /// The disk had no room for the last one.
    waits: Option<StorageError>,
}

impl Store {
    pub fn new(
        tables: Tables,
        kind: BaseKind,
        limits: MemtableLimits,
        log: LogStore,
        marker: Marker,
        spawn: Arc<dyn Spawn>,
    ) -> Arc<Self> {
        let applied = applied_of(&tables);
        let checkpoint_index = applied.fingerprint.log_index.into();
        Arc::new(Store {
            tables: RwLock::new(tables),
            turn: tokio::sync::Mutex::new(()),
            checkpointer: Mutex::new(CheckpointerState::default()),
            wake: Notify::new(),
            limits,
            kind,
            marker,
            spawn,
            durable: log.durable(),
            log,
            applied: watch::Sender::new(applied),
            scrub: Scrub::default(),
            checkpoint_index,
            covered: AtomicU64::new(0),
            checkpoint_seconds: metrics::histogram!("stockroom_checkpoint_seconds"),
            memtable_bytes: metrics::gauge!("stockroom_memtable_bytes"),
        })
    }

    /// A panic while the lock was held leaves nothing half done that a reader could see: changes
    /// are prepared before, and the process ends anyway.
    pub fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Newest applied entry.
    pub fn applied(&self) -> Applied {
        *self.applied.borrow()
    }

    /// Tells of every newly applied entry.
    pub fn applied_watch(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// Newest entry whose changes are in the base.
    pub fn checkpoint_index(&self) -> u64 {
        self.checkpoint_index.load(Ordering::Relaxed)
    }

    /// Changes the tables, and tells readers. For the apply thread.
    pub fn change<T>(&self, work: impl FnOnce(&mut Tables) -> T) -> T {
        let (result, applied, full, bytes) = {
            let mut tables = self.write();
            let result = work(&mut tables);
            let full = tables.active.bytes() >= self.limits.checkpoint_bytes;
            (result, applied_of(&tables), full, tables.memtable_bytes())
        };
        self.applied.send_replace(applied);
        self.memtable_bytes.set(bytes as f64);
        if full {
            self.wake.notify_one();
        }
        result
    }

    fn checkpointer(&self) -> MutexGuard<'_, CheckpointerState> {
        self.checkpointer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Freezes the memtable, writes it to the base, and works on what cannot change any more. Blocks: for
    /// workers only.
    ///
    /// # Errors
    /// What the base says; then what the work says.
    pub async fn with_frozen<T>(
        &self,
        work: impl FnOnce(&Frozen) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let _turn = self.turn.lock().await;
        let mut frozen = self.freeze();
        self.write_to_base(&frozen).await?;
        frozen.layer = Arc::default();
        work(&frozen)
    }

    fn freeze(&self) -> Frozen {
        let mut tables = self.write();
        // Left over only where writing it failed before.
        let layer = match tables.frozen.take() {
            Some(mut layer) => {
                let newer = std::mem::take(&mut tables.active);
                let merged = Arc::make_mut(&mut layer);
                merged.absorb(newer);
                layer
            }
            None => Arc::new(std::mem::take(&mut tables.active)),
        };
        tables.frozen = Some(layer.clone());
        Frozen {
            layer,
            base: tables.base.clone(),
            progress: tables.progress.clone(),
            head: tables.head.clone(),
        }
    }

    async fn write_to_base(&self, frozen: &Frozen) -> Result<(), StorageError> {
        let started = Instant::now();
        let index = frozen.progress.log_index();
        if index > self.checkpoint_index() || !frozen.layer.is_empty() {
            self.wait_durable(index).await?;
            let progress = (keys::PROGRESS.to_vec(), Some(codec::encode_serde(&frozen.progress).into()));
            frozen.base.write(&mut frozen.layer.changes().chain(std::iter::once(progress)))?;
            self.checkpoint_index.store(index, Ordering::Relaxed);
            self.checkpoint_seconds.record(started.elapsed());
        }
        let mut tables = self.write();
        tables.frozen = None;
        if planted::is(Bug::LoseMemtableOnCheckpoint) {
            tables.active = Layer::default();
        }
        Ok(())
    }

    /// Of a planted bug only: shows an entry's rows before it is absorbed, each under a lock of its own; those that
    /// others point to first.
    pub fn show_bit_by_bit(&self, prepared: &Prepared) {
        for (key, value) in prepared.changes.iter().rev() {
            self.change(|tables| tables.active.put(key.clone(), value.clone()));
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Of a planted bug only: the first entry of the log that the leader of `log_id` made, as far as the log goes back.
    pub fn term_began(&self, log_id: &LogIdOf<TypeConfig>) -> u64 {
        let leader = |id: LogIdOf<TypeConfig>| *id.committed_leader_id();
        let led = |index: &u64| self.log.log_id(*index).map(leader) == Some(leader(*log_id));
        (1..log_id.index).rev().take_while(led).last().unwrap_or(log_id.index)
    }

    /// Hands the base to the operating system.
    pub fn flush(&self) -> Result<(), StorageError> {
        let base = self.read().base.clone();
        base.flush()
    }

    /// A finished snapshot file holds everything up to `index`.
    pub fn cover(&self, index: u64) {
        self.covered.fetch_max(index, Ordering::Relaxed);
    }

    /// Applied may run ahead of what is durable of the local log; the base must not, or a start would take the log
    /// for one that lost something. What a snapshot file holds needs no log; and what never was in the log, as where
    /// openraft's own suite applies entries without one, cannot be waited for.
    async fn wait_durable(&self, index: u64) -> Result<(), StorageError> {
        let last = self.log.last_log_id().map(|log_id| log_id.index);
        if self.covered.load(Ordering::Relaxed) >= index || last < Some(index) {
            return Ok(());
        }
        self.log.wait_durable(index).await
    }

    /// Exchanges the tables for those of an installed snapshot, whole. Blocks: for workers only.
    pub async fn exchange(
        &self,
        load: impl FnOnce(&BaseKind) -> Result<(Tables, u64), StorageError>,
    ) -> Result<(), StorageError> {
        let _turn = self.turn.lock().await;
        let (tables, generation) = load(&self.kind)?;
        let applied = applied_of(&tables);
        let old = std::mem::replace(&mut *self.write(), tables);
        self.checkpoint_index.store(applied.fingerprint.log_index, Ordering::Relaxed);
        self.applied.send_replace(applied);
        // Closing a sled takes its time; readers have the new tables already.
        drop(old);
        self.kind.switch(generation)
    }

    /// Writes checkpoints as they fall due, until [`Store::stop`]. A worker.
    pub async fn run_checkpointer(self: Arc<Self>) {
        loop {
            // Full, or over time, or the end.
            let _ = tokio::time::timeout(self.limits.checkpoint_interval, self.wake.notified()).await;
            if self.checkpointer().stop {
                return;
            }
            let nothing_to_write = {
                let tables = self.read();
                // What is frozen waits for room.
                tables.active.is_empty() && tables.frozen.is_none()
            };
            if nothing_to_write {
                continue;
            }
            let written = self.with_frozen(|_| Ok(())).await;
            let waits = written.as_ref().err().filter(|error| error.is_no_room()).cloned();
            let waited = std::mem::replace(&mut self.checkpointer().waits, waits).is_some();
            if let Err(error) = written {
                if error.is_no_room() {
                    // Nothing is half done, log and memory keep everything: the next one may find room.
                    if !waited {
                        tracing::warn!(%error, "checkpoints wait for room on the disk");
                    }
                    continue;
                }
                if !self.checkpointer().stop {
                    tracing::error!(%error, "a checkpoint failed; the log keeps everything");
                }
                self.checkpointer().failed = Some(error);
                return;
            }
        }
    }

    /// Why checkpoints wait, where the disk has no room for them.
    pub fn waits_for_room(&self) -> Option<StorageError> {
        self.checkpointer().waits.clone()
    }

    /// Why this node has to stop, where it has to: checkpoints ended, or rows on disk are damaged.
    pub fn failure(&self) -> Option<StorageError> {
        let failed = self.checkpointer().failed.clone();
        failed.or_else(|| self.read().base.damage()).or_else(|| self.scrub.finding())
    }

    /// The node is being stopped.
    pub fn is_stopping(&self) -> bool {
        self.checkpointer().stop
    }

    /// The log that everything here comes from.
    pub fn log(&self) -> &LogStore {
        &self.log
    }

    /// Ends the checkpointer.
    pub fn stop(&self) {
        self.checkpointer().stop = true;
        self.wake.notify_one();
    }
}

fn applied_of(tables: &Tables) -> Applied {
    Applied {
        fingerprint: tables.progress.fingerprint(),
        clock: tables.head.clock,
        cluster_version: tables.head.cluster_version,
    }
}
