//! What an order costs on its way: encoded where it comes in, joined into an entry, its answer sent back.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use stockroom_storage::codec::{
    ProposalBytes, decode_answer, decode_proposal, encode_answer, encode_batch, encode_proposal,
};
use stockroom_storage::shop::command::{Command, NewOrderLine, OrderSource, PlaceOrder};
use stockroom_storage::shop::effect::{Answer, Reply};
use stockroom_storage::shop::ids::{IdempotencyKey, Location, OrderId, Place, Quantity, Sku, TimestampMs};
use stockroom_storage::shop::order::{Order, OrderLine, OrderStatus};

fn sku() -> Sku {
    Sku::new("b1a2c3-4711").expect("a name")
}

fn one() -> Quantity {
    Quantity::new(1).expect("within the limits")
}

fn command() -> Command {
    Command::PlaceOrder(PlaceOrder {
        name: None,
        customer_id: None,
        currency: None,
        pay_by: None,
        metadata: Default::default(),
        source: OrderSource::Lines(vec![NewOrderLine {
            sku: sku(),
            location: Location::main(),
            quantity: one(),
            amount_minor: None,
        }]),
    })
}

fn proposal() -> ProposalBytes {
    encode_proposal(Some(IdempotencyKey::new("b1a2c3-17-4711").expect("a name")), command())
}

fn answer() -> Answer {
    let at = TimestampMs(1_700_000_000_000);
    let order = Order {
        id: OrderId(Place { epoch: 0, index: 4_711, slot: 42 }),
        name: None,
        status: OrderStatus::Paid,
        customer_id: None,
        currency: None,
        lines: vec![OrderLine {
            sku: sku(),
            location: Location::main(),
            quantity: one(),
            amount_minor: 0,
            shipped: 0,
            returned: 0,
            cancelled: 0,
        }],
        due_minor: 0,
        paid_minor: 0,
        refund_owed_total_minor: 0,
        refunded_minor: 0,
        pay_by: None,
        metadata: Default::default(),
        references: Vec::new(),
        cancel_reason: None,
        fingerprint: 0x5eed,
        created_at: at,
        updated_at: at,
        log_index: 4_711,
    };
    Answer {
        outcome: Ok(Reply::Order { order: order.into(), created: true }),
        replayed: false,
        log_index: 4_711,
    }
}

fn bench(c: &mut Criterion) {
    let proposal = proposal();
    let answer = answer();
    let bytes = encode_answer(&answer);
    c.bench_function("encode a proposal", |b| {
        b.iter(|| encode_proposal(Some(IdempotencyKey::new("b1a2c3-17-4711").expect("a name")), command()));
    });
    c.bench_function("decode a proposal", |b| b.iter(|| decode_proposal(black_box(&proposal.0))));
    c.bench_function("encode an answer", |b| b.iter(|| encode_answer(black_box(&answer))));
    c.bench_function("decode an answer", |b| b.iter(|| decode_answer(black_box(&bytes))));
    let mut group = c.benchmark_group("join into an entry");
    let proposals = vec![proposal; 100];
    group.throughput(Throughput::Elements(100));
    group.bench_function("100 proposals", |b| b.iter(|| encode_batch(1, black_box(&proposals))));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
