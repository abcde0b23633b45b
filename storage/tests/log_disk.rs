//! The log on the machine's own disk with its workers on threads, and the disk in memory itself.

mod log_support;

use log_support::*;
use openraft::storage::RaftLogStorage;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stockroom_storage::error::StorageError;
use stockroom_storage::fs::{FileSystem, RealFileSystem};
use stockroom_storage::log_store::{LogOptions, LogStore};
use stockroom_storage::memory_fs::{Faults, MemoryDisk};

#[tokio::test]
async fn threads_on_a_real_disk_keep_what_was_appended() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_bytes: 64 << 10, cache_bytes: 10_000 };
    // The directory stays locked until the threads of the round before have ended.
    let open = || async {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match LogStore::open(Arc::new(RealFileSystem), directory.path(), &IDENTITY, options) {
                Err(StorageError::Foreign(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                log => return log.unwrap(),
            }
        }
    };
    let mut expected = Vec::new();
    for round in 0..3 {
        let mut log = open().await;
        assert_eq!(entries(&mut log).await, expected);
        let mut waiting = Vec::new();
        for index in round * 500..(round + 1) * 500 {
            let entry = entry(round + 1, index, 300);
            expected.push(entry.clone());
            waiting.push(submit(&mut log, vec![entry]).await.unwrap());
        }
        assert_eq!(entries(&mut log).await, expected, "readable at once");
        for flushed in waiting {
            flushed.await.unwrap().unwrap();
        }
        assert_eq!(*log.durable().borrow(), (round + 1) * 500 - 1);
        let keep = 100;
        let upto = log.last_log_id().unwrap().index - keep;
        log.purge(log_id(round + 1, upto)).await.unwrap();
        expected.drain(..expected.len() - usize::try_from(keep).unwrap());
        log.close().await.unwrap();
    }
    assert_eq!(entries(&mut open().await).await, expected);
    let files = RealFileSystem.list(directory.path()).unwrap();
    assert!(files.len() <= 6, "purged segments go: {files:?}");
}

#[test]
fn a_disk_in_memory_loses_what_was_not_synced_and_nothing_else() {
    let (dir, path) = (Path::new("/d"), Path::new("/d/file"));
    let disk = MemoryDisk::new();
    let mount = disk.mount();
    mount.create_dir_all(dir).unwrap();
    let file = mount.create_new(path).unwrap();
    file.write_all_at(&[1; 2048], 0).unwrap();
    file.sync_data().unwrap();
    mount.sync_dir(dir).unwrap();
    file.write_all_at(&[2; 1024], 512).unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let copy = disk.fork();
        copy.lose_power(&mut StdRng::seed_from_u64(seed));
        let sectors: Vec<u8> = copy.contents(path).unwrap().chunks(512).map(|sector| sector[0]).collect();
        assert_eq!((sectors[0], sectors[3]), (1, 1), "what was synced stays");
        seen.insert((sectors[1], sectors[2]));
    }
    assert_eq!(seen.len(), 4, "the others survive in every combination");
    disk.kill();
    assert_eq!(disk.contents(path).unwrap()[512], 2, "a killed process loses nothing");
    assert!(file.write_all_at(&[3], 0).is_err(), "and does nothing any more");
}

#[test]
fn a_disk_in_memory_loses_names_that_were_not_synced() {
    let dir = Path::new("/d");
    let disk = MemoryDisk::new();
    let mount = disk.mount();
    mount.create_dir_all(dir).unwrap();
    mount.create_new(&dir.join("old")).unwrap();
    mount.sync_dir(dir).unwrap();
    mount.rename(&dir.join("old"), &dir.join("new")).unwrap();
    mount.create_new(&dir.join("other")).unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let copy = disk.fork();
        copy.lose_power(&mut StdRng::seed_from_u64(seed));
        seen.insert(copy.paths());
    }
    let names = |names: &[&str]| names.iter().map(|name| dir.join(name)).collect::<Vec<_>>();
    assert_eq!(seen, BTreeSet::from([names(&["old"]), names(&["new"]), names(&["new", "other"])]));
}

#[test]
fn a_disk_in_memory_forgets_what_a_failed_sync_should_have_kept() {
    let (dir, path) = (Path::new("/d"), Path::new("/d/file"));
    let disk = MemoryDisk::new();
    let mount = disk.mount();
    mount.create_dir_all(dir).unwrap();
    let file = mount.create_new(path).unwrap();
    file.write_all_at(&[1; 512], 0).unwrap();
    file.sync_data().unwrap();
    mount.sync_dir(dir).unwrap();
    file.write_all_at(&[2; 512], 0).unwrap();
    disk.set_faults(Faults { fail_sync: Some((1, 5)), ..Faults::default() });
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
    file.sync_data().unwrap();
    let lost = (0..50).any(|seed| {
        let copy = disk.fork();
        copy.lose_power(&mut StdRng::seed_from_u64(seed));
        copy.contents(path).unwrap()[0] == 1
    });
    assert!(lost, "the second sync said it was well");
}
