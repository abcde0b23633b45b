//! The replicated clock: the median of the voters' wall clocks, slewed.
//!
//! The leader stamps milliseconds into each entry; nothing below the proposer reads a clock. One
//! node's clock must not be able to expire every hold, so a stamp follows the median, moves at
//! most 5 % faster or slower than the leader's monotonic clock, and never goes back.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Reads this machine's clocks: a seam, so that a test can turn them.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The wall clock in ms since 1970. May jump either way.
    fn wall_ms(&self) -> u64;
    /// Time since some fixed moment. Never goes back.
    fn monotonic(&self) -> Duration;
}

/// The machine's own clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    origin: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock { origin: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }
}

/// A sample of a wall clock is used for so long; reports come ten times a second.
const SAMPLE_VALID: Duration = Duration::from_secs(5);
/// After a full outage the clock may jump to the median only where a majority is within this of it.
const JUMP_AGREEMENT_MS: u64 = 5_000;
/// A clock further than this off the median raises the alarm.
pub(crate) const OFFSET_ALARM_MS: i64 = 500;
/// A stamp moves by at least and at most so many thousandths of the monotonic time since the last.
const SLOWEST_PERMILLE: u128 = 950;
const FASTEST_PERMILLE: u128 = 1_050;

/// What a voter said of its clock, and when by the monotonic clock here.
#[derive(Debug, Clone, Copy)]
struct Sample {
    wall_ms: u64,
    heard: Duration,
    /// It has followed the replicated clock since it started.
    follows: bool,
}

/// The pure core: told the time, never asks for it.
#[derive(Debug, Default)]
pub(crate) struct ReplicatedClock {
    samples: BTreeMap<u64, Sample>,
    /// The newest stamp known here, in microseconds so that slow and fast add up, and when.
    last: Option<(u128, Duration)>,
    /// Whether this node has followed the replicated clock since it started: it applied a stamp
    /// made by a running leader, or made one.
    follows: bool,
}

impl ReplicatedClock {
    /// A voter's wall clock, as heard just now. `follows`: it has followed the replicated clock
    /// since it started.
    pub(crate) fn sample(&mut self, node_id: u64, wall_ms: u64, follows: bool, now: Duration) {
        self.samples.insert(node_id, Sample { wall_ms, heard: now, follows });
    }

    /// The newest stamp applied here. `live`: the leader says that it follows the clock; else the
    /// stamp was only read from disk, here or there, and says nothing of how long ago that was.
    pub(crate) fn applied(&mut self, stamp_ms: u64, live: bool, now: Duration) {
        let stamp = u128::from(stamp_ms) * 1_000;
        // Zero is no stamp: nothing was ever stamped in this cluster.
        if stamp > self.last.map_or(0, |(last, _)| last) {
            self.last = Some((stamp, now));
        }
        self.follows |= live;
    }

    /// Whether this node has followed the replicated clock since it started.
    pub(crate) fn follows(&self) -> bool {
        self.follows
    }

    /// The median of the fresh wall clocks of `voters`, where they are a majority of them.
    pub(crate) fn median_ms(&self, voters: &[u64], now: Duration) -> Option<u64> {
        let mut clocks: Vec<u64> =
            self.fresh(voters, now).map(|(_, sample)| Self::wall_now(sample, now)).collect();
        if clocks.len() * 2 <= voters.len() {
            return None;
        }
        clocks.sort_unstable();
        let middle = clocks.len() / 2;
        if clocks.len() % 2 == 1 {
            Some(clocks[middle])
        } else {
            Some(clocks[middle - 1] + (clocks[middle] - clocks[middle - 1]) / 2)
        }
    }

    /// How far a node's wall clock is ahead of the median, in ms.
    pub(crate) fn offset_ms(&self, node_id: u64, voters: &[u64], now: Duration) -> Option<i64> {
        let median = self.median_ms(voters, now)?;
        let nodes = [node_id];
        let (_, sample) = self.fresh(&nodes, now).next()?;
        Some(signed_difference(Self::wall_now(sample, now), median))
    }

    /// The stamp for an entry proposed now. `None` as long as the cluster never had a clock and no
    /// majority has said what time it is: rather wait than stamp 1970.
    pub(crate) fn stamp_ms(&mut self, voters: &[u64], now: Duration) -> Option<u64> {
        let median = self.median_ms(voters, now).map(|ms| u128::from(ms) * 1_000);
        let stamp = match (self.last, median) {
            (None, median) => median?,
            (Some((last, at)), median) => {
                let elapsed = now.saturating_sub(at).as_micros();
                let slowest = last + elapsed * SLOWEST_PERMILLE / 1_000;
                let fastest = last + elapsed * FASTEST_PERMILLE / 1_000;
                match median {
                    Some(median) if median > fastest && self.may_jump(voters, median, now) => median,
                    Some(median) => median.clamp(slowest, fastest),
                    None => last + elapsed,
                }
            }
        };
        // Once a majority was heard, this node and its peers have a common time to go on from.
        self.follows |= median.is_some();
        self.last = Some((stamp, now));
        Some(u64::try_from(stamp / 1_000).unwrap_or(u64::MAX))
    }

    /// The replicated clock now, without making a stamp.
    pub(crate) fn now_ms(&self, now: Duration) -> Option<u64> {
        let (last, at) = self.last?;
        u64::try_from((last + now.saturating_sub(at).as_micros()) / 1_000).ok()
    }

    /// After a full outage the time that passed is not known to any monotonic clock: where nobody
    /// in a majority has followed the replicated clock since it started, and a majority agrees on
    /// what time it is, the clock goes there at once. Any quorum that stamped while this
    /// majority was down would have left a follower in it.
    fn may_jump(&self, voters: &[u64], median: u128, now: Duration) -> bool {
        let majority = voters.len() / 2 + 1;
        let fresh: Vec<&Sample> = self.fresh(voters, now).map(|(_, sample)| sample).collect();
        let agreeing = fresh.iter().filter(|sample| {
            let wall = u128::from(Self::wall_now(sample, now)) * 1_000;
            wall.abs_diff(median) <= u128::from(JUMP_AGREEMENT_MS) * 1_000
        });
        !self.follows && fresh.iter().all(|sample| !sample.follows) && agreeing.count() >= majority
    }

    fn fresh<'a>(&'a self, nodes: &'a [u64], now: Duration) -> impl Iterator<Item = (u64, &'a Sample)> {
        nodes.iter().filter_map(move |node_id| {
            let sample = self.samples.get(node_id)?;
            (now.saturating_sub(sample.heard) <= SAMPLE_VALID).then_some((*node_id, sample))
        })
    }

    fn wall_now(sample: &Sample, now: Duration) -> u64 {
        let since = u64::try_from(now.saturating_sub(sample.heard).as_millis()).unwrap_or(u64::MAX);
        sample.wall_ms.saturating_add(since)
    }
}

fn signed_difference(left: u64, right: u64) -> i64 {
    let difference = i128::from(left) - i128::from(right);
    i64::try_from(difference).unwrap_or(if difference > 0 { i64::MAX } else { i64::MIN })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOTERS: [u64; 3] = [1, 2, 3];
    const HOUR_MS: u64 = 3_600_000;
    const NOON: u64 = 1_700_000_000_000;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// All three say their time, `offsets` away from noon plus `now`.
    fn hear(clock: &mut ReplicatedClock, now: u64, offsets: [i64; 3], follows: bool) {
        for (node_id, offset) in VOTERS.iter().zip(offsets) {
            clock.sample(*node_id, (NOON + now).saturating_add_signed(offset), follows, at(now));
        }
    }

    fn running() -> ReplicatedClock {
        let mut clock = ReplicatedClock::default();
        hear(&mut clock, 0, [0, 0, 0], false);
        assert_eq!(clock.stamp_ms(&VOTERS, at(0)), Some(NOON));
        clock
    }

    #[test]
    fn a_new_cluster_waits_for_a_majority_before_the_first_stamp() {
        let mut clock = ReplicatedClock::default();
        clock.sample(1, NOON, false, at(0));
        assert_eq!(clock.stamp_ms(&VOTERS, at(0)), None, "one of three is no majority");
        clock.sample(2, NOON + 4, false, at(0));
        assert_eq!(clock.stamp_ms(&VOTERS, at(0)), Some(NOON + 2));
    }

    #[test]
    fn a_cluster_that_never_had_a_stamp_shows_no_time() {
        let mut clock = ReplicatedClock::default();
        clock.applied(0, true, at(0));
        assert_eq!(clock.now_ms(at(5)), None, "5 ms after 1970 is no time to be off");
        clock.applied(NOON, true, at(10));
        assert_eq!(clock.now_ms(at(15)), Some(NOON + 5));
    }

    #[test]
    fn one_clock_that_jumps_by_hours_moves_nothing() {
        for jump in [3 * HOUR_MS as i64, -3 * HOUR_MS as i64] {
            for jumped in 0..3 {
                let mut clock = running();
                for tick in 1..=100 {
                    let mut offsets = [0; 3];
                    offsets[jumped] = jump;
                    hear(&mut clock, tick * 100, offsets, true);
                    assert_eq!(clock.stamp_ms(&VOTERS, at(tick * 100)), Some(NOON + tick * 100));
                }
            }
        }
    }

    #[test]
    fn a_majority_that_jumps_is_followed_by_a_twentieth_only() {
        let mut clock = running();
        hear(&mut clock, 10_000, [HOUR_MS as i64; 3], true);
        assert_eq!(clock.stamp_ms(&VOTERS, at(10_000)), Some(NOON + 10_500));
        let mut clock = running();
        hear(&mut clock, 10_000, [-(HOUR_MS as i64); 3], true);
        assert_eq!(clock.stamp_ms(&VOTERS, at(10_000)), Some(NOON + 9_500));
    }

    #[test]
    fn slewing_adds_up_however_often_it_stamps() {
        let mut clock = running();
        let mut stamp = None;
        for tick in 1..=10_000 {
            hear(&mut clock, tick, [HOUR_MS as i64; 3], true);
            stamp = clock.stamp_ms(&VOTERS, at(tick));
        }
        assert_eq!(stamp, Some(NOON + 10_500));
    }

    #[test]
    fn never_goes_back() {
        let mut clock = running();
        let mut last = 0;
        for tick in 0..1_000_u64 {
            // Clocks all over the place, and gone for a while.
            let wild = |seed: u64| ((tick * seed * 7_919) % (2 * HOUR_MS)) as i64 - HOUR_MS as i64;
            if tick % 200 < 100 {
                hear(&mut clock, tick * 37, [wild(1), wild(3), wild(5)], tick % 2 == 0);
            }
            clock.applied(NOON.saturating_sub(tick), true, at(tick * 37));
            let stamp = clock.stamp_ms(&VOTERS, at(tick * 37)).expect("it had one before");
            assert!(stamp >= last, "{stamp} after {last}");
            last = stamp;
        }
    }

    #[test]
    fn without_a_majority_it_goes_on_by_the_monotonic_clock() {
        let mut clock = running();
        clock.sample(1, NOON + HOUR_MS, true, at(60_000));
        assert_eq!(clock.stamp_ms(&VOTERS, at(60_000)), Some(NOON + 60_000));
    }

    #[test]
    fn a_new_leader_goes_on_from_what_it_applied() {
        let mut clock = ReplicatedClock::default();
        clock.applied(NOON, true, at(1_000));
        hear(&mut clock, 3_000, [HOUR_MS as i64; 3], true);
        assert_eq!(
            clock.stamp_ms(&VOTERS, at(3_000)),
            Some(NOON + 2_100),
            "2 s later, 5 % faster at the most"
        );
    }

    #[test]
    fn after_a_full_outage_it_jumps_where_a_majority_agrees() {
        let mut clock = ReplicatedClock::default();
        clock.applied(NOON, false, at(0));
        hear(&mut clock, 100, [8 * HOUR_MS as i64, 8 * HOUR_MS as i64 + 4_000, 0], false);
        assert_eq!(clock.stamp_ms(&VOTERS, at(100)), Some(NOON + 8 * HOUR_MS + 100));
        // Only once: from here on it slews.
        hear(&mut clock, 200, [20 * HOUR_MS as i64; 3], false);
        assert_eq!(clock.stamp_ms(&VOTERS, at(200)), Some(NOON + 8 * HOUR_MS + 205));
    }

    #[test]
    fn after_a_full_outage_it_does_not_jump_where_nobody_agrees() {
        let mut clock = ReplicatedClock::default();
        clock.applied(NOON, false, at(0));
        hear(&mut clock, 100, [HOUR_MS as i64, 8 * HOUR_MS as i64, 20 * HOUR_MS as i64], false);
        assert_eq!(clock.stamp_ms(&VOTERS, at(100)), Some(NOON + 105));
    }

    #[test]
    fn a_restarted_leader_does_not_jump_while_a_peer_kept_the_time() {
        let mut clock = ReplicatedClock::default();
        clock.applied(NOON, false, at(0));
        hear(&mut clock, 100, [HOUR_MS as i64; 3], false);
        clock.sample(2, NOON + 100 + HOUR_MS, true, at(100));
        assert_eq!(clock.stamp_ms(&VOTERS, at(100)), Some(NOON + 105));
    }

    #[test]
    fn says_how_far_a_clock_is_off() {
        let mut clock = running();
        hear(&mut clock, 100, [-700, 0, 3], true);
        assert_eq!(clock.offset_ms(1, &VOTERS, at(100)), Some(-700));
        assert_eq!(clock.offset_ms(3, &VOTERS, at(100)), Some(3));
        assert_eq!(clock.offset_ms(3, &VOTERS, at(6_000)), None, "too long ago");
    }
}
