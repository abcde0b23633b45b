//! Putting the parts of a node's storage together at its start.

use crate::base::Base;
use crate::disk_base::DiskOptions;
use crate::error::StorageError;
use crate::fs::{FileSystem, RealFileSystem};
use crate::identity::Identity;
use crate::log_store::{LogOptions, LogStore};
use crate::panics;
use crate::reader::Reader;
use crate::scrub::{self, ScrubOptions, ScrubStatus};
use crate::shelf::Sealed;
use crate::shop::planted;
use crate::shop::version::{SERVED, Versions};
use crate::snapshot::{SnapshotFile, Snapshots, Underway};
use crate::spawn::{Spawn, ThreadSpawn, on_worker};
use crate::state_machine::StateMachine;
use crate::store::{BaseKind, MemtableLimits, Store};
use crate::tables::Tables;
use crate::version::Marker;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How a node's storage uses disk and memory.
#[derive(Debug, Clone)]
pub struct StorageOptions {
    /// The node's data directory.
    pub dir: PathBuf,
    /// Where log and snapshot files lie.
    pub fs: Arc<dyn FileSystem>,
    /// The state machine's base in memory instead of sled, for simulation.
    pub memory_base: bool,
    /// Where the workers of log and state machine run.
    pub spawn: Arc<dyn Spawn>,
    /// The log's files and cache.
    pub log: LogOptions,
    /// The memtable is written to sled at this size, in bytes of memory.
    pub checkpoint_bytes: usize,
    /// ... and after this time, where anything changed. Bounds what is applied again at a start.
    pub checkpoint_interval: Duration,
    /// Beyond this, in bytes of memory, nothing new is proposed.
    pub memtable_max_bytes: usize,
    /// sled's cache, in bytes.
    pub sled_cache_bytes: u64,
    /// Rows that are written once lie in files that are sealed at this size, and are then shared with snapshots;
    /// in larger ones where there are many, in bytes.
    pub shelf_segment_bytes: u64,
    /// A snapshot file is written when the log has grown by this, or by the size of the last file
    /// if that is larger, in bytes. What it shares with the state costs nothing and does not count.
    pub snapshot_min_log_bytes: u64,
    /// Log kept behind the newest snapshot file for followers that are not far behind, in bytes ...
    pub purge_margin_bytes: u64,
    /// ... and in entries, whichever keeps more.
    pub purge_margin_entries: u64,
    /// How often and how fast everything on the disk is read.
    pub scrub: ScrubOptions,
    /// The cluster versions that this program serves; tests play other programs.
    pub served: Versions,
}

impl StorageOptions {
    /// The defaults, for a data directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        StorageOptions {
            dir: dir.into(),
            fs: Arc::new(RealFileSystem),
            memory_base: false,
            spawn: Arc::new(ThreadSpawn),
            log: LogOptions::default(),
            checkpoint_bytes: 32 << 20,
            checkpoint_interval: Duration::from_secs(10),
            memtable_max_bytes: 256 << 20,
            sled_cache_bytes: 128 << 20,
            shelf_segment_bytes: 16 << 20,
            snapshot_min_log_bytes: 256 << 20,
            purge_margin_bytes: 32 << 20,
            purge_margin_entries: 1_000,
            scrub: ScrubOptions::default(),
            served: SERVED,
        }
    }
}

/// A node's storage.
#[derive(Debug)]
pub struct Storage {
    /// openraft's log.
    pub log: LogStore,
    /// openraft's state machine.
    pub state_machine: StateMachine,
    /// For everybody else.
    pub reader: Reader,
    /// Neither sled nor a snapshot file can serve, and the log was purged up to here: a snapshot at or
    /// above it has to come from a peer ([`Storage::install_fetched`]) before Raft is started.
    pub snapshot_needed: Option<u64>,
    store: Arc<Store>,
    options: StorageOptions,
}

/// Opens log, state and snapshot file of a node, and makes the state good from the other two where
/// it is missing or damaged.
///
/// # Errors
/// [`StorageError::Corrupt`] where the log is damaged, [`StorageError::Foreign`] where a file is another
/// node's, [`StorageError::Io`].
pub async fn open(options: StorageOptions, identity: &Identity) -> Result<Storage, StorageError> {
    let identity = *identity;
    let spawn = options.spawn.clone();
    on_worker(&*spawn, "open", async move { open_blocking(options, &identity) }).await
}

fn open_blocking(options: StorageOptions, identity: &Identity) -> Result<Storage, StorageError> {
    let fs = options.fs.clone();
    let marker = Marker { fs: fs.clone(), dir: options.dir.clone(), served: options.served };
    // First of all: what a newer program wrote must not be taken for damage.
    marker.check()?;
    let log =
        LogStore::open_with(fs.clone(), &options.dir.join("log"), identity, options.log, &*options.spawn)?;
    planted::log_ends_at(log.last_log_id().map(|log_id| log_id.index));
    let snapshots = Snapshots {
        fs: fs.clone(),
        dir: options.dir.join("snapshot"),
        cluster_id: identity.cluster_id,
        group_id: identity.group_id,
        served: options.served,
        underway: Underway::default(),
    };
    let kind = if options.memory_base {
        BaseKind::Memory
    } else {
        BaseKind::Disk(DiskOptions {
            fs,
            dir: options.dir.join("state"),
            cache_bytes: options.sled_cache_bytes,
            segment_bytes: options.shelf_segment_bytes,
        })
    };
    let whole = kind.is_damaged();
    let mut newest = snapshots.newest(whole)?;
    let (tables, snapshot_needed) = match usable(&kind, &log, newest.as_ref(), identity, whole)? {
        Some(tables) => (tables, None),
        None => {
            // What the state is built from is proved whole.
            newest = snapshots.newest(true)?;
            rebuild(&kind, &snapshots, newest.as_ref(), &log)?
        }
    };
    kind.is_whole();
    let withheld = newest.take_if(|file| cannot_be_installed(&kind, &tables, file));
    marker.hold(tables.head.cluster_version)?;
    let limits = MemtableLimits {
        checkpoint_bytes: options.checkpoint_bytes,
        checkpoint_interval: options.checkpoint_interval,
        max_bytes: options.memtable_max_bytes,
    };
    let store = Store::new(tables, kind, limits, log.clone(), marker, options.spawn.clone());
    let newest = Arc::new(Mutex::new(newest));
    let state_machine = StateMachine::new(store.clone(), snapshots, newest.clone(), withheld)?;
    let checkpointer = store.clone().run_checkpointer();
    let spawned = options.spawn.spawn("checkpoint", Box::pin(checkpointer));
    spawned.map_err(|error| StorageError::io("starting the checkpoint thread", &error))?;
    if !options.memory_base {
        let scrub = scrub::run(Arc::downgrade(&store), newest, options.scrub);
        let spawned = options.spawn.spawn("scrub", Box::pin(scrub));
        spawned.map_err(|error| StorageError::io("starting the scrub thread", &error))?;
    }
    let reader = Reader::new(store.clone(), log.clone(), state_machine.clone());
    Ok(Storage { log, state_machine, reader, snapshot_needed, store, options })
}

/// The state on disk, where it is whole and fits the log.
///
/// # Errors
/// [`StorageError::Lost`] where it shows that the log had more than it has.
fn usable(
    kind: &BaseKind,
    log: &LogStore,
    newest: Option<&SnapshotFile>,
    identity: &Identity,
    whole: bool,
) -> Result<Option<Tables>, StorageError> {
    let base = match kind.open(whole) {
        Ok(Some(base)) => base,
        Ok(None) => return Ok(None),
        Err(error) => {
            tracing::warn!(%error, "the state on disk cannot be opened and is built anew");
            return Ok(None);
        }
    };
    // sled may panic even while it is being closed.
    let proved = panics::catch(|| proved(base))
        .unwrap_or_else(|why| Err(StorageError::Stopped(format!("reading it panicked: {why}"))));
    match proved {
        Err(error) => {
            tracing::warn!(%error, "the state on disk is damaged and is built anew");
            Ok(None)
        }
        Ok(tables) => {
            let index = tables.progress.log_id.as_ref().map(|log_id| log_id.index);
            // An installed snapshot may have come before the log was purged up to it.
            let last = log.last_log_id().map(|log_id| log_id.index).max(newest.map(SnapshotFile::log_index));
            let purged = log.last_purged().map(|log_id| log_id.index);
            // A checkpoint waits until the log is durable through what it holds: what is missing now was there.
            if index > last && !planted::may_lose_what_it_acknowledged() {
                return Err(StorageError::Lost(format!(
                    "the state of node {0} on this disk holds entry {1}, but its log and snapshot file end with {2}: the \
                     log lost entries that were durable. {3}",
                    identity.node_id,
                    index.unwrap_or_default(),
                    last.unwrap_or_default(),
                    identity.must_be_replaced(),
                )));
            }
            if index > last {
                tracing::warn!(?index, ?last, "the state on disk is ahead of the log and is built anew");
                return Ok(None);
            }
            if index < purged {
                tracing::warn!(
                    ?index,
                    ?purged,
                    "the state on disk is behind the purged log and is built anew"
                );
                return Ok(None);
            }
            Ok(Some(tables))
        }
    }
}

/// A sum that matches proves every row: those that may change are read, the files of the others have sums.
fn proved(base: Arc<dyn Base>) -> Result<Tables, StorageError> {
    let sums = base.sums(&|_| Ok(()))?;
    let tables = Tables::open(base)?;
    if !sums.are_those_of(&tables.progress) {
        return Err(StorageError::Format("its rows do not add up to its state hash".to_owned()));
    }
    Ok(tables)
}

/// Whether openraft would install this file at its start, without room for it: that would end the node, which can do
/// without.
fn cannot_be_installed(kind: &BaseKind, tables: &Tables, newest: &SnapshotFile) -> bool {
    if newest.log_index() <= tables.progress.log_index() {
        return false;
    }
    let room = kind.room_for("a snapshot", newest.own_bytes());
    if let Err(error) = &room {
        let (index, applied) = (newest.log_index(), tables.progress.log_index());
        tracing::warn!(%error, index, applied, "the snapshot file on this disk is not installed; the node goes on without");
    }
    room.is_err()
}

/// State from the snapshot file, or empty where the log has everything; else what is needed.
fn rebuild(
    kind: &BaseKind,
    snapshots: &Snapshots,
    newest: Option<&SnapshotFile>,
    log: &LogStore,
) -> Result<(Tables, Option<u64>), StorageError> {
    let purged = log.last_purged().map(|log_id| log_id.index);
    let (tables, generation) = match newest {
        Some(file) if Some(file.log_index()) >= purged => {
            tracing::info!(index = file.log_index(), "building the state from the snapshot file");
            snapshots.load(file, kind)?
        }
        _ => {
            let (base, generation) = kind.create(&Sealed::default())?;
            (Tables::open(base)?, generation)
        }
    };
    kind.switch(generation)?;
    let applied = tables.progress.log_id.as_ref().map(|log_id| log_id.index);
    Ok((tables, if applied < purged { purged } else { None }))
}

/// Without [`Storage::close`] nothing more is written: the next start makes good, as after a crash.
impl Drop for Storage {
    fn drop(&mut self) {
        self.store.stop();
    }
}

impl Storage {
    /// Makes a snapshot file that was fetched from a peer the state of this node.
    ///
    /// # Errors
    /// [`StorageError`] where it is too old, or the disk refuses.
    pub async fn install_fetched(&mut self, file: SnapshotFile) -> Result<(), StorageError> {
        if Some(file.log_index()) < self.snapshot_needed {
            let needed = self.snapshot_needed;
            return Err(StorageError::Format(format!(
                "a snapshot of {}, needed {needed:?}",
                file.log_index()
            )));
        }
        self.state_machine.install(&file).await?;
        self.snapshot_needed = None;
        Ok(())
    }

    /// Why this node has to stop, where it has to: checkpoints ended, or rows on disk are damaged.
    pub fn failure(&self) -> Option<StorageError> {
        self.store.failure()
    }

    /// Begins a scrub now, unless one is running. A state in memory has none.
    pub fn start_scrub(&self) {
        if !self.options.memory_base {
            self.store.scrub.start();
        }
    }

    /// How the scrub stands.
    pub fn scrub_status(&self) -> ScrubStatus {
        self.store.scrub.status()
    }

    /// Why checkpoints wait, where the disk has no room for them. The log keeps everything.
    pub fn waits_for_room(&self) -> Option<StorageError> {
        self.store.waits_for_room()
    }

    /// Newest entry in the newest verified snapshot file.
    pub fn snapshot_index(&self) -> Option<u64> {
        self.state_machine.newest_snapshot().map(|file| file.log_index())
    }

    /// Whether the log has grown enough since the last snapshot file for a new one.
    pub fn wants_snapshot(&self) -> bool {
        let newest = self.state_machine.newest_snapshot();
        let (index, size) = newest.map_or((0, 0), |file| (file.log_index(), file.own_bytes()));
        let grown = self.log.bytes_since(index);
        grown >= self.options.snapshot_min_log_bytes.max(size)
            && self.reader.applied().fingerprint.log_index > index
    }

    /// How far a snapshot file should reach with which a new node begins; `None` where the log will do. To apply the log takes
    /// the CPU that its entries took; a file is copied. So it pays from an eighth on of the log after which a file is
    /// written anyway.
    pub fn snapshot_for_a_new_node(&self) -> Option<u64> {
        let much = self.options.snapshot_min_log_bytes / 8;
        let newest = self.snapshot_index().unwrap_or_default();
        let behind_newest = self.log.bytes_since(newest);
        let sent = if self.log.last_purged().is_some() { behind_newest } else { self.log.bytes_since(0) };
        if sent <= much {
            return None;
        }
        Some(if behind_newest <= much { newest } else { self.reader.applied().fingerprint.log_index })
    }

    /// Newest entry that may be purged: covered by the newest verified snapshot file, and behind
    /// applied by the margin.
    pub fn purgeable(&self) -> Option<u64> {
        let covered = self.state_machine.newest_snapshot()?.log_index();
        let by_bytes = self.log.purgeable_index(self.options.purge_margin_bytes)?;
        let applied = self.reader.applied().fingerprint.log_index;
        let by_entries = applied.checked_sub(self.options.purge_margin_entries)?;
        let index = covered.min(by_bytes).min(by_entries);
        (Some(index) > self.log.last_purged().map(|log_id| log_id.index)).then_some(index)
    }

    /// Writes the memtable to sled and seals the log. For a clean stop, after Raft has stopped.
    ///
    /// # Errors
    /// [`StorageError`] where the disk refuses; the next start makes good.
    pub async fn close(&self) -> Result<(), StorageError> {
        let store = self.store.clone();
        let last = async move {
            store.stop();
            store.with_frozen(|_| Ok(())).await?;
            store.flush()
        };
        let checkpoint = on_worker(&*self.options.spawn, "checkpoint", last).await;
        self.log.close().await?;
        match checkpoint {
            Err(error) if error.is_no_room() => {
                tracing::warn!(%error, "the last checkpoint found no room; the log keeps everything");
                Ok(())
            }
            checkpoint => checkpoint,
        }
    }
}
