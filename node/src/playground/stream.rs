//! Orders that go on in the background, so that there is something to watch.

use super::client::{Client, Outcome};
use super::sample::Sample;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, MissedTickBehavior, interval};

const ROUND: Duration = Duration::from_millis(250);
/// Forty orders a second: enough to see, and a laptop stays quiet.
const ORDERS_PER_ROUND: usize = 10;
const PATIENCE: Duration = Duration::from_millis(700);
const SETTLE_WITHIN: Duration = Duration::from_secs(60);

/// The background stream, and what it has done.
#[derive(Debug, Default)]
pub struct Stream {
    on: AtomicBool,
    placed: AtomicU64,
    refused: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Stream {
    /// Switches it on or off; returns what it is now.
    pub fn toggle(&self) -> bool {
        !self.on.fetch_xor(true, Ordering::Relaxed)
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Orders placed since the start.
    pub fn placed(&self) -> u64 {
        self.placed.load(Ordering::Relaxed)
    }

    /// Orders that the shop refused. The stock for each is received before, so there should be none.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// What the last round ran into, where it did.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Places orders while it is on, one round at a time; never returns.
    pub async fn run(self: Arc<Self>, client: Client, sample: Arc<Sample>) {
        // Another run in the same directory must not meet the ids of this one.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let run = format!("live-{}", since_epoch.as_millis());
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // One round at a time: a node that is paused must not hold up the next ones for long.
        let client = client.with_patience(PATIENCE);
        let mut first = 0;
        loop {
            rounds.tick().await;
            if !self.is_on() {
                continue;
            }
            let result = self.round(&client, &sample, &run, first).await;
            let trouble = result.err().map(|error| format!("{error:#}"));
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
            first += ORDERS_PER_ROUND;
        }
    }

    async fn round(&self, client: &Client, sample: &Sample, run: &str, first: usize) -> anyhow::Result<()> {
        let (stock, orders) = sample.again(run, first, ORDERS_PER_ROUND);
        let deadline = Instant::now() + SETTLE_WITHIN;
        client.settle(&stock, deadline).await?;
        let outcomes = client.settle(&orders, deadline).await?;
        let placed = outcomes.iter().filter(|outcome| Outcome::is_done(outcome)).count();
        self.placed.fetch_add(placed as u64, Ordering::Relaxed);
        self.refused.fetch_add((outcomes.len() - placed) as u64, Ordering::Relaxed);
        Ok(())
    }
}
