//! A committed entry into the memtable: decoded, decided, encoded, summed up, shown to readers. The base
//! is in memory: how sled takes the changes later is not part of it.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::stream;
use openraft::alias::EntryOf;
use openraft::entry::{EntryPayload, RaftEntry};
use openraft::storage::RaftStateMachine;
use openraft::vote::leader_id_std::CommittedLeaderId;
use std::path::Path;
use std::time::{Duration, Instant};
use stockroom_storage::codec::{LogId, ProposalBytes, encode_batch, encode_proposal};
use stockroom_storage::identity::Identity;
use stockroom_storage::memory_fs::MemoryDisk;
use stockroom_storage::shop::command::{Command, NewOrderLine, OrderSource, PlaceOrder, PutItem};
use stockroom_storage::shop::ids::{IdempotencyKey, Location, Quantity, Sku};
use stockroom_storage::shop::reservation::StockLine;
use stockroom_storage::type_config::{BatchBytes, TypeConfig};
use stockroom_storage::{Storage, StorageOptions, open};
use tokio::runtime::Runtime;

const IDENTITY: Identity = Identity { cluster_id: 7, node_id: 1, incarnation: 9, group_id: 0 };
/// Items that orders are spread over.
const ITEMS: u64 = 10_000;
/// Orders of one entry.
const ORDERS: u64 = 100;

fn sku(n: u64) -> Sku {
    Sku::new(&format!("bench-{n}")).expect("a name")
}

fn units(n: u64) -> Quantity {
    Quantity::new(n).expect("within the limits")
}

fn proposal(key: &str, command: Command) -> ProposalBytes {
    encode_proposal(Some(IdempotencyKey::new(key).expect("a name")), command)
}

fn entry(index: u64, proposals: &[ProposalBytes]) -> EntryOf<TypeConfig> {
    let log_id = LogId::new(CommittedLeaderId::new(1), index);
    let batch = BatchBytes(encode_batch(1_000 + index, proposals));
    EntryOf::<TypeConfig>::new(log_id, EntryPayload::Normal(batch))
}

/// A shop with stock of everything, and the index of its last entry.
async fn shop() -> (Storage, u64) {
    let options = StorageOptions {
        fs: MemoryDisk::default().mount(),
        memory_base: true,
        checkpoint_bytes: 64 << 20,
        checkpoint_interval: Duration::from_secs(3600),
        ..StorageOptions::new(Path::new("/data"))
    };
    let mut storage = open(options, &IDENTITY).await.expect("an empty disk");
    let items = (0..ITEMS).map(|n| {
        let item = PutItem { sku: sku(n), name: None, price: None, attributes: None, expected_version: None };
        proposal(&format!("item-{n}"), Command::PutItem(item))
    });
    let lines: Vec<_> = (0..ITEMS)
        .map(|n| StockLine { sku: sku(n), location: Location::main(), quantity: units(1_000_000) })
        .collect();
    let receipts = lines
        .chunks(500)
        .enumerate()
        .map(|(n, lines)| proposal(&format!("r-{n}"), Command::Receive(lines.into())));
    let first = [entry(1, &items.collect::<Vec<_>>()), entry(2, &receipts.collect::<Vec<_>>())];
    storage.state_machine.apply(stream::iter(first.map(|entry| Ok((entry, None))))).await.expect("applied");
    (storage, 2)
}

fn orders(index: u64, lines: u64, sku_of: impl Fn(u64) -> u64) -> EntryOf<TypeConfig> {
    let order = |n: u64| PlaceOrder {
        name: None,
        customer_id: None,
        currency: None,
        pay_by: None,
        metadata: Default::default(),
        source: OrderSource::Lines(
            (0..lines)
                .map(|line| NewOrderLine {
                    sku: sku(sku_of(((index * ORDERS + n) * lines + line) * 7_919)),
                    location: Location::main(),
                    quantity: units(1),
                    amount_minor: None,
                })
                .collect(),
        ),
    };
    let proposals: Vec<_> = (0..ORDERS)
        .map(|n| proposal(&format!("b0d68a1f-{}", index * ORDERS + n), Command::PlaceOrder(order(n))))
        .collect();
    entry(index, &proposals)
}

/// Chooses the SKU of a line by its number.
type SkuOf = fn(u64) -> u64;

fn bench(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = c.benchmark_group("apply, 100 orders");
    group.throughput(Throughput::Elements(ORDERS)).sample_size(20);
    let kinds: [(&str, u64, SkuOf); 3] = [
        ("of one line, evenly", 1, |n| n % ITEMS),
        ("of one line, one SKU", 1, |_| 0),
        ("of five lines, evenly", 5, |n| n % ITEMS),
    ];
    for (name, lines, sku_of) in kinds {
        let (mut storage, mut last) = runtime.block_on(shop());
        group.bench_function(name, |b| {
            b.iter_custom(|entries| {
                let all: Vec<_> = (last + 1..=last + entries)
                    .map(|index| Ok((orders(index, lines, sku_of), None)))
                    .collect();
                last += entries;
                let started = Instant::now();
                runtime.block_on(storage.state_machine.apply(stream::iter(all))).expect("applied");
                started.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
