//! What the tests of the log share. The workers run as tasks on a paused clock: a seal is written
//! only when a test sleeps.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use futures::future::BoxFuture;
use openraft::RaftLogReader;
use openraft::alias::EntryOf;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::vote::leader_id_std::CommittedLeaderId;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use stockroom_storage::codec::{LogId, Payload, Vote};
use stockroom_storage::error::StorageError;
use stockroom_storage::identity::Identity;
use stockroom_storage::log_store::{LogOptions, LogStore};
use stockroom_storage::memory_fs::{MemoryDisk, MemoryFileSystem};
use stockroom_storage::spawn::Spawn;
use stockroom_storage::type_config::{BatchBytes, TypeConfig};

pub const IDENTITY: Identity =
    Identity { cluster_id: 0x1234_5678_9abc, node_id: 2, incarnation: 77, group_id: 0 };
/// The smallest segments, and next to no cache: most reads go to the disk.
pub const OPTIONS: LogOptions = LogOptions { segment_bytes: 16 << 10, cache_bytes: 300 };
/// Records begin here in each segment.
pub const DATA_OFFSET: usize = 4096;

/// Workers as tasks of the test's own runtime, as a simulation has them.
#[derive(Debug)]
pub struct TaskSpawn;

impl Spawn for TaskSpawn {
    fn spawn(&self, _: &str, worker: BoxFuture<'static, ()>) -> io::Result<()> {
        drop(tokio::spawn(worker));
        Ok(())
    }
}

pub fn dir() -> &'static Path {
    Path::new("/data/log")
}

pub fn open_mount(mount: Arc<MemoryFileSystem>) -> Result<LogStore, StorageError> {
    LogStore::open_with(mount, dir(), &IDENTITY, OPTIONS, &TaskSpawn)
}

pub fn open(disk: &MemoryDisk) -> LogStore {
    open_mount(disk.mount()).unwrap_or_else(|error| panic!("the log opens: {error}"))
}

pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// An entry whose payload says which one it is.
pub fn entry(term: u64, index: u64, bytes: usize) -> EntryOf<TypeConfig> {
    let mut payload = format!("entry {index} of term {term};").into_bytes();
    payload.resize(bytes.max(payload.len()), (index % 251) as u8);
    let payload = if bytes == 0 { Payload::Blank } else { Payload::Normal(BatchBytes(payload.into())) };
    EntryOf::<TypeConfig> { log_id: log_id(term, index), payload }
}

pub type Flushed = tokio::sync::oneshot::Receiver<Result<(), io::Error>>;

/// Submits entries; the receiver hears when they are durable.
pub async fn submit(log: &mut LogStore, entries: Vec<EntryOf<TypeConfig>>) -> io::Result<Flushed> {
    let (sender, flushed) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(sender)).await?;
    Ok(flushed)
}

/// Appends entries and waits until they are durable.
pub async fn append(log: &mut LogStore, entries: Vec<EntryOf<TypeConfig>>) -> io::Result<()> {
    submit(log, entries).await?.await.expect("every callback is answered")
}

/// Appends each entry in a group of its own.
pub async fn append_each(log: &mut LogStore, entries: impl IntoIterator<Item = EntryOf<TypeConfig>>) {
    for entry in entries {
        append(log, vec![entry]).await.expect("the disk is sound");
    }
}

/// All that is there, whose files a scrub would find sound.
pub async fn entries(log: &mut LogStore) -> Vec<EntryOf<TypeConfig>> {
    log.verify().expect("what was written, whatever became of it, is whole");
    log.get_log_reader().await.try_get_log_entries(..).await.expect("the log can be read")
}

pub async fn vote(log: &mut LogStore) -> Option<Vote> {
    log.get_log_reader().await.read_vote().await.expect("the vote is in memory")
}

/// Lets the log seal itself, in tests whose clock is paused: the time goes by once every task waits for it.
pub async fn idle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// One record as it lies in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub offset: usize,
    /// Header and payload, without padding.
    pub bytes: usize,
    pub kind: u8,
    pub group: u64,
}

impl Record {
    pub fn padded(&self) -> usize {
        self.bytes.next_multiple_of(8)
    }
}

/// The records of a segment, read as the format says: a header of 64 bytes, length at 12, generation
/// at 16, group at 24, aligned to 8. The segment's generation lies at 48. What an earlier life of a
/// recycled file left is passed over.
pub fn records(segment: &[u8]) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    let mut offset = DATA_OFFSET;
    let is_record = |offset: usize| {
        let is_of_generation = segment.get(offset + 16..offset + 24) == segment.get(48..56);
        segment.get(offset..offset + 4) == Some(b"SRL\x01") && is_of_generation
    };
    while is_record(offset) {
        let length = u32::from_le_bytes(segment[offset + 12..offset + 16].try_into().expect("four bytes"));
        let group = u64::from_le_bytes(segment[offset + 24..offset + 32].try_into().expect("eight bytes"));
        let record = Record { offset, bytes: 64 + length as usize, kind: segment[offset + 8], group };
        records.push(record);
        offset += record.padded();
    }
    records
}

/// Segments, oldest first.
pub fn segments(disk: &MemoryDisk) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "wal");
    disk.paths().into_iter().filter(is_segment).collect()
}

/// The segment with the last records, and these.
pub fn last_segment(disk: &MemoryDisk) -> (PathBuf, Vec<Record>) {
    let with_records = |path: PathBuf| {
        let records = records(&disk.contents(&path)?);
        (!records.is_empty()).then_some((path, records))
    };
    segments(disk).into_iter().rev().find_map(with_records).expect("a segment with records")
}
