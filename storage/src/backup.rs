//! The backup file: a snapshot file, compressed, with a header that people can read.
//!
//! It is a file of [`crate::frames`] whose plain bytes are those of the snapshot file and whose header is an [`About`].

use crate::codec;
use crate::error::StorageError;
use crate::frames::{PLAIN_BYTES, Packer, Unpacker};
use crate::keys;
use crate::shop::state::{Head, Key, Row};
use crate::shop::version::{ClusterVersion, SERVED};
use crate::snapshot::SnapshotFile;
use crate::version;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// First bytes of a backup.
pub const MAGIC: &[u8; 8] = b"STKBAK01";
/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

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
    /// Which commands, rules and formats were in force there: a program that does not serve it cannot restore it.
    pub cluster_version: u32,
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
    match first.filter(|(key, _)| key[..] == keys::encode(&Key::Head)[..]) {
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
            cluster_version: head.cluster_version.0,
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
    pub fn pieces(self) -> impl Iterator<Item = Result<Bytes, StorageError>> {
        let json = serde_json::to_vec(&self.about).expect("strings and numbers always print");
        let mut packer = Packer::new();
        let header = packer.header(MAGIC, &json);
        let mut packer = Some(packer);
        let rest = std::iter::from_fn(move || {
            let mut packing = packer.take()?;
            if packing.plain_bytes() == self.file.bytes() {
                return Some(Ok(packing.footer()));
            }
            let plain = self.file.read_at(packing.plain_bytes(), PLAIN_BYTES);
            let block = plain.and_then(|plain| packing.block(&plain));
            // An error is the end of it.
            packer = block.is_ok().then_some(packing);
            Some(block)
        });
        std::iter::once(Ok(header)).chain(rest)
    }
}

/// A backup file that was opened: its header could be read, nothing else is proved yet.
#[derive(Debug)]
pub struct BackupFile {
    path: PathBuf,
    about: About,
}

impl BackupFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] where it is not a backup, [`StorageError::Format`] where it is of a later version,
    /// [`StorageError::Io`].
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let (_, about) = Self::begin(path)?;
        Ok(BackupFile { path: path.to_owned(), about })
    }

    fn begin(path: &Path) -> Result<(Unpacker, About), StorageError> {
        let mut input = Unpacker::open(path)?;
        let json = input.header(MAGIC, "a backup")?;
        let about: About = serde_json::from_slice(&json)
            .map_err(|error| input.damaged(format!("its header cannot be read: {error}")))?;
        if about.format > FORMAT {
            return Err(StorageError::Format(format!(
                "{} is of format {}, this version reads up to {FORMAT}: use the version {} that wrote it, or a newer one",
                path.display(),
                about.format,
                about.version
            )));
        }
        let version = ClusterVersion(about.cluster_version);
        version::must_serve(SERVED, version, &path.display().to_string())?;
        Ok((input, about))
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
        let (mut input, about) = Self::begin(&self.path)?;
        let mut out = File::create_new(to).map_err(io)?;
        let mut bytes = 0;
        while let Some(plain) = input.block()? {
            out.write_all(&plain).map_err(io)?;
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
