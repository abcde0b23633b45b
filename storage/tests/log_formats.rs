//! Bytes that outlive a process: one example of each, pinned. A change here is a change of format:
//! give it a new format byte, and go on reading the old one.

mod fixtures;
mod log_support;

use bytes::Bytes;
use fixtures::hex;
use log_support::*;
use openraft::storage::RaftLogStorage;
use std::collections::{BTreeMap, BTreeSet};
use stockroom_storage::codec::{
    self, LogId, Membership, Payload, Vote, decode_entry_payload, decode_log_id, decode_membership,
    decode_vote,
};
use stockroom_storage::identity;
use stockroom_storage::memory_fs::MemoryDisk;
use stockroom_storage::type_config::{BatchBytes, Member};

fn membership() -> Membership {
    let member = |number: u64| Member {
        peer_address: format!("p{number}"),
        http_address: format!("h{number}"),
        incarnation: number * 1000,
        promote: number == 3,
    };
    let nodes: BTreeMap<u64, Member> = (1..4).map(|number| (number, member(number))).collect();
    Membership::new(vec![BTreeSet::from([1, 2])], nodes).expect("its voters are nodes")
}

#[test]
fn openrafts_types_keep_their_bytes() {
    let vote = Vote::new_committed(300, 2);
    assert_eq!(hex(&codec::encode_vote(&vote)), "01fb2c01010201");
    assert_eq!(decode_vote(&codec::encode_vote(&vote)).unwrap(), vote);

    let log_id: LogId = log_id(3, 70_000);
    assert_eq!(hex(&codec::encode_log_id(&log_id)), "0103fc70110100");
    assert_eq!(decode_log_id(&codec::encode_log_id(&log_id)).unwrap(), log_id);

    let bytes = codec::encode_membership(&membership());
    assert_eq!(hex(&bytes), "01010201020301027031026831fbe8030002027032026832fbd0070003027033026833fbb80b01");
    assert_eq!(decode_membership(&bytes).unwrap(), membership());

    let payloads = [
        (Payload::Blank, "0100".to_owned()),
        (Payload::Normal(BatchBytes(Bytes::from_static(b"abc"))), "0101616263".to_owned()),
        (Payload::Membership(membership()), format!("0102{}", hex(&bytes))),
    ];
    for (payload, expected) in payloads {
        let encoded = codec::encode_entry_payload(&payload);
        assert_eq!(hex(&encoded), expected);
        assert_eq!(decode_entry_payload(&encoded).unwrap(), payload);
    }
}

#[test]
fn bytes_that_are_not_all_read_are_refused() {
    let vote = codec::encode_vote(&Vote::new(1, 2));
    assert!(decode_vote(&[&vote[..], &[0]].concat()).is_err(), "one too many");
    assert!(decode_vote(&vote[..vote.len() - 1]).is_err(), "one too few");
    assert!(decode_vote(&[]).is_err());
    assert!(decode_vote(&[&[9], &vote[1..]].concat()).is_err(), "another format");
    for bytes in [&[][..], &[1], &[1, 0, 0], &[1, 7], &[2, 1, 5]] {
        assert!(decode_entry_payload(&Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
    }
    let mut long = codec::encode_membership(&membership());
    long.splice(1.., [0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    assert!(decode_membership(&long).is_err(), "a length beyond all limits");
}

#[tokio::test(start_paused = true)]
async fn the_log_keeps_its_bytes() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    log.save_vote(&Vote::new(2, 1)).await.unwrap();
    append(&mut log, vec![entry(2, 0, 0), entry(2, 1, 10)]).await.unwrap();
    log.truncate_after(Some(log_id(2, 0))).await.unwrap();
    log.save_committed(Some(log_id(2, 0))).await.unwrap();
    append(&mut log, vec![entry(2, 1, 20)]).await.unwrap();
    log.purge(log_id(2, 0)).await.unwrap();
    log.close().await.unwrap();
    let (path, records) = last_segment(&disk);
    let bytes = disk.contents(&path).unwrap();
    assert_eq!(path, dir().join("0000000000000001.wal"));
    assert_eq!(
        hex(&bytes[..68]),
        "535257414c53454701000000bc9a785634120000000000000000000002000000000000004d000000000000000000000001000000000000000040000000000000f901dff6"
    );
    let found: Vec<String> =
        records.iter().map(|record| hex(&bytes[record.offset..record.offset + record.bytes])).collect();
    let expected = [
        "53524c015c7644350101000006000000010000000000000001000000000000000000000000000000000000002251067700000000000000000000000000000000010000000000",
        "53524c0138fbd75b0201000005000000010000000000000002000000000000000100000000000000000000009d2955dd000000000000000000000000000000000102010100",
        "53524c010b0930bd030000000200000001000000000000000300000000000000020000000000000000000000dc65f078000000000000000002000000000000000100",
        "53524c0155ec659b0301000014000000010000000000000003000000000000000200000000000000010000006480b4a9010000000000000002000000000000000101656e7472792031206f66207465726d20323b",
        "53524c018b203efe040000000300000001000000000000000400000000000000030000000000000000000000a1bdd0eb00000000000000000000000000000000010200",
        "53524c012ee21433030000001600000001000000000000000400000000000000030000000000000001000000b0ba485c010000000000000002000000000000000101656e7472792031206f66207465726d20323b0101",
        "53524c01bb9dc76c060100000300000001000000000000000400000000000000030000000000000002000000a1bdd0eb00000000000000000000000000000000010200",
        "53524c01f55937d7050100000300000001000000000000000500000000000000040000000000000000000000a1bdd0eb00000000000000000000000000000000010200",
        "53524c019194da0907010000000000000100000000000000060000000000000005000000000000000000000096e7c21c00000000000000000000000000000000",
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_identity_keeps_its_bytes() {
    let disk = MemoryDisk::new();
    identity::store(&*disk.mount(), dir(), &IDENTITY).unwrap();
    assert_eq!(
        hex(&disk.contents(&dir().join("identity")).unwrap()),
        "53524944454e5401bc9a785634120000000000000000000002000000000000004d0000000000000000000000ad1db404"
    );
}
