//! The snapshot: all live rows at one applied index. With the log it is the durable truth; only behind a
//! verified one may the log be purged.
//!
//! Most rows are written once and lie in sealed files of the `shelf`, which never change: a snapshot
//! has them by hard link, and writes only what is in none of them. On its way to a peer it is one stream of
//! bytes: its own file, then those.
//!
//! ```text
//! magic "STKSNAP2"
//! header  length u32, crc u32, bytes      cluster, group, progress, the sealed files
//! blocks  length u32, crc u32, bytes      length u32 and LZ4 of rows: key length u32, value length u32, key, value
//! footer  0 u32, crc u32, row count u64
//! ```
//! All numbers are little-endian; a CRC is crc32c of the bytes it stands before.

use crate::base::{Base, RawRow};
use crate::codec;
use crate::error::StorageError;
use crate::fs::{DiskFile, FileSystem};
use crate::keys::{self, BlockKind};
use crate::memtable::Layer;
use crate::shelf::{self, Manifest, Pace, Part, Sealed, Shelf, link_or_copy};
use crate::shop::planted::{self, Bug};
use crate::shop::version::{ClusterVersion, Versions};
use crate::store::BaseKind;
use crate::tables::{Fingerprint, Frozen, Progress, Sums, Tables};
use crate::type_config::TypeConfig;
use crate::version;
use bytes::{Buf, BufMut, Bytes};
use openraft::alias::SnapshotMetaOf;
use serde::{Deserialize, Serialize};
use std::iter::Peekable;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

const MAGIC: &[u8; 8] = b"STKSNAP2";
/// Rows are cut into blocks of about this size: what one damaged bit makes unreadable, and what a
/// reader holds in memory.
const BLOCK_BYTES: usize = 1 << 20;
/// No block comes near it (one row may be as large as an entry's block of movements).
const MAX_BLOCK_BYTES: u32 = 1 << 30;
const SUFFIX: &str = "snap";
const UNFINISHED: &str = "part";

/// Whose snapshot it is, and of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub cluster_id: u128,
    pub group_id: u32,
    pub progress: Progress,
    /// Of the sealed files.
    pub shelf: Manifest,
}

/// A finished, verified snapshot. Cheap to clone; several senders may read it at once.
#[derive(Debug, Clone)]
pub struct SnapshotFile(Arc<Finished>);

#[derive(Debug)]
struct Finished {
    path: PathBuf,
    /// Its own file, then the sealed ones, with their lengths.
    parts: Vec<(Arc<dyn DiskFile>, u64)>,
    header: Header,
}

impl SnapshotFile {
    /// What it holds, as openraft asks.
    pub fn meta(&self) -> SnapshotMetaOf<TypeConfig> {
        SnapshotMetaOf::<TypeConfig> {
            last_log_id: self.0.header.progress.log_id,
            last_membership: self.0.header.progress.membership.clone(),
        }
    }

    /// Names its contents: equal only for the same state of the same history in the same sealed files, so that a
    /// broken transfer can go on from another sender.
    pub fn id(&self) -> String {
        let header = crc32c::crc32c(&codec::encode_serde(&self.0.header));
        let fingerprint = self.0.header.progress.fingerprint();
        format!("{}-{:032x}-{}-{header:08x}", fingerprint.log_index, fingerprint.state_hash, self.bytes())
    }

    /// Newest entry it holds.
    pub fn log_index(&self) -> u64 {
        self.0.header.progress.log_index()
    }

    /// Length of all of it.
    pub fn bytes(&self) -> u64 {
        self.0.parts.iter().map(|(_, length)| length).sum()
    }

    /// Length of what was written for it alone.
    pub fn own_bytes(&self) -> u64 {
        self.0.parts[0].1
    }

    /// Where the state in it stands.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.header.progress.fingerprint()
    }

    /// When this disk got it, as far as its file system knows.
    pub fn written_at(&self) -> Option<SystemTime> {
        std::fs::metadata(&self.0.path).and_then(|about| about.modified()).ok()
    }

    /// In force in the state in it.
    pub fn cluster_version(&self) -> ClusterVersion {
        self.0.header.progress.cluster_version()
    }

    /// The cluster it belongs to.
    pub fn cluster_id(&self) -> u128 {
        self.0.header.cluster_id
    }

    pub(crate) fn header(&self) -> &Header {
        &self.0.header
    }

    /// Its rows, from the first on: those of its own file and of the sealed ones, in one order.
    pub(crate) fn rows(&self) -> Result<SnapshotRows<'_>, StorageError> {
        let own = FileRows::open(&self.0.path, &*self.0.parts[0].0)?;
        let files = self.0.parts[1..].iter().map(|(file, _)| file.clone());
        let shelf = Shelf::of_files(&self.0.path, &self.0.header.shelf, files)?;
        let shared: Box<dyn Iterator<Item = _>> = Box::new(shelf.into_rows());
        Ok(SnapshotRows {
            own: Some(own),
            own_rows: Vec::new().into_iter().peekable(),
            shared: shared.peekable(),
        })
    }

    /// Reads up to `length` bytes from `offset` on; fewer only at the end of the snapshot.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn read_at(&self, offset: u64, length: usize) -> Result<Bytes, StorageError> {
        let length = (length as u64).min(self.bytes().saturating_sub(offset)) as usize;
        let mut bytes = vec![0; length];
        let (mut begin, mut filled) = (0, 0);
        for (file, part) in &self.0.parts {
            let at = offset + filled as u64;
            if at < begin + part && filled < length {
                let wanted = (length - filled).min((begin + part - at) as usize);
                let read = file.read_exact_at(&mut bytes[filled..filled + wanted], at - begin);
                read.map_err(|e| io("reading", &self.0.path, &e))?;
                filled += wanted;
            }
            begin += part;
        }
        Ok(bytes.into())
    }

    /// Reads all of it: every checksum, and with them the state hash.
    pub(crate) fn scrub(&self, pace: &Pace) -> Result<(), StorageError> {
        let finished = &self.0;
        let mut rows = FileRows::open(&finished.path, &*finished.parts[0].0)?;
        let mut sums = Sums::default();
        loop {
            let before = rows.offset;
            let Some(block) = rows.next_block()? else { break };
            block.iter().for_each(|(key, value)| sums.add(key, value));
            pace((rows.offset - before) as usize)?;
        }
        finished.header.shelf.add_to(&mut sums);
        if !sums.are_those_of(&finished.header.progress) && !planted::is(Bug::SnapshotMissesARow) {
            return Err(corrupt(&finished.path, 0, "its rows do not add up to its state hash"));
        }
        let files = finished.parts[1..].iter().map(|(file, _)| file.clone());
        shelf::scrub_files(&self.sealed(), files, pace)
    }

    /// Where its sealed files lie.
    fn sealed(&self) -> Sealed {
        sealed_of(&self.0.path, &self.0.header)
    }
}

/// Where the sealed files of the snapshot at `path` lie: beside it, under its name.
fn sealed_of(path: &Path, header: &Header) -> Sealed {
    let stem = format!("{}.", path.file_stem().unwrap_or_default().to_string_lossy());
    let dir = path.parent().unwrap_or(Path::new(".")).to_owned();
    Sealed { manifest: header.shelf.clone(), dir, stem }
}

fn io(doing: &str, path: &Path, error: &std::io::Error) -> StorageError {
    StorageError::io(format!("{doing} {}", path.display()), error)
}

fn corrupt(path: &Path, offset: u64, why: impl Into<String>) -> StorageError {
    StorageError::Corrupt { file: path.to_owned(), offset, why: why.into() }
}

/// The directory of snapshot files of one node.
#[derive(Debug, Clone)]
pub(crate) struct Snapshots {
    pub fs: Arc<dyn FileSystem>,
    pub dir: PathBuf,
    pub cluster_id: u128,
    pub group_id: u32,
    /// Cluster versions of files that can be used.
    pub served: Versions,
}

impl Snapshots {
    fn finished_path(&self, progress: &Progress) -> PathBuf {
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

    fn write_sharing(
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
        let mut writer = Writer { file: &*file, path, offset: 0, block: Vec::new() };
        writer.head(&header)?;
        let mut count = 0u64;
        for row in rows {
            let (key, value) = row?;
            writer.row(&key, &value)?;
            count += 1;
        }
        writer.finish(count)?;
        metrics::counter!("stockroom_snapshot_written_bytes_total").increment(writer.offset);
        let shared = sealed_of(&self.finished_path(&header.progress), &header);
        for (name, _) in header.shelf.files() {
            let to = shared.path(&name);
            link_or_copy(&*self.fs, &sealed.path(&name), &to).map_err(|e| io("sharing", &to, &e))?;
        }
        self.finish(path, file)
    }

    /// Gives back the room of a snapshot that could not be finished.
    fn discard(&self, unfinished: &Path) {
        let _ = self.fs.remove(unfinished);
        let Ok(finished) = self.files(SUFFIX) else { return };
        for path in self.files(shelf::SUFFIX).unwrap_or_default() {
            if !finished.iter().any(|snapshot| same_stem(&path, snapshot)) {
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

    fn create(&self, path: &Path) -> Result<Arc<dyn DiskFile>, StorageError> {
        // Left over from a crash.
        let _ = self.fs.remove(path);
        self.fs.create_new(path).map_err(|e| io("making", path, &e))
    }

    /// Syncs a written file, reads it back, gives it its name, and removes older ones. Its sealed files are there.
    fn finish(&self, path: &Path, file: Arc<dyn DiskFile>) -> Result<SnapshotFile, StorageError> {
        file.sync_data().map_err(|e| io("syncing", path, &e))?;
        let (header, bytes) = self.verify(path, &*file)?;
        let name = self.finished_path(&header.progress);
        let sealed = sealed_of(&name, &header);
        shelf::verify(&*self.fs, &sealed, false)?;
        self.fs.rename(path, &name).map_err(|e| io("naming", &name, &e))?;
        self.fs.sync_dir(&self.dir).map_err(|e| io("syncing", &self.dir, &e))?;
        let newest = header.progress.log_index();
        let finished = self.finished(name, file, bytes, header)?;
        // Its own file first: sealed ones alone are nothing.
        let older = [SUFFIX, shelf::SUFFIX].map(|suffix| self.files(suffix));
        for other in older.into_iter().collect::<Result<Vec<_>, _>>()?.concat() {
            let of_this = same_stem(&other, &finished.0.path);
            if !of_this && index_of(&other).is_some_and(|index| index <= newest) {
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

    /// Takes a received snapshot apart: each sealed file gets a file of its own, and is read whole.
    fn take_apart(&self, path: &Path, file: &dyn DiskFile, length: u64) -> Result<(), StorageError> {
        let (header, own) = self.verify(path, file)?;
        let sealed = sealed_of(&self.finished_path(&header.progress), &header);
        self.take_out(path, file, own..length, &sealed)?;
        file.set_len(own).map_err(|e| io("cutting", path, &e))
    }

    fn take_out(
        &self,
        path: &Path,
        file: &dyn DiskFile,
        from: Range<u64>,
        sealed: &Sealed,
    ) -> Result<(), StorageError> {
        let mut offset = from.start;
        for (name, state) in sealed.manifest.files() {
            let to = sealed.path(&name);
            if offset + state.length > from.end {
                return Err(corrupt(path, offset, "it ends too soon"));
            }
            let part = self.create(&to)?;
            shelf::copy(file, offset, &*part, state.length).map_err(|e| io("writing", &to, &e))?;
            part.sync_data().map_err(|e| io("syncing", &to, &e))?;
            offset += state.length;
        }
        if offset != from.end {
            return Err(corrupt(path, offset, "it goes on after its end"));
        }
        shelf::verify(&*self.fs, sealed, true)
    }

    /// A snapshot that was put here in one piece, as a backup has it, is taken apart. What it was may have another
    /// name elsewhere, and stays as it is.
    fn in_parts(
        &self,
        path: &Path,
        file: Arc<dyn DiskFile>,
    ) -> Result<(Arc<dyn DiskFile>, Header, u64), StorageError> {
        let (header, own) = self.verify(path, &*file)?;
        let length = file.len().map_err(|e| io("opening", path, &e))?;
        if length == own {
            return Ok((file, header, own));
        }
        self.take_out(path, &*file, own..length, &sealed_of(path, &header))?;
        let name = self.dir.join(format!("apart.{UNFINISHED}"));
        let alone = self.create(&name)?;
        shelf::copy(&*file, 0, &*alone, own).map_err(|e| io("writing", &name, &e))?;
        alone.sync_data().map_err(|e| io("syncing", &name, &e))?;
        self.fs.rename(&name, path).map_err(|e| io("naming", path, &e))?;
        self.fs.sync_dir(&self.dir).map_err(|e| io("syncing", &self.dir, &e))?;
        Ok((alone, header, own))
    }

    fn files(&self, suffix: &str) -> Result<Vec<PathBuf>, StorageError> {
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
    fn verify(&self, path: &Path, file: &dyn DiskFile) -> Result<(Header, u64), StorageError> {
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

    /// Begins to receive a file, or goes on with what an earlier transfer left.
    pub fn receive(&self, id: &str, bytes: u64) -> Result<SnapshotReceiver, StorageError> {
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') || id.len() > 128 {
            return Err(StorageError::Format(format!("not a snapshot id: {id:?}")));
        }
        self.fs.create_dir_all(&self.dir).map_err(|e| io("making", &self.dir, &e))?;
        let path = self.dir.join(format!("receive-{id}.{UNFINISHED}"));
        for other in self.files(UNFINISHED)? {
            let received =
                other.file_name().is_some_and(|name| name.to_string_lossy().starts_with("receive-"));
            if received && other != path {
                self.fs.remove(&other).map_err(|e| io("removing", &other, &e))?;
            }
        }
        let file = match self.fs.open(&path) {
            Ok(file) => file,
            Err(_) => self.create(&path)?,
        };
        let mut offset = file.len().map_err(|e| io("opening", &path, &e))?;
        if offset > bytes {
            file.set_len(0).map_err(|e| io("cutting", &path, &e))?;
            offset = 0;
        }
        Ok(SnapshotReceiver { snapshots: self.clone(), path, file, offset, bytes })
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

struct Writer<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    offset: u64,
    block: Vec<u8>,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.file.write_all_at(bytes, self.offset).map_err(|e| io("writing", self.path, &e))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn framed(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let mut frame = Vec::with_capacity(8 + bytes.len());
        frame.put_u32_le(bytes.len() as u32);
        frame.put_u32_le(crc32c::crc32c(bytes));
        frame.extend(bytes);
        self.put(&frame)
    }

    fn head(&mut self, header: &Header) -> Result<(), StorageError> {
        self.put(MAGIC)?;
        self.framed(&codec::encode_serde(header))
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.block.put_u32_le(key.len() as u32);
        self.block.put_u32_le(value.len() as u32);
        self.block.extend(key);
        self.block.extend(value);
        if self.block.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> Result<(), StorageError> {
        let block = lz4_flex::block::compress_prepend_size(&self.block);
        self.block.clear();
        self.framed(&block)
    }

    fn finish(&mut self, rows: u64) -> Result<(), StorageError> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let count = rows.to_le_bytes();
        let mut footer = Vec::with_capacity(16);
        footer.put_u32_le(0);
        footer.put_u32_le(crc32c::crc32c(&count));
        footer.extend(count);
        self.put(&footer)
    }
}

/// Reads a snapshot's own file and the sealed ones, block by block.
pub(crate) struct SnapshotRows<'a> {
    /// Until its last block.
    own: Option<FileRows<'a>>,
    own_rows: Peekable<std::vec::IntoIter<RawRow>>,
    shared: Peekable<Box<dyn Iterator<Item = Result<RawRow, StorageError>> + 'a>>,
}

impl SnapshotRows<'_> {
    /// The next rows, in order; `None` at the end.
    pub fn next_block(&mut self) -> Result<Option<Vec<RawRow>>, StorageError> {
        let (mut block, mut bytes) = (Vec::new(), 0);
        while bytes < BLOCK_BYTES {
            if self.own_rows.peek().is_none()
                && let Some(own) = &mut self.own
            {
                match own.next_block()? {
                    Some(rows) => self.own_rows = rows.into_iter().peekable(),
                    None => self.own = None,
                }
            }
            let shared_first = match (self.own_rows.peek(), self.shared.peek()) {
                (_, None) => false,
                (None, Some(_)) | (_, Some(Err(_))) => true,
                (Some((own, _)), Some(Ok((shared, _)))) => shared < own,
            };
            let row = if shared_first { self.shared.next().transpose()? } else { self.own_rows.next() };
            let Some((key, value)) = row else { break };
            bytes += key.len() + value.len();
            block.push((key, value));
        }
        Ok((!block.is_empty()).then_some(block))
    }
}

/// Reads a file block by block.
struct FileRows<'a> {
    path: &'a Path,
    file: &'a dyn DiskFile,
    header: Header,
    offset: u64,
    rows: u64,
}

impl<'a> FileRows<'a> {
    fn open(path: &'a Path, file: &'a dyn DiskFile) -> Result<Self, StorageError> {
        let mut magic = [0; MAGIC.len()];
        file.read_exact_at(&mut magic, 0).map_err(|_| corrupt(path, 0, "it ends in its first bytes"))?;
        if magic != *MAGIC {
            return Err(corrupt(path, 0, "it is not a snapshot file of this format"));
        }
        let header =
            Header { cluster_id: 0, group_id: 0, progress: Progress::default(), shelf: Manifest::default() };
        let mut rows = FileRows { path, file, header, offset: MAGIC.len() as u64, rows: 0 };
        let header = rows.framed()?.ok_or_else(|| corrupt(path, 8, "it has no header"))?;
        rows.header = codec::decode_serde::<_, { codec::VALUE_LIMIT }>("snapshot header", &header)?;
        Ok(rows)
    }

    /// The next frame; `None` at the footer.
    fn framed(&mut self) -> Result<Option<Bytes>, StorageError> {
        let short = |at| corrupt(self.path, at, "it ends too soon");
        let mut head = [0; 8];
        self.file.read_exact_at(&mut head, self.offset).map_err(|_| short(self.offset))?;
        let mut head = &head[..];
        let (length, crc) = (head.get_u32_le(), head.get_u32_le());
        if length > MAX_BLOCK_BYTES {
            return Err(corrupt(self.path, self.offset, "a block is longer than can be"));
        }
        let footer = length == 0;
        let mut bytes = vec![0; if footer { 8 } else { length as usize }];
        self.file.read_exact_at(&mut bytes, self.offset + 8).map_err(|_| short(self.offset))?;
        if crc32c::crc32c(&bytes) != crc {
            return Err(corrupt(self.path, self.offset, "a checksum does not match"));
        }
        self.offset += 8 + bytes.len() as u64;
        if !footer {
            return Ok(Some(bytes.into()));
        }
        let counted = (&bytes[..]).get_u64_le();
        if counted != self.rows {
            let why = format!("it has {} rows and counts {counted}", self.rows);
            return Err(corrupt(self.path, self.offset, why));
        }
        Ok(None)
    }

    /// The rows of the next block; `None` at the end.
    fn next_block(&mut self) -> Result<Option<Vec<RawRow>>, StorageError> {
        let at = self.offset;
        let Some(packed) = self.framed()? else { return Ok(None) };
        let mut block =
            unpack(&packed).ok_or_else(|| corrupt(self.path, at, "a block cannot be unpacked"))?;
        let mut rows = Vec::new();
        while block.has_remaining() {
            let lengths = (block.try_get_u32_le(), block.try_get_u32_le());
            let (Ok(key), Ok(value)) = lengths else {
                return Err(corrupt(self.path, at, "a row ends too soon"));
            };
            if block.len() < key as usize + value as usize {
                return Err(corrupt(self.path, at, "a row ends too soon"));
            }
            let key = block.split_to(key as usize).to_vec();
            rows.push((key, block.split_to(value as usize)));
        }
        self.rows += rows.len() as u64;
        Ok(Some(rows))
    }
}

fn unpack(mut block: &[u8]) -> Option<Bytes> {
    let length = block.try_get_u32_le().ok().filter(|length| *length <= MAX_BLOCK_BYTES)?;
    lz4_flex::block::decompress(block, length as usize).ok().map(Bytes::from)
}

/// A snapshot on its way from a peer.
#[derive(Debug)]
pub struct SnapshotReceiver {
    snapshots: Snapshots,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    offset: u64,
    bytes: u64,
}

impl SnapshotReceiver {
    /// How much is here already: where the sender goes on.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Adds the bytes at [`SnapshotReceiver::offset`].
    ///
    /// # Errors
    /// [`StorageError::Format`] for bytes of another place or beyond the announced length.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        if offset != self.offset || offset + bytes.len() as u64 > self.bytes {
            return Err(StorageError::Format(format!(
                "snapshot chunk of {} bytes at {offset}: {} of {} bytes are here",
                bytes.len(),
                self.offset,
                self.bytes
            )));
        }
        self.file.write_all_at(bytes, offset).map_err(|e| io("writing", &self.path, &e))?;
        self.offset += bytes.len() as u64;
        metrics::counter!("stockroom_snapshot_written_bytes_total").increment(bytes.len() as u64);
        Ok(())
    }

    /// Syncs, verifies and names the file. Blocks for as long as reading it takes.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] where it does not verify; it is removed, so that the next transfer
    /// begins anew.
    pub fn finish(self) -> Result<SnapshotFile, StorageError> {
        if self.offset != self.bytes {
            return Err(StorageError::Format(format!("only {} of {} bytes came", self.offset, self.bytes)));
        }
        let apart = self.snapshots.take_apart(&self.path, &*self.file, self.bytes);
        let finished = apart.and_then(|()| self.snapshots.finish(&self.path, self.file.clone()));
        if let Err(StorageError::Corrupt { .. } | StorageError::Foreign(_) | StorageError::Format(_)) =
            finished
        {
            let _ = self.snapshots.fs.remove(&self.path);
        }
        finished
    }
}
