//! Everything that moves the stock of one SKU, for the linearizability search.

use super::skus::{Names, Rotation};
use super::{Generator, Next, Shape, Workload, reads};
use crate::checker;
use crate::history::{Call, Line, Op, Outcome};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use std::collections::VecDeque;

/// SKUs at a time: with eight clients, few calls of one SKU are in flight together, so that the search ends.
const AT_ONCE: usize = 3;
/// Calls of a group of SKUs: some 130 a SKU.
const CALLS: u64 = 400;
/// No hold of this workload runs out while it is looked at.
const TTL_MS: u64 = 3_600_000;
/// How many orders and holds are remembered for being cancelled or confirmed.
const REMEMBERED: usize = 24;

/// As `list` shows it.
pub const WORKLOAD: Workload = Workload {
    name: "stock",
    about: "receive, order, reserve, confirm, cancel and read a few SKUs: linearizable per SKU",
    clients: 8,
    rate: 12.0,
    generator: |shape| Box::new(Stock::new(shape)),
    checkers: &[checker::linearizable::check],
};

struct Stock {
    skus: Rotation,
    ids: Names,
    /// Orders and holds that may be there, newest last. Whether they are is the shop's to say.
    orders: VecDeque<String>,
    holds: VecDeque<String>,
}

impl Stock {
    fn new(shape: &Shape) -> Self {
        Stock {
            skus: Rotation::new("stock", AT_ONCE, CALLS, shape),
            ids: Names::new("s"),
            orders: VecDeque::new(),
            holds: VecDeque::new(),
        }
    }

    /// An id that was used before, mostly; at times a new one, which the shop does not know yet.
    fn old_or_new(ids: &mut Names, old: &VecDeque<String>, rng: &mut StdRng) -> String {
        let known = old.iter().choose(rng).filter(|_| rng.random_bool(0.9));
        known.cloned().unwrap_or_else(|| ids.fresh())
    }
}

fn remember(list: &mut VecDeque<String>, id: &str) {
    list.push_back(id.to_owned());
    if list.len() > REMEMBERED {
        list.pop_front();
    }
}

impl Generator for Stock {
    fn setup(&mut self, _: &mut StdRng) -> Vec<Call> {
        self.skus.all().map(|sku| Call::PutItem { sku: sku.clone() }).collect()
    }

    fn next(&mut self, _: usize, rng: &mut StdRng) -> Option<Next> {
        let (_, skus) = self.skus.turn();
        let sku = skus.choose(rng)?.clone();
        let line = |rng: &mut StdRng, most| vec![Line::new(sku.clone(), rng.random_range(1..=most))];
        let call = match rng.random_range(0..100) {
            0..14 => Call::Receive { lines: line(rng, 6) },
            14..38 => {
                Call::PlaceOrder { id: Some(self.ids.fresh()), lines: line(rng, 4), reservation_id: None }
            }
            38..44 => Call::CancelOrder { id: Self::old_or_new(&mut self.ids, &self.orders, rng) },
            44..60 => Call::Reserve {
                // At times an id that was cancelled before anybody tried it.
                id: if rng.random_bool(0.95) {
                    self.ids.fresh()
                } else {
                    Self::old_or_new(&mut self.ids, &self.holds, rng)
                },
                ttl_ms: TTL_MS,
                lines: line(rng, 4),
            },
            60..68 => Call::Confirm { id: Self::old_or_new(&mut self.ids, &self.holds, rng) },
            68..75 => Call::CancelReservation { id: Self::old_or_new(&mut self.ids, &self.holds, rng) },
            _ => reads::stock([&sku]),
        };
        Some(Next::call(call))
    }

    fn seen(&mut self, _: usize, op: &Op) {
        if matches!(op.outcome, Some(Outcome::Fail { .. })) {
            return;
        }
        match &op.call {
            Call::PlaceOrder { id: Some(id), .. } => remember(&mut self.orders, id),
            Call::Reserve { id, .. } | Call::CancelReservation { id } => remember(&mut self.holds, id),
            _ => {}
        }
    }

    fn finish(&mut self) -> Vec<Call> {
        self.skus.used().iter().flatten().map(|sku| reads::stock([sku])).collect()
    }
}
