//! The laws, checked in every step for all that it touched: not against the counters that the rules
//! changed, but against the movements that say why.

use crate::draft::{Draft, StockDraft};
use crate::effect::Step;
use crate::ids::{Location, Place, Sku};
use crate::order::{Order, OrderStatus};
use crate::planted::{self, Bug};
use crate::reservation::{Reservation, ReservationStatus};
use crate::state::{Breach, Fault, Head, Key, Row};
use crate::stock::{Counters, Ledger, Movement, MovementKind, Stock};
use std::collections::BTreeMap;

impl Ledger {
    /// Adds one movement up: the only way in which a ledger changes.
    pub(crate) fn add(&mut self, kind: MovementKind, quantity: i64) {
        let units = quantity.unsigned_abs();
        let grow = |sum: &mut u64| *sum = sum.wrapping_add(units);
        match kind {
            MovementKind::Received => grow(&mut self.received),
            MovementKind::Adjusted => self.adjusted = self.adjusted.wrapping_add(quantity),
            MovementKind::TransferredIn => grow(&mut self.transferred_in),
            MovementKind::TransferredOut => grow(&mut self.transferred_out),
            MovementKind::Restocked => grow(&mut self.restocked),
            MovementKind::Reserved => self.reserved = self.reserved.wrapping_add(quantity),
            MovementKind::Released | MovementKind::Expired => {
                self.reserved = self.reserved.wrapping_sub(quantity);
            }
            MovementKind::Consumed => {
                grow(&mut self.consumed);
                self.reserved = self.reserved.wrapping_sub(quantity);
            }
            MovementKind::Allocated => self.allocated = self.allocated.wrapping_add(quantity),
            MovementKind::Deallocated => self.allocated = self.allocated.wrapping_sub(quantity),
            MovementKind::Shipped => {
                grow(&mut self.shipped);
                self.allocated = self.allocated.wrapping_sub(quantity);
            }
        }
    }

    /// What must be on hand, if these are all movements there ever were.
    pub fn on_hand(&self) -> u64 {
        self.received
            .wrapping_add_signed(self.adjusted)
            .wrapping_add(self.transferred_in)
            .wrapping_sub(self.transferred_out)
            .wrapping_sub(self.shipped)
            .wrapping_sub(self.consumed)
            .wrapping_add(self.restocked)
    }
}

/// The law of one stock: units are conserved, and never more promised than there are.
///
/// # Errors
/// The law that does not hold, and its numbers.
pub fn stock_law(counters: &Counters, ledger: &Ledger) -> Result<(), String> {
    let Counters { on_hand, reserved, allocated } = *counters;
    if on_hand != ledger.on_hand() {
        let l = ledger;
        return Err(format!(
            "on_hand {on_hand} is not received {} + adjusted {} + transferred_in {} - transferred_out {} \
             - shipped {} - consumed {} + restocked {}",
            l.received, l.adjusted, l.transferred_in, l.transferred_out, l.shipped, l.consumed, l.restocked
        ));
    }
    if i64::try_from(reserved) != Ok(ledger.reserved) {
        return Err(format!("reserved {reserved} is not {}, the net of its movements", ledger.reserved));
    }
    if i64::try_from(allocated) != Ok(ledger.allocated) {
        return Err(format!("allocated {allocated} is not {}, the net of its movements", ledger.allocated));
    }
    let oversold = reserved.checked_add(allocated).is_none_or(|promised| promised > on_hand);
    if oversold && !planted::is(Bug::OversellWithinAMillisecond) {
        return Err(format!("reserved {reserved} + allocated {allocated} is above on_hand {on_hand}"));
    }
    Ok(())
}

/// The law of one movement on top of those before it.
///
/// # Errors
/// The law that does not hold, and its numbers.
pub(crate) fn movement_law(
    movement: &Movement,
    ledger: &Ledger,
    previous: Option<Place>,
) -> Result<(), String> {
    if movement.quantity == 0 || (movement.quantity < 0 && movement.kind != MovementKind::Adjusted) {
        return Err(format!("a movement {:?} of {} units", movement.kind, movement.quantity));
    }
    if movement.previous != previous {
        let said = movement.previous;
        return Err(format!("a movement names {said:?} as the one before it, which is {previous:?}"));
    }
    stock_law(&movement.after, ledger)
}

/// The laws of one order.
///
/// # Errors
/// The law that does not hold, and its numbers.
pub fn order_law(order: &Order) -> Result<(), String> {
    let (mut total, mut unshipped, mut shipped) = (0u64, 0u64, 0u64);
    for line in &order.lines {
        let (quantity, gone) = (line.quantity.units(), u64::from(line.shipped) + u64::from(line.cancelled));
        if gone > quantity || line.returned > line.shipped {
            return Err(format!("of {quantity} units, {line:?}"));
        }
        total = total.saturating_add(line.amount_minor);
        unshipped += quantity - gone;
        shipped += u64::from(line.shipped);
    }
    let (due, paid) = (order.due_minor, order.paid_minor);
    let (owed, refunded) = (order.refund_owed_total_minor, order.refunded_minor);
    if paid > total || due > total || owed > paid || refunded > owed {
        return Err(format!(
            "amounts: refunded {refunded} <= owed {owed} <= paid {paid} <= total {total} >= due {due}"
        ));
    }
    let holds = match order.status {
        OrderStatus::Placed => paid < due && shipped == 0,
        OrderStatus::Paid => paid == due && shipped == 0,
        OrderStatus::PartlyShipped => shipped > 0 && unshipped > 0,
        OrderStatus::Shipped | OrderStatus::Completed => unshipped == 0,
        OrderStatus::Cancelled => unshipped == 0 && shipped == 0 && owed == paid,
    };
    if holds {
        return Ok(());
    }
    let status = order.status;
    Err(format!("{status:?} with {unshipped} units to ship, {shipped} shipped, paid {paid} of {due}"))
}

impl Draft<'_> {
    /// Adds this entry's movements up on the stored ledgers and compares.
    fn ledgers(&self) -> Result<Vec<(Ledger, Option<Place>)>, Breach> {
        let mut sums: Vec<_> = self
            .stocks
            .iter()
            .map(|stock| match &stock.before {
                Some(before) => (before.ledger, Some(before.last_movement)),
                None => (Ledger::default(), None),
            })
            .collect();
        for (slot, (movement, stock)) in self.movements.iter().zip(&self.moved).enumerate() {
            let (ledger, last) = &mut sums[stock.index()];
            ledger.add(movement.kind, movement.quantity);
            movement_law(movement, ledger, *last).map_err(|law| self.of_stock(self.of(*stock), law))?;
            *last = Some(self.place(slot));
        }
        Ok(sums)
    }

    /// In the order of keys: rows are large, and to sort them would move each several times.
    fn changed_stocks(&self) -> Vec<usize> {
        let name = |at: &usize| (&self.stocks[*at].sku, &self.stocks[*at].location);
        let mut changed: Vec<usize> = (0..self.stocks.len()).filter(|at| self.stocks[*at].changed).collect();
        changed.sort_unstable_by(|a, b| name(a).cmp(&name(b)));
        changed
    }

    fn of_stock(&self, stock: &StockDraft, law: String) -> Breach {
        Breach { log_index: self.log_index, law: format!("{} at {}: {law}", stock.sku, stock.location) }
    }

    /// Checks the laws and closes the draft: what the entry did.
    pub(crate) fn close(mut self) -> Result<Step, Fault> {
        // What ids print of a slot; an entry of a mebibyte holds fewer.
        if self.placed.len() > 1 << 16 || self.made > 1 << 16 {
            let law = "one entry made more than 65,536 orders, items or reservations".to_owned();
            return Err(Breach { log_index: self.log_index, law }.into());
        }
        let ledgers = self.ledgers()?;
        self.check_orders()?;
        let mut rows = Vec::with_capacity(1 + self.stocks.len() + self.marks.len() + self.orders.len());
        let (mut reserved, mut allocated) = (self.before.units_reserved, self.before.units_allocated);
        for at in self.changed_stocks() {
            let (stock, (ledger, last_movement)) = (&self.stocks[at], ledgers[at]);
            stock_law(&stock.counters, &ledger).map_err(|law| self.of_stock(stock, law))?;
            let (Some(last_movement), true) = (last_movement, last_movement == stock.last_movement) else {
                let law = format!("its last movement is {last_movement:?}, not {:?}", stock.last_movement);
                return Err(self.of_stock(stock, law).into());
            };
            let before = stock.before.as_ref().map(|before| before.ledger).unwrap_or_default();
            reserved = reserved.wrapping_add_signed(ledger.reserved - before.reserved);
            allocated = allocated.wrapping_add_signed(ledger.allocated - before.allocated);
            let (sku, location) = (stock.sku.clone(), stock.location.clone());
            let counters = stock.counters;
            let key = Key::Stock(sku.clone(), location.clone());
            rows.push((key, Some(Row::Stock(Stock { sku, location, counters, ledger, last_movement }))));
        }
        if (self.head.units_reserved, self.head.units_allocated) != (reserved, allocated) {
            let (head, log_index) = (&self.head, self.log_index);
            let law = format!(
                "units reserved {} and allocated {} in all are not {reserved} and {allocated}, as movements say",
                head.units_reserved, head.units_allocated
            );
            return Err(Breach { log_index, law }.into());
        }
        rows.push((Key::Head, Some(Row::Head(std::mem::take(&mut self.head)))));
        Ok(self.into_step(rows))
    }

    fn check_orders(&self) -> Result<(), Breach> {
        for order in self.orders.values().chain(self.placed.iter().map(|placed| &**placed)) {
            order_law(order).map_err(|law| {
                let law = format!("order {}: {law}", order.shown_id());
                Breach { log_index: self.log_index, law }
            })?;
        }
        Ok(())
    }

    fn into_step(self, mut rows: Vec<(Key, Option<Row>)>) -> Step {
        let items = self.items.into_iter();
        rows.extend(items.filter_map(|draft| Some((Key::Item(draft.sku), Some(Row::Item(draft.written?))))));
        let reservations = self.reservations.into_iter();
        rows.extend(reservations.map(|(id, row)| (Key::Reservation(id), Some(Row::Reservation(row)))));
        rows.extend(
            self.orders.into_iter().map(|(id, row)| (Key::Order(id), Some(Row::Order(Box::new(row))))),
        );
        rows.extend(self.marks);
        // Mostly in order already, which a stable sort finds out.
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        Step {
            answers: Vec::new(),
            rows,
            placed: self.placed,
            movements: self.movements,
            receipts: self.receipts,
            listed: self.listed,
            dropped_receipts: self.dropped_receipts,
        }
    }
}

/// Recomputes every sum from movements, orders and reservations. Fed with all rows of one applied
/// index (movements oldest first, the rest in any order), then asked what does not add up.
#[derive(Debug, Default)]
pub struct Auditor {
    // Names are kept once, not once a stock: half a million stocks share few of them.
    skus: BTreeMap<Sku, u32>,
    locations: BTreeMap<Location, u32>,
    stocks: BTreeMap<(u32, u32), Sums>,
    findings: Vec<String>,
    found: usize,
    reserved: u64,
    allocated: u64,
    orders: u64,
}

/// What was seen of one stock. Sums of units wrap as those of the [`Ledger`] do.
#[derive(Debug, Default)]
struct Sums {
    /// From its row: whether there was one, and what movements must add up to and end with.
    row: Option<(Counters, Place)>,
    row_ledger: Ledger,
    /// From its movements.
    ledger: Ledger,
    last: Option<Place>,
    /// From reservations: units held, and units of confirmed ones.
    held: u64,
    confirmed: u64,
    /// From orders.
    allocated: u64,
    shipped: u64,
    returned: u64,
}

/// Findings told one by one; of those beyond, only the count.
const LISTED_FINDINGS: usize = 100;

impl Auditor {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn sums(&mut self, sku: &Sku, location: &Location) -> &mut Sums {
        fn number<N: Ord + Clone>(numbers: &mut BTreeMap<N, u32>, name: &N) -> u32 {
            if let Some(number) = numbers.get(name) {
                return *number;
            }
            let number = numbers.len() as u32;
            numbers.insert(name.clone(), number);
            number
        }
        let stock = (number(&mut self.skus, sku), number(&mut self.locations, location));
        self.stocks.entry(stock).or_default()
    }

    fn find(&mut self, finding: String) {
        self.found += 1;
        if self.found <= LISTED_FINDINGS {
            self.findings.push(finding);
        }
    }

    /// One movement, and where it lies.
    pub fn movement(&mut self, place: Place, movement: &Movement) {
        let sums = self.sums(&movement.sku, &movement.location);
        sums.ledger.add(movement.kind, movement.quantity);
        let law = movement_law(movement, &sums.ledger, sums.last);
        sums.last = Some(place);
        if let Err(law) = law {
            self.find(format!("{} at {}, {place:?}: {law}", movement.sku, movement.location));
        }
    }

    /// One stock row.
    pub fn stock(&mut self, stock: &Stock) {
        let sums = self.sums(&stock.sku, &stock.location);
        sums.row = Some((stock.counters, stock.last_movement));
        sums.row_ledger = stock.ledger;
        self.reserved = self.reserved.wrapping_add(stock.counters.reserved);
        self.allocated = self.allocated.wrapping_add(stock.counters.allocated);
    }

    /// One order as it is now.
    pub fn order(&mut self, order: &Order) {
        self.orders += 1;
        if let Err(law) = order_law(order) {
            self.find(format!("order {}: {law}", order.shown_id()));
        }
        for line in &order.lines {
            let sums = self.sums(&line.sku, &line.location);
            sums.allocated = sums.allocated.wrapping_add(u64::from(line.unshipped()));
            sums.shipped = sums.shipped.wrapping_add(u64::from(line.shipped));
            sums.returned = sums.returned.wrapping_add(u64::from(line.returned));
        }
    }

    /// One reservation.
    pub fn reservation(&mut self, reservation: &Reservation) {
        for line in &reservation.lines {
            let sums = self.sums(&line.sku, &line.location);
            let sum = match reservation.status {
                ReservationStatus::Held => &mut sums.held,
                ReservationStatus::Confirmed => &mut sums.confirmed,
                ReservationStatus::Cancelled | ReservationStatus::Expired => continue,
            };
            *sum = sum.wrapping_add(line.quantity.units());
        }
    }

    /// What does not add up; empty where all does.
    pub fn finish(mut self, head: &Head) -> Vec<String> {
        for (what, counted, seen) in [
            ("units reserved", head.units_reserved, self.reserved),
            ("units allocated", head.units_allocated, self.allocated),
            ("orders placed", head.orders_placed, self.orders),
        ] {
            if counted != seen {
                self.find(format!("the head counts {counted} {what}, there are {seen}"));
            }
        }
        let by_number = |(name, number): (String, u32)| (number, name);
        let name = |names: Vec<(u32, String)>| names.into_iter().collect::<BTreeMap<_, _>>();
        let skus = std::mem::take(&mut self.skus);
        let skus = name(skus.into_iter().map(|(sku, n)| by_number((sku.to_string(), n))).collect());
        let locations = std::mem::take(&mut self.locations);
        let locations = name(locations.into_iter().map(|(at, n)| by_number((at.to_string(), n))).collect());
        for ((sku, location), sums) in std::mem::take(&mut self.stocks) {
            if let Err(law) = sums.law() {
                self.find(format!("{} at {}: {law}", skus[&sku], locations[&location]));
            }
        }
        if self.found > self.findings.len() {
            self.findings.push(format!("and {} more", self.found - self.findings.len()));
        }
        self.findings
    }
}

impl Sums {
    fn law(&self) -> Result<(), String> {
        let Some((counters, last)) = &self.row else {
            return Err("movements, orders or reservations speak of it, but it has no row".to_owned());
        };
        if self.row_ledger != self.ledger {
            return Err(format!("its row sums up {:?}, its movements {:?}", self.row_ledger, self.ledger));
        }
        if self.last != Some(*last) {
            return Err(format!("its row names {last:?} as its last movement, which is {:?}", self.last));
        }
        stock_law(counters, &self.ledger)?;
        if counters.reserved != self.held {
            return Err(format!("reserved is {}, reservations hold {}", counters.reserved, self.held));
        }
        if counters.allocated != self.allocated {
            return Err(format!("allocated is {}, orders wait for {}", counters.allocated, self.allocated));
        }
        let Ledger { shipped, restocked, consumed, .. } = self.ledger;
        if shipped != self.shipped {
            return Err(format!("{shipped} units were shipped, orders say {}", self.shipped));
        }
        // Not all that comes back is put back, and an order may take a confirmed reservation over.
        if restocked > self.returned {
            return Err(format!("{restocked} units were restocked, of {} returned", self.returned));
        }
        if consumed > self.confirmed {
            return Err(format!("{consumed} units were consumed, of {} confirmed", self.confirmed));
        }
        Ok(())
    }
}
