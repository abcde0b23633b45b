//! Rows in memory: the twin of the storage's, for tests and simulation.

use crate::command::Batch;
use crate::effect::{Answer, Receipt, Step};
use crate::ids::{Place, TimestampMs};
use crate::order::Order;
use crate::state::{Entry, Fault, Index, Key, Row, Rows, Unreadable, step};
use crate::stock::Movement;
use std::collections::BTreeMap;

/// A whole replica in memory. Equal replicas compare equal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryRows {
    /// Keyed rows.
    pub rows: BTreeMap<Key, Row>,
    /// Orders as placed.
    pub placed: BTreeMap<Place, Order>,
    /// Every movement.
    pub movements: BTreeMap<Place, Movement>,
    /// Receipts not dropped yet.
    pub receipts: BTreeMap<Place, Receipt>,
    listed: BTreeMap<(Index, String), Vec<Place>>,
}

impl MemoryRows {
    /// Applies one entry and absorbs what it did.
    ///
    /// # Errors
    /// As [`step`]; then nothing was absorbed.
    pub fn apply(&mut self, log_index: u64, batch: &Batch) -> Result<Vec<Answer>, Fault> {
        let step = step(self, log_index, batch)?;
        Ok(self.absorb(log_index, step))
    }

    fn absorb(&mut self, log_index: u64, step: Step) -> Vec<Answer> {
        for (key, row) in step.rows {
            match row {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
        let epoch = match self.rows.get(&Key::Head) {
            Some(Row::Head(head)) => head.epoch,
            _ => 0,
        };
        let places = (0..).map(|slot| Place { epoch, index: log_index, slot });
        self.placed.extend(places.clone().zip(step.placed));
        self.movements.extend(places.clone().zip(step.movements));
        self.receipts.extend(places.zip(step.receipts));
        for (index, name, place) in step.listed {
            self.listed.entry((index, name)).or_default().insert(0, place);
        }
        self.receipts.retain(|place, _| !step.dropped_receipts.contains(&(place.epoch, place.index)));
        step.answers
    }
}

impl Rows for MemoryRows {
    fn get(&self, key: &Key) -> Result<Option<Row>, Unreadable> {
        Ok(self.rows.get(key).cloned())
    }

    fn keys(&self, from: &Key, until: &Key, limit: usize) -> Result<Vec<Key>, Unreadable> {
        Ok(self.rows.range(from..until).take(limit).map(|(key, _)| key.clone()).collect())
    }

    fn placed(&self, place: Place) -> Result<Option<Order>, Unreadable> {
        Ok(self.placed.get(&place).cloned())
    }

    fn receipt(&self, place: Place) -> Result<Option<Receipt>, Unreadable> {
        Ok(self.receipts.get(&place).cloned())
    }

    fn receipt_entries(&self, from: Entry, limit: usize) -> Result<Vec<(Entry, TimestampMs)>, Unreadable> {
        let first = Place { epoch: from.0, index: from.1, slot: 0 };
        let heads = self.receipts.range(first..).filter(|(place, _)| place.slot == 0);
        Ok(heads.take(limit).map(|(place, r)| ((place.epoch, place.index), r.at)).collect())
    }

    fn find(&self, index: Index, name: &str) -> Result<Vec<Place>, Unreadable> {
        Ok(self.listed.get(&(index, name.to_owned())).cloned().unwrap_or_default())
    }
}
