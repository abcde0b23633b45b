//! Many writes through all nodes, several batches in flight, with a count and a clock of what was acknowledged.

use super::client::{Client, Command, Outcome};
use super::progress::Progress;
use futures::StreamExt as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How writes are sent.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Writes of one batch.
    pub batch: usize,
    /// Batches in flight.
    pub in_flight: usize,
}

/// Large batches: the way to put many things in at once.
pub const BULK: Shape = Shape { batch: 500, in_flight: 3 };
/// Small ones, as many shoppers would, so that a failover is felt by some of them.
pub const SHOPPERS: Shape = Shape { batch: 20, in_flight: 6 };

/// How long writes may go unsettled before loading gives up.
const SETTLE_WITHIN: Duration = Duration::from_secs(60);

/// What was acknowledged so far, and when.
#[derive(Debug)]
pub struct Tally {
    count: watch::Sender<usize>,
    at: Mutex<Vec<Instant>>,
}

impl Default for Tally {
    fn default() -> Self {
        Tally { count: watch::Sender::new(0), at: Mutex::default() }
    }
}

impl Tally {
    fn add(&self, writes: usize) {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        self.count.send_modify(|count| *count += writes);
    }

    /// Waits until this many are acknowledged.
    pub async fn reached(&self, count: usize) {
        // The sender is `self`, so it cannot be gone.
        let _ = self.count.subscribe().wait_for(|now| *now >= count).await;
    }

    /// The longest time without an acknowledgement that ended after `since`: how long nothing could be placed.
    pub fn longest_silence_after(&self, since: Instant) -> Duration {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner).clone();
        at.sort();
        let pairs = at.windows(2).filter(|pair| pair[1] > since);
        pairs.map(|pair| pair[1] - pair[0].max(since)).max().unwrap_or_default()
    }
}

/// Sends all writes and returns their outcomes in the same order.
///
/// # Errors
/// Where some cannot be settled.
pub async fn load(
    client: &Client,
    commands: &[Command],
    shape: Shape,
    tally: &Tally,
    progress: &Progress,
) -> anyhow::Result<Vec<Outcome>> {
    let sends = commands.chunks(shape.batch).enumerate().map(|(at, batch)| async move {
        let outcomes = client.settle(batch, Instant::now() + SETTLE_WITHIN).await?;
        tally.add(outcomes.len());
        progress.add(outcomes.len());
        anyhow::Ok((at, outcomes))
    });
    let mut done = Vec::new();
    let mut sending = futures::stream::iter(sends).buffer_unordered(shape.in_flight);
    while let Some(batch) = sending.next().await {
        done.push(batch?);
    }
    done.sort_by_key(|(at, _)| *at);
    progress.finish();
    Ok(done.into_iter().flat_map(|(_, outcomes)| outcomes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_from_the_kill_and_not_before() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let tally = Tally::default();
        *tally.at.lock().expect("not poisoned") = vec![ms(0), ms(5_000), ms(5_010), ms(7_000), ms(7_005)];
        assert_eq!(tally.longest_silence_after(ms(5_500)), Duration::from_millis(1_500));
        assert_eq!(tally.longest_silence_after(ms(7_001)), Duration::from_millis(4));
        assert_eq!(tally.longest_silence_after(ms(9_000)), Duration::ZERO);
    }
}
