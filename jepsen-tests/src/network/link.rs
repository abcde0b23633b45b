//! One direction between two ends: its trouble, its rate, and how many pieces met either.

use super::trouble::Layers;
use super::{End, Trouble};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Bytes that one kilobit a second lets pass in a second.
const BYTES_PER_KBIT: f64 = 125.0;
/// What may pass at once after a pause, in seconds of the rate: short, so that a slow link feels slow.
const BURST_SECONDS: f64 = 0.05;
/// A packet on an Ethernet, without its headers. Nothing smaller waits for a larger part of the rate.
pub(super) const PACKET_BYTES: usize = 1448;

/// All directions that were ever spoken of, and what is imposed on them.
#[derive(Default)]
pub(super) struct Links(Mutex<Held>);

#[derive(Default)]
struct Held {
    layers: Layers,
    links: HashMap<(End, End), Arc<Link>>,
}

impl Links {
    pub(super) fn link(&self, from: End, to: End) -> Arc<Link> {
        let Held { layers, links } = &mut *self.0.lock().expect("no panic while held");
        links.entry((from, to)).or_insert_with(|| Arc::new(Link::new(layers.on(from, to)))).clone()
    }

    /// Changes the layers and tells every link what holds on it now.
    pub(super) fn change(&self, change: impl FnOnce(&mut Layers)) {
        let Held { layers, links } = &mut *self.0.lock().expect("no panic while held");
        change(layers);
        for ((from, to), link) in links {
            link.set(layers.on(*from, *to));
        }
    }

    /// All directions with trouble, and what it is.
    pub(super) fn troubled(&self) -> Vec<(End, End, Trouble)> {
        let layers = &self.0.lock().expect("no panic while held").layers;
        let all = layers.links().into_iter().map(|(from, to)| (from, to, layers.on(from, to)));
        all.filter(|(_, _, trouble)| *trouble != Trouble::default()).collect()
    }
}

/// Shared by all connections between two ends, whoever opened them.
pub(super) struct Link {
    trouble: watch::Sender<Trouble>,
    harmed: AtomicU64,
    bucket: Mutex<Bucket>,
}

/// A token bucket, in bytes.
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Link {
    fn new(trouble: Trouble) -> Self {
        Link {
            trouble: watch::Sender::new(trouble),
            harmed: AtomicU64::new(0),
            bucket: Mutex::new(Bucket { tokens: 0.0, filled: Instant::now() }),
        }
    }

    fn set(&self, trouble: Trouble) {
        self.trouble.send_if_modified(|held| std::mem::replace(held, trouble) != trouble);
    }

    pub(super) fn trouble(&self) -> Trouble {
        *self.trouble.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Trouble> {
        self.trouble.subscribe()
    }

    pub(super) fn harm(&self) {
        self.harmed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn harmed(&self) -> u64 {
        self.harmed.load(Ordering::Relaxed)
    }

    /// When the rate lets something of `want` bytes pass.
    pub(super) fn passes_at(&self, trouble: &Trouble, want: usize, now: Instant) -> Instant {
        if trouble.rate_kbit == 0 {
            return now;
        }
        let mut bucket = self.bucket.lock().expect("no panic while held");
        bucket.fill(trouble, now);
        let short = as_float(want.min(PACKET_BYTES)) - bucket.tokens;
        now + Duration::from_secs_f64((short / rate(trouble)).max(0.0))
    }

    /// Takes what the rate lets pass now, at most `want` bytes. What is not used is to be given back.
    pub(super) fn take(&self, trouble: &Trouble, want: usize, now: Instant) -> usize {
        if trouble.rate_kbit == 0 {
            return want;
        }
        let mut bucket = self.bucket.lock().expect("no panic while held");
        bucket.fill(trouble, now);
        if bucket.tokens < as_float(want.min(PACKET_BYTES)) {
            return 0;
        }
        // Not negative and at most `want`.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by want")]
        let taken = bucket.tokens.min(as_float(want)) as usize;
        bucket.tokens -= as_float(taken);
        taken
    }

    pub(super) fn give_back(&self, trouble: &Trouble, bytes: usize) {
        if trouble.rate_kbit != 0 {
            self.bucket.lock().expect("no panic while held").tokens += as_float(bytes);
        }
    }
}

impl Bucket {
    fn fill(&mut self, trouble: &Trouble, now: Instant) {
        let rate = rate(trouble);
        let most = (rate * BURST_SECONDS).max(as_float(PACKET_BYTES));
        self.tokens = (self.tokens + rate * now.duration_since(self.filled).as_secs_f64()).min(most);
        self.filled = now;
    }
}

fn rate(trouble: &Trouble) -> f64 {
    f64::from(trouble.rate_kbit) * BYTES_PER_KBIT
}

/// Exact: never more than the bytes of one read.
#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn as_float(bytes: usize) -> f64 {
    bytes as f64
}
