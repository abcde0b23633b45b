//! Leader only: proposes `Tick` when a deadline is due and nothing else is coming.
//!
//! Every entry lets time pass, so a busy cluster needs no tick. On an idle one, what is due must
//! show within 500 ms.

use crate::core::Core;
use crate::proposer::{Group, Item, Origin};
use std::sync::Arc;
use std::time::Duration;
use stockroom_storage::codec::encode_proposal;
use stockroom_storage::shop::command::Command;
use tokio::time::Instant;

/// Looks so often whether something is due: leaves most of the 500 ms for the entry itself.
const INTERVAL: Duration = Duration::from_millis(100);
/// A tick that is not through by then is given up; the next look proposes another.
const DEADLINE: Duration = Duration::from_secs(2);

/// Proposes ticks as long as this node leads and runs.
pub(crate) async fn run(core: Arc<Core>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_applied = 0;
    loop {
        interval.tick().await;
        if !core.leadership.borrow().mine {
            continue;
        }
        let applied = core.reader.applied().fingerprint.log_index;
        // Entries came since the last look: they have let time pass. What they left due is seen
        // at the next look.
        let others_came = std::mem::replace(&mut last_applied, applied) != applied;
        if others_came {
            continue;
        }
        // Goes on while due work remains: one step frees a bounded number.
        while is_due(&core) && tick(&core).await {
            last_applied = core.reader.applied().fingerprint.log_index;
        }
    }
}

fn is_due(core: &Core) -> bool {
    let Some(now) = core.clock().now_ms(core.time.monotonic()) else { return false };
    match core.reader.next_due() {
        Ok(due) => due.is_some_and(|due| due.0 <= now),
        Err(error) => {
            tracing::error!(%error, "what is due next cannot be read");
            false
        }
    }
}

/// True where the tick was applied.
async fn tick(core: &Core) -> bool {
    let group = Group::new(1);
    let deadline = Instant::now() + DEADLINE;
    core.queue.push_all([Item {
        proposal: encode_proposal(None, Command::Tick),
        deadline,
        origin: Origin::Caller { group: Arc::clone(&group), slot: 0, _permit: None },
    }]);
    metrics::counter!("stockroom_raft_ticks_total").increment(1);
    group.wait(deadline, || true).await.iter().all(Result::is_ok)
}
