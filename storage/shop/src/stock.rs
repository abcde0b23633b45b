//! Stock: how many units of a SKU a location holds, what is promised of them, and every movement.

use crate::ids::{IdempotencyKey, Location, OrderName, Place, ReservationId, Sku, TimestampMs};
use bincode::{Decode, Encode};

/// The counters of one SKU at one location. Always `reserved + allocated <= on_hand`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct Counters {
    /// Units physically in the room.
    pub on_hand: u64,
    /// Held for a while by reservations.
    pub reserved: u64,
    /// Promised to placed orders, not yet shipped.
    pub allocated: u64,
}

impl Counters {
    /// What may still be promised; never stored.
    pub fn available(&self) -> u64 {
        self.on_hand.saturating_sub(self.reserved).saturating_sub(self.allocated)
    }
}

/// What movements say ever happened to one stock: the other side of the law of conservation.
/// Kept apart from [`Counters`], and changed only by adding up movements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct Ledger {
    /// Units received.
    pub received: u64,
    /// Net of all adjustments.
    pub adjusted: i64,
    /// Units that came from other locations.
    pub transferred_in: u64,
    /// Units that went to other locations.
    pub transferred_out: u64,
    /// Units shipped with orders.
    pub shipped: u64,
    /// Units that left by confirmed reservations.
    pub consumed: u64,
    /// Units that came back with returns.
    pub restocked: u64,
    /// Net of reserved - released - expired - consumed, and of what became allocated.
    pub reserved: i64,
    /// Net of allocated - deallocated - shipped.
    pub allocated: i64,
}

/// One SKU at one location.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Stock {
    /// Whose.
    pub sku: Sku,
    /// Where.
    pub location: Location,
    /// What is there and what is promised.
    pub counters: Counters,
    /// The sums of all its movements.
    pub ledger: Ledger,
    /// Its newest movement: the head of the chain that [`Movement::previous`] continues.
    pub last_movement: Place,
}

/// What a movement did.
///
/// Encoded by position: new kinds go at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum MovementKind {
    /// On hand rose by a receipt of goods.
    Received,
    /// On hand changed by a correction, up or down.
    Adjusted,
    /// On hand rose: came from another location.
    TransferredIn,
    /// On hand fell: went to another location.
    TransferredOut,
    /// Reserved rose.
    Reserved,
    /// Reserved fell: cancelled, or taken over by an order (then `Allocated` follows).
    Released,
    /// Reserved fell: the hold's time was over.
    Expired,
    /// Reserved and on hand fell: a confirmed reservation.
    Consumed,
    /// Allocated rose.
    Allocated,
    /// Allocated fell: the order was cancelled.
    Deallocated,
    /// Allocated and on hand fell.
    Shipped,
    /// On hand rose: a return.
    Restocked,
}

/// Why a stock moved.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Cause {
    /// An order, under the name callers know.
    Order(OrderName),
    /// A reservation.
    Reservation(ReservationId),
    /// A write that belongs to neither.
    Key(IdempotencyKey),
}

/// One change of one stock.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Movement {
    /// Whose.
    pub sku: Sku,
    /// Where.
    pub location: Location,
    /// What it did.
    pub kind: MovementKind,
    /// Units; negative only for a downward adjustment.
    pub quantity: i64,
    /// The counters after it.
    pub after: Counters,
    /// The movement of the same stock before it: the history is a chain, read backwards.
    pub previous: Option<Place>,
    /// On the replicated clock.
    pub at: TimestampMs,
    /// Why.
    pub cause: Cause,
}
