//! The file that a snapshot writes for itself alone: its header and the rows that are in no sealed file.
//!
//! ```text
//! magic "STKSNAP2"
//! header  length u32, crc u32, bytes      cluster, group, progress, the sealed files
//! blocks  length u32, crc u32, bytes      length u32 and LZ4 of rows: key length u32, value length u32, key, value
//! footer  0 u32, crc u32, row count u64
//! ```
//! All numbers are little-endian; a CRC is crc32c of the bytes it stands before.

use super::{Header, corrupt, io};
use crate::base::RawRow;
use crate::codec;
use crate::error::StorageError;
use crate::fs::DiskFile;
use crate::shelf::Manifest;
use crate::tables::Progress;
use bytes::{Buf, BufMut, Bytes};
use std::path::Path;

const MAGIC: &[u8; 8] = b"STKSNAP2";
/// Rows are cut into blocks of about this size: what one damaged bit makes unreadable, and what a
/// reader holds in memory.
pub(super) const BLOCK_BYTES: usize = 1 << 20;
/// No block comes near it (one row may be as large as an entry's block of movements).
const MAX_BLOCK_BYTES: u32 = 1 << 30;

/// Writes it, block by block.
pub(super) struct Writer<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    offset: u64,
    block: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub fn begin(path: &'a Path, file: &'a dyn DiskFile, header: &Header) -> Result<Self, StorageError> {
        let mut writer = Writer { file, path, offset: 0, block: Vec::new() };
        writer.put(MAGIC)?;
        writer.framed(&codec::encode_serde(header))?;
        Ok(writer)
    }

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

    pub fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
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

    /// Ends the file, which has so many rows. How many bytes it has.
    pub fn finish(mut self, rows: u64) -> Result<u64, StorageError> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let count = rows.to_le_bytes();
        let mut footer = Vec::with_capacity(16);
        footer.put_u32_le(0);
        footer.put_u32_le(crc32c::crc32c(&count));
        footer.extend(count);
        self.put(&footer)?;
        Ok(self.offset)
    }
}

/// Reads a file block by block.
pub(super) struct FileRows<'a> {
    path: &'a Path,
    file: &'a dyn DiskFile,
    pub header: Header,
    /// Behind what was read so far.
    pub offset: u64,
    rows: u64,
}

impl<'a> FileRows<'a> {
    pub fn open(path: &'a Path, file: &'a dyn DiskFile) -> Result<Self, StorageError> {
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
    pub fn next_block(&mut self) -> Result<Option<Vec<RawRow>>, StorageError> {
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
