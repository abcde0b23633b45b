//! One entry in the making: what it changes, over the rows as they were before it.

use crate::effect::{Receipt, Step};
use crate::ids::{IdempotencyKey, Location, OrderId, OrderName, Place, ReservationId, Sku, TimestampMs};
use crate::item::Item;
use crate::order::Order;
use crate::reservation::Reservation;
use crate::state::{Breach, Fault, Head, Index, Key, Row, Rows, Subject, Unreadable};
use crate::stock::{Cause, Counters, Movement, MovementKind, Stock};
use std::collections::BTreeMap;

/// One stock's name.
pub(crate) type StockKey = (Sku, Location);

/// Changes of one entry, over the rows before it. Rules look up through it, so that the second
/// command of an entry sees what the first one did.
pub(crate) struct Draft<'a, R> {
    rows: &'a R,
    /// The entry's Raft log index.
    pub log_index: u64,
    /// The replicated clock.
    pub now: TimestampMs,
    /// As it will be.
    pub head: Head,
    /// More is due than one step frees: commands free what is due on their own stock first.
    pub backlog: bool,
    changed: BTreeMap<Key, Option<Row>>,
    /// Stocks as they were when first touched; `None` for new ones.
    before: BTreeMap<StockKey, Option<Stock>>,
    placed: Vec<Order>,
    names: BTreeMap<OrderName, OrderId>,
    movements: Vec<Movement>,
    receipts: Vec<Receipt>,
    receipt_slots: BTreeMap<IdempotencyKey, usize>,
    listed: Vec<(Index, String, Place)>,
    made: u32,
}

impl<'a, R: Rows> Draft<'a, R> {
    pub fn new(rows: &'a R, log_index: u64, now: TimestampMs, head: Head) -> Self {
        Draft {
            rows,
            log_index,
            now,
            head,
            backlog: false,
            changed: BTreeMap::new(),
            before: BTreeMap::new(),
            placed: Vec::new(),
            names: BTreeMap::new(),
            movements: Vec::new(),
            receipts: Vec::new(),
            receipt_slots: BTreeMap::new(),
            listed: Vec::new(),
            made: 0,
        }
    }

    /// The rows before this entry.
    pub fn rows(&self) -> &'a R {
        self.rows
    }

    fn place(&self, slot: usize) -> Place {
        // An entry is at most a mebibyte, so that no block has four billion slots.
        Place { epoch: self.head.epoch, index: self.log_index, slot: slot as u32 }
    }

    /// A place for an item or reservation that this entry makes.
    pub fn next_made(&mut self) -> Place {
        self.made += 1;
        self.place(self.made as usize - 1)
    }

    /// An invariant does not hold.
    pub fn breach(&self, law: impl Into<String>) -> Fault {
        Fault::Breach(Breach { log_index: self.log_index, law: law.into() })
    }

    fn get(&self, key: &Key) -> Result<Option<Row>, Unreadable> {
        match self.changed.get(key) {
            Some(row) => Ok(row.clone()),
            None => self.rows.get(key),
        }
    }

    fn wrong_row(key: &Key) -> Unreadable {
        Unreadable(format!("a row of another kind lies under {key:?}"))
    }

    /// Keys from `from` (included) to `until` (excluded), as this entry leaves them.
    pub fn keys(&self, from: &Key, until: &Key, limit: usize) -> Result<Vec<Key>, Unreadable> {
        let changed = || self.changed.range(from.clone()..until.clone());
        let removed = changed().filter(|(_, row)| row.is_none()).count();
        let mut keys = self.rows.keys(from, until, limit.saturating_add(removed))?;
        keys.retain(|key| !self.changed.contains_key(key));
        keys.extend(changed().filter(|(_, row)| row.is_some()).map(|(key, _)| key.clone()));
        keys.sort_unstable();
        keys.truncate(limit);
        Ok(keys)
    }

    /// Sets or removes a row.
    pub fn put(&mut self, key: Key, row: Option<Row>) {
        self.changed.insert(key, row);
    }

    pub fn item(&self, sku: &Sku) -> Result<Option<Item>, Unreadable> {
        let key = Key::Item(sku.clone());
        match self.get(&key)? {
            None => Ok(None),
            Some(Row::Item(item)) => Ok(Some(item)),
            Some(_) => Err(Self::wrong_row(&key)),
        }
    }

    fn stock(&self, sku: &Sku, location: &Location) -> Result<Option<Stock>, Unreadable> {
        let key = Key::Stock(sku.clone(), location.clone());
        match self.get(&key)? {
            None => Ok(None),
            Some(Row::Stock(stock)) => Ok(Some(stock)),
            Some(_) => Err(Self::wrong_row(&key)),
        }
    }

    /// The counters of a stock; all 0 where there never was one.
    pub fn counters(&self, sku: &Sku, location: &Location) -> Result<Counters, Unreadable> {
        Ok(self.stock(sku, location)?.map(|stock| stock.counters).unwrap_or_default())
    }

    pub fn reservation(&self, id: &ReservationId) -> Result<Option<Reservation>, Unreadable> {
        let key = Key::Reservation(id.clone());
        match self.get(&key)? {
            None => Ok(None),
            Some(Row::Reservation(reservation)) => Ok(Some(reservation)),
            Some(_) => Err(Self::wrong_row(&key)),
        }
    }

    /// The made id behind a name that callers use.
    pub fn resolve(&self, name: &OrderName) -> Result<Option<OrderId>, Unreadable> {
        if let Some(id) = OrderId::parse(name.as_str()) {
            return Ok(self.placed(id)?.map(|order| order.id));
        }
        if let Some(id) = self.names.get(name) {
            return Ok(Some(*id));
        }
        for place in self.rows.find(Index::OrderName, name.as_str())? {
            let placed = self.rows.placed(place)?;
            if placed.is_some_and(|order| order.name.as_ref() == Some(name)) {
                return Ok(Some(OrderId(place)));
            }
        }
        Ok(None)
    }

    /// An order exactly as it was placed.
    pub fn placed(&self, id: OrderId) -> Result<Option<Order>, Unreadable> {
        if (id.0.epoch, id.0.index) == (self.head.epoch, self.log_index) {
            return Ok(self.placed.get(id.0.slot as usize).cloned());
        }
        self.rows.placed(id.0)
    }

    /// An order as it is now.
    pub fn order(&self, id: OrderId) -> Result<Option<Order>, Unreadable> {
        let key = Key::Order(id);
        match self.get(&key)? {
            None => self.placed(id),
            Some(Row::Order(order)) => Ok(Some(*order)),
            Some(_) => Err(Self::wrong_row(&key)),
        }
    }

    /// The id of the next order that this entry places.
    pub fn next_order_id(&self) -> OrderId {
        OrderId(self.place(self.placed.len()))
    }

    /// Adds an order, whose id is [`Draft::next_order_id`], to this entry's block.
    pub fn add_order(&mut self, order: Order) {
        if let Some(name) = &order.name {
            self.names.insert(name.clone(), order.id);
            self.listed.push((Index::OrderName, name.as_str().to_owned(), order.id.0));
        }
        if let Some(customer) = &order.customer_id {
            self.listed.push((Index::Customer, customer.as_str().to_owned(), order.id.0));
        }
        self.head.orders_placed += 1;
        self.placed.push(order);
    }

    /// Moves stock: changes its counters and writes the movement.
    ///
    /// # Errors
    /// A breach where the counters would leave their range: rules check before they move.
    pub fn move_stock(
        &mut self,
        sku: &Sku,
        location: &Location,
        kind: MovementKind,
        quantity: i64,
        cause: Cause,
    ) -> Result<Counters, Fault> {
        let found = self.stock(sku, location)?;
        let (old, previous) =
            found.as_ref().map_or((Counters::default(), None), |s| (s.counters, Some(s.last_movement)));
        let after = moved(old, kind, quantity).ok_or_else(|| {
            self.breach(format!("{sku} at {location}: {kind:?} of {quantity} does not fit {old:?}"))
        })?;
        let place = self.place(self.movements.len());
        self.count_promises(old, after);
        let ledger = found.as_ref().map(|s| s.ledger).unwrap_or_default();
        let key = (sku.clone(), location.clone());
        self.put(
            Key::Stock(key.0.clone(), key.1.clone()),
            Some(Row::Stock(Stock {
                sku: key.0.clone(),
                location: key.1.clone(),
                counters: after,
                ledger,
                last_movement: place,
            })),
        );
        self.before.entry(key).or_insert(found);
        self.movements.push(Movement {
            sku: sku.clone(),
            location: location.clone(),
            kind,
            quantity,
            after,
            previous,
            at: self.now,
            cause,
        });
        Ok(after)
    }

    fn count_promises(&mut self, old: Counters, new: Counters) {
        self.head.units_reserved = self.head.units_reserved + new.reserved - old.reserved;
        self.head.units_allocated = self.head.units_allocated + new.allocated - old.allocated;
    }

    /// Notes that something ends at `at`, for the clock and for each stock it holds.
    pub fn add_due(&mut self, at: TimestampMs, subject: &Subject, stocks: impl Iterator<Item = StockKey>) {
        self.put(Key::Due(at, subject.clone()), Some(Row::Nothing));
        for (sku, location) in stocks {
            self.put(Key::Hold(sku, location, at, subject.clone()), Some(Row::Nothing));
        }
    }

    /// Takes back what [`Draft::add_due`] noted.
    pub fn remove_due(&mut self, at: TimestampMs, subject: &Subject, stocks: impl Iterator<Item = StockKey>) {
        self.put(Key::Due(at, subject.clone()), None);
        for (sku, location) in stocks {
            self.put(Key::Hold(sku, location, at, subject.clone()), None);
        }
    }

    /// The receipt of a key that is still within its retention.
    pub fn receipt(&self, key: &IdempotencyKey) -> Result<Option<Receipt>, Unreadable> {
        if let Some(slot) = self.receipt_slots.get(key) {
            return Ok(self.receipts.get(*slot).cloned());
        }
        let retention = self.head.settings.receipt_retention_ms;
        for place in self.rows.find(Index::Receipt, key.as_str())? {
            match self.rows.receipt(place)? {
                Some(receipt) if receipt.key == *key => {
                    return Ok((receipt.at.plus_ms(retention) > self.now).then_some(receipt));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Keeps an outcome under its key.
    pub fn keep(&mut self, key: IdempotencyKey, fingerprint: u128, outcome: crate::effect::Kept) {
        let slot = self.receipts.len();
        let place = self.place(slot);
        self.listed.push((Index::Receipt, key.as_str().to_owned(), place));
        self.receipt_slots.insert(key.clone(), slot);
        self.receipts.push(Receipt { key, fingerprint, outcome, place, at: self.now });
    }

    /// Ends the entry: checks the laws over what it touched, and gives out the changes.
    pub fn finish(mut self) -> Result<Step, Fault> {
        if self.placed.len() > 1 << 16 || self.made > 1 << 16 {
            return Err(self.breach("an entry made more than 65,536 orders, items or reservations"));
        }
        let ledgers = crate::check::fold(self.log_index, self.head.epoch, &self.before, &self.movements)?;
        for ((sku, location), ledger) in ledgers {
            match self.changed.get_mut(&Key::Stock(sku, location)) {
                Some(Some(Row::Stock(stock))) => stock.ledger = ledger,
                _ => unreachable!("a stock that moved has a changed row"),
            }
        }
        crate::check::stocks(self.log_index, self.changed.values())?;
        crate::check::orders(self.log_index, self.placed.iter())?;
        crate::check::orders(
            self.log_index,
            self.changed.values().filter_map(|row| match row {
                Some(Row::Order(order)) => Some(order.as_ref()),
                _ => None,
            }),
        )?;
        self.changed.insert(Key::Head, Some(Row::Head(self.head)));
        Ok(Step {
            answers: Vec::new(),
            rows: self.changed.into_iter().collect(),
            placed: self.placed,
            movements: self.movements,
            receipts: self.receipts,
            listed: self.listed,
            dropped_receipts: Vec::new(),
        })
    }
}

/// Counters after a movement; `None` where one would leave its range.
fn moved(old: Counters, kind: MovementKind, quantity: i64) -> Option<Counters> {
    use MovementKind::{
        Adjusted, Allocated, Consumed, Deallocated, Expired, Received, Released, Reserved, Restocked,
        Shipped, TransferredIn, TransferredOut,
    };
    let mut new = old;
    let counters: &mut [(&mut u64, i64)] = match kind {
        Received | TransferredIn | Restocked | Adjusted => &mut [(&mut new.on_hand, quantity)],
        TransferredOut => &mut [(&mut new.on_hand, -quantity)],
        Reserved => &mut [(&mut new.reserved, quantity)],
        Released | Expired => &mut [(&mut new.reserved, -quantity)],
        Consumed => &mut [(&mut new.reserved, -quantity), (&mut new.on_hand, -quantity)],
        Allocated => &mut [(&mut new.allocated, quantity)],
        Deallocated => &mut [(&mut new.allocated, -quantity)],
        Shipped => &mut [(&mut new.allocated, -quantity), (&mut new.on_hand, -quantity)],
    };
    for (counter, delta) in counters {
        **counter = counter.checked_add_signed(*delta)?;
    }
    Some(new)
}
