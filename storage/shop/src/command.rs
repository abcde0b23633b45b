//! What can be asked of the shop.
//!
//! [`Command`] is append-only: it lies in the log and in backups for years. New variants go at the
//! end, and say [`Command::since`] which cluster version they are in force; a struct that has been released never
//! changes, a new one takes its place.

use crate::ids::{
    Currency, CustomerId, IdempotencyKey, Location, OrderName, Quantity, ReservationId, Sku, TimestampMs,
};
use crate::item::Price;
use crate::reservation::StockLine;
use crate::version::ClusterVersion;
use bincode::{Decode, Encode};
use std::{collections::BTreeMap, sync::Arc};

/// One thing a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Command {
    /// Makes or replaces an item.
    PutItem(PutItem),
    /// Ends the sale of an item.
    RetireItem(Sku),
    /// Goods arrive.
    Receive(Vec<StockLine>),
    /// A count was wrong.
    Adjust(Adjust),
    /// Goods change rooms.
    Transfer(Transfer),
    /// Try: holds units for a while.
    Reserve(Reserve),
    /// Confirm: the held units leave the room.
    Confirm(ReservationId),
    /// Cancel: the held units are free again; before its try, it is remembered.
    CancelReservation(ReservationId),
    /// Holds on for longer.
    Extend(Extend),
    /// Places an order.
    PlaceOrder(PlaceOrder),
    /// Pays an order, in parts or in full.
    Pay(Pay),
    /// Ships an order, in parts or in full.
    Ship(Ship),
    /// Closes a shipped order.
    Complete(OrderName),
    /// Cancels what was not shipped.
    CancelOrder(CancelOrder),
    /// Goods come back.
    Return(Return),
    /// Money goes back.
    Refund(Refund),
    /// Merges metadata into an order.
    PatchMetadata(PatchMetadata),
    /// Settles a key whose write has no outcome: no later write with it can pass.
    Abandon(IdempotencyKey),
    /// Lets time pass: frees what is due. Proposed by the leader itself.
    Tick,
    /// Changes the cluster's settings.
    Configure(SettingsChange),
    /// Puts a later cluster version in force, for good; one that is in force already changes nothing.
    RaiseClusterVersion(ClusterVersion),
    /// What a proposal asks for whose command a later program brought: this one cannot read it. Never in force.
    Unknown,
    /// Of tests of upgrades.
    #[cfg(feature = "next-version")]
    Rehearse,
}

impl Command {
    /// The first cluster version in which it is in force. In an earlier one it does nothing at all, on every node: it may
    /// be that some cannot even read it.
    #[must_use]
    pub fn since(&self) -> ClusterVersion {
        match self {
            Command::PutItem(_)
            | Command::RetireItem(_)
            | Command::Receive(_)
            | Command::Adjust(_)
            | Command::Transfer(_)
            | Command::Reserve(_)
            | Command::Confirm(_)
            | Command::CancelReservation(_)
            | Command::Extend(_)
            | Command::PlaceOrder(_)
            | Command::Pay(_)
            | Command::Ship(_)
            | Command::Complete(_)
            | Command::CancelOrder(_)
            | Command::Return(_)
            | Command::Refund(_)
            | Command::PatchMetadata(_)
            | Command::Abandon(_)
            | Command::Tick
            | Command::Configure(_)
            | Command::RaiseClusterVersion(_) => ClusterVersion::FIRST,
            Command::Unknown => ClusterVersion(u32::MAX),
            #[cfg(feature = "next-version")]
            Command::Rehearse => crate::rehearsal::VERSION,
        }
    }
}

impl Command {
    /// Whether it begins something, which takes room on every disk for good, rather than goes on with, or ends, what is
    /// there. What begins something is refused where there is no room; the rest goes on, so that a shop that is short
    /// of room can be wound down.
    pub fn begins_something(&self) -> bool {
        match self {
            Command::PutItem(_)
            | Command::Receive(_)
            | Command::Adjust(_)
            | Command::Transfer(_)
            | Command::Reserve(_)
            | Command::PlaceOrder(_) => true,
            Command::RetireItem(_)
            | Command::Confirm(_)
            | Command::CancelReservation(_)
            | Command::Extend(_)
            | Command::Pay(_)
            | Command::Ship(_)
            | Command::Complete(_)
            | Command::CancelOrder(_)
            | Command::Return(_)
            | Command::Refund(_)
            | Command::PatchMetadata(_)
            | Command::Abandon(_)
            | Command::Tick
            | Command::Configure(_)
            | Command::RaiseClusterVersion(_)
            | Command::Unknown => false,
            #[cfg(feature = "next-version")]
            Command::Rehearse => false,
        }
    }
}

/// Body of [`Command::PutItem`]. Replaces: what is absent is gone.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PutItem {
    /// Which.
    pub sku: Sku,
    /// For people; the SKU where absent.
    pub name: Option<Arc<str>>,
    /// For one unit.
    pub price: Option<Price>,
    /// Canonical JSON object.
    pub attributes: Option<Arc<str>>,
    /// Replace only this version (`If-Match`); 0 stands for "must not exist" (`If-None-Match: *`).
    pub expected_version: Option<u64>,
}

/// Body of [`Command::Adjust`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Adjust {
    /// Which.
    pub sku: Sku,
    /// Where.
    pub location: Location,
    /// Units to add, or to take where negative; not 0.
    pub delta: i64,
    /// For people.
    pub reason: Arc<str>,
    /// Adjust only if on hand is this.
    pub expected_on_hand: Option<u64>,
}

/// Body of [`Command::Transfer`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Transfer {
    /// Which.
    pub sku: Sku,
    /// Loses the units; they must be available.
    pub from: Location,
    /// Gains them.
    pub to: Location,
    /// How many.
    pub quantity: Quantity,
}

/// Body of [`Command::Reserve`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Reserve {
    /// Chosen by the caller, or made.
    pub id: Option<ReservationId>,
    /// How long to hold.
    pub ttl_ms: u64,
    /// All or none.
    pub lines: Vec<StockLine>,
}

/// Body of [`Command::Extend`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Extend {
    /// Which.
    pub id: ReservationId,
    /// From now on.
    pub ttl_ms: u64,
}

/// Body of [`Command::PlaceOrder`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PlaceOrder {
    /// Chosen by the caller and unique for ever, or made.
    pub name: Option<OrderName>,
    /// Who buys.
    pub customer_id: Option<CustomerId>,
    /// Of all amounts; that of the items' prices where absent.
    pub currency: Option<Currency>,
    /// Cancelled as unpaid after this time.
    pub pay_by: Option<TimestampMs>,
    /// The caller's own notes.
    pub metadata: BTreeMap<Arc<str>, Arc<str>>,
    /// What is bought.
    pub source: OrderSource,
}

/// Where an order takes its units from.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum OrderSource {
    /// Available units.
    Lines(Vec<NewOrderLine>),
    /// The units of a held reservation, which it confirms.
    Reservation(ReservationId),
}

/// One line of a new order.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NewOrderLine {
    /// Which.
    pub sku: Sku,
    /// From where.
    pub location: Location,
    /// How many.
    pub quantity: Quantity,
    /// For the whole line; price times quantity where absent.
    pub amount_minor: Option<u64>,
}

/// Body of [`Command::Pay`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Pay {
    /// Which.
    pub order: OrderName,
    /// All that is left where absent.
    pub amount_minor: Option<u64>,
    /// The payment's own id elsewhere.
    pub reference: Option<Arc<str>>,
}

/// Body of [`Command::Ship`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Ship {
    /// Which.
    pub order: OrderName,
    /// All that is left where absent.
    pub lines: Option<Vec<StockLine>>,
}

/// Body of [`Command::CancelOrder`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CancelOrder {
    /// Which.
    pub order: OrderName,
    /// For people.
    pub reason: Option<Arc<str>>,
}

/// Body of [`Command::Return`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Return {
    /// Which.
    pub order: OrderName,
    /// All that is shipped and not yet returned where absent.
    pub lines: Option<Vec<StockLine>>,
    /// Back on hand, or written off.
    pub restock: bool,
}

/// Body of [`Command::Refund`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Refund {
    /// Which.
    pub order: OrderName,
    /// All that is owed where absent.
    pub amount_minor: Option<u64>,
    /// The refund's own id elsewhere.
    pub reference: Option<Arc<str>>,
}

/// Body of [`Command::PatchMetadata`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PatchMetadata {
    /// Which.
    pub order: OrderName,
    /// New values; `None` removes the key.
    pub changes: BTreeMap<Arc<str>, Option<Arc<str>>>,
}

/// What holds for the whole cluster, and is changed by a command rather than by a node's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Settings {
    /// How long a key's outcome is kept, by the replicated clock.
    pub receipt_retention_ms: u64,
    /// Most holds and unpaid orders one step frees on its own account, so that a mass of them
    /// never makes one entry slow; the ticker goes on.
    pub releases_per_step: u32,
    /// Most entries whose expired receipts one step drops; above 1, so that dropping catches up.
    pub receipt_drops_per_step: u32,
    /// Most entries the metadata of an order may have.
    pub metadata_entries: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            receipt_retention_ms: 24 * 60 * 60 * 1000,
            releases_per_step: 1_000,
            receipt_drops_per_step: 8,
            metadata_entries: 16,
        }
    }
}

/// Body of [`Command::Configure`]. What is `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct SettingsChange {
    /// A new [`Settings::receipt_retention_ms`].
    pub receipt_retention_ms: Option<u64>,
    /// A new [`Settings::releases_per_step`].
    pub releases_per_step: Option<u32>,
    /// A new [`Settings::receipt_drops_per_step`].
    pub receipt_drops_per_step: Option<u32>,
    /// A new [`Settings::metadata_entries`].
    pub metadata_entries: Option<u32>,
}

/// A command on its way into the log.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Proposal {
    /// The caller's id of the write; `None` only for what the leader itself proposes.
    pub idempotency_key: Option<IdempotencyKey>,
    /// Hash of the command's versioned canonical bytes, made once where it entered the cluster:
    /// the same key with another fingerprint is refused.
    pub fingerprint: u128,
    /// What to do.
    pub command: Command,
}

/// One Raft entry.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Batch {
    /// The leader's replicated clock.
    pub stamped_at: TimestampMs,
    /// Applied in this order.
    pub proposals: Vec<Proposal>,
}
