//! Reading one replica: how far it is, and consistent views of it, at one applied index each.

mod view;

pub use crate::store::Applied;
pub use crate::tables::Fingerprint;
pub use view::{Page, View};

use crate::archive::{Piece, PieceAbout};
use crate::audit::{self, AuditProgress, AuditReport};
use crate::backup::Origin;
use crate::error::StorageError;
use crate::keys;
use crate::log_store::LogStore;
use crate::shop::ids::{OrderId, TimestampMs};
use crate::shop::state::{Key, Subject};
use crate::spawn::on_worker;
use crate::state_machine::StateMachine;
use crate::store::Store;
use openraft::storage::RaftLogStorage;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// Reads one replica. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    store: Arc<Store>,
    pub(crate) log: LogStore,
    pub(crate) machine: StateMachine,
}

/// Sizes and positions, for metrics and for slowing down in time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// Changes that are not in the base yet, in bytes of memory.
    pub memtable_bytes: u64,
    /// Beyond it nothing new is proposed.
    pub memtable_limit_bytes: u64,
    /// Live bytes of the log.
    pub log_bytes: u64,
    /// Newest entry that the local log keeps through power loss.
    pub durable_log_index: u64,
    /// Newest entry in the newest snapshot file; 0 without one.
    pub snapshot_log_index: u64,
    /// Length of that file.
    pub snapshot_bytes: u64,
    /// Newest entry in the base.
    pub checkpoint_log_index: u64,
}

impl Reader {
    pub(crate) fn new(store: Arc<Store>, log: LogStore, machine: StateMachine) -> Self {
        Reader { store, log, machine }
    }

    /// Newest applied entry.
    pub fn applied(&self) -> Applied {
        self.store.applied()
    }

    /// Tells of every newly applied entry.
    pub fn applied_watch(&self) -> watch::Receiver<Applied> {
        self.store.applied_watch()
    }

    /// Waits until at least `log_index` is applied and locally durable; false at the deadline.
    pub async fn wait_applied(&self, log_index: u64, deadline: Instant) -> bool {
        let mut applied = self.store.applied_watch();
        let reached = applied.wait_for(|applied| applied.fingerprint.log_index >= log_index);
        matches!(tokio::time::timeout_at(deadline, reached).await, Ok(Ok(_)))
            && self.wait_durable(log_index, deadline).await
    }

    /// Waits until the local log keeps `log_index` through power loss; false at the deadline.
    /// Applied may run ahead of it, so an answer that shows an index waits for this.
    pub async fn wait_durable(&self, log_index: u64, deadline: Instant) -> bool {
        if *self.store.durable.borrow() >= log_index {
            return true;
        }
        // An installed snapshot is durable without the log.
        if self.machine.newest_snapshot().is_some_and(|file| file.log_index() >= log_index) {
            return true;
        }
        let mut durable = self.store.durable.clone();
        let reached = durable.wait_for(|durable| *durable >= log_index);
        matches!(tokio::time::timeout_at(deadline, reached).await, Ok(Ok(_)))
    }

    /// A view at one applied index. Holds a lock: never keep it across an `.await`.
    ///
    /// # Errors
    /// None today; a base that cannot be read shows when rows are asked for.
    pub fn view(&self) -> Result<View<'_>, StorageError> {
        Ok(View::new(self.store.read()))
    }

    /// When the next hold or payment deadline ends, on the replicated clock.
    ///
    /// # Errors
    /// [`StorageError`] where rows cannot be read.
    pub fn next_due(&self) -> Result<Option<TimestampMs>, StorageError> {
        let tables = self.store.read();
        let prefix = keys::encode(&Key::Due(TimestampMs(0), Subject::Order(OrderId(view::FIRST))));
        let mut rows = tables.layers().range(&prefix[..1], &keys::after_prefix(&prefix[..1]));
        match rows.next().transpose()? {
            Some((key, _)) => match keys::decode(&key) {
                Some(Key::Due(at, _)) => Ok(Some(at)),
                _ => Err(StorageError::Format(format!("not a due key: {key:?}"))),
            },
            None => Ok(None),
        }
    }

    /// Fingerprint at a recent index, where still remembered (the last 10,000 entries).
    pub fn fingerprint_at(&self, log_index: u64) -> Option<Fingerprint> {
        self.store.read().fingerprint_at(log_index)
    }

    /// The newest fingerprints, newest first.
    pub fn recent_fingerprints(&self, limit: usize) -> Vec<Fingerprint> {
        self.store.read().recent_fingerprints(limit)
    }

    /// Recomputes every sum from movements and orders at one index, off the async threads, while
    /// applies go on.
    ///
    /// # Errors
    /// [`StorageError`] where rows cannot be read; what does not add up is a finding, not an error.
    pub async fn audit(
        &self,
        progress: impl FnMut(AuditProgress) + Send + 'static,
    ) -> Result<AuditReport, StorageError> {
        let store = self.store.clone();
        let audit = async move { audit::audit(&store, progress).await };
        on_worker(&*self.store.spawn, "audit", audit).await
    }

    /// The log behind entry `after`, up to what is applied here now, as a file. `None` where it was purged further
    /// than that, or `after` is yet to come.
    pub async fn archive(&self, after: u64, cluster_id: u128, origin: Origin) -> Option<Piece> {
        let fingerprint = self.applied().fingerprint;
        let purged = self.log.last_purged().is_some_and(|purged| purged.index > after);
        if purged || after > fingerprint.log_index {
            return None;
        }
        let about = PieceAbout {
            format: crate::archive::FORMAT,
            cluster_id: format!("{cluster_id:032x}"),
            after,
            log_index: fingerprint.log_index,
            digest: format!("{:032x}", fingerprint.digest),
            node_id: origin.node_id,
            version: origin.version,
            created_at: origin.created_at,
        };
        Some(Piece::new(self.log.clone().get_log_reader().await, about))
    }

    /// Sizes and positions.
    pub fn stats(&self) -> Stats {
        let snapshot = self.machine.newest_snapshot();
        Stats {
            memtable_bytes: self.store.read().memtable_bytes() as u64,
            memtable_limit_bytes: self.store.limits.max_bytes as u64,
            log_bytes: self.log.bytes(),
            durable_log_index: *self.store.durable.borrow(),
            snapshot_log_index: snapshot.as_ref().map_or(0, |file| file.log_index()),
            snapshot_bytes: snapshot.as_ref().map_or(0, |file| file.bytes()),
            checkpoint_log_index: self.store.checkpoint_index(),
        }
    }
}
