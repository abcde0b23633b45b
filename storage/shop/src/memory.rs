//! Rows in memory: the twin of the storage's, for tests and simulation.

use crate::check::Auditor;
use crate::command::Batch;
use crate::effect::{Answer, Receipt, Step};
use crate::ids::{Location, OrderId, Place, Sku, TimestampMs};
use crate::order::Order;
use crate::reservation::ReservationStatus;
use crate::state::{Entry, Fault, Head, Index, Key, Row, Rows, Subject, Unreadable, step};
use crate::stock::Movement;
use std::collections::{BTreeMap, BTreeSet};

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

    /// The head row.
    pub fn head(&self) -> Head {
        match self.rows.get(&Key::Head) {
            Some(Row::Head(head)) => head.clone(),
            _ => Head::default(),
        }
    }

    /// An order as it is now.
    pub fn order(&self, id: OrderId) -> Option<&Order> {
        match self.rows.get(&Key::Order(id)) {
            Some(Row::Order(order)) => Some(order),
            _ => self.placed.get(&id.0),
        }
    }

    /// Recomputes everything from scratch: what does not add up, or ends at another time than its
    /// marks say. Empty where all is well.
    pub fn audit(&self) -> Vec<String> {
        let mut auditor = Auditor::new();
        let mut marks = BTreeSet::new();
        self.movements.iter().for_each(|(place, movement)| auditor.movement(*place, movement));
        for order in self.placed.keys().filter_map(|place| self.order(OrderId(*place))) {
            auditor.order(order);
            if let Some(pay_by) = order.unpaid_at() {
                let stocks = order.lines.iter().map(|line| (&line.sku, &line.location));
                mark(&mut marks, pay_by, &Subject::Order(order.id), stocks);
            }
        }
        for row in self.rows.values() {
            match row {
                Row::Stock(stock) => auditor.stock(stock),
                Row::Reservation(reservation) => {
                    auditor.reservation(reservation);
                    if reservation.status == ReservationStatus::Held {
                        let stocks = reservation.lines.iter().map(|line| (&line.sku, &line.location));
                        let subject = Subject::Reservation(reservation.id.clone());
                        mark(&mut marks, reservation.expires_at, &subject, stocks);
                    }
                }
                _ => {}
            }
        }
        let mut findings = auditor.finish(&self.head());
        let is_mark = |key: &&Key| matches!(key, Key::Due(..) | Key::Hold(..));
        let kept: BTreeSet<_> = self.rows.keys().filter(is_mark).cloned().collect();
        findings.extend(kept.symmetric_difference(&marks).map(|key| format!("{key:?} is astray")));
        findings
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
        self.placed.extend(places.clone().zip(step.placed.iter().map(|order| Order::clone(order))));
        self.movements.extend(places.clone().zip(step.movements));
        self.receipts.extend(places.zip(step.receipts));
        for (index, name, place) in step.listed {
            self.listed.entry((index, name.as_str().to_owned())).or_default().insert(0, place);
        }
        self.receipts.retain(|place, _| !step.dropped_receipts.contains(&(place.epoch, place.index)));
        step.answers
    }
}

/// The marks of what ends at `at`.
fn mark<'s>(
    marks: &mut BTreeSet<Key>,
    at: TimestampMs,
    subject: &Subject,
    stocks: impl Iterator<Item = (&'s Sku, &'s Location)>,
) {
    marks.insert(Key::Due(at, subject.clone()));
    for (sku, location) in stocks {
        marks.insert(Key::Hold(sku.clone(), location.clone(), at, subject.clone()));
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
