//! The scrub: everything that a node has on its disk is read, at a bounded rate, beside everything else.
//!
//! Log, sealed and open files of the shelf, the rows in sled, and the newest snapshot file; each with its checksums,
//! and the rows against the state hash. What sled has in its cache it does not read from the disk again: the next
//! start does. A finding is damage like any other: it ends the node, and the next start reads everything.

use crate::error::StorageError;
use crate::shelf::Pace;
use crate::state_machine::Newest;
use crate::store::Store;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How often and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubOptions {
    /// From the end of one to the beginning of the next, the first soon after the start; `None`: only where it is asked
    /// for.
    pub interval: Option<Duration>,
    /// Most bytes read a second.
    pub bytes_per_second: u64,
}

impl Default for ScrubOptions {
    /// Every day; a gigabyte in half a minute, and hardly a tenth of a core.
    fn default() -> Self {
        ScrubOptions { interval: Some(Duration::from_secs(24 * 60 * 60)), bytes_per_second: 32 << 20 }
    }
}

/// How a scrub stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScrubStatus {
    /// One is running.
    pub running: bool,
    /// What it reads; of the last one where none runs.
    pub part: &'static str,
    /// Bytes read by this one, or by the last.
    pub read_bytes: u64,
    /// What there was to read as it began.
    pub total_bytes: u64,
    /// Since this one began.
    pub running_for: Option<Duration>,
    /// Since the last one ended, and how long it took.
    pub last: Option<(Duration, Duration)>,
    /// Until the next one begins by itself.
    pub next_in: Option<Duration>,
    /// Ended since this node started, clean.
    pub clean: u64,
    /// What the last one found.
    pub finding: Option<String>,
}

/// Between two looks at whether one is due, or the node is gone.
const LOOKS_EVERY: Duration = Duration::from_secs(1);
/// Most bytes that are read before a pause; fewer where that would be more than an eighth of a second's.
const STEP_BYTES: u64 = 1 << 20;

/// Of one node.
#[derive(Debug, Default)]
pub(crate) struct Scrub {
    state: Mutex<State>,
    asked: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    began: Option<Instant>,
    ended: Option<(Instant, Duration)>,
    due: Option<Instant>,
    asked: bool,
    part: &'static str,
    read_bytes: u64,
    total_bytes: u64,
    clean: u64,
    finding: Option<StorageError>,
}

impl Scrub {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one now, unless one is running.
    pub fn start(&self) {
        let mut state = self.state();
        if state.began.is_none() {
            state.asked = true;
            self.asked.notify_one();
        }
    }

    pub fn status(&self) -> ScrubStatus {
        let state = self.state();
        let now = Instant::now();
        ScrubStatus {
            running: state.began.is_some() || state.asked,
            part: state.part,
            read_bytes: state.read_bytes,
            total_bytes: state.total_bytes,
            running_for: state.began.map(|began| now.duration_since(began)),
            last: state.ended.map(|(ended, took)| (now.duration_since(ended), took)),
            next_in: state.due.map(|due| due.saturating_duration_since(now)),
            clean: state.clean,
            finding: state.finding.as_ref().map(ToString::to_string),
        }
    }

    /// What was found, which ends the node.
    pub fn finding(&self) -> Option<StorageError> {
        self.state().finding.clone()
    }

    fn begins(&self, total_bytes: u64) {
        let state = &mut *self.state();
        let (clean, ended) = (state.clean, state.ended);
        *state = State { began: Some(Instant::now()), total_bytes, clean, ended, ..State::default() };
    }

    fn ends(&self, outcome: Result<(), StorageError>, interval: Option<Duration>) {
        let mut state = self.state();
        let took = state.began.take().map_or(Duration::ZERO, |began| began.elapsed());
        state.ended = Some((Instant::now(), took));
        state.due = interval.map(|interval| Instant::now() + interval);
        match outcome {
            Ok(()) => {
                state.clean += 1;
                metrics::counter!("stockroom_scrubs_total").increment(1);
                tracing::info!(bytes = state.read_bytes, seconds = took.as_secs(), "a scrub found nothing");
            }
            Err(StorageError::Stopped(why)) => tracing::info!(why, "a scrub was broken off"),
            Err(error) => {
                metrics::counter!("stockroom_scrub_errors_total").increment(1);
                tracing::error!(%error, "a scrub found damage");
                state.finding = Some(error);
            }
        }
    }
}

/// Scrubs when it is due or asked for, as long as the store is there. A worker.
pub(crate) async fn run(store: Weak<Store>, newest: Newest, options: ScrubOptions) {
    // At zero, so that they are there before the first.
    metrics::counter!("stockroom_scrub_errors_total").increment(0);
    metrics::counter!("stockroom_scrubs_total").increment(0);
    let Some(asked) = store.upgrade().map(|store| {
        store.scrub.state().due = options.interval.map(|_| Instant::now());
        store.scrub.asked.clone()
    }) else {
        return;
    };
    loop {
        let _ = tokio::time::timeout(LOOKS_EVERY, asked.notified()).await;
        let Some(store) = store.upgrade().filter(|store| !store.is_stopping()) else { return };
        let is_time = {
            let state = store.scrub.state();
            state.asked || state.due.is_some_and(|due| Instant::now() >= due)
        };
        if is_time {
            let outcome = pass(&store, &newest, options.bytes_per_second).await;
            if outcome.as_ref().is_err_and(|error| !matches!(error, StorageError::Stopped(_))) {
                store.kind.mark_damaged();
            }
            store.scrub.ends(outcome, options.interval);
        }
    }
}

/// Reads everything once.
async fn pass(store: &Store, newest: &Newest, bytes_per_second: u64) -> Result<(), StorageError> {
    let snapshot = newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let base = store.read().base.clone();
    let log = store.log();
    let total = log.bytes() + base.bytes() + snapshot.as_ref().map_or(0, |file| file.bytes());
    store.scrub.begins(total);
    let since_pause = AtomicUsize::new(0);
    let step_bytes = STEP_BYTES.min(bytes_per_second / 8) as usize;
    let pace = |bytes: usize| {
        if since_pause.fetch_add(bytes, Ordering::Relaxed) + bytes >= step_bytes {
            let step = since_pause.swap(0, Ordering::Relaxed);
            metrics::counter!("stockroom_scrub_read_bytes_total").increment(step as u64);
            std::thread::sleep(Duration::from_secs_f64(step as f64 / bytes_per_second.max(1) as f64));
        }
        let mut state = store.scrub.state();
        state.read_bytes += bytes as u64;
        metrics::gauge!("stockroom_scrub_progress").set(share(state.read_bytes, state.total_bytes));
        if store.is_stopping() { Err(StorageError::Stopped("the node stops".to_owned())) } else { Ok(()) }
    };
    let part = |name: &'static str| store.scrub.state().part = name;
    part("log");
    log.scrub(&pace)?;
    part("sealed files");
    base.scrub(&pace)?;
    if let Some(file) = &snapshot {
        part("snapshot");
        // Open files stay readable where a newer one takes its place meanwhile.
        file.scrub(&pace)?;
    }
    part("tables");
    prove_tables(store, &pace).await?;
    metrics::counter!("stockroom_scrub_read_bytes_total").increment(since_pause.into_inner() as u64);
    metrics::gauge!("stockroom_scrub_progress").set(1.0);
    Ok(())
}

fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 1.0 } else { (part as f64 / of as f64).min(1.0) }
}

/// The rows against the state hash. Checkpoints wait meanwhile, applies do not.
async fn prove_tables(store: &Store, pace: &Pace<'_>) -> Result<(), StorageError> {
    let prove = |frozen: &crate::tables::Frozen| {
        let sums = frozen.base.sums(pace)?;
        if sums.are_those_of(&frozen.progress) {
            return Ok(());
        }
        Err(StorageError::Corrupt {
            file: store.kind.place(),
            offset: 0,
            why: format!(
                "its rows at entry {} do not add up to the state hash. Start the node again: the tables are built anew \
                 from snapshot file and log",
                frozen.progress.fingerprint().log_index
            ),
        })
    };
    match store.with_frozen(prove).await {
        // A checkpoint comes first; the tables are looked at next time.
        Err(error) if error.is_no_room() => Ok(()),
        proved => proved,
    }
}
