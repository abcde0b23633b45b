//! Goods change rooms, and the total stays.

use super::{Generator, Next, Workload, reads};
use crate::checker;
use crate::history::{Call, Line};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

const SKUS: usize = 3;
const UNITS: u64 = 100;
const LOCATIONS: [&str; 4] = ["east", "west", "north", "south"];

/// As `list` shows it.
pub const WORKLOAD: Workload = Workload {
    name: "transfers",
    about: "goods change rooms: the total is the same in every consistent read",
    clients: 10,
    rate: 20.0,
    generator: |_| Box::new(Transfers { skus: (0..SKUS).map(|sku| format!("transfers-{sku}")).collect() }),
    checkers: &[checker::totals::transfers],
};

struct Transfers {
    skus: Vec<String>,
}

impl Generator for Transfers {
    fn setup(&mut self, _: &mut StdRng) -> Vec<Call> {
        let items = self.skus.iter().map(|sku| Call::PutItem { sku: sku.clone() });
        // All in one room: the others come to be by the first transfer into them.
        let line =
            |sku: &String| Line { location: Some(LOCATIONS[0].to_owned()), ..Line::new(sku.clone(), UNITS) };
        items.chain([Call::Receive { lines: self.skus.iter().map(line).collect() }]).collect()
    }

    fn next(&mut self, _: usize, rng: &mut StdRng) -> Option<Next> {
        if rng.random_bool(0.35) {
            let count = rng.random_range(1..=SKUS);
            return Some(Next::call(reads::stock(self.skus.choose_multiple(rng, count))));
        }
        let rooms: Vec<&str> = LOCATIONS.choose_multiple(rng, 2).copied().collect();
        Some(Next::call(Call::Transfer {
            sku: self.skus.choose(rng)?.clone(),
            from: rooms[0].to_owned(),
            to: rooms[1].to_owned(),
            quantity: rng.random_range(1..=40),
        }))
    }

    fn finish(&mut self) -> Vec<Call> {
        vec![reads::stock(&self.skus)]
    }
}
