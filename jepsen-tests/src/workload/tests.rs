//! What every generator promises, whatever it is answered.

use super::{ALL, Next, Shape, Workload};
use crate::history::{Answer, Call, Consistency, Line, Meta, Op, Outcome};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::{BTreeMap, BTreeSet, HashMap};

const SHAPE: Shape = Shape { nodes: 3, clients: 6, time_s: 20, rate: 12.0 };

/// What a generator asked for in a run against a shop that answers whatever it likes.
struct Asked {
    setup: Vec<Call>,
    /// The calls of clients, each with how it ended.
    ops: Vec<Op>,
    finish: Vec<Call>,
}

impl Asked {
    fn all(&self) -> impl Iterator<Item = &Call> {
        self.setup.iter().chain(self.ops.iter().map(|op| &op.call)).chain(&self.finish)
    }
}

/// Done, refused, failed or unknown, as the dice fall. Tokens are told apart by the call that gave them.
fn answer(id: u64, dice: &mut StdRng) -> Outcome {
    let meta = Meta { status: 200, session: Some(format!("token-{id}")), ..Meta::default() };
    match dice.random_range(0..10) {
        0..6 => Outcome::Ok { answer: Answer::Done { log_index: Some(id) }, meta },
        6..8 => {
            let answer =
                Answer::Refused { status: 409, code: "out_of_stock".to_owned(), shortages: Vec::new() };
            Outcome::Ok { answer, meta }
        }
        8 => Outcome::Fail { status: 503, code: "no_leader".to_owned() },
        _ => Outcome::Info { reason: "no answer in time".to_owned() },
    }
}

/// A whole run as long as the shape says: setup, clients in turn, final reads.
fn drive(workload: &Workload, seed: u64) -> Asked {
    let mut generator = (workload.generator)(&SHAPE);
    let (mut rng, mut dice) = (StdRng::seed_from_u64(seed), StdRng::seed_from_u64(99));
    let setup = generator.setup(&mut rng);
    let mut ops: Vec<Op> = Vec::new();
    let calls = (SHAPE.time_s as f64 * SHAPE.clients as f64 * workload.rate) as u64;
    for turn in 0..calls {
        let slot = turn as usize % SHAPE.clients;
        if let Some(next) = generator.next(slot, &mut rng) {
            let op = made(ops.len() as u64, slot, next, &mut dice);
            generator.seen(slot, &op);
            ops.push(op);
        }
    }
    Asked { setup, ops, finish: generator.finish() }
}

fn made(id: u64, slot: usize, next: Next, dice: &mut StdRng) -> Op {
    Op {
        id,
        client: slot as u64,
        node: next.node.unwrap_or(1),
        key: next.call.is_write().then(|| next.key.unwrap_or_else(|| format!("op-{id}"))),
        call: next.call,
        invoked: id,
        completed: Some(id),
        outcome: Some(answer(id, dice)),
        settled: None,
    }
}

fn named(name: &str) -> &'static Workload {
    ALL.iter().find(|workload| workload.name == name).expect("a workload of that name")
}

fn lines(call: &Call) -> &[Line] {
    match call {
        Call::Receive { lines } | Call::PlaceOrder { lines, .. } | Call::Reserve { lines, .. } => lines,
        _ => &[],
    }
}

fn skus(call: &Call) -> BTreeSet<&str> {
    match call {
        Call::PutItem { sku } | Call::Transfer { sku, .. } => BTreeSet::from([sku.as_str()]),
        Call::ReadStock { skus, .. } | Call::ReadMovements { skus, .. } => {
            skus.iter().map(String::as_str).collect()
        }
        _ => lines(call).iter().map(|line| line.sku.as_str()).collect(),
    }
}

#[test]
fn a_seed_and_the_same_answers_give_the_same_calls() {
    for workload in ALL {
        let calls = |seed| {
            let asked = drive(workload, seed);
            let keys: Vec<_> = asked.ops.iter().map(|op| op.key.clone()).collect();
            (asked.all().cloned().collect::<Vec<_>>(), keys)
        };
        assert!(calls(7) == calls(7), "{}: one seed, two runs", workload.name);
        assert!(calls(7) != calls(8), "{}: the seed changes nothing", workload.name);
    }
}

#[test]
fn calls_are_within_what_the_contract_allows() {
    for workload in ALL {
        let asked = drive(workload, 1);
        assert!(asked.ops.len() > 200, "{}: only {} calls", workload.name, asked.ops.len());
        for call in asked.all() {
            let named = skus(call).len();
            assert!(lines(call).len() <= 500 && lines(call).iter().all(|line| line.quantity > 0), "{call:?}");
            match call {
                Call::ReadStock { skus, .. } | Call::ReadMovements { skus, .. } => {
                    assert!((1..=100).contains(&named) && skus.len() == named, "{call:?}");
                }
                Call::Receive { .. } => assert!(named > 0, "{call:?}"),
                Call::PlaceOrder { reservation_id, .. } => {
                    assert!((named > 0) != reservation_id.is_some(), "{call:?}");
                }
                Call::Transfer { from, to, quantity, .. } => assert!(from != to && *quantity > 0, "{call:?}"),
                Call::Reserve { ttl_ms, .. } => assert!(*ttl_ms >= 100 && named > 0, "{call:?}"),
                _ => {}
            }
        }
    }
}

#[test]
fn every_sku_is_put_first_and_final_calls_are_fresh_reads() {
    for workload in ALL {
        let asked = drive(workload, 2);
        let put: BTreeSet<&str> =
            asked.setup.iter().filter(|call| matches!(call, Call::PutItem { .. })).flat_map(skus).collect();
        for call in asked.all() {
            assert!(skus(call).is_subset(&put), "{}: {call:?}", workload.name);
        }
        assert!((1..=600).contains(&asked.finish.len()), "{}: {}", workload.name, asked.finish.len());
        for call in &asked.finish {
            let consistency = match call {
                Call::ReadStock { consistency, .. }
                | Call::ReadMovements { consistency, .. }
                | Call::ReadReservation { consistency, .. }
                | Call::ListOrders { consistency } => consistency,
                other => panic!("{}: {other:?} is no read of the end", workload.name),
            };
            assert_eq!(*consistency, Consistency::Linearizable, "{}", workload.name);
        }
    }
}

#[test]
fn ids_of_orders_are_given_once_unless_their_key_is_the_same() {
    for workload in ALL {
        let asked = drive(workload, 3);
        let mut keys: HashMap<&str, &str> = HashMap::new();
        for op in &asked.ops {
            if let (Call::PlaceOrder { id: Some(id), .. }, Some(key)) = (&op.call, &op.key) {
                assert_eq!(keys.entry(id).or_insert(key), key, "{}: order {id}", workload.name);
            }
        }
    }
}

#[test]
fn the_history_of_a_sku_fits_one_page() {
    let asked = drive(named("orders"), 4);
    let mut moved: BTreeMap<&str, usize> = BTreeMap::new();
    for call in asked.all().filter(|call| call.is_write()) {
        for line in lines(call) {
            *moved.entry(&line.sku).or_default() += 1;
        }
    }
    assert!(moved.len() > 5, "SKUs do not rotate: {}", moved.len());
    assert!(moved.values().all(|count| *count < 1_000), "{moved:?}");
}

#[test]
fn few_calls_concern_one_sku_of_a_search() {
    let asked = drive(named("stock"), 4);
    let mut calls: BTreeMap<&str, usize> = BTreeMap::new();
    for op in &asked.ops {
        for sku in skus(&op.call) {
            *calls.entry(sku).or_default() += 1;
        }
    }
    assert!(calls.len() > 3, "SKUs do not rotate: {}", calls.len());
    assert!(calls.values().all(|count| *count < 250), "{calls:?}");
}

#[test]
fn a_key_comes_with_another_body_only_after_somebody_heard_that_it_was_done() {
    let asked = drive(named("retries"), 5);
    let mut first: HashMap<&str, (&Call, bool)> = HashMap::new();
    let (mut again, mut other) = (0, 0);
    for op in &asked.ops {
        let Some(key) = &op.key else { continue };
        let done = matches!(&op.outcome, Some(Outcome::Ok { answer: Answer::Done { .. }, .. }));
        match first.get_mut(key.as_str()) {
            None => drop(first.insert(key, (&op.call, done))),
            Some((call, is_done)) if **call == op.call => {
                again += 1;
                *is_done |= done;
            }
            Some((_, is_done)) => {
                other += 1;
                assert!(*is_done, "{key} came with another body too early: {:?}", op.call);
            }
        }
    }
    assert!(again * 4 > asked.ops.len(), "only {again} of {} are repeats", asked.ops.len());
    assert!(other > 5, "only {other} keys came with another body");
}

#[test]
fn nobody_buys_before_a_sale_is_open_and_its_units_come_in_under_one_key() {
    let asked = drive(named("flash-sale"), 6);
    let mut open: BTreeSet<&str> = BTreeSet::new();
    let mut opened: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for op in &asked.ops {
        let (done, key) =
            (matches!(&op.outcome, Some(Outcome::Ok { answer: Answer::Done { .. }, .. })), op.key.as_deref());
        match &op.call {
            Call::Receive { lines } => {
                let sku = lines[0].sku.as_str();
                if lines[0].quantity == 60 {
                    opened.entry(sku).or_default().extend(key);
                }
                if done {
                    open.insert(sku);
                }
            }
            Call::PlaceOrder { lines, .. } => assert!(open.contains(lines[0].sku.as_str()), "{op:?}"),
            _ => {}
        }
    }
    assert!(open.len() > 3, "only {} sales", open.len());
    assert!(opened.values().all(|keys| keys.len() == 1), "{opened:?}");
}

#[test]
fn a_session_goes_on_from_a_token_that_somebody_was_given() {
    let asked = drive(named("sessions"), 7);
    let mut given: BTreeSet<&str> = BTreeSet::new();
    let (mut own, mut handed_over) = (0, 0);
    let mut whose: HashMap<&str, u64> = HashMap::new();
    for op in &asked.ops {
        if let Call::ReadStock { consistency: Consistency::Session(Some(token)), .. } = &op.call {
            assert!(given.contains(token.as_str()), "{token} was never given");
            if whose[token.as_str()] == op.client { own += 1 } else { handed_over += 1 }
        }
        if let Some(token) = op.meta().and_then(|meta| meta.session.as_deref()) {
            given.insert(token);
            whose.insert(token, op.client);
        }
    }
    assert!(own > 50 && handed_over > 20, "{own} own, {handed_over} of others");
}

#[test]
fn holds_are_fought_over_near_their_deadline() {
    let asked = drive(named("expiry"), 8);
    let mut held: HashMap<&str, usize> = HashMap::new();
    let (mut fought, mut soon) = (0, 0);
    for (place, op) in asked.ops.iter().enumerate() {
        match &op.call {
            Call::Reserve { id, .. } => drop(held.insert(id, place)),
            Call::Confirm { id } | Call::CancelReservation { id } => {
                fought += 1;
                let since = held.get(id.as_str()).map_or(usize::MAX, |at| place - at);
                soon += usize::from(since < 120);
            }
            _ => {}
        }
    }
    assert!(soon * 2 > fought, "only {soon} of {fought} are of new holds");
}
