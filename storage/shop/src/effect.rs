//! What can come out of the shop.

use crate::command::Settings;
use crate::ids::{IdempotencyKey, Location, OrderName, Place, ReservationId, Sku, TimestampMs};
use crate::item::Item;
use crate::order::{Order, OrderStatus};
use crate::reservation::{Reservation, ReservationStatus};
use crate::state::{Entry, Index, Key, Row};
use crate::stock::{Counters, Movement};
use crate::text::Text;
use crate::version::ClusterVersion;
use bincode::{Decode, Encode};
use std::sync::Arc;

/// What the shop decided. A rejection is a result too: it is committed and kept under its key.
pub type Outcome = Result<Reply, Rejection>;

/// The shop did it.
///
/// Kept in receipts and sent between nodes: append-only.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// An item as it is now.
    Item {
        /// After the command.
        item: Item,
        /// Whether the command made it.
        created: bool,
    },
    /// Stocks as they are now, one for each that the command touched.
    Stock(Vec<StockLevel>),
    /// A reservation as it is now.
    Reservation {
        /// After the command.
        reservation: Reservation,
        /// Whether the command made it.
        created: bool,
    },
    /// An order as it is now.
    Order {
        /// After the command.
        order: Arc<Order>,
        /// Whether the command made it.
        created: bool,
    },
    /// The key is settled: no later write with it can pass. The outcome where there was one.
    Settled(Option<Box<Receipt>>),
    /// Time passed, or a cluster version was raised.
    Done,
    /// The cluster's settings as they are now.
    Settings(Settings),
}

/// One stock after a command.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StockLevel {
    /// Which.
    pub sku: Sku,
    /// Where.
    pub location: Location,
    /// What is there and what is promised.
    pub counters: Counters,
}

/// A line that asks for more than there is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Shortage {
    /// Which.
    pub sku: Sku,
    /// Where.
    pub location: Location,
    /// Units asked for, all lines of this stock together.
    pub requested: u64,
    /// Units that could have been promised.
    pub available: u64,
}

/// The shop says no: the same no on every node, for ever.
///
/// Kept in receipts and sent between nodes: append-only.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum Rejection {
    /// The path names an item that is not there.
    #[error("there is no item {0}")]
    ItemNotFound(Sku),
    /// The path names an order that is not there.
    #[error("there is no order {0}")]
    OrderNotFound(OrderName),
    /// The path or body names a reservation that is not there.
    #[error("there is no reservation {0}")]
    ReservationNotFound(ReservationId),
    /// Lines name SKUs that no item has.
    #[error("{} unknown SKU(s), the first is {}", .0.len(), .0[0])]
    UnknownSku(Vec<Sku>),
    /// Lines name retired items.
    #[error("{} retired item(s), the first is {}", .0.len(), .0[0])]
    Retired(Vec<Sku>),
    /// Not enough is available; every short line is listed.
    #[error("{} line(s) ask for more than is available", .0.len())]
    OutOfStock(Vec<Shortage>),
    /// An order is in a state that does not allow it.
    #[error("order {order} is {status:?}")]
    OrderWrongState {
        /// Which.
        order: OrderName,
        /// Where it stands.
        status: OrderStatus,
        /// Where it would have to stand.
        allowed: Vec<OrderStatus>,
    },
    /// A reservation is in a state that does not allow it.
    #[error("reservation {reservation} is {status:?}")]
    ReservationWrongState {
        /// Which.
        reservation: ReservationId,
        /// Where it stands.
        status: ReservationStatus,
    },
    /// A chosen id stands for something else already.
    #[error("the id {0} is taken")]
    IdTaken(String),
    /// The key came with another command before. Never kept: the key's own outcome stays.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The key was abandoned.
    #[error("the idempotency key was abandoned")]
    Abandoned,
    /// `If-Match` names another version.
    #[error("the item is at version {actual}, not {expected}")]
    VersionDiffers {
        /// As asked; 0 is "must not exist".
        expected: u64,
        /// As it is; 0 is "does not exist".
        actual: u64,
    },
    /// `expected_on_hand` differs.
    #[error("on hand is {actual}, not {expected}")]
    OnHandDiffers {
        /// As asked.
        expected: u64,
        /// As it is.
        actual: u64,
    },
    /// An adjustment would take away what is promised.
    #[error("on hand {on_hand} changed by {delta} would fall below the {promised} promised")]
    BelowPromised {
        /// As it is.
        on_hand: u64,
        /// As asked.
        delta: i64,
        /// Reserved and allocated.
        promised: u64,
    },
    /// Above what is due, owed, shipped or left.
    #[error("{what}: at most {most}, asked for {asked}")]
    TooMuch {
        /// Of what, as it reads in a message.
        what: String,
        /// The most that would pass.
        most: u64,
        /// As asked.
        asked: u64,
    },
    /// A line names a stock that the order does not have.
    #[error("the order has no line of {sku} at {location}")]
    NoSuchLine {
        /// Which.
        sku: Sku,
        /// Where.
        location: Location,
    },
    /// One currency an order.
    #[error("amounts in more than one currency")]
    MixedCurrency,
    /// A sum would leave the range that JSON carries exactly.
    #[error("{0} would exceed 9007199254740991")]
    OutOfRange(String),
    /// Transfer from a location to itself.
    #[error("a transfer needs two locations")]
    SameLocation,
    /// The deadline is over on the replicated clock.
    #[error("the time {0:?} is over")]
    TooLate(TimestampMs),
    /// More metadata than the settings allow.
    #[error("an order has at most {0} metadata entries")]
    TooMuchMetadata(u32),
    /// `{}` asks for all that is left, and nothing is.
    #[error("{0}: nothing is left")]
    NothingLeft(String),
    /// The command comes with a later cluster version than this, which is in force. Never kept: the same write may pass
    /// once that version is.
    #[error("the cluster is at version {0}, which does not have this command yet")]
    NotInForce(ClusterVersion),
    /// The entry that it came in keeps as much as one may already. Never kept: the same write may pass in the next one.
    #[error("what came with it keeps as much as one entry of the log may")]
    EntryFull,
}

impl Reply {
    /// Bytes that it takes to keep this, about.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Reply::Order { order, .. } => order.weight(),
            Reply::Reservation { reservation, .. } => reservation.weight(),
            Reply::Stock(levels) => levels.iter().map(|level| line_weight(&level.sku, &level.location)).sum(),
            Reply::Item { item, .. } => {
                item.name.len() + item.attributes.as_ref().map_or(0, |attributes| attributes.len())
            }
            Reply::Settled(_) | Reply::Done | Reply::Settings(_) => 0,
        }
    }
}

/// Bytes of a line, about: its names, and what is counted.
pub(crate) fn line_weight(sku: &Sku, location: &Location) -> usize {
    const COUNTS: usize = 32;
    sku.as_str().len() + location.as_str().len() + COUNTS
}

/// What is kept under an idempotency key: whether the write passed or not, for the retention.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Receipt {
    /// Whose.
    pub key: IdempotencyKey,
    /// Of the command that came with it.
    pub fingerprint: u128,
    /// What was decided.
    pub outcome: Kept,
    /// Where: its log index is the answer's.
    pub place: Place,
    /// When, on the replicated clock.
    pub at: TimestampMs,
}

/// An outcome as kept.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Kept {
    /// A placed order, which lies unchanged in its own block.
    Placed(Place),
    /// Anything else.
    Outcome(Outcome),
    /// Abandoned before there was an outcome.
    Abandoned,
}

/// What goes back to the caller of one proposal.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Answer {
    /// What was decided.
    pub outcome: Outcome,
    /// Whether it was decided before, under the same key.
    pub replayed: bool,
    /// Raft log index at which it was decided (not that of a replay).
    pub log_index: u64,
}

/// All that one entry did. The only thing that changes a replica's rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Step {
    /// One for each proposal, in order.
    pub answers: Vec<Answer>,
    /// New values of keyed rows, each key once, in the order of keys; `None` removes.
    pub rows: Vec<(Key, Option<Row>)>,
    /// The block of orders placed: slot 0, 1, ...
    pub placed: Vec<Arc<Order>>,
    /// The block of movements.
    pub movements: Vec<Movement>,
    /// The block of receipts.
    pub receipts: Vec<Receipt>,
    /// New index entries: looked up by [`crate::state::Rows::find`].
    pub listed: Vec<(Index, Text, Place)>,
    /// Entries whose whole block of receipts is over and gone.
    pub dropped_receipts: Vec<Entry>,
}
