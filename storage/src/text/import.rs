//! A snapshot file out of lines of JSON.
//!
//! Rows are made of lines as they stand; nothing is decided here. Whether they add up (each stock from its movements,
//! what is promised from orders and reservations, each movement after the one it names) is for an audit of the
//! result to say, which the caller must ask for before anything is founded on it.

use super::lines::{About, ItemLine, Line, Wrong};
use super::orders::SaleLine;
use super::stock::{LevelLine, MovementLine, ReservationLine};
use super::values::read_time;
use super::{FILES, FORMAT};
use crate::base::{Base, RawRow, SledBase};
use crate::blocks;
use crate::codec::{self, LogId};
use crate::error::StorageError;
use crate::fs::RealFileSystem;
use crate::keys::{self, BlockKind};
use crate::shop::ids::{Location, Place, Sku, TimestampMs};
use crate::shop::reservation::ReservationStatus;
use crate::shop::state::{Entry, Head, Key, Row, Subject};
use crate::shop::version::{ClusterVersion, SERVED};
use crate::snapshot::{SnapshotFile, Snapshots, Underway};
use crate::tables::{Progress, Sums};
use crate::version;
use openraft::vote::leader_id_std::CommittedLeaderId;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows written at once.
const ROWS_AT_ONCE: usize = 4_096;
/// sled's cache while it is filled.
const CACHE_BYTES: u64 = 64 << 20;

/// Reads an export and makes a snapshot file of it in `scratch`.
///
/// # Errors
/// [`StorageError::Corrupt`] with file and line where a line cannot be a row, or lines are missing;
/// [`StorageError::Io`].
pub fn import(dir: &Path, scratch: &Path) -> Result<(About, SnapshotFile), StorageError> {
    let about = about(dir)?;
    let base = scratch.join("rows");
    let mut import = Import {
        dir,
        about: &about,
        base: SledBase::open(&base, CACHE_BYTES)?,
        rows: Vec::new(),
        buffer: Vec::new(),
        sums: Sums::default(),
        head: head(dir, &about)?,
    };
    import.items()?;
    import.stock()?;
    import.reservations()?;
    import.orders()?;
    import.movements()?;
    let file = import.finish(scratch)?;
    Ok((about, file))
}

fn damaged(file: PathBuf, line: u64, why: impl Into<String>) -> StorageError {
    StorageError::Corrupt { file, offset: 0, why: format!("line {line}: {}", why.into()) }
}

fn about(dir: &Path) -> Result<About, StorageError> {
    let path = dir.join("about.json");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| StorageError::io(format!("reading {}", path.display()), &error))?;
    let about: About =
        serde_json::from_str(&text).map_err(|error| damaged(path.clone(), 1, error.to_string()))?;
    if about.format != FORMAT {
        let format = about.format;
        return Err(StorageError::Format(format!(
            "{} is of format {format}, known here is {FORMAT}",
            path.display()
        )));
    }
    version::must_serve(SERVED, ClusterVersion(about.cluster_version), &path.display().to_string())?;
    Ok(about)
}

fn head(dir: &Path, about: &About) -> Result<Head, StorageError> {
    let clock = read_time(&about.clock).map_err(|why| damaged(dir.join("about.json"), 1, why))?;
    Ok(Head {
        clock,
        epoch: about.epoch,
        settings: (&about.settings).into(),
        cluster_version: ClusterVersion(about.cluster_version),
        // There are none before the next epoch.
        receipts_from: (about.epoch, about.log_index + 1),
        receipts_since: clock,
        ..Head::default()
    })
}

struct Import<'a> {
    dir: &'a Path,
    about: &'a About,
    base: SledBase,
    rows: Vec<RawRow>,
    /// Of values while they are encoded.
    buffer: Vec<u8>,
    sums: Sums,
    head: Head,
}

/// One block of an entry, as its lines come.
struct Block<T> {
    kind: BlockKind,
    entry: Entry,
    values: Vec<T>,
}

impl<T: codec::Encodable> Block<T> {
    fn new(kind: BlockKind) -> Self {
        Block { kind, entry: (0, 0), values: Vec::new() }
    }

    /// Adds the value at `place`, which is the next one; gives the row of a block that ends before it.
    fn add(&mut self, place: Place, value: T) -> Result<Option<RawRow>, Wrong> {
        let entry = (place.epoch, place.index);
        let ended = if entry > self.entry { self.take() } else { None };
        let next = self.values.len() as u64;
        if entry < self.entry || u64::from(place.slot) != next {
            return Err(format!("its place {place:?} does not follow the one before it: is a line missing?"));
        }
        self.entry = entry;
        self.values.push(value);
        Ok(ended)
    }

    fn take(&mut self) -> Option<RawRow> {
        let values = std::mem::take(&mut self.values);
        let row = || (keys::block(self.kind, self.entry).into(), blocks::pack(&values).into());
        (!values.is_empty()).then(row)
    }
}

impl Import<'_> {
    fn put(&mut self, key: &Key, row: &Row) -> Result<(), StorageError> {
        let value = codec::encode_exact(row, &mut self.buffer);
        self.put_raw((keys::encode(key).into_vec(), value))
    }

    fn put_raw(&mut self, row: RawRow) -> Result<(), StorageError> {
        self.sums.add(&row.0, &row.1);
        self.rows.push(row);
        if self.rows.len() >= ROWS_AT_ONCE { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), StorageError> {
        self.base.fill(&mut std::mem::take(&mut self.rows).into_iter())
    }

    /// What frees units at a time, found by the time and by the stock.
    fn due<'l>(
        &mut self,
        at: TimestampMs,
        subject: &Subject,
        lines: impl Iterator<Item = (&'l Sku, &'l Location)>,
    ) -> Result<(), StorageError> {
        self.put(&Key::Due(at, subject.clone()), &Row::Nothing)?;
        let mut seen = std::collections::BTreeSet::new();
        for (sku, location) in lines.filter(|line| seen.insert(*line)) {
            self.put(&Key::Hold(sku.clone(), location.clone(), at, subject.clone()), &Row::Nothing)?;
        }
        Ok(())
    }

    /// Hands each row of a file to `take`, and counts.
    fn each<L: Line>(
        &mut self,
        name: &str,
        mut take: impl FnMut(&mut Self, Place, L::Row) -> Result<Result<(), Wrong>, StorageError>,
    ) -> Result<(), StorageError> {
        let path = self.dir.join(format!("{name}.ndjson"));
        let io = |error: &std::io::Error| StorageError::io(format!("reading {}", path.display()), error);
        let mut lines = BufReader::with_capacity(1 << 20, File::open(&path).map_err(|error| io(&error))?);
        let (mut text, mut number) = (String::new(), 0);
        loop {
            text.clear();
            if lines.read_line(&mut text).map_err(|error| io(&error))? == 0 {
                break;
            }
            number += 1;
            let parsed = serde_json::from_str::<L>(&text).map_err(|error| error.to_string());
            let taken = match parsed.and_then(Line::row) {
                Ok((place, row)) if (place.epoch, place.index) > (self.about.epoch, self.about.log_index) => {
                    drop(row);
                    Err(format!("its place {place:?} is after the end of the history"))
                }
                Ok((place, row)) => take(self, place, row)?,
                Err(why) => Err(why),
            };
            taken.map_err(|why| damaged(path.clone(), number, why))?;
        }
        let said = self.about.lines.get(name).copied().unwrap_or(0);
        if said != number {
            return Err(damaged(
                path,
                number,
                format!("it has {number} lines, and about.json counts {said}"),
            ));
        }
        Ok(())
    }

    fn items(&mut self) -> Result<(), StorageError> {
        self.each::<ItemLine>(FILES[0], |import, made, item| {
            let sku = item.sku.clone();
            import.put(&Key::Item(sku.clone()), &Row::Item(item.into()))?;
            import.put(&Key::ItemMade(made), &Row::Sku(sku))?;
            Ok(Ok(()))
        })
    }

    fn stock(&mut self) -> Result<(), StorageError> {
        self.each::<LevelLine>(FILES[1], |import, _, stock| {
            import.head.units_reserved = import.head.units_reserved.saturating_add(stock.counters.reserved);
            import.head.units_allocated =
                import.head.units_allocated.saturating_add(stock.counters.allocated);
            import.put(&Key::Stock(stock.sku.clone(), stock.location.clone()), &Row::Stock(stock))?;
            Ok(Ok(()))
        })
    }

    fn reservations(&mut self) -> Result<(), StorageError> {
        self.each::<ReservationLine>(FILES[2], |import, made, reservation| {
            let id = reservation.id.clone();
            if reservation.status == ReservationStatus::Held {
                let lines = reservation.lines.iter().map(|line| (&line.sku, &line.location));
                import.due(reservation.expires_at, &Subject::Reservation(id.clone()), lines)?;
            }
            import.put(&Key::Reservation(id.clone()), &Row::Reservation(reservation))?;
            import.put(&Key::ReservationMade(made), &Row::ReservationId(id))?;
            Ok(Ok(()))
        })
    }

    fn orders(&mut self) -> Result<(), StorageError> {
        let mut block = Block::new(BlockKind::Placed);
        self.each::<SaleLine>(FILES[3], |import, place, order| {
            import.head.orders_placed += 1;
            if let Some(pay_by) = order.unpaid_at() {
                let lines = order.lines.iter().map(|line| (&line.sku, &line.location));
                import.due(pay_by, &Subject::Order(order.id), lines)?;
            }
            import.of_block(block.add(place, order))
        })?;
        block.take().map_or(Ok(()), |row| self.put_raw(row))
    }

    fn movements(&mut self) -> Result<(), StorageError> {
        let mut block = Block::new(BlockKind::Movements);
        self.each::<MovementLine>(FILES[4], |import, place, movement| {
            import.of_block(block.add(place, movement))
        })?;
        block.take().map_or(Ok(()), |row| self.put_raw(row))
    }

    fn of_block(&mut self, ended: Result<Option<RawRow>, Wrong>) -> Result<Result<(), Wrong>, StorageError> {
        match ended {
            Ok(Some(row)) => self.put_raw(row).map(Ok),
            Ok(None) => Ok(Ok(())),
            Err(why) => Ok(Err(why)),
        }
    }

    fn finish(mut self, scratch: &Path) -> Result<SnapshotFile, StorageError> {
        let head = self.head.clone();
        self.put(&Key::Head, &Row::Head(head))?;
        self.write()?;
        let number = |hex: &str| u128::from_str_radix(hex, 16);
        let (Ok(cluster_id), Ok(digest)) = (number(&self.about.cluster_id), number(&self.about.digest))
        else {
            return Err(damaged(self.dir.join("about.json"), 1, "no cluster id or digest"));
        };
        let mut progress = Progress {
            log_id: Some(LogId::new(CommittedLeaderId::new(0), self.about.log_index)),
            digest,
            cluster_version: self.about.cluster_version,
            ..Progress::default()
        };
        self.sums.give(&mut progress);
        let snapshots = Snapshots {
            fs: Arc::new(RealFileSystem),
            dir: scratch.join("snapshot"),
            cluster_id,
            group_id: 0,
            served: SERVED,
            underway: Underway::default(),
        };
        let rows = self.base.range(&[], keys::PROGRESS);
        snapshots.write(progress, rows)
    }
}
