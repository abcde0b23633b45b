//! The laws, checked in every step for all that it touched: not against the counters that the rules
//! changed, but against the movements that say why.

use crate::draft::{Draft, StockDraft};
use crate::effect::Step;
use crate::ids::Place;
use crate::order::{Order, OrderStatus};
use crate::state::{Breach, Fault, Key, Row};
use crate::stock::{Counters, Ledger, Movement, MovementKind, Stock};

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
    if reserved.checked_add(allocated).is_none_or(|promised| promised > on_hand) {
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
        if gone > quantity || line.returned > line.shipped || line.restocked > line.returned {
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

    fn of_stock(&self, stock: &StockDraft, law: String) -> Breach {
        Breach { log_index: self.log_index, law: format!("{} at {}: {law}", stock.sku, stock.location) }
    }

    /// Checks the laws and closes the draft: what the entry did.
    pub(crate) fn close(mut self) -> Result<Step, Fault> {
        let ledgers = self.ledgers()?;
        self.check_orders()?;
        let mut rows = Vec::with_capacity(1 + self.stocks.len() + self.marks.len() + self.orders.len());
        let (mut reserved, mut allocated) = (self.before.units_reserved, self.before.units_allocated);
        for (at, (ledger, last_movement)) in ledgers.into_iter().enumerate() {
            let stock = &self.stocks[at];
            if !stock.changed {
                continue;
            }
            stock_law(&stock.counters, &ledger).map_err(|law| self.of_stock(stock, law))?;
            let (Some(last_movement), true) = (last_movement, last_movement == stock.last_movement) else {
                let law = format!("its last movement is {last_movement:?}, not {:?}", stock.last_movement);
                return Err(self.of_stock(stock, law).into());
            };
            let before = stock.before.as_ref().map(|before| before.ledger).unwrap_or_default();
            reserved = reserved.wrapping_add_signed(ledger.reserved - before.reserved);
            allocated = allocated.wrapping_add_signed(ledger.allocated - before.allocated);
            let (sku, location) = (stock.sku.clone(), stock.location.clone());
            let (counters, next_due) = (stock.counters, stock.next_due);
            let key = Key::Stock(sku.clone(), location.clone());
            rows.push((
                key,
                Some(Row::Stock(Stock { sku, location, counters, ledger, last_movement, next_due })),
            ));
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
        for order in self.orders.values().chain(&self.placed) {
            order_law(order).map_err(|law| {
                let law = format!("order {}: {law}", order.shown_id());
                Breach { log_index: self.log_index, law }
            })?;
        }
        Ok(())
    }

    fn into_step(self, mut rows: Vec<(Key, Option<Row>)>) -> Step {
        rows.extend(self.items.into_iter().filter_map(|(sku, (item, changed))| {
            item.filter(|_| changed).map(|item| (Key::Item(sku), Some(Row::Item(item))))
        }));
        let reservations = self.reservations.into_iter();
        rows.extend(reservations.map(|(id, row)| (Key::Reservation(id), Some(Row::Reservation(row)))));
        rows.extend(
            self.orders.into_iter().map(|(id, row)| (Key::Order(id), Some(Row::Order(Box::new(row))))),
        );
        rows.extend(self.marks);
        rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
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
