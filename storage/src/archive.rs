//! Pieces of the log beside a backup: with both, the state at any entry between can be had.
//!
//! A piece is a file of [`crate::frames`] whose header is a [`PieceAbout`] and whose plain bytes are entries, one after
//! the other: term u64, index u64, length u32 (little-endian), and the payload as it lies in the log. Only applied
//! entries are in it, so none is ever taken back.

use crate::codec::{self, LogId, Payload};
use crate::error::StorageError;
use crate::frames::{PLAIN_BYTES, Packer, Unpacker};
use crate::identity::Identity;
use crate::log_store::LogReader;
use crate::open::{Storage, StorageOptions, open};
use crate::shop::ids::TimestampMs;
use crate::snapshot::SnapshotFile;
use crate::type_config::TypeConfig;
use bytes::{Buf, BufMut, Bytes};
use openraft::alias::EntryOf;
use openraft::storage::{
    RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::vote::leader_id_std::CommittedLeaderId;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// First bytes of a piece.
pub const MAGIC: &[u8; 8] = b"STKLOG01";
/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// No payload comes near it.
const MAX_PAYLOAD_BYTES: usize = 16 << 20;

/// What a piece of the log says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceAbout {
    /// Of the file.
    pub format: u32,
    /// The cluster that it is of: 32 hexadecimal digits.
    pub cluster_id: String,
    /// It begins behind this entry ...
    pub after: u64,
    /// ... and ends with this one.
    pub log_index: u64,
    /// Rolling digest over all changes up to its end: 32 hexadecimal digits.
    pub digest: String,
    /// The node that wrote it ...
    pub node_id: u64,
    /// ... of this version ...
    pub version: String,
    /// ... at this time of its own clock, in RFC 3339.
    pub created_at: String,
}

/// Entries on their way out.
#[derive(Debug)]
pub struct Piece {
    log: LogReader,
    about: PieceAbout,
}

impl Piece {
    pub(crate) fn new(log: LogReader, about: PieceAbout) -> Self {
        Piece { log, about }
    }

    /// What its header says.
    pub fn about(&self) -> &PieceAbout {
        &self.about
    }

    /// Hands out the file in parts of about a mebibyte, until `sink` gives false. For a thread that may block.
    ///
    /// # Errors
    /// [`StorageError`] where the log cannot be read, or was purged meanwhile.
    pub fn write(self, sink: &mut dyn FnMut(Bytes) -> bool) -> Result<(), StorageError> {
        let Piece { mut log, about } = self;
        let json = serde_json::to_vec(&about).expect("strings and numbers always print");
        let mut packer = Packer::new();
        if !sink(packer.header(MAGIC, &json)) {
            return Ok(());
        }
        let (mut next, mut plain) = (about.after + 1, Vec::with_capacity(PLAIN_BYTES));
        while next <= about.log_index {
            // Never waits: what is not in memory is read in place.
            let read = futures::executor::block_on(log.limited_get_log_entries(next, about.log_index + 1));
            let entries = read.map_err(|error| StorageError::io("reading the log", &error))?;
            if entries.is_empty() {
                return Err(StorageError::Format(format!("entry {next} is not in the log any more")));
            }
            for entry in entries {
                next = entry.log_id.index + 1;
                put(&mut plain, &entry);
                if plain.len() >= PLAIN_BYTES {
                    if !sink(packer.block(&plain)?) {
                        return Ok(());
                    }
                    plain.clear();
                }
            }
        }
        if plain.is_empty() || sink(packer.block(&plain)?) {
            sink(packer.footer());
        }
        Ok(())
    }
}

fn put(plain: &mut Vec<u8>, entry: &EntryOf<TypeConfig>) {
    let payload = codec::encode_entry_payload(&entry.payload);
    plain.put_u64_le(entry.log_id.committed_leader_id().term);
    plain.put_u64_le(entry.log_id.index);
    plain.put_u32_le(u32::try_from(payload.len()).expect("an entry is at most a mebibyte"));
    plain.put_slice(&payload);
}

/// The entry at the start of a block.
fn take(block: &mut Bytes) -> Option<Result<EntryOf<TypeConfig>, StorageError>> {
    let (term, index, length) = (block.try_get_u64_le(), block.try_get_u64_le(), block.try_get_u32_le());
    let (Ok(term), Ok(index), Ok(length)) = (term, index, length) else { return None };
    if length as usize > block.len().min(MAX_PAYLOAD_BYTES) {
        return None;
    }
    let payload = codec::decode_entry_payload(&block.split_to(length as usize));
    let log_id = LogId::new(CommittedLeaderId::new(term), index);
    Some(payload.map(|payload| EntryOf::<TypeConfig> { log_id, payload }))
}

/// Where a replay ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// With everything there is.
    End,
    /// With this entry.
    Index(u64),
    /// With the last entry that is not later, on the replicated clock.
    Time(TimestampMs),
}

impl Until {
    fn is_passed_by(self, entry: &EntryOf<TypeConfig>) -> Result<bool, StorageError> {
        match self {
            Until::End => Ok(false),
            Until::Index(last) => Ok(entry.log_id.index > last),
            Until::Time(last) => Ok(stamp(entry)?.is_some_and(|stamp| stamp > last)),
        }
    }
}

/// When an entry was stamped; those without commands are not.
fn stamp(entry: &EntryOf<TypeConfig>) -> Result<Option<TimestampMs>, StorageError> {
    match &entry.payload {
        Payload::Normal(batch) => codec::decode_batch(&batch.0).map(|batch| Some(batch.stamped_at)),
        _ => Ok(None),
    }
}

/// Pieces of one cluster's log that lie in a directory, in order.
///
/// # Errors
/// [`StorageError`] where the directory cannot be read, or a piece's header is damaged.
pub fn pieces(dir: &Path, cluster_id: u128) -> Result<Vec<(PathBuf, PieceAbout)>, StorageError> {
    let io = |error: io::Error| StorageError::io(format!("listing {}", dir.display()), &error);
    let wanted = format!("{cluster_id:032x}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "stklog") {
            let about = begin(&path)?.1;
            if about.cluster_id == wanted {
                found.push((path, about));
            }
        }
    }
    found.sort_by_key(|(_, about)| (about.after, about.log_index));
    Ok(found)
}

fn begin(path: &Path) -> Result<(Unpacker, PieceAbout), StorageError> {
    let mut input = Unpacker::open(path)?;
    let json = input.header(MAGIC, "a piece of a log")?;
    let about: PieceAbout = serde_json::from_slice(&json)
        .map_err(|error| input.damaged(format!("its header cannot be read: {error}")))?;
    if about.format > FORMAT {
        let (format, version) = (about.format, about.version);
        let why =
            format!("{} is of format {format}: use the version {version} that wrote it", path.display());
        return Err(StorageError::Format(why));
    }
    Ok((input, about))
}

/// What a replay came to.
#[derive(Debug)]
pub struct Replayed {
    /// The state, in the scratch directory.
    pub file: SnapshotFile,
    /// Its newest entry.
    pub log_index: u64,
    /// The replicated clock there.
    pub clock: TimestampMs,
    /// Whether an entry came that was not wanted any more: what was asked for is surely reached.
    pub passed: bool,
}

/// Applies archived entries on top of a snapshot file that lies at `path`, in a scratch directory.
///
/// # Errors
/// [`StorageError::Corrupt`] where a piece is damaged, [`StorageError::Format`] where one is missing or is not of this
/// history.
pub async fn replay(
    snapshot: &Path,
    cluster_id: u128,
    archive: &[(PathBuf, PieceAbout)],
    until: Until,
    scratch: &Path,
) -> Result<Replayed, StorageError> {
    let io = |error: io::Error| StorageError::io("making the scratch store", &error);
    std::fs::create_dir_all(scratch.join("snapshot")).map_err(io)?;
    std::fs::hard_link(snapshot, scratch.join("snapshot/00000000000000000000.snap")).map_err(io)?;
    let identity = Identity { cluster_id, node_id: 1, incarnation: 1, group_id: 0 };
    let mut storage = open(StorageOptions::new(scratch), &identity).await?;
    let (applied, _) = storage.state_machine.applied_state().await.map_err(io)?;
    if let Some(applied) = applied {
        // The log goes on behind the snapshot.
        storage.log.purge(applied).await.map_err(io)?;
    }
    let mut passed = false;
    for (path, about) in archive {
        if !passed && about.log_index > storage.reader.applied().fingerprint.log_index {
            passed = replay_piece(&mut storage, path, until).await?;
        }
    }
    let applied = storage.reader.applied();
    let built = storage.state_machine.build_snapshot().await.map_err(io)?;
    let (log_index, clock) = (applied.fingerprint.log_index, applied.clock);
    Ok(Replayed { file: built.snapshot, log_index, clock, passed })
}

/// Applies what is new of one piece. True: an entry came that is not wanted any more.
async fn replay_piece(storage: &mut Storage, path: &Path, until: Until) -> Result<bool, StorageError> {
    let (mut input, about) = begin(path)?;
    let mut next = storage.reader.applied().fingerprint.log_index + 1;
    if about.after >= next {
        return Err(StorageError::Format(format!(
            "entries {next} to {} are missing: {} begins only behind them",
            about.after,
            path.display()
        )));
    }
    while let Some(block) = input.block()? {
        let (mut block, mut wanted, mut passed) = (Bytes::from(block), Vec::new(), false);
        while !block.is_empty() && !passed {
            let entry = take(&mut block).ok_or_else(|| input.damaged("an entry ends too soon"))??;
            if entry.log_id.index < next {
                continue;
            }
            if entry.log_id.index > next {
                return Err(input.damaged(format!("entry {next} is missing")));
            }
            passed = until.is_passed_by(&entry)?;
            if !passed {
                next += 1;
                wanted.push(entry);
            }
        }
        apply(storage, wanted).await?;
        if passed {
            return Ok(true);
        }
    }
    let came_to = storage.reader.applied().fingerprint;
    if (came_to.log_index, format!("{:032x}", came_to.digest)) != (about.log_index, about.digest) {
        let why = format!(
            "{}: applied, it leads to another state than it says: not of this history",
            path.display()
        );
        return Err(StorageError::Format(why));
    }
    Ok(false)
}

async fn apply(storage: &mut Storage, entries: Vec<EntryOf<TypeConfig>>) -> Result<(), StorageError> {
    if entries.is_empty() {
        return Ok(());
    }
    let applying = |error: io::Error| StorageError::io("applying the archive", &error);
    let appended = storage.log.blocking_append(entries.clone()).await;
    appended.map_err(|error| StorageError::Stopped(format!("applying the archive: {error}")))?;
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    storage.state_machine.apply(futures::stream::iter(entries)).await.map_err(applying)
}
