//! Bytes that outlive a process: one example of each, pinned. A change here needs a new format, not
//! a new expectation: logs and snapshots of older versions have to be read for years.

#![allow(clippy::unwrap_used, reason = "the pinned examples are well-formed")]

mod fixtures;
mod state_support;

use fixtures::{assert_pinned, hex};
use openraft::storage::{RaftLogStorageExt, RaftStateMachine};
use state_support::{IDENTITY, entry_of, line, options, place, proposal, put_item, sku, start};
use stockroom_storage::codec;
use stockroom_storage::shop::command::{Command, NewOrderLine, OrderSource, PlaceOrder};
use stockroom_storage::shop::effect::{Answer, Rejection, Shortage};
use stockroom_storage::shop::ids::{
    Currency, CustomerId, IdempotencyKey, Location, OrderId, OrderName, Place, Quantity, ReservationId, Sku,
    TimestampMs,
};

fn order() -> Command {
    Command::PlaceOrder(PlaceOrder {
        name: Some(OrderName::new("B1").unwrap()),
        customer_id: Some(CustomerId::new("H900").unwrap()),
        currency: Some(Currency(*b"USD")),
        pay_by: Some(TimestampMs(1_700_000_000_000)),
        metadata: [("k".into(), "v".into())].into(),
        source: OrderSource::Lines(vec![NewOrderLine {
            sku: Sku::new("P1").unwrap(),
            location: Location::main(),
            quantity: Quantity::new(2).unwrap(),
            amount_minor: Some(598),
        }]),
    })
}

#[test]
fn a_batch_stays_readable() {
    let proposal = codec::encode_proposal(Some(IdempotencyKey::new("key-1").unwrap()), order());
    assert_eq!(
        hex(&codec::encode_batch(1_700_000_000_001, &[proposal])),
        "010168e5cf8b01000001000000460000000101056b65792d31fec8dce5aca53a8a864dbeddf8f108f78509010242310104483930300155534401fd0068e5cf8b01000001016b01760001025031046d61696e0201fb5602"
    );
}

#[test]
fn a_fingerprint_stays_the_same() {
    assert_eq!(format!("{:032x}", codec::fingerprint(&order())), "85f708f1f8ddbe4d868a3aa5ace5dcc8");
}

#[test]
fn an_answer_stays_readable() {
    let shortage =
        Shortage { sku: Sku::new("P1").unwrap(), location: Location::main(), requested: 3, available: 1 };
    let answer =
        Answer { outcome: Err(Rejection::OutOfStock(vec![shortage])), replayed: true, log_index: 77 };
    let bytes = codec::encode_answer(&answer);
    assert_eq!(hex(&bytes), "01010501025031046d61696e0301014d");
    assert_eq!(codec::decode_answer(&bytes).unwrap(), answer);
    for end in 0..bytes.len() {
        assert!(codec::decode_answer(&bytes[..end]).is_err(), "cut at {end}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(codec::decode_answer(&longer).is_err(), "a byte too many");
}

#[test]
fn ids_stay_the_same() {
    let place = Place { epoch: 1, index: 123_456_789, slot: 42 };
    assert_eq!(OrderId(place).to_string(), "o000g0007bf6ha01a");
    assert_eq!(ReservationId::made(place).as_str(), "r000g0007bf6ha01a");
    assert_eq!(OrderId::parse(&OrderId(place).to_string()), Some(OrderId(place)));
}

/// Rows, keys, blocks and progress lie in the file as they do in sled.
#[tokio::test]
async fn a_snapshot_file_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = start(dir.path()).await;
    let proposals = [
        proposal("key-1", put_item(sku(1))),
        proposal("key-2", Command::Receive(vec![line(sku(1), 5)])),
        proposal("key-3", place(Some("order-1"), Some("c1"), sku(1), 2)),
    ];
    let entry = entry_of(1, &proposals);
    storage.log.blocking_append([entry.clone()]).await.unwrap();
    storage.state_machine.apply(futures::stream::iter([Ok((entry, None))])).await.unwrap();
    state_support::snapshot(&mut storage).await;
    let file = storage.state_machine.newest_snapshot().unwrap();
    let pinned = assert_pinned("snapshot", &file.read_at(0, file.bytes() as usize).unwrap());

    let dir = tempfile::tempdir().unwrap();
    let mut other = stockroom_storage::open(options(dir.path()), &IDENTITY).await.unwrap();
    let mut receiver = other.state_machine.receive_snapshot("pinned", pinned.len() as u64).unwrap();
    receiver.write(0, &pinned).unwrap();
    let file = receiver.finish().unwrap();
    other.state_machine.install_snapshot(&file.meta(), file).await.unwrap();
    assert_eq!(other.reader.applied(), storage.reader.applied());
    let report = other.reader.audit(|_| {}).await.unwrap();
    assert_eq!(report.findings, Vec::<String>::new());
    assert_eq!((report.orders, report.movements, report.receipts), (1, 2, 3));
}
