//! Reads below linearizable, each held to what it promises.

use super::skus::Names;
use super::{Generator, Next, Shape, Workload, reads};
use crate::checker;
use crate::history::{Call, Consistency, Line, Op};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

const SKUS: usize = 6;
const UNITS: u64 = 1_000_000;

/// As `list` shows it.
pub const WORKLOAD: Workload = Workload {
    name: "sessions",
    about: "session, bounded and stale reads: own writes seen, never backwards, never older than promised",
    clients: 10,
    rate: 20.0,
    generator: |shape| Box::new(Sessions::new(shape)),
    checkers: &[checker::session::check],
};

struct Sessions {
    skus: Vec<String>,
    ids: Names,
    /// The newest token of each client.
    tokens: Vec<Option<String>>,
}

impl Sessions {
    fn new(shape: &Shape) -> Self {
        let skus = (0..SKUS).map(|sku| format!("sessions-{sku}")).collect();
        Sessions { skus, ids: Names::new("n"), tokens: vec![None; shape.clients] }
    }
}

impl Generator for Sessions {
    fn setup(&mut self, _: &mut StdRng) -> Vec<Call> {
        let items = self.skus.iter().map(|sku| Call::PutItem { sku: sku.clone() });
        let lines = self.skus.iter().map(|sku| Line::new(sku.clone(), UNITS)).collect();
        items.chain([Call::Receive { lines }]).collect()
    }

    fn next(&mut self, slot: usize, rng: &mut StdRng) -> Option<Next> {
        let sku = self.skus.choose(rng)?.clone();
        let lines = vec![Line::new(sku, rng.random_range(1..=3))];
        let consistency = match rng.random_range(0..100) {
            0..10 => return Some(Next::call(Call::Receive { lines })),
            10..35 => {
                let id = Some(self.ids.fresh());
                return Some(Next::call(Call::PlaceOrder { id, lines, reservation_id: None }));
            }
            35..58 => Consistency::Session(self.tokens[slot].clone()),
            // Somebody else's token: a customer who goes on on another device.
            58..65 => Consistency::Session(self.tokens.choose(rng)?.clone()),
            65..78 => Consistency::Bounded(rng.random_range(50..2_000)),
            78..90 => Consistency::Stale,
            _ => Consistency::Linearizable,
        };
        let count = rng.random_range(1..=3);
        Some(Next::call(reads::stock_at(self.skus.choose_multiple(rng, count), consistency)))
    }

    fn seen(&mut self, slot: usize, op: &Op) {
        // A read that asked for less than the session may be older than it: its token is no step forward.
        let moves_on = match &op.call {
            Call::ReadStock { consistency, .. } => {
                matches!(consistency, Consistency::Linearizable)
                    || matches!(consistency, Consistency::Session(token) if *token == self.tokens[slot])
            }
            _ => true,
        };
        if let (true, Some(token)) = (moves_on, op.meta().and_then(|meta| meta.session.clone())) {
            self.tokens[slot] = Some(token);
        }
    }

    fn finish(&mut self) -> Vec<Call> {
        vec![reads::stock(&self.skus)]
    }
}
