//! A snapshot file as lines of JSON, in one pass.

use super::lines::{About, ItemLine, Line};
use super::orders::SaleLine;
use super::stock::{LevelLine, MovementLine, ReservationLine};
use super::values::time;
use super::{FILES, FORMAT};
use crate::backup::head_of;
use crate::base::RawRow;
use crate::blocks;
use crate::codec;
use crate::error::StorageError;
use crate::keys::{self, BlockKind};
use crate::shop::ids::Place;
use crate::shop::order::Order;
use crate::shop::state::{Key, Row};
use crate::shop::stock::Movement;
use crate::snapshot::{SnapshotFile, SnapshotRows};
use std::collections::BTreeMap;

/// What comes out, piece by piece.
#[derive(Debug)]
pub enum Section<'a> {
    /// From here on lines of this file.
    Begins(&'static str),
    /// One line, without its end.
    Line(&'a [u8]),
    /// All lines are out.
    Ends(&'a About),
}

/// Rows of a file, one by one.
struct Cursor<'a> {
    rows: SnapshotRows<'a>,
    block: std::vec::IntoIter<RawRow>,
    ahead: Option<RawRow>,
}

impl<'a> Cursor<'a> {
    fn new(file: &'a SnapshotFile) -> Result<Self, StorageError> {
        Ok(Cursor { rows: file.rows()?, block: Vec::new().into_iter(), ahead: None })
    }

    fn peek(&mut self) -> Result<Option<&RawRow>, StorageError> {
        while self.ahead.is_none() {
            self.ahead = self.block.next();
            if self.ahead.is_none() {
                match self.rows.next_block()? {
                    Some(rows) => self.block = rows.into_iter(),
                    None => break,
                }
            }
        }
        Ok(self.ahead.as_ref())
    }

    fn next(&mut self) -> Result<Option<RawRow>, StorageError> {
        self.peek()?;
        Ok(self.ahead.take())
    }
}

/// Orders as they are now: those that changed have rows of their own, in the same order as those placed.
struct Changed<'a>(Cursor<'a>);

impl Changed<'_> {
    fn now(&mut self, placed: Order) -> Result<Order, StorageError> {
        loop {
            let Some((key, value)) = self.0.peek()? else { return Ok(placed) };
            match keys::decode(key) {
                Some(Key::Order(id)) if id == placed.id => {
                    return match codec::decode("order", value)? {
                        Row::Order(order) => Ok(*order),
                        _ => Err(unexpected(key)),
                    };
                }
                // A block: no changed order is left.
                None => return Ok(placed),
                Some(Key::Order(id)) if id > placed.id => return Ok(placed),
                Some(_) => {
                    self.0.next()?;
                }
            }
        }
    }
}

fn unexpected(key: &[u8]) -> StorageError {
    StorageError::Format(format!("a row of another kind lies under {key:?}"))
}

/// Counts lines, and says where files begin.
struct Out<'a> {
    sink: &'a mut dyn FnMut(Section<'_>) -> bool,
    lines: BTreeMap<String, u64>,
    begun: usize,
    wanted: bool,
}

impl Out<'_> {
    /// Begins all files up to this one.
    fn begin(&mut self, file: &str) {
        while self.begun < FILES.len()
            && self.begun <= FILES.iter().position(|f| *f == file).unwrap_or(FILES.len())
        {
            let name = FILES[self.begun];
            self.wanted &= (self.sink)(Section::Begins(name));
            self.lines.insert(name.to_owned(), 0);
            self.begun += 1;
        }
    }

    fn line<L: Line>(&mut self, file: &str, row: &L::Row, place: Place) -> Result<(), StorageError> {
        self.begin(file);
        let line = serde_json::to_vec(&L::of(row, place)?).expect("strings and numbers always print");
        self.wanted &= (self.sink)(Section::Line(&line));
        *self.lines.get_mut(file).expect("begun above") += 1;
        Ok(())
    }
}

/// Writes everything in the file as text. `sink` gives false where nobody wants more. Reads the whole file: for a
/// thread that may block.
///
/// # Errors
/// [`StorageError`] where the file cannot be read.
pub fn export(file: &SnapshotFile, sink: &mut dyn FnMut(Section<'_>) -> bool) -> Result<(), StorageError> {
    let head = head_of(file)?;
    let mut out = Out { sink, lines: BTreeMap::new(), begun: 0, wanted: true };
    let (mut rows, mut changed) = (Cursor::new(file)?, Changed(Cursor::new(file)?));
    while let Some((key, value)) = rows.next()?.filter(|_| out.wanted) {
        let block = |kind: BlockKind| key.first() == Some(&(kind as u8));
        if block(BlockKind::Placed) {
            for placed in blocks::unpack::<Order>(&value)? {
                let order = changed.now(placed)?;
                out.line::<SaleLine>("orders", &order, order.id.0)?;
            }
        } else if block(BlockKind::Movements) {
            movements(&mut out, &key, &value)?;
        } else if let Some(key) = keys::decode(&key) {
            row(&mut out, &key, &value)?;
        }
    }
    out.begin("movements");
    let fingerprint = file.fingerprint();
    let about = About {
        format: FORMAT,
        cluster_id: format!("{:032x}", file.cluster_id()),
        log_index: fingerprint.log_index,
        digest: format!("{:032x}", fingerprint.digest),
        clock: time(head.clock)?,
        epoch: head.epoch,
        cluster_version: head.cluster_version.0,
        settings: (&head.settings).into(),
        lines: std::mem::take(&mut out.lines),
    };
    if out.wanted {
        (out.sink)(Section::Ends(&about));
    }
    Ok(())
}

fn row(out: &mut Out<'_>, key: &Key, value: &[u8]) -> Result<(), StorageError> {
    if !matches!(key, Key::Item(_) | Key::Stock(..) | Key::Reservation(_)) {
        return Ok(());
    }
    match codec::decode("row", value)? {
        Row::Item(item) => out.line::<ItemLine>("items", &item, item.created),
        Row::Stock(stock) => out.line::<LevelLine>("stock", &stock, stock.last_movement),
        Row::Reservation(reservation) => {
            out.line::<ReservationLine>("reservations", &reservation, reservation.created)
        }
        _ => Err(StorageError::Format(format!("a row of another kind lies under {key:?}"))),
    }
}

fn movements(out: &mut Out<'_>, key: &[u8], block: &[u8]) -> Result<(), StorageError> {
    let (epoch, index) = keys::block_entry(key).ok_or_else(|| unexpected(key))?;
    for (slot, movement) in (0..).zip(blocks::unpack::<Movement>(block)?) {
        out.line::<MovementLine>("movements", &movement, Place { epoch, index, slot })?;
    }
    Ok(())
}
