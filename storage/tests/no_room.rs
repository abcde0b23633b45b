//! A disk that is full for a while, in the middle of anything: nothing is lost, nothing is half done, and it goes on by
//! itself once there is room.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod state_support;

use openraft::StorageHelper;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use state_support::*;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use stockroom_storage::fs::{DiskFile, FileSystem, Lock, RealFileSystem, Space};
use stockroom_storage::snapshot::SnapshotReceiver;
use stockroom_storage::type_config::TypeConfig;
use stockroom_storage::{Storage, StorageOptions};

/// The machine's own disk, on which so many bytes may still be written, but for the log's.
#[derive(Debug, Clone)]
struct Small {
    free: Arc<AtomicU64>,
    /// Writes that found no room.
    refused: Arc<AtomicU64>,
    /// It says that there is room, whatever there is.
    lies: bool,
}

const PLENTY: u64 = 1 << 40;

impl Small {
    fn new() -> Self {
        Small { free: Arc::new(PLENTY.into()), refused: Arc::default(), lies: false }
    }

    fn leave(&self, bytes: u64) {
        self.free.store(bytes, Ordering::SeqCst);
    }

    fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }

    fn take(&self, bytes: u64) -> io::Result<()> {
        let left = |left: u64| left.checked_sub(bytes);
        let taken = self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
        taken.map(|_| ()).map_err(|_| {
            self.refused.fetch_add(1, Ordering::SeqCst);
            io::ErrorKind::StorageFull.into()
        })
    }

    fn counted(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        // A log that cannot be written ends the node, which others test.
        let of_the_log = path.parent().is_some_and(|dir| dir.ends_with("log"));
        if of_the_log { file } else { Arc::new(Counted(self.clone(), file)) }
    }
}

#[derive(Debug)]
struct Counted(Small, Arc<dyn DiskFile>);

impl FileSystem for Small {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealFileSystem.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        RealFileSystem.list(dir)
    }
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.counted(path, RealFileSystem.create_new(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.counted(path, RealFileSystem.open(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFileSystem.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFileSystem.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFileSystem.remove(path)
    }
    fn lock(&self, dir: &Path) -> io::Result<Lock> {
        RealFileSystem.lock(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealFileSystem.sync_dir(dir)
    }
    fn space(&self, _: &Path) -> io::Result<Space> {
        let free = if self.lies { PLENTY } else { self.free.load(Ordering::SeqCst) };
        Ok(Space { total: PLENTY, free })
    }
}

impl DiskFile for Counted {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.1.read_exact_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let taken = self.0.take(bytes.len() as u64);
        // As a disk does: what still fits is written.
        let fits = if taken.is_ok() { bytes.len() } else { bytes.len() / 2 };
        self.1.write_all_at(&bytes[..fits], offset)?;
        taken
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.1.len()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.1.set_len(bytes)
    }
}

fn on(fs: &Small, dir: &Path) -> StorageOptions {
    StorageOptions { fs: Arc::new(fs.clone()), ..options(dir) }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_waiting(storage: &Storage) {
    until("checkpoints find no room", || storage.waits_for_room().is_some()).await;
}

#[tokio::test]
async fn checkpoints_wait_for_room_and_go_on_by_themselves() {
    let (dir, fs) = (tempfile::tempdir().unwrap(), Small::new());
    let mut storage = start_with(on(&fs, dir.path())).await;
    run(&mut storage, 60).await;
    checkpointed(&storage, 60).await;
    fs.leave(1_000);
    let full = run(&mut storage, 150).await;
    until_waiting(&storage).await;
    assert!(storage.waits_for_room().unwrap().to_string().contains("has 1000 left"));
    assert!(storage.failure().is_none(), "it is no reason to stop");
    assert_eq!(storage.reader.stats().checkpoint_log_index, 60, "nothing is half done");
    // It goes on in memory and in the log, and comes back from them.
    assert_eq!(full, untouched(150).await);
    fs.leave(PLENTY);
    checkpointed(&storage, 150).await;
    until("checkpoints do not wait any more", || storage.waits_for_room().is_none()).await;
    check_clean(&storage).await;
    let full = run(&mut storage, 200).await;
    storage.close().await.unwrap();
    drop(storage);
    let storage = start_with(on(&fs, dir.path())).await;
    assert_eq!(storage.reader.applied().fingerprint, full);
}

#[tokio::test]
async fn a_node_that_is_killed_while_its_disk_is_full_comes_back_with_all_of_it() {
    let (dir, fs) = (tempfile::tempdir().unwrap(), Small::new());
    let mut storage = start_with(on(&fs, dir.path())).await;
    run(&mut storage, 60).await;
    checkpointed(&storage, 60).await;
    fs.leave(1_000);
    run(&mut storage, 150).await;
    until_waiting(&storage).await;
    crash(storage).await;
    fs.leave(PLENTY);
    let mut storage = start_with(on(&fs, dir.path())).await;
    assert_eq!(run(&mut storage, 150).await, untouched(150).await);
    check_clean(&storage).await;
}

/// Wherever in a checkpoint the disk is full: the room that it has is a little more each time.
#[tokio::test]
async fn a_checkpoint_that_broke_off_anywhere_is_done_again_whole() {
    // The estimate would refuse before anything is written: this is for when it was wrong.
    let (dir, fs) = (tempfile::tempdir().unwrap(), Small { lies: true, ..Small::new() });
    let options = on(&fs, dir.path());
    let mut storage = start_with(options.clone()).await;
    let mut index = 0;
    for room in (0..40).map(|step| step * 700) {
        let refused = fs.refused();
        fs.leave(room);
        index += 5;
        run(&mut storage, index).await;
        until("a checkpoint has used up the room, or needed less", || {
            fs.refused() > refused || storage.reader.stats().checkpoint_log_index == index
        })
        .await;
        assert!(storage.failure().is_none(), "{:?}", storage.failure());
        fs.leave(PLENTY);
        if index.is_multiple_of(20) {
            checkpointed(&storage, index).await;
        }
    }
    check_clean(&storage).await;
    let fingerprint = storage.reader.applied().fingerprint;
    assert_eq!(fingerprint, untouched(index).await);
    snapshot(&mut storage).await;
    storage.close().await.unwrap();
    drop(storage);
    let storage = start_with(options).await;
    assert_eq!(storage.reader.applied().fingerprint, fingerprint);
    check_clean(&storage).await;
}

#[tokio::test]
async fn a_snapshot_without_room_is_refused_leaves_nothing_behind_and_can_be_written_later() {
    let (dir, fs) = (tempfile::tempdir().unwrap(), Small::new());
    let mut storage = start_with(on(&fs, dir.path())).await;
    run(&mut storage, 60).await;
    assert_eq!(storage.state_machine.prepare_snapshot().await.unwrap().log_index(), 60);
    assert!(storage.state_machine.has_prepared_snapshot());
    assert!(storage.state_machine.try_create_snapshot_builder(false).await.is_some());
    assert_eq!(snapshot(&mut storage).await, 60, "openraft takes the one that is there");
    assert!(!storage.state_machine.has_prepared_snapshot());
    assert!(
        storage.state_machine.try_create_snapshot_builder(false).await.is_none(),
        "and has no other written"
    );
    assert!(storage.state_machine.try_create_snapshot_builder(true).await.is_some());
    let before = shared_files(dir.path());
    let expected = run(&mut storage, 150).await;
    checkpointed(&storage, 150).await;
    fs.leave(500);
    let error = storage.state_machine.prepare_snapshot().await.unwrap_err();
    assert!(error.is_no_room() && error.to_string().contains("build.part"), "{error}");
    assert!(!error.advice().is_empty() && storage.failure().is_none());
    assert_eq!(storage.snapshot_index(), Some(60), "the one before stays");
    assert_eq!(shared_files(dir.path()), before, "nothing of it is left");
    assert!(!dir.path().join("snapshot/build.part").exists());
    fs.leave(PLENTY);
    assert_eq!(storage.state_machine.prepare_snapshot().await.unwrap().log_index(), 150);
    assert_eq!(storage.reader.applied().fingerprint, expected);
}

#[tokio::test]
async fn a_snapshot_that_is_received_onto_a_full_disk_goes_on_where_it_broke_off() {
    let (from_dir, to_dir, fs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Small::new());
    let mut from = start(from_dir.path()).await;
    let expected = run(&mut from, 60).await;
    snapshot(&mut from).await;
    let to = start_with(on(&fs, to_dir.path())).await;
    let file = from.state_machine.newest_snapshot().unwrap();
    fs.leave(5_000);
    let mut receiver = to.state_machine.receive_snapshot(&file.id(), file.bytes()).unwrap();
    let error = loop {
        let bytes = file.read_at(receiver.offset(), 2_000).unwrap();
        if let Err(error) = receiver.write(receiver.offset(), &bytes) {
            break error;
        }
    };
    assert!(error.is_no_room(), "{error}");
    drop(receiver);
    assert!(to.state_machine.room_to_install(&file).unwrap_err().is_no_room());
    fs.leave(PLENTY);
    let receiver = to.state_machine.receive_snapshot(&file.id(), file.bytes()).unwrap();
    assert!(receiver.offset() > 0, "what is there is not sent again");
    drop(receiver);
    let received = transfer(&from, &to, 2_000);
    assert_eq!(received.fingerprint(), expected);
}

/// A leader's snapshot at 70, whole on a follower with a state at 15 and a log that was purged up to 10.
async fn with_a_newer_file(
    fs: &Small,
    leader: &Path,
    follower: &Path,
) -> (Storage, Storage, SnapshotReceiver) {
    let (mut leader, mut to) = (start(leader).await, start_with(on(fs, follower)).await);
    run(&mut leader, 70).await;
    snapshot(&mut leader).await;
    run(&mut leader, 110).await;
    run(&mut to, 15).await;
    snapshot(&mut to).await;
    to.log.purge(log_id(10)).await.unwrap();
    checkpointed(&to, 15).await;
    let file = leader.state_machine.newest_snapshot().unwrap();
    let mut receiver = to.state_machine.receive_snapshot(&file.id(), file.bytes()).unwrap();
    receiver.write(0, &file.read_at(0, file.bytes() as usize).unwrap()).unwrap();
    (leader, to, receiver)
}

/// What openraft does with it at its start: how far applied, and how far its snapshot reaches.
async fn raft_start(storage: &Storage) -> (u64, Option<u64>) {
    let (mut log, mut machine) = (storage.log.clone(), storage.state_machine.clone());
    let mut helper = StorageHelper::<TypeConfig, _, _>::new(&mut log, &mut machine).with_id(1);
    let state = helper.get_initial_state().await.unwrap();
    let applied = storage.reader.applied().fingerprint.log_index;
    (applied, state.snapshot_meta.last_log_id.map(|id| id.index))
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_installed_gets_no_name() {
    let (leader_dir, dir, fs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Small::new());
    let (leader, to, receiver) = with_a_newer_file(&fs, leader_dir.path(), dir.path()).await;
    // Enough to take it apart, and not to install it.
    fs.leave(3 << 20);
    let error = receiver.finish().unwrap_err();
    assert!(error.is_no_room(), "{error}");
    assert_eq!(to.snapshot_index(), Some(15), "the one before stays");
    crash(to).await;
    let mut to = start_with(on(&fs, dir.path())).await;
    assert_eq!(raft_start(&to).await, (15, Some(15)));
    fs.leave(PLENTY);
    install(&leader, &mut to, 50_000).await;
    assert_eq!(to.reader.applied().fingerprint.log_index, 70);
    check_clean(&to).await;
}

#[tokio::test]
async fn a_node_whose_disk_filled_up_before_it_could_install_a_snapshot_starts_without() {
    let (leader_dir, dir, fs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Small::new());
    let (_leader, to, receiver) = with_a_newer_file(&fs, leader_dir.path(), dir.path()).await;
    receiver.finish().unwrap();
    crash(to).await;
    fs.leave(1 << 20);
    let mut to = start_with(on(&fs, dir.path())).await;
    assert_eq!(raft_start(&to).await, (15, Some(10)), "as far as was purged");
    assert_eq!(to.snapshot_index(), None);
    // What the leader sends instead leads beyond it.
    let at_80 = run(&mut to, 80).await;
    assert_eq!(at_80, untouched(80).await);
    assert_eq!(to.snapshot_index(), Some(70));
    crash(to).await;
    // And where there is room again it is installed.
    fs.leave(PLENTY);
    let to = start_with(on(&fs, dir.path())).await;
    assert_eq!(raft_start(&to).await.1, Some(70));
}
