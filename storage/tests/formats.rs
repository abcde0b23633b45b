//! Bytes that outlive a process: one example of each, pinned. A change here needs a new format, not
//! a new expectation: logs and snapshots of older versions have to be read for years.

#![allow(clippy::unwrap_used, reason = "the pinned examples are well-formed")]

mod fixtures;
mod state_support;

use fixtures::{assert_pinned, hex};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::{RaftLogStorageExt, RaftStateMachine};
use openraft::vote::leader_id_std::CommittedLeaderId;
use state_support::{IDENTITY, entry_of, line, options, place, proposal, put_item, sku, start};
use std::collections::BTreeMap;
use std::path::Path;
use stockroom_storage::archive::{Until, pieces, replay};
use stockroom_storage::backup::{Backup, BackupFile, Origin};
use stockroom_storage::codec::rpc_types::{RpcMessage, decode_rpc, encode_rpc};
use stockroom_storage::codec::{self, LogId, ProposalBytes, Vote};
use stockroom_storage::fs::RealFileSystem;
use stockroom_storage::shop::command::{
    Command, NewOrderLine, OrderSource, PlaceOrder, Settings, SettingsChange,
};
use stockroom_storage::shop::effect::{Answer, Rejection, Reply, Shortage};
use stockroom_storage::shop::ids::{
    Currency, CustomerId, IdempotencyKey, Location, OrderId, OrderName, Place, Quantity, ReservationId, Sku,
    TimestampMs,
};
use stockroom_storage::type_config::TypeConfig;
use stockroom_storage::{Storage, open, small_file, text};

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
fn a_change_of_the_settings_and_its_answer_stay_readable() {
    let change = SettingsChange { metadata_entries: Some(20), ..SettingsChange::default() };
    let proposal =
        codec::encode_proposal(Some(IdempotencyKey::new("key-1").unwrap()), Command::Configure(change));
    assert_eq!(
        hex(&codec::encode_batch(1_700_000_000_001, &[proposal])),
        "010168e5cf8b010000010000001f0000000101056b65792d31fe121e49bb288cd1ca7c939a4f62011649130000000114"
    );
    let settings = Settings { metadata_entries: 20, ..Settings::default() };
    let answer = Answer { outcome: Ok(Reply::Settings(settings)), replayed: false, log_index: 77 };
    let bytes = codec::encode_answer(&answer);
    assert_eq!(hex(&bytes), "010006fc005c2605fbe8030814004d");
    assert_eq!(codec::decode_answer(&bytes).unwrap(), answer);
}

#[test]
fn ids_stay_the_same() {
    let place = Place { epoch: 1, index: 123_456_789, slot: 42 };
    assert_eq!(OrderId(place).to_string(), "o000g0007bf6ha01a");
    assert_eq!(ReservationId::made(place).as_str(), "r000g0007bf6ha01a");
    assert_eq!(OrderId::parse(&OrderId(place).to_string()), Some(OrderId(place)));
}

/// A node with an item, its stock, a named order of a customer, and their movements and receipts.
async fn example(dir: &Path) -> Storage {
    let mut storage = start(dir).await;
    let proposals = [
        proposal("key-1", put_item(sku(1))),
        proposal("key-2", Command::Receive(vec![line(sku(1), 5)])),
        proposal("key-3", place(Some("order-1"), Some("c1"), sku(1), 2)),
    ];
    apply(&mut storage, 1, &proposals).await;
    state_support::snapshot(&mut storage).await;
    storage
}

async fn apply(storage: &mut Storage, index: u64, proposals: &[ProposalBytes]) {
    let entry = entry_of(index, proposals);
    storage.log.blocking_append([entry.clone()]).await.unwrap();
    storage.state_machine.apply(futures::stream::iter([Ok((entry, None))])).await.unwrap();
}

/// Rows, keys, blocks and progress lie in the file as they do in sled.
#[tokio::test]
async fn a_snapshot_file_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let storage = example(dir.path()).await;
    let file = storage.state_machine.newest_snapshot().unwrap();
    let pinned = assert_pinned("snapshot", &file.read_at(0, file.bytes() as usize).unwrap());

    let dir = tempfile::tempdir().unwrap();
    let mut other = open(options(dir.path()), &IDENTITY).await.unwrap();
    let mut receiver = other.state_machine.receive_snapshot("pinned", pinned.len() as u64).unwrap();
    receiver.write(0, &pinned).unwrap();
    let file = receiver.finish().unwrap();
    other.state_machine.install_snapshot(&file.meta(), file).await.unwrap();
    assert_eq!(other.reader.applied(), storage.reader.applied());
    let report = other.reader.audit(|_| {}).await.unwrap();
    assert_eq!(report.findings, Vec::<String>::new());
    assert_eq!((report.orders, report.movements, report.receipts), (1, 2, 3));
}

fn origin() -> Origin {
    Origin { node_id: 1, version: "0.1.0".into(), created_at: "2026-11-21T00:00:00Z".into() }
}

/// What was taken with a release is restored with every later one.
#[tokio::test]
async fn a_backup_and_the_log_beside_it_stay_readable() {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = example(&dir.path().join("node")).await;
    let file = storage.state_machine.newest_snapshot().unwrap();
    let backup =
        Backup::new(file, origin()).unwrap().pieces().collect::<Result<Vec<_>, _>>().unwrap().concat();
    apply(&mut storage, 2, &[proposal("key-4", Command::Receive(vec![line(sku(1), 7)]))]).await;
    let piece = storage.reader.archive(1, IDENTITY.cluster_id, origin()).await.unwrap();
    let mut log = Vec::new();
    let keep = &mut |part: bytes::Bytes| {
        log.extend_from_slice(&part);
        true
    };
    piece.write(keep).unwrap();

    let (bak, archive) = (dir.path().join("a.bak"), dir.path().join("log"));
    std::fs::write(&bak, assert_pinned("backup", &backup)).unwrap();
    std::fs::create_dir(&archive).unwrap();
    std::fs::write(archive.join("000000000001.stklog"), assert_pinned("archive", &log)).unwrap();
    let unpacked = dir.path().join("unpacked.snap");
    let backup = BackupFile::open(&bak).unwrap();
    assert_eq!((backup.about().log_index, backup.about().cluster_version), (1, 1));
    backup.unpack(&unpacked, |_| {}).unwrap();
    let pieces = pieces(&archive, IDENTITY.cluster_id).unwrap();
    let scratch = dir.path().join("scratch");
    let replayed = replay(&unpacked, IDENTITY.cluster_id, &pieces, Until::Index(2), &scratch).await.unwrap();
    assert_eq!(replayed.file.fingerprint(), storage.reader.applied().fingerprint);
}

#[tokio::test]
async fn an_export_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let storage = example(&dir.path().join("node")).await;
    let file = storage.state_machine.newest_snapshot().unwrap();
    let mut lines: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    let mut name = "";
    let sink = &mut |section: text::Section<'_>| {
        match section {
            text::Section::Begins(file) => name = file,
            text::Section::Line(line) => lines.entry(name).or_default().extend([line, b"\n"].concat()),
            text::Section::Ends(about) => {
                drop(lines.insert("about.json", serde_json::to_vec(about).unwrap()))
            }
        }
        true
    };
    text::export(&file, sink).unwrap();
    let exported = dir.path().join("export");
    std::fs::create_dir(&exported).unwrap();
    for name in text::FILES {
        std::fs::write(exported.join(format!("{name}.ndjson")), "").unwrap();
    }
    for (name, lines) in &lines {
        let pinned = assert_pinned(&format!("export-{}", name.replace('.', "-")), lines);
        let name = if name.contains('.') { (*name).to_owned() } else { format!("{name}.ndjson") };
        std::fs::write(exported.join(name), pinned).unwrap();
    }
    let (about, imported) = text::import(&exported, &dir.path().join("scratch")).unwrap();
    assert_eq!((about.cluster_version, imported.log_index()), (1, 1));
}

#[test]
fn small_files_keep_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    small_file::write(&RealFileSystem, dir.path(), "some", b"abc").unwrap();
    assert_eq!(hex(&std::fs::read(dir.path().join("some")).unwrap()), "01616263c30d7db2");
    assert_eq!(small_file::read(&RealFileSystem, dir.path(), "some").unwrap(), Some(b"abc".to_vec()));
}

/// Every program there will ever be has to find this file and understand its first number.
#[tokio::test]
async fn the_cluster_version_of_a_directory_keeps_its_place_and_form() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path()).await.close().await.unwrap();
    assert_eq!(hex(&std::fs::read(dir.path().join("cluster-version")).unwrap()), "0101000000a026b321");
}

/// Which nodes of two releases send each other.
#[test]
fn what_openraft_says_stays_readable() {
    fn check<M: RpcMessage>(name: &str, message: &M) {
        let pinned = assert_pinned(&format!("rpc-{name}"), &encode_rpc(message));
        let read = decode_rpc::<M>(&pinned).unwrap();
        assert_eq!(encode_rpc(&read), pinned, "{name} is read as it was written");
    }
    let vote = Vote::new_committed(300, 2);
    let log: LogId = LogId::new(CommittedLeaderId::new(3), 70_000);
    check("vote", &vote);
    check("vote-request", &VoteRequest::<TypeConfig>::new(vote, Some(log)));
    check("vote-response", &VoteResponse::<TypeConfig>::new(vote, Some(log), true));
    check("transfer-request", &TransferLeaderRequest::<TypeConfig>::new(vote, 3, Some(log)));
    let changed = TransferLeaderError::VoteChanged { expected: vote, actual: Vote::new(301, 1) };
    check::<TransferLeaderResponse<TypeConfig>>("transfer-refused", &Err(changed));
    check("append-conflict", &AppendEntriesResponse::<TypeConfig>::Conflict);
    let results: [(&str, StreamAppendResult<TypeConfig>); 3] = [
        ("appended", Ok(Some(log))),
        ("conflict", Err(StreamAppendError::Conflict(log))),
        ("higher-vote", Err(StreamAppendError::HigherVote(vote))),
    ];
    for (name, result) in &results {
        check(&format!("stream-{name}"), result);
    }
    let (prev_log_id, leader_commit, entries) = (Some(log), Some(log), vec![entry_of(1, &[])]);
    let request = AppendEntriesRequest::<TypeConfig> { vote, prev_log_id, entries, leader_commit };
    check("append-request", &request);
}
