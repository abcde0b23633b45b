//! Whether this program may touch a data directory: the cluster version that holds in it, in a file of its own.
//!
//! A program that is too old for a cluster cannot read what newer ones wrote, and would take it for damage. So the version
//! stands in the file `cluster-version`, whose form never changes, and is looked at before anything else. It is written
//! before anything takes effect that comes with that version: until then each file is as the version before had it, and
//! the program before can go on with it.

use crate::error::StorageError;
use crate::fs::{FileSystem, RealFileSystem};
use crate::shop::version::{ClusterVersion, SERVED, Versions};
use crate::small_file;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FILE: &str = "cluster-version";

/// Refuses a cluster version that a program does not serve. `what` is of that version.
///
/// # Errors
/// [`StorageError::Version`] with what to do.
pub fn must_serve(served: Versions, version: ClusterVersion, what: &str) -> Result<(), StorageError> {
    if served.serve(version) {
        return Ok(());
    }
    let then = if version > served.newest {
        "it is too old. Start a program that serves it: that of the other nodes, or a newer one; an upgrade that was \
         finalised is not taken back"
    } else {
        "it is too new. Upgrade step by step: first a program that serves this version and a later one, on all nodes, then \
         `stockctl upgrade finalize`, then the next"
    };
    Err(StorageError::Version(format!(
        "{what} is at cluster version {version}, and this program serves {served}: {then}"
    )))
}

/// The version that holds in one data directory.
#[derive(Debug, Clone)]
pub(crate) struct Marker {
    pub fs: Arc<dyn FileSystem>,
    pub dir: PathBuf,
    pub served: Versions,
}

impl Marker {
    /// Before anything else is read.
    pub fn check(&self) -> Result<(), StorageError> {
        match self.read()? {
            Some(version) => must_serve(self.served, version, &self.dir.display().to_string()),
            None => Ok(()),
        }
    }

    /// Before anything of this version takes effect.
    pub fn hold(&self, version: ClusterVersion) -> Result<(), StorageError> {
        must_serve(self.served, version, "the cluster")?;
        if self.read()? < Some(version) {
            small_file::write(&*self.fs, &self.dir, FILE, &version.0.to_le_bytes())?;
        }
        Ok(())
    }

    fn read(&self) -> Result<Option<ClusterVersion>, StorageError> {
        let Some(body) = small_file::read(&*self.fs, &self.dir, FILE)? else { return Ok(None) };
        // More than that may stand there one day.
        let version = body.first_chunk().map(|bytes| ClusterVersion(u32::from_le_bytes(*bytes)));
        let path = self.dir.join(FILE);
        version.map(Some).ok_or_else(|| StorageError::Format(format!("{}: too short", path.display())))
    }
}

/// Refuses a data directory that this program must not look into.
///
/// # Errors
/// [`StorageError::Version`]; [`StorageError`] where that cannot be read.
pub(crate) fn must_be_served(dir: &Path) -> Result<(), StorageError> {
    Marker { fs: Arc::new(RealFileSystem), dir: dir.to_owned(), served: SERVED }.check()
}
