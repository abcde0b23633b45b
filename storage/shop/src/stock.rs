//! Stock: how many units of a SKU a location holds, what is promised of them, and every movement.

use crate::apply::Ruling;
use crate::command::{Adjust, Proposal, Transfer};
use crate::draft::{Demand, Draft, StockRef};
use crate::effect::{Rejection, Reply, Shortage};
use crate::ids::{
    IdempotencyKey, Location, MAX_UNITS, OrderName, Place, Quantity, ReservationId, Sku, TimestampMs,
};
use crate::release;
use crate::reservation::StockLine;
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

    /// Reserved and allocated.
    pub fn promised(&self) -> u64 {
        self.reserved.saturating_add(self.allocated)
    }

    /// These counters after a movement. What must not be was refused before; should a rule be wrong,
    /// the sums wrap, and the law finds it.
    #[must_use]
    pub(crate) fn moved(mut self, kind: MovementKind, quantity: i64) -> Self {
        let add = |to: &mut u64| *to = to.wrapping_add_signed(quantity);
        let take = |from: &mut u64| *from = from.wrapping_add_signed(quantity.wrapping_neg());
        match kind {
            MovementKind::Received
            | MovementKind::Adjusted
            | MovementKind::TransferredIn
            | MovementKind::Restocked => add(&mut self.on_hand),
            MovementKind::TransferredOut => take(&mut self.on_hand),
            MovementKind::Reserved => add(&mut self.reserved),
            MovementKind::Released | MovementKind::Expired => take(&mut self.reserved),
            MovementKind::Consumed => {
                take(&mut self.reserved);
                take(&mut self.on_hand);
            }
            MovementKind::Allocated => add(&mut self.allocated),
            MovementKind::Deallocated => take(&mut self.allocated),
            MovementKind::Shipped => {
                take(&mut self.allocated);
                take(&mut self.on_hand);
            }
        }
        self
    }
}

/// What movements say ever happened to one stock: the other side of the law of conservation.
/// Kept apart from [`Counters`], and changed only by adding up movements. A sum that leaves its type
/// goes on modulo 2^64; the law, which compares sums below 2^53, still holds then.
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

/// Units of a movement. Quantities and their sums are below 2^53.
pub(crate) fn units(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Whether items have these SKUs, and (`on_sale`) none of them is retired; all offenders are named.
pub(crate) fn check_skus<'l>(
    draft: &mut Draft<'_>,
    skus: impl Iterator<Item = &'l Sku>,
    on_sale: bool,
) -> Ruling<()> {
    let (mut unknown, mut retired) = (Vec::new(), Vec::new());
    for sku in skus {
        let offenders = match draft.terms(sku)? {
            None => &mut unknown,
            Some(terms) if terms.retired && on_sale => &mut retired,
            Some(_) => continue,
        };
        if !offenders.contains(sku) {
            offenders.push(sku.clone());
        }
    }
    match (unknown.is_empty(), retired.is_empty()) {
        (false, _) => Err(Rejection::UnknownSku(unknown).into()),
        (true, false) => Err(Rejection::Retired(retired).into()),
        (true, true) => Ok(()),
    }
}

/// The stocks of lines, after what is due on each was freed; every short one is named. Lines of one
/// stock are summed before the check.
pub(crate) fn check_available<'l>(
    draft: &mut Draft<'_>,
    lines: impl ExactSizeIterator<Item = (&'l Sku, &'l Location, Quantity)>,
) -> Ruling<Demand> {
    let demand = draft.demand(lines)?;
    for stock in &demand.stocks {
        release::on_stock(draft, *stock)?;
    }
    let mut shortages = Vec::new();
    for stock in &demand.stocks {
        let (requested, available) = (draft.asked(*stock), draft.of(*stock).available());
        if requested > available {
            let level = draft.level(*stock);
            shortages.push(Shortage { sku: level.sku, location: level.location, requested, available });
        }
    }
    if shortages.is_empty() { Ok(demand) } else { Err(Rejection::OutOfStock(shortages).into()) }
}

/// Whether so many more units fit into a stock.
pub(crate) fn check_fits(draft: &Draft<'_>, stock: StockRef, more: u64) -> Ruling<()> {
    let stock = draft.of(stock);
    match stock.counters.on_hand.checked_add(more) {
        Some(..=MAX_UNITS) => Ok(()),
        _ => Err(Rejection::OutOfRange(format!("on hand of {} at {}", stock.sku, stock.location)).into()),
    }
}

fn cause(proposal: &Proposal) -> Cause {
    Cause::Key(proposal.idempotency_key.clone().unwrap_or_else(IdempotencyKey::none))
}

fn levels(draft: &Draft<'_>, stocks: &[StockRef]) -> Reply {
    Reply::Stock(stocks.iter().map(|stock| draft.level(*stock)).collect())
}

/// Goods arrive; a location that was not there before is, from now on.
pub(crate) fn receive(draft: &mut Draft<'_>, lines: &[StockLine], proposal: &Proposal) -> Ruling {
    check_skus(draft, lines.iter().map(|line| &line.sku), false)?;
    let demand = draft.demand(lines.iter().map(StockLine::parts))?;
    for stock in &demand.stocks {
        release::on_stock(draft, *stock)?;
        check_fits(draft, *stock, draft.asked(*stock))?;
    }

    let cause = cause(proposal);
    for (line, stock) in lines.iter().zip(&demand.lines) {
        draft.move_stock(*stock, MovementKind::Received, units(line.quantity.units()), &cause);
    }
    Ok(levels(draft, &demand.stocks))
}

/// A count was wrong. What is promised stays covered.
pub(crate) fn adjust(draft: &mut Draft<'_>, c: &Adjust, proposal: &Proposal) -> Ruling {
    check_skus(draft, std::iter::once(&c.sku), false)?;
    let stock = draft.stock(&c.sku, &c.location)?;
    release::on_stock(draft, stock)?;
    let counters = draft.of(stock).counters;
    let (on_hand, promised) = (counters.on_hand, counters.promised());
    if let Some(expected) = c.expected_on_hand.filter(|expected| *expected != on_hand) {
        return Err(Rejection::OnHandDiffers { expected, actual: on_hand }.into());
    }
    if c.delta >= 0 {
        check_fits(draft, stock, c.delta.unsigned_abs())?;
    } else if on_hand.checked_add_signed(c.delta).is_none_or(|left| left < promised) {
        return Err(Rejection::BelowPromised { on_hand, delta: c.delta, promised }.into());
    }

    if c.delta != 0 {
        draft.move_stock(stock, MovementKind::Adjusted, c.delta, &cause(proposal));
    }
    Ok(levels(draft, &[stock]))
}

/// Goods change rooms: only units that nobody is promised.
pub(crate) fn transfer(draft: &mut Draft<'_>, c: &Transfer, proposal: &Proposal) -> Ruling {
    if c.from == c.to {
        return Err(Rejection::SameLocation.into());
    }
    check_skus(draft, std::iter::once(&c.sku), false)?;
    let from = check_available(draft, std::iter::once((&c.sku, &c.from, c.quantity)))?.stocks[0];
    let to = draft.stock(&c.sku, &c.to)?;
    release::on_stock(draft, to)?;
    check_fits(draft, to, c.quantity.units())?;

    let (cause, quantity) = (cause(proposal), units(c.quantity.units()));
    draft.move_stock(from, MovementKind::TransferredOut, quantity, &cause);
    draft.move_stock(to, MovementKind::TransferredIn, quantity, &cause);
    Ok(levels(draft, &[from, to]))
}
