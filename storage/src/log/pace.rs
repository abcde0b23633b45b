//! How fast the disk syncs the log: the mean of the last few seconds, and what is under way now.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Syncs of so long are summed up together.
const SLICE: Duration = Duration::from_millis(500);
/// And so many of those are looked back on: 3 s.
const SLICES: usize = 6;

#[derive(Debug, Default)]
struct Syncs {
    under_way: Option<Instant>,
    /// Begin, count and sum of each slice; the oldest first.
    slices: VecDeque<(Instant, u32, Duration)>,
}

/// Written by the log's one writer, read by whoever wants to know.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<Syncs>);

impl Pace {
    fn lock(&self) -> MutexGuard<'_, Syncs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, now: Instant) {
        self.lock().under_way = Some(now);
    }

    pub(crate) fn end(&self, now: Instant) {
        let mut syncs = self.lock();
        let Some(begun) = syncs.under_way.take() else { return };
        if syncs.slices.back().is_none_or(|(from, ..)| now.duration_since(*from) >= SLICE) {
            if syncs.slices.len() == SLICES {
                syncs.slices.pop_front();
            }
            syncs.slices.push_back((now, 0, Duration::ZERO));
        }
        if let Some((_, count, sum)) = syncs.slices.back_mut() {
            *count += 1;
            *sum += now.duration_since(begun);
        }
    }

    /// Time that a sync takes; `None` where there was none of late.
    pub(crate) fn mean(&self, now: Instant) -> Option<Duration> {
        let syncs = self.lock();
        let waited = syncs.under_way.map(|begun| now.duration_since(begun));
        let window = SLICE * u32::try_from(SLICES).unwrap_or(u32::MAX);
        let recent = syncs.slices.iter().filter(|(from, ..)| now.duration_since(*from) <= window);
        let (count, sum) =
            recent.fold((0, Duration::ZERO), |(n, all), (_, count, sum)| (n + count, all + *sum));
        let mean = (count > 0).then(|| sum / count);
        // A disk that hangs has no sync that ended.
        mean.max(waited.filter(|waited| mean.is_none_or(|mean| *waited > mean)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_of_late_and_a_sync_that_hangs_counts() {
        let (pace, start) = (Pace::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let sync = |from, to| {
            pace.begin(at(from));
            pace.end(at(to));
        };
        assert_eq!(pace.mean(at(0)), None);
        sync(0, 10);
        sync(20, 40);
        assert_eq!(pace.mean(at(40)), Some(Duration::from_millis(15)));
        pace.begin(at(50));
        assert_eq!(pace.mean(at(55)), Some(Duration::from_millis(15)));
        assert_eq!(pace.mean(at(950)), Some(Duration::from_millis(900)));
        pace.end(at(1_000));
        sync(6_000, 6_002);
        assert_eq!(pace.mean(at(6_002)), Some(Duration::from_millis(2)));
        assert_eq!(pace.mean(at(20_000)), None);
    }
}
