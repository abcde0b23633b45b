//! Orders as fast as it goes; all of them are looked for at the end.

use super::skus::Names;
use super::{Generator, Next, Workload, reads};
use crate::checker;
use crate::history::{Call, Consistency, Line};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

const SKUS: usize = 40;
/// More than a run can sell.
const UNITS: u64 = 100_000_000;

/// As `list` shows it.
pub const WORKLOAD: Workload = Workload {
    name: "unique",
    about: "unique orders: every acknowledged one is found at the end, none twice, no phantom",
    clients: 16,
    rate: 40.0,
    generator: |_| {
        let skus = (0..SKUS).map(|sku| format!("unique-{sku}")).collect();
        Box::new(Unique { skus, ids: Names::new("u") })
    },
    checkers: &[checker::set::check],
};

struct Unique {
    skus: Vec<String>,
    ids: Names,
}

impl Generator for Unique {
    fn setup(&mut self, _: &mut StdRng) -> Vec<Call> {
        let items = self.skus.iter().map(|sku| Call::PutItem { sku: sku.clone() });
        let lines = self.skus.iter().map(|sku| Line::new(sku.clone(), UNITS)).collect();
        items.chain([Call::Receive { lines }]).collect()
    }

    fn next(&mut self, _: usize, rng: &mut StdRng) -> Option<Next> {
        if rng.random_bool(0.02) {
            return Some(Next::call(reads::stock(self.skus.choose_multiple(rng, 3))));
        }
        let count = rng.random_range(1..=3);
        let lines = self.skus.choose_multiple(rng, count);
        let lines = lines.map(|sku| Line::new(sku.clone(), 1 + sku.len() as u64 % 3)).collect();
        // Half of them by an id of Stockroom's own, of which nobody can tell a second order but by counting.
        let id = rng.random_bool(0.5).then(|| self.ids.fresh());
        Some(Next::call(Call::PlaceOrder { id, lines, reservation_id: None }))
    }

    fn finish(&mut self) -> Vec<Call> {
        let orders = Call::ListOrders { consistency: Consistency::Linearizable };
        vec![orders, reads::stock(&self.skus)]
    }
}
