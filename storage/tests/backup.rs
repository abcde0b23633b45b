//! What leaves a node and comes back: backups, pieces of the log, text, and what a dead node left.

#![allow(clippy::unwrap_used, reason = "clippy knows #[test] functions only, not what they call")]

mod state_support;

use state_support::{IDENTITY, crash, log_id, purge, run, snapshot, start, try_run, untouched};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use stockroom_storage::archive::{Until, pieces, replay};
use stockroom_storage::backup::{Backup, BackupFile, Origin};
use stockroom_storage::error::StorageError;
use stockroom_storage::identity::Identity;
use stockroom_storage::refound::{Founder, must_be_empty, open_snapshot, write_snapshots};
use stockroom_storage::remains::examine;
use stockroom_storage::shop::ids::{IdempotencyKey, TimestampMs};
use stockroom_storage::type_config::Member;
use stockroom_storage::{Storage, StorageOptions, open, text};

use openraft::storage::RaftLogStorage;

fn origin() -> Origin {
    Origin { node_id: 1, version: "0.1.0".into(), created_at: "2026-11-21T00:00:00Z".into() }
}

/// A backup of a node that has lived until this entry.
async fn backed_up(dir: &Path, until: u64) -> (Storage, PathBuf) {
    let mut storage = start(&dir.join("node")).await;
    run(&mut storage, until).await;
    snapshot(&mut storage).await;
    let file = storage.state_machine.newest_snapshot().unwrap();
    let path = dir.join("some.bak");
    let pieces = Backup::new(file, origin()).unwrap().pieces();
    std::fs::write(&path, pieces.collect::<Result<Vec<_>, _>>().unwrap().concat()).unwrap();
    (storage, path)
}

#[tokio::test]
async fn a_backup_gives_the_snapshot_file_back_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, path) = backed_up(dir.path(), 40).await;
    let backup = BackupFile::open(&path).unwrap();
    let (about, original) = (backup.about(), storage.state_machine.newest_snapshot().unwrap());
    assert_eq!((about.log_index, about.term, about.epoch), (40, 1, 0));
    assert_eq!(about.state_hash, format!("{:032x}", original.fingerprint().state_hash));
    assert_eq!(about.clock_ms, storage.reader.applied().clock.0);
    let to = dir.path().join("unpacked.snap");
    let mut seen = 0;
    backup.unpack(&to, |bytes| seen = bytes).unwrap();
    let whole = usize::try_from(original.bytes()).unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), original.read_at(0, whole).unwrap());
    assert_eq!(seen, original.bytes());
    assert!(std::fs::metadata(&path).unwrap().len() < original.bytes(), "it is compressed");
    open_snapshot(&to, IDENTITY.cluster_id).unwrap();
    assert!(matches!(open_snapshot(&to, 8), Err(StorageError::Foreign(_))));
}

#[tokio::test]
async fn no_byte_of_a_backup_can_change_or_be_missing_unnoticed() {
    let dir = tempfile::tempdir().unwrap();
    let (_storage, path) = backed_up(dir.path(), 3).await;
    let whole = std::fs::read(&path).unwrap();
    let bad = dir.path().join("bad.bak");
    let fails = |bytes: &[u8], what: &str| {
        std::fs::write(&bad, bytes).unwrap();
        let to = dir.path().join("to");
        let _ = std::fs::remove_file(&to);
        let read = BackupFile::open(&bad).and_then(|backup| backup.unpack(&to, |_| {}));
        assert!(matches!(read, Err(StorageError::Corrupt { .. })), "{what}: {read:?}");
    };
    // All of the header and of the end, and every few bytes between.
    let ends = 600.min(whole.len());
    let places = (0..ends).chain((ends..whole.len()).step_by(97)).chain(whole.len() - 40..whole.len());
    for at in places {
        let mut changed = whole.clone();
        changed[at] ^= 0x40;
        fails(&changed, &format!("byte {at} changed"));
        fails(&whole[..at], &format!("cut at {at}"));
    }
    fails(&[&whole[..], &[0]].concat(), "a byte more");
}

fn founder(dir: PathBuf, node_id: u64) -> Founder {
    let member = Member {
        peer_address: format!("127.0.0.1:{node_id}"),
        http_address: format!("127.0.0.2:{node_id}"),
        incarnation: 100 + node_id,
        promote: false,
    };
    Founder { dir, node_id, member }
}

#[tokio::test]
async fn a_new_cluster_begins_with_the_state_and_receipts_of_the_old_one_in_the_next_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = backed_up(dir.path(), 60).await;
    let source = storage.state_machine.newest_snapshot().unwrap();
    let founders: Vec<_> = (1..=3).map(|id| founder(dir.path().join(format!("new-{id}")), id)).collect();
    let made = write_snapshots(&source, 99, &founders).unwrap();
    assert_eq!((made.epoch, made.fingerprint.log_index), (1, 60));
    assert_ne!(made.fingerprint.digest, source.fingerprint().digest);
    for founder in &founders {
        assert!(matches!(must_be_empty(&founder.dir), Err(StorageError::Foreign(_))));
        let identity = Identity { cluster_id: 99, node_id: founder.node_id, incarnation: 1, group_id: 0 };
        let new = open(StorageOptions::new(&founder.dir), &identity).await.unwrap();
        assert_eq!(new.reader.applied().fingerprint, made.fingerprint);
        let report = new.reader.audit(|_| {}).await.unwrap();
        assert_eq!(report.findings, Vec::<String>::new());
        let file = new.state_machine.newest_snapshot().unwrap();
        let voters: Vec<u64> = file.meta().last_membership.membership().voter_ids().collect();
        assert_eq!(voters, [1, 2, 3]);
        let (old, new) = (storage.reader.view().unwrap(), new.reader.view().unwrap());
        assert_eq!(new.head().unwrap().epoch, 1);
        let mut known = 0;
        for key in (1..60).map(|n| IdempotencyKey::new(&format!("k-{n}-0")).unwrap()) {
            let (was, is) = (old.outcome(&key).unwrap(), new.outcome(&key).unwrap());
            assert_eq!(is, was, "{key}");
            known += usize::from(was.is_some());
        }
        assert!(known > 10, "{known}");
    }
}

/// Keeps what was applied behind `after`; how far it goes.
async fn keep(storage: &Storage, after: u64, dir: &Path) -> u64 {
    let piece = storage.reader.archive(after, IDENTITY.cluster_id, origin()).await.unwrap();
    let (last, mut bytes) = (piece.about().log_index, Vec::new());
    let sink = &mut |part: bytes::Bytes| {
        bytes.extend_from_slice(&part);
        true
    };
    piece.write(sink).unwrap();
    std::fs::write(dir.join(format!("{after:012}.stklog")), bytes).unwrap();
    last
}

#[tokio::test]
async fn backup_and_log_lead_to_the_very_state_of_any_entry_between() {
    let dir = tempfile::tempdir().unwrap();
    let (mut storage, path) = backed_up(dir.path(), 30).await;
    let log = dir.path().join("log");
    std::fs::create_dir_all(&log).unwrap();
    run(&mut storage, 45).await;
    let first = keep(&storage, 30, &log).await;
    run(&mut storage, 60).await;
    // From further back than needed, as whoever begins anew does.
    assert_eq!((first, keep(&storage, 40, &log).await), (45, 60));
    assert!(storage.reader.archive(61, 7, origin()).await.is_none(), "yet to come");
    let unpacked = dir.path().join("unpacked.snap");
    BackupFile::open(&path).unwrap().unpack(&unpacked, |_| {}).unwrap();
    let archive = pieces(&log, IDENTITY.cluster_id).unwrap();
    assert_eq!(pieces(&log, 8).unwrap(), [], "of another cluster");
    for (until, index) in [
        (Until::Index(30), 30),
        (Until::Index(37), 37),
        (Until::Index(45), 45),
        (Until::Index(59), 59),
        // A second passes with each entry.
        (Until::Time(TimestampMs(50_999)), 50),
        (Until::End, 60),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let replayed = replay(&unpacked, 7, &archive, until, scratch.path()).await.unwrap();
        assert_eq!(replayed.log_index, index);
        assert_eq!(replayed.file.fingerprint(), untouched(index).await, "{until:?}");
        assert_eq!(replayed.passed, index < 60 && until != Until::Index(60), "{until:?}");
    }
    let scratch = tempfile::tempdir().unwrap();
    let gap = replay(&unpacked, 7, &archive[1..], Until::End, scratch.path()).await.unwrap_err().to_string();
    assert!(gap.contains("entries 31 to 40 are missing"), "{gap}");
}

#[tokio::test]
async fn a_log_that_was_purged_gives_no_piece_with_a_hole() {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = start(dir.path()).await;
    run(&mut storage, 60).await;
    snapshot(&mut storage).await;
    run(&mut storage, 100).await;
    purge(&mut storage).await.unwrap();
    let purged = storage.log.last_purged().unwrap().index;
    assert!(purged > 10);
    assert!(storage.reader.archive(purged - 1, 7, origin()).await.is_none());
    assert_eq!(keep(&storage, purged, dir.path()).await, 100);
}

/// Every file below a directory and its contents, but for the lock.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.file_name().unwrap() != "LOCK" {
                all.insert(path.clone(), std::fs::read(path).unwrap());
            }
        }
    }
    all
}

#[tokio::test]
async fn what_a_dead_node_left_is_read_to_the_end_of_its_log_and_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    stockroom_storage::identity::store(&stockroom_storage::fs::RealFileSystem, &node, &IDENTITY).unwrap();
    let mut storage = start(&node).await;
    run(&mut storage, 60).await;
    snapshot(&mut storage).await;
    run(&mut storage, 80).await;
    purge(&mut storage).await.unwrap();
    storage.log.save_committed(Some(log_id(75))).await.unwrap();
    try_run(&mut storage, 90).await.unwrap();
    let running = examine(&node, &dir.path().join("running")).await.unwrap_err();
    assert!(matches!(&running, StorageError::Foreign(why) if why.contains("its node runs")), "{running}");
    storage.close().await.unwrap();
    crash(storage).await;

    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let before = contents(&node);
    let mut remains = loop {
        // The node that ran in this process lets go of its files in a moment.
        match examine(&node, &dir.path().join("scratch")).await {
            Err(StorageError::Foreign(_)) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            remains => break remains.unwrap(),
        }
    };
    assert_eq!(remains.identity, IDENTITY);
    assert!((75..=90).contains(&remains.committed.log_index), "{:?}", remains.committed);
    assert_eq!((remains.last, remains.last_term), (untouched(90).await, 1));
    assert_eq!(remains.snapshot().await.unwrap().fingerprint(), remains.last);
    assert!(contents(&node) == before, "something in the node's directory was changed");
}

#[tokio::test]
async fn a_shop_becomes_text_and_the_same_shop_again() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = backed_up(dir.path(), 60).await;
    let file = storage.state_machine.newest_snapshot().unwrap();
    let (lines, about) = exported(&file);
    let export = dir.path().join("export");
    std::fs::create_dir_all(&export).unwrap();
    std::fs::write(export.join("about.json"), serde_json::to_vec(&about).unwrap()).unwrap();
    for (name, text) in &lines {
        std::fs::write(export.join(format!("{name}.ndjson")), text).unwrap();
    }
    let scratch = dir.path().join("scratch");
    let (read, made) = text::import(&export, &scratch).unwrap();
    assert_eq!(read, about);
    let (again, _) = exported(&made);
    assert!(again == lines, "it differs");
    for name in ["items", "stock", "reservations", "orders", "movements"] {
        assert!(lines[name].len() > 1_000, "{name} is almost empty");
    }
}

fn exported(file: &stockroom_storage::snapshot::SnapshotFile) -> (BTreeMap<String, Vec<u8>>, text::About) {
    let (mut files, mut current, mut end) = (BTreeMap::new(), String::new(), None);
    text::export(file, &mut |section| {
        match section {
            text::Section::Begins(name) => {
                current = name.to_owned();
                files.insert(current.clone(), Vec::new());
            }
            text::Section::Line(line) => {
                let file = files.get_mut(&current).unwrap();
                file.extend_from_slice(line);
                file.push(b'\n');
            }
            text::Section::Ends(about) => end = Some(about.clone()),
        }
        true
    })
    .unwrap();
    (files, end.unwrap())
}
