//! What was seen: counts, latencies and the course over time, per client and then together.

use super::{books::Unknown, pace::Window};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// Three digits: a latency is recorded within 0.1 %.
const DIGITS: u8 = 3;
/// The longest latency that is told apart, in microseconds: ten minutes.
const LONGEST_US: u64 = 600_000_000;

/// Latencies in microseconds.
pub fn histogram() -> Histogram<u32> {
    // Starts small and grows with the longest value, so that hundreds of clients stay in the caches.
    Histogram::new(DIGITS).expect("3 digits are allowed")
}

/// What one client saw; merged, what all saw.
pub struct Tally {
    /// Of calls due within the window, however late they ended; but for those that were refused at once.
    pub latency: Histogram<u32>,
    /// Orders (reads, reservations) done within the window.
    pub done: u64,
    /// Their lines.
    pub lines: u64,
    /// Calls answered within the window.
    pub calls: u64,
    /// Refused for certain, by code, from the window's begin on.
    pub refused: BTreeMap<String, u64>,
    /// Without a certain answer, or any, by code, from the window's begin on.
    pub unknown: BTreeMap<String, u64>,
    /// What is to be settled before stock can be counted; of the warm-up too.
    pub unsettled: Vec<Unknown>,
    /// Answers that cannot be right.
    pub wrong: Vec<String>,
    /// How many of them there were; `wrong` holds the first.
    pub wrong_answers: u64,
    /// Done per slot of the window.
    pub done_per_slot: Vec<u64>,
    /// The longest latency of what ended in each slot, in microseconds.
    pub slowest_per_slot: Vec<u64>,
}

impl Tally {
    /// For a window of so many slots.
    pub fn new(slots: usize) -> Self {
        Tally {
            latency: histogram(),
            done: 0,
            lines: 0,
            calls: 0,
            refused: BTreeMap::new(),
            unknown: BTreeMap::new(),
            unsettled: Vec::new(),
            wrong: Vec::new(),
            wrong_answers: 0,
            done_per_slot: vec![0; slots],
            slowest_per_slot: vec![0; slots],
        }
    }

    /// A call that was due at `due_us` and ended at `ended_us` did so many orders with so many lines.
    pub fn answered(&mut self, window: &Window, due_us: u64, ended_us: u64, done: u64, lines: u64) {
        self.waited(window, due_us, ended_us);
        if let Some(slot) = window.slot(ended_us) {
            self.calls += 1;
            self.done += done;
            self.lines += lines;
            self.done_per_slot[slot] += done;
        }
    }

    /// A call that was due at `due_us` ended at `ended_us`, perhaps with nothing done: left out, an outage would make the
    /// latency better. A refusal at once is no such call: it would do the same.
    pub fn waited(&mut self, window: &Window, due_us: u64, ended_us: u64) {
        let latency_us = ended_us.saturating_sub(due_us);
        if window.holds(due_us) {
            self.record(latency_us);
        }
        if let Some(slot) = window.slot(ended_us) {
            self.slowest_per_slot[slot] = self.slowest_per_slot[slot].max(latency_us);
        }
    }

    /// A latency, where the call itself is not counted.
    pub fn record(&mut self, latency_us: u64) {
        self.latency.record(latency_us.clamp(1, LONGEST_US)).expect("the histogram grows as it must");
    }

    /// An answer that cannot be right.
    pub fn wrong(&mut self, what: String) {
        self.wrong_answers += 1;
        if self.wrong.len() < 5 {
            self.wrong.push(what);
        }
    }

    /// Adds what another saw in a window as long.
    pub fn merge(&mut self, other: Tally) {
        self.latency.add(&other.latency).expect("the histogram grows as it must");
        self.done += other.done;
        self.lines += other.lines;
        self.calls += other.calls;
        for (into, from) in [(&mut self.refused, other.refused), (&mut self.unknown, other.unknown)] {
            for (code, n) in from {
                *into.entry(code).or_default() += n;
            }
        }
        self.unsettled.extend(other.unsettled);
        self.wrong_answers += other.wrong_answers;
        self.wrong.extend(other.wrong);
        self.wrong.truncate(5);
        for (into, from) in self.done_per_slot.iter_mut().zip(other.done_per_slot) {
            *into += from;
        }
        for (into, from) in self.slowest_per_slot.iter_mut().zip(other.slowest_per_slot) {
            *into = from.max(*into);
        }
    }
}

/// How evenly clients were served.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Fairness {
    /// Calls of the client in the middle.
    pub median: u64,
    /// Calls of the slowest client.
    pub slowest: u64,
    /// The slowest client's share of the median; 1 is fair.
    pub slowest_share: f64,
}

impl Fairness {
    /// From how many calls of each client were answered.
    pub fn of(mut done: Vec<u64>) -> Self {
        done.sort_unstable();
        let (median, slowest) = (done[done.len() / 2], done[0]);
        let slowest_share = if median == 0 { 0.0 } else { slowest as f64 / median as f64 };
        Fairness { median, slowest, slowest_share }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn window() -> Window {
        Window::new(Duration::from_secs(1), Duration::from_secs(4), 4)
    }

    #[test]
    fn merged_histograms_hold_what_each_held() {
        let (mut all, mut one) = (Tally::new(4), histogram());
        for client in 0..50u64 {
            let mut tally = Tally::new(4);
            for i in 0..100 {
                let latency_us = 1 + (client * 7919 + i * 104_729) % 3_000_000;
                tally.answered(&window(), 1_500_000, 1_500_000 + latency_us, 1, 2);
                one.record(latency_us).unwrap();
            }
            all.merge(tally);
        }
        assert_eq!((all.latency.len(), all.calls, all.lines), (5_000, 5_000, 10_000));
        for quantile in [0.0, 0.5, 0.99, 1.0] {
            assert_eq!(all.latency.value_at_quantile(quantile), one.value_at_quantile(quantile));
        }
        assert_eq!(all.done_per_slot.iter().sum::<u64>(), 5_000);
        assert!(all.slowest_per_slot[0] <= 500_000 && all.slowest_per_slot[3] > 2_500_000);
    }

    #[test]
    fn throughput_goes_by_the_end_and_latency_by_when_it_was_due() {
        let mut tally = Tally::new(4);
        tally.answered(&window(), 900_000, 1_100_000, 1, 1); // due in the warm-up, done in the window
        tally.answered(&window(), 4_900_000, 9_000_000, 1, 1); // due in the window, done long after it
        assert_eq!((tally.done, tally.latency.len()), (1, 1));
        assert!(tally.latency.max() >= 4_100_000);
        assert_eq!(tally.done_per_slot, [1, 0, 0, 0]);
    }

    #[test]
    fn fairness_compares_the_slowest_with_the_median() {
        let fair = Fairness::of(vec![90, 100, 110, 100, 50]);
        assert_eq!(fair, Fairness { median: 100, slowest: 50, slowest_share: 0.5 });
        assert_eq!(Fairness::of(vec![0, 0]).slowest_share, 0.0);
    }
}
