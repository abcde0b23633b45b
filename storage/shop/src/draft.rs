//! What one entry has changed so far, laid over the rows it found.
//!
//! Rules check first and change after: whatever is called here between the two cannot fail, so that
//! a rejected command leaves nothing behind and nothing needs undoing.

use crate::command::Batch;
use crate::effect::{Receipt, StockLevel};
use crate::ids::{
    IdempotencyKey, Location, OrderId, OrderName, Place, Quantity, ReservationId, Sku, TimestampMs,
};
use crate::item::{Item, Terms};
use crate::lookup::Lookup;
use crate::order::Order;
use crate::planted::{self, Bug};
use crate::reservation::Reservation;
use crate::state::{Entry, Head, Index, Key, Row, Rows, Subject, Unreadable};
use crate::stock::{Cause, Counters, Movement, MovementKind, Stock};
use crate::text::Text;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A stock that the draft has loaded; good for this draft only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StockRef(u32);

impl StockRef {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A stock as this entry found it and as it is now.
pub(crate) struct StockDraft {
    pub sku: Sku,
    pub location: Location,
    /// As stored; `None` where nothing ever moved here.
    pub before: Option<Stock>,
    pub counters: Counters,
    pub last_movement: Option<Place>,
    /// Whether the row has to be written.
    pub changed: bool,
    /// Units that the command numbered `asked_by` asks of it.
    asked: u64,
    asked_by: u32,
}

impl StockDraft {
    /// What may still be promised.
    pub(crate) fn available(&self) -> u64 {
        match &self.before {
            // The law on oversold stock in `check` is blinded with it, or the node would stop.
            Some(before) if planted::is(Bug::OversellWithinAMillisecond) => before.counters.available(),
            _ => self.counters.available(),
        }
    }
}

/// An item as this entry found it or has made it.
pub(crate) struct ItemDraft {
    pub sku: Sku,
    /// `None` where there is none of this SKU.
    terms: Option<Terms>,
    /// The row to write, where it has to be.
    pub written: Option<Arc<Item>>,
}

/// Stocks that a command asks units of.
pub(crate) struct Demand {
    /// One for each line, in the order of lines.
    pub lines: Vec<StockRef>,
    /// Each once, in the order in which lines first name them.
    pub stocks: Vec<StockRef>,
}

/// One entry's changes over the rows it found.
pub(crate) struct Draft<'a> {
    pub(crate) rows: &'a dyn Rows,
    /// The head as stored.
    pub before: Head,
    pub head: Head,
    pub log_index: u64,
    /// The replicated clock: the same for the whole entry.
    pub now: TimestampMs,
    /// More is due than one step frees: commands free what is due on their own stock first.
    pub backlog: bool,
    pub items: Vec<ItemDraft>,
    items_by_sku: Lookup,
    pub stocks: Vec<StockDraft>,
    stocks_by_name: Lookup,
    pub reservations: BTreeMap<ReservationId, Reservation>,
    pub orders: BTreeMap<OrderId, Order>,
    /// Rows that only say that something is there: made, due, hold.
    pub marks: BTreeMap<Key, Option<Row>>,
    pub placed: Vec<Arc<Order>>,
    pub movements: Vec<Movement>,
    /// Whose each movement is.
    pub moved: Vec<StockRef>,
    pub receipts: Vec<Receipt>,
    /// Of the answers in `receipts`, about.
    pub kept_bytes: usize,
    pub listed: Vec<(Index, Text, Place)>,
    pub dropped_receipts: Vec<Entry>,
    names: BTreeMap<OrderName, OrderId>,
    receipts_by_key: Lookup,
    demands: u32,
    /// Items and reservations made so far.
    pub made: usize,
}

fn other_kind(key: &Key) -> Unreadable {
    Unreadable(format!("a row of another kind lies under {key:?}"))
}

/// A row of the kind its key promises, or nothing.
macro_rules! read {
    ($rows:expr, $key:expr, $kind:path) => {{
        let key = $key;
        match $rows.get(&key)? {
            Some($kind(row)) => Some(row),
            None => None,
            Some(_) => return Err(other_kind(&key)),
        }
    }};
}

impl<'a> Draft<'a> {
    /// Reads the head and moves the clock, never back.
    pub(crate) fn open(rows: &'a dyn Rows, log_index: u64, batch: &Batch) -> Result<Self, Unreadable> {
        let before = read!(rows, Key::Head, Row::Head).unwrap_or_default();
        let now = before.clock.max(batch.stamped_at);
        let head = Head { clock: now, ..before.clone() };
        let proposals = batch.proposals.len();
        Ok(Draft {
            rows,
            before,
            head,
            log_index,
            now,
            backlog: false,
            items: Vec::with_capacity(proposals),
            items_by_sku: Lookup::with_capacity(proposals),
            stocks: Vec::with_capacity(proposals),
            stocks_by_name: Lookup::with_capacity(proposals),
            reservations: BTreeMap::new(),
            orders: BTreeMap::new(),
            marks: BTreeMap::new(),
            placed: Vec::with_capacity(proposals),
            movements: Vec::with_capacity(proposals),
            moved: Vec::with_capacity(proposals),
            receipts: Vec::with_capacity(proposals),
            kept_bytes: 0,
            listed: Vec::with_capacity(proposals),
            dropped_receipts: Vec::new(),
            names: BTreeMap::new(),
            receipts_by_key: Lookup::with_capacity(proposals),
            demands: 0,
            made: 0,
        })
    }

    /// A position in this entry.
    pub(crate) fn place(&self, slot: usize) -> Place {
        // An entry is at most a mebibyte and a command has at most 500 lines, so that no block comes
        // near four billion slots.
        Place { epoch: self.head.epoch, index: self.log_index, slot: slot as u32 }
    }

    /// A place for an item or reservation that this entry makes.
    pub(crate) fn next_made(&mut self) -> Place {
        self.made += 1;
        self.place(self.made - 1)
    }
}

/// Items.
impl Draft<'_> {
    /// Where the draft has an item, loaded or not there at all.
    fn item_at(&mut self, sku: &Sku) -> Result<usize, Unreadable> {
        let items = &self.items;
        if let Some(at) = self.items_by_sku.find(sku, |at| items[at].sku == *sku) {
            return Ok(at);
        }
        let terms = self.rows.terms(sku)?;
        let at = self.items.len();
        self.items.push(ItemDraft { sku: sku.clone(), terms, written: None });
        self.items_by_sku.add(sku, at);
        Ok(at)
    }

    /// What a line asks of its item; `None` where there is none of this SKU.
    pub(crate) fn terms(&mut self, sku: &Sku) -> Result<Option<Terms>, Unreadable> {
        let at = self.item_at(sku)?;
        Ok(self.items[at].terms)
    }

    pub(crate) fn item(&mut self, sku: &Sku) -> Result<Option<Arc<Item>>, Unreadable> {
        let at = self.item_at(sku)?;
        match &self.items[at].written {
            Some(item) => Ok(Some(Arc::clone(item))),
            None => Ok(read!(self.rows, Key::Item(sku.clone()), Row::Item)),
        }
    }

    /// Writes an item as it is now; it was loaded before.
    pub(crate) fn save_item(&mut self, item: Item) -> Result<(), Unreadable> {
        if item.version == 1 {
            self.marks.insert(Key::ItemMade(item.created), Some(Row::Sku(item.sku.clone())));
        }
        let at = self.item_at(&item.sku)?;
        let draft = &mut self.items[at];
        (draft.terms, draft.written) = (Some(item.terms()), Some(item.into()));
        Ok(())
    }
}

/// Stocks and their movements.
impl Draft<'_> {
    /// Loads a stock; one where nothing ever moved has counters of 0.
    pub(crate) fn stock(&mut self, sku: &Sku, location: &Location) -> Result<StockRef, Unreadable> {
        let stocks = &self.stocks;
        let is_it = |at: usize| stocks[at].sku == *sku && stocks[at].location == *location;
        if let Some(at) = self.stocks_by_name.find(&(sku, location), is_it) {
            return Ok(StockRef(at as u32));
        }
        let before = read!(self.rows, Key::Stock(sku.clone(), location.clone()), Row::Stock);
        let stock = StockRef(self.stocks.len() as u32);
        self.stocks.push(StockDraft {
            sku: sku.clone(),
            location: location.clone(),
            counters: before.as_ref().map(|b| b.counters).unwrap_or_default(),
            last_movement: before.as_ref().map(|b| b.last_movement),
            before,
            changed: false,
            asked: 0,
            asked_by: 0,
        });
        self.stocks_by_name.add(&(sku, location), stock.index());
        Ok(stock)
    }

    pub(crate) fn of(&self, stock: StockRef) -> &StockDraft {
        &self.stocks[stock.index()]
    }

    pub(crate) fn of_mut(&mut self, stock: StockRef) -> &mut StockDraft {
        &mut self.stocks[stock.index()]
    }

    pub(crate) fn level(&self, stock: StockRef) -> StockLevel {
        let StockDraft { sku, location, counters, .. } = self.of(stock);
        StockLevel { sku: sku.clone(), location: location.clone(), counters: *counters }
    }

    /// Loads the stocks of lines and adds up what each is asked for.
    pub(crate) fn demand<'l>(
        &mut self,
        lines: impl ExactSizeIterator<Item = (&'l Sku, &'l Location, Quantity)>,
    ) -> Result<Demand, Unreadable> {
        self.demands += 1;
        let mut demand =
            Demand { lines: Vec::with_capacity(lines.len()), stocks: Vec::with_capacity(lines.len()) };
        for (sku, location, quantity) in lines {
            let stock = self.stock(sku, location)?;
            let asked_by = self.demands;
            let draft = self.of_mut(stock);
            if draft.asked_by != asked_by {
                (draft.asked, draft.asked_by) = (0, asked_by);
                demand.stocks.push(stock);
            }
            draft.asked += quantity.units();
            demand.lines.push(stock);
        }
        Ok(demand)
    }

    /// What the last [`Draft::demand`] asks of this stock.
    pub(crate) fn asked(&self, stock: StockRef) -> u64 {
        let draft = self.of(stock);
        if draft.asked_by == self.demands { draft.asked } else { 0 }
    }

    /// Changes a stock's counters and writes down why. What may be changed was checked before;
    /// should that have been wrong, the law finds it at the end of the entry.
    pub(crate) fn move_stock(&mut self, stock: StockRef, kind: MovementKind, quantity: i64, cause: &Cause) {
        let place = self.place(self.movements.len());
        let at = self.now;
        let draft = &mut self.stocks[stock.index()];
        let was = draft.counters;
        draft.counters = was.moved(kind, quantity);
        draft.changed = true;
        let previous = draft.last_movement.replace(place);
        let after = draft.counters;
        self.movements.push(Movement {
            sku: draft.sku.clone(),
            location: draft.location.clone(),
            kind,
            quantity,
            after,
            previous,
            at,
            cause: cause.clone(),
        });
        self.moved.push(stock);
        let head = &mut self.head;
        head.units_reserved = head.units_reserved.wrapping_add(after.reserved).wrapping_sub(was.reserved);
        head.units_allocated = head.units_allocated.wrapping_add(after.allocated).wrapping_sub(was.allocated);
    }
}

/// What ends when its time is over.
impl Draft<'_> {
    /// From now on `subject` holds these stocks until `until`.
    pub(crate) fn hold(&mut self, until: TimestampMs, subject: &Subject, stocks: &[StockRef]) {
        self.marks.insert(Key::Due(until, subject.clone()), Some(Row::Nothing));
        for stock in stocks {
            let draft = self.of(*stock);
            let key = Key::Hold(draft.sku.clone(), draft.location.clone(), until, subject.clone());
            self.marks.insert(key, Some(Row::Nothing));
        }
    }

    /// It holds them no longer.
    pub(crate) fn unhold(&mut self, until: TimestampMs, subject: &Subject, stocks: &[StockRef]) {
        self.marks.insert(Key::Due(until, subject.clone()), None);
        for stock in stocks {
            let draft = self.of(*stock);
            let key = Key::Hold(draft.sku.clone(), draft.location.clone(), until, subject.clone());
            self.marks.insert(key, None);
        }
    }

    /// Up to `limit` keys of marks from `from` (included) to `until` (excluded), in order: those
    /// stored and not removed, merged with those added.
    pub(crate) fn mark_keys(&self, from: &Key, until: &Key, limit: usize) -> Result<Vec<Key>, Unreadable> {
        let drafted = || self.marks.range::<Key, _>(from..until);
        let removed = drafted().filter(|(_, row)| row.is_none()).count();
        let mut keys = self.rows.keys(from, until, limit.saturating_add(removed))?;
        if drafted().next().is_some() {
            keys.retain(|key| !self.marks.contains_key(key));
            keys.extend(drafted().filter(|(_, row)| row.is_some()).map(|(key, _)| key.clone()));
            keys.sort_unstable();
        }
        keys.truncate(limit);
        Ok(keys)
    }
}

/// Reservations and orders.
impl Draft<'_> {
    pub(crate) fn reservation(&self, id: &ReservationId) -> Result<Option<Reservation>, Unreadable> {
        if let Some(reservation) = self.reservations.get(id) {
            return Ok(Some(reservation.clone()));
        }
        Ok(read!(self.rows, Key::Reservation(id.clone()), Row::Reservation))
    }

    /// Writes a reservation as it is now.
    pub(crate) fn save_reservation(&mut self, mut reservation: Reservation) -> Reservation {
        reservation.updated_at = self.now;
        reservation.log_index = self.log_index;
        self.reservations.insert(reservation.id.clone(), reservation.clone());
        reservation
    }

    pub(crate) fn add_reservation(&mut self, reservation: Reservation) -> Reservation {
        let made = Key::ReservationMade(reservation.created);
        self.marks.insert(made, Some(Row::ReservationId(reservation.id.clone())));
        self.save_reservation(reservation)
    }

    /// An order as it is now.
    pub(crate) fn order(&self, id: OrderId) -> Result<Option<Order>, Unreadable> {
        if let Some(order) = self.orders.get(&id) {
            return Ok(Some(order.clone()));
        }
        if self.is_here(id.0) {
            return Ok(self.placed.get(id.0.slot as usize).map(|order| Order::clone(order)));
        }
        match read!(self.rows, Key::Order(id), Row::Order) {
            Some(order) => Ok(Some(*order)),
            None => self.rows.placed(id.0),
        }
    }

    /// An order exactly as it was placed.
    pub(crate) fn placed_order(&self, place: Place) -> Result<Option<Arc<Order>>, Unreadable> {
        if self.is_here(place) {
            return Ok(self.placed.get(place.slot as usize).cloned());
        }
        Ok(self.rows.placed(place)?.map(Arc::new))
    }

    /// The order that chose this name, or whose printed id it is.
    pub(crate) fn named(&self, name: &OrderName) -> Result<Option<OrderId>, Unreadable> {
        if let Some(id) = OrderId::parse(name.as_str()) {
            return Ok(Some(id));
        }
        if let Some(id) = self.names.get(name) {
            return Ok(Some(*id));
        }
        for place in self.rows.find(Index::OrderName, name.as_str())? {
            if self.rows.placed(place)?.is_some_and(|order| order.name.as_ref() == Some(name)) {
                return Ok(Some(OrderId(place)));
            }
        }
        Ok(None)
    }

    /// Writes an order as it is now.
    pub(crate) fn save_order(&mut self, mut order: Order) -> Order {
        order.updated_at = self.now;
        order.log_index = self.log_index;
        self.orders.insert(order.id, order.clone());
        order
    }

    /// Where the next order will be placed.
    pub(crate) fn next_order(&self) -> OrderId {
        OrderId(self.place(self.placed.len()))
    }

    pub(crate) fn add_order(&mut self, order: Order) -> Arc<Order> {
        let place = order.id.0;
        if let Some(name) = &order.name {
            self.names.insert(name.clone(), order.id);
            self.listed.push((Index::OrderName, name.text().clone(), place));
        }
        if let Some(customer) = &order.customer_id {
            self.listed.push((Index::Customer, customer.text().clone(), place));
        }
        self.head.orders_placed += 1;
        let order = Arc::new(order);
        self.placed.push(Arc::clone(&order));
        order
    }

    fn is_here(&self, place: Place) -> bool {
        place.epoch == self.head.epoch && place.index == self.log_index
    }
}

/// Receipts.
impl Draft<'_> {
    /// This entry's receipt of a key.
    pub(crate) fn receipt_here(&self, key: &IdempotencyKey) -> Option<&Receipt> {
        let at = self.receipts_by_key.find(key, |at| self.receipts[at].key == *key)?;
        self.receipts.get(at)
    }

    /// Of a key that has no live one.
    pub(crate) fn add_receipt(&mut self, receipt: Receipt) {
        self.receipts_by_key.add(&receipt.key, self.receipts.len());
        self.listed.push((Index::Receipt, receipt.key.text().clone(), receipt.place));
        self.receipts.push(receipt);
    }
}
