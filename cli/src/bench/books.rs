//! What the shop must say in the end: kept per SKU while orders are acknowledged, compared with stock afterwards.

use super::workload::Line;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicI64, Ordering};

/// A write without a certain answer.
#[derive(Debug, Clone)]
pub struct Unknown {
    /// Its idempotency key, by which it can be settled.
    pub key: String,
    /// What it would do.
    pub write: Write,
    /// With which lines.
    pub lines: Vec<Line>,
}

/// What a write does to stock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// An order: allocated grows.
    Order,
    /// A reservation: reserved grows.
    Reserve,
    /// Its confirmation: reserved and on hand fall.
    Confirm,
}

/// Stock of one SKU as the shop tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Levels {
    /// Physically there.
    pub on_hand: i64,
    /// Held by reservations.
    pub reserved: i64,
    /// Promised to orders.
    pub allocated: i64,
    /// What can be sold.
    pub available: i64,
}

#[derive(Default)]
struct Account {
    allocated: AtomicI64,
    reserved: AtomicI64,
    consumed: AtomicI64,
    /// Units that writes whose outcome stayed unknown may have moved.
    perhaps: AtomicI64,
}

/// What was acknowledged, per SKU.
pub struct Books {
    received: i64,
    accounts: Box<[Account]>,
}

/// The verdict on a run's stock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Units that acknowledged orders, and unknown ones found to have happened, took.
    pub units_acknowledged: i64,
    /// Units that the shop says were taken.
    pub units_in_stock: i64,
    /// Writes without a certain answer that were settled afterwards: how many had happened.
    pub settled_done: u64,
    /// And how many had not, and now never will.
    pub settled_not_done: u64,
    /// Writes that could not be settled; their units are allowed for.
    pub unsettled: u64,
    /// What is wrong; empty when all is right. The first few.
    pub findings: Vec<String>,
    /// How many findings there are.
    pub findings_count: u64,
}

impl Check {
    /// Notes what is wrong.
    pub fn find(&mut self, what: String) {
        self.findings_count += 1;
        if self.findings.len() < 10 {
            self.findings.push(what);
        }
    }

    /// Whether nothing is wrong.
    pub fn clean(&self) -> bool {
        self.findings_count == 0
    }
}

impl Books {
    /// For SKUs that have received so many units each.
    pub fn new(skus: u32, received: i64) -> Self {
        Books { received, accounts: (0..skus).map(|_| Account::default()).collect() }
    }

    /// A write has happened.
    pub fn done(&self, write: Write, lines: &[Line]) {
        for line in lines {
            let account = &self.accounts[line.sku as usize];
            let units = i64::from(line.quantity);
            match write {
                Write::Order => account.allocated.fetch_add(units, Ordering::Relaxed),
                Write::Reserve => account.reserved.fetch_add(units, Ordering::Relaxed),
                Write::Confirm => {
                    account.reserved.fetch_sub(units, Ordering::Relaxed);
                    account.consumed.fetch_add(units, Ordering::Relaxed)
                }
            };
        }
    }

    /// A write may have happened, and nobody can tell.
    pub fn perhaps(&self, lines: &[Line]) {
        for line in lines {
            self.accounts[line.sku as usize].perhaps.fetch_add(i64::from(line.quantity), Ordering::Relaxed);
        }
    }

    /// Compares one SKU with what the shop says of it.
    pub fn compare(&self, sku: u32, levels: &Levels, check: &mut Check) {
        let account = &self.accounts[sku as usize];
        let read = |counter: &AtomicI64| counter.load(Ordering::Relaxed);
        let consumed = self.received - levels.on_hand;
        check.units_acknowledged +=
            read(&account.allocated) + read(&account.reserved) + read(&account.consumed);
        check.units_in_stock += levels.allocated + levels.reserved + consumed;
        let slack = read(&account.perhaps);
        let pairs = [
            ("allocated", read(&account.allocated), levels.allocated),
            ("reserved", read(&account.reserved), levels.reserved),
            ("taken off on hand", read(&account.consumed), consumed),
        ];
        for (what, acknowledged, stock) in pairs {
            if (stock - acknowledged).abs() > slack {
                let verdict = if stock < acknowledged { "lost" } else { "too many" };
                let units = (stock - acknowledged).abs();
                check.find(format!(
                    "SKU {sku}: {units} units {verdict}: {acknowledged} acknowledged as {what}, stock says {stock}"
                ));
            }
        }
        if levels.on_hand - levels.reserved - levels.allocated != levels.available || levels.available < 0 {
            check.find(format!("SKU {sku}: its levels do not add up: {levels:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [Line; 1] = [Line { sku: 1, quantity: 3 }];

    fn levels(on_hand: i64, reserved: i64, allocated: i64) -> Levels {
        Levels { on_hand, reserved, allocated, available: on_hand - reserved - allocated }
    }

    fn compare(books: &Books, levels: Levels) -> Check {
        let mut check = Check::default();
        books.compare(1, &levels, &mut check);
        check
    }

    #[test]
    fn one_unit_lost_or_too_many_is_found() {
        let books = Books::new(2, 100);
        books.done(Write::Order, &LINES);
        assert!(compare(&books, levels(100, 0, 3)).clean());
        assert!(compare(&books, levels(100, 0, 2)).findings[0].contains("1 units lost"));
        assert!(compare(&books, levels(100, 0, 4)).findings[0].contains("1 units too many"));
        assert!(!compare(&books, levels(99, 0, 3)).clean(), "on hand falls by no order");
        assert!(!compare(&books, Levels { available: 98, ..levels(100, 0, 3) }).clean());
    }

    #[test]
    fn a_confirmation_moves_what_was_held_off_on_hand() {
        let books = Books::new(2, 100);
        books.done(Write::Reserve, &LINES);
        assert!(compare(&books, levels(100, 3, 0)).clean());
        books.done(Write::Confirm, &LINES);
        assert!(compare(&books, levels(97, 0, 0)).clean());
        assert!(!compare(&books, levels(100, 3, 0)).clean());
    }

    #[test]
    fn what_stays_unknown_is_allowed_for_and_no_more() {
        let books = Books::new(2, 100);
        books.perhaps(&LINES);
        for (allocated, clean) in [(0, true), (3, true), (4, false)] {
            assert_eq!(compare(&books, levels(100, 0, allocated)).clean(), clean, "{allocated}");
        }
    }
}
