//! What the tests of the state share: a history that is always the same, and a node that lives it.

#![allow(dead_code, clippy::unwrap_used, reason = "helpers of tests, of which each binary uses a part")]

use futures::stream;
use openraft::alias::EntryOf;
use openraft::entry::{EntryPayload, RaftEntry};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine};
use openraft::vote::leader_id_std::CommittedLeaderId;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use stockroom_storage::codec::{self, LogId, ProposalBytes};
use stockroom_storage::error::StorageError;
use stockroom_storage::identity::Identity;
use stockroom_storage::reader::Fingerprint;
use stockroom_storage::shop::command::{
    Command, NewOrderLine, OrderSource, Pay, PlaceOrder, PutItem, Reserve, SettingsChange,
};
use stockroom_storage::shop::ids::{
    CustomerId, IdempotencyKey, Location, OrderName, Quantity, ReservationId, Sku,
};
use stockroom_storage::shop::reservation::StockLine;
use stockroom_storage::snapshot::SnapshotFile;
use stockroom_storage::type_config::{BatchBytes, TypeConfig};
use stockroom_storage::{Storage, StorageOptions, open};

pub const IDENTITY: Identity = Identity { cluster_id: 7, node_id: 1, incarnation: 9, group_id: 0 };
/// Items there are; orders ask for the first five.
const ITEMS: u64 = 60;

pub fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1), index)
}

pub fn proposal(key: &str, command: Command) -> ProposalBytes {
    codec::encode_proposal(Some(IdempotencyKey::new(key).unwrap()), command)
}

pub fn sku(n: u64) -> Sku {
    Sku::new(&format!("sku-{n}")).unwrap()
}

pub fn units(n: u64) -> Quantity {
    Quantity::new(n).unwrap()
}

pub fn line(sku: Sku, quantity: u64) -> StockLine {
    StockLine { sku, location: Location::main(), quantity: units(quantity) }
}

pub fn put_item(sku: Sku) -> Command {
    Command::PutItem(PutItem { sku, name: None, price: None, attributes: None, expected_version: None })
}

/// An order of one line.
pub fn place(name: Option<&str>, customer: Option<&str>, sku: Sku, quantity: u64) -> Command {
    Command::PlaceOrder(PlaceOrder {
        name: name.map(|name| OrderName::new(name).unwrap()),
        customer_id: customer.map(|customer| CustomerId::new(customer).unwrap()),
        currency: None,
        pay_by: None,
        metadata: Default::default(),
        source: OrderSource::Lines(vec![NewOrderLine {
            sku,
            location: Location::main(),
            quantity: units(quantity),
            amount_minor: Some(100),
        }]),
    })
}

fn order(n: u64) -> Command {
    let name = format!("order-{n}");
    let name = (!n.is_multiple_of(3)).then_some(name.as_str());
    place(name, Some(&format!("c{}", n % 4)), sku(n % 5), 1 + n % 3)
}

/// An entry with these proposals; a second passes with each index.
pub fn entry_of(index: u64, proposals: &[ProposalBytes]) -> EntryOf<TypeConfig> {
    let batch = BatchBytes(codec::encode_batch(1_000 * index, proposals));
    EntryOf::<TypeConfig>::new(log_id(index), EntryPayload::Normal(batch))
}

/// The entry of an index: always the same.
pub fn entry(index: u64) -> EntryOf<TypeConfig> {
    entry_of(index, &proposals(index))
}

fn proposals(index: u64) -> Vec<ProposalBytes> {
    match index {
        1 => (0..ITEMS)
            .flat_map(|n| {
                [
                    proposal(&format!("item-{n}"), put_item(sku(n))),
                    proposal(&format!("stock-{n}"), Command::Receive(vec![line(sku(n), 100_000)])),
                ]
            })
            .collect(),
        // Receipts last a minute, so that runs of this test drop some.
        2 => {
            let change = SettingsChange { receipt_retention_ms: Some(60_000), ..SettingsChange::default() };
            vec![codec::encode_proposal(None, Command::Configure(change))]
        }
        // Changes many rows.
        _ if index.is_multiple_of(7) => {
            let lines = (0..ITEMS).map(|n| line(sku(n), 1 + (index + n) % 9)).collect();
            vec![proposal(&format!("more-{index}"), Command::Receive(lines))]
        }
        _ => {
            let mut proposals: Vec<_> =
                (0..8).map(|n| proposal(&format!("k-{index}-{n}"), order(index * 8 + n))).collect();
            let reserve = Command::Reserve(Reserve {
                id: Some(ReservationId::new(&format!("hold-{index}")).unwrap()),
                ttl_ms: 4_500,
                lines: vec![line(sku(index % 5), 2)],
            });
            let pay = Command::Pay(Pay {
                order: OrderName::new(&format!("order-{}", index * 4)).unwrap(),
                amount_minor: None,
                reference: None,
            });
            proposals.push(proposal(&format!("r-{index}"), reserve));
            proposals.push(proposal(&format!("p-{index}"), pay));
            proposals
        }
    }
}

pub fn options(dir: &Path) -> StorageOptions {
    StorageOptions {
        checkpoint_bytes: 64 << 10,
        checkpoint_interval: Duration::from_millis(20),
        shelf_segment_bytes: 3 << 10,
        purge_margin_bytes: 0,
        purge_margin_entries: 5,
        ..StorageOptions::new(dir)
    }
}

/// Starts a node, once the one that crashed in this process has let go of its files.
pub async fn start_with(options: StorageOptions) -> Storage {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        match open(options.clone(), &IDENTITY).await {
            Err(StorageError::Foreign(_)) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            storage => return storage.unwrap(),
        }
    }
}

pub async fn start(dir: &Path) -> Storage {
    start_with(options(dir)).await
}

/// Appends and applies the entries after the last applied one, as Raft does it.
pub async fn try_run(storage: &mut Storage, until: u64) -> Result<Fingerprint, io::Error> {
    let applied = storage.reader.applied().fingerprint.log_index;
    let logged = storage.log.last_log_id().map_or(0, |id| id.index);
    if until > logged {
        storage.log.blocking_append((logged + 1..=until).map(entry)).await?;
    }
    let entries = (applied + 1..=until).map(|index| Ok((entry(index), None)));
    storage.state_machine.apply(stream::iter(entries)).await?;
    Ok(storage.reader.applied().fingerprint)
}

pub async fn run(storage: &mut Storage, until: u64) -> Fingerprint {
    try_run(storage, until).await.unwrap()
}

/// What a node comes to that nothing ever happened to.
pub async fn untouched(until: u64) -> Fingerprint {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = start(dir.path()).await;
    run(&mut storage, until).await
}

/// Ends a node as `kill -9` would: nothing is written any more.
pub async fn crash(storage: Storage) {
    drop(storage);
}

pub async fn check_clean(storage: &Storage) {
    let report = storage.reader.audit(|_| {}).await.unwrap();
    assert_eq!(report.findings, Vec::<String>::new());
    assert_eq!(report.fingerprint, storage.reader.applied().fingerprint);
    assert!(report.orders > 0 && report.movements > report.orders && report.receipts > 0);
}

pub async fn checkpointed(storage: &Storage, index: u64) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while storage.reader.stats().checkpoint_log_index < index {
        assert!(tokio::time::Instant::now() < deadline, "no checkpoint");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn snapshot(storage: &mut Storage) -> u64 {
    let snapshot = storage.state_machine.build_snapshot().await.unwrap();
    snapshot.snapshot.log_index()
}

/// Purges the log as Raft is asked to.
pub async fn purge(storage: &mut Storage) -> Result<(), io::Error> {
    let Some(id) = storage.purgeable().and_then(|index| storage.log.log_id(index)) else { return Ok(()) };
    storage.log.purge(id).await
}

/// A node with a snapshot file at 60, the log purged behind it, applied to 100.
pub async fn purged_node(dir: &Path) -> Fingerprint {
    let mut storage = start(dir).await;
    run(&mut storage, 60).await;
    assert_eq!(snapshot(&mut storage).await, 60);
    let fingerprint = run(&mut storage, 100).await;
    purge(&mut storage).await.unwrap();
    assert!(storage.log.last_purged().is_some_and(|id| id.index <= 60));
    checkpointed(&storage, 100).await;
    storage.close().await.unwrap();
    fingerprint
}

/// Sends a peer's snapshot file, in chunks, giving up and going on in between.
pub fn transfer(from: &Storage, to: &Storage, chunk: usize) -> SnapshotFile {
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

/// The same, and the receiver takes it over.
pub async fn install(from: &Storage, to: &mut Storage, chunk: usize) {
    let file = transfer(from, to, chunk);
    let meta = file.meta();
    to.state_machine.install_snapshot(&meta, file).await.unwrap();
}

/// A leader that has a snapshot at 70 and went on to 110, what it came to, and a follower that has no more than 15.
pub async fn leader_and_straggler(leader: &Path, follower: &Path) -> (Storage, Fingerprint, Storage) {
    let (mut leader, mut follower) = (start(leader).await, start(follower).await);
    run(&mut leader, 70).await;
    snapshot(&mut leader).await;
    let at_end = run(&mut leader, 110).await;
    run(&mut follower, 15).await;
    (leader, at_end, follower)
}

/// The files that a snapshot shares with the state.
pub fn shared_files(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir.join("snapshot")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "rows")).collect();
    files.sort();
    files
}

/// The directory of the sled in use.
pub fn sled_dir(dir: &Path) -> PathBuf {
    let generation = std::fs::read_to_string(dir.join("state/CURRENT")).unwrap();
    dir.join(format!("state/sled-{}", generation.trim()))
}
