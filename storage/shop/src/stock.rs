//! Stock: how many units of a SKU a location holds, what is promised of them, and every movement.

use crate::apply::Halt;
use crate::command::{Adjust, Transfer};
use crate::draft::Draft;
use crate::effect::{Rejection, Reply, Shortage, StockLevel};
use crate::ids::{
    IdempotencyKey, Location, MAX_UNITS, OrderName, Place, Quantity, ReservationId, Sku, TimestampMs,
};
use crate::item;
use crate::reservation::StockLine;
use crate::state::Rows;
use bincode::{Decode, Encode};
use std::collections::BTreeMap;

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

/// Units asked of each stock, lines of one stock summed.
pub(crate) fn summed<'l>(
    lines: impl Iterator<Item = (&'l Sku, &'l Location, Quantity)>,
) -> BTreeMap<(&'l Sku, &'l Location), u64> {
    let mut sums = BTreeMap::new();
    for (sku, location, quantity) in lines {
        *sums.entry((sku, location)).or_insert(0) += quantity.units();
    }
    sums
}

/// Refuses what asks for more than is available, with every short stock.
pub(crate) fn check_available<R: Rows>(
    draft: &Draft<'_, R>,
    asked: &BTreeMap<(&Sku, &Location), u64>,
) -> Result<(), Halt> {
    let mut shortages = Vec::new();
    for (&(sku, location), &requested) in asked {
        let available = draft.counters(sku, location)?.available();
        if requested > available {
            shortages.push(Shortage { sku: sku.clone(), location: location.clone(), requested, available });
        }
    }
    if shortages.is_empty() { Ok(()) } else { Err(Rejection::OutOfStock(shortages).into()) }
}

/// Refuses to gain so many units that a JSON number would not carry the count.
fn check_room<R: Rows>(draft: &Draft<'_, R>, sku: &Sku, location: &Location, gain: u64) -> Result<(), Halt> {
    // Restocked units come on top later, but only those that left before.
    if draft.counters(sku, location)?.on_hand + gain > MAX_UNITS {
        return Err(Rejection::OutOfRange(format!("on hand of {sku} at {location}")).into());
    }
    Ok(())
}

fn level(sku: &Sku, location: &Location, counters: Counters) -> StockLevel {
    StockLevel { sku: sku.clone(), location: location.clone(), counters }
}

/// Goods arrive; the location is made where it is new.
pub(crate) fn receive<R: Rows>(
    draft: &mut Draft<'_, R>,
    lines: &[StockLine],
    cause: Cause,
) -> Result<Reply, Halt> {
    item::known(draft, lines.iter().map(|line| &line.sku), true)?;
    let sums = summed(lines.iter().map(|line| (&line.sku, &line.location, line.quantity)));
    for (&(sku, location), &units) in &sums {
        check_room(draft, sku, location, units)?;
    }
    let mut levels = Vec::with_capacity(sums.len());
    for ((sku, location), units) in sums {
        let after = draft.move_stock(sku, location, MovementKind::Received, units as i64, cause.clone())?;
        levels.push(level(sku, location, after));
    }
    Ok(Reply::Stock(levels))
}

/// A count was wrong. What is promised stays promised.
pub(crate) fn adjust<R: Rows>(draft: &mut Draft<'_, R>, c: &Adjust, cause: Cause) -> Result<Reply, Halt> {
    item::known(draft, std::iter::once(&c.sku), true)?;
    let old = draft.counters(&c.sku, &c.location)?;
    if let Some(expected) = c.expected_on_hand
        && expected != old.on_hand
    {
        return Err(Rejection::OnHandDiffers { expected, actual: old.on_hand }.into());
    }
    let promised = old.reserved + old.allocated;
    match old.on_hand.checked_add_signed(c.delta) {
        Some(new) if new > MAX_UNITS => {
            return Err(Rejection::OutOfRange(format!("on hand of {} at {}", c.sku, c.location)).into());
        }
        Some(new) if new >= promised => {}
        _ => {
            return Err(Rejection::BelowPromised { on_hand: old.on_hand, delta: c.delta, promised }.into());
        }
    }
    let after = draft.move_stock(&c.sku, &c.location, MovementKind::Adjusted, c.delta, cause)?;
    Ok(Reply::Stock(vec![level(&c.sku, &c.location, after)]))
}

/// Goods change rooms; only available ones.
pub(crate) fn transfer<R: Rows>(draft: &mut Draft<'_, R>, c: &Transfer, cause: Cause) -> Result<Reply, Halt> {
    if c.from == c.to {
        return Err(Rejection::SameLocation.into());
    }
    item::known(draft, std::iter::once(&c.sku), true)?;
    check_available(draft, &BTreeMap::from([((&c.sku, &c.from), c.quantity.units())]))?;
    check_room(draft, &c.sku, &c.to, c.quantity.units())?;
    let units = c.quantity.units() as i64;
    let from = draft.move_stock(&c.sku, &c.from, MovementKind::TransferredOut, units, cause.clone())?;
    let to = draft.move_stock(&c.sku, &c.to, MovementKind::TransferredIn, units, cause)?;
    Ok(Reply::Stock(vec![level(&c.sku, &c.from, from), level(&c.sku, &c.to, to)]))
}
