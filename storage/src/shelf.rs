//! Rows that are written once: blocks of entries, and runs of indexes.
//!
//! They are nearly all of the state, come in order of their keys, never change, and go oldest first. sled
//! would write each of them several times, and a snapshot all of them again. So they are appended, compressed,
//! to files of their own; one that is full is sealed: synced, read back, and from then on shared with snapshots
//! by hard link. The [`Manifest`] says which files count and how far, and goes into sled with the rows of
//! the same checkpoint: what was appended and is not in a manifest never happened.
//!
//! What a start proves: files that are not sealed are read whole, sealed ones by the sum in their index. Every
//! frame has a checksum of its own, which is looked at whenever it is read; a scrub reads what nobody asks for.
//! Damage that shows while the node runs is marked, so that the next start reads everything.

mod cache;
pub(crate) mod damage;
mod manifest;
mod segment;

pub(crate) use manifest::{Manifest, SUFFIX, Sealed, SeriesState};
pub(crate) use segment::{Pace, Part, copy};

use crate::base::{RawChange, RawRow};
use crate::error::StorageError;
use crate::fs::{DiskFile, FileSystem, RealFileSystem};
use crate::keys::after_prefix;
use crate::tables::row_hash;
use bytes::Bytes;
use cache::Cache;
use manifest::{FileState, file_name};
use segment::{Frame, Segment};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

/// A large series is sealed in so many files, so that neither their number nor what a snapshot has to write of the
/// last one counts for much.
const SEGMENTS: u64 = 16;
const MAX_SEGMENT_BYTES: u64 = 256 << 20;
/// The files of one prefix.
#[derive(Debug, Clone, Default)]
struct Series {
    prefix: Vec<u8>,
    dropped_until: Vec<u8>,
    dropped_sum: u128,
    segments: Vec<Arc<Segment>>,
}

/// What readers see, all of it of one moment.
type State = Vec<Series>;

/// Where a shelf lies, and in files of what size.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub fs: Arc<dyn FileSystem>,
    pub dir: PathBuf,
    /// A series of small files is sealed in files of this size.
    pub segment_bytes: u64,
}

/// Rows that are written once.
#[derive(Debug)]
pub(crate) struct Shelf {
    place: Place,
    state: RwLock<Arc<State>>,
    cache: Mutex<Cache>,
    damage: OnceLock<StorageError>,
}

/// What a write led to.
pub(crate) struct Written {
    pub manifest: Manifest,
    pub bytes: u64,
    /// To be removed once the manifest is stored.
    pub obsolete: Vec<PathBuf>,
}

/// What the keys of a row's series begin with; `None` for rows that may change.
pub(crate) fn series_of(key: &[u8]) -> Option<&[u8]> {
    match key.first()? {
        16..=18 => Some(&key[..1]),
        32..=33 => key.get(..2),
        _ => None,
    }
}

/// All keys of rows that are written once lie from here ...
pub(crate) const FIRST: &[u8] = &[16];
/// ... to here.
pub(crate) const END: &[u8] = &[34];

impl Shelf {
    fn with(place: Place, state: State) -> Self {
        Shelf { place, state: RwLock::new(Arc::new(state)), cache: Mutex::default(), damage: OnceLock::new() }
    }

    /// What a manifest names; what else lies there is left over from a crash and is removed. `whole` reads
    /// every row.
    pub fn open(place: Place, manifest: &Manifest, whole: bool) -> Result<Self, StorageError> {
        let (fs, dir) = (&*place.fs, &place.dir);
        let io = |e: &std::io::Error| StorageError::io(format!("opening {}", dir.display()), e);
        fs.create_dir_all(dir).map_err(|e| io(&e))?;
        let state = manifest.0.iter().map(|series| open_series(fs, dir, series, whole));
        let state = state.collect::<Result<State, _>>()?;
        for path in fs.list(dir).map_err(|e| io(&e))? {
            let named = |segment: &Arc<Segment>| segment.path == path;
            if !state.iter().any(|series| series.segments.iter().any(named)) {
                fs.remove(&path).map_err(|e| io(&e))?;
            }
        }
        Ok(Self::with(place, state))
    }

    /// A new shelf with the sealed files of another, by hard link where the file system has them.
    pub fn adopt(place: Place, sealed: &Sealed) -> Result<Self, StorageError> {
        let (fs, dir) = (&*place.fs, &place.dir);
        let io = |e: &std::io::Error| StorageError::io(format!("filling {}", dir.display()), e);
        fs.create_dir_all(dir).map_err(|e| io(&e))?;
        for path in fs.list(dir).map_err(|e| io(&e))? {
            fs.remove(&path).map_err(|e| io(&e))?;
        }
        for (name, _) in sealed.manifest.files() {
            link_or_copy(fs, &sealed.path(&name), &dir.join(&name)).map_err(|e| io(&e))?;
        }
        Self::open(place, &sealed.manifest, false)
    }

    /// The sealed files of a snapshot at `path`, already open, to be read only.
    pub fn of_files(
        path: &Path,
        manifest: &Manifest,
        mut files: impl Iterator<Item = Arc<dyn DiskFile>>,
    ) -> Result<Self, StorageError> {
        let state = manifest.0.iter().map(|series| {
            let segments = series.files.iter().map(|state| {
                let file =
                    files.next().ok_or_else(|| StorageError::Format("a file is missing".to_owned()))?;
                Segment::on(file, path.to_owned(), state, false).map(Arc::new)
            });
            let segments = segments.collect::<Result<Vec<_>, StorageError>>()?;
            let SeriesState { prefix, dropped_until, dropped_sum, .. } = series.clone();
            Ok(Series { prefix, dropped_until, dropped_sum, segments })
        });
        let state = state.collect::<Result<State, StorageError>>()?;
        let dir = path.with_extension("none").join("none");
        Ok(Self::with(Place { fs: Arc::new(RealFileSystem), dir, segment_bytes: 0 }, state))
    }

    /// All its rows, in order.
    pub fn into_rows(self) -> impl Iterator<Item = Result<RawRow, StorageError>> {
        rows_of(Box::new(self), FIRST, END, |_| true)
    }

    fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Which files count, and how far.
    pub fn manifest(&self) -> Manifest {
        manifest_of(&self.state())
    }

    /// The files that never change.
    pub fn sealed(&self) -> Sealed {
        Sealed { manifest: self.manifest().sealed(), dir: self.place.dir.clone(), stem: String::new() }
    }

    /// The first damage that was found, if any.
    pub fn damage(&self) -> Option<StorageError> {
        self.damage.get().cloned()
    }

    fn noting<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if let Err(error @ StorageError::Corrupt { .. }) = &result
            && self.damage.set(error.clone()).is_ok()
        {
            tracing::error!(%error, "the state on disk is damaged; the next start reads all of it");
            damage::mark_of(&*self.place.fs, &self.place.dir);
        }
        result
    }

    /// One value.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let state = self.state();
        let Some(series) = series_of(key).and_then(|prefix| find(&state, prefix)) else { return Ok(None) };
        if *key < *series.dropped_until {
            return Ok(None);
        }
        let at = series.segments.partition_point(|segment| *segment.frames[0].first <= *key);
        let Some(segment) = at.checked_sub(1).map(|at| &series.segments[at]) else { return Ok(None) };
        Ok(self.frame(series, segment, segment.frame_of(key))?.get(key).cloned())
    }

    fn frame(&self, series: &Series, segment: &Segment, number: usize) -> Result<Arc<Frame>, StorageError> {
        let id = (series_id(&series.prefix), segment.state.number, number);
        let cache = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frame) = cache().get(&id) {
            return Ok(frame.clone());
        }
        let frame = Arc::new(self.noting(segment.frame(number))?);
        cache().add(id, frame.clone());
        Ok(frame)
    }

    /// Rows from `from` (included) to `until` (excluded), in order.
    pub fn range(
        &self,
        from: &[u8],
        until: &[u8],
    ) -> impl Iterator<Item = Result<RawRow, StorageError>> + '_ {
        rows_of(self, from, until, |_| true)
    }

    /// Rows of a series before this key were removed, whichever of its files are still there.
    pub fn dropped_until(&self, prefix: &[u8]) -> Vec<u8> {
        find(&self.state(), prefix).map_or_else(Vec::new, |series| series.dropped_until.clone())
    }

    /// Rows that are in no sealed file.
    pub fn loose(&self) -> impl Iterator<Item = Result<RawRow, StorageError>> + '_ {
        rows_of(self, FIRST, END, |segment| !segment.state.sealed)
    }

    /// The last row from `from` (included) to `until` (excluded).
    pub fn last(&self, from: &[u8], until: &[u8]) -> Result<Option<RawRow>, StorageError> {
        let state = self.state();
        for series in state.iter().rev() {
            let lowest = from.max(&series.dropped_until);
            let at = series.segments.partition_point(|segment| *segment.frames[0].first < *until);
            let Some(segment) = at.checked_sub(1).map(|at| &series.segments[at]) else { continue };
            let number = segment.frames.partition_point(|frame| *frame.first < *until) - 1;
            let frame = self.frame(series, segment, number)?;
            let before = frame.rows.partition_point(|(key, _)| **key < *until);
            match &frame.rows[before - 1] {
                (key, value) if **key >= *lowest => return Ok(Some((key.to_vec(), value.clone()))),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Adds and removes rows; readers see all of it at once. One at a time, in order of their keys.
    pub fn write(&self, changes: &[RawChange]) -> Result<Written, StorageError> {
        let mut state = State::clone(&self.state());
        let before: u64 = bytes_of(&state);
        let (mut obsolete, mut removed_bytes) = (Vec::new(), 0);
        for changes in changes.chunk_by(|a, b| series_of(&a.0) == series_of(&b.0)) {
            let prefix = series_of(&changes[0].0).unwrap_or_default();
            let at = match state.binary_search_by(|series| (*series.prefix).cmp(prefix)) {
                Ok(at) => at,
                Err(at) => {
                    state.insert(at, Series { prefix: prefix.to_vec(), ..Series::default() });
                    at
                }
            };
            let removed = changes.partition_point(|(_, value)| value.is_none());
            let (removed, added) = changes.split_at(removed);
            let removed = removed.iter().map(|(key, _)| key.as_slice()).chain(
                // A row that came and went within one memtable.
                added.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key.as_slice()),
            );
            self.remove(&mut state[at], removed)?;
            for segment in state[at].forget_removed() {
                removed_bytes += segment.state.length;
                obsolete.push(segment.path.clone());
            }
            let added = added.iter().filter_map(|(key, value)| Some((key.as_slice(), value.as_deref()?)));
            self.append(&mut state[at], added)?;
        }
        let written = Written {
            manifest: manifest_of(&state),
            bytes: bytes_of(&state) + removed_bytes - before,
            obsolete,
        };
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
        Ok(written)
    }

    /// Rows go oldest first, so that one mark stands for all.
    fn remove<'k>(
        &self,
        series: &mut Series,
        keys: impl Iterator<Item = &'k [u8]>,
    ) -> Result<(), StorageError> {
        let (from, until) = (series.dropped_until.clone(), after_prefix(&series.prefix));
        let mut keys = keys.skip_while(|key| **key < *from).peekable();
        if keys.peek().is_none() {
            return Ok(());
        }
        let mut rows = self.range(from.as_slice().max(&series.prefix), &until);
        for key in keys {
            match rows.next().transpose()? {
                Some((first, value)) if first == key => {
                    series.dropped_sum = series.dropped_sum.wrapping_add(row_hash(key, &value));
                    series.dropped_until = [key, &[0]].concat();
                }
                Some((first, _)) if *first < *key => {
                    return Err(StorageError::Stopped(format!("{key:?} is removed before {first:?}")));
                }
                // It never got here.
                _ => break,
            }
        }
        Ok(())
    }

    fn append<'r>(
        &self,
        series: &mut Series,
        rows: impl Iterator<Item = (&'r [u8], &'r [u8])>,
    ) -> Result<(), StorageError> {
        let mut rows = rows.peekable();
        // Those are here already where storing a manifest failed.
        while let (Some((key, value)), Some(segment)) = (rows.peek(), series.segments.last())
            && **key <= *segment.last
        {
            if self.get(key)?.as_deref() != Some(*value) {
                return Err(StorageError::Stopped(format!("{key:?} is written a second time")));
            }
            rows.next();
        }
        while rows.peek().is_some() {
            let mut appender = match series.segments.pop_if(|segment| !segment.state.sealed) {
                Some(segment) => Segment::clone(&segment).append(),
                None => self.new_segment(series)?.append(),
            };
            let full = self.full(series);
            while appender.bytes() < full
                && let Some((key, value)) = rows.next()
            {
                appender.row(key, value)?;
            }
            let sealed = appender.bytes() >= full;
            let segment = if sealed { appender.seal()? } else { appender.finish()? };
            series.segments.push(Arc::new(segment));
            if sealed {
                let Place { fs, dir, .. } = &self.place;
                fs.sync_dir(dir).map_err(|e| StorageError::io(format!("syncing {}", dir.display()), &e))?;
            }
        }
        Ok(())
    }

    /// The size at which a file is sealed.
    fn full(&self, series: &Series) -> u64 {
        let bytes: u64 = series.segments.iter().map(|segment| segment.state.length).sum();
        (bytes / SEGMENTS).min(MAX_SEGMENT_BYTES).max(self.place.segment_bytes)
    }

    fn new_segment(&self, series: &Series) -> Result<Segment, StorageError> {
        let number = series.segments.last().map_or(1, |segment| segment.state.number + 1);
        let path = self.place.dir.join(file_name(&series.prefix, number));
        Segment::create(&*self.place.fs, path, number)
    }

    /// Removes files that no manifest names any more.
    pub fn clear(&self, obsolete: &[PathBuf]) {
        for path in obsolete {
            // Else the next start does.
            let _ = self.place.fs.remove(path);
        }
    }

    /// Reads all files, as far as they count now. `pace` is told the bytes of each frame; it may take its time, or end
    /// it.
    pub fn scrub(&self, pace: &Pace) -> Result<(), StorageError> {
        let segments = self.state().iter().flat_map(|series| series.segments.clone()).collect::<Vec<_>>();
        segments.iter().try_for_each(|segment| self.noting(segment.verify(pace)))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        bytes_of(&self.state())
    }
}

/// Rows of a shelf, as it is now.
fn rows_of<'s>(
    shelf: impl Deref<Target = Shelf> + 's,
    from: &[u8],
    until: &[u8],
    of: impl Fn(&Segment) -> bool + 's,
) -> impl Iterator<Item = Result<RawRow, StorageError>> + 's {
    let (state, from, until) = (shelf.state(), from.to_vec(), until.to_vec());
    let (mut series, mut segment, mut frame) = (0, 0, None);
    let frames = std::iter::from_fn(move || {
        loop {
            let now = state.get(series)?;
            let lowest = from.as_slice().max(&now.dropped_until);
            let Some(file) = now.segments.get(segment) else {
                (series, segment) = (series + 1, 0);
                continue;
            };
            let number = frame.take().unwrap_or_else(|| file.frame_of(lowest));
            let wanted = of(file) && *file.last >= *lowest;
            if !wanted || file.frames.get(number).is_none_or(|at| *at.first >= *until) {
                segment += 1;
                continue;
            }
            frame = Some(number + 1);
            // All of it is read for once: the cache is for those who come back.
            let read = shelf.noting(file.frame(number));
            let inside = |key: &[u8]| *key >= *lowest && *key < *until;
            return Some(read.map(|frame| {
                let rows = frame.rows.into_iter().filter(|(key, _)| inside(key));
                rows.map(|(key, value)| (key.to_vec(), value)).collect::<Vec<_>>()
            }));
        }
    });
    frames.flat_map(|frame| {
        let (rows, error) = match frame {
            Ok(rows) => (rows, None),
            Err(error) => (Vec::new(), Some(Err(error))),
        };
        rows.into_iter().map(Ok).chain(error)
    })
}

impl Series {
    /// Takes out the files of which every row was removed, but for the last file of all: by its number the next
    /// one gets a name that no file has or had that the manifest on disk still names.
    fn forget_removed(&mut self) -> Vec<Arc<Segment>> {
        let until = &self.dropped_until;
        let gone = self.segments.partition_point(|segment| segment.state.sealed && *segment.last < **until);
        let gone = gone.min(self.segments.len().saturating_sub(1));
        let gone: Vec<_> = self.segments.drain(..gone).collect();
        for segment in &gone {
            self.dropped_sum = self.dropped_sum.wrapping_sub(segment.state.sum);
        }
        gone
    }
}

fn open_series(
    fs: &dyn FileSystem,
    dir: &Path,
    series: &SeriesState,
    whole: bool,
) -> Result<Series, StorageError> {
    let open =
        |file: &FileState| Segment::open(fs, dir.join(series.file_name(file)), file, whole).map(Arc::new);
    let segments = series.files.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let in_order = |a: &Arc<Segment>, b: &Arc<Segment>| *a.last < *b.frames[0].first;
    if segments.iter().any(|segment| segment.frames.is_empty()) || !segments.is_sorted_by(in_order) {
        return Err(StorageError::Format("files of the shelf are empty or out of order".to_owned()));
    }
    let SeriesState { prefix, dropped_until, dropped_sum, .. } = series.clone();
    Ok(Series { prefix, dropped_until, dropped_sum, segments })
}

fn manifest_of(state: &State) -> Manifest {
    let of = |series: &Series| SeriesState {
        prefix: series.prefix.clone(),
        dropped_until: series.dropped_until.clone(),
        dropped_sum: series.dropped_sum,
        files: series.segments.iter().map(|segment| segment.state.clone()).collect(),
    };
    Manifest(state.iter().map(of).collect())
}

fn bytes_of(state: &State) -> u64 {
    state.iter().flat_map(|series| &series.segments).map(|segment| segment.state.length).sum()
}

fn find<'s>(state: &'s State, prefix: &[u8]) -> Option<&'s Series> {
    let at = state.binary_search_by(|series| (*series.prefix).cmp(prefix)).ok()?;
    Some(&state[at])
}

fn series_id(prefix: &[u8]) -> u16 {
    u16::from_be_bytes([prefix[0], prefix.get(1).copied().unwrap_or_default()])
}

/// Gives a file a second name, or makes a copy where the file system cannot.
pub(crate) fn link_or_copy(fs: &dyn FileSystem, from: &Path, to: &Path) -> std::io::Result<()> {
    let _ = fs.remove(to);
    if fs.link(from, to).is_ok() {
        return Ok(());
    }
    let (from, to) = (fs.open(from)?, fs.create_new(to)?);
    copy(&*from, 0, &*to, from.len()?)?;
    to.sync_data()
}

/// Whether all sealed files are there and have the sums that are expected of them; with `whole`, by reading
/// every row.
pub(crate) fn verify(fs: &dyn FileSystem, sealed: &Sealed, whole: bool) -> Result<(), StorageError> {
    for (name, state) in sealed.manifest.files() {
        Segment::open(fs, sealed.path(&name), state, whole)?;
    }
    Ok(())
}

/// Reads these sealed files, each with its name, whole.
pub(crate) fn scrub_files(
    sealed: &Sealed,
    files: impl Iterator<Item = Arc<dyn DiskFile>>,
    pace: &Pace,
) -> Result<(), StorageError> {
    for ((name, state), file) in sealed.manifest.files().zip(files) {
        Segment::on(file, sealed.path(&name), state, false)?.verify(pace)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "shelf_tests.rs"]
mod tests;
