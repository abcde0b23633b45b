//! The frames of files that leave the cluster: backups and pieces of the log.
//!
//! ```text
//! magic   8 bytes
//! header  length u32, sum u64, JSON
//! blocks  packed length u32, plain length u32, sum u64, bytes    raw deflate
//! footer  0 u32, blocks u32, plain bytes u64, whole u128
//! ```
//! All numbers are little-endian. A sum is xxh3 (64 bits) of the bytes it stands before; the last one is xxh3
//! (128 bits) of everything in the file before it. Without its footer a file is nothing: a transfer that broke off
//! never looks good. `stockctl` reads the frames, too, so that it can tell while it receives one.

use crate::error::StorageError;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Plain bytes in a block: what one damaged bit makes unreadable, and what a reader holds.
pub(crate) const PLAIN_BYTES: usize = 1 << 20;
/// Nor is one ever longer, but for one row or entry that is.
const MAX_PLAIN_BYTES: usize = 8 * PLAIN_BYTES;
/// No header comes near it.
const MAX_HEADER_BYTES: usize = 1 << 20;

/// Makes the frames of one file, one after the other.
pub(crate) struct Packer {
    blocks: u32,
    plain_bytes: u64,
    whole: Xxh3,
}

impl Packer {
    pub fn new() -> Self {
        Packer { blocks: 0, plain_bytes: 0, whole: Xxh3::new() }
    }

    /// Plain bytes packed so far.
    pub fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    pub fn header(&mut self, magic: &[u8; 8], json: &[u8]) -> Bytes {
        let mut bytes = BytesMut::with_capacity(20 + json.len());
        bytes.put_slice(magic);
        bytes.put_u32_le(u32::try_from(json.len()).expect("a header is short"));
        bytes.put_u64_le(xxh3_64(json));
        bytes.put_slice(json);
        self.whole.update(&bytes);
        bytes.freeze()
    }

    pub fn block(&mut self, plain: &[u8]) -> Result<Bytes, StorageError> {
        // The fastest level: it runs on a machine that serves, and most of it is hashes and ids.
        let mut encoder = DeflateEncoder::new(Vec::with_capacity(plain.len() / 2), Compression::fast());
        let packed = encoder.write_all(plain).and_then(|()| encoder.finish());
        let packed = packed.map_err(|error| StorageError::io("compressing a block", &error))?;
        let mut bytes = BytesMut::with_capacity(16 + packed.len());
        bytes.put_u32_le(u32::try_from(packed.len()).expect("a block is about a mebibyte"));
        bytes.put_u32_le(u32::try_from(plain.len()).expect("a block is about a mebibyte"));
        bytes.put_u64_le(xxh3_64(&packed));
        bytes.put_slice(&packed);
        self.whole.update(&bytes);
        self.blocks += 1;
        self.plain_bytes += plain.len() as u64;
        Ok(bytes.freeze())
    }

    pub fn footer(mut self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(32);
        bytes.put_u32_le(0);
        bytes.put_u32_le(self.blocks);
        bytes.put_u64_le(self.plain_bytes);
        self.whole.update(&bytes);
        bytes.put_u128_le(self.whole.digest128());
        bytes.freeze()
    }
}

/// Reads the frames of one file, and proves them.
pub(crate) struct Unpacker {
    path: PathBuf,
    reader: BufReader<File>,
    offset: u64,
    whole: Xxh3,
    blocks: u32,
    plain_bytes: u64,
}

impl Unpacker {
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let file = File::open(path)
            .map_err(|error| StorageError::io(format!("opening {}", path.display()), &error))?;
        let reader = BufReader::with_capacity(PLAIN_BYTES, file);
        let path = path.to_owned();
        Ok(Unpacker { path, reader, offset: 0, whole: Xxh3::new(), blocks: 0, plain_bytes: 0 })
    }

    /// This file is bad, as seen here.
    pub fn damaged(&self, why: impl Into<String>) -> StorageError {
        StorageError::Corrupt { file: self.path.clone(), offset: self.offset, why: why.into() }
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), StorageError> {
        match self.reader.read_exact(bytes) {
            Ok(()) => {
                self.offset += bytes.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(self.damaged("it ends too soon: the transfer broke off, or the file was cut"))
            }
            Err(error) => Err(StorageError::io(format!("reading {}", self.path.display()), &error)),
        }
    }

    /// The header, which must come first.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] where it is not `what` is expected, or damaged; [`StorageError::Io`].
    pub fn header(&mut self, magic: &[u8; 8], what: &str) -> Result<Vec<u8>, StorageError> {
        let mut start = [0; 20];
        self.read(&mut start)?;
        let mut fields = &start[8..];
        let (length, sum) = (fields.get_u32_le() as usize, fields.get_u64_le());
        if start[..8] != *magic {
            self.offset = 0;
            return Err(self.damaged(format!("it is not {what} of Stockroom")));
        }
        if length > MAX_HEADER_BYTES {
            return Err(self.damaged("its header is longer than can be"));
        }
        let mut json = vec![0; length];
        self.read(&mut json)?;
        if xxh3_64(&json) != sum {
            return Err(self.damaged("its header does not match its checksum"));
        }
        self.whole.update(&start);
        self.whole.update(&json);
        Ok(json)
    }

    /// The next plain bytes; `None` behind the last, once the whole file is proved.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] where a checksum does not match or the file ends too soon; [`StorageError::Io`].
    pub fn block(&mut self) -> Result<Option<Vec<u8>>, StorageError> {
        let mut start = [0; 16];
        self.read(&mut start)?;
        self.whole.update(&start);
        let mut fields = &start[..];
        let packed = fields.get_u32_le() as usize;
        if packed == 0 {
            let (counted, bytes) = (fields.get_u32_le(), fields.get_u64_le());
            let mut whole = [0; 16];
            self.read(&mut whole)?;
            if (counted, bytes) != (self.blocks, self.plain_bytes)
                || u128::from_le_bytes(whole) != self.whole.digest128()
            {
                return Err(self.damaged("its last checksum does not match: it is not as it was written"));
            }
            let mut more = [0];
            return match self.reader.read(&mut more) {
                Ok(0) => Ok(None),
                Ok(_) => Err(self.damaged("it goes on behind its end")),
                Err(error) => Err(StorageError::io(format!("reading {}", self.path.display()), &error)),
            };
        }
        let (plain, sum) = (fields.get_u32_le() as usize, fields.get_u64_le());
        if packed > 2 * MAX_PLAIN_BYTES || plain > MAX_PLAIN_BYTES {
            return Err(self.damaged("a block is longer than can be"));
        }
        let mut bytes = vec![0; packed];
        self.read(&mut bytes)?;
        if xxh3_64(&bytes) != sum {
            return Err(self.damaged("a block does not match its checksum"));
        }
        self.whole.update(&bytes);
        let mut unpacked = Vec::with_capacity(plain);
        let read = DeflateDecoder::new(&bytes[..]).take(plain as u64 + 1).read_to_end(&mut unpacked);
        match read {
            Ok(length) if length == plain => {
                self.blocks += 1;
                self.plain_bytes += plain as u64;
                Ok(Some(unpacked))
            }
            _ => Err(self.damaged("a block does not unpack to what it says")),
        }
    }
}
