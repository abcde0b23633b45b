//! The snapshot files of one node: written, verified, found again at a start, loaded; older ones removed.

use super::own_file::{FileRows, Writer};
use super::underway::Underway;
use super::{Finished, Header, SnapshotFile, corrupt, io, sealed_of};
use crate::base::{Base, RawRow};
use crate::codec;
use crate::error::StorageError;
use crate::fs::{DiskFile, FileSystem};
use crate::keys::{self, BlockKind};
use crate::memtable::Layer;
use crate::shelf::{self, Part, Sealed, Shelf, link_or_copy};
use crate::shop::planted::{self, Bug};
use crate::shop::version::Versions;
use crate::store::BaseKind;
use crate::tables::{Frozen, Progress, Sums, Tables};
use crate::version;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SUFFIX: &str = "snap";
pub(super) const UNFINISHED: &str = "part";

/// The directory of snapshot files of one node.
#[derive(Debug, Clone)]
pub(crate) struct Snapshots {
    pub fs: Arc<dyn FileSystem>,
    pub dir: PathBuf,
    pub cluster_id: u128,
    pub group_id: u32,
    /// Cluster versions of files that can be used.
    pub served: Versions,
    pub underway: Underway,
}

impl Snapshots {
    pub(super) fn finished_path(&self, progress: &Progress) -> PathBuf {
        self.dir.join(format!("{:020}-{:032x}.{SUFFIX}", progress.log_index(), progress.state_hash))
    }

    /// Writes the rows of a frozen copy that are in no sealed file, then reads the file back and verifies it.
    pub fn build(&self, frozen: &Frozen) -> Result<SnapshotFile, StorageError> {
        let left_out = if planted::is(Bug::SnapshotMissesARow) { newest_placed(frozen)? } else { None };
        let rows = frozen.base.loose();
        let rows = rows.filter(|row| !matches!((row, &left_out), (Ok((key, _)), Some(left)) if key == left));
        self.write_sharing(frozen.progress.clone(), rows, &frozen.base.sealed())
    }

    /// Writes a snapshot of these rows, which must come in order, then reads it back and verifies it.
    pub fn write(
        &self,
        progress: Progress,
        rows: impl Iterator<Item = Result<RawRow, StorageError>>,
    ) -> Result<SnapshotFile, StorageError> {
        self.write_sharing(progress, rows, &Sealed::default())
    }

    pub(super) fn write_sharing(
        &self,
        progress: Progress,
        rows: impl Iterator<Item = Result<RawRow, StorageError>>,
        sealed: &Sealed,
    ) -> Result<SnapshotFile, StorageError> {
        let path = self.dir.join(format!("build.{UNFINISHED}"));
        let written = self.write_to(&path, progress, rows, sealed);
        if written.is_err() {
            self.discard(&path);
        }
        written
    }

    fn write_to(
        &self,
        path: &Path,
        progress: Progress,
        rows: impl Iterator<Item = Result<RawRow, StorageError>>,
        sealed: &Sealed,
    ) -> Result<SnapshotFile, StorageError> {
        self.fs.create_dir_all(&self.dir).map_err(|e| io("making", &self.dir, &e))?;
        let file = self.create(path)?;
        let header = Header {
            cluster_id: self.cluster_id,
            group_id: self.group_id,
            progress,
            shelf: sealed.manifest.clone(),
        };
        let mut writer = Writer::begin(path, &*file, &header)?;
        let mut count = 0u64;
        for row in rows {
            let (key, value) = row?;
            writer.row(&key, &value)?;
            count += 1;
        }
        let bytes = writer.finish(count)?;
        metrics::counter!("stockroom_snapshot_written_bytes_total").increment(bytes);
        let name = self.finished_path(&header.progress);
        let _underway = self.underway.begin(&name);
        let shared = sealed_of(&name, &header);
        for (name, _) in header.shelf.files() {
            let to = shared.path(&name);
            link_or_copy(&*self.fs, &sealed.path(&name), &to).map_err(|e| io("sharing", &to, &e))?;
        }
        self.finish(path, file)
    }

    /// Gives back the room of a snapshot that could not be finished.
    pub(super) fn discard(&self, unfinished: &Path) {
        let _ = self.fs.remove(unfinished);
        let underway = self.underway.names();
        let Ok(finished) = self.files(SUFFIX) else { return };
        for path in self.files(shelf::SUFFIX).unwrap_or_default() {
            if !finished.iter().chain(&*underway).any(|snapshot| same_stem(&path, snapshot)) {
                let _ = self.fs.remove(&path);
            }
        }
    }

    /// Opens a snapshot that must verify, whole, and that lies anywhere: as it came, in one piece.
    pub fn open(&self, path: &Path) -> Result<SnapshotFile, StorageError> {
        let file = self.fs.open(path).map_err(|e| io("opening", path, &e))?;
        let length = file.len().map_err(|e| io("opening", path, &e))?;
        let (header, own) = self.verify(path, &*file)?;
        let (mut parts, mut offset) = (vec![(file.clone(), own)], own);
        for (_, state) in header.shelf.files() {
            let part = Part { file: file.clone(), offset, length: state.length };
            parts.push((Arc::new(part), state.length));
            offset += state.length;
        }
        if offset != length {
            return Err(corrupt(path, length, format!("it has {length} bytes where {offset} are expected")));
        }
        let files = parts[1..].iter().map(|(file, _)| file.clone());
        Shelf::of_files(path, &header.shelf, files)?.scrub(&|_| Ok(()))?;
        Ok(SnapshotFile(Arc::new(Finished { path: path.to_owned(), parts, header })))
    }

    pub(super) fn create(&self, path: &Path) -> Result<Arc<dyn DiskFile>, StorageError> {
        // Left over from a crash.
        let _ = self.fs.remove(path);
        self.fs.create_new(path).map_err(|e| io("making", path, &e))
    }

    /// Syncs a written file, reads it back, gives it its name, and removes older ones. Its sealed files are there, and it is
    /// underway.
    pub(super) fn finish(&self, path: &Path, file: Arc<dyn DiskFile>) -> Result<SnapshotFile, StorageError> {
        file.sync_data().map_err(|e| io("syncing", path, &e))?;
        let (header, bytes) = self.verify(path, &*file)?;
        let name = self.finished_path(&header.progress);
        let sealed = sealed_of(&name, &header);
        shelf::verify(&*self.fs, &sealed, false)?;
        self.fs.rename(path, &name).map_err(|e| io("naming", &name, &e))?;
        self.fs.sync_dir(&self.dir).map_err(|e| io("syncing", &self.dir, &e))?;
        let newest = header.progress.log_index();
        let finished = self.finished(name, file, bytes, header)?;
        let underway = self.underway.names();
        // Its own file first: sealed ones alone are nothing.
        let older = [SUFFIX, shelf::SUFFIX].map(|suffix| self.files(suffix));
        for other in older.into_iter().collect::<Result<Vec<_>, _>>()?.concat() {
            let needed = std::iter::once(&finished.0.path).chain(&*underway);
            let is_needed = needed.into_iter().any(|snapshot| same_stem(&other, snapshot));
            if !is_needed && index_of(&other).is_some_and(|index| index <= newest) {
                self.fs.remove(&other).map_err(|e| io("removing", &other, &e))?;
            }
        }
        Ok(finished)
    }

    fn finished(
        &self,
        path: PathBuf,
        file: Arc<dyn DiskFile>,
        bytes: u64,
        header: Header,
    ) -> Result<SnapshotFile, StorageError> {
        let sealed = sealed_of(&path, &header);
        let mut parts = vec![(file, bytes)];
        for (name, state) in header.shelf.files() {
            let path = sealed.path(&name);
            parts.push((self.fs.open(&path).map_err(|e| io("opening", &path, &e))?, state.length));
        }
        Ok(SnapshotFile(Arc::new(Finished { path, parts, header })))
    }

    pub(super) fn files(&self, suffix: &str) -> Result<Vec<PathBuf>, StorageError> {
        let paths = match self.fs.list(&self.dir) {
            Ok(paths) => paths,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io("listing", &self.dir, &error)),
        };
        Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == suffix)).collect())
    }

    /// The newest file that verifies. A damaged one is named in a warning and passed over.
    /// `whole` reads every row of the sealed files too.
    pub fn newest(&self, whole: bool) -> Result<Option<SnapshotFile>, StorageError> {
        let finished = self.files(SUFFIX)?;
        for path in self.files(shelf::SUFFIX)? {
            // Of one that was not finished, or not removed whole.
            if !finished.iter().any(|snapshot| same_stem(&path, snapshot)) {
                self.fs.remove(&path).map_err(|e| io("removing", &path, &e))?;
            }
        }
        for path in finished.into_iter().rev() {
            let file = self.fs.open(&path).map_err(|e| io("opening", &path, &e))?;
            let verified = self.in_parts(&path, file).and_then(|(file, header, own)| {
                shelf::verify(&*self.fs, &sealed_of(&path, &header), whole)?;
                self.finished(path.clone(), file, own, header)
            });
            match verified {
                Ok(snapshot) => return Ok(Some(snapshot)),
                Err(error @ (StorageError::Foreign(_) | StorageError::Version(_))) => return Err(error),
                Err(error) => tracing::warn!(%error, "a snapshot file is damaged and is not used"),
            }
        }
        Ok(None)
    }

    /// Reads the whole of its own file: every checksum, the count, and with the sums of the sealed files the state
    /// hash.
    pub(super) fn verify(&self, path: &Path, file: &dyn DiskFile) -> Result<(Header, u64), StorageError> {
        let mut rows = FileRows::open(path, file)?;
        let header = rows.header.clone();
        version::must_serve(self.served, header.progress.cluster_version(), &path.display().to_string())?;
        if (header.cluster_id, header.group_id) != (self.cluster_id, self.group_id) {
            return Err(StorageError::Foreign(format!(
                "{} belongs to cluster {:032x}, this node to {:032x}: give each node a directory of its own",
                path.display(),
                header.cluster_id,
                self.cluster_id
            )));
        }
        let mut sums = Sums::default();
        while let Some(block) = rows.next_block()? {
            block.iter().for_each(|(key, value)| sums.add(key, value));
        }
        header.shelf.add_to(&mut sums);
        // Blinded where a row is left out: the sums are those of all rows.
        if !sums.are_those_of(&header.progress) && !planted::is(Bug::SnapshotMissesARow) {
            return Err(corrupt(path, 0, "its rows do not add up to its state hash"));
        }
        Ok((header, rows.offset))
    }

    /// Loads a verified snapshot into a base of its own, for [`crate::store::Store::exchange`] or a start.
    pub fn load(&self, file: &SnapshotFile, kind: &BaseKind) -> Result<(Tables, u64), StorageError> {
        kind.room_for("a snapshot", file.own_bytes())?;
        let (base, generation) = kind.create(&file.sealed())?;
        fill(&*base, file)?;
        Ok((Tables::open(base)?, generation))
    }
}

/// The key of the newest block of placed orders.
fn newest_placed(frozen: &Frozen) -> Result<Option<Vec<u8>>, StorageError> {
    let kind = BlockKind::Placed;
    let (from, until) = (keys::block(kind, (0, 0)), keys::after_prefix(&[kind as u8]));
    Ok(frozen.layers(&Layer::default()).last(&from, &until)?.map(|(key, _)| key))
}

/// Whether a file belongs to the snapshot at `path`.
fn same_stem(file: &Path, path: &Path) -> bool {
    let name = |path: &Path| path.file_name()?.to_str()?.split('.').next().map(str::to_owned);
    name(file) == name(path)
}

fn index_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.get(..20)?.parse().ok()
}

fn fill(base: &dyn Base, file: &SnapshotFile) -> Result<(), StorageError> {
    let mut rows = FileRows::open(&file.0.path, &*file.0.parts[0].0)?;
    while let Some(block) = rows.next_block()? {
        base.fill(&mut block.into_iter())?;
    }
    let progress = (keys::PROGRESS.to_vec(), codec::encode_serde(&rows.header.progress).into());
    base.fill(&mut std::iter::once(progress))?;
    base.flush()
}
