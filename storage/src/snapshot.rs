//! The snapshot: all live rows at one applied index. With the log it is the durable truth; only behind a
//! verified one may the log be purged.
//!
//! Most rows are written once and lie in sealed files of the `shelf`, which never change: a snapshot
//! has them by hard link, and writes only what is in none of them. On its way to a peer it is one stream of
//! bytes: its own file, then those.

mod arrival;
mod directory;
mod own_file;
mod underway;

pub use arrival::SnapshotReceiver;
pub(crate) use directory::Snapshots;
pub(crate) use underway::Underway;

use crate::base::RawRow;
use crate::codec;
use crate::error::StorageError;
use crate::fs::DiskFile;
use crate::shelf::{self, Manifest, Pace, Sealed, Shelf};
use crate::shop::planted::{self, Bug};
use crate::shop::version::ClusterVersion;
use crate::tables::{Fingerprint, Progress, Sums};
use crate::type_config::TypeConfig;
use bytes::Bytes;
use openraft::alias::SnapshotMetaOf;
use own_file::{BLOCK_BYTES, FileRows};
use serde::{Deserialize, Serialize};
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

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

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
