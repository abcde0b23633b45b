//! Hot rows, decoded, as the apply thread last saw them: in a flash sale every entry reads the same
//! few, and a row in sled costs microseconds to find.

use crate::codec;
use crate::error::StorageError;
use crate::keys;
use crate::shop::effect::Receipt;
use crate::shop::ids::{Place, TimestampMs};
use crate::shop::order::Order;
use crate::shop::state::{Entry, Index, Key, Row, Rows, Unreadable};
use crate::tables::{Tables, row_hash, unreadable};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::HashMap;

/// Rows of one half: of the order of 30 MiB when both are full. Twice as many pay where more stocks than
/// this take turns.
const HALF: usize = 1 << 16;

/// A decoded row and its part of the state hash.
type Hot = (Row, u128);

/// Two halves: what was not used while the younger one filled up is forgotten with the older one.
#[derive(Debug, Default)]
pub(crate) struct RowCache {
    younger: HashMap<Key, Hot>,
    older: HashMap<Key, Hot>,
    /// Whose rows these are.
    tables: u64,
}

/// Items and stocks are read again and again, everything else mostly once.
fn is_hot(key: &Key) -> bool {
    matches!(key, Key::Item(_) | Key::Stock(..))
}

impl RowCache {
    /// Forgets everything where the rows are of other tables: a snapshot was installed.
    pub fn follow(&mut self, tables: &Tables) {
        if self.tables != tables.id {
            *self = RowCache { tables: tables.id, ..RowCache::default() };
        }
    }

    fn get<T>(&mut self, key: &Key, read: impl FnOnce(&Hot) -> T) -> Option<T> {
        if let Some(hot) = self.younger.get(key) {
            return Some(read(hot));
        }
        let (key, hot) = self.older.remove_entry(key)?;
        let read = read(&hot);
        self.put(key, hot);
        Some(read)
    }

    fn put(&mut self, key: Key, hot: Hot) {
        if self.younger.len() >= HALF {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(key, hot);
    }

    /// The part of a row in the state hash, where it is known.
    pub fn hash_of(&mut self, key: &Key) -> Option<u128> {
        if is_hot(key) { self.get(key, |(_, hash)| *hash) } else { None }
    }

    /// A row has changed, and so has its part in the state hash; `None` where it is gone.
    pub fn change(&mut self, key: Key, new: Option<Hot>) {
        if !is_hot(&key) {
            return;
        }
        match new {
            // What the older half has of it, if anything, is not looked at any more.
            Some(hot) => self.put(key, hot),
            None => {
                self.younger.remove(&key);
                self.older.remove(&key);
            }
        }
    }
}

/// Tables as the apply thread reads them.
pub(crate) struct Cached<'a> {
    pub tables: &'a Tables,
    pub cache: &'a RefCell<RowCache>,
}

impl Cached<'_> {
    fn read(&self, key: &Key) -> Result<Option<Hot>, StorageError> {
        let raw = keys::encode(key);
        let Some(value): Option<Bytes> = self.tables.layers().get(&raw)? else { return Ok(None) };
        Ok(Some((codec::decode("row", &value)?, row_hash(&raw, &value))))
    }
}

impl Rows for Cached<'_> {
    fn get(&self, key: &Key) -> Result<Option<Row>, Unreadable> {
        if !is_hot(key) {
            return self.tables.get(key);
        }
        if let Some(row) = self.cache.borrow_mut().get(key, |(row, _)| row.clone()) {
            return Ok(Some(row));
        }
        let Some(hot) = self.read(key).map_err(unreadable)? else { return Ok(None) };
        let row = hot.0.clone();
        self.cache.borrow_mut().put(key.clone(), hot);
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
