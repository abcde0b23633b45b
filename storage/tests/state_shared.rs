//! Files that the state and its snapshots share: written once, sealed, and never taken at more than their word.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod state_support;

use openraft::storage::RaftLogStorage;
use state_support::*;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use stockroom_storage::error::StorageError;
use stockroom_storage::refound::open_snapshot;
use stockroom_storage::{Storage, StorageOptions};

fn flip(path: &Path, at: impl FnOnce(usize) -> usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 0x08;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_snapshot_writes_only_what_it_does_not_share() {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = start(dir.path()).await;
    // A checkpoint seals what is full: one at the end would leave one file of each kind.
    for index in [20, 40, 60] {
        run(&mut storage, index).await;
        checkpointed(&storage, index).await;
    }
    snapshot(&mut storage).await;
    let shared = shared_files(dir.path());
    assert!(shared.len() > 5, "{shared:?}");
    assert!(shared.iter().all(|path| std::fs::metadata(path).unwrap().nlink() == 2));
    let first = storage.state_machine.newest_snapshot().unwrap();
    assert!(first.own_bytes() < first.bytes() / 2, "{} of {}", first.own_bytes(), first.bytes());
    // Files of receipts that are over go from the state, and with the next snapshot for good.
    run(&mut storage, 160).await;
    snapshot(&mut storage).await;
    let now = shared_files(dir.path());
    let name =
        |path: &Path| path.file_name().unwrap().to_str().unwrap().split_once('.').unwrap().1.to_owned();
    let (before, now): (Vec<_>, Vec<_>) =
        (shared.iter().map(|path| name(path)).collect(), now.iter().map(|path| name(path)).collect());
    assert!(before.iter().any(|name| !now.contains(name)), "receipts were dropped: {before:?}, {now:?}");
    assert!(now.iter().any(|name| !before.contains(name)));
    check_clean(&storage).await;
}

/// What was removed from a file that is not shared is no part of the snapshot.
#[tokio::test]
async fn receipts_that_are_over_go_from_a_file_that_is_not_sealed_too() {
    let dir = tempfile::tempdir().unwrap();
    let large = |dir: &Path| StorageOptions { shelf_segment_bytes: 16 << 20, ..options(dir) };
    let mut storage = start_with(large(dir.path())).await;
    let before = run(&mut storage, 160).await;
    checkpointed(&storage, 160).await;
    snapshot(&mut storage).await;
    assert_eq!(shared_files(dir.path()), Vec::<PathBuf>::new());
    check_clean(&storage).await;
    crash(storage).await;
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let mut storage = start_with(large(dir.path())).await;
    assert_eq!(run(&mut storage, 160).await, before);
    check_clean(&storage).await;
}

/// A crash while a snapshot is removed or made leaves files that nobody needs.
#[tokio::test]
async fn files_of_no_snapshot_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let before = purged_node(dir.path()).await;
    let known = shared_files(dir.path());
    for name in ["00000000000000000007-07.10-0000000001.rows", "00000000000000000099-07.10-0000000001.rows"] {
        std::fs::write(dir.path().join("snapshot").join(name), "left over").unwrap();
    }
    let storage = start(dir.path()).await;
    assert_eq!(storage.reader.applied().fingerprint, before);
    assert_eq!(shared_files(dir.path()), known);
}

async fn failure(storage: &Storage) -> StorageError {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(error) = storage.failure() {
            return error;
        }
        assert!(tokio::time::Instant::now() < deadline, "the damage was not found");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Nobody reads the damaged row: the scrub finds it, names the file, and no later start trusts what is there.
#[tokio::test]
async fn damage_in_a_sealed_file_is_found_while_the_node_runs() {
    let dir = tempfile::tempdir().unwrap();
    let before = purged_node(dir.path()).await;
    // Of movements, which nothing asks for here and which never go.
    let movements = |path: &PathBuf| path.to_string_lossy().contains(".11-");
    let damaged = shared_files(dir.path()).into_iter().find(movements).unwrap();
    flip(&damaged, |length| length / 2);
    let mut storage = start(dir.path()).await;
    let error = failure(&storage).await;
    let name = damaged.file_name().unwrap().to_str().unwrap().split_once('.').unwrap().1;
    assert!(matches!(&error, StorageError::Corrupt { file, .. } if file.ends_with(name)), "{error}");
    assert!(try_run(&mut storage, 101).await.is_err(), "it goes on");
    crash(storage).await;
    // State and snapshot share the file: a peer has to help.
    let mut storage = start(dir.path()).await;
    assert!(storage.snapshot_needed.is_some());
    let peer_dir = tempfile::tempdir().unwrap();
    let mut peer = start(peer_dir.path()).await;
    run(&mut peer, 80).await;
    snapshot(&mut peer).await;
    let fetched = transfer(&peer, &storage, 5_000);
    storage.install_fetched(fetched).await.unwrap();
    assert_eq!(run(&mut storage, 100).await, before);
    check_clean(&storage).await;
    crash(storage).await;
    let storage = start(dir.path()).await;
    assert_eq!(storage.snapshot_needed, None);
    assert!(storage.failure().is_none());
}

/// State that is built anew is proved first.
#[tokio::test]
async fn nothing_is_built_from_a_damaged_file() {
    for at in [20, 500, usize::MAX] {
        let dir = tempfile::tempdir().unwrap();
        purged_node(dir.path()).await;
        std::fs::remove_dir_all(dir.path().join("state")).unwrap();
        flip(&shared_files(dir.path())[2], |length| at.min(length - 1));
        let storage = start(dir.path()).await;
        assert!(storage.snapshot_needed.is_some(), "byte {at}");
    }
}

#[tokio::test]
async fn an_installed_snapshot_is_shared_on() {
    let (leader_dir, follower_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut leader = start(leader_dir.path()).await;
    run(&mut leader, 90).await;
    snapshot(&mut leader).await;
    let mut follower = start(follower_dir.path()).await;
    install(&leader, &mut follower, 7_000).await;
    follower.log.purge(log_id(90)).await.unwrap();
    run(&mut follower, 120).await;
    snapshot(&mut follower).await;
    let other_dir = tempfile::tempdir().unwrap();
    let mut other = start(other_dir.path()).await;
    install(&follower, &mut other, 100_000).await;
    other.log.purge(log_id(120)).await.unwrap();
    assert_eq!(run(&mut other, 150).await, run(&mut leader, 150).await);
    check_clean(&other).await;
}

/// As a backup has it, or whoever replays an archive.
#[tokio::test]
async fn a_snapshot_in_one_piece_is_as_good() {
    let (leader_dir, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut leader = start(leader_dir.path()).await;
    run(&mut leader, 90).await;
    snapshot(&mut leader).await;
    let file = leader.state_machine.newest_snapshot().unwrap();
    let bytes = file.read_at(0, file.bytes() as usize).unwrap();
    let piece = dir.path().join("backup.snap");
    std::fs::write(&piece, &bytes).unwrap();
    let opened = open_snapshot(&piece, IDENTITY.cluster_id).unwrap();
    assert_eq!((opened.id(), opened.bytes()), (file.id(), file.bytes()));
    for at in (0..bytes.len()).step_by(997).chain([bytes.len() - 1]) {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 4;
        std::fs::write(dir.path().join("damaged.snap"), damaged).unwrap();
        assert!(open_snapshot(&dir.path().join("damaged.snap"), IDENTITY.cluster_id).is_err(), "byte {at}");
    }
    let node = dir.path().join("node");
    std::fs::create_dir_all(node.join("snapshot")).unwrap();
    std::fs::hard_link(&piece, node.join("snapshot/00000000000000000000.snap")).unwrap();
    let mut storage = start(&node).await;
    storage.log.purge(log_id(90)).await.unwrap();
    assert_eq!(run(&mut storage, 120).await, run(&mut leader, 120).await);
    check_clean(&storage).await;
    assert_eq!(std::fs::read(&piece).unwrap(), bytes, "the backup is as it was");
}
