//! Where each entry lies, and the recent ones themselves. What readers see.

use super::points::Change;
use super::record;
use super::segment::Segment;
use crate::codec::{LogId, LogPoints, Payload};
use crate::error::StorageError;
use openraft::vote::leader_id_std::CommittedLeaderId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Marks a slot whose entry is not written yet; the rest is the change's sequence number.
const PENDING: u64 = 1 << 63;

/// Where one entry lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    term: u64,
    /// Generation of the segment, or [`PENDING`] and a sequence number.
    place: u64,
    /// Bytes of log up to the end of this entry, counted from some point.
    end: u64,
    offset: u32,
    /// Bytes of the payload.
    length: u32,
}

impl Slot {
    pub(crate) fn generation(&self) -> Option<u64> {
        (self.place & PENDING == 0).then_some(self.place)
    }

    pub(crate) fn offset(&self) -> u64 {
        u64::from(self.offset)
    }

    pub(crate) fn length(&self) -> u32 {
        self.length
    }

    pub(crate) fn log_id(&self, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(self.term), index)
    }

    /// Bytes of the whole record.
    pub(crate) fn bytes(&self) -> u64 {
        record::record_bytes(self.length as usize) as u64
    }

    pub(crate) fn move_to(&mut self, generation: u64, offset: u64) {
        self.place = generation;
        self.offset = u32::try_from(offset).expect("segments are shorter than 4 GiB");
    }
}

/// The slots of consecutive entries.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: VecDeque<Slot>,
    /// Index after the last slot's.
    next: u64,
}

impl Slots {
    pub(crate) fn first(&self) -> u64 {
        self.next - self.slots.len() as u64
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first())?).ok()?)
    }

    fn get_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let at = index.checked_sub(self.first())?;
        self.slots.get_mut(usize::try_from(at).ok()?)
    }

    pub(crate) fn log_id(&self, index: u64) -> Option<LogId> {
        Some(self.get(index)?.log_id(index))
    }

    /// Adds the entry after the last one; to an empty list, any entry.
    pub(crate) fn push(&mut self, log_id: &LogId, place: u64, offset: u64, length: u32) {
        debug_assert!(self.slots.is_empty() || self.next == log_id.index, "entries are consecutive");
        let before = self.slots.back().map_or(0, |slot| slot.end);
        let term = log_id.committed_leader_id().term;
        let mut slot = Slot { term, place, end: before, offset: 0, length };
        slot.move_to(place, offset);
        slot.end += slot.bytes();
        self.slots.push_back(slot);
        self.next = log_id.index + 1;
    }

    /// Keeps entries up to `last`.
    pub(crate) fn truncate(&mut self, last: Option<u64>) {
        let next = last.map_or(0, |last| last + 1).min(self.next);
        let kept = next.saturating_sub(self.first());
        self.slots.truncate(usize::try_from(kept).expect("as many as are in memory"));
        self.next = next;
    }

    /// Keeps entries from `first` on.
    pub(crate) fn drop_before(&mut self, first: u64) {
        let dropped = first.saturating_sub(self.first()).min(self.slots.len() as u64);
        self.slots.drain(..usize::try_from(dropped).expect("as many as are in memory"));
        if self.slots.is_empty() {
            self.next = self.next.max(first);
        }
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Slot)> {
        let first = self.first();
        self.slots.iter_mut().enumerate().map(move |(at, slot)| (first + at as u64, slot))
    }

    /// Bytes of the records that lie in the segment of this generation.
    pub(crate) fn bytes_in(&self, generation: u64) -> u64 {
        let here = self.slots.iter().filter(|slot| slot.generation() == Some(generation));
        here.map(Slot::bytes).sum()
    }

    /// The last entry of which `wanted` holds.
    pub(crate) fn last_where(&self, wanted: impl Fn(&Slot) -> bool) -> Option<LogId> {
        let at = self.slots.iter().rposition(wanted)?;
        self.log_id(self.first() + at as u64)
    }

    /// Bytes of log that the entries after `index` take.
    pub(crate) fn bytes_after(&self, index: Option<u64>) -> u64 {
        let Some(last) = self.slots.back() else { return 0 };
        let from = index.map_or(0, |index| index + 1).max(self.first());
        match self.get(from) {
            Some(slot) => last.end - slot.end + slot.bytes(),
            None => 0,
        }
    }

    /// The last index that has at least `bytes` of log behind it.
    pub(crate) fn index_before_bytes(&self, bytes: u64) -> Option<u64> {
        let end = self.slots.back()?.end;
        let kept = self.slots.partition_point(|slot| end - slot.end >= bytes) as u64;
        (kept > 0).then(|| self.first() + kept - 1)
    }
}

/// A segment that holds entries or other changes that still count.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) segment: Arc<Segment>,
    /// The highest index of the entries that were written into it.
    pub(crate) last_index: Option<u64>,
}

/// What a reader has to do to get one entry.
#[derive(Debug)]
pub(crate) enum Piece {
    Recent(LogId, Payload),
    OnDisk { log_id: LogId, segment: Arc<Segment>, offset: u64, length: u32 },
}

/// What the front of the log knows. Behind one mutex that is never held while waiting.
pub(crate) struct Table {
    pub(crate) points: LogPoints,
    pub(crate) slots: Slots,
    pub(crate) segments: BTreeMap<u64, Held>,
    /// Payloads of the last entries, and their bytes.
    recent: VecDeque<(Payload, usize)>,
    recent_bytes: usize,
    cache_bytes: usize,
    sequence: u64,
    /// Changes that are not durable yet: sequence number, and the index that is the last durable one
    /// once it is.
    unsynced: VecDeque<(u64, u64)>,
    durable: u64,
    /// Bytes that the writer has not taken yet.
    pub(crate) queued_bytes: usize,
    pub(crate) poisoned: Option<StorageError>,
    /// The writer has sealed the log and sleeps.
    pub(crate) idle: bool,
}

impl Table {
    /// A table of what is on disk.
    pub(crate) fn new(
        points: LogPoints,
        slots: Slots,
        segments: BTreeMap<u64, Held>,
        cache_bytes: usize,
    ) -> Self {
        let durable = points.last_index().unwrap_or(0);
        Table {
            points,
            slots,
            segments,
            recent: VecDeque::new(),
            recent_bytes: 0,
            cache_bytes,
            sequence: 0,
            unsynced: VecDeque::new(),
            durable,
            queued_bytes: 0,
            poisoned: None,
            idle: false,
        }
    }

    /// Makes a change that [`Table::points`] allows, in memory; answers its sequence number.
    pub(crate) fn apply(&mut self, change: &Change, payload_bytes: usize) -> u64 {
        self.sequence += 1;
        self.points.apply(change);
        match change {
            Change::Entry { log_id, payload } => {
                let length = u32::try_from(payload_bytes).expect("payloads are limited where they come in");
                self.slots.push(log_id, PENDING | self.sequence, 0, length);
                self.recent.push_back((payload.clone(), payload_bytes));
                self.recent_bytes += payload_bytes;
                self.unsynced.push_back((self.sequence, log_id.index));
                self.evict();
            }
            Change::Truncate(after) => self.truncate(after.as_ref().map(|id| id.index)),
            Change::Purge(upto) => {
                self.slots.drop_before(self.points.first);
                while self.recent.len() > self.slots.len() {
                    self.forget_oldest_recent();
                }
                self.unsynced.push_back((self.sequence, upto.index));
            }
            _ => {}
        }
        self.sequence
    }

    fn truncate(&mut self, last: Option<u64>) {
        let before = self.slots.next;
        self.slots.truncate(last);
        for _ in self.slots.next..before {
            let Some((_, bytes)) = self.recent.pop_back() else { break };
            self.recent_bytes -= bytes;
        }
        // An index that is written anew is durable only when its new entry is.
        let last = last.unwrap_or(0);
        for (_, index) in &mut self.unsynced {
            *index = last.min(*index);
        }
        self.durable = self.durable.min(last);
    }

    fn forget_oldest_recent(&mut self) {
        if let Some((_, bytes)) = self.recent.pop_front() {
            self.recent_bytes -= bytes;
        }
    }

    /// Keeps the recent payloads within their limit, but for those that are nowhere else yet.
    fn evict(&mut self) {
        while self.recent_bytes > self.cache_bytes {
            let oldest = self.slots.next - self.recent.len() as u64;
            if self.slots.get(oldest).is_none_or(|slot| slot.generation().is_none()) {
                break;
            }
            self.forget_oldest_recent();
        }
    }

    /// The entry that was given `sequence` is written, if it still counts.
    pub(crate) fn placed(&mut self, written: &Written) {
        let held = self.segments.get_mut(&written.generation).expect("the writer's segment is held");
        held.last_index = held.last_index.max(Some(written.index));
        if let Some(slot) = self.slots.get_mut(written.index)
            && slot.place == PENDING | written.sequence
        {
            slot.move_to(written.generation, written.offset);
        }
    }

    /// All changes up to `sequence` are durable; answers the last durable index.
    pub(crate) fn synced(&mut self, sequence: u64) -> u64 {
        while let Some((first, index)) = self.unsynced.front()
            && *first <= sequence
        {
            self.durable = self.durable.max(*index);
            self.unsynced.pop_front();
        }
        self.evict();
        self.durable
    }

    /// Number of the last change that was made.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The last durable index; 0 where there is none.
    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// Segments, oldest first, that hold nothing above `purged` and are not `current`.
    pub(crate) fn take_purged(&mut self, purged: Option<u64>, current: u64) -> Vec<Arc<Segment>> {
        let mut taken = Vec::new();
        while let Some(oldest) = self.segments.first_entry()
            && *oldest.key() != current
            && oldest.get().last_index <= purged
        {
            taken.push(oldest.remove().segment);
        }
        taken
    }

    /// How to get the entries from `from` up to before `to`, as far as they are in the log: the first
    /// one, and more while they have no more than `max_bytes`.
    pub(crate) fn plan(&self, from: u64, to: u64, max_bytes: usize) -> Vec<Piece> {
        let oldest_recent = self.slots.next - self.recent.len() as u64;
        let (from, to) = (from.max(self.slots.first()), to.min(self.slots.next));
        let mut bytes = 0;
        let mut pieces = Vec::new();
        for index in from..to {
            let slot = self.slots.get(index).expect("within the range of the slots");
            bytes += slot.length as usize;
            if bytes > max_bytes && !pieces.is_empty() {
                break;
            }
            let log_id = slot.log_id(index);
            pieces.push(if index >= oldest_recent {
                let at = usize::try_from(index - oldest_recent).expect("as many as are in memory");
                Piece::Recent(log_id, self.recent[at].0.clone())
            } else {
                let held = slot.generation().and_then(|generation| self.segments.get(&generation));
                let segment = Arc::clone(&held.expect("what is not recent is in a held segment").segment);
                Piece::OnDisk { log_id, segment, offset: slot.offset(), length: slot.length }
            });
        }
        pieces
    }
}

impl Table {
    /// Where the written entries from `from` on lie, at most so many.
    pub(crate) fn places(&self, from: u64, most: usize) -> Vec<(u64, Arc<Segment>, u64, u32)> {
        let place = |index: u64| {
            let slot = self.slots.get(index)?;
            let segment = &self.segments.get(&slot.generation()?)?.segment;
            Some((index, Arc::clone(segment), slot.offset(), slot.length))
        };
        (from.max(self.slots.first())..self.slots.next).map_while(place).take(most).collect()
    }
}

/// Where the writer put an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) sequence: u64,
    pub(crate) index: u64,
    pub(crate) generation: u64,
    pub(crate) offset: u64,
}
