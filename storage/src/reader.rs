//! Reading the state: consistent views, at one applied index each.
#![allow(missing_docs, unused_variables, clippy::todo)]

use crate::error::StorageError;
use crate::shop::effect::{Outcome, Receipt};
use crate::shop::ids::{CustomerId, IdempotencyKey, Location, OrderName, Place, ReservationId, Sku, TimestampMs};
use crate::shop::item::Item;
use crate::shop::order::{Order, OrderStatus};
use crate::shop::reservation::{Reservation, ReservationStatus};
use crate::shop::state::Head;
use crate::shop::stock::{Movement, Stock};
use tokio::time::Instant;

/// What two nodes at one applied index must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fingerprint {
    /// The applied entry.
    pub log_index: u64,
    /// Rolling digest over all changes: same history.
    pub digest: u128,
    /// Order-free sum over all live rows: same state.
    pub state_hash: u128,
}

/// How far a node has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    pub fingerprint: Fingerprint,
    /// The replicated clock there.
    pub clock: TimestampMs,
}

/// Reads one replica. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader;

impl Reader {
    /// Newest applied entry (of which the local log is durable).
    pub fn applied(&self) -> Applied {
        todo!()
    }
    /// Waits until at least `log_index` is applied and locally durable; false at the deadline.
    pub async fn wait_applied(&self, log_index: u64, deadline: Instant) -> bool {
        todo!()
    }
    /// A view at one applied index. Holds a lock: never keep it across an `.await`.
    pub fn view(&self) -> Result<View<'_>, StorageError> {
        todo!()
    }
    /// Fingerprint at a recent index, where still remembered (the last 10,000 entries).
    pub fn fingerprint_at(&self, log_index: u64) -> Option<Fingerprint> {
        todo!()
    }
    pub fn recent_fingerprints(&self, limit: usize) -> Vec<Fingerprint> {
        todo!()
    }
    /// Recomputes every sum from movements and orders at one index, off the async threads, while applies go on.
    pub async fn audit(&self, progress: impl FnMut(AuditProgress) + Send + 'static) -> Result<AuditReport, StorageError> {
        todo!()
    }
    pub fn stats(&self) -> Stats {
        todo!()
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    pub memtable_bytes: u64,
    pub memtable_limit_bytes: u64,
    pub log_bytes: u64,
    pub durable_log_index: u64,
    pub snapshot_log_index: u64,
    pub snapshot_bytes: u64,
    pub checkpoint_log_index: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct AuditProgress {
    pub done: u64,
    pub total: u64,
    pub what: &'static str,
}

#[derive(Debug, Clone, Default)]
pub struct AuditReport {
    pub fingerprint: Fingerprint,
    pub items: u64,
    pub stocks: u64,
    pub movements: u64,
    pub orders: u64,
    pub reservations: u64,
    pub receipts: u64,
    /// Empty where clean.
    pub findings: Vec<String>,
}

/// All rows as of one applied index; implements [`crate::shop::state::Rows`] too.
pub struct View<'a>(std::marker::PhantomData<&'a ()>);

/// One page of a list: what was asked for and where to go on (`None`: the list ends here).
#[derive(Debug)]
pub struct Page<T, C = Place> {
    pub rows: Vec<T>,
    pub next: Option<C>,
}

impl View<'_> {
    pub fn log_index(&self) -> u64 {
        todo!()
    }
    pub fn head(&self) -> Result<Head, StorageError> {
        todo!()
    }
    pub fn item(&self, sku: &Sku) -> Result<Option<Item>, StorageError> {
        todo!()
    }
    /// In order of creation, after `after`.
    pub fn items(&self, after: Option<Place>, limit: usize) -> Result<Page<Item>, StorageError> {
        todo!()
    }
    /// All locations of a SKU, in order of name; empty where it never had stock.
    pub fn stock(&self, sku: &Sku) -> Result<Vec<Stock>, StorageError> {
        todo!()
    }
    /// Newest first, before `before` (of one location, or of all merged).
    pub fn movements(
        &self,
        skus: &[Sku],
        location: Option<&Location>,
        before: Option<Place>,
        limit: usize,
    ) -> Result<Page<(Place, Movement)>, StorageError> {
        todo!()
    }
    pub fn reservation(&self, id: &ReservationId) -> Result<Option<Reservation>, StorageError> {
        todo!()
    }
    pub fn reservations(
        &self,
        status: Option<ReservationStatus>,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Page<Reservation>, StorageError> {
        todo!()
    }
    /// By chosen or made id.
    pub fn order(&self, name: &OrderName) -> Result<Option<Order>, StorageError> {
        todo!()
    }
    /// In order of creation, after `after`; as they are now.
    pub fn orders(
        &self,
        customer: Option<&CustomerId>,
        status: Option<OrderStatus>,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Page<Order>, StorageError> {
        todo!()
    }
    /// The live receipt of a key, with its outcome put together again (`None` inside: abandoned).
    pub fn outcome(&self, key: &IdempotencyKey) -> Result<Option<(Receipt, Option<Outcome>)>, StorageError> {
        todo!()
    }
}
