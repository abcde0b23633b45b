//! Confirm, cancel and extend against the deadline.

use super::skus::Names;
use super::{Generator, Next, Workload, reads};
use crate::checker;
use crate::history::{Answer, Call, Consistency, Line, Op, Outcome};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const SKUS: usize = 8;
/// Scarce: the units of holds that run out are needed again.
const UNITS: u64 = 60;
/// Holds last so long, in milliseconds: about as long as faults, so that both meet.
const TTL_MS: std::ops::Range<u64> = 150..2_500;
/// Confirm and cancel aim so far before and after the deadline, in milliseconds.
const AIM_MS: i64 = 250;
/// Half of them so near: what is decided wrongly by a clock is decided wrongly in the last moment.
const SHARP_MS: i64 = 30;
/// Holds that are mostly fought over: the newest, as many as are made in the time that one lasts.
const RECENT: usize = 12;
/// Holds that are still looked at after their deadline.
const REMEMBERED: usize = 60;
/// Holds that are read once more at the end.
const READ_AT_END: usize = 200;

/// As `list` shows it.
pub const WORKLOAD: Workload = Workload {
    name: "expiry",
    about: "confirm, cancel and extend against the deadline: one winner, held units come back exactly once",
    clients: 16,
    rate: 15.0,
    generator: |_| {
        let skus = (0..SKUS).map(|sku| format!("expiry-{sku}")).collect();
        Box::new(Expiry { skus, ids: Names::new("e"), holds: VecDeque::new(), ended: VecDeque::new() })
    },
    checkers: &[checker::expiry::check],
};

struct Hold {
    id: String,
    sku: String,
    /// By the harness's clock; the cluster's may differ.
    deadline: Instant,
}

struct Expiry {
    skus: Vec<String>,
    ids: Names,
    holds: VecDeque<Hold>,
    ended: VecDeque<String>,
}

impl Expiry {
    fn remember(&mut self, hold: Hold) {
        self.holds.push_back(hold);
        if self.holds.len() > REMEMBERED
            && let Some(old) = self.holds.pop_front()
        {
            self.ended.push_back(old.id);
            if self.ended.len() > READ_AT_END {
                self.ended.pop_front();
            }
        }
    }

    /// The next step of a hold: near its deadline it is fought over, afterwards it is looked at.
    fn touch(&self, rng: &mut StdRng) -> Option<Next> {
        let among = if rng.random_bool(0.75) { RECENT } else { REMEMBERED };
        let hold = self.holds.iter().rev().take(among).choose(rng)?;
        let aim = if rng.random_bool(0.5) { SHARP_MS } else { AIM_MS };
        let left = hold.deadline.saturating_duration_since(Instant::now());
        let wanted = i64::try_from(left.as_millis()).unwrap_or(i64::MAX) + rng.random_range(-aim..aim);
        let wait_ms = Some(u64::try_from(wanted).unwrap_or(0));
        let id = hold.id.clone();
        let call = match rng.random_range(0..100) {
            0..32 => Call::Confirm { id },
            32..54 => Call::CancelReservation { id },
            54..68 => Call::Extend { id, ttl_ms: rng.random_range(TTL_MS) },
            68..90 => Call::ReadReservation { id, consistency: Consistency::Linearizable },
            _ => reads::stock([&hold.sku]),
        };
        Some(Next { wait_ms, ..Next::call(call) })
    }
}

impl Generator for Expiry {
    fn setup(&mut self, _: &mut StdRng) -> Vec<Call> {
        let items = self.skus.iter().map(|sku| Call::PutItem { sku: sku.clone() });
        let lines = self.skus.iter().map(|sku| Line::new(sku.clone(), UNITS)).collect();
        items.chain([Call::Receive { lines }]).collect()
    }

    fn next(&mut self, _: usize, rng: &mut StdRng) -> Option<Next> {
        let sku = self.skus.choose(rng)?.clone();
        let line = Line::new(sku.clone(), rng.random_range(1..=6));
        match rng.random_range(0..100) {
            0..30 => Some(Next::call(Call::Reserve {
                id: self.ids.fresh(),
                ttl_ms: rng.random_range(TTL_MS),
                lines: vec![line],
            })),
            30..36 => Some(Next::call(Call::Receive { lines: vec![line] })),
            36..46 => Some(Next::call(reads::stock([&sku]))),
            _ => self.touch(rng).or_else(|| Some(Next::call(reads::stock([&sku])))),
        }
    }

    fn seen(&mut self, _: usize, op: &Op) {
        let may_be_done = match &op.outcome {
            Some(Outcome::Ok { answer, .. }) => !matches!(answer, Answer::Refused { .. }),
            Some(Outcome::Fail { .. }) => false,
            _ => true,
        };
        if !may_be_done {
            return;
        }
        let ends = |ttl_ms: &u64| Instant::now() + Duration::from_millis(*ttl_ms);
        match &op.call {
            Call::Reserve { id, ttl_ms, lines } => {
                self.remember(Hold { id: id.clone(), sku: lines[0].sku.clone(), deadline: ends(ttl_ms) });
            }
            Call::Extend { id, ttl_ms } => {
                if let Some(hold) = self.holds.iter_mut().find(|hold| hold.id == *id) {
                    hold.deadline = ends(ttl_ms);
                }
            }
            _ => {}
        }
    }

    fn finish(&mut self) -> Vec<Call> {
        let ids = self.ended.iter().chain(self.holds.iter().map(|hold| &hold.id));
        let look =
            |id: &String| Call::ReadReservation { id: id.clone(), consistency: Consistency::Linearizable };
        ids.map(look).chain(self.skus.iter().map(|sku| reads::stock([sku]))).collect()
    }
}
