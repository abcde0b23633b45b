//! The redo file: the changes of one checkpoint, whole, for the time that sled takes to write them.
//!
//! A kill in between leaves some of them in sled; a start writes all of them again, which changes
//! nothing for those that are there. The file is not synced: after a power loss sled is proved by
//! its state hash or built anew.
//!
//! ```text
//! magic "STKREDO1", per change: key length u32, value length u32 (or u32::MAX: removed), key, value
//! crc32c u32 of all before it; numbers are little-endian
//! ```

use crate::base::RawChange;
use crate::error::StorageError;
use bytes::{Buf, Bytes};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"STKREDO1";
const REMOVED: u32 = u32::MAX;

/// Where the redo file of a base lies.
#[derive(Debug)]
pub(crate) struct Redo {
    pub path: PathBuf,
}

/// Sums up what it hands on.
struct Summed<W> {
    to: W,
    crc: u32,
    bytes: u64,
}

impl<W: Write> Summed<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.bytes += bytes.len() as u64;
        self.to.write_all(bytes)
    }
}

impl Redo {
    /// Of the sled in `dir`.
    pub fn beside(dir: &Path) -> Self {
        Redo { path: dir.with_extension("redo") }
    }

    fn error(&self, doing: &str, error: &io::Error) -> StorageError {
        StorageError::io(format!("{doing} {}", self.path.display()), error)
    }

    /// Writes the file; gives its length.
    pub fn write(&self, changes: &[RawChange]) -> Result<u64, StorageError> {
        let write = || -> io::Result<u64> {
            let mut file = Summed { to: io::BufWriter::new(File::create(&self.path)?), crc: 0, bytes: 0 };
            file.put(MAGIC)?;
            for (key, value) in changes {
                let length = value.as_ref().map_or(REMOVED, |value| value.len() as u32);
                file.put(&(key.len() as u32).to_le_bytes())?;
                file.put(&length.to_le_bytes())?;
                file.put(key)?;
                file.put(value.as_deref().unwrap_or_default())?;
            }
            let crc = file.crc.to_le_bytes();
            file.put(&crc)?;
            file.to.flush()?;
            Ok(file.bytes)
        };
        write().map_err(|error| self.error("writing", &error))
    }

    /// What is to be written again; `None` where there is no such file, or not all of it.
    pub fn read(&self) -> Result<Option<Vec<RawChange>>, StorageError> {
        match std::fs::read(&self.path) {
            Ok(bytes) => Ok(decode(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error("reading", &error)),
        }
    }

    /// All of it is in the base.
    pub fn remove(&self) -> Result<(), StorageError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.error("removing", &error)),
            _ => Ok(()),
        }
    }
}

fn decode(bytes: Vec<u8>) -> Option<Vec<RawChange>> {
    let bytes = Bytes::from(bytes);
    let summed = bytes.slice(..bytes.len().checked_sub(4)?);
    let crc = u32::from_le_bytes(bytes[summed.len()..].try_into().ok()?);
    let mut rest = summed.clone();
    if crc32c::crc32c(&summed) != crc || rest.try_get_u64_le().ok()?.to_le_bytes() != *MAGIC {
        return None;
    }
    let mut changes = Vec::new();
    while rest.has_remaining() {
        let (key, value) = (rest.try_get_u32_le().ok()?, rest.try_get_u32_le().ok()?);
        let mut take = |length: u32| {
            let length = length as usize;
            (length <= rest.len()).then(|| rest.split_to(length))
        };
        let key = take(key)?.to_vec();
        let value = if value == REMOVED { None } else { Some(take(value)?) };
        changes.push((key, value));
    }
    Some(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redo_file_stays_readable() {
        let dir = tempfile::tempdir().unwrap();
        let redo = Redo::beside(&dir.path().join("sled-1"));
        assert_eq!(redo.read().unwrap(), None);
        let changes = vec![(b"a".to_vec(), Some(Bytes::from("bc"))), (b"d".to_vec(), None)];
        redo.write(&changes).unwrap();
        let bytes = std::fs::read(&redo.path).unwrap();
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex, "53544b5245444f31010000000200000061626301000000ffffffff6483094a0e");
        assert_eq!(redo.read().unwrap(), Some(changes));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(decode(changed), None, "a flipped bit in byte {at}");
        }
    }
}
