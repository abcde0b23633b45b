//! What goes on beside the log: snapshots, purging, and promoting learners that have caught up.

use crate::core::{CAUGHT_UP_ENTRIES, Core};
use crate::members;
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Looks so often.
const INTERVAL: Duration = Duration::from_millis(200);

/// Runs as long as this node is a member.
pub(crate) async fn run(core: Arc<Core>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut half_done_since = None;
    loop {
        interval.tick().await;
        if let Err(error) = keep_log_short(&core).await {
            tracing::warn!(%error, "openraft does not take orders any more");
            return;
        }
        promote(&core).await;
        members::complete_half_done(&core, &mut half_done_since).await;
    }
}

/// openraft's own policies are off: a snapshot is written by the size of the log, and the log is
/// purged only behind a snapshot file that was read back.
async fn keep_log_short(
    core: &Core,
) -> Result<(), openraft::errors::Fatal<stockroom_storage::type_config::TypeConfig>> {
    if core.storage.wants_snapshot() {
        core.raft.trigger().snapshot().await?;
    }
    let purged = core.raft.metrics().borrow_watched().purged.as_ref().map(|log_id| log_id.index());
    metrics::gauge!("stockroom_log_purged_index").set(purged.unwrap_or_default() as f64);
    if let Some(upto) = core.storage.purgeable()
        && purged.is_none_or(|purged| upto > purged)
    {
        core.raft.trigger().purge_log(upto).await?;
    }
    Ok(())
}

/// The leader makes voters of learners that want it and have caught up, one at a time.
async fn promote(core: &Core) {
    if !core.leadership.borrow().mine {
        return;
    }
    let candidate = {
        let metrics = core.raft.metrics();
        let metrics = metrics.borrow_watched().clone();
        let last = metrics.last_log_index.unwrap_or_default();
        let Some(replication) = metrics.replication else { return };
        let caught_up = |node_id: &u64| {
            replication
                .get(node_id)
                .and_then(Option::as_ref)
                .is_some_and(|matched| last.saturating_sub(matched.index()) <= CAUGHT_UP_ENTRIES)
        };
        let learners = core.members().into_iter().filter(|(_, (member, votes))| !votes && member.promote);
        learners.map(|(node_id, _)| node_id).find(caught_up)
    };
    let Some(node_id) = candidate else { return };
    // It must answer, and not be far behind in applying either: it may lead next.
    let committed = core.committed();
    let ready = core.board().of(node_id).is_some_and(|heard| {
        heard.at.elapsed() < Duration::from_secs(1)
            && committed.saturating_sub(heard.report.log_index) <= CAUGHT_UP_ENTRIES
    });
    if !ready {
        return;
    }
    let change = ChangeMembers::AddVoterIds(BTreeSet::from([node_id]));
    match core.raft.change_membership(change, true).await {
        Ok(_) => tracing::info!(node_id, "a learner has caught up and is a voter now"),
        Err(error) => tracing::debug!(node_id, %error, "a learner could not be promoted yet"),
    }
}
