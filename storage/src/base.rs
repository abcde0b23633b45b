//! What the memtable shadows: sled with the shelf ([`crate::disk_base`]), or a twin in memory for simulation.
//!
//! sled is a cache of the snapshot file and the log. Its `flush` does not survive power loss, and
//! a damaged file can make it panic: whatever it says is either proved by the state hash or thrown
//! away and built anew.
//!
//! sled's batches are not used: one keeps out all readers of all sleds in the process for as long as it
//! is written, which for a memtable is a second, and from the first one on every look-up takes a
//! lock. So what must be written as a whole goes into a file beside sled first, then into sled row by row;
//! a start after a crash in between writes the rows of that file again ([`crate::redo`]).

use crate::error::StorageError;
use crate::keys;
use crate::panics;
use crate::redo::Redo;
use crate::shelf::{Pace, Sealed};
use crate::tables::Sums;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

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
    /// The last row from `from` (included) to `until` (excluded).
    fn last(&self, from: &[u8], until: &[u8]) -> Result<Option<RawRow>, StorageError>;
    /// Writes all of it, or nothing, also where the process is killed in between.
    fn write(&self, changes: &mut dyn Iterator<Item = RawChange>) -> Result<(), StorageError>;
    /// Writes rows into a base that is not in use yet: killed in between, it never will be.
    fn fill(&self, rows: &mut dyn Iterator<Item = RawRow>) -> Result<(), StorageError>;
    /// Hands what was written to the disk, where there is one.
    fn flush(&self) -> Result<(), StorageError>;
    /// The files of rows that are written once, which a snapshot shares; they never change.
    fn sealed(&self) -> Sealed {
        Sealed::default()
    }
    /// Rows that are written once, and whose keys begin with `prefix`, were removed before this key: no key before it can
    /// be written again. Empty where that is no matter.
    fn dropped_until(&self, _prefix: &[u8]) -> Vec<u8> {
        Vec::new()
    }
    /// All rows below the progress row that are in none of those files, in order.
    fn loose<'a>(&'a self) -> Box<dyn Iterator<Item = Result<RawRow, StorageError>> + 'a> {
        self.range(&[], keys::PROGRESS)
    }
    /// The sums over all live and over all derived rows. Sealed files are taken at their word. `pace` is told the bytes
    /// of each row.
    fn sums(&self, pace: &Pace) -> Result<Sums, StorageError> {
        let mut sums = Sums::default();
        for row in self.range(&[], keys::PROGRESS) {
            let (key, value) = row?;
            sums.add(&key, &value);
            pace(key.len() + value.len())?;
        }
        Ok(sums)
    }
    /// Bytes on the disk, about.
    fn bytes(&self) -> u64 {
        0
    }
    /// Reads all files of rows that are written once.
    fn scrub(&self, _pace: &Pace) -> Result<(), StorageError> {
        Ok(())
    }
    /// Damage that showed while it was in use.
    fn damage(&self) -> Option<StorageError> {
        None
    }
}

/// What rows may need on the disk for each of their bytes: the redo file, and sled, which was seen to write
/// four to five times what it is handed ...
const SLED_FACTOR: u64 = 8;
/// ... in steps of half a mebibyte.
const SLED_SLACK: u64 = 4 << 20;

/// Room on the disk that rows of so many bytes may need.
pub(crate) fn needed_for(bytes: u64) -> u64 {
    SLED_FACTOR * bytes + SLED_SLACK
}

/// sled, one tree.
#[derive(Debug)]
pub(crate) struct SledBase {
    redo: Redo,
    tree: sled::Tree,
    /// sled's file, to reserve room in it.
    file: File,
    // Closes the files when the last tree is gone.
    db: sled::Db,
}

/// sled reports damage by an error or by a panic; both are the same to us.
fn guarded<T>(what: &str, work: impl FnOnce() -> sled::Result<T>) -> Result<T, StorageError> {
    match panics::catch(work) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(StorageError::Stopped(format!("sled, {what}: {error}"))),
        Err(message) => Err(StorageError::Stopped(format!("sled, {what}: panicked: {message}"))),
    }
}

/// A block of an entry may have a mebibyte, of which a look-up wants one slot: never copied.
fn shared(value: sled::IVec) -> Bytes {
    Bytes::from_owner(value)
}

/// The directory is ours already, by the lock of the log. Where sled's own is taken, a sled that was
/// dropped in this process still has work to end.
fn open_unlocked(config: &sled::Config) -> sled::Result<sled::Db> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let started = Instant::now();
    loop {
        match config.open() {
            Err(sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock") && started.elapsed() < PATIENCE =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened,
        }
    }
}

impl SledBase {
    /// Opens or makes it, and ends a write that was killed.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StorageError> {
        let (tree, db) = guarded("open", || {
            let config = sled::Config::new()
                .path(dir)
                .cache_capacity(cache_bytes)
                // Durability is the log's. A checkpoint hands over what it wrote, on its own thread.
                .flush_every_ms(None);
            let db = open_unlocked(&config)?;
            Ok((db.open_tree("state")?, db))
        })?;
        let path = dir.join("db");
        let file = File::options().write(true).open(&path);
        let file = file.map_err(|error| StorageError::io(format!("opening {}", path.display()), &error))?;
        let base = SledBase { redo: Redo::beside(dir), tree, file, db };
        if let Some(changes) = base.redo.read()? {
            tracing::info!(rows = changes.len(), "ending a checkpoint that was interrupted");
            base.write_one_by_one(changes)?;
        }
        Ok(base)
    }

    /// Takes this much room behind the end of sled's file, so that nobody else takes it before sled does: one that met
    /// a full disk cannot go on. The file's length stays, and what was reserved before and is not used counts. sled
    /// gives it back where it cuts its file, which is seldom. Where a file system cannot reserve, nothing is done.
    /// The errors are that there is no room, or none for this user.
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::{Errno, retry_on_intr};
        let end = self.file.metadata()?.len();
        match retry_on_intr(|| fallocate(&self.file, FallocateFlags::KEEP_SIZE, end, bytes)) {
            Err(full @ (Errno::NOSPC | Errno::DQUOT)) => Err(full.into()),
            _ => Ok(()),
        }
    }

    /// What the redo file has goes in.
    fn write_one_by_one(&self, changes: Vec<RawChange>) -> Result<(), StorageError> {
        for (key, value) in changes {
            guarded("write", || match &value {
                Some(value) => self.tree.insert(key, &**value),
                None => self.tree.remove(key),
            })?;
        }
        // Before the file goes, sled must have handed all of it to the operating system.
        self.flush()?;
        self.redo.remove()
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

    fn last(&self, from: &[u8], until: &[u8]) -> Result<Option<RawRow>, StorageError> {
        let row = guarded("range", || self.tree.range(from..until).next_back().transpose())?;
        Ok(row.map(|(key, value)| (key.to_vec(), shared(value))))
    }

    fn write(&self, changes: &mut dyn Iterator<Item = RawChange>) -> Result<(), StorageError> {
        let changes: Vec<RawChange> = changes.collect();
        let bytes = changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len));
        self.reserve(needed_for(bytes.sum::<usize>() as u64))
            .map_err(|error| StorageError::io("reserving room for a checkpoint", &error))?;
        let bytes = self.redo.write(&changes)?;
        metrics::counter!("stockroom_checkpoint_written_bytes_total").increment(bytes);
        self.write_one_by_one(changes)
    }

    fn fill(&self, rows: &mut dyn Iterator<Item = RawRow>) -> Result<(), StorageError> {
        for (key, value) in rows {
            guarded("write", || self.tree.insert(key, &*value))?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        guarded("flush", || self.db.flush()).map(|_| ())
    }

    fn bytes(&self) -> u64 {
        guarded("size", || self.db.size_on_disk()).unwrap_or_default()
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

/// Rows that a range of the twin in memory reads at once.
const CHUNK_ROWS: usize = 64;

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
        let mut from = Bound::Included(from.to_vec());
        let until = until.to_vec();
        // Mostly the first few are wanted, and nobody may wait for the rest.
        let chunks = std::iter::from_fn(move || {
            let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let rows = rows.range((from.clone(), Bound::Excluded(until.clone()))).take(CHUNK_ROWS);
            let chunk: Vec<RawRow> = rows.map(|(key, value)| (key.clone(), value.clone())).collect();
            from = Bound::Excluded(chunk.last()?.0.clone());
            Some(chunk)
        });
        Box::new(chunks.flatten().map(Ok))
    }

    fn last(&self, from: &[u8], until: &[u8]) -> Result<Option<RawRow>, StorageError> {
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let last = rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(until))).next_back();
        Ok(last.map(|(key, value)| (key.clone(), value.clone())))
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

    fn fill(&self, rows: &mut dyn Iterator<Item = RawRow>) -> Result<(), StorageError> {
        self.write(&mut rows.map(|(key, value)| (key, Some(value))))
    }

    fn flush(&self) -> Result<(), StorageError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::process::Command;

    fn changes(range: std::ops::Range<u32>, value: &'static str) -> Vec<RawChange> {
        range.map(|n| (n.to_be_bytes().to_vec(), (n % 7 != 0).then(|| Bytes::from(value)))).collect()
    }

    fn rows(base: &SledBase) -> Vec<RawRow> {
        base.range(&[], &[255]).map(Result::unwrap).collect()
    }

    fn expected(changes: &[RawChange]) -> Vec<RawRow> {
        changes.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect()
    }

    #[test]
    fn a_write_that_was_killed_is_ended_by_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("sled-1");
        let new = changes(0..2_000, "new");
        for killed_after in [0, 1, 1_000, 2_000] {
            let base = SledBase::open(&dir, 1 << 20).unwrap();
            base.write(&mut changes(0..2_000, "old").into_iter()).unwrap();
            assert_eq!(base.redo.read().unwrap(), None);
            base.redo.write(&new).unwrap();
            for (key, value) in &new[..killed_after] {
                match value {
                    Some(value) => drop(base.tree.insert(key, &**value).unwrap()),
                    None => drop(base.tree.remove(key).unwrap()),
                }
            }
            drop(base);
            let base = SledBase::open(&dir, 1 << 20).unwrap();
            assert_eq!(rows(&base), expected(&new), "killed after {killed_after} rows");
            assert_eq!(base.redo.read().unwrap(), None);
        }
    }

    #[test]
    fn what_was_reserved_is_there_when_the_disk_is_full() {
        /// A file system in memory, gone when this is dropped.
        struct Mount(PathBuf);
        impl Drop for Mount {
            fn drop(&mut self) {
                let _ = Command::new("umount").arg("-l").arg(&self.0).status();
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=32m", "tmpfs"]).arg(dir.path()).output();
        if !mount.is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: reserved room: this process may not mount a file system (it takes root)");
            return;
        }
        let mount = Mount(dir.path().to_owned());
        let base = SledBase::open(&mount.0.join("sled-1"), 1 << 20).unwrap();
        base.write(&mut changes(0..2_000, "old").into_iter()).unwrap();
        let length = base.file.metadata().unwrap().len();
        let full = base.reserve(1 << 30).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        base.reserve(16 << 20).unwrap();
        assert_eq!(base.file.metadata().unwrap().len(), length, "its end stays where it is");
        let filler = File::create(mount.0.join("filler")).unwrap();
        let space = rustix::fs::statvfs(&mount.0).unwrap();
        let all = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&filler, all, 0, space.f_bavail * space.f_frsize).unwrap();
        let new = changes(0..20_000, "new");
        base.write_one_by_one(new.clone()).unwrap();
        assert!(base.file.metadata().unwrap().len() > length, "it did grow");
        base.reserve(1 << 20).expect("what is reserved already");
        assert_eq!(rows(&base), expected(&new));
    }

    #[test]
    fn a_redo_file_that_is_not_whole_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("sled-1");
        let old = changes(0..1_000, "old");
        let base = SledBase::open(&dir, 1 << 20).unwrap();
        base.write(&mut old.clone().into_iter()).unwrap();
        base.redo.write(&changes(0..1_000, "new")).unwrap();
        drop(base);
        let path = Redo::beside(&dir).path;
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 7, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let base = SledBase::open(&dir, 1 << 20).unwrap();
            assert_eq!(rows(&base), expected(&old), "cut at {length}");
        }
    }

    /// What a checkpoint changes is shadowed by the memtable; all else must be seen while it is written.
    #[test]
    fn readers_see_every_row_that_is_not_being_written() {
        const ROWS: u32 = 6_000;
        let dir = tempfile::tempdir().unwrap();
        let base = SledBase::open(&dir.path().join("sled-1"), 1 << 20).unwrap();
        let key = |n: u32| n.to_be_bytes().to_vec();
        let is_kept = |n: u32| n.is_multiple_of(3);
        let kept = || (0..ROWS).filter(|n| is_kept(*n)).map(key);
        base.fill(&mut kept().map(|key| (key, Bytes::from("kept")))).unwrap();
        let written = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for round in 0..12u32 {
                    // Rows of many sizes come and go, so that pages are split and merged.
                    let value = |n| Bytes::from(vec![7; ((n + round) % 23 * 40) as usize]);
                    let changes = (0..ROWS).filter(|n| !is_kept(*n));
                    let changes = changes.map(|n| (key(n), ((n / 50 + round) % 3 != 0).then(|| value(n))));
                    base.write(&mut changes.into_iter()).unwrap();
                }
                written.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            let mut scans = 0;
            while !written.load(std::sync::atomic::Ordering::Relaxed) || scans == 0 {
                let rows = base.range(&[], &[255]).map(Result::unwrap);
                let seen = rows.filter(|(_, value)| value == "kept").map(|(key, _)| key);
                assert!(seen.eq(kept()), "scan {scans}");
                for n in (scans % 31 * 3..ROWS).step_by(93) {
                    assert_eq!(base.get(&key(n)).unwrap().as_deref(), Some(&b"kept"[..]), "row {n}");
                    let (from, until) = (key(n.saturating_sub(1)), key(n + 1));
                    let last = base.last(&from, &until).unwrap().map(|(key, _)| key);
                    assert_eq!(last, Some(key(n)), "the last row before {}", n + 1);
                }
                scans += 1;
            }
            println!("{scans} scans");
        });
    }
}
