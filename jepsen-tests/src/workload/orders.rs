//! Orders of several SKUs beside reads of several histories at one index.

use super::skus::{Names, Rotation};
use super::{Generator, Next, Shape, Workload, reads};
use crate::checker;
use crate::history::{Call, Line};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// SKUs at a time, of which an order takes two to four.
const AT_ONCE: usize = 5;
/// Calls of a group of SKUs. The history of a SKU has to fit one page of 1,000, and is read often.
const CALLS: u64 = 250;
/// More than a group can sell.
const UNITS: u64 = 1_000_000;
/// Lines of one receipt.
const LINES: usize = 400;

/// As `list` shows it.
pub const WORKLOAD: Workload = Workload {
    name: "orders",
    about: "orders of several SKUs, and histories of several SKUs at one index: strictly serializable",
    clients: 8,
    rate: 12.0,
    generator: |shape| Box::new(Orders::new(shape)),
    checkers: &[checker::list_append::check],
};

struct Orders {
    skus: Rotation,
    ids: Names,
}

impl Orders {
    fn new(shape: &Shape) -> Self {
        Orders { skus: Rotation::new("orders", AT_ONCE, CALLS, shape), ids: Names::new("o") }
    }
}

impl Generator for Orders {
    fn setup(&mut self, _: &mut StdRng) -> Vec<Call> {
        let skus: Vec<String> = self.skus.all().cloned().collect();
        let items = skus.iter().map(|sku| Call::PutItem { sku: sku.clone() });
        let receive = |skus: &[String]| Call::Receive {
            lines: skus.iter().map(|sku| Line::new(sku.clone(), UNITS)).collect(),
        };
        items.chain(skus.chunks(LINES).map(receive)).collect()
    }

    fn next(&mut self, _: usize, rng: &mut StdRng) -> Option<Next> {
        let (current, skus) = self.skus.turn();
        if rng.random_bool(0.6) {
            let count = rng.random_range(2..=4);
            let lines = skus.choose_multiple(rng, count);
            let lines = lines.map(|sku| Line::new(sku.clone(), quantity(current, sku))).collect();
            return Some(Next::call(Call::PlaceOrder {
                id: Some(self.ids.fresh()),
                lines,
                reservation_id: None,
            }));
        }
        // The group before is read on for a while: what came late must be there too.
        let skus = match current.checked_sub(1) {
            Some(before) if rng.random_bool(0.15) => self.skus.used()[before].clone(),
            _ => skus.to_vec(),
        };
        let count = rng.random_range(2..=skus.len());
        Some(Next::call(reads::movements(skus.choose_multiple(rng, count))))
    }

    fn finish(&mut self) -> Vec<Call> {
        self.skus.used().iter().map(reads::movements).collect()
    }
}

/// Any quantity would do; one that differs from SKU to SKU shows lines that were mixed up.
fn quantity(group: usize, sku: &str) -> u64 {
    (group + sku.len()) as u64 % 3 + sku.bytes().last().map_or(1, |last| u64::from(last % 5) + 1)
}
