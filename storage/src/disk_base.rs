//! The base on disk: sled for rows that change, the shelf for those that are written once.

use crate::base::{self, Base, RawChange, RawRow, SledBase};
use crate::codec;
use crate::error::StorageError;
use crate::fs::FileSystem;
use crate::keys;
use crate::shelf::{self, Manifest, Pace, Sealed, Shelf, series_of};
use crate::tables::Sums;
use bytes::Bytes;
use std::path::PathBuf;
use std::sync::Arc;

/// Both, as one ordered map.
#[derive(Debug)]
pub(crate) struct DiskBase {
    table: SledBase,
    shelf: Shelf,
    options: DiskOptions,
}

/// Where a generation of the base lies below the directory of the state.
pub(crate) struct Places {
    pub table: PathBuf,
    pub shelf: PathBuf,
}

/// The disk that a base is on, and how it uses it.
#[derive(Debug, Clone)]
pub(crate) struct DiskOptions {
    pub fs: Arc<dyn FileSystem>,
    /// Of the state.
    pub dir: PathBuf,
    /// sled's cache.
    pub cache_bytes: u64,
    /// Smallest size at which files of the shelf are sealed.
    pub segment_bytes: u64,
}

impl DiskOptions {
    pub fn places(&self, generation: u64) -> Places {
        Places {
            table: self.dir.join(format!("sled-{generation}")),
            shelf: self.dir.join(format!("shelf-{generation}")),
        }
    }

    /// Whether rows of so many bytes can be handed to sled. One that met a full disk cannot go on before it is opened
    /// again, so it is not asked where the disk might be too small.
    pub fn room_for(&self, what: &str, bytes: u64) -> Result<(), StorageError> {
        // Where nobody can say there is no reason not to try.
        let Ok(space) = self.fs.space(&self.dir) else { return Ok(()) };
        let needed = base::needed_for(bytes);
        if space.free < needed {
            return Err(StorageError::no_room(
                format!("writing {what} to {}", self.dir.display()),
                needed,
                space.free,
            ));
        }
        Ok(())
    }

    fn shelf(&self, dir: PathBuf) -> shelf::Place {
        shelf::Place { fs: self.fs.clone(), dir, segment_bytes: self.segment_bytes }
    }
}

impl DiskBase {
    /// Opens what is there; `whole` proves every row of the shelf.
    pub fn open(options: &DiskOptions, generation: u64, whole: bool) -> Result<Self, StorageError> {
        let places = options.places(generation);
        let table = SledBase::open(&places.table, options.cache_bytes)?;
        let manifest = match table.get(keys::SHELF)? {
            Some(bytes) => codec::decode_serde::<_, { codec::VALUE_LIMIT }>("manifest", &bytes)?,
            None => Manifest::default(),
        };
        let shelf = Shelf::open(options.shelf(places.shelf), &manifest, whole)?;
        Ok(DiskBase { table, shelf, options: options.clone() })
    }

    /// A new one that begins with the sealed files of a snapshot.
    pub fn create(options: &DiskOptions, generation: u64, sealed: &Sealed) -> Result<Self, StorageError> {
        let places = options.places(generation);
        let shelf = Shelf::adopt(options.shelf(places.shelf), sealed)?;
        let table = SledBase::open(&places.table, options.cache_bytes)?;
        let manifest = codec::encode_serde(&shelf.manifest());
        table.fill(&mut std::iter::once((keys::SHELF.to_vec(), manifest.into())))?;
        Ok(DiskBase { table, shelf, options: options.clone() })
    }

    /// Adds what is written once to the shelf; gives the rest, with the manifest.
    fn split(&self, changes: &mut dyn Iterator<Item = RawChange>) -> Result<Split, StorageError> {
        let (once, mut rest): (Vec<_>, Vec<_>) = changes.partition(|(key, _)| series_of(key).is_some());
        if once.is_empty() {
            return Ok(Split { rest, obsolete: Vec::new() });
        }
        let written = self.shelf.write(&once)?;
        metrics::counter!("stockroom_checkpoint_written_bytes_total").increment(written.bytes);
        rest.push((keys::SHELF.to_vec(), Some(codec::encode_serde(&written.manifest).into())));
        Ok(Split { rest, obsolete: written.obsolete })
    }
}

struct Split {
    rest: Vec<RawChange>,
    obsolete: Vec<PathBuf>,
}

impl Base for DiskBase {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match series_of(key) {
            Some(_) => self.shelf.get(key),
            None => self.table.get(key),
        }
    }

    fn range<'a>(
        &'a self,
        from: &[u8],
        until: &[u8],
    ) -> Box<dyn Iterator<Item = Result<RawRow, StorageError>> + 'a> {
        if from >= shelf::END || until <= shelf::FIRST {
            return self.table.range(from, until);
        }
        let before = (from < shelf::FIRST).then(|| self.table.range(from, shelf::FIRST));
        let after = (until > shelf::END).then(|| self.table.range(shelf::END, until));
        let once = self.shelf.range(from, until);
        Box::new(before.into_iter().flatten().chain(once).chain(after.into_iter().flatten()))
    }

    fn last(&self, from: &[u8], until: &[u8]) -> Result<Option<RawRow>, StorageError> {
        if until > shelf::END
            && let Some(row) = self.table.last(from.max(shelf::END), until)?
        {
            return Ok(Some(row));
        }
        if until > shelf::FIRST
            && from < shelf::END
            && let Some(row) = self.shelf.last(from, until)?
        {
            return Ok(Some(row));
        }
        if from < shelf::FIRST { self.table.last(from, until.min(shelf::FIRST)) } else { Ok(None) }
    }

    fn write(&self, changes: &mut dyn Iterator<Item = RawChange>) -> Result<(), StorageError> {
        let changes: Vec<RawChange> = changes.collect();
        let bytes = changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len));
        self.options.room_for("a checkpoint", bytes.sum::<usize>() as u64)?;
        let split = self.split(&mut changes.into_iter())?;
        self.table.write(&mut split.rest.into_iter())?;
        self.shelf.clear(&split.obsolete);
        Ok(())
    }

    fn fill(&self, rows: &mut dyn Iterator<Item = RawRow>) -> Result<(), StorageError> {
        let split = self.split(&mut rows.map(|(key, value)| (key, Some(value))))?;
        self.table.fill(&mut split.rest.into_iter().filter_map(|(key, value)| Some((key, value?))))
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.table.flush()
    }

    fn sealed(&self) -> Sealed {
        self.shelf.sealed()
    }

    fn dropped_until(&self, prefix: &[u8]) -> Vec<u8> {
        self.shelf.dropped_until(prefix)
    }

    fn loose<'a>(&'a self) -> Box<dyn Iterator<Item = Result<RawRow, StorageError>> + 'a> {
        Box::new(self.table.range(&[], shelf::FIRST).chain(self.shelf.loose()))
    }

    fn bytes(&self) -> u64 {
        self.table.bytes() + self.shelf.bytes()
    }

    fn sums(&self, pace: &Pace) -> Result<Sums, StorageError> {
        let mut sums = Sums::default();
        for row in self.table.range(&[], keys::PROGRESS) {
            let (key, value) = row?;
            if series_of(&key).is_some() {
                return Err(StorageError::Format(format!(
                    "a row lies in sled that belongs elsewhere: {key:?}"
                )));
            }
            sums.add(&key, &value);
            pace(key.len() + value.len())?;
        }
        self.shelf.manifest().add_to(&mut sums);
        Ok(sums)
    }

    fn scrub(&self, pace: &Pace) -> Result<(), StorageError> {
        self.shelf.scrub(pace)
    }

    fn damage(&self) -> Option<StorageError> {
        self.shelf.damage()
    }
}
