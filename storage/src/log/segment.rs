//! A segment: a file of fixed length, zeroed before it is used, so that a sync need not touch the
//! file's metadata.

use super::record::{self, HEADER_BYTES, Header};
use crate::error::StorageError;
use crate::fs::{DiskFile, FileSystem};
use crate::identity::{IDENTITY_BYTES, Identity};
use bytes::Bytes;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Records begin here: the header has a page to itself.
pub(crate) const DATA_OFFSET: u64 = 4096;
/// A segment's first record is at most so long: a handful of log ids.
pub(crate) const MAX_OPENING_BYTES: u64 = 1024;
/// Zeros are synced in steps, so that a sync of the log never waits behind many.
const ZERO_STEP_BYTES: u64 = 1 << 20;
/// ... and written page by page: where one write makes one large folio of the page cache, each small append later
/// goes over all of it (2 to 4 us a sync), and the system counts all of it as written.
const ZERO_WRITE_BYTES: usize = 4 << 10;
const MAGIC: [u8; 8] = *b"SRWALSEG";
const FORMAT: u32 = 1;
const SEGMENT_HEADER_BYTES: usize = 8 + 4 + IDENTITY_BYTES + 8 + 8 + 4;

/// A file of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Counts segments, never used twice.
    pub(crate) generation: u64,
    /// Length of the file.
    pub(crate) bytes: u64,
    /// Seed of the checksums of its records.
    pub(crate) salt: u32,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// Name of the segment of this generation.
pub(crate) fn file_name(generation: u64) -> String {
    format!("{generation:016x}.wal")
}

/// Generation of the segment of this name; `None` for any other file.
pub(crate) fn generation_of(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".wal")?;
    u64::from_str_radix(digits, 16).ok().filter(|generation| file_name(*generation).len() == digits.len() + 4)
}

fn salt(identity: &Identity, generation: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&identity.to_bytes()), &generation.to_le_bytes())
}

fn encode_header(identity: &Identity, generation: u64, segment_bytes: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend(identity.to_bytes());
    bytes.extend(generation.to_le_bytes());
    bytes.extend(segment_bytes.to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

impl Segment {
    /// Makes a segment and its name durable: from the file `spare`, whose name is durable and whose
    /// old contents do not matter, or else from zeros.
    pub(crate) fn make(
        fs: &dyn FileSystem,
        dir: &Path,
        identity: &Identity,
        generation: u64,
        bytes: u64,
        spare: Option<&Path>,
    ) -> Result<Segment, StorageError> {
        let path = dir.join(file_name(generation));
        let io = |error: io::Error| StorageError::io(format!("making {}", path.display()), &error);
        let (temporary, file) = match spare {
            Some(spare) => (spare.to_owned(), fs.open(spare).map_err(io)?),
            None => {
                let temporary = path.with_extension("new");
                // What an earlier attempt left.
                match fs.remove(&temporary) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
                    _ => {}
                }
                let file = fs.create_new(&temporary).map_err(io)?;
                write_zeros(&*file, bytes).map_err(io)?;
                metrics::counter!("stockroom_log_zeroed_bytes_total").increment(bytes);
                (temporary, file)
            }
        };
        file.write_all_at(&encode_header(identity, generation, bytes), 0).map_err(io)?;
        file.sync_data().map_err(io)?;
        fs.rename(&temporary, &path).map_err(io)?;
        fs.sync_dir(dir).map_err(io)?;
        Ok(Segment { generation, bytes, salt: salt(identity, generation), path, file })
    }

    /// Opens the segment at `path`, whose name says `generation`.
    pub(crate) fn open(
        fs: &dyn FileSystem,
        path: &Path,
        identity: &Identity,
        generation: u64,
    ) -> Result<Segment, StorageError> {
        let io = |error: io::Error| StorageError::io(format!("opening {}", path.display()), &error);
        let corrupt = |why: &str| StorageError::Corrupt {
            file: path.to_owned(),
            offset: 0,
            why: format!("{why}; {}", what_to_do()),
        };
        let file = fs.open(path).map_err(io)?;
        if file.len().map_err(io)? < DATA_OFFSET {
            return Err(corrupt("the segment has no whole header"));
        }
        let mut header = [0; SEGMENT_HEADER_BYTES];
        file.read_exact_at(&mut header, 0).map_err(io)?;
        let (body, sum) = header.split_at(SEGMENT_HEADER_BYTES - 4);
        if body[..8] != MAGIC || crc32c::crc32c(body).to_le_bytes() != sum {
            return Err(corrupt("the segment's header does not match its checksum"));
        }
        if body[8..12] != FORMAT.to_le_bytes() {
            return Err(StorageError::Format(format!("{}: unknown format of a segment", path.display())));
        }
        let found = Identity::from_bytes(body[12..].first_chunk().expect("the header is longer"));
        if found != *identity {
            return Err(foreign(path, &found, identity));
        }
        let numbers = &body[12 + IDENTITY_BYTES..];
        let u64_at = |at: usize| u64::from_le_bytes(*numbers[at..].first_chunk().expect("two numbers"));
        if u64_at(0) != generation {
            return Err(corrupt("the segment's header names another generation than the file's name"));
        }
        // It was whole and synced before it got its name: what a crash leaves unfinished lies within.
        if file.len().map_err(io)? < u64_at(8) {
            return Err(corrupt("the segment is shorter than it was made: its end was cut off"));
        }
        Ok(Segment {
            generation,
            bytes: u64_at(8),
            salt: salt(identity, generation),
            path: path.to_owned(),
            file,
        })
    }

    /// The whole file, as far as it is there.
    pub(crate) fn read_all(&self) -> Result<Bytes, StorageError> {
        self.read_up_to(self.bytes)
    }

    /// The header and the first record, as far as they are there.
    pub(crate) fn read_beginning(&self) -> Result<Bytes, StorageError> {
        self.read_up_to(DATA_OFFSET + MAX_OPENING_BYTES)
    }

    fn read_up_to(&self, bytes: u64) -> Result<Bytes, StorageError> {
        let io = |error: io::Error| StorageError::io(format!("reading {}", self.path.display()), &error);
        let length = self.file.len().map_err(io)?.min(self.bytes).min(bytes);
        let mut bytes = vec![0; usize::try_from(length).expect("segments fit into memory")];
        self.file.read_exact_at(&mut bytes, 0).map_err(io)?;
        Ok(bytes.into())
    }

    pub(crate) fn write_and_sync(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        let written = self.file.write_all_at(bytes, offset).and_then(|()| self.file.sync_data());
        written.map_err(|error| StorageError::io(format!("writing {}", self.path.display()), &error))
    }

    /// The payload of the entry at `offset`, checked.
    pub(crate) fn read_entry(&self, offset: u64, length: u32, index: u64) -> Result<Bytes, StorageError> {
        let mut bytes = vec![0; HEADER_BYTES + length as usize];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| StorageError::io(format!("reading {}", self.path.display()), &error))?;
        match Header::decode(&bytes, self.salt, self.generation) {
            Some(header)
                if header.index == index
                    && header.length == length
                    && record::payload_matches(&header, &bytes[HEADER_BYTES..], self.salt) =>
            {
                Ok(Bytes::from(bytes).slice(HEADER_BYTES..))
            }
            _ => Err(self.corrupt(offset, &format!("entry {index} does not match its checksum"))),
        }
    }

    /// The records that lie between `from`, where one ends, and `to`, where one begins: their sums, whatever they say.
    /// Entries were cut off and written anew there, or what is no entry was written between two; a start reads it all.
    pub(crate) fn check_between(&self, from: u64, to: u64) -> Result<(), StorageError> {
        let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).expect("within a segment")];
        self.file
            .read_exact_at(&mut bytes, from)
            .map_err(|error| StorageError::io(format!("reading {}", self.path.display()), &error))?;
        let mut at = 0;
        while at < bytes.len() {
            let header = Header::decode(&bytes[at..], self.salt, self.generation).filter(|header| {
                let payload = bytes.get(at + HEADER_BYTES..at + HEADER_BYTES + header.length as usize);
                payload.is_some_and(|payload| record::payload_matches(header, payload, self.salt))
            });
            let damaged = || self.corrupt(from + at as u64, "a record does not match its checksum");
            at += header.ok_or_else(damaged)?.record_bytes();
        }
        if at > bytes.len() {
            return Err(self.corrupt(to, "a record reaches into the next one"));
        }
        Ok(())
    }

    /// Damage at `offset` of this segment.
    pub(crate) fn corrupt(&self, offset: u64, why: &str) -> StorageError {
        StorageError::Corrupt { file: self.path.clone(), offset, why: format!("{why}; {}", what_to_do()) }
    }
}

fn what_to_do() -> &'static str {
    "nothing was changed. Keep the directory for inspection, and replace this node by a new one \
     (new id, empty directory)"
}

fn foreign(path: &Path, found: &Identity, expected: &Identity) -> StorageError {
    StorageError::Foreign(format!(
        "{} belongs to cluster {:032x}, node {}, incarnation {:016x}, group {}, but this data directory to \
         cluster {:032x}, node {}, incarnation {:016x}, group {}. Files of two nodes or clusters were mixed: \
         point the node to its own data directory, or start it as a new node with an empty one",
        path.display(),
        found.cluster_id,
        found.node_id,
        found.incarnation,
        found.group_id,
        expected.cluster_id,
        expected.node_id,
        expected.incarnation,
        expected.group_id,
    ))
}

fn write_zeros(file: &dyn DiskFile, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; ZERO_WRITE_BYTES];
    let mut at = 0;
    while at < bytes {
        let write = (ZERO_WRITE_BYTES as u64).min(bytes - at);
        file.write_all_at(&zeros[..usize::try_from(write).expect("at most the buffer")], at)?;
        at += write;
        if at.is_multiple_of(ZERO_STEP_BYTES) || at == bytes {
            file.sync_data()?;
        }
    }
    Ok(())
}
