//! What the apply thread reads again and again, as it last saw it: in a flash sale every entry reads the same
//! few rows, and one in sled costs microseconds to find. What an order costs here is mostly the memory that it
//! touches: so the tables lie flat, with what is looked for in their slots, and nothing is shared that would have to
//! be counted.

use crate::codec;
use crate::error::StorageError;
use crate::keys;
use crate::shop::effect::Receipt;
use crate::shop::ids::{Location, Place, Sku, TimestampMs};
use crate::shop::item::Terms;
use crate::shop::order::Order;
use crate::shop::state::{Entry, Index, Key, Row, Rows, Unreadable};
use crate::shop::stock::Stock;
use crate::tables::{Tables, row_hash, unreadable};
use bytes::Bytes;
use hashbrown::hash_table::Entry as Slot;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::cell::RefCell;
use std::hash::{BuildHasher, Hash};

/// Rows of one half: of the order of 30 MiB for all when both are full. Twice as many pay where more stocks than
/// this take turns.
const HALF: usize = 1 << 16;

/// Something that is found by its name.
trait Named {
    type Name<'a>: Hash + Copy;

    fn name(&self) -> Self::Name<'_>;

    fn has(&self, name: Self::Name<'_>) -> bool;
}

/// What lines ask of an item.
#[derive(Debug)]
struct HotItem {
    sku: Sku,
    terms: Terms,
}

impl Named for HotItem {
    type Name<'a> = &'a Sku;

    fn name(&self) -> &Sku {
        &self.sku
    }

    fn has(&self, sku: &Sku) -> bool {
        self.sku == *sku
    }
}

/// A stock and its part of the state hash.
#[derive(Debug)]
struct HotStock {
    stock: Stock,
    hash: u128,
}

impl Named for HotStock {
    type Name<'a> = (&'a Sku, &'a Location);

    fn name(&self) -> (&Sku, &Location) {
        (&self.stock.sku, &self.stock.location)
    }

    fn has(&self, (sku, location): (&Sku, &Location)) -> bool {
        self.stock.sku == *sku && self.stock.location == *location
    }
}

/// Two halves: what was not used while the younger one filled up is forgotten with the older one.
#[derive(Debug)]
struct Halves<V> {
    younger: HashTable<V>,
    older: HashTable<V>,
    hasher: DefaultHashBuilder,
}

impl<V> Default for Halves<V> {
    fn default() -> Self {
        let hasher = DefaultHashBuilder::default();
        Halves { younger: HashTable::new(), older: HashTable::new(), hasher }
    }
}

impl<V: Named> Halves<V> {
    fn get<T>(&mut self, name: V::Name<'_>, read: impl FnOnce(&V) -> T) -> Option<T> {
        if let Some(hot) = self.younger.find(self.hasher.hash_one(name), |hot| hot.has(name)) {
            return Some(read(hot));
        }
        let hot = self.remove_older(name)?;
        let read = read(&hot);
        self.put(hot);
        Some(read)
    }

    /// Answers what it replaces, where that was known.
    fn put(&mut self, hot: V) -> Option<V> {
        if self.younger.len() >= HALF {
            self.older = std::mem::take(&mut self.younger);
        }
        let older = self.remove_older(hot.name());
        let hash_of = |hot: &V| self.hasher.hash_one(hot.name());
        match self.younger.entry(hash_of(&hot), |other| other.has(hot.name()), hash_of) {
            Slot::Occupied(mut slot) => Some(std::mem::replace(slot.get_mut(), hot)),
            Slot::Vacant(slot) => {
                slot.insert(hot);
                older
            }
        }
    }

    fn remove(&mut self, name: V::Name<'_>) -> Option<V> {
        let older = self.remove_older(name);
        let found = self.younger.find_entry(self.hasher.hash_one(name), |hot| hot.has(name));
        found.ok().map(|slot| slot.remove().0).or(older)
    }

    fn remove_older(&mut self, name: V::Name<'_>) -> Option<V> {
        if self.older.is_empty() {
            return None;
        }
        let found = self.older.find_entry(self.hasher.hash_one(name), |hot| hot.has(name));
        found.ok().map(|slot| slot.remove().0)
    }
}

/// Terms and stocks are read again and again, everything else mostly once.
#[derive(Debug, Default)]
pub(crate) struct RowCache {
    items: Halves<HotItem>,
    stocks: Halves<HotStock>,
    /// Whose rows these are.
    tables: u64,
}

impl RowCache {
    /// Forgets everything where the rows are of other tables: a snapshot was installed.
    pub fn follow(&mut self, tables: &Tables) {
        if self.tables != tables.id {
            *self = RowCache { tables: tables.id, ..RowCache::default() };
        }
    }

    /// A row has changed, and so has its part in the state hash; `None` where it is gone. Answers the part it
    /// had, where that is known.
    pub fn change(&mut self, key: &Key, new: Option<(Row, u128)>) -> Option<u128> {
        match (key, new) {
            (Key::Item(sku), Some((Row::Item(item), _))) => {
                self.items.put(HotItem { sku: sku.clone(), terms: item.terms() });
                None
            }
            (Key::Item(sku), _) => {
                self.items.remove(sku);
                None
            }
            (Key::Stock(..), Some((Row::Stock(stock), hash))) => {
                self.stocks.put(HotStock { stock, hash }).map(|was| was.hash)
            }
            (Key::Stock(sku, location), _) => self.stocks.remove((sku, location)).map(|was| was.hash),
            _ => None,
        }
    }
}

/// Tables as the apply thread reads them.
pub(crate) struct Cached<'a> {
    pub tables: &'a Tables,
    pub cache: &'a RefCell<RowCache>,
}

impl Cached<'_> {
    fn read(&self, key: &Key) -> Result<Option<(Row, u128)>, StorageError> {
        let raw = keys::encode(key);
        let Some(value): Option<Bytes> = self.tables.layers().get(&raw)? else { return Ok(None) };
        Ok(Some((codec::decode("row", &value)?, row_hash(&raw, &value))))
    }
}

impl Rows for Cached<'_> {
    fn get(&self, key: &Key) -> Result<Option<Row>, Unreadable> {
        let Key::Stock(sku, location) = key else { return self.tables.get(key) };
        let hot = self.cache.borrow_mut().stocks.get((sku, location), |hot| hot.stock.clone());
        if let Some(stock) = hot {
            return Ok(Some(Row::Stock(stock)));
        }
        let Some((row, hash)) = self.read(key).map_err(unreadable)? else { return Ok(None) };
        self.cache.borrow_mut().change(key, Some((row.clone(), hash)));
        Ok(Some(row))
    }

    fn terms(&self, sku: &Sku) -> Result<Option<Terms>, Unreadable> {
        if let Some(terms) = self.cache.borrow_mut().items.get(sku, |hot| hot.terms) {
            return Ok(Some(terms));
        }
        let terms = self.tables.terms(sku)?;
        if let Some(terms) = terms {
            self.cache.borrow_mut().items.put(HotItem { sku: sku.clone(), terms });
        }
        Ok(terms)
    }

    fn keys(&self, from: &Key, until: &Key, limit: usize) -> Result<Vec<Key>, Unreadable> {
        self.tables.keys(from, until, limit)
    }

    fn placed(&self, place: Place) -> Result<Option<Order>, Unreadable> {
        self.tables.placed(place)
    }

    fn receipt(&self, place: Place) -> Result<Option<Receipt>, Unreadable> {
        self.tables.receipt(place)
    }

    fn receipt_entries(&self, from: Entry, limit: usize) -> Result<Vec<(Entry, TimestampMs)>, Unreadable> {
        self.tables.receipt_entries(from, limit)
    }

    fn find(&self, index: Index, name: &str) -> Result<Vec<Place>, Unreadable> {
        self.tables.find(index, name)
    }
}
