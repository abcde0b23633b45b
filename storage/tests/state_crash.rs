//! A node that is killed, or loses power, at any step: what was acknowledged is there, and it comes to
//! the same state as one to which nothing happened.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod state_support;

use futures::future::BoxFuture;
use openraft::storage::{RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use state_support::*;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use stockroom_storage::log_store::LogOptions;
use stockroom_storage::memory_fs::{Faults, MemoryDisk, MemoryFileSystem};
use stockroom_storage::reader::Fingerprint;
use stockroom_storage::spawn::Spawn;
use stockroom_storage::{Storage, StorageOptions, open};

/// Where the node lives that is to be killed.
const DIR: &str = "STOCKROOM_TEST_DIR";
const ENTRIES: u64 = 240;

/// Not a test by itself: the process that [`a_killed_node_comes_to_the_same_state`] kills.
#[tokio::test]
#[ignore = "run by another test"]
async fn node_to_be_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let mut options = options(Path::new(&dir));
    // All the time some checkpoint is being written.
    options.checkpoint_interval = Duration::from_millis(1);
    let mut storage = start_with(options).await;
    let applied = storage.reader.applied().fingerprint.log_index;
    for index in applied + 1..=ENTRIES {
        run(&mut storage, index).await;
        if index.is_multiple_of(20) {
            snapshot(&mut storage).await;
            purge(&mut storage).await.unwrap();
        }
        println!("applied {index}");
    }
}

/// Starts the node and kills it once it says that it has applied `until`. Gives what it said last.
fn run_and_kill(dir: &Path, until: u64) -> u64 {
    let mut node = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "node_to_be_killed", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = 0;
    for line in BufReader::new(node.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some((_, index)) = line.split_once("applied ") {
            said = index.parse().unwrap();
            if said >= until {
                break;
            }
        }
    }
    node.kill().unwrap();
    node.wait().unwrap();
    said
}

#[tokio::test]
async fn a_killed_node_comes_to_the_same_state() {
    let expected = untouched(ENTRIES).await;
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut until = 0;
    while until < ENTRIES {
        until = (until + rng.random_range(1..40)).min(ENTRIES);
        let said = run_and_kill(dir.path(), until);
        assert!(said >= until, "the node ended by itself after {said}");
        let storage = start(dir.path()).await;
        assert_eq!(storage.snapshot_needed, None);
        let last = storage.log.last_log_id().unwrap().index;
        assert!(last >= said, "{said} was acknowledged, the log ends with {last}");
        until = until.max(storage.reader.applied().fingerprint.log_index);
        crash(storage).await;
    }
    let mut storage = start(dir.path()).await;
    assert_eq!(run(&mut storage, ENTRIES).await, expected);
    check_clean(&storage).await;
}

#[tokio::test]
async fn what_was_frozen_and_never_written_is_applied_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.checkpoint_interval = Duration::from_secs(3_600);
    options.checkpoint_bytes = usize::MAX;
    let mut storage = start_with(options.clone()).await;
    let before = run(&mut storage, 50).await;
    assert_eq!(storage.reader.stats().checkpoint_log_index, 0);
    crash(storage).await;
    let mut storage = start_with(options).await;
    assert_eq!(storage.reader.applied().fingerprint.log_index, 0);
    assert_eq!(run(&mut storage, 50).await, before);
    check_clean(&storage).await;
}

#[tokio::test]
async fn an_installation_is_finished_by_the_next_start() {
    let (leader_dir, follower_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (leader, at_end, follower) = leader_and_straggler(leader_dir.path(), follower_dir.path()).await;
    // The file is here and named; the state is still the old one.
    transfer(&leader, &follower, 50_000);
    crash(follower).await;
    let mut follower = start(follower_dir.path()).await;
    assert!(follower.reader.applied().fingerprint.log_index <= 15);
    // What openraft does at its start where the snapshot is newer than what is applied.
    let newest = follower.state_machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(newest.snapshot.log_index(), 70);
    follower.state_machine.install_snapshot(&newest.meta, newest.snapshot).await.unwrap();
    follower.log.purge(log_id(70)).await.unwrap();
    assert_eq!(run(&mut follower, 110).await, at_end);
    check_clean(&follower).await;
}

/// Workers as tasks of the test's own runtime, as a simulation has them.
#[derive(Debug)]
struct TaskSpawn;

impl Spawn for TaskSpawn {
    fn spawn(&self, _: &str, worker: BoxFuture<'static, ()>) -> io::Result<()> {
        drop(tokio::spawn(worker));
        Ok(())
    }
}

fn simulated(mount: Arc<MemoryFileSystem>) -> StorageOptions {
    StorageOptions {
        fs: mount,
        memory_base: true,
        spawn: Arc::new(TaskSpawn),
        log: LogOptions { segment_bytes: 64 << 10, cache_bytes: 1 << 10 },
        ..options(Path::new("/data"))
    }
}

const LIFE: u64 = 44;

/// A life with two snapshot files and a purge behind each. Gives how far it came.
async fn live(storage: &mut Storage, acknowledged: &mut u64) -> io::Result<Fingerprint> {
    let mut fingerprint = storage.reader.applied().fingerprint;
    for index in fingerprint.log_index + 1..=LIFE {
        fingerprint = try_run(storage, index).await?;
        *acknowledged = index;
        if index.is_multiple_of(20) {
            storage.state_machine.build_snapshot().await?;
            purge(storage).await?;
        }
    }
    Ok(fingerprint)
}

#[tokio::test(start_paused = true)]
async fn power_may_go_at_any_step() {
    let mut expected = None;
    for step in 1.. {
        let disk = MemoryDisk::new();
        let mut acknowledged = 0;
        if expected.is_some() {
            disk.set_faults(Faults { power_off: Some(step), ..Faults::default() });
        }
        let ended = match open(simulated(disk.mount()), &IDENTITY).await {
            Ok(mut storage) => live(&mut storage, &mut acknowledged).await.ok(),
            Err(_) => None,
        };
        match (ended, expected) {
            (Some(fingerprint), None) => {
                expected = Some(fingerprint);
                continue;
            }
            (Some(fingerprint), Some(expected)) => {
                assert_eq!(fingerprint, expected);
                assert!(step > 100, "power went only {step} times");
                return;
            }
            (None, _) => {}
        }
        disk.lose_power(&mut StdRng::seed_from_u64(step));
        disk.set_faults(Faults::default());
        let mut storage = open(simulated(disk.mount()), &IDENTITY)
            .await
            .unwrap_or_else(|error| panic!("after losing power at step {step}: {error}"));
        assert_eq!(storage.snapshot_needed, None, "step {step}");
        let last = storage.log.last_log_id().map_or(0, |id| id.index);
        assert!(
            last >= acknowledged,
            "step {step}: {acknowledged} was acknowledged, the log ends with {last}"
        );
        let fingerprint = live(&mut storage, &mut acknowledged).await.unwrap();
        assert_eq!(Some(fingerprint), expected, "step {step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_file_that_cannot_be_written_leaves_the_one_before() {
    const ENOSPC: i32 = 28;
    let faults = [
        Faults { fail_write: Some((1, ENOSPC)), ..Faults::default() },
        Faults { short_write: Some((2, 100)), ..Faults::default() },
        Faults { fail_sync: Some((1, ENOSPC)), ..Faults::default() },
    ];
    for faults in faults {
        let disk = MemoryDisk::new();
        let mut storage = open(simulated(disk.mount()), &IDENTITY).await.unwrap();
        run(&mut storage, 20).await;
        assert_eq!(snapshot(&mut storage).await, 20);
        let before = run(&mut storage, 40).await;
        disk.set_faults(faults.clone());
        let built = storage.state_machine.build_snapshot().await;
        assert!(built.is_err(), "{faults:?}");
        assert_eq!(storage.state_machine.newest_snapshot().unwrap().log_index(), 20);
        assert!(storage.purgeable().is_none_or(|index| index <= 20));
        disk.set_faults(Faults::default());
        drop(storage);
        disk.kill();
        let mut storage = open(simulated(disk.mount()), &IDENTITY).await.unwrap();
        assert_eq!(storage.reader.applied().fingerprint.log_index, 20);
        assert_eq!(run(&mut storage, 40).await, before);
    }
}

/// A kill after the new state was put in use and before the one before it was removed, or before it was put in use.
#[tokio::test]
async fn what_a_killed_switch_of_states_left_is_removed_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = start(dir.path()).await;
    run(&mut storage, 60).await;
    snapshot(&mut storage).await;
    storage.close().await.unwrap();
    drop(storage);
    let state = dir.path().join("state");
    let names = || {
        let names = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    let before = names();
    for generation in [0, 2] {
        for name in [format!("sled-{generation}"), format!("shelf-{generation}")] {
            std::fs::create_dir(state.join(&name)).unwrap();
            std::fs::write(state.join(&name).join("file"), "left over").unwrap();
        }
        std::fs::write(state.join(format!("sled-{generation}.redo")), "left over").unwrap();
    }
    let storage = start(dir.path()).await;
    assert_eq!(names(), before);
    assert_eq!(storage.reader.applied().fingerprint, untouched(60).await);
}
