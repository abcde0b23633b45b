//! The same write sent again: to another node, at once, later, across failovers.

use super::skus::Names;
use super::{Generator, Next, Workload, reads};
use crate::checker;
use crate::history::{Answer, Call, Consistency, Line, Op, Outcome};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use std::collections::VecDeque;

const RATE: f64 = 15.0;
const SKUS: usize = 12;
/// Scarce, so that refusals are repeated too.
const UNITS: u64 = 400;
/// Writes that are repeated: the last few seconds' worth, more than a failover takes.
const REMEMBERED: usize = 600;
/// Those that are mostly repeated: some are still in flight.
const RECENT: usize = 12;

/// As `list` shows it.
pub const WORKLOAD: Workload = Workload {
    name: "retries",
    about: "every write is sent again under its key, to any node, at once or later: one effect, one answer",
    clients: 10,
    rate: RATE,
    generator: |_| Box::new(Retries::new()),
    checkers: &[checker::idempotency::check],
};

struct Sent {
    key: String,
    call: Call,
    /// Somebody heard that it was done: from here on another body under its key has to be refused.
    is_done: bool,
}

struct Retries {
    skus: Vec<String>,
    keys: Names,
    ids: Names,
    sent: VecDeque<Sent>,
}

impl Retries {
    fn new() -> Self {
        Retries {
            skus: (0..SKUS).map(|sku| format!("retries-{sku}")).collect(),
            keys: Names::new("r-key"),
            ids: Names::new("r"),
            sent: VecDeque::new(),
        }
    }

    fn fresh(&mut self, rng: &mut StdRng) -> Option<Call> {
        let line = Line::new(self.skus.choose(rng)?.clone(), rng.random_range(1..=5));
        let reserved = self.sent.iter().filter_map(|sent| match &sent.call {
            Call::Reserve { id, .. } => Some(id),
            _ => None,
        });
        let reserved = reserved.choose(rng).cloned();
        Some(match (rng.random_range(0..100), reserved) {
            (0..15, _) => Call::Receive { lines: vec![line] },
            (70..85, _) => Call::Reserve { id: self.ids.fresh(), ttl_ms: 3_600_000, lines: vec![line] },
            (85..92, Some(id)) => Call::Confirm { id },
            (92..100, Some(id)) => Call::CancelReservation { id },
            // Without an id of its own nothing but the key stands against a second order.
            _ => Call::PlaceOrder { id: None, lines: vec![line], reservation_id: None },
        })
    }

    fn repeat(&self, rng: &mut StdRng) -> Option<(String, Call)> {
        let recent = if rng.random_bool(0.6) { RECENT } else { REMEMBERED };
        let sent = self.sent.iter().rev().take(recent).choose(rng)?;
        if sent.is_done && rng.random_bool(0.05) {
            let sku = self.skus.choose(rng)?.clone();
            return Some((sent.key.clone(), Call::Receive { lines: vec![Line::new(sku, 1_000)] }));
        }
        Some((sent.key.clone(), sent.call.clone()))
    }
}

impl Generator for Retries {
    fn setup(&mut self, _: &mut StdRng) -> Vec<Call> {
        let items = self.skus.iter().map(|sku| Call::PutItem { sku: sku.clone() });
        let lines = self.skus.iter().map(|sku| Line::new(sku.clone(), UNITS)).collect();
        items.chain([Call::Receive { lines }]).collect()
    }

    fn next(&mut self, _: usize, rng: &mut StdRng) -> Option<Next> {
        match rng.random_range(0..100) {
            0..6 => Some(Next::call(reads::stock(self.skus.choose_multiple(rng, 3)))),
            6..60 if !self.sent.is_empty() => {
                let (key, call) = self.repeat(rng)?;
                // At once, or a while later: long enough for another leader.
                let wait_ms = if rng.random_bool(0.8) { None } else { Some(rng.random_range(0..3_000)) };
                Some(Next { key: Some(key), wait_ms, ..Next::call(call) })
            }
            _ => {
                let (key, call) = (self.keys.fresh(), self.fresh(rng)?);
                self.sent.push_back(Sent { key: key.clone(), call: call.clone(), is_done: false });
                if self.sent.len() > REMEMBERED {
                    self.sent.pop_front();
                }
                Some(Next { key: Some(key), ..Next::call(call) })
            }
        }
    }

    fn seen(&mut self, _: usize, op: &Op) {
        let done = matches!(&op.outcome, Some(Outcome::Ok { answer, .. }) if !matches!(answer, Answer::Refused { .. }));
        let sent = self
            .sent
            .iter_mut()
            .rev()
            .find(|sent| Some(&sent.key) == op.key.as_ref() && sent.call == op.call);
        if let (true, Some(sent)) = (done, sent) {
            sent.is_done = true;
        }
    }

    fn finish(&mut self) -> Vec<Call> {
        let orders = Call::ListOrders { consistency: Consistency::Linearizable };
        self.skus.iter().map(|sku| reads::stock([sku])).chain([orders]).collect()
    }
}
