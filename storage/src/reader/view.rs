//! The shop's rows as of one applied index, one by one and in pages.

use crate::blocks;
use crate::codec;
use crate::error::StorageError;
use crate::keys::{self, BlockKind};
use crate::shop::effect::{Kept, Outcome, Receipt, Reply};
use crate::shop::ids::{CustomerId, IdempotencyKey, Location, OrderId, OrderName, Place, ReservationId, Sku};
use crate::shop::item::Item;
use crate::shop::order::{Order, OrderStatus};
use crate::shop::reservation::{Reservation, ReservationStatus};
use crate::shop::state::{Head, Index, Key, Row, Rows};
use crate::shop::stock::{Movement, Stock};
use crate::tables::Tables;
use std::collections::{BinaryHeap, HashSet};
use std::sync::{Arc, RwLockReadGuard};

/// Most rows that one page of a filtered list looks at: a page may be short, or empty, and still
/// have a next one.
const ROWS_PER_PAGE: usize = 10_000;

/// All rows as of one applied index.
pub struct View<'a> {
    tables: RwLockReadGuard<'a, Tables>,
}

/// One page of a list: what was asked for and where to go on (`None`: the list ends here). A page
/// of a filtered list may be short and still have a next one.
#[derive(Debug)]
pub struct Page<T, C = Place> {
    /// In the order of the list.
    pub rows: Vec<T>,
    /// Give it back to get the next page.
    pub next: Option<C>,
}

pub(super) const FIRST: Place = Place { epoch: 0, index: 0, slot: 0 };
const LAST: Place = Place { epoch: u16::MAX, index: u64::MAX, slot: u32::MAX };

impl<'a> View<'a> {
    pub(super) fn new(tables: RwLockReadGuard<'a, Tables>) -> Self {
        View { tables }
    }

    /// The applied index whose state this is.
    pub fn log_index(&self) -> u64 {
        self.tables.progress.log_index()
    }

    /// What the shop knows about itself.
    ///
    /// # Errors
    /// None today.
    pub fn head(&self) -> Result<Head, StorageError> {
        Ok(self.tables.head.clone())
    }

    fn row(&self, key: &Key) -> Result<Option<Row>, StorageError> {
        Ok(self.tables.get(key)?)
    }

    /// An item.
    ///
    /// # Errors
    /// [`StorageError`] where rows cannot be read. So for all that follow.
    pub fn item(&self, sku: &Sku) -> Result<Option<Item>, StorageError> {
        Ok(self.row(&Key::Item(sku.clone()))?.and_then(|row| match row {
            Row::Item(item) => Some(Arc::unwrap_or_clone(item)),
            _ => None,
        }))
    }

    /// Items in order of creation, after `after`.
    ///
    /// # Errors
    /// As [`View::item`].
    pub fn items(&self, after: Option<Place>, limit: usize) -> Result<Page<Item>, StorageError> {
        let mut paging = Paging::new(limit);
        let (from, until) = (keys::encode(&Key::ItemMade(next(after))), keys::encode(&Key::ItemMade(LAST)));
        for row in self.tables.layers().range(&from, &until) {
            if paging.is_full() {
                break;
            }
            let (key, value) = row?;
            match (keys::decode(&key), codec::decode("item made", &value)?) {
                (Some(Key::ItemMade(place)), Row::Sku(sku)) => paging.see(place, self.item(&sku)?),
                _ => return Err(unexpected(&key)),
            }
        }
        Ok(paging.page)
    }

    /// All locations of a SKU, in order of name; empty where it never had stock.
    ///
    /// # Errors
    /// As [`View::item`].
    pub fn stock(&self, sku: &Sku) -> Result<Vec<Stock>, StorageError> {
        let prefix = keys::stock_of(sku);
        let rows = self.tables.layers().range(&prefix, &keys::after_prefix(&prefix));
        rows.map(|row| {
            let (key, value) = row?;
            match codec::decode("stock", &value)? {
                Row::Stock(stock) => Ok(stock),
                _ => Err(unexpected(&key)),
            }
        })
        .collect()
    }

    /// Movements, newest first, before `before`, of one location or of all merged. A page may be short,
    /// or empty, and still have a next one.
    ///
    /// # Errors
    /// As [`View::item`].
    pub fn movements(
        &self,
        skus: &[Sku],
        location: Option<&Location>,
        before: Option<Place>,
        limit: usize,
    ) -> Result<Page<(Place, Movement)>, StorageError> {
        let mut stocks = Vec::new();
        for sku in skus {
            let of_sku = self.stock(sku)?.into_iter();
            stocks.extend(of_sku.filter(|stock| location.is_none_or(|location| stock.location == *location)));
        }
        match self.chains(&stocks, before)? {
            Some(chains) => self.walk(chains, limit),
            None => self.scan_back(&stocks, before.unwrap_or(LAST), limit),
        }
    }

    fn movement(&self, place: Place) -> Result<Movement, StorageError> {
        self.tables.movement(place)?.ok_or_else(|| {
            StorageError::Format(format!("the chain of movements leads to {place:?}, where none is"))
        })
    }

    /// The newest movement of each stock before `before`; `None` where finding them is too much work.
    /// The movement at `before` itself leads on in its own chain, so that one stock is paged through
    /// at no cost; the others are walked from their newest one.
    fn chains(
        &self,
        stocks: &[Stock],
        before: Option<Place>,
    ) -> Result<Option<BinaryHeap<Place>>, StorageError> {
        let newest = stocks.iter().map(|stock| stock.last_movement);
        let Some(before) = before else { return Ok(Some(newest.collect())) };
        let at = self.tables.movement(before)?;
        let mut heads = BinaryHeap::new();
        let mut steps = 0;
        for stock in stocks {
            let mut place = match &at {
                Some(at) if (&at.sku, &at.location) == (&stock.sku, &stock.location) => at.previous,
                _ => Some(stock.last_movement),
            };
            while let Some(newer) = place.filter(|place| *place >= before) {
                steps += 1;
                if steps > ROWS_PER_PAGE {
                    return Ok(None);
                }
                place = self.movement(newer)?.previous;
            }
            heads.extend(place);
        }
        Ok(Some(heads))
    }

    /// One page from the newest of all chains on; each movement leads to the one before it.
    fn walk(
        &self,
        mut chains: BinaryHeap<Place>,
        limit: usize,
    ) -> Result<Page<(Place, Movement)>, StorageError> {
        let mut page = Page { rows: Vec::new(), next: None };
        while let Some(place) = chains.pop() {
            if page.rows.len() >= limit {
                page.next = page.rows.last().map(|(place, _)| *place);
                break;
            }
            let movement = self.movement(place)?;
            chains.extend(movement.previous);
            page.rows.push((place, movement));
        }
        Ok(page)
    }

    /// One page out of everything that moved before `before`, block by block.
    fn scan_back(
        &self,
        stocks: &[Stock],
        before: Place,
        limit: usize,
    ) -> Result<Page<(Place, Movement)>, StorageError> {
        let wanted: HashSet<(&Sku, &Location)> = stocks.iter().map(|s| (&s.sku, &s.location)).collect();
        let mut paging = Paging::new(limit);
        let layers = self.tables.layers();
        let mut until = (before.epoch, before.index.saturating_add(1));
        let first = keys::block(BlockKind::Movements, (0, 0));
        while let Some((key, block)) = layers.last(&first, &keys::block(BlockKind::Movements, until))? {
            let entry = keys::block_entry(&key).ok_or_else(|| unexpected(&key))?;
            until = entry;
            let movements = blocks::unpack::<Movement>(&block)?;
            for (slot, movement) in movements.into_iter().enumerate().rev() {
                let slot = slot as u32;
                let place = Place { epoch: entry.0, index: entry.1, slot };
                if place >= before {
                    continue;
                }
                if paging.is_full() {
                    return Ok(paging.page);
                }
                let row = wanted.contains(&(&movement.sku, &movement.location)).then_some((place, movement));
                paging.see(place, row);
            }
        }
        Ok(paging.page)
    }

    /// A reservation.
    ///
    /// # Errors
    /// As [`View::item`].
    pub fn reservation(&self, id: &ReservationId) -> Result<Option<Reservation>, StorageError> {
        Ok(self.row(&Key::Reservation(id.clone()))?.and_then(|row| match row {
            Row::Reservation(reservation) => Some(reservation),
            _ => None,
        }))
    }

    /// Reservations in order of creation, after `after`.
    ///
    /// # Errors
    /// As [`View::item`].
    pub fn reservations(
        &self,
        status: Option<ReservationStatus>,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Page<Reservation>, StorageError> {
        let mut paging = Paging::new(limit);
        let from = keys::encode(&Key::ReservationMade(next(after)));
        for row in self.tables.layers().range(&from, &keys::encode(&Key::ReservationMade(LAST))) {
            if paging.is_full() {
                break;
            }
            let (key, value) = row?;
            match (keys::decode(&key), codec::decode("reservation made", &value)?) {
                (Some(Key::ReservationMade(place)), Row::ReservationId(id)) => {
                    let found = self.reservation(&id)?;
                    paging.see(place, found.filter(|r| status.is_none_or(|status| r.status == status)));
                }
                _ => return Err(unexpected(&key)),
            }
        }
        Ok(paging.page)
    }

    /// An order as it is now, by chosen or made id.
    ///
    /// # Errors
    /// As [`View::item`].
    pub fn order(&self, name: &OrderName) -> Result<Option<Order>, StorageError> {
        if let Some(id) = OrderId::parse(name.as_str()) {
            return self.order_at(id.0);
        }
        for place in self.tables.find(Index::OrderName, name.as_str())? {
            if let Some(order) = self.order_at(place)?.filter(|order| order.name.as_ref() == Some(name)) {
                return Ok(Some(order));
            }
        }
        Ok(None)
    }

    fn order_at(&self, place: Place) -> Result<Option<Order>, StorageError> {
        match self.row(&Key::Order(OrderId(place)))? {
            Some(Row::Order(order)) => Ok(Some(*order)),
            Some(_) => Err(StorageError::Format(format!("no order lies at {place:?}"))),
            None => Ok(self.tables.placed(place)?),
        }
    }

    /// Orders in order of creation, after `after`, as they are now.
    ///
    /// # Errors
    /// As [`View::item`].
    pub fn orders(
        &self,
        customer: Option<&CustomerId>,
        status: Option<OrderStatus>,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Page<Order>, StorageError> {
        let wanted = |order: &Order| {
            status.is_none_or(|status| order.status == status)
                && customer.is_none_or(|customer| order.customer_id.as_ref() == Some(customer))
        };
        let mut paging = Paging::new(limit);
        let first = next(after);
        if let Some(customer) = customer {
            // One more than the page has, so that a list that just fills it ends there; more at a time where many are not
            // wanted.
            let (mut from, mut enough) = (first, limit.saturating_add(1).min(ROWS_PER_PAGE));
            loop {
                let places = self.tables.find_from(Index::Customer, customer.as_str(), from, enough)?;
                for place in &places {
                    if paging.is_full() {
                        return Ok(paging.page);
                    }
                    paging.see(*place, self.order_at(*place)?.filter(wanted));
                }
                if places.len() < enough {
                    return Ok(paging.page);
                }
                (from, enough) = (next(places.last().copied()), (enough * 4).min(ROWS_PER_PAGE));
            }
        }
        let from = keys::block(BlockKind::Placed, (first.epoch, first.index));
        let until = keys::after_prefix(&[BlockKind::Placed as u8]);
        'blocks: for row in self.tables.layers().range(&from, &until) {
            let (key, block) = row?;
            let entry = keys::block_entry(&key).ok_or_else(|| unexpected(&key))?;
            for slot in 0..blocks::count(&block)? {
                let place = Place { epoch: entry.0, index: entry.1, slot };
                if place < first {
                    continue;
                }
                if paging.is_full() {
                    break 'blocks;
                }
                let changed = self.row(&Key::Order(OrderId(place)))?;
                let order = match changed {
                    Some(Row::Order(order)) => Some(*order),
                    _ => blocks::slot(&block, slot)?,
                };
                paging.see(place, order.filter(wanted));
            }
        }
        Ok(paging.page)
    }

    /// The live receipt of a key, with its outcome put together again (`None` inside: abandoned).
    ///
    /// # Errors
    /// As [`View::item`].
    pub fn outcome(&self, key: &IdempotencyKey) -> Result<Option<(Receipt, Option<Outcome>)>, StorageError> {
        let head = &self.tables.head;
        for place in self.tables.find(Index::Receipt, key.as_str())? {
            let Some(receipt) = self.tables.receipt(place)?.filter(|receipt| receipt.key == *key) else {
                continue;
            };
            if receipt.at.plus_ms(head.settings.receipt_retention_ms) <= head.clock {
                return Ok(None);
            }
            let outcome = self.recall(&receipt)?;
            return Ok(Some((receipt, outcome)));
        }
        Ok(None)
    }

    /// Puts a receipt's outcome together again; `None` where it was abandoned.
    ///
    /// # Errors
    /// As [`View::item`].
    pub fn recall(&self, receipt: &Receipt) -> Result<Option<Outcome>, StorageError> {
        match &receipt.outcome {
            Kept::Abandoned => Ok(None),
            Kept::Outcome(outcome) => Ok(Some(outcome.clone())),
            Kept::Placed(place) => match self.tables.placed(*place)? {
                Some(order) => Ok(Some(Ok(Reply::Order { order: order.into(), created: true }))),
                None => Err(StorageError::Format(format!("the order placed at {place:?} is gone"))),
            },
        }
    }
}

/// The place after `after`, or the first of all.
fn next(after: Option<Place>) -> Place {
    match after {
        None => FIRST,
        Some(place) => Place { slot: place.slot.saturating_add(1), ..place },
    }
}

fn unexpected(key: &[u8]) -> StorageError {
    StorageError::Format(format!("a row of another kind lies under {key:?}"))
}

/// Collects one page.
struct Paging<T> {
    page: Page<T>,
    limit: usize,
    examined: usize,
    last: Option<Place>,
}

impl<T> Paging<T> {
    fn new(limit: usize) -> Self {
        Paging { page: Page { rows: Vec::new(), next: None }, limit, examined: 0, last: None }
    }

    /// Whether the page is full; if so, the next one begins behind the last row seen. Asked before
    /// each further row, so that a list that just fills its page ends there.
    fn is_full(&mut self) -> bool {
        let full = self.page.rows.len() >= self.limit || self.examined >= ROWS_PER_PAGE;
        if full {
            self.page.next = self.last;
        }
        full
    }

    fn see(&mut self, place: Place, row: Option<T>) {
        self.examined += 1;
        self.last = Some(place);
        self.page.rows.extend(row);
    }
}
