//! sled is a cache: whatever happens to its files, a start comes to the same state.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod state_support;

use state_support::*;
use std::fs;
use std::path::Path;
use stockroom_storage::error::StorageError;

/// What a node comes to whose sled was changed while it was stopped.
async fn after(damage: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let before = purged_node(dir.path()).await;
    damage(dir.path());
    let mut storage = start(dir.path()).await;
    assert_eq!(storage.snapshot_needed, None);
    assert_eq!(run(&mut storage, 100).await, before);
    check_clean(&storage).await;
    storage.close().await.unwrap();
    drop(storage);
    // The next start finds it in order.
    let storage = start(dir.path()).await;
    assert_eq!(storage.reader.applied().fingerprint, before);
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn overwritten_parts_are_never_trusted() {
    for part in 0..4 {
        after(|dir| {
            change(&sled_dir(dir).join("db"), |bytes| {
                let (at, length) = (bytes.len() * part / 4, bytes.len() / 8);
                bytes[at..at + length].fill(0xa5);
            });
        })
        .await;
    }
}

#[tokio::test]
async fn flipped_bits_are_never_trusted() {
    for part in 0..8 {
        after(|dir| {
            change(&sled_dir(dir).join("db"), |bytes| {
                // Where there is something: sled pads its file with zeros.
                let written: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
                bytes[written[written.len() * (2 * part + 1) / 16]] ^= 0x20;
            });
        })
        .await;
    }
}

#[tokio::test]
async fn a_file_cut_short_is_never_trusted() {
    for part in [0, 1, 3] {
        after(|dir| {
            change(&sled_dir(dir).join("db"), |bytes| bytes.truncate(bytes.len() * part / 4));
        })
        .await;
    }
}

#[tokio::test]
async fn missing_and_senseless_files_do_not_matter() {
    after(|dir| fs::remove_dir_all(dir.join("state")).unwrap()).await;
    after(|dir| fs::remove_dir_all(sled_dir(dir)).unwrap()).await;
    after(|dir| fs::remove_file(sled_dir(dir).join("db")).unwrap()).await;
    after(|dir| fs::remove_file(dir.join("state/CURRENT")).unwrap()).await;
    after(|dir| fs::write(dir.join("state/CURRENT"), "7\n").unwrap()).await;
    after(|dir| fs::write(dir.join("state/CURRENT"), [0; 8]).unwrap()).await;
    after(|dir| fs::write(sled_dir(dir).with_extension("redo"), b"STKREDO1 and nothing more").unwrap()).await;
}

#[tokio::test]
async fn what_an_interrupted_installation_left_does_not_matter() {
    after(|dir| {
        let half_loaded = dir.join("state/sled-2");
        fs::create_dir(&half_loaded).unwrap();
        fs::write(half_loaded.join("db"), [7; 5_000]).unwrap();
        fs::write(half_loaded.with_extension("redo"), b"STKREDO1").unwrap();
        fs::write(dir.join("snapshot/build.part"), [7; 5_000]).unwrap();
        fs::write(dir.join("snapshot/receive-1-2-3.part"), [7; 5_000]).unwrap();
    })
    .await;
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// sled is written only once the log is durable: what the log lacks of it was there, and others count on it.
#[tokio::test]
async fn a_log_that_ends_before_the_state_is_refused_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = start(dir.path()).await;
    run(&mut storage, 40).await;
    storage.close().await.unwrap();
    drop(storage);
    let (log, older) = (dir.path().join("log"), dir.path().join("older"));
    copy(&log, &older);
    let mut storage = start(dir.path()).await;
    let before = run(&mut storage, 60).await;
    checkpointed(&storage, before.log_index).await;
    storage.close().await.unwrap();
    drop(storage);
    fs::remove_dir_all(&log).unwrap();
    fs::rename(&older, &log).unwrap();
    match stockroom_storage::open(options(dir.path()), &IDENTITY).await {
        Err(StorageError::Lost(why)) => {
            assert!(why.contains("holds entry 60") && why.contains("end with 40"), "{why}");
            assert!(why.contains("new id"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}
