//! What a start finds on the disk. See the parent module for how damage is told from a torn tail.

use super::housekeeper::Housekeeper;
use super::points::Change;
use super::record::{self, ALIGNMENT, Draft, HEADER_BYTES, Header, MAGIC, Place};
use super::segment::{self, DATA_OFFSET, Segment};
use super::table::{Held, Slot, Slots};
use super::wal::Start;
use crate::codec::LogPoints;
use crate::error::StorageError;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A log, whole and durable, and where to go on.
pub(crate) struct Recovered {
    pub(crate) points: LogPoints,
    pub(crate) slots: Slots,
    pub(crate) segments: BTreeMap<u64, Held>,
    pub(crate) start: Start,
}

/// Reads the log in the housekeeper's directory, and moves what may not be durable of it into a
/// fresh segment.
pub(crate) fn recover(keeper: &mut Housekeeper) -> Result<Recovered, StorageError> {
    let files = list(keeper)?;
    let mut chain = Vec::new();
    for path in &files {
        let generation = segment::generation_of(path).expect("listed by this");
        chain.push(Link::open(keeper, path, generation)?);
    }
    let (mut links, unused) = limit(chain);
    let mut replay = Replay::default();
    let end = replay.read(&links, &unused)?;
    replay.check_whole(&links, &unused)?;
    let tail = Tail::find(&replay, links.last(), &end, keeper.segment_bytes);
    let generation =
        files.iter().filter_map(|path| segment::generation_of(path)).max().map_or(1, |last| last + 1);
    let start = rewrite(keeper, &mut replay, &tail, &end, generation)?;
    // From here on the disk says that what comes after the tail's start does not count.
    links.retain(|link| {
        let is_moved = tail.is_all_of_last && end.generation == link.segment.generation;
        !link.superseded && !is_moved
    });
    finish(keeper, replay, links, start, &files)
}

/// Segments by age; tells the spare ones to the housekeeper and removes what was never finished.
fn list(keeper: &mut Housekeeper) -> Result<Vec<PathBuf>, StorageError> {
    let io = |error: std::io::Error| StorageError::io(format!("reading {}", keeper.dir.display()), &error);
    let mut segments = Vec::new();
    let mut spares = Vec::new();
    // A spare's contents may change only once its name is durable.
    keeper.fs.sync_dir(&keeper.dir).map_err(io)?;
    for path in keeper.fs.list(&keeper.dir).map_err(io)? {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("wal") if segment::generation_of(&path).is_some() => segments.push(path),
            Some("spare") => {
                let length = keeper.fs.open(&path).and_then(|file| file.len()).map_err(io)?;
                if length == keeper.segment_bytes {
                    spares.push(path);
                } else {
                    keeper.fs.remove(&path).map_err(io)?;
                }
            }
            Some("new") => keeper.fs.remove(&path).map_err(io)?,
            _ => {}
        }
    }
    keeper.spares = spares;
    Ok(segments)
}

/// One segment, and which part of it counts.
struct Link {
    segment: Arc<Segment>,
    /// Number of its first group and the group after which it continues; `None` where its first
    /// record does not validate.
    begin: Option<(u64, u64)>,
    /// The last group in it that counts, if a later segment says so.
    limit: Option<u64>,
    superseded: bool,
}

impl Link {
    fn open(keeper: &Housekeeper, path: &std::path::Path, generation: u64) -> Result<Link, StorageError> {
        let segment = Segment::open(&*keeper.fs, path, &keeper.identity, generation)?;
        let begin = match read_record(&segment.read_beginning()?, DATA_OFFSET, &segment) {
            Some((header, payload)) => match record::decode_change(&header, payload)? {
                Change::SegmentStart { continues_after, .. } => Some((header.group, continues_after)),
                _ => return Err(segment.corrupt(DATA_OFFSET, "a segment begins with a strange record")),
            },
            None => None,
        };
        Ok(Link { segment: Arc::new(segment), begin, limit: None, superseded: false })
    }
}

/// Parts the segments into those with a valid beginning, with their limits, and the others.
fn limit(chain: Vec<Link>) -> (Vec<Link>, Vec<Link>) {
    let (mut begun, unused): (Vec<Link>, Vec<Link>) =
        chain.into_iter().partition(|link| link.begin.is_some());
    let mut limit = None;
    for link in begun.iter_mut().rev() {
        let (first, continues_after) = link.begin.expect("parted by this");
        link.limit = limit;
        link.superseded = limit.is_some_and(|limit| first > limit);
        limit = Some(limit.map_or(continues_after, |limit: u64| limit.min(continues_after)));
    }
    (begun, unused)
}

/// The record at `offset`, if both its sums match.
fn read_record(bytes: &Bytes, offset: u64, segment: &Segment) -> Option<(Header, Bytes)> {
    let at = usize::try_from(offset).ok()?;
    let header = Header::decode(bytes.get(at..)?, segment.salt, segment.generation)?;
    let from = at + HEADER_BYTES;
    let to = from.checked_add(header.length as usize)?;
    let payload = bytes.get(from..to)?;
    record::payload_matches(&header, payload, segment.salt).then(|| (header, bytes.slice(from..to)))
}

/// Where the last segment's records end.
struct End {
    generation: u64,
    bytes: Bytes,
    /// Number of the group that is not there, or not whole.
    group: u64,
    /// The last group that a record claims to be durable.
    durable: u64,
    /// The group after which the last segment continues.
    continues_after: u64,
    /// First group number and offset of each group in the last segment.
    groups: Vec<(u64, u64)>,
}

#[derive(Default)]
struct Replay {
    points: LogPoints,
    slots: Slots,
    begun: bool,
    last_index: BTreeMap<u64, u64>,
}

impl Replay {
    /// Reads all that counts, and makes sure that nothing that was durable is missing.
    fn read(&mut self, links: &[Link], unused: &[Link]) -> Result<End, StorageError> {
        let mut end = End {
            generation: 0,
            bytes: Bytes::new(),
            group: 1,
            durable: 0,
            continues_after: 0,
            groups: Vec::new(),
        };
        let mut from = None;
        for link in links.iter().filter(|link| !link.superseded) {
            let (first, continues_after) = link.begin.expect("only segments with a beginning are read");
            end = End {
                generation: link.segment.generation,
                bytes: link.segment.read_all()?,
                group: first,
                durable: end.durable.max(continues_after),
                continues_after,
                groups: Vec::new(),
            };
            let offset = self.read_segment(link, &mut end)?;
            match link.limit {
                Some(limit) if end.group <= limit => return Err(missing(link, unused, offset, &end)),
                Some(_) => {}
                None => from = Some((link, offset)),
            }
        }
        let newer = unused.iter().filter(|link| link.segment.generation > end.generation);
        for (link, from) in from.into_iter().chain(newer.map(|link| (link, DATA_OFFSET))) {
            let bytes = if from == DATA_OFFSET { link.segment.read_all()? } else { end.bytes.clone() };
            refuse_claims(&link.segment, &bytes, from, end.group)?;
        }
        Ok(end)
    }

    /// Reads a segment up to its limit, or to what does not validate; answers where that is.
    fn read_segment(&mut self, link: &Link, end: &mut End) -> Result<u64, StorageError> {
        let segment = &link.segment;
        let (mut offset, mut slot) = (DATA_OFFSET, 0);
        while let Some((header, payload)) = read_record(&end.bytes, offset, segment) {
            let over = link.limit.is_some_and(|limit| header.group > limit);
            if over || (header.group, header.slot) != (end.group, slot) {
                break;
            }
            let change = record::decode_change(&header, payload)
                .map_err(|error| StorageError::Format(format!("{}: {error}", segment.path.display())))?;
            self.change(&change, &header, offset).map_err(|why| segment.corrupt(offset, &why))?;
            if slot == 0 {
                end.groups.push((header.group, offset));
            }
            end.durable = end.durable.max(header.durable);
            offset += header.record_bytes() as u64;
            (end.group, slot) = if header.closes_group { (end.group + 1, 0) } else { (end.group, slot + 1) };
        }
        Ok(offset)
    }

    fn change(&mut self, change: &Change, header: &Header, offset: u64) -> Result<(), String> {
        match change {
            Change::Entry { log_id, .. } => {
                if let Some(last) = self.points.last_index()
                    && log_id.index != last + 1
                {
                    return Err(format!("entry {} follows entry {last}", log_id.index));
                }
                self.slots.push(log_id, header.generation, offset, header.length);
                let highest = self.last_index.entry(header.generation).or_default();
                *highest = log_id.index.max(*highest);
            }
            Change::SegmentStart { points, .. } => {
                let purged_beyond = points.purged_index() == points.last_index();
                if self.begun && points.last_index() > self.points.last_index() && !purged_beyond {
                    return Err("entries before this segment are missing".to_owned());
                }
                self.begun = true;
                self.slots.truncate(points.last_index());
                self.slots.drop_before(points.first);
            }
            Change::Truncate(after) => self.slots.truncate(after.as_ref().map(|id| id.index)),
            _ => {}
        }
        self.points.apply(change);
        if matches!(change, Change::Purge(_)) {
            self.slots.drop_before(self.points.first);
        }
        Ok(())
    }

    /// Segments are removed from the front, behind the purge point: what is left must reach it.
    fn check_whole(&self, links: &[Link], unused: &[Link]) -> Result<(), StorageError> {
        let Some(last) = self.points.last_index() else { return Ok(()) };
        let first = self.points.first;
        if self.slots.len() as u64 == (last + 1).saturating_sub(first) {
            return Ok(());
        }
        // What is missing was in the oldest segments, or in the only ones.
        let there = if self.slots.len() == 0 { last + 1 } else { self.slots.first() };
        let why = format!("entries {first} to {} are in no segment", there.saturating_sub(1));
        let oldest = links.iter().chain(unused).min_by_key(|link| link.segment.generation);
        let oldest = oldest.expect("entries were read from a segment");
        let offset = if oldest.begin.is_some() { 0 } else { DATA_OFFSET };
        Err(oldest.segment.corrupt(offset, &why))
    }
}

/// A group that must be at `offset` of `link`, or at the start of the segment after it.
fn missing(link: &Link, unused: &[Link], offset: u64, end: &End) -> StorageError {
    let why = format!("group {} was durable and does not validate", end.group);
    let from = usize::try_from(offset).expect("an offset in memory");
    let is_empty = end.bytes[from..].iter().take(HEADER_BYTES).all(|byte| *byte == 0);
    let next = unused.iter().find(|other| other.segment.generation == link.segment.generation + 1);
    match next {
        Some(next) if is_empty => next.segment.corrupt(DATA_OFFSET, &why),
        _ => link.segment.corrupt(offset, &why),
    }
}

/// Refuses bytes after `from` in which a record claims that `group` is durable.
fn refuse_claims(segment: &Segment, bytes: &[u8], from: u64, group: u64) -> Result<(), StorageError> {
    let from = usize::try_from(from).expect("an offset in memory").min(bytes.len());
    let mut torn = false;
    for (at, chunk) in bytes[from..].chunks(ALIGNMENT).enumerate() {
        if !chunk.starts_with(&MAGIC) {
            continue;
        }
        let at = from + at * ALIGNMENT;
        let header = Header::decode(&bytes[at..], segment.salt, segment.generation);
        torn |= header.is_some();
        if header.is_some_and(|header| header.durable >= group) {
            let why = format!(
                "group {group} does not validate, but the record at byte {at} says that it was durable"
            );
            return Err(segment.corrupt(from as u64, &why));
        }
    }
    if torn {
        tracing::warn!(file = %segment.path.display(), offset = from, "cut a torn tail off the log");
    }
    Ok(())
}

/// The part of the last segment that has to move.
struct Tail {
    /// From which offset.
    from: u64,
    /// The groups up to this one stay.
    continues_after: u64,
    is_all_of_last: bool,
}

impl Tail {
    fn find(replay: &Replay, last: Option<&Link>, end: &End, segment_bytes: u64) -> Tail {
        let all =
            Tail { from: DATA_OFFSET, continues_after: end.continues_after, is_all_of_last: last.is_some() };
        let first_unsure = end.groups.iter().find(|(group, _)| *group > end.durable);
        let live = replay.slots.bytes_in(end.generation);
        // A little is moved whole, so that restarts do not leave a chain of nearly empty segments.
        if live <= segment_bytes / 4 || end.durable <= end.continues_after {
            return all;
        }
        let past_the_end = u64::MAX;
        Tail {
            from: first_unsure.map_or(past_the_end, |(_, offset)| *offset),
            continues_after: end.durable,
            is_all_of_last: false,
        }
    }
}

/// Writes the tail's entries into a fresh segment and syncs them, then its first record, which makes
/// them count, and syncs that.
fn rewrite(
    keeper: &mut Housekeeper,
    replay: &mut Replay,
    tail: &Tail,
    end: &End,
    generation: u64,
) -> Result<Start, StorageError> {
    let moves = |slot: &Slot| slot.generation() == Some(end.generation) && slot.offset() >= tail.from;
    let kept = replay.slots.last_where(|slot| !moves(slot)).or(replay.points.purged);
    let points = LogPoints { last: kept, ..replay.points.clone() };
    let first = Draft::new(&Change::SegmentStart { points, continues_after: tail.continues_after });
    let needed: u64 =
        replay.slots.iter_mut().filter(|(_, slot)| moves(slot)).map(|(_, slot)| slot.bytes()).sum();
    let needed = (DATA_OFFSET + first.record_bytes() as u64 + needed).next_multiple_of(DATA_OFFSET);
    let fresh = keeper.make(generation, needed.max(keeper.segment_bytes))?;
    let place = |slot| Place { generation, group: end.group, durable: tail.continues_after, slot };

    let mut opening = Vec::new();
    let mut header = first.write(&mut opening, place(0), fresh.salt);
    let body_offset = DATA_OFFSET + opening.len() as u64;
    let mut body = Vec::new();
    let mut last = None;
    for (slot, (index, moved)) in (1..).zip(replay.slots.iter_mut().filter(|(_, slot)| moves(slot))) {
        let at = usize::try_from(moved.offset()).expect("an offset in memory") + HEADER_BYTES;
        let payload = end.bytes.slice(at..at + moved.length() as usize);
        let draft = Draft::of_entry(moved.log_id(index), payload);
        moved.move_to(generation, body_offset + body.len() as u64);
        last = Some((body.len(), draft.write(&mut body, place(slot), fresh.salt)));
        replay.last_index.insert(generation, index);
    }
    match last {
        Some((at, mut header)) => {
            header.close_group(&mut body[at..], fresh.salt);
            fresh.write_and_sync(&body, body_offset)?;
        }
        None => header.close_group(&mut opening, fresh.salt),
    }
    fresh.write_and_sync(&opening, DATA_OFFSET)?;
    let position = body_offset + body.len() as u64;
    Ok(Start { segment: Arc::new(fresh), position, group_number: end.group + 1 })
}

/// Clears away the segments that do not count any more.
fn finish(
    keeper: &mut Housekeeper,
    replay: Replay,
    links: Vec<Link>,
    start: Start,
    files: &[PathBuf],
) -> Result<Recovered, StorageError> {
    let mut segments = BTreeMap::new();
    for segment in links.into_iter().map(|link| link.segment).chain([Arc::clone(&start.segment)]) {
        let last_index = replay.last_index.get(&segment.generation).copied();
        segments.insert(segment.generation, Held { segment, last_index });
    }
    let mut purged = Vec::new();
    while let Some(oldest) = segments.first_entry()
        && *oldest.key() != start.segment.generation
        && oldest.get().last_index <= replay.points.purged_index()
    {
        purged.push(oldest.remove());
    }
    drop(purged);
    for path in files {
        let generation = segment::generation_of(path).expect("listed by this");
        if !segments.contains_key(&generation) {
            let segment = Segment::open(&*keeper.fs, path, &keeper.identity, generation)?;
            keeper.retire(Arc::new(segment));
        }
    }
    Ok(Recovered { points: replay.points, slots: replay.slots, segments, start })
}
