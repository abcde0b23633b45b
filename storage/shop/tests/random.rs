//! Random runs from a printed seed: the laws hold after each step, replicas agree, and a request
//! sent twice changes nothing the second time.
//!
//! `STOCKROOM_SEED=n cargo test -p stockroom-shop --test random` runs one seed again.

#![allow(clippy::unwrap_used, reason = "a test's own names and numbers are well-formed")]

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use stockroom_shop::command::{
    Adjust, Batch, CancelOrder, Command, Extend, NewOrderLine, OrderSource, PatchMetadata, Pay, PlaceOrder,
    Proposal, PutItem, Refund, Reserve, Return, SettingsChange, Ship, Transfer,
};
use stockroom_shop::effect::{Answer, Rejection, Reply};
use stockroom_shop::ids::{
    Currency, CustomerId, IdempotencyKey, Location, OrderId, OrderName, Quantity, ReservationId, Sku,
    TimestampMs,
};
use stockroom_shop::item::Price;
use stockroom_shop::memory::MemoryRows;
use stockroom_shop::reservation::StockLine;
use stockroom_shop::state::{Key, Row};
use stockroom_shop::stock::Movement;

const SKUS: u32 = 6;

struct Run {
    rng: StdRng,
    now: u64,
    next_key: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        Run { rng: StdRng::seed_from_u64(seed), now: 1_000_000, next_key: 0 }
    }

    fn below(&mut self, n: u32) -> u32 {
        self.rng.random_range(0..n)
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    fn sku(&mut self) -> Sku {
        // One in fifty is unknown.
        let n = if self.chance(2) { 99 } else { self.below(SKUS) };
        Sku::new(&format!("sku-{n}")).unwrap()
    }

    fn location(&mut self) -> Location {
        if self.chance(70) { Location::main() } else { Location::new("annex").unwrap() }
    }

    fn quantity(&mut self, most: u32) -> Quantity {
        Quantity::new(u64::from(1 + self.below(most))).unwrap()
    }

    fn line(&mut self, most: u32) -> StockLine {
        StockLine { sku: self.sku(), location: self.location(), quantity: self.quantity(most) }
    }

    fn lines(&mut self, most: u32) -> Vec<StockLine> {
        (0..=self.below(3)).map(|_| self.line(most)).collect()
    }

    fn some_lines(&mut self, most: u32) -> Option<Vec<StockLine>> {
        self.chance(40).then(|| self.lines(most))
    }

    fn reservation(&mut self) -> ReservationId {
        ReservationId::new(&format!("hold-{}", self.below(12))).unwrap()
    }

    fn order(&mut self) -> OrderName {
        OrderName::new(&format!("order-{}", self.below(20))).unwrap()
    }

    fn place(&mut self) -> Command {
        let name = self.chance(90).then(|| self.order());
        let pay_by = self.chance(40).then_some(TimestampMs(self.now + 1 + u64::from(self.below(4_000))));
        let source = if self.chance(20) {
            OrderSource::Reservation(self.reservation())
        } else {
            let lines = self.lines(8);
            OrderSource::Lines(
                lines
                    .into_iter()
                    .map(|l| NewOrderLine {
                        sku: l.sku,
                        location: l.location,
                        quantity: l.quantity,
                        amount_minor: self.chance(50).then(|| u64::from(self.below(1_000))),
                    })
                    .collect(),
            )
        };
        let customer_id = self.chance(50).then(|| CustomerId::new("c1").unwrap());
        Command::PlaceOrder(PlaceOrder {
            name,
            customer_id,
            currency: None,
            pay_by,
            metadata: BTreeMap::new(),
            source,
        })
    }

    fn command(&mut self) -> Command {
        let amount = |run: &mut Self| run.chance(50).then(|| u64::from(1 + run.below(500)));
        match self.below(19) {
            0 => {
                let price = Price { amount_minor: u64::from(self.below(300)), currency: Currency(*b"EUR") };
                let price = self.chance(80).then_some(price);
                let sku = Sku::new(&format!("sku-{}", self.below(SKUS))).unwrap();
                Command::PutItem(PutItem {
                    sku,
                    name: None,
                    price,
                    attributes: None,
                    expected_version: self.chance(10).then(|| u64::from(self.below(3))),
                })
            }
            1 if self.chance(10) => Command::RetireItem(self.sku()),
            1..=3 => Command::Receive(self.lines(30)),
            4 => {
                let delta = i64::from(self.below(20)) - 10;
                let expected_on_hand = self.chance(10).then(|| u64::from(self.below(50)));
                let (sku, location) = (self.sku(), self.location());
                Command::Adjust(Adjust { sku, location, delta, reason: "count".into(), expected_on_hand })
            }
            5 => {
                let (sku, from, to) = (self.sku(), self.location(), self.location());
                Command::Transfer(Transfer { sku, from, to, quantity: self.quantity(9) })
            }
            6..=7 => {
                let id = self.chance(90).then(|| self.reservation());
                let ttl_ms = 100 + u64::from(self.below(3_000));
                Command::Reserve(Reserve { id, ttl_ms, lines: self.lines(8) })
            }
            8 => Command::Confirm(self.reservation()),
            9 => Command::CancelReservation(self.reservation()),
            10 => {
                let ttl_ms = 100 + u64::from(self.below(3_000));
                Command::Extend(Extend { id: self.reservation(), ttl_ms })
            }
            11..=12 => self.place(),
            13 => Command::Pay(Pay {
                order: self.order(),
                amount_minor: amount(self),
                reference: Some("p".into()),
            }),
            14 => Command::Ship(Ship { order: self.order(), lines: self.some_lines(4) }),
            15 => Command::CancelOrder(CancelOrder { order: self.order(), reason: None }),
            16 => {
                let (order, lines, restock) = (self.order(), self.some_lines(3), self.chance(70));
                Command::Return(Return { order, lines, restock })
            }
            17 => {
                Command::Refund(Refund { order: self.order(), amount_minor: amount(self), reference: None })
            }
            _ if self.chance(50) => Command::Complete(self.order()),
            _ => Command::PatchMetadata(PatchMetadata {
                order: self.order(),
                changes: BTreeMap::from([("k".into(), self.chance(70).then(|| "v".into()))]),
            }),
        }
    }

    fn proposal(&mut self) -> Proposal {
        self.next_key += 1;
        let command = self.command();
        let key = IdempotencyKey::new(&format!("key-{}", self.next_key)).unwrap();
        Proposal { idempotency_key: Some(key), fingerprint: fingerprint(&command), command }
    }

    fn batch(&mut self) -> Batch {
        self.now += u64::from(self.below(400));
        // A leader's clock may stand behind the state's: time still never goes back.
        let stamped_at = TimestampMs(self.now - u64::from(self.below(100)));
        let proposals = (0..1 + self.below(12)).map(|_| self.proposal()).collect();
        Batch { stamped_at, proposals }
    }
}

fn encoded<T: bincode::Encode>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, bincode::config::standard()).unwrap()
}

fn fingerprint(command: &Command) -> u128 {
    // FNV-1a: any function of the canonical bytes does here.
    encoded(command).iter().fold(0xcbf2_9ce4_8422_2325_u128, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// All laws, recomputed from scratch.
fn check(rows: &MemoryRows) {
    let findings = rows.audit();
    assert!(findings.is_empty(), "{findings:#?}");
    let now = rows.head().clock;
    let overdue = rows.rows.keys().find(|key| matches!(key, Key::Due(at, _) if *at <= now));
    assert_eq!(overdue, None, "nothing that is due stays");
}

/// Saved and loaded again, through the bytes that outlive a process.
fn reloaded(rows: &MemoryRows) -> MemoryRows {
    fn again<T: bincode::Encode + bincode::Decode<()>>(value: &T) -> T {
        let bytes = encoded(value);
        let (value, used) = bincode::decode_from_slice(&bytes, bincode::config::standard()).unwrap();
        assert_eq!(used, bytes.len());
        value
    }
    let mut copy = rows.clone();
    copy.rows.values_mut().for_each(|row| *row = again(row));
    copy.placed.values_mut().for_each(|order| *order = again(order));
    copy.movements.values_mut().for_each(|movement| *movement = again(movement));
    copy.receipts.values_mut().for_each(|receipt| *receipt = again(receipt));
    copy
}

fn seeds() -> Vec<u64> {
    match std::env::var("STOCKROOM_SEED") {
        Ok(seed) => vec![seed.parse().expect("STOCKROOM_SEED is a number")],
        Err(_) => {
            let first: u64 = rand::rng().random();
            (0..24).map(|i| first.wrapping_add(i)).collect()
        }
    }
}

#[test]
fn the_laws_hold_after_each_step_and_replicas_agree() {
    for seed in seeds() {
        println!("STOCKROOM_SEED={seed}");
        let mut run = Run::new(seed);
        let (mut one, mut two) = (MemoryRows::default(), MemoryRows::default());
        let mut accepted = 0;
        for index in 1..150 {
            let batch = run.batch();
            let answers = one.apply(index, &batch).unwrap();
            assert_eq!(two.apply(index, &batch).unwrap(), answers);
            accepted += answers.iter().filter(|a| a.outcome.is_ok()).count();
            check(&one);
            if index == 75 {
                two = reloaded(&two);
            }
        }
        assert!(one == two, "two replicas fed the same entries differ");
        assert!(accepted > 100, "the run did something: {accepted}");
    }
}

/// Rows without what names the entry they were written in: for runs that cut entries differently.
fn without_places(rows: &MemoryRows) -> Vec<String> {
    let mut told = Vec::new();
    for (key, row) in &rows.rows {
        match row {
            Row::Stock(stock) => told.push(format!("{key:?} {:?} {:?}", stock.counters, stock.ledger)),
            Row::Reservation(r) => {
                told.push(format!("{key:?} {:?} {:?} {:?}", r.status, r.expires_at, r.lines))
            }
            Row::Item(item) => told.push(format!("{key:?} {} {:?}", item.version, item.price)),
            _ => {}
        }
    }
    let orders = rows.placed.keys().filter_map(|place| rows.order(OrderId(*place)));
    told.extend(
        orders.map(|o| format!("{:?} {:?} {:?} {}", o.name, o.status, o.lines, o.refund_owed_minor())),
    );
    let movement =
        |m: &Movement| format!("{} {} {:?} {} {:?}", m.sku, m.location, m.kind, m.quantity, m.after);
    told.extend(rows.movements.values().map(movement));
    told
}

#[test]
fn how_proposals_are_cut_into_entries_changes_nothing() {
    for seed in seeds() {
        println!("STOCKROOM_SEED={seed}");
        let mut run = Run::new(seed);
        let (mut whole, mut single) = (MemoryRows::default(), MemoryRows::default());
        let mut entries = 0;
        for index in 1..100 {
            let mut batch = run.batch();
            // Ids that Stockroom makes name their entry, and so do answers.
            batch.proposals.retain(|p| !matches!(&p.command, Command::Reserve(Reserve { id: None, .. })));
            // An entry frees what is due then, also where nothing is left of it.
            if batch.proposals.is_empty() {
                continue;
            }
            for proposal in &mut batch.proposals {
                if let Command::PlaceOrder(order) = &mut proposal.command {
                    order.name.get_or_insert_with(|| run.order());
                }
            }
            whole.apply(index, &batch).unwrap();
            for proposal in batch.proposals {
                entries += 1;
                let stamped_at = batch.stamped_at;
                single.apply(entries, &Batch { stamped_at, proposals: vec![proposal] }).unwrap();
            }
            assert_eq!(without_places(&whole), without_places(&single));
        }
    }
}

/// Whether it passed, and why not; stock as it is now.
fn decided(answer: &Answer) -> String {
    match &answer.outcome {
        Ok(Reply::Stock(levels)) => format!("{levels:?}"),
        Ok(Reply::Reservation { reservation, .. }) => format!("{:?}", reservation.status),
        Ok(Reply::Order { order, .. }) => format!("{:?} {:?}", order.status, order.lines),
        Ok(_) => "done".to_owned(),
        Err(rejection) => format!("{rejection:?}"),
    }
}

#[test]
fn what_is_due_counts_as_over_whether_or_not_its_release_has_run() {
    let of_itself = |command| Proposal { idempotency_key: None, fingerprint: 0, command };
    let entry = |at, command| Batch { stamped_at: at, proposals: vec![of_itself(command)] };
    for seed in seeds() {
        println!("STOCKROOM_SEED={seed}");
        let mut run = Run::new(seed);
        let (mut slow, mut fast) = (MemoryRows::default(), MemoryRows::default());
        let change = SettingsChange { releases_per_step: Some(1), ..SettingsChange::default() };
        slow.apply(1, &entry(TimestampMs(0), Command::Configure(change))).unwrap();
        let mut backlogs = 0;
        for index in 2..150 {
            // Holds of a minute, and every twenty entries all of them are over at once.
            run.now += if index % 20 == 0 { 61_000 } else { 0 };
            let mut batch = run.batch();
            for (n, proposal) in batch.proposals.iter_mut().enumerate() {
                if let Command::Reserve(reserve) = &mut proposal.command {
                    reserve.id = ReservationId::new(&format!("hold-{index}-{n}")).ok();
                    reserve.ttl_ms = 60_000;
                }
            }
            let answers = slow.apply(index, &batch).unwrap();
            let expected = fast.apply(index, &batch).unwrap();
            for (answer, expected) in answers.iter().zip(&expected) {
                assert_eq!(decided(answer), decided(expected));
            }
            assert_eq!(slow.audit(), Vec::<String>::new());
            let now = slow.head().clock;
            backlogs += usize::from(slow.rows.keys().any(|key| matches!(key, Key::Due(at, _) if *at <= now)));
        }
        assert!(backlogs > 0, "no entry left something due behind");
        // The ticker goes on until nothing is left, and then both are the same.
        let now = slow.head().clock;
        let due = slow.rows.keys().filter(|key| matches!(key, Key::Due(at, _) if *at <= now)).count();
        for index in 150..150 + due as u64 {
            slow.apply(index, &entry(now, Command::Tick)).unwrap();
        }
        check(&slow);
        let counters = |rows: &MemoryRows| -> Vec<_> {
            let stocks = rows.rows.values();
            let of_stock = |row: &Row| match row {
                Row::Stock(stock) => Some((stock.sku.clone(), stock.location.clone(), stock.counters)),
                _ => None,
            };
            stocks.filter_map(of_stock).collect()
        };
        assert_eq!(counters(&slow), counters(&fast));
    }
}

#[test]
fn a_request_sent_twice_changes_nothing_the_second_time() {
    for seed in seeds() {
        println!("STOCKROOM_SEED={seed}");
        let mut run = Run::new(seed);
        let mut rows = MemoryRows::default();
        let mut sent: Vec<(Proposal, Answer)> = Vec::new();
        for index in (1..300).step_by(2) {
            let batch = run.batch();
            let answers = rows.apply(index, &batch).unwrap();
            sent.extend(batch.proposals.into_iter().zip(answers));
            // Old and new ones, in one entry, at the same time of the clock.
            let again: Vec<_> = (0..5).map(|_| sent[run.below(sent.len() as u32) as usize].clone()).collect();
            let before = rows.clone();
            let proposals = again.iter().map(|(proposal, _)| proposal.clone()).collect();
            let batch = Batch { stamped_at: rows.head().clock, proposals };
            let answers = rows.apply(index + 1, &batch).unwrap();
            assert!(rows == before, "a replay changed something");
            for ((_, first), answer) in again.iter().zip(&answers) {
                assert_eq!(answer, &Answer { replayed: true, ..first.clone() });
            }
        }
    }
}

#[test]
fn a_key_used_for_something_else_is_refused_and_keeps_its_outcome() {
    let mut run = Run::new(1);
    let mut rows = MemoryRows::default();
    let first = run.proposal();
    let answer =
        rows.apply(1, &Batch { stamped_at: TimestampMs(5), proposals: vec![first.clone()] }).unwrap();
    let other = Proposal { fingerprint: first.fingerprint ^ 1, ..first.clone() };
    let answers =
        rows.apply(2, &Batch { stamped_at: TimestampMs(6), proposals: vec![other, first] }).unwrap();
    assert_eq!(answers[0].outcome, Err(Rejection::KeyReused));
    assert_eq!(answers[1].outcome, answer[0].outcome);
    assert!(answers[1].replayed);
}

#[test]
fn a_receipt_is_kept_for_its_retention_and_not_a_millisecond_longer() {
    let mut rows = MemoryRows::default();
    let day = rows.head().settings.receipt_retention_ms;
    let mut run = Run::new(2);
    let proposal = run.proposal();
    let batch = |at: u64| Batch { stamped_at: TimestampMs(at), proposals: vec![proposal.clone()] };
    rows.apply(1, &batch(1_000)).unwrap();
    assert!(rows.apply(2, &batch(1_000 + day - 1)).unwrap()[0].replayed);
    assert!(!rows.apply(3, &batch(1_000 + day)).unwrap()[0].replayed);
    assert_eq!(rows.receipts.len(), 1, "the old block is dropped, the new one is there");
}
