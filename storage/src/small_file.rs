//! Small files of a data directory, each written as a whole: a format byte, the body, and a checksum.

use crate::error::StorageError;
use crate::fs::FileSystem;
use std::path::Path;

/// The first byte of these files.
const FORMAT: u8 = 1;
/// None comes near it.
const MAX_BYTES: u64 = 1 << 20;

/// The body of a file that [`write()`] wrote; `None` where there is none.
///
/// # Errors
/// [`StorageError::Io`]; [`StorageError::Corrupt`] where it was changed; [`StorageError::Format`].
pub fn read(fs: &dyn FileSystem, dir: &Path, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
    let path = dir.join(name);
    let io = |error: &std::io::Error| StorageError::io(format!("reading {}", path.display()), error);
    let file = match fs.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(&error)),
    };
    let length = file.len().map_err(|error| io(&error))?;
    let mut bytes = vec![0; usize::try_from(length.min(MAX_BYTES)).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0).map_err(|error| io(&error))?;
    let corrupt = || {
        StorageError::Corrupt {
        file: path.clone(),
        offset: 0,
        why: "it does not match its checksum; restore this one file from a copy, or replace the node by a new one".into(),
    }
    };
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or_else(corrupt)?;
    if crc32c::crc32c(body).to_be_bytes() != *sum {
        return Err(corrupt());
    }
    match body.split_first() {
        Some((&FORMAT, body)) => Ok(Some(body.to_vec())),
        _ => Err(StorageError::Format(format!("{}: unknown format", path.display()))),
    }
}

/// Writes a small file as a whole: after a crash it is there, or is as it was before.
///
/// # Errors
/// [`StorageError::Io`].
pub fn write(fs: &dyn FileSystem, dir: &Path, name: &str, body: &[u8]) -> Result<(), StorageError> {
    let (path, temporary) = (dir.join(name), dir.join(format!("{name}.tmp")));
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(body);
    bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
    let write = || {
        fs.create_dir_all(dir)?;
        match fs.remove(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = fs.create_new(&temporary)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        fs.rename(&temporary, &path)?;
        fs.sync_dir(dir)
    };
    write().map_err(|error| StorageError::io(format!("writing {}", path.display()), &error))
}
