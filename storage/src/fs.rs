//! The file system as the log and the snapshot file see it: a seam, so that a simulation can lose
//! power between any two calls.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Room on the file system that a directory lies on, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Of the file system.
    pub total: u64,
    /// What this process may still write.
    pub free: u64,
}

/// A directory tree. Paths are as the operating system takes them.
pub trait FileSystem: Debug + Send + Sync + 'static {
    /// Makes a directory and its parents; no error where it is there.
    ///
    /// # Errors
    /// As the operating system says.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Names of the files directly in `dir`, sorted.
    ///
    /// # Errors
    /// As the operating system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes an empty file, open for reading and writing; an error where it is there.
    ///
    /// # Errors
    /// As the operating system says.
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing; an error where it is not there.
    ///
    /// # Errors
    /// As the operating system says.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Gives a file another name, replacing what has it.
    ///
    /// # Errors
    /// As the operating system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name; an error where something has it. Who may not count on it makes a copy.
    ///
    /// # Errors
    /// `Unsupported` where there is no such thing; else as the operating system says.
    fn link(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Removes a file.
    ///
    /// # Errors
    /// As the operating system says.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Takes `dir` for this process until what it gives is dropped.
    ///
    /// # Errors
    /// `WouldBlock` where somebody has it; else as the operating system says.
    fn lock(&self, dir: &Path) -> io::Result<Lock>;
    /// Makes names in `dir` (created, renamed, removed) survive power loss.
    ///
    /// # Errors
    /// As the operating system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// How much room there is where `dir` lies.
    ///
    /// # Errors
    /// `Unsupported` where nobody can say; else as the operating system says.
    fn space(&self, _dir: &Path) -> io::Result<Space> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Keeps a directory taken.
pub type Lock = Arc<dyn std::any::Any + Send + Sync>;

/// An open file. Positioned calls only, so that one handle serves readers and the writer.
#[expect(
    clippy::len_without_is_empty,
    reason = "a file's length is asked of the system, not of a collection"
)]
pub trait DiskFile: Debug + Send + Sync {
    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends before; else as the operating system says.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// As the operating system says.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes contents and length survive power loss (`fdatasync`).
    ///
    /// # Errors
    /// As the operating system says. After one, what is on disk is unknown: never call it again.
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    ///
    /// # Errors
    /// As the operating system says.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends (with zeros) to `bytes`.
    ///
    /// # Errors
    /// As the operating system says.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
}

/// The machine's own file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFileSystem;

impl FileSystem for RealFileSystem {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                paths.push(entry.path());
            }
        }
        paths.sort();
        Ok(paths)
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).create_new(true).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn lock(&self, dir: &Path) -> io::Result<Lock> {
        let file = OpenOptions::new().create(true).append(true).open(dir.join("LOCK"))?;
        file.try_lock().map_err(io::Error::from)?;
        Ok(Arc::new(file))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let found = rustix::fs::statvfs(dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Space { total: bytes(found.f_blocks), free: bytes(found.f_bavail) })
    }
}

impl DiskFile for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }
}
