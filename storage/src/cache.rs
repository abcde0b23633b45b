//! Hot rows, decoded, as the apply thread last saw them: in a flash sale every entry reads the same
//! few, and a row in sled costs microseconds to find.

use crate::codec;
use crate::error::StorageError;
use crate::keys;
use crate::shop::effect::Receipt;
use crate::shop::ids::{Location, Place, Sku, TimestampMs};
use crate::shop::item::Item;
use crate::shop::order::Order;
use crate::shop::state::{Entry, Index, Key, Row, Rows, Unreadable};
use crate::shop::stock::Stock;
use crate::tables::{Tables, row_hash, unreadable};
use bytes::Bytes;
use hashbrown::{Equivalent, HashMap};
use std::cell::RefCell;
use std::hash::Hash;
use std::sync::Arc;

/// Rows of one half: of the order of 30 MiB for all when both are full. Twice as many pay where more stocks than
/// this take turns.
const HALF: usize = 1 << 16;

/// A decoded row and its part of the state hash. Items and stocks lie apart: the smaller what is looked up, the
/// less memory each order touches.
#[derive(Debug)]
struct Halves<K, V> {
    younger: HashMap<K, (V, u128)>,
    older: HashMap<K, (V, u128)>,
}

impl<K, V> Default for Halves<K, V> {
    fn default() -> Self {
        Halves { younger: HashMap::new(), older: HashMap::new() }
    }
}

/// Two halves: what was not used while the younger one filled up is forgotten with the older one.
impl<K: Hash + Eq, V> Halves<K, V> {
    fn get<Q: Hash + Equivalent<K>, T>(&mut self, key: &Q, read: impl FnOnce(&(V, u128)) -> T) -> Option<T> {
        if let Some(hot) = self.younger.get(key) {
            return Some(read(hot));
        }
        let (key, hot) = self.older.remove_entry(key)?;
        let read = read(&hot);
        self.put(key, hot);
        Some(read)
    }

    /// Answers what it replaces, where that was known.
    fn put(&mut self, key: K, hot: (V, u128)) -> Option<(V, u128)> {
        if self.younger.len() >= HALF {
            self.older = std::mem::take(&mut self.younger);
        }
        let older = if self.older.is_empty() { None } else { self.older.remove(&key) };
        self.younger.insert(key, hot).or(older)
    }

    fn remove(&mut self, key: &K) -> Option<(V, u128)> {
        let older = self.older.remove(key);
        self.younger.remove(key).or(older)
    }
}

/// Of a stock, to look it up.
#[derive(Hash)]
struct StockOf<'a>(&'a Sku, &'a Location);

impl Equivalent<(Sku, Location)> for StockOf<'_> {
    fn equivalent(&self, key: &(Sku, Location)) -> bool {
        *self.0 == key.0 && *self.1 == key.1
    }
}

/// Items and stocks are read again and again, everything else mostly once.
#[derive(Debug, Default)]
pub(crate) struct RowCache {
    items: Halves<Sku, Arc<Item>>,
    stocks: Halves<(Sku, Location), Stock>,
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

    fn get(&mut self, key: &Key) -> Option<Row> {
        match key {
            Key::Item(sku) => self.items.get(sku, |(item, _)| Row::Item(Arc::clone(item))),
            Key::Stock(sku, location) => {
                self.stocks.get(&StockOf(sku, location), |(stock, _)| Row::Stock(stock.clone()))
            }
            _ => None,
        }
    }

    /// A row has changed, and so has its part in the state hash; `None` where it is gone. Answers the part it
    /// had, where that is known.
    pub fn change(&mut self, key: Key, new: Option<(Row, u128)>) -> Option<u128> {
        match (key, new) {
            (Key::Item(sku), Some((Row::Item(item), hash))) => {
                self.items.put(sku, (item, hash)).map(|(_, was)| was)
            }
            (Key::Stock(sku, location), Some((Row::Stock(stock), hash))) => {
                self.stocks.put((sku, location), (stock, hash)).map(|(_, was)| was)
            }
            (Key::Item(sku), _) => self.items.remove(&sku).map(|(_, was)| was),
            (Key::Stock(sku, location), _) => self.stocks.remove(&(sku, location)).map(|(_, was)| was),
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
        if !matches!(key, Key::Item(_) | Key::Stock(..)) {
            return self.tables.get(key);
        }
        if let Some(row) = self.cache.borrow_mut().get(key) {
            return Ok(Some(row));
        }
        let Some((row, hash)) = self.read(key).map_err(unreadable)? else { return Ok(None) };
        self.cache.borrow_mut().change(key.clone(), Some((row.clone(), hash)));
        Ok(Some(row))
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
