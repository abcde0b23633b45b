//! Room on the disks: an alarm while there is still some, a refusal of what can wait before there is none.
//!
//! Each node looks at its own disk and says in its reports what it found. The leader decides, when it takes
//! proposals from the queue: what begins something new is refused while the voters that answer and have room are no
//! majority. So one full disk takes nobody down: that node goes on as long as it can write, and the others go on
//! without it. A leader whose own disk is full lets a voter with room lead. What goes on with, or ends, what is there
//! (confirm, cancel, pay, ship) is taken until the log itself cannot be written.

use crate::core::Core;
use crate::error::ProposeError;
use crate::proposer::Item;
use crate::proto::NodeReport;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use stockroom_storage::codec::decode_proposal;
use stockroom_storage::fs::Space;
use tokio::time::Instant;

/// Between two looks at the disk: at 1 GB/s it loses a quarter of a gigabyte in between.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two attempts to hand leadership over.
const AGAIN: Duration = Duration::from_secs(10);
/// A voter that was not heard for so long does not count as having room.
const SILENT: Duration = Duration::from_secs(3);
/// Where nothing is set: little room is less than this, or than a tenth of the disk.
const LOW_BYTES: u64 = 2 << 30;
const LOW_SHARE: u64 = 10;
/// Where nothing is set: the disk counts as full with less than this, or than a twentieth of it. It is what cancels,
/// releases, a checkpoint and the snapshot file that shortens the log still need.
const FULL_BYTES: u64 = 512 << 20;
const FULL_SHARE: u64 = 20;
/// A mark that was passed holds until there is an eighth more than it, so that nothing flickers.
const CLEARS_WITH_SHARE: u64 = 8;

const LOW: &str = "disk_low";
const FULL: &str = "disk_full";
const NEXT: &str = "make room on the disk of its data directory, or move the data directory of the stopped node to a \
                    larger one (RUNBOOK, \"Disk\"); it clears by itself";

/// How much room a disk must have, in free bytes; `None`: by the size of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskMarks {
    /// Below it there is an alarm.
    pub low_bytes: Option<u64>,
    /// Below it, what begins something new is refused. At most `low_bytes`.
    pub full_bytes: Option<u64>,
}

impl DiskMarks {
    /// In free bytes, of a disk of this size: (low, full).
    fn of(self, total: u64) -> (u64, u64) {
        let low = self.low_bytes.unwrap_or_else(|| LOW_BYTES.min(total / LOW_SHARE));
        let full = self.full_bytes.unwrap_or_else(|| FULL_BYTES.min(total / FULL_SHARE));
        (low, full.min(low))
    }

    /// What there is on a disk that had `before`.
    fn room(self, before: Room, space: Space) -> Room {
        let (low, full) = self.of(space.total);
        let passed = |mark: u64, was: bool| {
            space.free < if was { mark.saturating_add(mark / CLEARS_WITH_SHARE) } else { mark }
        };
        if passed(full, before == Room::Full) {
            Room::Full
        } else if passed(low, before >= Room::Low) {
            Room::Low
        } else {
            Room::Enough
        }
    }
}

/// How much room a disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Room {
    /// More than the marks.
    #[default]
    Enough,
    /// Somebody should look after it.
    Low,
    /// Nothing new is begun.
    Full,
}

impl Room {
    /// As reports have it: 0 stands for "not known".
    fn number(self) -> u8 {
        match self {
            Room::Enough => 1,
            Room::Low => 2,
            Room::Full => 3,
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        [Room::Enough, Room::Low, Room::Full].into_iter().find(|room| u32::from(room.number()) == number)
    }
}

/// A node's disk, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskReport {
    /// In bytes.
    pub space: Space,
    /// Of that, by its own marks.
    pub room: Room,
}

/// From a report; `None` of a node that cannot say.
pub(crate) fn reported(report: &NodeReport) -> Option<DiskReport> {
    let room = Room::from_number(report.disk_room)?;
    Some(DiskReport { space: Space { total: report.disk_bytes, free: report.disk_free_bytes }, room })
}

/// What a node knows of its own disk, and what it makes of all of them where it leads.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    space: Mutex<Option<Space>>,
    room: AtomicU8,
    refuses: AtomicBool,
}

impl Disk {
    fn report(&self) -> Option<DiskReport> {
        let space = (*self.space.lock().unwrap_or_else(PoisonError::into_inner))?;
        let room = Room::from_number(self.room.load(Ordering::Relaxed).into())?;
        Some(DiskReport { space, room })
    }

    /// Adds it to what this node says of itself.
    pub(crate) fn say(&self, report: &mut NodeReport) {
        if let Some(DiskReport { space, room }) = self.report() {
            (report.disk_bytes, report.disk_free_bytes) = (space.total, space.free);
            report.disk_room = room.number().into();
        }
    }

    /// Whether this node, as leader, takes nothing that begins something new.
    pub(crate) fn refuses(&self) -> bool {
        self.refuses.load(Ordering::Relaxed)
    }
}

/// Looks at this node's disk as long as it is a member.
pub(crate) async fn watch(core: Arc<Core>) {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut room = Room::Enough;
    let mut handed_over: Option<Instant> = None;
    loop {
        interval.tick().await;
        let (fs, dir) = (Arc::clone(&core.options.storage.fs), core.options.dir.clone());
        // A disk that hangs must not hold up anything else.
        let Ok(Ok(space)) = tokio::task::spawn_blocking(move || fs.space(&dir)).await else { continue };
        room = core.options.disk_marks.room(room, space);
        note(&core, room, space);
        if room == Room::Full
            && core.leadership.borrow().mine
            && !core.disk.refuses()
            && handed_over.is_none_or(|at| at.elapsed() >= AGAIN)
        {
            handed_over = Some(Instant::now());
            hand_over(&core).await;
        }
    }
}

fn note(core: &Core, room: Room, space: Space) {
    *core.disk.space.lock().unwrap_or_else(PoisonError::into_inner) = Some(space);
    core.disk.room.store(room.number(), Ordering::Relaxed);
    metrics::gauge!("stockroom_disk_room").set(match room {
        Room::Enough => 0.0,
        Room::Low => 1.0,
        Room::Full => 2.0,
    });
    let (low, full) = core.options.disk_marks.of(space.total);
    let text = |mark: u64| {
        let (dir, free, total) = (core.options.dir.display(), mib(space.free), mib(space.total));
        format!("the disk of {dir} has {free} MiB free of {total} MiB, below the mark of {} MiB", mib(mark))
    };
    if room == Room::Low {
        core.alarms.raise(LOW, text(low), NEXT)
    } else {
        core.alarms.clear(LOW)
    }
    if room == Room::Full { core.alarms.raise(FULL, text(full), NEXT) } else { core.alarms.clear(FULL) }
}

/// In tenths, as far as they count.
fn mib(bytes: u64) -> String {
    let tenths = bytes / ((1 << 20) / 10);
    if tenths < 1_000 { format!("{}.{}", tenths / 10, tenths % 10) } else { (bytes >> 20).to_string() }
}

/// A leader that is out of room would be the first to end: a voter with room leads on.
async fn hand_over(core: &Arc<Core>) {
    let has_room = |node_id| {
        let report = core.board().of(node_id).and_then(|heard| reported(&heard.report));
        report.is_some_and(|disk| disk.room < Room::Full)
    };
    let Some(successor) = core.successor(has_room) else { return };
    tracing::warn!(successor, "this leader's disk is full: it hands leadership over");
    if let Err(error) = core.raft.trigger().transfer_leader(successor).await {
        tracing::warn!(%error, "leadership could not be handed over");
    }
}

/// The voters whose disks are full, where they are the reason that too few are left that have room.
fn full_voters(core: &Core) -> Vec<u64> {
    let (own, voters, board) = (core.node_id(), core.voters(), core.board());
    let standing = voters.iter().map(|node_id| {
        let heard = board.of(*node_id);
        let room = heard.and_then(|heard| reported(&heard.report)).map(|disk| disk.room);
        let answers = *node_id == own || heard.is_some_and(|heard| heard.at.elapsed() < SILENT);
        (*node_id, answers, room)
    });
    too_few(standing.collect::<Vec<_>>().as_slice())
}

/// Of each voter: whether it answers, and its room where it can say. Empty where those that answer and are not full
/// are a majority, and where nobody who answers is full: then room is not what is missing.
fn too_few(voters: &[(u64, bool, Option<Room>)]) -> Vec<u64> {
    let is_full = |room: &Option<Room>| *room == Some(Room::Full);
    let with_room = voters.iter().filter(|(_, answers, room)| *answers && !is_full(room)).count();
    if with_room * 2 > voters.len() {
        return Vec::new();
    }
    let full = voters.iter().filter(|(_, answers, room)| *answers && is_full(room));
    full.map(|(node_id, ..)| *node_id).collect()
}

/// Ten times a second.
pub(crate) fn decide(core: &Core, leads: bool) {
    let full = if leads { full_voters(core) } else { Vec::new() };
    let refuses = !full.is_empty();
    if core.disk.refuses.swap(refuses, Ordering::Relaxed) != refuses {
        if refuses {
            tracing::error!(nodes = ?full, "too few disks have room: nothing new is begun until there is some");
        } else {
            tracing::info!("new orders are taken again, or another node leads");
        }
    }
}

/// Refuses, of what was taken from the queue, what begins something new; gives the rest.
pub(crate) fn refuse(core: &Core, items: Vec<Item>) -> Vec<Item> {
    let nodes = full_voters(core);
    let (refused, taken): (Vec<Item>, Vec<Item>) =
        items.into_iter().partition(|item| !nodes.is_empty() && begins_something(core, item));
    metrics::counter!("stockroom_disk_refusals_total").increment(refused.len() as u64);
    for item in refused {
        item.finish(Err(ProposeError::DiskFull { nodes: nodes.clone() }));
    }
    taken
}

fn begins_something(core: &Core, item: &Item) -> bool {
    // What cannot be read is not for this to judge.
    let Ok(proposal) = decode_proposal(&item.proposal.0) else { return false };
    if !proposal.command.begins_something() {
        return false;
    }
    // Done before: it hears its answer again.
    let known = |key| core.reader.view().and_then(|view| view.outcome(key)).is_ok_and(|kept| kept.is_some());
    !proposal.idempotency_key.as_ref().is_some_and(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const NOBODY: [u64; 0] = [];

    #[test]
    fn marks_go_by_the_size_of_the_disk_unless_they_are_set() {
        let by_size = DiskMarks::default();
        assert_eq!(by_size.of(1_000 * GIB), (2 * GIB, GIB / 2));
        assert_eq!(by_size.of(10 * GIB), (GIB, GIB / 2));
        assert_eq!(by_size.of(1_000), (100, 50));
        let set = DiskMarks { low_bytes: Some(300), full_bytes: Some(900) };
        assert_eq!(set.of(1_000), (300, 300), "full is never above low");
    }

    #[test]
    fn a_mark_holds_until_there_is_clearly_more() {
        let marks = DiskMarks { low_bytes: Some(800), full_bytes: Some(400) };
        let mut room = Room::Enough;
        let mut seen = Vec::new();
        for free in [900, 800, 799, 850, 899, 900, 500, 399, 449, 450, 899, 901] {
            room = marks.room(room, Space { total: 10_000, free });
            seen.push(room);
        }
        let (enough, low, full) = (Room::Enough, Room::Low, Room::Full);
        let expected = [enough, enough, low, low, low, enough, low, full, full, low, low, enough];
        assert_eq!(seen, expected);
    }

    #[test]
    fn new_things_are_refused_when_the_voters_with_room_are_no_majority() {
        let (enough, full) = (Some(Room::Enough), Some(Room::Full));
        let of = |voters: &[(bool, Option<Room>)]| {
            let voters = voters.iter().zip(1..).map(|((answers, room), id)| (id, *answers, *room));
            too_few(&voters.collect::<Vec<_>>())
        };
        assert_eq!(of(&[(true, enough), (true, enough), (true, full)]), NOBODY, "one full disk of three");
        assert_eq!(of(&[(true, full), (true, enough), (true, enough)]), NOBODY, "the leader's is no other");
        assert_eq!(of(&[(true, enough), (true, full), (true, full)]), [2, 3]);
        assert_eq!(of(&[(true, enough), (false, enough), (true, full)]), [3], "the second one is gone");
        assert_eq!(
            of(&[(true, enough), (false, full), (false, None)]),
            NOBODY,
            "nobody's room is in the way"
        );
        assert_eq!(of(&[(true, full)]), [1]);
        assert_eq!(
            of(&[(true, None), (true, Some(Room::Low))]),
            NOBODY,
            "who cannot say is not taken for full"
        );
    }

    #[test]
    fn a_report_says_all_of_it_or_nothing() {
        let mut report = NodeReport::default();
        let disk = Disk::default();
        disk.say(&mut report);
        assert_eq!(reported(&report), None);
        let space = Space { total: 9, free: 3 };
        *disk.space.lock().expect("no panic") = Some(space);
        disk.room.store(Room::Low.number(), Ordering::Relaxed);
        disk.say(&mut report);
        assert_eq!(reported(&report), Some(DiskReport { space, room: Room::Low }));
    }
}
