//! One entry writes no more than it should, however little each of its commands says.

#![allow(clippy::unwrap_used, reason = "a test's own names and numbers are well-formed")]

use std::collections::BTreeMap;
use stockroom_shop::command::{
    Batch, Command, NewOrderLine, OrderSource, PatchMetadata, PlaceOrder, Proposal, PutItem, Reserve,
};
use stockroom_shop::effect::{Answer, Rejection, Reply};
use stockroom_shop::ids::{IdempotencyKey, Location, OrderName, Quantity, ReservationId, Sku, TimestampMs};
use stockroom_shop::memory::MemoryRows;
use stockroom_shop::reservation::{ReservationStatus, StockLine};
use stockroom_shop::state::Row;

const LINES: usize = 500;

struct Shop {
    rows: MemoryRows,
    index: u64,
}

fn sku(at: usize) -> Sku {
    Sku::new(&format!("{at:0>100}")).unwrap()
}

fn lines(units: u64) -> Vec<StockLine> {
    let line =
        |at| StockLine { sku: sku(at), location: Location::main(), quantity: Quantity::new(units).unwrap() };
    (0..LINES).map(line).collect()
}

fn name() -> OrderName {
    OrderName::new("large").unwrap()
}

impl Shop {
    /// Many items, and a thousand of each.
    fn open() -> Self {
        let mut shop = Shop { rows: MemoryRows::default(), index: 0 };
        let put =
            |at| PutItem { sku: sku(at), name: None, price: None, attributes: None, expected_version: None };
        let items = (0..LINES).map(|at| Command::PutItem(put(at)));
        for answer in shop.entry("stock", 1_000, items.chain([Command::Receive(lines(1_000))])) {
            answer.outcome.unwrap();
        }
        shop
    }

    /// Reservations that hold something.
    fn held(&self) -> usize {
        let holds =
            |row: &&Row| matches!(row, Row::Reservation(held) if held.status == ReservationStatus::Held);
        self.rows.rows.values().filter(holds).count()
    }

    /// The answers to one entry with these commands, each with a key of its own: the same for the same name.
    fn entry(&mut self, keys: &str, at: u64, commands: impl IntoIterator<Item = Command>) -> Vec<Answer> {
        self.index += 1;
        let proposal = |(n, command)| Proposal {
            idempotency_key: IdempotencyKey::new(&format!("{keys}-{n}")).ok(),
            fingerprint: 1,
            command,
        };
        let proposals = commands.into_iter().enumerate().map(proposal).collect();
        self.rows.apply(self.index, &Batch { stamped_at: TimestampMs(at), proposals }).unwrap()
    }
}

#[test]
fn what_finds_its_entry_full_is_not_done_not_kept_and_passes_later() {
    let mut shop = Shop::open();
    let line =
        |StockLine { sku, location, quantity }| NewOrderLine { sku, location, quantity, amount_minor: None };
    let order = PlaceOrder {
        name: Some(name()),
        customer_id: None,
        currency: None,
        pay_by: None,
        metadata: BTreeMap::new(),
        source: OrderSource::Lines(lines(1).into_iter().map(line).collect()),
    };
    shop.entry("place", 1_000, [Command::PlaceOrder(order)]).remove(0).outcome.unwrap();
    let patch = || Command::PatchMetadata(PatchMetadata { order: name(), changes: BTreeMap::new() });
    let mut left = 1_000;
    let mut entries = 0;
    while left > 0 {
        let answers = shop.entry("patch", 1_000, (0..1_000).map(|_| patch()));
        let (done, full): (Vec<_>, Vec<_>) =
            answers.iter().filter(|answer| !answer.replayed).partition(|answer| answer.outcome.is_ok());
        assert!(
            full.iter().all(|answer| answer.outcome == Err(Rejection::EntryFull)),
            "nothing else is refused"
        );
        // 500 lines of about 140 bytes each.
        assert!(done.len() < 600, "{} answers of 70 kB are kept by one entry", done.len());
        assert!(!done.is_empty(), "each entry brings some");
        left = full.len();
        entries += 1;
    }
    assert!(entries > 1);
    let again = shop.entry("patch", 1_000, [patch()]).remove(0);
    assert!(again.replayed && matches!(again.outcome, Ok(Reply::Order { .. })));
    assert!(shop.rows.audit().is_empty());
}

#[test]
fn holds_of_many_lines_end_over_several_entries_and_are_free_for_whoever_asks() {
    const HOLDS: usize = 90;
    let mut shop = Shop::open();
    let hold = |at| {
        let id = Some(ReservationId::new(&format!("hold-{at}")).unwrap());
        Command::Reserve(Reserve { id, ttl_ms: 1_000, lines: lines(11) })
    };
    for chunk in 0..HOLDS / 10 {
        for answer in shop.entry(&format!("hold-{chunk}"), 1_000, (chunk * 10..chunk * 10 + 10).map(hold)) {
            answer.outcome.unwrap();
        }
    }
    let mut held = HOLDS;
    for _ in 0..2 {
        shop.entry("tick", 3_000, [Command::Tick]);
        let before = std::mem::replace(&mut held, shop.held());
        assert!((1..=41).contains(&(before - held)), "{} holds of 500 lines ended at once", before - held);
    }
    assert!(held > 0, "the rest is due, too");
    let all = StockLine { quantity: Quantity::new(1_000).unwrap(), ..lines(1).remove(0) };
    let answer = shop
        .entry("all", 3_000, [Command::Reserve(Reserve { id: None, ttl_ms: 9_000, lines: vec![all] })])
        .remove(0);
    assert!(answer.outcome.is_ok(), "what is due on its stock is freed for it: {:?}", answer.outcome);
    assert!(shop.rows.audit().is_empty());
}
