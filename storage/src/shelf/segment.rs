//! One file of the shelf.
//!
//! ```text
//! magic "STKROWS1"
//! frames  stored u32, raw u32, crc u32, bytes     crc32c of the two lengths and the bytes; compressed (LZ4)
//!                                                 where stored < raw. Rows: key length u8, value length u32, key, value
//! sealed: index of the frames, then its length u32, its crc u32, magic "STKROWSE"
//! ```
//! All numbers are little-endian.

use super::manifest::FileState;
use crate::codec;
use crate::error::StorageError;
use crate::fs::{DiskFile, FileSystem};
use crate::tables::row_hash;
use bytes::{Buf, BufMut, Bytes};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"STKROWS1";
const END: &[u8; 8] = b"STKROWSE";
const HEAD: usize = 12;
const TRAILER: usize = 16;
/// Rows are put into frames of about this size: what one look-up reads, and what compresses together.
const FRAME_BYTES: usize = 16 << 10;
/// No frame comes near it (one row may be as large as an entry's block of movements).
const MAX_FRAME_BYTES: u32 = 1 << 30;

/// Told of bytes that were read; it may take its time, and an error of its own ends the reading.
pub(crate) type Pace<'a> = dyn Fn(usize) -> Result<(), StorageError> + Sync + 'a;

/// Where a frame lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FrameRef {
    offset: u64,
    /// With its head.
    length: u32,
    /// Its first key.
    pub first: Box<[u8]>,
}

/// What a sealed file ends with.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Index {
    frames: Vec<FrameRef>,
    last: Vec<u8>,
    rows: u64,
    sum: u128,
}

/// A file that is read.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub path: PathBuf,
    file: Arc<dyn DiskFile>,
    pub state: FileState,
    pub frames: Vec<FrameRef>,
    /// Its last key.
    pub last: Vec<u8>,
}

/// The rows of one frame, in order.
#[derive(Debug)]
pub(super) struct Frame {
    pub rows: Vec<(Bytes, Bytes)>,
    pub bytes: usize,
}

impl Frame {
    pub fn get(&self, key: &[u8]) -> Option<&Bytes> {
        let at = self.rows.binary_search_by(|(found, _)| (**found).cmp(key)).ok()?;
        Some(&self.rows[at].1)
    }
}

fn io(doing: &str, path: &Path, error: &std::io::Error) -> StorageError {
    StorageError::io(format!("{doing} {}", path.display()), error)
}

fn corrupt(path: &Path, offset: u64, why: impl Into<String>) -> StorageError {
    StorageError::Corrupt { file: path.to_owned(), offset, why: why.into() }
}

fn checksum(lengths: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(lengths), body)
}

/// A frame's rows from its bytes, head included.
fn open_frame(path: &Path, offset: u64, mut bytes: Bytes) -> Result<Frame, StorageError> {
    let damaged = |why: &str| corrupt(path, offset, why);
    let lengths = bytes.slice(..8);
    let (stored, raw, crc) = (bytes.get_u32_le(), bytes.get_u32_le(), bytes.get_u32_le());
    if stored as usize != bytes.len() || raw > MAX_FRAME_BYTES || checksum(&lengths, &bytes) != crc {
        return Err(damaged("a checksum does not match"));
    }
    if stored < raw {
        let plain = lz4_flex::block::decompress(&bytes, raw as usize);
        bytes = plain.map_err(|error| damaged(&error.to_string()))?.into();
    }
    if bytes.len() != raw as usize {
        return Err(damaged("a frame has another length than it says"));
    }
    let mut rows = Vec::new();
    while bytes.has_remaining() {
        let lengths = (bytes.try_get_u8(), bytes.try_get_u32_le());
        let (Ok(key), Ok(value)) = lengths else { return Err(damaged("a row ends too soon")) };
        if bytes.len() < key as usize + value as usize {
            return Err(damaged("a row ends too soon"));
        }
        let key = bytes.split_to(key as usize);
        rows.push((key, bytes.split_to(value as usize)));
    }
    if rows.is_empty() || !rows.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(damaged("rows are not in order"));
    }
    Ok(Frame { rows, bytes: raw as usize })
}

impl Segment {
    /// Makes an empty file.
    pub fn create(fs: &dyn FileSystem, path: PathBuf, number: u64) -> Result<Self, StorageError> {
        // Left over from a crash: it counts nowhere. A snapshot may hold on to its bytes, so they stay as they are.
        let _ = fs.remove(&path);
        let file = fs.create_new(&path).map_err(|e| io("making", &path, &e))?;
        file.write_all_at(MAGIC, 0).map_err(|e| io("writing", &path, &e))?;
        let state = FileState { number, length: MAGIC.len() as u64, ..FileState::default() };
        Ok(Segment { path, file, state, frames: Vec::new(), last: Vec::new() })
    }

    /// Opens a file. A sealed one is taken at its index's word, unless `whole` asks for every row; any other
    /// is read whole, and what comes after the bytes that count is cut off.
    pub fn open(
        fs: &dyn FileSystem,
        path: PathBuf,
        state: &FileState,
        whole: bool,
    ) -> Result<Self, StorageError> {
        let mut file = fs.open(&path).map_err(|e| io("opening", &path, &e))?;
        let length = file.len().map_err(|e| io("opening", &path, &e))?;
        if !state.sealed && length > state.length {
            file = cut(fs, &path, &*file, state.length)?;
        }
        Self::on(file, path, state, whole)
    }

    /// The same of a file that is open.
    pub fn on(
        file: Arc<dyn DiskFile>,
        path: PathBuf,
        state: &FileState,
        whole: bool,
    ) -> Result<Self, StorageError> {
        let length = file.len().map_err(|e| io("opening", &path, &e))?;
        if length != state.length {
            let why = format!("it has {length} bytes where {} are expected", state.length);
            return Err(corrupt(&path, length.min(state.length), why));
        }
        let mut segment = Segment { path, file, state: state.clone(), frames: Vec::new(), last: Vec::new() };
        if state.sealed {
            let index = segment.read_index()?;
            (segment.frames, segment.last) = (index.frames, index.last);
        } else {
            (segment.frames, segment.last) = segment.find_frames()?;
        }
        if whole || !state.sealed {
            segment.verify(&|_| Ok(()))?;
        }
        Ok(segment)
    }

    fn read(&self, offset: u64, length: usize) -> Result<Bytes, StorageError> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => corrupt(&self.path, offset, "it ends too soon"),
            _ => io("reading", &self.path, &error),
        })?;
        Ok(bytes.into())
    }

    fn read_index(&self) -> Result<Index, StorageError> {
        let damaged = |why: &str| corrupt(&self.path, self.state.length, why);
        let trailer = self.state.length.checked_sub(TRAILER as u64).ok_or_else(|| damaged("it is empty"))?;
        let mut bytes = self.read(trailer, TRAILER)?;
        let (length, crc) = (bytes.get_u32_le(), bytes.get_u32_le());
        let at = trailer.checked_sub(length.into());
        let (Some(at), true) = (at, *bytes == *END) else { return Err(damaged("it has no end")) };
        let bytes = self.read(at, length as usize)?;
        if crc32c::crc32c(&bytes) != crc {
            return Err(damaged("the checksum of its index does not match"));
        }
        let index: Index = codec::decode_serde::<_, { codec::VALUE_LIMIT }>("index of frames", &bytes)?;
        if (index.rows, index.sum) != (self.state.rows, self.state.sum) {
            return Err(damaged("its rows are not those that are expected"));
        }
        Ok(index)
    }

    /// Of a file that is not sealed.
    fn find_frames(&self) -> Result<(Vec<FrameRef>, Vec<u8>), StorageError> {
        let (mut frames, mut last) = (Vec::new(), Vec::new());
        let mut offset = MAGIC.len() as u64;
        while offset < self.state.length {
            let stored = self.read(offset, HEAD)?.get_u32_le();
            let end = offset + HEAD as u64 + u64::from(stored);
            if end > self.state.length || stored > MAX_FRAME_BYTES {
                return Err(corrupt(&self.path, offset, "a frame is longer than the file"));
            }
            let frame = open_frame(&self.path, offset, self.read(offset, HEAD + stored as usize)?)?;
            frames.push(FrameRef {
                offset,
                length: HEAD as u32 + stored,
                first: frame.rows[0].0.as_ref().into(),
            });
            last = frame.rows[frame.rows.len() - 1].0.to_vec();
            offset = end;
        }
        Ok((frames, last))
    }

    /// Reads one frame.
    pub fn frame(&self, number: usize) -> Result<Frame, StorageError> {
        let at = &self.frames[number];
        open_frame(&self.path, at.offset, self.read(at.offset, at.length as usize)?)
    }

    /// The last frame that begins at or before `key`; the first where none does.
    pub fn frame_of(&self, key: &[u8]) -> usize {
        self.frames.partition_point(|frame| *frame.first <= *key).saturating_sub(1)
    }

    /// Reads every row.
    pub fn verify(&self, pace: &Pace) -> Result<(), StorageError> {
        if *self.read(0, MAGIC.len())? != *MAGIC {
            return Err(corrupt(&self.path, 0, "it is not a file of a shelf of this format"));
        }
        let (mut rows, mut sum, mut end) = (0, 0u128, MAGIC.len() as u64);
        for (number, at) in self.frames.iter().enumerate() {
            let frame = self.frame(number)?;
            rows += frame.rows.len() as u64;
            for (key, value) in &frame.rows {
                sum = sum.wrapping_add(row_hash(key, value));
            }
            if at.offset != end || frame.rows[0].0 != *at.first {
                return Err(corrupt(&self.path, at.offset, "a frame is not where its index says"));
            }
            end += u64::from(at.length);
            pace(at.length as usize)?;
        }
        if (rows, sum) != (self.state.rows, self.state.sum) {
            return Err(corrupt(&self.path, 0, "its rows do not add up to its sum"));
        }
        Ok(())
    }

    /// Adds rows.
    pub fn append(self) -> Appender {
        Appender { segment: self, raw: Vec::new(), first: Vec::new() }
    }

    /// Syncs the file with an index at its end and reads all of it back: it never changes again.
    fn seal(&mut self) -> Result<(), StorageError> {
        let index = Index {
            frames: self.frames.clone(),
            last: self.last.clone(),
            rows: self.state.rows,
            sum: self.state.sum,
        };
        let mut bytes = codec::encode_serde(&index);
        let (length, crc) = (bytes.len() as u32, crc32c::crc32c(&bytes));
        bytes.put_u32_le(length);
        bytes.put_u32_le(crc);
        bytes.extend(END);
        self.file.write_all_at(&bytes, self.state.length).map_err(|e| io("writing", &self.path, &e))?;
        self.state.length += bytes.len() as u64;
        // Left over where an earlier attempt met a full disk.
        if self.file.len().map_err(|e| io("sealing", &self.path, &e))? > self.state.length {
            self.file.set_len(self.state.length).map_err(|e| io("cutting", &self.path, &e))?;
        }
        self.state.sealed = true;
        // Not even where the disk is full is it tried again: the next sync would succeed and say nothing. A start goes on in
        // a copy.
        self.file
            .sync_data()
            .map_err(|error| StorageError::Stopped(format!("syncing {}: {error}", self.path.display())))?;
        if self.read_index()? != index {
            return Err(corrupt(&self.path, self.state.length, "its index was not read back as written"));
        }
        self.verify(&|_| Ok(()))
    }
}

/// The first `length` bytes as a file of their own under the same name: a snapshot may hold the old one,
/// and needs the rest of it.
fn cut(
    fs: &dyn FileSystem,
    path: &Path,
    file: &dyn DiskFile,
    length: u64,
) -> Result<Arc<dyn DiskFile>, StorageError> {
    let name = path.with_extension("cut");
    let _ = fs.remove(&name);
    let kept = fs.create_new(&name).map_err(|e| io("making", &name, &e))?;
    copy(file, 0, &*kept, length).map_err(|e| io("copying", path, &e))?;
    fs.rename(&name, path).map_err(|e| io("naming", path, &e))?;
    Ok(kept)
}

/// A stretch of a file that is read as if it were one.
#[derive(Debug)]
pub(crate) struct Part {
    pub file: Arc<dyn DiskFile>,
    pub offset: u64,
    pub length: u64,
}

impl DiskFile for Part {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        if offset + buffer.len() as u64 > self.length {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(buffer, self.offset + offset)
    }

    fn write_all_at(&self, _: &[u8], _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        Err(std::io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn len(&self) -> std::io::Result<u64> {
        Ok(self.length)
    }

    fn set_len(&self, _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// Copies `length` bytes from `offset` on to the start of another file.
pub(crate) fn copy(from: &dyn DiskFile, offset: u64, to: &dyn DiskFile, length: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    while done < length {
        let part = buffer.len().min((length - done) as usize);
        from.read_exact_at(&mut buffer[..part], offset + done)?;
        to.write_all_at(&buffer[..part], done)?;
        done += part as u64;
    }
    Ok(())
}

/// Rows on their way into a file. Readers go on with the [`Segment`] as it was.
pub(super) struct Appender {
    segment: Segment,
    raw: Vec<u8>,
    first: Vec<u8>,
}

impl Appender {
    /// Adds a row, whose key comes after all others.
    pub fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let lengths = (u8::try_from(key.len()), u32::try_from(value.len()));
        let (Ok(key_bytes), Ok(value_bytes)) = lengths else {
            return Err(StorageError::Format(format!("a row of {} bytes", value.len())));
        };
        if self.raw.is_empty() {
            self.first = key.to_vec();
        } else if self.raw.len() + value.len() > FRAME_BYTES {
            self.flush()?;
            self.first = key.to_vec();
        }
        self.raw.push(key_bytes);
        self.raw.put_u32_le(value_bytes);
        self.raw.extend(key);
        self.raw.extend(value);
        let state = &mut self.segment.state;
        state.rows += 1;
        state.sum = state.sum.wrapping_add(row_hash(key, value));
        self.segment.last.clear();
        self.segment.last.extend(key);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let packed = lz4_flex::block::compress(&self.raw);
        let body = if packed.len() < self.raw.len() { &packed } else { &self.raw };
        let mut bytes = Vec::with_capacity(HEAD + body.len());
        bytes.put_u32_le(body.len() as u32);
        bytes.put_u32_le(self.raw.len() as u32);
        let crc = checksum(&bytes, body);
        bytes.put_u32_le(crc);
        bytes.extend(body);
        let segment = &mut self.segment;
        let offset = segment.state.length;
        segment.file.write_all_at(&bytes, offset).map_err(|e| io("writing", &segment.path, &e))?;
        let first = std::mem::take(&mut self.first).into();
        segment.frames.push(FrameRef { offset, length: bytes.len() as u32, first });
        segment.state.length += bytes.len() as u64;
        self.raw.clear();
        Ok(())
    }

    /// Bytes so far, less those of the frame that is being filled.
    pub fn bytes(&self) -> u64 {
        self.segment.state.length
    }

    /// The file with all rows in it.
    pub fn finish(mut self) -> Result<Segment, StorageError> {
        self.flush()?;
        Ok(self.segment)
    }

    /// The same, sealed.
    pub fn seal(self) -> Result<Segment, StorageError> {
        let mut segment = self.finish()?;
        segment.seal()?;
        Ok(segment)
    }
}
