//! A snapshot that came in one piece, as a peer sends it and a backup has it, and is taken apart: each of its sealed
//! files becomes a file of its own.

use super::directory::{Snapshots, UNFINISHED};
use super::{Header, SnapshotFile, corrupt, io, sealed_of};
use crate::error::StorageError;
use crate::fs::DiskFile;
use crate::shelf::{self, Sealed};
use crate::store::BaseKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Snapshots {
    /// Begins to receive a file, or goes on with what an earlier transfer left.
    pub fn receive(&self, id: &str, bytes: u64, kind: &BaseKind) -> Result<SnapshotReceiver, StorageError> {
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
        Ok(SnapshotReceiver { snapshots: self.clone(), kind: kind.clone(), path, file, offset, bytes })
    }

    /// Each sealed file gets a file of its own, and is read whole.
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
    pub(super) fn in_parts(
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
}

/// A snapshot on its way from a peer.
#[derive(Debug)]
pub struct SnapshotReceiver {
    snapshots: Snapshots,
    /// What it is to become the state of.
    kind: BaseKind,
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
    /// [`StorageError::Corrupt`] where it does not verify; [`StorageError::is_no_room`] where it cannot be installed: a
    /// file that has its name is what openraft installs at the next start, and an error there ends the node. Whatever the error, what came is removed: the next transfer
    /// begins anew.
    pub fn finish(self) -> Result<SnapshotFile, StorageError> {
        if self.offset != self.bytes {
            return Err(StorageError::Format(format!("only {} of {} bytes came", self.offset, self.bytes)));
        }
        let finished = self.take_apart();
        if finished.is_err() {
            // Also where only a sync failed: the next one of that file would succeed and say nothing.
            self.snapshots.discard(&self.path);
        }
        finished
    }

    fn take_apart(&self) -> Result<SnapshotFile, StorageError> {
        let SnapshotReceiver { snapshots, path, file, .. } = self;
        let (header, own) = snapshots.verify(path, &**file)?;
        let name = snapshots.finished_path(&header.progress);
        let _underway = snapshots.underway.begin(&name);
        snapshots.take_out(path, &**file, own..self.bytes, &sealed_of(&name, &header))?;
        file.set_len(own).map_err(|e| io("cutting", path, &e))?;
        self.kind.room_for("a snapshot", own)?;
        snapshots.finish(path, file.clone())
    }
}
