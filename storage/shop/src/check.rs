//! The laws, checked on every entry for what it touched, and by the audit for everything.
//!
//! Rules change [`Counters`]; this file derives the same numbers from the movements alone, by a
//! table of its own, so that a wrong rule cannot agree with itself.

use crate::draft::StockKey;
use crate::ids::Place;
use crate::order::{Order, OrderStatus};
use crate::reservation::{Reservation, ReservationStatus};
use crate::state::{Breach, Head, Row};
use crate::stock::{Counters, Ledger, Movement, MovementKind, Stock};
use std::collections::BTreeMap;

impl Ledger {
    /// Adds one movement up.
    pub fn add(&mut self, kind: MovementKind, quantity: i64) {
        let units = quantity.unsigned_abs();
        match kind {
            MovementKind::Received => self.received += units,
            MovementKind::Adjusted => self.adjusted += quantity,
            MovementKind::TransferredIn => self.transferred_in += units,
            MovementKind::TransferredOut => self.transferred_out += units,
            MovementKind::Reserved => self.reserved += quantity,
            MovementKind::Released | MovementKind::Expired => self.reserved -= quantity,
            MovementKind::Consumed => {
                self.reserved -= quantity;
                self.consumed += units;
            }
            MovementKind::Allocated => self.allocated += quantity,
            MovementKind::Deallocated => self.allocated -= quantity,
            MovementKind::Shipped => {
                self.allocated -= quantity;
                self.shipped += units;
            }
            MovementKind::Restocked => self.restocked += units,
        }
    }

    /// The counters that the law of conservation gives; `None` where one would be negative.
    pub fn counters(&self) -> Option<Counters> {
        let gained = i128::from(self.received)
            + i128::from(self.adjusted)
            + i128::from(self.transferred_in)
            + i128::from(self.restocked);
        let lost = i128::from(self.transferred_out) + i128::from(self.shipped) + i128::from(self.consumed);
        Some(Counters {
            on_hand: u64::try_from(gained - lost).ok()?,
            reserved: u64::try_from(self.reserved).ok()?,
            allocated: u64::try_from(self.allocated).ok()?,
        })
    }
}

/// Why `after` cannot be what `ledger` says.
fn broken_law(ledger: &Ledger, after: &Counters) -> Option<String> {
    match ledger.counters() {
        None => Some(format!("the movements add up to less than nothing: {ledger:?}")),
        Some(derived) if derived != *after => {
            Some(format!("the movements give {derived:?}, the counters say {after:?}"))
        }
        Some(c) if u128::from(c.reserved) + u128::from(c.allocated) > u128::from(c.on_hand) => {
            Some(format!("reserved {} + allocated {} > on hand {}", c.reserved, c.allocated, c.on_hand))
        }
        Some(_) => None,
    }
}

/// Adds this entry's movements to the ledgers of the stocks they touched, and checks after each
/// that the chain is whole and the law holds.
pub(crate) fn fold(
    log_index: u64,
    epoch: u16,
    before: &BTreeMap<StockKey, Option<Stock>>,
    movements: &[Movement],
) -> Result<BTreeMap<StockKey, Ledger>, Breach> {
    let mut open: BTreeMap<&StockKey, (Ledger, Option<Place>)> = before
        .iter()
        .map(|(key, stock)| {
            (key, stock.as_ref().map_or((Ledger::default(), None), |s| (s.ledger, Some(s.last_movement))))
        })
        .collect();
    for (slot, movement) in movements.iter().enumerate() {
        let key = (movement.sku.clone(), movement.location.clone());
        let breach = |law: String| Breach { log_index, law: format!("{} at {}: {law}", key.0, key.1) };
        let Some((ledger, last)) = open.get_mut(&key) else {
            return Err(breach("moved without having been touched".to_owned()));
        };
        if movement.previous != *last {
            return Err(breach(format!(
                "the chain of movements has {:?} before {:?}",
                movement.previous, last
            )));
        }
        ledger.add(movement.kind, movement.quantity);
        if let Some(law) = broken_law(ledger, &movement.after) {
            return Err(breach(format!("after {:?} of {}, {law}", movement.kind, movement.quantity)));
        }
        *last = Some(Place { epoch, index: log_index, slot: slot as u32 });
    }
    Ok(open.into_iter().map(|(key, (ledger, _))| (key.clone(), ledger)).collect())
}

/// Checks stock rows as they will be stored.
pub(crate) fn stocks<'a>(log_index: u64, rows: impl Iterator<Item = &'a Option<Row>>) -> Result<(), Breach> {
    for row in rows {
        if let Some(Row::Stock(stock)) = row
            && let Some(law) = broken_law(&stock.ledger, &stock.counters)
        {
            return Err(Breach { log_index, law: format!("{} at {}: {law}", stock.sku, stock.location) });
        }
    }
    Ok(())
}

/// Checks orders as they will be stored.
pub(crate) fn orders<'a>(log_index: u64, orders: impl Iterator<Item = &'a Order>) -> Result<(), Breach> {
    for order in orders {
        if let Some(law) = broken_order(order) {
            return Err(Breach { log_index, law: format!("order {}: {law}", order.shown_id()) });
        }
    }
    Ok(())
}

/// Which law an order breaks.
pub(crate) fn broken_order(order: &Order) -> Option<String> {
    for line in &order.lines {
        if u64::from(line.shipped) + u64::from(line.cancelled) > line.quantity.units() {
            return Some(format!(
                "{} at {}: shipped and cancelled exceed the quantity",
                line.sku, line.location
            ));
        }
        if line.returned > line.shipped {
            return Some(format!("{} at {}: more returned than shipped", line.sku, line.location));
        }
    }
    let owed = order.refund_owed_total_minor;
    if order.refunded_minor > owed || owed > order.paid_minor {
        return Some(format!(
            "refunded {} <= owed {owed} <= paid {} does not hold",
            order.refunded_minor, order.paid_minor
        ));
    }
    if order.status == OrderStatus::Cancelled && order.lines.iter().any(|line| left(line) > 0) {
        return Some("cancelled with units still allocated".to_owned());
    }
    None
}

/// Units of a line that are still allocated.
pub(crate) fn left(line: &crate::order::OrderLine) -> u64 {
    line.quantity.units() - u64::from(line.shipped) - u64::from(line.cancelled)
}

/// Recomputes every sum from movements, orders and reservations. Fed with all rows of one applied
/// index, in any order; then asked what does not add up.
#[derive(Debug, Default)]
pub struct Auditor {
    stocks: BTreeMap<StockKey, Sums>,
    findings: Vec<String>,
    reserved: u64,
    allocated: u64,
}

/// What was seen of one stock.
#[derive(Debug, Default)]
struct Sums {
    /// From its row.
    row: Option<(Counters, Ledger, Place)>,
    /// From its movements.
    ledger: Ledger,
    newest: Option<Place>,
    /// From reservations: units held.
    held: u64,
    /// From orders: units allocated, units shipped, units returned (restocked or not).
    allocated: u64,
    shipped: u64,
    returned: u64,
}

/// Findings listed one by one; beyond, only their count.
const LISTED_FINDINGS: usize = 100;

impl Auditor {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn sums(&mut self, sku: &crate::ids::Sku, location: &crate::ids::Location) -> &mut Sums {
        self.stocks.entry((sku.clone(), location.clone())).or_default()
    }

    fn find(&mut self, finding: String) {
        self.findings.push(finding);
    }

    /// One movement, and where it lies.
    pub fn movement(&mut self, place: Place, movement: &Movement) {
        let sums = self.sums(&movement.sku, &movement.location);
        sums.ledger.add(movement.kind, movement.quantity);
        sums.newest = sums.newest.max(Some(place));
        if u128::from(movement.after.reserved) + u128::from(movement.after.allocated)
            > u128::from(movement.after.on_hand)
        {
            self.find(format!("oversold: {} at {} after {place:?}", movement.sku, movement.location));
        }
    }

    /// One stock row.
    pub fn stock(&mut self, stock: &Stock) {
        let row = (stock.counters, stock.ledger, stock.last_movement);
        self.sums(&stock.sku, &stock.location).row = Some(row);
        self.reserved += stock.counters.reserved;
        self.allocated += stock.counters.allocated;
    }

    /// One order as it is now.
    pub fn order(&mut self, order: &Order) {
        if let Some(law) = broken_order(order) {
            self.find(format!("order {}: {law}", order.shown_id()));
        }
        for line in &order.lines {
            let sums = self.sums(&line.sku, &line.location);
            sums.allocated += left(line);
            sums.shipped += u64::from(line.shipped);
            sums.returned += u64::from(line.returned);
        }
    }

    /// One reservation.
    pub fn reservation(&mut self, reservation: &Reservation) {
        if reservation.status == ReservationStatus::Held {
            for line in &reservation.lines {
                self.sums(&line.sku, &line.location).held += line.quantity.units();
            }
        }
    }

    /// What does not add up; empty where all does.
    pub fn finish(mut self, head: &Head) -> Vec<String> {
        if (head.units_reserved, head.units_allocated) != (self.reserved, self.allocated) {
            let (reserved, allocated) = (self.reserved, self.allocated);
            self.find(format!(
                "the head counts {} reserved and {} allocated, the stocks {reserved} and {allocated}",
                head.units_reserved, head.units_allocated
            ));
        }
        for ((sku, location), sums) in std::mem::take(&mut self.stocks) {
            if let Some(law) = sums.broken() {
                self.find(format!("{sku} at {location}: {law}"));
            }
        }
        let found = self.findings.len();
        self.findings.truncate(LISTED_FINDINGS);
        if found > LISTED_FINDINGS {
            self.findings.push(format!("and {} more", found - LISTED_FINDINGS));
        }
        self.findings
    }
}

impl Sums {
    fn broken(&self) -> Option<String> {
        let Some((counters, ledger, last)) = &self.row else {
            return Some("movements, orders or reservations speak of it, but it has no stock row".to_owned());
        };
        if *ledger != self.ledger {
            return Some(format!("its row sums up {ledger:?}, its movements {:?}", self.ledger));
        }
        if self.newest != Some(*last) {
            return Some(format!(
                "its row names {last:?} as the newest movement, there is {:?}",
                self.newest
            ));
        }
        if let Some(law) = broken_law(&self.ledger, counters) {
            return Some(law);
        }
        if counters.reserved != self.held {
            return Some(format!("reserved is {}, reservations hold {}", counters.reserved, self.held));
        }
        if counters.allocated != self.allocated {
            return Some(format!("allocated is {}, orders wait for {}", counters.allocated, self.allocated));
        }
        if ledger.shipped != self.shipped {
            return Some(format!("{} units shipped, orders say {}", ledger.shipped, self.shipped));
        }
        if ledger.restocked > self.returned {
            return Some(format!("{} restocked, but only {} returned", ledger.restocked, self.returned));
        }
        None
    }
}
