//! One node's state through crashes, damage, checkpoints and snapshots: always the same sum.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use futures::stream;
use openraft::alias::EntryOf;
use openraft::entry::{EntryPayload, RaftEntry};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine};
use openraft::vote::{RaftLeaderId, leader_id_adv::LeaderId};
use std::path::Path;
use std::time::Duration;
use stockroom_storage::codec::{self, LogId, ProposalBytes};
use stockroom_storage::error::StorageError;
use stockroom_storage::identity::Identity;
use stockroom_storage::reader::Fingerprint;
use stockroom_storage::shop::command::{
    Command, NewOrderLine, OrderSource, Pay, PlaceOrder, PutItem, Reserve, Settings,
};
use stockroom_storage::shop::ids::{
    CustomerId, IdempotencyKey, Location, OrderName, Quantity, ReservationId, Sku,
};
use stockroom_storage::shop::order::OrderStatus;
use stockroom_storage::shop::reservation::StockLine;
use stockroom_storage::type_config::{BatchBytes, TypeConfig};
use stockroom_storage::{Storage, StorageOptions, open};

/// sled has one lock for all its instances in a process, where one that is being dropped can meet
/// another that is being written. A node never meets another one's; these tests take turns.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const IDENTITY: Identity = Identity { cluster_id: 7, node_id: 1, incarnation: 9, group_id: 0 };

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId::new(1, 1).to_committed(), index)
}

fn proposal(key: String, command: Command) -> ProposalBytes {
    codec::encode_proposal(Some(IdempotencyKey::new(&key).unwrap()), command)
}

fn sku(n: u64) -> Sku {
    Sku::new(&format!("sku-{n}")).unwrap()
}

fn order(n: u64) -> Command {
    Command::PlaceOrder(PlaceOrder {
        name: (!n.is_multiple_of(3)).then(|| OrderName::new(&format!("order-{n}")).unwrap()),
        customer_id: Some(CustomerId::new(&format!("c{}", n % 4)).unwrap()),
        currency: None,
        pay_by: None,
        metadata: Default::default(),
        source: OrderSource::Lines(vec![NewOrderLine {
            sku: sku(n % 5),
            location: Location::main(),
            quantity: Quantity::new(1 + n % 3).unwrap(),
            amount_minor: Some(100),
        }]),
    })
}

/// The entry of an index: always the same.
fn entry(index: u64) -> EntryOf<TypeConfig> {
    let at = 1_000 * index;
    let proposals = match index {
        1 => (0..5)
            .flat_map(|n| {
                let item = PutItem {
                    sku: sku(n),
                    name: None,
                    price: None,
                    attributes: None,
                    expected_version: None,
                };
                let line = StockLine {
                    sku: sku(n),
                    location: Location::main(),
                    quantity: Quantity::new(100_000).unwrap(),
                };
                [
                    proposal(format!("item-{n}"), Command::PutItem(item)),
                    proposal(format!("stock-{n}"), Command::Receive(vec![line])),
                ]
            })
            .collect(),
        // Receipts last a minute, so that runs of this test drop some.
        2 => {
            let settings = Settings { receipt_retention_ms: 60_000, ..Settings::default() };
            vec![codec::encode_proposal(None, Command::Configure(settings))]
        }
        _ => {
            let orders = (0..8).map(|n| proposal(format!("k-{index}-{n}"), order(index * 8 + n)));
            let reserve = Command::Reserve(Reserve {
                id: Some(ReservationId::new(&format!("hold-{index}")).unwrap()),
                ttl_ms: 4_500,
                lines: vec![StockLine {
                    sku: sku(index % 5),
                    location: Location::main(),
                    quantity: Quantity::new(2).unwrap(),
                }],
            });
            let pay = Command::Pay(Pay {
                order: OrderName::new(&format!("order-{}", index * 4)).unwrap(),
                amount_minor: None,
                reference: None,
            });
            orders
                .chain([proposal(format!("r-{index}"), reserve), proposal(format!("p-{index}"), pay)])
                .collect()
        }
    };
    let batch = BatchBytes(codec::encode_batch(at, &proposals));
    EntryOf::<TypeConfig>::new(log_id(index), EntryPayload::Normal(batch))
}

fn options(dir: &Path) -> StorageOptions {
    StorageOptions {
        checkpoint_bytes: 64 << 10,
        checkpoint_interval: Duration::from_millis(20),
        purge_margin_bytes: 0,
        purge_margin_entries: 5,
        ..StorageOptions::new(dir)
    }
}

/// Starts a node, once the one that crashed in this process has let go of its files.
async fn start(dir: &Path) -> Storage {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        match open(options(dir), &IDENTITY).await {
            Err(StorageError::Foreign(_)) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            storage => return storage.unwrap(),
        }
    }
}

#[tokio::test]
async fn a_directory_that_is_in_use_is_refused() {
    let _turn = TURN.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let _storage = start(dir.path()).await;
    let error = open(options(dir.path()), &IDENTITY).await.unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
}

/// Appends and applies the entries after the last applied one, as Raft does it.
async fn run(storage: &mut Storage, until: u64) -> Fingerprint {
    let applied = storage.reader.applied().fingerprint.log_index;
    let logged = storage.log.last_log_id().map_or(0, |id| id.index);
    if until > logged {
        storage.log.blocking_append((logged + 1..=until).map(entry)).await.unwrap();
    }
    let entries = (applied + 1..=until).map(|index| Ok((entry(index), None)));
    storage.state_machine.apply(stream::iter(entries)).await.unwrap();
    storage.reader.applied().fingerprint
}

/// What a node comes to that nothing ever happened to.
async fn untouched(until: u64) -> Fingerprint {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = start(dir.path()).await;
    run(&mut storage, until).await
}

/// Ends a node as `kill -9` would: nothing is written any more.
async fn crash(storage: Storage) {
    drop(storage);
}

async fn check_clean(storage: &Storage) {
    let report = storage.reader.audit(|_| {}).await.unwrap();
    assert_eq!(report.findings, Vec::<String>::new());
    assert_eq!(report.fingerprint, storage.reader.applied().fingerprint);
    assert!(report.orders > 0 && report.movements > report.orders && report.receipts > 0);
}

async fn checkpointed(storage: &Storage, index: u64) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while storage.reader.stats().checkpoint_log_index < index {
        assert!(tokio::time::Instant::now() < deadline, "no checkpoint");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_node_that_crashes_again_and_again_comes_to_the_same_state() {
    let _turn = TURN.lock().await;
    let dir = tempfile::tempdir().unwrap();
    for until in [10, 40, 41, 90, 120] {
        let mut storage = start(dir.path()).await;
        run(&mut storage, until).await;
        crash(storage).await;
    }
    let mut storage = start(dir.path()).await;
    assert_eq!(run(&mut storage, 120).await, untouched(120).await);
    check_clean(&storage).await;
}

#[tokio::test]
async fn a_clean_stop_keeps_everything_and_applies_nothing_again() {
    let _turn = TURN.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut storage = start(dir.path()).await;
    let before = run(&mut storage, 60).await;
    storage.close().await.unwrap();
    drop(storage);
    let storage = start(dir.path()).await;
    assert_eq!(storage.reader.applied().fingerprint, before);
    check_clean(&storage).await;
}

async fn snapshot(storage: &mut Storage) -> u64 {
    let snapshot = storage.state_machine.build_snapshot().await.unwrap();
    snapshot.snapshot.log_index()
}

/// A node with a snapshot file at 60, the log purged behind it, applied to 100.
async fn purged_node(dir: &Path) -> Fingerprint {
    let mut storage = start(dir).await;
    run(&mut storage, 60).await;
    assert_eq!(snapshot(&mut storage).await, 60);
    let fingerprint = run(&mut storage, 100).await;
    let purgeable = storage.purgeable().unwrap();
    assert!(purgeable <= 60);
    let id = storage.log.log_id(purgeable).unwrap();
    storage.log.purge(id).await.unwrap();
    checkpointed(&storage, 100).await;
    storage.close().await.unwrap();
    fingerprint
}

#[tokio::test]
async fn state_that_is_gone_is_built_anew_from_snapshot_and_log() {
    let _turn = TURN.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let before = purged_node(dir.path()).await;
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let mut storage = start(dir.path()).await;
    assert_eq!(storage.snapshot_needed, None);
    assert_eq!(storage.reader.applied().fingerprint.log_index, 60);
    assert_eq!(run(&mut storage, 100).await, before);
    check_clean(&storage).await;
}

#[tokio::test]
async fn state_that_is_damaged_is_never_trusted() {
    let _turn = TURN.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let before = purged_node(dir.path()).await;
    for part in [1, 2, 3] {
        let mut sled = std::fs::read_dir(dir.path().join("state")).unwrap().map(|e| e.unwrap().path());
        let db = sled.find(|path| path.is_dir()).unwrap().join("db");
        let mut bytes = std::fs::read(&db).unwrap();
        let length = bytes.len();
        bytes[length * part / 4..length * part / 4 + length / 8].fill(0xa5);
        std::fs::write(&db, bytes).unwrap();
        let mut storage = start(dir.path()).await;
        assert_eq!(run(&mut storage, 100).await, before);
        check_clean(&storage).await;
        storage.close().await.unwrap();
    }
}

#[tokio::test]
async fn without_state_and_snapshot_a_purged_node_asks_for_one() {
    let _turn = TURN.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let before = purged_node(dir.path()).await;
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let file = std::fs::read_dir(dir.path().join("snapshot")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let mut storage = start(dir.path()).await;
    assert!(storage.snapshot_needed.is_some());
    // A peer has one.
    let peer_dir = tempfile::tempdir().unwrap();
    let mut peer = start(peer_dir.path()).await;
    run(&mut peer, 80).await;
    snapshot(&mut peer).await;
    let fetched = transfer(&peer, &storage, 1 << 20);
    storage.install_fetched(fetched).await.unwrap();
    assert_eq!(storage.snapshot_needed, None);
    assert_eq!(run(&mut storage, 100).await, before);
    check_clean(&storage).await;
}

/// Sends a peer's snapshot file, in chunks, giving up and going on in between.
fn transfer(from: &Storage, to: &Storage, chunk: usize) -> stockroom_storage::snapshot::SnapshotFile {
    let file = from.state_machine.newest_snapshot().unwrap();
    loop {
        let mut receiver = to.state_machine.receive_snapshot(&file.id(), file.bytes()).unwrap();
        for _ in 0..3 {
            let bytes = file.read_at(receiver.offset(), chunk).unwrap();
            if bytes.is_empty() {
                return receiver.finish().unwrap();
            }
            receiver.write(receiver.offset(), &bytes).unwrap();
        }
    }
}

#[tokio::test]
async fn an_installed_snapshot_and_the_log_behind_it_come_to_the_same_state() {
    let _turn = TURN.lock().await;
    let (leader_dir, follower_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut leader = start(leader_dir.path()).await;
    run(&mut leader, 70).await;
    snapshot(&mut leader).await;
    let at_end = run(&mut leader, 110).await;
    let mut follower = start(follower_dir.path()).await;
    run(&mut follower, 15).await;
    let file = transfer(&leader, &follower, 10_000);
    let meta = file.meta();
    follower.state_machine.install_snapshot(&meta, file).await.unwrap();
    assert_eq!(follower.reader.applied().fingerprint.log_index, 70);
    // As openraft does after an installation, then crash right behind it.
    follower.log.purge(log_id(70)).await.unwrap();
    crash(follower).await;
    let mut follower = start(follower_dir.path()).await;
    assert_eq!(follower.reader.applied().fingerprint.log_index, 70);
    assert_eq!(run(&mut follower, 110).await, at_end);
    check_clean(&follower).await;
}

#[tokio::test]
async fn a_snapshot_file_with_any_flipped_bit_is_refused() {
    let _turn = TURN.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut storage = start(dir.path()).await;
    run(&mut storage, 12).await;
    snapshot(&mut storage).await;
    let file = storage.state_machine.newest_snapshot().unwrap();
    let good = file.read_at(0, usize::MAX >> 1).unwrap();
    for at in (0..good.len()).step_by(97).chain([good.len() - 1]) {
        let mut bytes = good.to_vec();
        bytes[at] ^= 0x10;
        let mut receiver = storage.state_machine.receive_snapshot("x", bytes.len() as u64).unwrap();
        receiver.write(0, &bytes).unwrap();
        assert!(receiver.finish().is_err(), "a flipped bit in byte {at} went unnoticed");
    }
}

#[tokio::test]
async fn a_view_shows_lists_whole_and_in_order() {
    let _turn = TURN.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut storage = start(dir.path()).await;
    run(&mut storage, 60).await;
    let view = storage.reader.view().unwrap();
    let (mut after, mut orders) = (None, Vec::new());
    loop {
        let page = view.orders(None, None, after, 7).unwrap();
        assert!(page.rows.len() <= 7);
        orders.extend(page.rows);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(orders.len() as u64, view.head().unwrap().orders_placed);
    assert!(orders.is_sorted_by_key(|order| order.id));
    let customer = CustomerId::new("c1").unwrap();
    let of_customer = view.orders(Some(&customer), None, None, 1_000).unwrap().rows;
    let expected: Vec<_> = orders.iter().filter(|o| o.customer_id.as_ref() == Some(&customer)).collect();
    assert_eq!(of_customer.iter().collect::<Vec<_>>(), expected);
    let paid = view.orders(None, Some(OrderStatus::Paid), None, 1_000).unwrap().rows;
    assert!(!paid.is_empty() && paid.iter().all(|order| order.paid_minor == order.due_minor));
    for order in orders.iter().step_by(11) {
        let found = view.order(&OrderName::new(&order.shown_id()).unwrap()).unwrap();
        assert_eq!(found.as_ref(), Some(order));
    }
    // The chain of movements leads through all of them, newest first.
    let skus = [sku(0), sku(1)];
    let all = view.movements(&skus, None, None, 100_000).unwrap();
    assert!(all.next.is_none() && all.rows.is_sorted_by(|a, b| a.0 > b.0));
    let (mut before, mut paged) = (None, Vec::new());
    loop {
        let page = view.movements(&skus, None, before, 13).unwrap();
        paged.extend(page.rows);
        match page.next {
            Some(next) => before = Some(next),
            None => break,
        }
    }
    assert_eq!(paged, all.rows);
}
