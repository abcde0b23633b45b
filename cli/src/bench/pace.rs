//! When the next call is due: at once (closed loop), at its time (open loop), or never.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// How finely an open loop is paced. Tokio's timers are as coarse as 1 ms, which would be most of a latency.
const TICK: Duration = Duration::from_micros(100);
/// How long after the window an open loop still sends what was due in it.
const DRAIN: Duration = Duration::from_secs(5);

/// The measured part of a run, in microseconds since its start, cut into slots.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// End of the warm-up.
    pub begin_us: u64,
    /// End of measuring.
    pub end_us: u64,
    /// Length of a slot.
    pub slot_us: u64,
}

impl Window {
    /// Begins after the warm-up; `slots` is at least 1.
    pub fn new(warmup: Duration, time: Duration, slots: usize) -> Self {
        let begin_us = warmup.as_micros() as u64;
        let slot_us = (time.as_micros() as u64).div_ceil(slots as u64).max(1);
        Window { begin_us, end_us: begin_us + slot_us * slots as u64, slot_us }
    }

    /// Whether this moment is in it.
    pub fn holds(&self, at_us: u64) -> bool {
        (self.begin_us..self.end_us).contains(&at_us)
    }

    /// Which slot this moment is in.
    pub fn slot(&self, at_us: u64) -> Option<usize> {
        self.holds(at_us).then(|| ((at_us - self.begin_us) / self.slot_us) as usize)
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        ((self.end_us - self.begin_us) / self.slot_us) as usize
    }

    /// Its length.
    pub fn seconds(&self) -> f64 {
        (self.end_us - self.begin_us) as f64 / 1e6
    }
}

/// What decides when a call is due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Each client sends again as soon as it has its answer.
    Closed,
    /// So many calls a second over all clients, whether or not earlier ones have been answered.
    Open(f64),
    /// So many calls in all, each client as fast as it can.
    Attempts(u64),
}

/// Hands out the calls of a run; shared by all clients.
pub struct Gate {
    start: Instant,
    end_us: u64,
    pace: Pace,
    taken: AtomicU64,
    /// One permit for each call of an open loop that is due and not yet taken.
    due: Semaphore,
}

impl Gate {
    /// Opens now.
    pub fn open(pace: Pace, window: &Window) -> Arc<Self> {
        let gate = Arc::new(Gate {
            start: Instant::now(),
            end_us: window.end_us,
            pace,
            taken: AtomicU64::new(0),
            due: Semaphore::new(0),
        });
        if let Pace::Open(rate) = pace {
            let gate = gate.clone();
            // Its own thread: it sleeps to the tenth of a millisecond, and no runtime has to wake for that.
            std::thread::spawn(move || gate.pace(rate));
        }
        gate
    }

    /// Microseconds since the start.
    pub fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// When a moment of this run comes.
    pub fn at(&self, us: u64) -> Instant {
        self.start + Duration::from_micros(us)
    }

    /// Waits until a call is due and says since when; `None` once there are no more.
    pub async fn next(&self) -> Option<u64> {
        match self.pace {
            Pace::Closed => Some(self.now_us()).filter(|now| *now < self.end_us),
            Pace::Attempts(all) => {
                let left = self.taken.fetch_add(1, Ordering::Relaxed) < all;
                left.then(|| self.now_us()).filter(|now| *now < self.end_us)
            }
            Pace::Open(rate) => {
                self.due.acquire().await.ok()?.forget();
                let number = self.taken.fetch_add(1, Ordering::Relaxed);
                (number < self.all(rate)).then(|| due_us(number, rate))
            }
        }
    }

    /// When each call was due that no client came to send, once the run is over.
    pub fn never_sent(&self) -> impl Iterator<Item = u64> {
        let (rate, all) = match self.pace {
            Pace::Open(rate) => (rate, self.all(rate)),
            _ => (1.0, 0),
        };
        (self.taken.load(Ordering::Relaxed).min(all)..all).map(move |number| due_us(number, rate))
    }

    /// Calls of an open loop that are due before the end.
    fn all(&self, rate: f64) -> u64 {
        (self.end_us as f64 / 1e6 * rate).ceil() as u64
    }

    fn pace(&self, rate: f64) {
        let all = self.all(rate);
        let mut given = 0;
        while given < all {
            let now_us = self.now_us();
            let due = ((now_us as f64 / 1e6 * rate) as u64 + 1).min(all);
            self.due.add_permits((due - given) as usize);
            given = due;
            let next_us = due_us(given, rate);
            std::thread::sleep(Duration::from_micros(next_us.saturating_sub(now_us)).max(TICK));
        }
        // Whoever waits for more than there are is told that it is over.
        let drained = self.at(self.end_us) + DRAIN;
        while self.taken.load(Ordering::Relaxed) < all && Instant::now() < drained {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.due.close();
    }
}

/// When call `number` (from 0) is due, in microseconds.
fn due_us(number: u64, rate: f64) -> u64 {
    (number as f64 * 1e6 / rate) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_in_one_slot_or_outside() {
        let window = Window::new(Duration::from_millis(10), Duration::from_millis(40), 4);
        let slots: Vec<Option<usize>> =
            [9_999, 10_000, 19_999, 20_000, 49_999, 50_000].map(|us| window.slot(us)).into();
        assert_eq!(slots, [None, Some(0), Some(0), Some(1), Some(3), None]);
        assert_eq!((window.slots(), window.seconds()), (4, 0.04));
    }

    #[tokio::test]
    async fn an_open_loop_is_due_by_the_clock_however_slow_the_client_is() {
        let window = Window::new(Duration::ZERO, Duration::from_millis(200), 1);
        let gate = Gate::open(Pace::Open(1000.0), &window);
        let mut due = Vec::new();
        while let Some(at_us) = gate.next().await {
            assert!(gate.now_us() >= at_us, "nothing is sent before it is due");
            due.push(at_us);
            if due.len() == 20 {
                tokio::time::sleep(Duration::from_millis(100)).await; // a stall moves no later due time
            }
        }
        assert_eq!(due, (0..200).map(|n| n * 1000).collect::<Vec<u64>>());
        assert_eq!(gate.never_sent().count(), 0);
    }

    #[tokio::test]
    async fn attempts_are_handed_out_once_each() {
        let window = Window::new(Duration::ZERO, Duration::from_secs(60), 1);
        let gate = Gate::open(Pace::Attempts(300), &window);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let gate = gate.clone();
            clients.spawn(async move {
                let mut taken = 0;
                while gate.next().await.is_some() {
                    taken += 1;
                    tokio::task::yield_now().await;
                }
                taken
            });
        }
        assert_eq!(clients.join_all().await.iter().sum::<u64>(), 300);
    }

    #[tokio::test]
    async fn a_closed_loop_ends_with_the_window() {
        let window = Window::new(Duration::from_millis(5), Duration::from_millis(5), 1);
        let gate = Gate::open(Pace::Closed, &window);
        assert!(gate.next().await.is_some_and(|due_us| due_us < 10_000));
        tokio::time::sleep(Duration::from_millis(11)).await; // the window of 10 ms is over
        assert_eq!(gate.next().await, None);
    }
}
