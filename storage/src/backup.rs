//! The backup file: a snapshot file, compressed, with a header that people can read.
//!
//! ```text
//! magic   "STKBAK01"
//! header  length u32, sum u64, JSON                          an [`About`]
//! blocks  packed length u32, plain length u32, sum u64, bytes    raw deflate of a piece of the snapshot file
//! footer  0 u32, blocks u32, plain bytes u64, whole u128
//! ```
//! All numbers are little-endian. A sum is xxh3 (64 bits) of the bytes it stands before; the last one is xxh3
//! (128 bits) of everything in the file before it. Without its footer a file is not a backup: a transfer that broke
//! off never looks good. `stockctl` reads the frames, too, so that it can tell while it receives one.

use crate::codec;
use crate::error::StorageError;
use crate::keys;
use crate::shop::ids::TimestampMs;
use crate::shop::state::{Head, Key, Row};
use crate::snapshot::SnapshotFile;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// First bytes of a backup.
pub const MAGIC: &[u8; 8] = b"STKBAK01";
/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// Bytes of the snapshot file in a block: what one damaged bit makes unreadable, and what a reader holds.
const PLAIN_BYTES: usize = 1 << 20;
/// No header comes near it.
const MAX_HEADER_BYTES: usize = 1 << 20;

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Of the file.
    pub format: u32,
    /// The cluster that it is of: 32 hexadecimal digits.
    pub cluster_id: String,
    /// Everything up to this entry of the log is in it, and nothing after.
    pub log_index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Rolling digest over all changes up to there: 32 hexadecimal digits.
    pub digest: String,
    /// Order-free sum over all live rows there: 32 hexadecimal digits.
    pub state_hash: String,
    /// The replicated clock there, in ms since 1970.
    pub clock_ms: u64,
    /// How often the cluster's history was begun anew from a backup.
    pub epoch: u16,
    /// Orders placed up to there.
    pub orders_placed: u64,
    /// Length of the snapshot file inside.
    pub snapshot_bytes: u64,
    /// The members there.
    pub members: Vec<AboutMember>,
    /// The node that wrote it ...
    pub node_id: u64,
    /// ... of this version ...
    pub version: String,
    /// ... at this time of its own clock, in RFC 3339.
    pub created_at: String,
}

/// A member of the cluster that was backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AboutMember {
    /// Its id.
    pub id: u64,
    /// Where peers reached it.
    pub peer_address: String,
    /// Where shops reached it.
    pub http_address: String,
    /// It counted in quorums.
    pub voter: bool,
}

/// Who writes a backup, and when.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The node.
    pub node_id: u64,
    /// Of its program.
    pub version: String,
    /// In RFC 3339.
    pub created_at: String,
}

/// What the shop knew about itself in a snapshot file: its first row.
pub(crate) fn head_of(file: &SnapshotFile) -> Result<Head, StorageError> {
    let first = file.rows()?.next_block()?.unwrap_or_default().into_iter().next();
    match first.filter(|(key, _)| *key == keys::encode(&Key::Head)) {
        None => Ok(Head::default()),
        Some((_, value)) => match codec::decode("head", &value)? {
            Row::Head(head) => Ok(head),
            _ => Err(StorageError::Format("the head row is of another kind".to_owned())),
        },
    }
}

/// A backup on its way out: made from a finished snapshot file, piece by piece. Nothing is held back for it: the
/// file stays readable for as long as this lives, also where the node has written a newer one.
#[derive(Debug)]
pub struct Backup {
    file: SnapshotFile,
    about: About,
}

impl Backup {
    /// Of this file.
    ///
    /// # Errors
    /// [`StorageError`] where the file cannot be read.
    pub fn new(file: SnapshotFile, origin: Origin) -> Result<Self, StorageError> {
        let head = head_of(&file)?;
        let (fingerprint, meta) = (file.fingerprint(), file.meta());
        let membership = meta.last_membership.membership();
        let member = |(id, member): (&u64, &crate::type_config::Member)| AboutMember {
            id: *id,
            peer_address: member.peer_address.clone(),
            http_address: member.http_address.clone(),
            voter: membership.voter_ids().any(|voter| voter == *id),
        };
        let about = About {
            format: FORMAT,
            cluster_id: format!("{:032x}", file.cluster_id()),
            log_index: fingerprint.log_index,
            term: meta.last_log_id.map_or(0, |log_id| log_id.committed_leader_id().term),
            digest: format!("{:032x}", fingerprint.digest),
            state_hash: format!("{:032x}", fingerprint.state_hash),
            clock_ms: head.clock.0,
            epoch: head.epoch,
            orders_placed: head.orders_placed,
            snapshot_bytes: file.bytes(),
            members: membership.nodes().map(member).collect(),
            node_id: origin.node_id,
            version: origin.version,
            created_at: origin.created_at,
        };
        Ok(Backup { file, about })
    }

    /// What its header says.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The file's bytes, in pieces of about a mebibyte. Each reads from disk and compresses: for a thread that may
    /// block.
    pub fn pieces(self) -> Pieces {
        Pieces { backup: self, stage: Stage::Header, at: 0, blocks: 0, whole: Xxh3::new() }
    }
}

/// See [`Backup::pieces`].
pub struct Pieces {
    backup: Backup,
    stage: Stage,
    at: u64,
    blocks: u32,
    whole: Xxh3,
}

enum Stage {
    Header,
    Blocks,
    End,
}

impl Pieces {
    fn header(&self) -> BytesMut {
        let json = serde_json::to_vec(&self.backup.about).expect("strings and numbers always print");
        let mut bytes = BytesMut::with_capacity(20 + json.len());
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(u32::try_from(json.len()).expect("a header is short"));
        bytes.put_u64_le(xxh3_64(&json));
        bytes.put_slice(&json);
        bytes
    }

    fn block(&mut self) -> Result<BytesMut, StorageError> {
        let plain = self.backup.file.read_at(self.at, PLAIN_BYTES)?;
        // The fastest level: a backup is made on a machine that serves, and most of it is hashes and ids.
        let mut encoder = DeflateEncoder::new(Vec::with_capacity(plain.len() / 2), Compression::fast());
        let packed = encoder.write_all(&plain).and_then(|()| encoder.finish());
        let packed = packed.map_err(|error| StorageError::io("compressing a backup", &error))?;
        let mut bytes = BytesMut::with_capacity(16 + packed.len());
        bytes.put_u32_le(u32::try_from(packed.len()).expect("a block is about a mebibyte"));
        bytes.put_u32_le(u32::try_from(plain.len()).expect("a block is a mebibyte"));
        bytes.put_u64_le(xxh3_64(&packed));
        bytes.put_slice(&packed);
        self.at += plain.len() as u64;
        self.blocks += 1;
        Ok(bytes)
    }

    fn footer(&mut self) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(32);
        bytes.put_u32_le(0);
        bytes.put_u32_le(self.blocks);
        bytes.put_u64_le(self.at);
        self.whole.update(&bytes);
        bytes.put_u128_le(self.whole.digest128());
        bytes
    }
}

impl Iterator for Pieces {
    type Item = Result<Bytes, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = match self.stage {
            Stage::Header => {
                self.stage = Stage::Blocks;
                self.header()
            }
            Stage::Blocks if self.at < self.backup.file.bytes() => match self.block() {
                Ok(piece) => piece,
                Err(error) => {
                    self.stage = Stage::End;
                    return Some(Err(error));
                }
            },
            Stage::Blocks => {
                self.stage = Stage::End;
                return Some(Ok(self.footer().freeze()));
            }
            Stage::End => return None,
        };
        self.whole.update(&piece);
        Some(Ok(piece.freeze()))
    }
}

/// A backup file that was opened: its header could be read, nothing else is proved yet.
#[derive(Debug)]
pub struct BackupFile {
    path: PathBuf,
    about: About,
}

struct Input {
    path: PathBuf,
    reader: BufReader<File>,
    offset: u64,
    whole: Xxh3,
}

impl Input {
    fn open(path: &Path) -> Result<Self, StorageError> {
        let file = File::open(path)
            .map_err(|error| StorageError::io(format!("opening {}", path.display()), &error))?;
        let reader = BufReader::with_capacity(PLAIN_BYTES, file);
        Ok(Input { path: path.to_owned(), reader, offset: 0, whole: Xxh3::new() })
    }

    fn damaged(&self, why: impl Into<String>) -> StorageError {
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

    fn header(&mut self) -> Result<About, StorageError> {
        let mut start = [0; 20];
        self.read(&mut start)?;
        let mut fields = &start[8..];
        let (length, sum) = (fields.get_u32_le() as usize, fields.get_u64_le());
        if start[..8] != *MAGIC {
            self.offset = 0;
            return Err(self.damaged("it is not a backup of Stockroom"));
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
        let about: About = serde_json::from_slice(&json)
            .map_err(|error| self.damaged(format!("its header cannot be read: {error}")))?;
        if about.format > FORMAT {
            return Err(StorageError::Format(format!(
                "{} is of format {}, this version reads up to {FORMAT}: use the version {} that wrote it, or a newer one",
                self.path.display(),
                about.format,
                about.version
            )));
        }
        Ok(about)
    }

    /// The next piece of the snapshot file; `None` behind the last, once the whole file is proved.
    fn block(&mut self, blocks: u32, plain_bytes: u64) -> Result<Option<Vec<u8>>, StorageError> {
        let mut start = [0; 16];
        self.read(&mut start)?;
        self.whole.update(&start);
        let mut fields = &start[..];
        let packed = fields.get_u32_le() as usize;
        if packed == 0 {
            let (counted, bytes) = (fields.get_u32_le(), fields.get_u64_le());
            let mut whole = [0; 16];
            self.read(&mut whole)?;
            if (counted, bytes) != (blocks, plain_bytes)
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
        if packed > 2 * PLAIN_BYTES || plain > PLAIN_BYTES {
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
            Ok(length) if length == plain => Ok(Some(unpacked)),
            _ => Err(self.damaged("a block does not unpack to what it says")),
        }
    }
}

impl BackupFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] where it is not a backup, [`StorageError::Format`] where it is of a later version,
    /// [`StorageError::Io`].
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let about = Input::open(path)?.header()?;
        Ok(BackupFile { path: path.to_owned(), about })
    }

    /// What its header says.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The cluster it is of.
    ///
    /// # Errors
    /// [`StorageError::Format`] where its header has none.
    pub fn cluster_id(&self) -> Result<u128, StorageError> {
        u128::from_str_radix(&self.about.cluster_id, 16).map_err(|_| {
            StorageError::Format(format!("{}: no cluster id in its header", self.path.display()))
        })
    }

    /// Writes the snapshot file that is inside to `to`, and proves every checksum of this file. `progress` hears how
    /// many of the snapshot's bytes are done.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] where a checksum does not match; [`StorageError::Io`].
    pub fn unpack(&self, to: &Path, mut progress: impl FnMut(u64)) -> Result<(), StorageError> {
        let io = |error: std::io::Error| StorageError::io(format!("writing {}", to.display()), &error);
        let mut input = Input::open(&self.path)?;
        let about = input.header()?;
        let mut out = File::create_new(to).map_err(io)?;
        let (mut blocks, mut bytes) = (0, 0);
        while let Some(plain) = input.block(blocks, bytes)? {
            out.write_all(&plain).map_err(io)?;
            blocks += 1;
            bytes += plain.len() as u64;
            progress(bytes);
        }
        if bytes != about.snapshot_bytes {
            return Err(input
                .damaged(format!("it holds {bytes} bytes, and its header says {}", about.snapshot_bytes)));
        }
        out.sync_data().map_err(io)
    }
}

/// The replicated clock of a backup.
impl About {
    /// As the shop's own type has it.
    pub fn clock(&self) -> TimestampMs {
        TimestampMs(self.clock_ms)
    }
}
