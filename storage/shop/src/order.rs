//! Orders: placed, paid, shipped in parts, completed; cancelled, returned, refunded.

use crate::apply::Halt;
use crate::command::{
    CancelOrder, NewOrderLine, OrderSource, PatchMetadata, Pay, PlaceOrder, Refund, Return, Ship,
};
use crate::draft::Draft;
use crate::effect::{Rejection, Reply};
use crate::ids::{Currency, CustomerId, Location, MAX_UNITS, OrderId, OrderName, Quantity, Sku, TimestampMs};
use crate::reservation::StockLine;
use crate::state::{Fault, Key, Row, Rows, Subject};
use crate::stock::{Cause, MovementKind};
use crate::{check, item, reservation, stock};
use bincode::{Decode, Encode};
use std::{collections::BTreeMap, sync::Arc};

/// Where an order stands.
///
/// Encoded by position: new ones go at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum OrderStatus {
    /// Stock is allocated, payment is due.
    Placed,
    /// All is paid.
    Paid,
    /// Some units are shipped.
    PartlyShipped,
    /// All units are shipped (or the rest cancelled).
    Shipped,
    /// Closed by the shop.
    Completed,
    /// Its stock was freed.
    Cancelled,
}

/// One line of an order as stored.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct OrderLine {
    /// Which.
    pub sku: Sku,
    /// From where.
    pub location: Location,
    /// How many were ordered.
    pub quantity: Quantity,
    /// For the whole line, in minor units of the order's currency.
    pub amount_minor: u64,
    /// Units shipped so far.
    pub shipped: u32,
    /// Units returned so far; never above `shipped`.
    pub returned: u32,
    /// Units freed by a cancellation; `shipped + cancelled <= quantity`.
    pub cancelled: u32,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Order {
    /// Where it was placed.
    pub id: OrderId,
    /// The id its caller chose, unique for ever.
    pub name: Option<OrderName>,
    /// Where it stands.
    pub status: OrderStatus,
    /// Who bought.
    pub customer_id: Option<CustomerId>,
    /// Of all its amounts; `None` where neither the order nor an item's price named one.
    pub currency: Option<Currency>,
    /// At least one.
    pub lines: Vec<OrderLine>,
    /// Sum of the lines' amounts, in minor units, as placed.
    pub due_minor: u64,
    /// Paid so far.
    pub paid_minor: u64,
    /// Owed back, in all: `refunded_minor <= refund_owed_total_minor <= paid_minor`.
    pub refund_owed_total_minor: u64,
    /// Paid back so far.
    pub refunded_minor: u64,
    /// Cancelled as `unpaid` at this time of the replicated clock, where still placed.
    pub pay_by: Option<TimestampMs>,
    /// The caller's own notes.
    pub metadata: BTreeMap<Arc<str>, Arc<str>>,
    /// References of payments and refunds, in order.
    pub references: Vec<Arc<str>>,
    /// Why it was cancelled.
    pub cancel_reason: Option<Arc<str>>,
    /// The command's fingerprint: the same chosen id with another body is refused.
    pub fingerprint: u128,
    /// When it was placed.
    pub created_at: TimestampMs,
    /// When it last changed.
    pub updated_at: TimestampMs,
    /// Raft log index of the last change.
    pub log_index: u64,
}

impl Order {
    /// What is owed back and not yet paid back, in minor units: the contract's `refund_owed_minor`.
    pub fn refund_owed_minor(&self) -> u64 {
        self.refund_owed_total_minor.saturating_sub(self.refunded_minor)
    }

    /// The id that callers see: the chosen one, else the made one.
    pub fn shown_id(&self) -> String {
        self.name.as_ref().map_or_else(|| self.id.to_string(), |name| name.as_str().to_owned())
    }
}

/// Most payment and refund references an order keeps.
pub const MAX_REFERENCES: usize = 100;

impl Order {
    /// The name under which movements and messages speak of it.
    pub fn shown_name(&self) -> OrderName {
        self.name.clone().unwrap_or_else(|| self.id.name())
    }

    /// Refuses unless the order stands in one of `allowed`.
    fn must_be(&self, allowed: &[OrderStatus]) -> Result<(), Halt> {
        if allowed.contains(&self.status) { Ok(()) } else { Err(self.wrong_state(self.status, allowed)) }
    }

    fn wrong_state(&self, status: OrderStatus, allowed: &[OrderStatus]) -> Halt {
        Rejection::OrderWrongState { order: self.shown_name(), status, allowed: allowed.to_vec() }.into()
    }

    fn stocks(&self) -> impl Iterator<Item = (Sku, Location)> + use<'_> {
        self.lines.iter().map(|line| (line.sku.clone(), line.location.clone()))
    }

    /// What is owed back for units that came back or were never shipped: each line's amount is
    /// spread over its units by largest remainder (the first `amount % quantity` units carry one
    /// minor unit more), so that all units together are owed exactly the line's amount.
    fn owe_back(&mut self) {
        let share = |line: &OrderLine| {
            let (units, gone) = (line.quantity.units(), u64::from(line.returned) + u64::from(line.cancelled));
            gone * (line.amount_minor / units) + gone.min(line.amount_minor % units)
        };
        self.refund_owed_total_minor = self.lines.iter().map(share).sum::<u64>().min(self.paid_minor);
    }

    fn refer(&mut self, reference: Option<&Arc<str>>) -> Result<(), Halt> {
        let Some(reference) = reference else { return Ok(()) };
        if self.references.len() >= MAX_REFERENCES {
            let most = MAX_REFERENCES as u64;
            return Err(Rejection::TooMuch { what: "references".to_owned(), most, asked: most + 1 }.into());
        }
        self.references.push(reference.clone());
        Ok(())
    }
}

fn find<R: Rows>(draft: &Draft<'_, R>, name: &OrderName) -> Result<Order, Halt> {
    let order = match draft.resolve(name)? {
        Some(id) => draft.order(id)?,
        None => None,
    };
    Ok(order.ok_or_else(|| Rejection::OrderNotFound(name.clone()))?)
}

/// Stores an order as changed now.
fn store<R: Rows>(draft: &mut Draft<'_, R>, mut order: Order) -> Order {
    order.updated_at = draft.now;
    order.log_index = draft.log_index;
    draft.put(Key::Order(order.id), Some(Row::Order(Box::new(order.clone()))));
    order
}

fn reply(order: Order, created: bool) -> Reply {
    Reply::Order { order: Box::new(order), created }
}

/// Places an order: all its lines or none.
pub(crate) fn place<R: Rows>(
    draft: &mut Draft<'_, R>,
    c: &PlaceOrder,
    fingerprint: u128,
) -> Result<Reply, Halt> {
    if let Some(name) = &c.name
        && let Some(id) = draft.resolve(name)?
    {
        let found =
            draft.order(id)?.ok_or_else(|| draft.breach(format!("order {name} is listed but gone")))?;
        return if found.fingerprint == fingerprint {
            Ok(reply(found, false))
        } else {
            Err(Rejection::IdTaken(name.to_string()).into())
        };
    }
    if let Some(pay_by) = c.pay_by
        && pay_by <= draft.now
    {
        return Err(Rejection::TooLate(pay_by).into());
    }
    let most = draft.head.settings.metadata_entries;
    if c.metadata.len() > most as usize {
        return Err(Rejection::TooMuchMetadata(most).into());
    }
    let (lines, currency, held) = match &c.source {
        OrderSource::Lines(lines) => {
            let (lines, currency) = price(draft, lines, c.currency, false)?;
            stock::check_available(
                draft,
                &stock::summed(lines.iter().map(|line| (&line.sku, &line.location, line.quantity))),
            )?;
            (lines, currency, None)
        }
        OrderSource::Reservation(id) => {
            let held = reservation::held(draft, id)?;
            let lines: Vec<_> = held.lines.iter().map(NewOrderLine::from).collect();
            // What is held was promised while it was on sale.
            let (lines, currency) = price(draft, &lines, c.currency, true)?;
            (lines, currency, Some(held))
        }
    };
    let due_minor = sum_due(&lines)?;
    if let Some(held) = held {
        reservation::hand_over(draft, held)?;
    }
    let order = Order {
        id: draft.next_order_id(),
        name: c.name.clone(),
        status: if due_minor == 0 { OrderStatus::Paid } else { OrderStatus::Placed },
        customer_id: c.customer_id.clone(),
        currency,
        lines,
        due_minor,
        paid_minor: 0,
        refund_owed_total_minor: 0,
        refunded_minor: 0,
        pay_by: c.pay_by,
        metadata: c.metadata.clone(),
        references: Vec::new(),
        cancel_reason: None,
        fingerprint,
        created_at: draft.now,
        updated_at: draft.now,
        log_index: draft.log_index,
    };
    for line in &order.lines {
        let cause = Cause::Order(order.shown_name());
        let units = line.quantity.units() as i64;
        draft.move_stock(&line.sku, &line.location, MovementKind::Allocated, units, cause)?;
    }
    if let (OrderStatus::Placed, Some(pay_by)) = (order.status, order.pay_by) {
        draft.add_due(pay_by, &Subject::Order(order.id), order.stocks());
    }
    draft.add_order(order.clone());
    Ok(reply(order, true))
}

impl From<&StockLine> for NewOrderLine {
    fn from(line: &StockLine) -> Self {
        NewOrderLine {
            sku: line.sku.clone(),
            location: line.location.clone(),
            quantity: line.quantity,
            amount_minor: None,
        }
    }
}

/// Gives each line its amount, and the order its one currency.
fn price<R: Rows>(
    draft: &Draft<'_, R>,
    lines: &[NewOrderLine],
    mut currency: Option<Currency>,
    retired_too: bool,
) -> Result<(Vec<OrderLine>, Option<Currency>), Halt> {
    let items = item::known(draft, lines.iter().map(|line| &line.sku), retired_too)?;
    let mut priced = Vec::with_capacity(lines.len());
    for line in lines {
        let amount_minor = match (line.amount_minor, items.get(&line.sku).and_then(|item| item.price)) {
            (Some(amount), _) => amount,
            (None, None) => 0,
            (None, Some(price)) => {
                if *currency.get_or_insert(price.currency) != price.currency {
                    return Err(Rejection::MixedCurrency.into());
                }
                price
                    .amount_minor
                    .checked_mul(line.quantity.units())
                    .filter(|amount| *amount <= MAX_UNITS)
                    .ok_or_else(|| Rejection::OutOfRange(format!("the amount of {}", line.sku)))?
            }
        };
        priced.push(OrderLine {
            sku: line.sku.clone(),
            location: line.location.clone(),
            quantity: line.quantity,
            amount_minor,
            shipped: 0,
            returned: 0,
            cancelled: 0,
        });
    }
    Ok((priced, currency))
}

fn sum_due(lines: &[OrderLine]) -> Result<u64, Rejection> {
    lines
        .iter()
        .try_fold(0u64, |sum, line| sum.checked_add(line.amount_minor).filter(|sum| *sum <= MAX_UNITS))
        .ok_or_else(|| Rejection::OutOfRange("the sum of the lines' amounts".to_owned()))
}

/// An amount that was asked for, or all that is left; refused above that.
fn amount(asked: Option<u64>, left: u64, what: &str) -> Result<u64, Rejection> {
    match asked {
        None if left == 0 => Err(Rejection::NothingLeft(what.to_owned())),
        None => Ok(left),
        Some(asked) if asked > left => Err(Rejection::TooMuch { what: what.to_owned(), most: left, asked }),
        Some(asked) => Ok(asked),
    }
}

/// Pays in parts or in full. The deadline holds whether or not the order was cancelled for it yet.
pub(crate) fn pay<R: Rows>(draft: &mut Draft<'_, R>, c: &Pay) -> Result<Reply, Halt> {
    let mut order = find(draft, &c.order)?;
    order.must_be(&[OrderStatus::Placed])?;
    if order.pay_by.is_some_and(|pay_by| pay_by <= draft.now) {
        return Err(order.wrong_state(OrderStatus::Cancelled, &[OrderStatus::Placed]));
    }
    order.paid_minor += amount(c.amount_minor, order.due_minor - order.paid_minor, "amount to pay")?;
    order.refer(c.reference.as_ref())?;
    if order.paid_minor == order.due_minor {
        order.status = OrderStatus::Paid;
        if let Some(pay_by) = order.pay_by {
            draft.remove_due(pay_by, &Subject::Order(order.id), order.stocks());
        }
    }
    Ok(reply(store(draft, order), false))
}

/// Units to take from each of the order's lines: as asked (lines of one stock are filled in the
/// order's own order), or all that `left` says.
fn units_of(
    order: &Order,
    asked: Option<&[StockLine]>,
    what: &str,
    left: impl Fn(&OrderLine) -> u64,
) -> Result<Vec<u64>, Rejection> {
    let Some(asked) = asked else {
        let units: Vec<u64> = order.lines.iter().map(left).collect();
        return if units.iter().any(|units| *units > 0) {
            Ok(units)
        } else {
            Err(Rejection::NothingLeft(what.to_owned()))
        };
    };
    let mut taken = vec![0; order.lines.len()];
    for ((sku, location), asked) in
        stock::summed(asked.iter().map(|line| (&line.sku, &line.location, line.quantity)))
    {
        let of_stock = |line: &OrderLine| line.sku == *sku && line.location == *location;
        if !order.lines.iter().any(of_stock) {
            return Err(Rejection::NoSuchLine { sku: sku.clone(), location: location.clone() });
        }
        let most = order.lines.iter().filter(|line| of_stock(line)).map(&left).sum();
        if asked > most {
            return Err(Rejection::TooMuch { what: format!("{what} of {sku} at {location}"), most, asked });
        }
        let mut rest = asked;
        for (line, taken) in order.lines.iter().zip(&mut taken).filter(|(line, _)| of_stock(line)) {
            *taken = rest.min(left(line));
            rest -= *taken;
        }
    }
    Ok(taken)
}

/// Moves units of an order's lines.
fn move_units<R: Rows>(
    draft: &mut Draft<'_, R>,
    order: &Order,
    kind: MovementKind,
    units: &[u64],
) -> Result<(), Fault> {
    for (line, units) in order.lines.iter().zip(units).filter(|(_, units)| **units > 0) {
        let cause = Cause::Order(order.shown_name());
        draft.move_stock(&line.sku, &line.location, kind, *units as i64, cause)?;
    }
    Ok(())
}

/// Ships in parts or in full.
pub(crate) fn ship<R: Rows>(draft: &mut Draft<'_, R>, c: &Ship) -> Result<Reply, Halt> {
    let mut order = find(draft, &c.order)?;
    order.must_be(&[OrderStatus::Paid, OrderStatus::PartlyShipped])?;
    let units = units_of(&order, c.lines.as_deref(), "units to ship", check::left)?;
    move_units(draft, &order, MovementKind::Shipped, &units)?;
    for (line, units) in order.lines.iter_mut().zip(&units) {
        line.shipped += *units as u32;
    }
    order.status = if order.lines.iter().all(|line| check::left(line) == 0) {
        OrderStatus::Shipped
    } else {
        OrderStatus::PartlyShipped
    };
    Ok(reply(store(draft, order), false))
}

/// Closes a shipped order.
pub(crate) fn complete<R: Rows>(draft: &mut Draft<'_, R>, name: &OrderName) -> Result<Reply, Halt> {
    let mut order = find(draft, name)?;
    order.must_be(&[OrderStatus::Shipped])?;
    order.status = OrderStatus::Completed;
    Ok(reply(store(draft, order), false))
}

/// Frees what is not shipped; what was paid for it is owed back.
fn free<R: Rows>(
    draft: &mut Draft<'_, R>,
    mut order: Order,
    reason: Option<Arc<str>>,
) -> Result<Order, Fault> {
    let units: Vec<u64> = order.lines.iter().map(check::left).collect();
    move_units(draft, &order, MovementKind::Deallocated, &units)?;
    for (line, units) in order.lines.iter_mut().zip(&units) {
        line.cancelled += *units as u32;
    }
    if let (OrderStatus::Placed, Some(pay_by)) = (order.status, order.pay_by) {
        draft.remove_due(pay_by, &Subject::Order(order.id), order.stocks());
    }
    order.status = match order.status {
        OrderStatus::PartlyShipped => OrderStatus::Shipped,
        _ => OrderStatus::Cancelled,
    };
    order.cancel_reason = reason;
    order.owe_back();
    Ok(store(draft, order))
}

/// Cancels what is not shipped.
pub(crate) fn cancel<R: Rows>(draft: &mut Draft<'_, R>, c: &CancelOrder) -> Result<Reply, Halt> {
    let order = find(draft, &c.order)?;
    order.must_be(&[OrderStatus::Placed, OrderStatus::Paid, OrderStatus::PartlyShipped])?;
    Ok(reply(free(draft, order, c.reason.clone())?, false))
}

/// Cancels an order whose time to pay is over.
pub(crate) fn cancel_unpaid<R: Rows>(
    draft: &mut Draft<'_, R>,
    at: TimestampMs,
    id: OrderId,
) -> Result<(), Fault> {
    let found = draft.order(id)?;
    let Some(order) = found.filter(|o| o.status == OrderStatus::Placed && o.pay_by == Some(at)) else {
        return Err(draft.breach(format!("order {id} is due at {at:?} but not to be paid by then")));
    };
    free(draft, order, Some("unpaid".into()))?;
    Ok(())
}

/// Goods come back: on hand again, or written off.
pub(crate) fn take_back<R: Rows>(draft: &mut Draft<'_, R>, c: &Return) -> Result<Reply, Halt> {
    let mut order = find(draft, &c.order)?;
    order.must_be(&[OrderStatus::PartlyShipped, OrderStatus::Shipped, OrderStatus::Completed])?;
    let units = units_of(&order, c.lines.as_deref(), "units to return", |line| {
        u64::from(line.shipped - line.returned)
    })?;
    if c.restock {
        move_units(draft, &order, MovementKind::Restocked, &units)?;
    }
    for (line, units) in order.lines.iter_mut().zip(&units) {
        line.returned += *units as u32;
    }
    order.owe_back();
    Ok(reply(store(draft, order), false))
}

/// Money goes back, at most what is owed.
pub(crate) fn refund<R: Rows>(draft: &mut Draft<'_, R>, c: &Refund) -> Result<Reply, Halt> {
    let mut order = find(draft, &c.order)?;
    order.refunded_minor += amount(c.amount_minor, order.refund_owed_minor(), "amount to refund")?;
    order.refer(c.reference.as_ref())?;
    Ok(reply(store(draft, order), false))
}

/// Merges metadata.
pub(crate) fn patch_metadata<R: Rows>(draft: &mut Draft<'_, R>, c: &PatchMetadata) -> Result<Reply, Halt> {
    let mut order = find(draft, &c.order)?;
    for (key, value) in &c.changes {
        match value {
            Some(value) => order.metadata.insert(key.clone(), value.clone()),
            None => order.metadata.remove(key),
        };
    }
    let most = draft.head.settings.metadata_entries;
    if order.metadata.len() > most as usize {
        return Err(Rejection::TooMuchMetadata(most).into());
    }
    Ok(reply(store(draft, order), false))
}
