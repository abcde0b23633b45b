//! Orders: placed, paid, shipped in parts, completed; cancelled, returned, refunded.

use crate::apply::{Halt, Ruling};
use crate::command::{
    CancelOrder, NewOrderLine, OrderSource, PatchMetadata, Pay, PlaceOrder, Refund, Return, Ship,
};
use crate::draft::{Draft, StockRef};
use crate::effect::{Rejection, Reply, line_weight};
use crate::ids::{Currency, CustomerId, Location, MAX_UNITS, OrderId, OrderName, Quantity, Sku, TimestampMs};
use crate::reservation::{self, Reservation, ReservationStatus, StockLine};
use crate::state::{Subject, Unreadable};
use crate::stock::{Cause, MovementKind, check_available, check_fits, check_skus, units};
use bincode::{Decode, Encode};
use std::{collections::BTreeMap, sync::Arc};

/// Most references of payments and refunds that one order remembers: it is rewritten whole with each
/// change, so what it carries has to have an end.
pub const MAX_REFERENCES: usize = 100;
/// What there is too much of beyond that ([`Rejection::TooMuch`]), by which callers tell it from amounts and units.
pub const REFERENCES: &str = "references";

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
    /// Sum of the lines' amounts, in minor units; less what a cancellation took away.
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
    /// Bytes that it takes to keep it, about.
    pub(crate) fn weight(&self) -> usize {
        let lines = self.lines.iter().map(|line| line_weight(&line.sku, &line.location));
        let notes = self.metadata.iter().map(|(name, note)| name.len() + note.len());
        lines.chain(notes).chain(self.references.iter().map(|reference| reference.len())).sum()
    }

    /// What is owed back and not yet paid back, in minor units: the contract's `refund_owed_minor`.
    pub fn refund_owed_minor(&self) -> u64 {
        self.refund_owed_total_minor.saturating_sub(self.refunded_minor)
    }

    /// The id that callers see: the chosen one, else the made one.
    pub fn shown_id(&self) -> String {
        self.name.as_ref().map_or_else(|| self.id.to_string(), |name| name.as_str().to_owned())
    }
}

impl OrderLine {
    /// Units still to be shipped.
    pub fn unshipped(&self) -> u32 {
        (self.quantity.units() as u32).saturating_sub(self.shipped).saturating_sub(self.cancelled)
    }

    /// Units with the customer.
    pub fn returnable(&self) -> u32 {
        self.shipped.saturating_sub(self.returned)
    }

    /// What is owed back for `more` units on top of those that were returned or cancelled before. The
    /// line's amount is split over its units by largest remainder: each gets the same, and the minor
    /// units left over go one each to the first. All units together make the whole amount.
    fn share_minor(&self, more: u32) -> u64 {
        let quantity = self.quantity.units();
        let (each, left_over) = (self.amount_minor / quantity, self.amount_minor % quantity);
        let share = |given_back: u64| each * given_back + left_over.min(given_back);
        let before = u64::from(self.returned) + u64::from(self.cancelled);
        share(before + u64::from(more)) - share(before)
    }
}

impl Order {
    /// The name under which movements and messages speak of it.
    pub fn shown_name(&self) -> OrderName {
        self.name.clone().unwrap_or_else(|| self.id.name())
    }

    fn cause(&self) -> Cause {
        Cause::Order(self.shown_name())
    }

    /// Adds to what is owed back, never above what was paid.
    fn owe_minor(&mut self, amount_minor: u64) {
        self.refund_owed_total_minor =
            self.refund_owed_total_minor.saturating_add(amount_minor).min(self.paid_minor);
    }

    /// The time at which it is cancelled as unpaid, while that can happen.
    pub fn unpaid_at(&self) -> Option<TimestampMs> {
        self.pay_by.filter(|_| self.status == OrderStatus::Placed)
    }
}

/// Places an order: its units are allocated, all lines or none. A chosen id is unique for ever: the
/// same body again is answered with the order as it is now, another is refused.
pub(crate) fn place(draft: &mut Draft<'_>, c: &PlaceOrder, fingerprint: u128) -> Ruling {
    if let Some(name) = &c.name
        && let Some(id) = draft.named(name)?
    {
        return again(draft, name, id, fingerprint);
    }
    let most = draft.head.settings.metadata_entries;
    if c.metadata.len() > most as usize {
        return Err(Rejection::TooMuchMetadata(most).into());
    }
    if let Some(pay_by) = c.pay_by.filter(|pay_by| *pay_by <= draft.now) {
        return Err(Rejection::TooLate(pay_by).into());
    }
    match &c.source {
        OrderSource::Lines(lines) => {
            check_skus(draft, lines.iter().map(|line| &line.sku), true)?;
            let demand =
                check_available(draft, lines.iter().map(|line| (&line.sku, &line.location, line.quantity)))?;
            let order = drawn_up(draft, c, lines.iter().map(OrderLine::from_new), fingerprint)?;
            Ok(allocate(draft, order, &demand.lines))
        }
        OrderSource::Reservation(id) => {
            let reservation = reservation::held(draft, id)?;
            take_over(draft, c, reservation, fingerprint)
        }
    }
}

/// The same chosen id again.
fn again(draft: &mut Draft<'_>, name: &OrderName, id: OrderId, fingerprint: u128) -> Ruling {
    match current(draft, id)? {
        Some(order) if order.fingerprint == fingerprint => {
            Ok(Reply::Order { order: order.into(), created: false })
        }
        Some(_) => Err(Rejection::IdTaken(name.to_string()).into()),
        None => Err(Rejection::OrderNotFound(name.clone()).into()),
    }
}

/// The units of a held reservation become an order's, and the reservation is confirmed.
fn take_over(draft: &mut Draft<'_>, c: &PlaceOrder, reservation: Reservation, fingerprint: u128) -> Ruling {
    // Not asked whether an item is retired: what is held was promised while it was on sale.
    let lines = reservation.lines.iter().map(|line| {
        let (sku, location, quantity) = (line.sku.clone(), line.location.clone(), line.quantity);
        (OrderLine::new(sku, location, quantity), None)
    });
    let order = drawn_up(draft, c, lines, fingerprint)?;
    let stocks = stocks(draft, &order)?;

    reservation::close(draft, reservation, ReservationStatus::Confirmed, MovementKind::Released)?;
    Ok(allocate(draft, order, &stocks))
}

impl OrderLine {
    fn new(sku: Sku, location: Location, quantity: Quantity) -> Self {
        OrderLine { sku, location, quantity, amount_minor: 0, shipped: 0, returned: 0, cancelled: 0 }
    }

    /// A line, and the amount where its caller said one.
    fn from_new(line: &NewOrderLine) -> (Self, Option<u64>) {
        (OrderLine::new(line.sku.clone(), line.location.clone(), line.quantity), line.amount_minor)
    }
}

/// The order as it will stand: lines with their amounts, one currency, what is due.
fn drawn_up(
    draft: &mut Draft<'_>,
    c: &PlaceOrder,
    asked: impl ExactSizeIterator<Item = (OrderLine, Option<u64>)>,
    fingerprint: u128,
) -> Ruling<Order> {
    let mut lines = Vec::with_capacity(asked.len());
    let mut currency = c.currency;
    let mut due_minor = 0u64;
    for (mut line, amount_minor) in asked {
        let price = draft.terms(&line.sku)?.and_then(|terms| terms.price);
        // A price has a say in the currency where it is used.
        if let Some(price) = price.filter(|_| amount_minor.is_none())
            && *currency.get_or_insert(price.currency) != price.currency
        {
            return Err(Rejection::MixedCurrency.into());
        }
        let by_price =
            || price.map_or(Some(0), |price| price.amount_minor.checked_mul(line.quantity.units()));
        let amount_minor = amount_minor.map_or_else(by_price, Some);
        let sum =
            amount_minor.and_then(|amount| due_minor.checked_add(amount)).filter(|sum| *sum <= MAX_UNITS);
        let Some((sum, amount_minor)) = sum.zip(amount_minor) else {
            return Err(Rejection::OutOfRange("the sum of the lines' amounts".into()).into());
        };
        due_minor = sum;
        line.amount_minor = amount_minor;
        lines.push(line);
    }
    Ok(Order {
        id: draft.next_order(),
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
    })
}

/// Past all checks: the units become the order's.
fn allocate(draft: &mut Draft<'_>, order: Order, stocks: &[StockRef]) -> Reply {
    let cause = order.cause();
    for (line, stock) in order.lines.iter().zip(stocks) {
        draft.move_stock(*stock, MovementKind::Allocated, units(line.quantity.units()), &cause);
    }
    if let Some(pay_by) = order.unpaid_at() {
        draft.hold(pay_by, &Subject::Order(order.id), stocks);
    }
    Reply::Order { order: draft.add_order(order), created: true }
}

/// Pays, in parts or all that is left.
pub(crate) fn pay(draft: &mut Draft<'_>, c: &Pay) -> Ruling {
    let mut order = in_state(draft, &c.order, &[OrderStatus::Placed])?;
    let left = order.due_minor.saturating_sub(order.paid_minor);
    let amount_minor = at_most(c.amount_minor, left, "amount to pay")?;
    refer(&mut order, c.reference.as_ref())?;
    let stocks = stocks(draft, &order)?;

    let unpaid_at = order.unpaid_at();
    order.paid_minor += amount_minor;
    if order.paid_minor == order.due_minor {
        order.status = OrderStatus::Paid;
        if let Some(pay_by) = unpaid_at {
            draft.unhold(pay_by, &Subject::Order(order.id), &stocks);
        }
    }
    Ok(saved(draft, order))
}

/// Ships, in parts or all that is left: the units leave the room.
pub(crate) fn ship(draft: &mut Draft<'_>, c: &Ship) -> Ruling {
    let mut order = in_state(draft, &c.order, &[OrderStatus::Paid, OrderStatus::PartlyShipped])?;
    let picks = pick(&order, c.lines.as_deref(), "units to ship", OrderLine::unshipped)?;
    let stocks = stocks(draft, &order)?;

    let cause = order.cause();
    for (at, count) in picks {
        order.lines[at].shipped += count;
        draft.move_stock(stocks[at], MovementKind::Shipped, i64::from(count), &cause);
    }
    if order.lines.iter().all(|line| line.unshipped() == 0) {
        order.status = OrderStatus::Shipped;
    } else {
        order.status = OrderStatus::PartlyShipped;
    }
    Ok(saved(draft, order))
}

/// Closes a shipped order.
pub(crate) fn complete(draft: &mut Draft<'_>, name: &OrderName) -> Ruling {
    let mut order = in_state(draft, name, &[OrderStatus::Shipped])?;
    order.status = OrderStatus::Completed;
    Ok(saved(draft, order))
}

/// Frees what was not shipped, and owes back what was paid for it.
pub(crate) fn cancel(draft: &mut Draft<'_>, c: &CancelOrder) -> Ruling {
    let allowed = [OrderStatus::Placed, OrderStatus::Paid, OrderStatus::PartlyShipped];
    let order = in_state(draft, &c.order, &allowed)?;
    let order = free(draft, order, c.reason.clone())?;
    Ok(Reply::Order { order: order.into(), created: false })
}

/// Frees the unshipped units of an order. Before anything was shipped that cancels it, and all that
/// was paid is owed back; after that it counts as shipped, and the rest's share is owed back.
fn free(draft: &mut Draft<'_>, mut order: Order, reason: Option<Arc<str>>) -> Result<Order, Unreadable> {
    let stocks = stocks(draft, &order)?;

    let cause = order.cause();
    if let Some(pay_by) = order.unpaid_at() {
        draft.unhold(pay_by, &Subject::Order(order.id), &stocks);
    }
    let mut share_minor = 0;
    for (line, stock) in order.lines.iter_mut().zip(&stocks) {
        let count = line.unshipped();
        if count > 0 {
            share_minor += line.share_minor(count);
            line.cancelled += count;
            draft.move_stock(*stock, MovementKind::Deallocated, i64::from(count), &cause);
        }
    }
    order.due_minor = order.due_minor.saturating_sub(share_minor);
    if order.status == OrderStatus::PartlyShipped {
        order.status = OrderStatus::Shipped;
        order.owe_minor(share_minor);
    } else {
        order.status = OrderStatus::Cancelled;
        order.refund_owed_total_minor = order.paid_minor;
    }
    order.cancel_reason = reason;
    Ok(draft.save_order(order))
}

/// `pay_by` has passed.
///
/// # Errors
/// Only before anything changed.
pub(crate) fn cancel_unpaid(draft: &mut Draft<'_>, order: Order) -> Result<Order, Unreadable> {
    free(draft, order, Some("unpaid".into()))
}

/// Goods come back: on hand again or written off; their share of the amount is owed back.
pub(crate) fn take_back(draft: &mut Draft<'_>, c: &Return) -> Ruling {
    let allowed = [OrderStatus::PartlyShipped, OrderStatus::Shipped, OrderStatus::Completed];
    let mut order = in_state(draft, &c.order, &allowed)?;
    let picks = pick(&order, c.lines.as_deref(), "units to return", OrderLine::returnable)?;
    let stocks = stocks(draft, &order)?;
    if c.restock {
        // All at once for each stock: several lines may come back to one.
        let back = picks.iter().map(|(at, count)| (*at, u64::from(*count)));
        for (at, _) in back.clone() {
            let more =
                back.clone().filter(|(other, _)| stocks[*other] == stocks[at]).map(|(_, count)| count).sum();
            check_fits(draft, stocks[at], more)?;
        }
    }

    let cause = order.cause();
    for (at, count) in picks {
        let line = &mut order.lines[at];
        let share_minor = line.share_minor(count);
        line.returned += count;
        if c.restock {
            draft.move_stock(stocks[at], MovementKind::Restocked, i64::from(count), &cause);
        }
        order.owe_minor(share_minor);
    }
    Ok(saved(draft, order))
}

/// Money goes back: at most what is owed.
pub(crate) fn refund(draft: &mut Draft<'_>, c: &Refund) -> Ruling {
    let mut order = find(draft, &c.order)?;
    let amount_minor = at_most(c.amount_minor, order.refund_owed_minor(), "amount to refund")?;
    refer(&mut order, c.reference.as_ref())?;
    order.refunded_minor += amount_minor;
    Ok(saved(draft, order))
}

/// Merges the caller's notes.
pub(crate) fn patch_metadata(draft: &mut Draft<'_>, c: &PatchMetadata) -> Ruling {
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
    Ok(saved(draft, order))
}

/// An order as it is now, on the replicated clock: whether or not its release has run.
fn current(draft: &mut Draft<'_>, id: OrderId) -> Ruling<Option<Order>> {
    match draft.order(id)? {
        Some(due) if due.unpaid_at().is_some_and(|pay_by| pay_by <= draft.now) => {
            Ok(Some(cancel_unpaid(draft, due)?))
        }
        other => Ok(other),
    }
}

fn find(draft: &mut Draft<'_>, name: &OrderName) -> Ruling<Order> {
    let not_found = || Halt::from(Rejection::OrderNotFound(name.clone()));
    let id = draft.named(name)?.ok_or_else(not_found)?;
    current(draft, id)?.ok_or_else(not_found)
}

fn in_state(draft: &mut Draft<'_>, name: &OrderName, allowed: &[OrderStatus]) -> Ruling<Order> {
    let order = find(draft, name)?;
    if allowed.contains(&order.status) {
        return Ok(order);
    }
    let (order, status, allowed) = (name.clone(), order.status, allowed.to_vec());
    Err(Rejection::OrderWrongState { order, status, allowed }.into())
}

fn saved(draft: &mut Draft<'_>, order: Order) -> Reply {
    Reply::Order { order: draft.save_order(order).into(), created: false }
}

fn stocks(draft: &mut Draft<'_>, order: &Order) -> Result<Vec<StockRef>, Unreadable> {
    // Not through `demand`: this runs for what is due in the midst of another command's.
    order.lines.iter().map(|line| draft.stock(&line.sku, &line.location)).collect()
}

/// The amount asked for, or all there is.
fn at_most(asked: Option<u64>, most: u64, what: &str) -> Ruling<u64> {
    match asked {
        Some(asked) if asked > most => Err(Rejection::TooMuch { what: what.to_owned(), most, asked }.into()),
        None if most == 0 => Err(Rejection::NothingLeft(what.to_owned()).into()),
        asked => Ok(asked.unwrap_or(most)),
    }
}

fn refer(order: &mut Order, reference: Option<&Arc<str>>) -> Ruling<()> {
    let Some(reference) = reference else { return Ok(()) };
    if order.references.len() >= MAX_REFERENCES {
        let (most, asked) = (MAX_REFERENCES as u64, order.references.len() as u64 + 1);
        return Err(Rejection::TooMuch { what: REFERENCES.into(), most, asked }.into());
    }
    order.references.push(reference.clone());
    Ok(())
}

/// Which of the order's lines give how many units: all that is `left`, or what `asked` says, the first
/// lines of a stock first.
fn pick(
    order: &Order,
    asked: Option<&[StockLine]>,
    what: &str,
    left: fn(&OrderLine) -> u32,
) -> Ruling<Vec<(usize, u32)>> {
    let mut picked = vec![0u32; order.lines.len()];
    match asked {
        None => picked.iter_mut().zip(&order.lines).for_each(|(count, line)| *count = left(line)),
        Some(asked) => {
            for line in asked {
                pick_line(order, asked, line, what, left, &mut picked)?;
            }
        }
    }
    let picks: Vec<_> = picked.into_iter().enumerate().filter(|(_, count)| *count > 0).collect();
    if picks.is_empty() { Err(Rejection::NothingLeft(what.to_owned()).into()) } else { Ok(picks) }
}

fn pick_line(
    order: &Order,
    asked: &[StockLine],
    line: &StockLine,
    what: &str,
    left: fn(&OrderLine) -> u32,
    picked: &mut [u32],
) -> Ruling<()> {
    let same = |sku: &Sku, location: &Location| *sku == line.sku && *location == line.location;
    let mine = || order.lines.iter().enumerate().filter(|(_, mine)| same(&mine.sku, &mine.location));
    if mine().next().is_none() {
        let (sku, location) = (line.sku.clone(), line.location.clone());
        return Err(Rejection::NoSuchLine { sku, location }.into());
    }
    let mut want = line.quantity.units();
    for (at, mine) in mine() {
        let take = want.min(u64::from(left(mine) - picked[at]));
        picked[at] += take as u32;
        want -= take;
    }
    if want == 0 {
        return Ok(());
    }
    let most = mine().map(|(_, mine)| u64::from(left(mine))).sum();
    let asked = asked.iter().filter(|a| same(&a.sku, &a.location)).map(|a| a.quantity.units()).sum();
    let what = format!("{what} of {} at {}", line.sku, line.location);
    Err(Rejection::TooMuch { what, most, asked }.into())
}
