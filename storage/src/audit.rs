//! The audit: every sum recomputed from movements, orders and reservations at one applied index.

use crate::blocks;
use crate::codec;
use crate::error::StorageError;
use crate::keys::{self, BlockKind, DERIVED};
use crate::memtable::{Layer, Layers};
use crate::shop::check::Auditor;
use crate::shop::effect::Receipt;
use crate::shop::ids::{OrderId, Place};
use crate::shop::order::Order;
use crate::shop::state::{Index, Key, Row};
use crate::shop::stock::Movement;
use crate::store::Store;
use crate::tables::{Fingerprint, Frozen, row_hash};

/// How far an audit has come.
#[derive(Debug, Clone, Copy)]
pub struct AuditProgress {
    /// Rows read.
    pub done: u64,
    /// Rows there are, as counted at the start.
    pub total: u64,
    /// What is being read.
    pub what: &'static str,
}

/// What an audit found, at one applied index.
#[derive(Debug, Clone, Default)]
pub struct AuditReport {
    /// The index, and what two nodes must agree on there.
    pub fingerprint: Fingerprint,
    /// Items seen.
    pub items: u64,
    /// Stocks seen.
    pub stocks: u64,
    /// Movements seen.
    pub movements: u64,
    /// Orders seen.
    pub orders: u64,
    /// Reservations seen.
    pub reservations: u64,
    /// Receipts seen.
    pub receipts: u64,
    /// Empty where clean.
    pub findings: Vec<String>,
}

/// Names that are not found told one by one; of those beyond, only the count.
const LISTED_NAMES: u64 = 100;
/// Rows between two calls of `progress`.
const PROGRESS_ROWS: u64 = 5_000;

/// Audits a node while applies go on. Blocks: for workers only.
pub(crate) async fn audit(
    store: &Store,
    mut progress: impl FnMut(AuditProgress) + Send,
) -> Result<AuditReport, StorageError> {
    let audit = |frozen: &Frozen| {
        let none = Layer::default();
        let layers = frozen.layers(&none);
        let mut total = 0;
        for row in layers.range(&[], &[DERIVED]) {
            row?;
            total += 1;
            if total % PROGRESS_ROWS == 0 {
                progress(AuditProgress { done: 0, total, what: "counting" });
            }
        }
        let mut run = Run {
            store,
            frozen,
            layers,
            auditor: Auditor::new(),
            report: AuditReport::default(),
            not_found: 0,
        };
        let mut sum = 0u128;
        for (done, row) in (1..).zip(layers.range(&[], &[DERIVED])) {
            let (key, value) = row?;
            sum = sum.wrapping_add(row_hash(&key, &value));
            let what = run.row(&key, &value)?;
            if done % PROGRESS_ROWS == 0 || done == total {
                progress(AuditProgress { done, total, what });
            }
        }
        Ok(run.finish(sum))
    };
    store.with_frozen(audit).await
}

struct Run<'a> {
    store: &'a Store,
    frozen: &'a Frozen,
    layers: Layers<'a>,
    auditor: Auditor,
    report: AuditReport,
    /// Names that do not lead to their places.
    not_found: u64,
}

impl Run<'_> {
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<&'static str, StorageError> {
        let block = |kind: BlockKind| key.first() == Some(&(kind as u8));
        if block(BlockKind::Placed) {
            self.placed(value)?;
            return Ok("orders");
        }
        if block(BlockKind::Movements) {
            self.movements(key, value)?;
            return Ok("movements");
        }
        if block(BlockKind::Receipts) {
            self.receipts(value)?;
            return Ok("receipts");
        }
        let named = keys::decode(key).ok_or_else(|| StorageError::Format(format!("not a key: {key:?}")))?;
        match (named, codec::decode("row", value)?) {
            (_, Row::Stock(stock)) => {
                self.report.stocks += 1;
                self.auditor.stock(&stock);
                Ok("stock")
            }
            (_, Row::Reservation(reservation)) => {
                self.report.reservations += 1;
                self.auditor.reservation(&reservation);
                Ok("reservations")
            }
            (_, Row::Item(_)) => {
                self.report.items += 1;
                Ok("items")
            }
            (Key::Due(at, subject), _) if at <= self.frozen.head.clock => {
                // Allowed only while more is due than one entry may free.
                tracing::debug!(?at, ?subject, "still due");
                Ok("deadlines")
            }
            _ => Ok("rows"),
        }
    }

    fn placed(&mut self, block: &[u8]) -> Result<(), StorageError> {
        for placed in blocks::unpack::<Order>(block)? {
            self.report.orders += 1;
            if let Some(name) = &placed.name {
                self.is_found(Index::OrderName, name.as_str(), placed.id.0)?;
            }
            if let Some(customer) = &placed.customer_id {
                self.is_found(Index::Customer, customer.as_str(), placed.id.0)?;
            }
            match self.changed(placed.id)? {
                Some(order) => self.auditor.order(&order),
                None => self.auditor.order(&placed),
            }
        }
        Ok(())
    }

    fn changed(&self, id: OrderId) -> Result<Option<Box<Order>>, StorageError> {
        let Some(row) = self.layers.get(&keys::encode(&Key::Order(id)))? else { return Ok(None) };
        match codec::decode("order", &row)? {
            Row::Order(order) => Ok(Some(order)),
            _ => Err(StorageError::Format(format!("no order lies under {id}"))),
        }
    }

    fn movements(&mut self, key: &[u8], block: &[u8]) -> Result<(), StorageError> {
        let (epoch, index) =
            keys::block_entry(key).ok_or_else(|| StorageError::Format(format!("not a block: {key:?}")))?;
        for (slot, movement) in (0..).zip(blocks::unpack::<Movement>(block)?) {
            self.report.movements += 1;
            self.auditor.movement(Place { epoch, index, slot }, &movement);
        }
        Ok(())
    }

    fn receipts(&mut self, block: &[u8]) -> Result<(), StorageError> {
        for receipt in blocks::unpack::<Receipt>(block)? {
            self.report.receipts += 1;
            self.is_found(Index::Receipt, receipt.key.as_str(), receipt.place)?;
        }
        Ok(())
    }

    /// Whether a name leads to its place: what is not found could be done twice.
    fn is_found(&mut self, index: Index, name: &str, place: Place) -> Result<(), StorageError> {
        let tables = self.store.read();
        let dropped = index == Index::Receipt && (place.epoch, place.index) < tables.head.receipts_from;
        if !dropped && !tables.lists(index, name, place)? {
            self.not_found += 1;
            if self.not_found <= LISTED_NAMES {
                self.report.findings.push(format!("{index:?} {name} is not found at {place:?}"));
            }
        }
        Ok(())
    }

    fn finish(mut self, sum: u128) -> AuditReport {
        self.report.fingerprint = self.frozen.progress.fingerprint();
        let kept = self.frozen.progress.state_hash;
        if sum != kept {
            self.report.findings.push(format!("the rows add up to {sum:032x}, kept was {kept:032x}"));
        }
        if self.not_found > LISTED_NAMES {
            let more = self.not_found - LISTED_NAMES;
            self.report.findings.push(format!("and {more} more names that are not found"));
        }
        self.report.findings.extend(self.auditor.finish(&self.frozen.head));
        self.report
    }
}
