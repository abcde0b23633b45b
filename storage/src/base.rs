//! What the memtable shadows: sled, or its twin in memory for simulation.
//!
//! It is a cache of the snapshot file and the log. sled's `flush` does not survive power loss, and
//! a damaged file can make it panic: whatever it says is either proved by the state hash or thrown
//! away and built anew.

use crate::error::StorageError;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{PoisonError, RwLock};

/// A row as it lies on disk.
pub(crate) type RawRow = (Vec<u8>, Bytes);
/// New values of rows; `None` removes.
pub(crate) type RawChange = (Vec<u8>, Option<Bytes>);

/// An ordered map of bytes.
pub(crate) trait Base: Debug + Send + Sync + 'static {
    /// One value.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError>;
    /// Rows from `from` (included) to `until` (excluded), in order.
    fn range<'a>(
        &'a self,
        from: &[u8],
        until: &[u8],
    ) -> Box<dyn Iterator<Item = Result<RawRow, StorageError>> + 'a>;
    /// Writes all of it, or nothing.
    fn write(&self, changes: &mut dyn Iterator<Item = RawChange>) -> Result<(), StorageError>;
    /// Hands what was written to the disk, where there is one.
    fn flush(&self) -> Result<(), StorageError>;
}

/// sled, one tree.
#[derive(Debug)]
pub(crate) struct SledBase {
    tree: sled::Tree,
    // Closes the files when the last tree is gone.
    db: sled::Db,
}

/// sled reports damage by an error or by a panic; both are the same to us.
fn guarded<T>(what: &str, work: impl FnOnce() -> sled::Result<T>) -> Result<T, StorageError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(StorageError::Stopped(format!("sled, {what}: {error}"))),
        Err(panic) => {
            let message = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(StorageError::Stopped(format!("sled, {what}: panicked: {message}")))
        }
    }
}

/// A block of an entry may have a mebibyte, of which a look-up wants one slot: never copied.
fn shared(value: sled::IVec) -> Bytes {
    Bytes::from_owner(value)
}

impl SledBase {
    /// Opens or makes it.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StorageError> {
        guarded("open", || {
            let db = sled::Config::new()
                .path(dir)
                .cache_capacity(cache_bytes)
                // Durability is the log's: this only bounds how much is applied again after a crash.
                .flush_every_ms(Some(1_000))
                .open()?;
            Ok(SledBase { tree: db.open_tree("state")?, db })
        })
    }
}

impl Base for SledBase {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        guarded("get", || Ok(self.tree.get(key)?.map(shared)))
    }

    fn range<'a>(
        &'a self,
        from: &[u8],
        until: &[u8],
    ) -> Box<dyn Iterator<Item = Result<RawRow, StorageError>> + 'a> {
        Box::new(GuardedRange(self.tree.range(from.to_vec()..until.to_vec())))
    }

    fn write(&self, changes: &mut dyn Iterator<Item = RawChange>) -> Result<(), StorageError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, &*value),
                None => batch.remove(key),
            }
        }
        guarded("write", || self.tree.apply_batch(batch))
    }

    fn flush(&self) -> Result<(), StorageError> {
        guarded("flush", || self.db.flush()).map(|_| ())
    }
}

struct GuardedRange(sled::Iter);

impl Iterator for GuardedRange {
    type Item = Result<RawRow, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = guarded("range", || self.0.next().transpose()).transpose()?;
        Some(row.map(|(key, value)| (key.to_vec(), shared(value))))
    }
}

/// The twin in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryBase(RwLock<BTreeMap<Vec<u8>, Bytes>>);

impl Base for MemoryBase {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn range<'a>(
        &'a self,
        from: &[u8],
        until: &[u8],
    ) -> Box<dyn Iterator<Item = Result<RawRow, StorageError>> + 'a> {
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let rows: Vec<RawRow> =
            rows.range(from.to_vec()..until.to_vec()).map(|(k, v)| (k.clone(), v.clone())).collect();
        Box::new(rows.into_iter().map(Ok))
    }

    fn write(&self, changes: &mut dyn Iterator<Item = RawChange>) -> Result<(), StorageError> {
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        Ok(())
    }
}
