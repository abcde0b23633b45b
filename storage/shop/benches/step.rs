//! `step` alone, over rows in memory: what one order costs the shop itself.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use stockroom_shop::command::{Batch, Command, NewOrderLine, OrderSource, PlaceOrder, Proposal, PutItem};
use stockroom_shop::ids::{IdempotencyKey, Location, Quantity, Sku, TimestampMs};
use stockroom_shop::memory::MemoryRows;
use stockroom_shop::reservation::StockLine;
use stockroom_shop::state::step;

/// Items that orders are spread over.
const ITEMS: u64 = 1_000;
/// Orders of one entry.
const ORDERS: u64 = 100;

fn sku(n: u64) -> Sku {
    Sku::new(&format!("bench-{n}")).expect("a name")
}

fn units(n: u64) -> Quantity {
    Quantity::new(n).expect("within the limits")
}

fn proposal(key: &str, command: Command) -> Proposal {
    Proposal {
        idempotency_key: Some(IdempotencyKey::new(key).expect("a name")),
        fingerprint: 0x5eed,
        command,
    }
}

fn batch(proposals: Vec<Proposal>) -> Batch {
    Batch { stamped_at: TimestampMs(1_000), proposals }
}

fn shop() -> MemoryRows {
    let mut rows = MemoryRows::default();
    let items = (0..ITEMS).map(|n| {
        let item = PutItem { sku: sku(n), name: None, price: None, attributes: None, expected_version: None };
        proposal(&format!("item-{n}"), Command::PutItem(item))
    });
    rows.apply(1, &batch(items.collect())).expect("a sound shop");
    let lines = (0..ITEMS)
        .map(|n| StockLine { sku: sku(n), location: Location::main(), quantity: units(1_000_000) })
        .collect();
    rows.apply(2, &batch(vec![proposal("stock", Command::Receive(lines))])).expect("a sound shop");
    rows
}

/// An entry of orders of so many lines; the SKU of a line is chosen by its number.
fn orders(lines: u64, sku_of: impl Fn(u64) -> u64) -> Batch {
    let order = |n: u64| PlaceOrder {
        name: None,
        customer_id: None,
        currency: None,
        pay_by: None,
        metadata: Default::default(),
        source: OrderSource::Lines(
            (0..lines)
                .map(|line| NewOrderLine {
                    sku: sku(sku_of(n * lines + line)),
                    location: Location::main(),
                    quantity: units(1),
                    amount_minor: None,
                })
                .collect(),
        ),
    };
    batch((0..ORDERS).map(|n| proposal(&format!("key-{n}"), Command::PlaceOrder(order(n)))).collect())
}

fn bench(c: &mut Criterion) {
    let rows = shop();
    let mut group = c.benchmark_group("step, 100 orders");
    group.throughput(Throughput::Elements(ORDERS));
    for (name, entry) in [
        ("of one line, evenly", orders(1, |n| n * 7 % ITEMS)),
        ("of one line, one SKU", orders(1, |_| 0)),
        ("of five lines, evenly", orders(5, |n| n * 7 % ITEMS)),
    ] {
        group.bench_function(name, |b| {
            b.iter_batched(
                || entry.clone(),
                |entry| step(black_box(&rows), 3, &entry).expect("a sound shop"),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
