//! A second opinion on linearizability: every order of a few calls is tried, by a model written apart from
//! the checker's own.

use jepsen_tests::history::{
    Answer, Call, Consistency, Counters, History, Line, Meta, Op, OrderSeen, Outcome, ReservationSeen,
    Settled, Shortage, StockSeen,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng as _};
use std::collections::BTreeMap;

const SKU: &str = "mug";

/// One SKU at one location.
#[derive(Clone, Default)]
struct Shop {
    on_hand: u64,
    /// Id: units, and whether it is cancelled.
    orders: BTreeMap<String, (u64, bool)>,
    /// Id: units, and its status.
    holds: BTreeMap<String, (u64, &'static str)>,
}

impl Shop {
    fn promised(&self) -> (u64, u64) {
        let reserved = self.holds.values().filter(|(_, status)| *status == "held").map(|(q, _)| q).sum();
        let allocated = self.orders.values().filter(|(_, cancelled)| !cancelled).map(|(q, _)| q).sum();
        (reserved, allocated)
    }

    fn left(&self) -> u64 {
        let (reserved, allocated) = self.promised();
        self.on_hand - reserved - allocated
    }

    fn answer(&mut self, call: &Call) -> Answer {
        match call {
            Call::Receive { lines } => {
                self.on_hand += lines[0].quantity;
                Answer::Done { log_index: None }
            }
            Call::PlaceOrder { id, lines, .. } => self.place(id.as_ref().expect("named"), lines[0].quantity),
            Call::CancelOrder { id } => match self.orders.get_mut(id) {
                None => refused(404, "order_not_found"),
                Some((_, true)) => refused(409, "wrong_state"),
                Some((quantity, cancelled)) => {
                    *cancelled = true;
                    order(id, *quantity, "cancelled")
                }
            },
            Call::Reserve { id, lines, .. } => self.reserve(id, lines[0].quantity),
            Call::Confirm { id } => match self.holds.get_mut(id) {
                None => refused(404, "reservation_not_found"),
                Some((_, "cancelled")) => refused(409, "wrong_state"),
                Some((quantity, status)) => {
                    if *status == "held" {
                        self.on_hand -= *quantity;
                    }
                    *status = "confirmed";
                    reservation(id, *quantity, "confirmed")
                }
            },
            Call::CancelReservation { id } => {
                let (quantity, status) = self.holds.entry(id.clone()).or_insert((0, "cancelled"));
                if *status == "confirmed" {
                    return refused(409, "wrong_state");
                }
                *status = "cancelled";
                reservation(id, *quantity, "cancelled")
            }
            Call::Extend { id, .. } => match self.holds.get(id) {
                None => refused(404, "reservation_not_found"),
                Some((quantity, "held")) => reservation(id, *quantity, "held"),
                Some(_) => refused(409, "wrong_state"),
            },
            Call::ReadStock { .. } => {
                let (reserved, allocated) = self.promised();
                let total = Counters { on_hand: self.on_hand, reserved, allocated, available: self.left() };
                let locations = BTreeMap::from([("main".to_owned(), total)]);
                Answer::Stock { items: vec![StockSeen { sku: SKU.to_owned(), total, locations }] }
            }
            other => panic!("{} is not asked here", other.name()),
        }
    }

    fn place(&mut self, id: &str, quantity: u64) -> Answer {
        match self.orders.get(id) {
            Some((known, _)) if *known != quantity => refused(409, "id_taken"),
            Some((_, true)) => order(id, quantity, "cancelled"),
            Some((_, false)) => order(id, quantity, "paid"),
            None if self.left() < quantity => self.short(quantity),
            None => {
                self.orders.insert(id.to_owned(), (quantity, false));
                order(id, quantity, "paid")
            }
        }
    }

    fn reserve(&mut self, id: &str, quantity: u64) -> Answer {
        match self.holds.get(id) {
            Some((_, "cancelled")) => refused(409, "wrong_state"),
            Some((known, _)) if *known != quantity => refused(409, "id_taken"),
            Some((_, status)) => reservation(id, quantity, status),
            None if self.left() < quantity => self.short(quantity),
            None => {
                self.holds.insert(id.to_owned(), (quantity, "held"));
                reservation(id, quantity, "held")
            }
        }
    }

    fn short(&self, requested: u64) -> Answer {
        let (sku, location, available) = (SKU.to_owned(), "main".to_owned(), self.left());
        let shortages = vec![Shortage { sku, location, requested, available }];
        Answer::Refused { status: 409, code: "out_of_stock".to_owned(), shortages }
    }
}

fn refused(status: u16, code: &str) -> Answer {
    Answer::Refused { status, code: code.to_owned(), shortages: Vec::new() }
}

fn lines(quantity: u64) -> Vec<Line> {
    if quantity == 0 { Vec::new() } else { vec![Line::new(SKU, quantity)] }
}

fn order(id: &str, quantity: u64, status: &str) -> Answer {
    Answer::Order(OrderSeen { id: id.into(), status: status.into(), lines: lines(quantity), log_index: 0 })
}

fn reservation(id: &str, quantity: u64, status: &str) -> Answer {
    let (id, status, expires_at) = (id.into(), status.into(), String::new());
    Answer::Reservation(ReservationSeen { id, status, expires_at, lines: lines(quantity), log_index: 0 })
}

/// Whether some order of the calls explains every answer. Those without one may be left out.
pub fn is_linearizable(history: &History) -> bool {
    let open: Vec<&Op> = history
        .ops
        .iter()
        .filter(|op| !matches!(op.settled, Some((_, Settled::Abandoned))))
        .filter(|op| op.call.is_write() || op.outcome.is_some())
        .collect();
    explained(&Shop::default(), &open)
}

fn end_and_answer(op: &Op) -> (u64, Option<&Answer>) {
    match (&op.outcome, &op.settled) {
        (Some(Outcome::Ok { answer, .. }), _) => (op.completed.expect("answered"), Some(answer)),
        (_, Some((at, Settled::Happened { answer }))) => (*at, Some(answer)),
        _ => (u64::MAX, None),
    }
}

fn explained(shop: &Shop, open: &[&Op]) -> bool {
    if open.iter().all(|op| end_and_answer(op).1.is_none()) {
        return true;
    }
    let first_end = open.iter().map(|op| end_and_answer(op).0).min().unwrap_or(u64::MAX);
    open.iter().enumerate().filter(|(_, op)| op.invoked <= first_end).any(|(at, op)| {
        let mut next = shop.clone();
        let said = next.answer(&op.call);
        let mut rest = open.to_vec();
        rest.remove(at);
        end_and_answer(op).1.is_none_or(|heard| *heard == said) && explained(&next, &rest)
    })
}

/// A few calls that overlap. One history in four is right by construction; in the others one answer is that
/// of another moment, which may still have an explanation.
pub fn random(seed: u64) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let rng = &mut rng;
    let count = rng.random_range(3..=7);
    let mut moments: Vec<u64> = (0..count).map(|_| rng.random_range(20..200)).collect();
    moments.sort_unstable();
    let mut shop = Shop::default();
    let liar = (!seed.is_multiple_of(4)).then(|| rng.random_range(0..count));
    let mut ops: Vec<Op> = Vec::new();
    for (number, moment) in moments.into_iter().enumerate() {
        let call = call(rng);
        let before = shop.clone();
        let never = call.is_write() && rng.random_range(0..8) == 0;
        let mut answer = if never { Answer::Done { log_index: None } } else { shop.answer(&call) };
        if liar == Some(number) && !never {
            let mut other = before;
            for _ in 0..3 {
                other.answer(&self::call(rng));
            }
            answer = other.answer(&call);
        }
        ops.push(finished(rng, number as u64, call, moment, answer, never));
    }
    ops.sort_by_key(|op| op.invoked);
    History { ops, ..History::default() }
}

fn call(rng: &mut impl Rng) -> Call {
    let id = format!("x{}", rng.random_range(0..2));
    let quantity = rng.random_range(1..=3);
    match rng.random_range(0..11) {
        0 | 1 => Call::Receive { lines: lines(quantity + 1) },
        2 | 3 => Call::PlaceOrder { id: Some(id), lines: lines(quantity), reservation_id: None },
        4 => Call::CancelOrder { id },
        5 => Call::Reserve { id, ttl_ms: 86_400_000, lines: lines(quantity) },
        6 => Call::Confirm { id },
        7 => Call::CancelReservation { id },
        8 => Call::Extend { id, ttl_ms: 86_400_000 },
        _ => Call::ReadStock { skus: vec![SKU.to_owned()], consistency: Consistency::Linearizable },
    }
}

fn finished(rng: &mut impl Rng, id: u64, call: Call, moment: u64, answer: Answer, never: bool) -> Op {
    let invoked = moment - rng.random_range(0..20);
    let completed = moment + rng.random_range(0..60);
    let unheard = call.is_write() && (never || rng.random_range(0..6) == 0);
    let (outcome, settled) = match (unheard, rng.random_range(0..3)) {
        (false, _) => (Some(Outcome::Ok { answer, meta: Meta::default() }), None),
        (true, 0) => (None, None),
        (true, _) if never => {
            (Some(Outcome::Info { reason: "lost".into() }), Some((300, Settled::Abandoned)))
        }
        (true, _) => {
            let info = Outcome::Info { reason: "lost".into() };
            (Some(info), Some((300, Settled::Happened { answer })))
        }
    };
    let key = call.is_write().then(|| format!("k{id}"));
    let completed = outcome.is_some().then_some(completed);
    Op { id, client: id, node: 1, key, call, invoked, completed, outcome, settled }
}
