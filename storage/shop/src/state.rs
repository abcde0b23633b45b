//! What the shop remembers, and the one way in which it changes.

pub use crate::apply::step;
use crate::command::Settings;
use crate::effect::Receipt;
use crate::ids::{Location, OrderId, Place, ReservationId, Sku, TimestampMs};
use crate::item::{Item, Terms};
use crate::order::Order;
use crate::reservation::Reservation;
use crate::stock::Stock;
use crate::version::ClusterVersion;
use bincode::{Decode, Encode};
use std::sync::Arc;

/// Names one keyed row. The order of keys is the order on disk, so ranges are meaningful.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The one [`Head`].
    Head,
    /// An [`Item`].
    Item(Sku),
    /// The SKU of the item made here: items in order of creation. Row: [`Row::Sku`].
    ItemMade(Place),
    /// A [`Stock`].
    Stock(Sku, Location),
    /// A [`Reservation`].
    Reservation(ReservationId),
    /// The id of the reservation made here: reservations in order of creation. Row: [`Row::ReservationId`].
    ReservationMade(Place),
    /// An [`Order`] that changed after it was placed; until then it is only in its entry's block.
    Order(OrderId),
    /// Something ends at this time. Row: [`Row::Nothing`].
    Due(TimestampMs, Subject),
    /// The same, found from the stock it holds. Row: [`Row::Nothing`].
    Hold(Sku, Location, TimestampMs, Subject),
}

/// What ends when its time is over. Ordered: of two due at once, the reservation goes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Subject {
    /// A hold expires.
    Reservation(ReservationId),
    /// An unpaid order is cancelled.
    Order(OrderId),
}

impl Subject {
    /// Sorts before every subject: the start of a range of keys.
    pub(crate) fn first() -> Self {
        Subject::Reservation(ReservationId::first())
    }
}

/// Value of one keyed row.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Row {
    /// Of [`Key::Head`].
    Head(Head),
    /// Of [`Key::Item`].
    Item(Arc<Item>),
    /// Of [`Key::ItemMade`].
    Sku(Sku),
    /// Of [`Key::Stock`].
    Stock(Stock),
    /// Of [`Key::Reservation`].
    Reservation(Reservation),
    /// Of [`Key::ReservationMade`].
    ReservationId(ReservationId),
    /// Of [`Key::Order`].
    Order(Box<Order>),
    /// Of [`Key::Due`] and [`Key::Hold`].
    Nothing,
}

/// What the shop knows about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Head {
    /// The replicated clock; never back.
    pub clock: TimestampMs,
    /// Counts restores from a backup.
    pub epoch: u16,
    /// In force for the whole cluster.
    pub settings: Settings,
    /// No receipt lies in an entry before this one, as (epoch, log index): what was over was dropped.
    pub receipts_from: Entry,
    /// No receipt is older than this: until it is over, none needs to be looked for.
    pub receipts_since: TimestampMs,
    /// Units reserved, over all stock.
    pub units_reserved: u64,
    /// Units allocated, over all stock.
    pub units_allocated: u64,
    /// Orders ever placed.
    pub orders_placed: u64,
    /// Which commands, rules and formats are in force; never back.
    pub cluster_version: ClusterVersion,
}

/// An entry of the log across restores: (cluster epoch, log index).
pub type Entry = (u16, u64);

/// Indexes that find a place by a name. How they are kept is the storage's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Index {
    /// Receipts by idempotency key. Only entries of live receipts count.
    Receipt,
    /// Placed orders by chosen name.
    OrderName,
    /// Placed orders by customer.
    Customer,
}

/// The rows of one replica as of one applied index.
pub trait Rows {
    /// A keyed row.
    ///
    /// # Errors
    /// [`Unreadable`] where the disk or its bytes are bad; the node stops.
    fn get(&self, key: &Key) -> Result<Option<Row>, Unreadable>;

    /// What a line asks of an item: of [`Key::Item`], without the rest.
    ///
    /// # Errors
    /// As [`Rows::get`].
    fn terms(&self, sku: &Sku) -> Result<Option<Terms>, Unreadable> {
        match self.get(&Key::Item(sku.clone()))? {
            Some(Row::Item(item)) => Ok(Some(item.terms())),
            None => Ok(None),
            Some(_) => Err(Unreadable(format!("a row of another kind lies under the item {sku}"))),
        }
    }

    /// Up to `limit` keys from `from` (included) to `until` (excluded), in order.
    ///
    /// # Errors
    /// As [`Rows::get`].
    fn keys(&self, from: &Key, until: &Key, limit: usize) -> Result<Vec<Key>, Unreadable>;

    /// An order exactly as it was placed.
    ///
    /// # Errors
    /// As [`Rows::get`].
    fn placed(&self, place: Place) -> Result<Option<Order>, Unreadable>;

    /// A receipt; also one that is over but not dropped yet.
    ///
    /// # Errors
    /// As [`Rows::get`].
    fn receipt(&self, place: Place) -> Result<Option<Receipt>, Unreadable>;

    /// Entries (epoch, log index) at or after `from` that have a block of receipts, oldest first,
    /// at most `limit`, each with the time at which its receipts were kept.
    ///
    /// # Errors
    /// As [`Rows::get`].
    fn receipt_entries(&self, from: Entry, limit: usize) -> Result<Vec<(Entry, TimestampMs)>, Unreadable>;

    /// Places that may be listed under `name`, newest first. Fingerprints collide: the caller
    /// compares the full name.
    ///
    /// # Errors
    /// As [`Rows::get`].
    fn find(&self, index: Index, name: &str) -> Result<Vec<Place>, Unreadable>;
}

/// Bytes that could not be read back. Not a rejection: the node must not guess.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("state cannot be read: {0}")]
pub struct Unreadable(pub String);

/// An invariant does not hold: a bug or a damaged replica. The node stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant broken at log index {log_index}: {law}")]
pub struct Breach {
    /// The entry that broke it.
    pub log_index: u64,
    /// Which, and by what numbers.
    pub law: String,
}

/// Why an entry could not be applied. Either stops the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The disk or its bytes are bad.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// An invariant does not hold.
    #[error(transparent)]
    Breach(#[from] Breach),
}
