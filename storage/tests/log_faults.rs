//! A disk that fails, and one that loses power between any two calls.

mod log_support;

use log_support::*;
use openraft::alias::EntryOf;
use openraft::storage::RaftLogStorage;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::io;
use stockroom_storage::codec::{LogId, Vote};
use stockroom_storage::error::StorageError;
use stockroom_storage::log_store::{LogOptions, LogStore};
use stockroom_storage::memory_fs::{Faults, MemoryDisk};
use stockroom_storage::type_config::TypeConfig;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

#[tokio::test(start_paused = true)]
async fn a_failed_write_or_sync_poisons_the_log_for_good() {
    let faults = [
        Faults { fail_sync: Some((1, EIO)), ..Faults::default() },
        Faults { fail_write: Some((1, EIO)), ..Faults::default() },
        Faults { fail_write: Some((1, ENOSPC)), ..Faults::default() },
        Faults { short_write: Some((1, 100)), ..Faults::default() },
    ];
    for (case, faults) in faults.into_iter().enumerate() {
        let disk = MemoryDisk::new();
        let mut log = open(&disk);
        append_each(&mut log, (0..5).map(|index| entry(1, index, 100))).await;
        disk.set_faults(faults);
        let mut answers = Vec::new();
        for index in 5..9 {
            answers.push(submit(&mut log, vec![entry(1, index, 100)]).await.unwrap());
        }
        assert!(log.poisoned().borrow().is_none());
        for answer in answers {
            assert!(answer.await.expect("every callback is answered").is_err(), "case {case}");
        }
        assert!(log.poisoned().borrow().is_some(), "case {case}");
        assert_eq!(*log.durable().borrow(), 4, "case {case}");

        let (syncs, before) = (disk.syncs(), disk.fork());
        assert!(submit(&mut log, vec![entry(1, 9, 1)]).await.is_err());
        assert!(log.save_vote(&Vote::new(2, 2)).await.is_err());
        assert!(log.purge(log_id(1, 2)).await.is_err());
        assert!(log.truncate_after(Some(log_id(1, 2))).await.is_err());
        idle().await;
        assert!(log.close().await.is_err());
        assert_eq!(disk.syncs(), syncs, "case {case}: never sync again");
        for path in disk.paths() {
            assert_eq!(disk.contents(&path), before.contents(&path), "case {case}: nor write");
        }

        disk.lose_power(&mut StdRng::seed_from_u64(1));
        let found = entries(&mut open(&disk)).await;
        assert!(found.len() >= 5, "case {case}: what was acknowledged is there");
        assert_eq!(found[..5], (0..5).map(|index| entry(1, index, 100)).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_was_full_while_the_next_segment_was_made_is_asked_again() {
    for still_full in [false, true] {
        let disk = MemoryDisk::new();
        let mut log = open(&disk);
        // The next segment is made in the background, right after the start.
        disk.set_faults(Faults { short_write: Some((1, 100)), ..Faults::default() });
        append(&mut log, vec![entry(1, 0, 7000)]).await.unwrap();
        if still_full {
            disk.set_faults(Faults { short_write: Some((1, 100)), ..Faults::default() });
        }
        let result = append(&mut log, vec![entry(1, 1, 7000)]).await;
        assert_eq!(result.is_err(), still_full, "{result:?}");
        assert_eq!(log.poisoned().borrow().is_some(), still_full);
        disk.kill();
        assert!(entries(&mut open(&disk)).await.len() > usize::from(!still_full));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_while_the_log_is_idle_poisons_it_too() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    append_each(&mut log, (0..2).map(|index| entry(1, index, 100))).await;
    disk.set_faults(Faults { fail_sync: Some((1, EIO)), ..Faults::default() });
    idle().await;
    let poisoned = log.poisoned();
    let error = poisoned.borrow().clone();
    assert!(matches!(error, Some(StorageError::Io { .. })), "{error:?}");
    assert!(submit(&mut log, vec![entry(1, 2, 1)]).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_durability_hears_when_it_will_not_come() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    append_each(&mut log, (0..2).map(|index| entry(1, index, 100))).await;
    log.wait_durable(1).await.unwrap();
    disk.set_faults(Faults { fail_sync: Some((1, EIO)), ..Faults::default() });
    let flushed = submit(&mut log, vec![entry(1, 2, 100)]).await.unwrap();
    let error = log.wait_durable(2).await.unwrap_err();
    assert!(error.to_string().contains("syncing"), "{error}");
    assert!(flushed.await.unwrap().is_err());

    let log = open(&MemoryDisk::new());
    let (waited, closed) = tokio::join!(log.wait_durable(5), log.close());
    closed.unwrap();
    assert!(waited.is_err(), "a closed log gets no longer");
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_sync_left_behind_is_not_trusted_at_the_next_start() {
    // The page cache has the bytes and thinks that they are clean: only writing them anew, and not
    // another sync, makes them durable.
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    append_each(&mut log, (0..5).map(|index| entry(1, index, 100))).await;
    disk.set_faults(Faults { fail_sync: Some((1, EIO)), ..Faults::default() });
    assert!(append(&mut log, vec![entry(1, 5, 100)]).await.is_err());
    disk.kill();
    let mut log = open(&disk);
    let served = entries(&mut log).await;
    assert_eq!(served.len(), 6, "the bytes read well");
    for seed in 0..20 {
        let copy = disk.fork();
        copy.lose_power(&mut StdRng::seed_from_u64(seed));
        assert_eq!(entries(&mut open(&copy)).await, served, "seed {seed}: what was served stays");
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_cannot_make_its_tail_durable_fails() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    append_each(&mut log, (0..5).map(|index| entry(1, index, 100))).await;
    for call in 1..=6 {
        disk.kill();
        disk.set_faults(Faults { fail_sync: Some((call, EIO)), ..Faults::default() });
        if let Ok(mut log) = open_mount(disk.mount()) {
            assert!(call > 2, "call {call}");
            assert_eq!(entries(&mut log).await.len(), 5);
        }
    }
    disk.kill();
    assert_eq!(entries(&mut open(&disk)).await.len(), 5);
}

/// What a log holds.
#[derive(Debug, Clone, PartialEq)]
struct Model {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<EntryOf<TypeConfig>>,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id).or(self.purged)
    }

    async fn of(log: &mut LogStore) -> Model {
        Model { vote: vote(log).await, purged: log.last_purged(), entries: entries(log).await }
    }
}

/// The log after each change, and how many of the changes were acknowledged.
struct History {
    states: Vec<Model>,
    acknowledged: usize,
    waiting: Vec<(usize, Flushed)>,
}

impl History {
    fn now(&self) -> &Model {
        self.states.last().expect("there is a first state")
    }

    fn push(&mut self, change: impl FnOnce(&mut Model)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.states.push(next);
    }

    /// Hears which appends are durable by now.
    fn listen(&mut self) {
        let mut still_waiting = false;
        self.waiting.retain_mut(|(state, flushed)| match flushed.try_recv() {
            Ok(Ok(())) => {
                assert!(!still_waiting, "callbacks come in order");
                self.acknowledged = self.acknowledged.max(*state);
                false
            }
            Ok(Err(_)) => false,
            Err(_) => {
                still_waiting = true;
                true
            }
        });
    }
}

/// One random change. An error says that the power is off.
async fn change(log: &mut LogStore, history: &mut History, rng: &mut StdRng) -> io::Result<()> {
    let now = history.now().clone();
    let term = now.vote.map_or(1, |vote| vote.leader_id.term);
    match rng.random_range(0..20) {
        0 => {
            let vote = Vote::new(term + rng.random_range(0..2), rng.random_range(1..4));
            history.push(|model| model.vote = Some(vote));
            log.save_vote(&vote).await?;
            history.acknowledged = history.states.len() - 1;
        }
        1 if !now.entries.is_empty() => {
            let keep = rng.random_range(0..now.entries.len());
            let after = now.entries[..keep].last().map(|entry| entry.log_id).or(now.purged);
            history.push(|model| model.entries.truncate(keep));
            log.truncate_after(after).await?;
        }
        2..4 if now.entries.len() > 3 => {
            let upto = rng.random_range(0..now.entries.len() - 1);
            let log_id = now.entries[upto].log_id;
            history.push(|model| {
                model.entries.drain(..=upto);
                model.purged = Some(log_id);
            });
            log.purge(log_id).await?;
        }
        4 if rng.random_bool(0.1) => {
            let upto = LogId::new(log_id(term, 0).leader_id, now.last().map_or(0, |id| id.index) + 7);
            history.push(|model| (model.entries, model.purged) = (Vec::new(), Some(upto)));
            log.purge(upto).await?;
        }
        5..7 => log.save_committed(now.last()).await?,
        7..9 => tokio::time::sleep(std::time::Duration::from_millis(rng.random_range(0..200))).await,
        9..13 => tokio::task::yield_now().await,
        _ => {
            let first = now.last().map_or(0, |id| id.index + 1);
            let count = rng.random_range(1..5);
            let sizes = [0, 40, 700, 3000];
            let new: Vec<_> = (first..first + count)
                .map(|index| entry(term, index, sizes[rng.random_range(0..sizes.len())]))
                .collect();
            for entry in &new {
                history.push(|model| model.entries.push(entry.clone()));
            }
            let flushed = submit(log, new).await?;
            history.waiting.push((history.states.len() - 1, flushed));
        }
    }
    Ok(())
}

/// Starts until a start succeeds; the power may go during one, too.
async fn start(disk: &MemoryDisk, rng: &mut StdRng, seed: u64) -> LogStore {
    for attempt in 0.. {
        if attempt < 3 && rng.random_bool(0.4) {
            let power_off = Some(rng.random_range(1..12));
            disk.set_faults(Faults { power_off, ..Faults::default() });
        }
        let mount = disk.mount();
        match open_mount(mount.clone()) {
            Ok(log) => {
                disk.set_faults(Faults::default());
                if !disk.is_gone_for(&mount) {
                    return log;
                }
            }
            Err(error) => {
                assert!(disk.is_gone_for(&mount), "seed {seed}: the start refuses: {error}");
            }
        }
        disk.lose_power(rng);
    }
    unreachable!("the last attempt has no fault")
}

async fn random_run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let disk = MemoryDisk::new();
    let mut state = Model { vote: None, purged: None, entries: Vec::new() };
    for round in 0..6 {
        let mut log = start(&disk, &mut rng, seed).await;
        let found = Model::of(&mut log).await;
        assert_eq!(found, state, "seed {seed}, round {round}: a start changes nothing");
        let mut history = History { states: vec![state], acknowledged: 0, waiting: Vec::new() };
        let power_off = Some(rng.random_range(1..120));
        disk.set_faults(Faults { power_off, ..Faults::default() });
        for _ in 0..rng.random_range(1..100) {
            let result = change(&mut log, &mut history, &mut rng).await;
            history.listen();
            if result.is_err() {
                break;
            }
        }
        history.listen();
        if rng.random_bool(0.5) {
            disk.lose_power(&mut rng)
        } else {
            disk.kill()
        }
        drop(log);

        let mut log = start(&disk, &mut rng, seed).await;
        state = Model::of(&mut log).await;
        let possible = &history.states[history.acknowledged..];
        assert!(
            possible.contains(&state),
            "seed {seed}, round {round}: {} of {} changes were acknowledged, found {state:?}",
            history.acknowledged,
            history.states.len() - 1,
        );
        assert_eq!(*log.durable().borrow(), state.last().map_or(0, |id| id.index));
        let committed = log.read_committed().await.expect("it is in memory");
        assert!(committed.map(|id| id.index) <= state.last().map(|id| id.index), "seed {seed}");
        // What a start has shown is durable, whatever happens next.
        disk.lose_power(&mut rng);
    }
}

/// Every bit that was durable is guarded: flipped, it is refused, or does not count any more.
#[tokio::test(start_paused = true)]
async fn a_bit_flipped_anywhere_after_a_clean_stop_loses_nothing() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let disk = MemoryDisk::new();
    let empty = Model { vote: None, purged: None, entries: Vec::new() };
    let mut history = History { states: vec![empty], acknowledged: 0, waiting: Vec::new() };
    for _ in 0..4 {
        let mut log = open(&disk);
        for _ in 0..80 {
            change(&mut log, &mut history, &mut rng).await.expect("the disk is sound");
        }
        log.close().await.expect("the disk is sound");
        disk.kill();
    }
    let segments = segments(&disk);
    let mut refused = 0;
    for _ in 0..1500 {
        let path = &segments[rng.random_range(0..segments.len())];
        // Half of them where records certainly are.
        let length = disk.contents(path).expect("listed").len();
        let end = if rng.random_bool(0.5) { length } else { DATA_OFFSET + 2000 };
        let at = rng.random_range(0..end);
        let damaged = disk.fork();
        damaged.damage(path, |bytes| bytes[at] ^= 1 << rng.random_range(0..8));
        match open_mount(damaged.mount()) {
            Err(StorageError::Corrupt { .. }) => refused += 1,
            Err(error) => panic!("seed {seed}, byte {at} of {path:?}: {error}"),
            Ok(mut log) => {
                let found = Model::of(&mut log).await;
                assert_eq!(&found, history.now(), "seed {seed}, byte {at} of {path:?}");
            }
        }
    }
    assert!(refused > 0, "seed {seed}: {refused} of 1500 were refused");
}

/// `STOCKROOM_SEED` is the first seed, `STOCKROOM_RUNS` how many follow each other.
#[tokio::test(start_paused = true)]
async fn power_loss_takes_nothing_that_was_acknowledged() {
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let first = number("STOCKROOM_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let runs = number("STOCKROOM_RUNS").unwrap_or(150);
    println!("seeds {first} to {}", first + runs - 1);
    for seed in first..first + runs {
        random_run(seed).await;
    }
}

/// Four entries of the first leader are on the disk; what a second one changed is queued behind them, and committed.
async fn queue_what_replaces_an_entry(log: &mut LogStore) -> io::Result<()> {
    log.truncate_after(Some(log_id(1, 0))).await?;
    drop(submit(log, vec![entry(2, 1, 100)]).await?);
    log.save_committed(Some(log_id(2, 1))).await
}

/// Of two entries with one index the committed point names the later one: on the disk it comes after that.
#[tokio::test(start_paused = true)]
async fn the_committed_point_is_never_ahead_of_what_it_was_committed_with() {
    let options = LogOptions { segment_bytes: 8 << 20, ..OPTIONS };
    let open =
        |disk: &MemoryDisk| LogStore::open_with(disk.mount(), dir(), &IDENTITY, options, &TaskSpawn).unwrap();
    for closes in [false, true] {
        let disk = MemoryDisk::new();
        let mut log = open(&disk);
        idle().await;
        if closes {
            // What comes after the call is not written any more.
            append_each(&mut log, (0..4).map(|index| entry(1, index, 100))).await;
            let mut other = log.clone();
            let (closed, _) = tokio::join!(log.close(), queue_what_replaces_an_entry(&mut other));
            closed.unwrap();
        } else {
            // One group is full, and the power goes when it is synced.
            for index in 0..4 {
                drop(submit(&mut log, vec![entry(1, index, 1 << 20)]).await.unwrap());
            }
            disk.set_faults(Faults { power_off: Some(2), ..Faults::default() });
            queue_what_replaces_an_entry(&mut log).await.unwrap();
            idle().await;
        }
        disk.kill();
        let mut log = open(&disk);
        assert_eq!(log.log_id(1), Some(log_id(1, 1)), "the second leader's is not there");
        assert_eq!(log.read_committed().await.unwrap(), None);
    }
}
