//! A leader whose disk is far slower than the others' lets another lead: every answer waits for the leader's disk,
//! and only for the fastest of the others'.

use crate::core::Core;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Below this a sync is no trouble, however fast the others are: leadership that moves costs more.
const SLOW: Duration = Duration::from_millis(50);
/// How many times the others' sync time is far above it.
const FACTOR: u32 = 5;
/// It must go on for so long: a single long sync is none of it.
const FOR: Duration = Duration::from_secs(3);
/// Between two attempts to hand over.
const AGAIN: Duration = Duration::from_secs(10);

/// Whether a sync time is far above another.
fn is_far_above(own: Duration, other: Duration) -> bool {
    own >= SLOW && own >= other * FACTOR
}

/// What a leader remembers of it.
#[derive(Debug, Default)]
pub(crate) struct SlowDisk {
    since: Option<Instant>,
    acted: Option<Instant>,
}

impl SlowDisk {
    /// Whether to hand over now. `others` are the sync times of voters that could lead.
    fn is_time(&mut self, own: Option<Duration>, others: &[Duration], now: Instant) -> bool {
        let slow = own.is_some_and(|own| others.iter().any(|other| is_far_above(own, *other)));
        if !slow {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let due = now.duration_since(since) >= FOR
            && self.acted.is_none_or(|acted| now.duration_since(acted) >= AGAIN);
        if due {
            self.acted = Some(now);
        }
        due
    }

    /// Ten times a second, of the leader.
    pub(crate) async fn look(&mut self, core: &Arc<Core>) {
        let own = core.storage.log.sync_time();
        let time_of = |node_id| core.board().of(node_id).and_then(|heard| sync_time(heard.report.sync_us));
        let own_id = core.node_id();
        let others: Vec<Duration> =
            core.voters().into_iter().filter(|id| *id != own_id).filter_map(time_of).collect();
        if !self.is_time(own, &others, Instant::now()) {
            return;
        }
        let own = own.unwrap_or_default();
        metrics::counter!("stockroom_raft_slow_disk_alarms_total").increment(1);
        let fast = |node_id| time_of(node_id).is_some_and(|other| is_far_above(own, other));
        let successor = core.successor(fast);
        tracing::error!(
            sync_ms = ms(own),
            others_sync_ms = ?others.iter().map(|other| ms(*other)).collect::<Vec<_>>(),
            successor,
            "this leader's disk syncs far more slowly than the others': it hands leadership over; look after its disk"
        );
        if let Some(successor) = successor
            && let Err(error) = core.raft.trigger().transfer_leader(successor).await
        {
            tracing::warn!(%error, "leadership could not be handed over");
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// As reports have it: 0 where nothing was synced of late.
pub(crate) fn as_reported(time: Option<Duration>) -> u64 {
    time.map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1))
}

/// From a report.
pub(crate) fn sync_time(sync_us: u64) -> Option<Duration> {
    (sync_us > 0).then(|| Duration::from_micros(sync_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_must_be_far_slower_than_another_for_a_while() {
        let (mut slow, start) = (SlowDisk::default(), Instant::now());
        let ms = Duration::from_millis;
        let at = |ms| start + Duration::from_millis(ms);
        assert!(!slow.is_time(Some(ms(300)), &[ms(2), ms(200)], at(0)));
        assert!(!slow.is_time(Some(ms(300)), &[ms(2), ms(200)], at(2_900)));
        assert!(slow.is_time(Some(ms(300)), &[ms(2), ms(200)], at(3_000)));
        // Once, then not again for a while.
        assert!(!slow.is_time(Some(ms(300)), &[ms(2)], at(3_100)));
        assert!(slow.is_time(Some(ms(300)), &[ms(2)], at(13_100)));
        // A single good look begins it anew.
        assert!(!slow.is_time(Some(ms(3)), &[ms(2)], at(30_000)));
        assert!(!slow.is_time(Some(ms(300)), &[ms(2)], at(30_100)));
    }

    #[test]
    fn disks_that_are_all_slow_or_fast_enough_are_no_reason() {
        let (mut slow, start) = (SlowDisk::default(), Instant::now());
        let ms = Duration::from_millis;
        for (own, others) in [
            (Some(ms(300)), vec![ms(100), ms(200)]),
            (Some(ms(40)), vec![ms(1)]),
            (None, vec![ms(1)]),
            (Some(ms(300)), vec![]),
        ] {
            assert!(!slow.is_time(own, &others, start));
            assert!(!slow.is_time(own, &others, start + Duration::from_secs(60)), "{own:?} {others:?}");
        }
    }
}
