//! What goes on beside the log: snapshots, purging, and promoting learners that have caught up.

use crate::core::{CAUGHT_UP_ENTRIES, Core};
use crate::members;
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use stockroom_storage::error::StorageError;
use stockroom_storage::snapshot::SnapshotFile;
use stockroom_storage::type_config::TypeConfig;
use tokio::time::Instant;

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
async fn keep_log_short(core: &Arc<Core>) -> Result<(), Fatal<TypeConfig>> {
    let wanted = core.storage.wants_snapshot() || core.snapshots.was_refused();
    if wanted && core.snapshots.may_try() {
        let (core, ending) = (Arc::clone(core), core.ending.clone());
        // What it says is told where it is met.
        tokio::spawn(async move { ending.run_until_cancelled(write_snapshot(&core, u64::MAX)).await });
    }
    tell_of_snapshot(core).await?;
    let purged = core.raft.metrics().borrow_watched().purged.as_ref().map(|log_id| log_id.index());
    metrics::gauge!("stockroom_log_purged_index").set(purged.unwrap_or_default() as f64);
    if let Some(upto) = core.storage.purgeable()
        && purged.is_none_or(|purged| upto > purged)
    {
        core.raft.trigger().purge_log(upto).await?;
    }
    match core.storage.waits_for_room() {
        Some(error) => core.alarms.raise(
            CHECKPOINT_WAITS,
            format!("changes are in the log and in memory only: {error}"),
            MAKE_ROOM,
        ),
        None => core.alarms.clear(CHECKPOINT_WAITS),
    }
    Ok(())
}

const CHECKPOINT_WAITS: &str = "checkpoint_waits";
const SNAPSHOT_WAITS: &str = "snapshot_waits";
const MAKE_ROOM: &str = "make room on the disk of its data directory (RUNBOOK, \"Disk\"); nothing is lost meanwhile, and \
                         it is tried again by itself";
/// Before a snapshot file is tried again for which there was no room.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// Before openraft, which does not look for one while it is busy with another, is told again of a snapshot file.
const TELL_AGAIN: Duration = Duration::from_secs(2);

/// Snapshot files are written one at a time.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    turn: tokio::sync::Mutex<()>,
    not_before: Mutex<Option<Instant>>,
    /// Which one openraft was told of, as the index that it reaches, and when.
    told: Mutex<Option<(u64, Instant)>>,
}

impl Writing {
    fn not_before(&self) -> MutexGuard<'_, Option<Instant>> {
        self.not_before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One found no room: the alarm holds until one does.
    fn was_refused(&self) -> bool {
        self.not_before().is_some()
    }

    /// Whether openraft is to be told now of the file that reaches `log_index`.
    fn may_tell(&self, log_index: u64, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|(index, at)| index == log_index && now < at + TELL_AGAIN) {
            return false;
        }
        *told = Some((log_index, now));
        true
    }

    fn may_try(&self) -> bool {
        self.turn.try_lock().is_ok() && self.not_before().is_none_or(|at| Instant::now() >= at)
    }
}

/// Writes a snapshot file, unless there is one that reaches `enough`, and tells openraft of it. A disk that has no room
/// for it is an alarm, and the log stays as long as it is; any other error ends the node.
pub(crate) async fn write_snapshot(core: &Core, enough: u64) -> Result<SnapshotFile, StorageError> {
    let _turn = core.snapshots.turn.lock().await;
    let newest = core.storage.state_machine.newest_snapshot();
    if let Some(file) = newest.filter(|file| file.log_index() >= enough) {
        return Ok(file);
    }
    match core.storage.state_machine.prepare_snapshot().await {
        Ok(file) => {
            had_room(core);
            let told = tell_of_snapshot(core).await;
            told.map_err(|fatal| StorageError::Stopped(fatal.to_string()))?;
            Ok(file)
        }
        Err(error) => {
            if error.is_no_room() {
                no_room(core, &error);
            } else if !core.draining.load(Ordering::Relaxed) {
                core.stop.because(format!("its snapshot file cannot be written: {error}{}", error.advice()));
            }
            Err(error)
        }
    }
}

/// Tells openraft of a snapshot file that was prepared. Once: where it is told again after it took the file, it writes one
/// of its own.
async fn tell_of_snapshot(core: &Core) -> Result<(), Fatal<TypeConfig>> {
    let machine = &core.storage.state_machine;
    if let Some(file) = machine.newest_snapshot()
        && machine.has_prepared_snapshot()
        && core.snapshots.may_tell(file.log_index(), Instant::now())
    {
        core.raft.trigger().snapshot().await?;
    }
    Ok(())
}

/// The disk has no room for a snapshot file, of this node or of a peer.
pub(crate) fn no_room(core: &Core, error: &StorageError) {
    *core.snapshots.not_before() = Some(Instant::now() + TRY_AGAIN);
    core.alarms.raise(SNAPSHOT_WAITS, format!("a snapshot file has no room: {error}"), MAKE_ROOM);
}

/// There was room after all.
pub(crate) fn had_room(core: &Core) {
    *core.snapshots.not_before() = None;
    core.alarms.clear(SNAPSHOT_WAITS);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openraft_is_told_of_a_snapshot_once_and_again_where_it_did_not_take_it() {
        let (writing, now) = (Writing::default(), Instant::now());
        assert!(writing.may_tell(7, now) && !writing.may_tell(7, now));
        assert!(writing.may_tell(9, now), "a newer one");
        let later = now + TELL_AGAIN;
        assert!(writing.may_tell(9, later) && !writing.may_tell(9, later));
    }
}
