//! What a start makes of what it finds: everything durable, torn tails cut, damage refused.

mod log_support;

use log_support::*;
use openraft::RaftLogReader;
use openraft::alias::EntryOf;
use openraft::storage::RaftLogStorage;
use std::path::PathBuf;
use stockroom_storage::codec::{Payload, Vote};
use stockroom_storage::error::StorageError;
use stockroom_storage::fs::FileSystem;
use stockroom_storage::identity::{self, Identity};
use stockroom_storage::log_store::{LogStore, MAX_APPEND_BYTES};
use stockroom_storage::memory_fs::MemoryDisk;
use stockroom_storage::type_config::{BatchBytes, TypeConfig};

/// Six synced entries in groups of their own, then three in one group; no seal.
async fn disk_with_a_last_group() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    log.save_vote(&Vote::new(3, 2)).await.expect("the disk is sound");
    append_each(&mut log, (0..6).map(|index| entry(3, index, 30))).await;
    append(&mut log, (6..9).map(|index| entry(3, index, 20)).collect()).await.expect("the disk is sound");
    let copy = disk.fork();
    copy.kill();
    copy
}

type Tear<'a> = &'a dyn Fn(&mut Vec<u8>);

fn last_group(records: &[Record]) -> Vec<Record> {
    let last = records.last().expect("a record").group;
    records.iter().copied().filter(|record| record.group == last).collect()
}

fn refusal(disk: &MemoryDisk) -> (PathBuf, u64) {
    match open_mount(disk.mount()) {
        Err(StorageError::Corrupt { file, offset, .. }) => (file, offset),
        other => panic!("expected a refusal to start, got {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn everything_acknowledged_survives_kill_and_close() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    append(&mut log, (0..40).map(|index| entry(1, index, 200)).collect()).await.unwrap();
    log.save_vote(&Vote::new_committed(2, 3)).await.unwrap();
    log.truncate_after(Some(log_id(1, 29))).await.unwrap();
    append(&mut log, (30..35).map(|index| entry(2, index, 0)).collect()).await.unwrap();
    log.purge(log_id(1, 9)).await.unwrap();
    append(&mut log, vec![entry(2, 35, 5000)]).await.unwrap();
    let before = entries(&mut log).await;
    assert_eq!(before.len(), 26);
    disk.kill();

    for round in 0..3 {
        let mut log = open(&disk);
        assert_eq!(entries(&mut log).await, before, "round {round}");
        assert_eq!(vote(&mut log).await, Some(Vote::new_committed(2, 3)));
        assert_eq!(log.last_purged(), Some(log_id(1, 9)));
        assert_eq!(log.last_log_id(), Some(log_id(2, 35)));
        assert_eq!(*log.durable().borrow(), 35);
        if round == 1 {
            log.close().await.unwrap();
            assert!(append(&mut log, vec![entry(2, 36, 1)]).await.is_err(), "a closed log takes nothing");
        }
        disk.kill();
    }
}

#[tokio::test(start_paused = true)]
async fn a_truncation_that_is_durable_stays() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    append_each(&mut log, (0..10).map(|index| entry(1, index, 50))).await;
    log.truncate_after(Some(log_id(1, 3))).await.unwrap();
    assert_eq!(*log.durable().borrow(), 3, "what is written anew is not durable yet");
    log.save_vote(&Vote::new(2, 1)).await.unwrap();
    disk.kill();
    let mut log = open(&disk);
    assert_eq!(log.last_log_id(), Some(log_id(1, 3)));
    log.truncate_after(None).await.unwrap();
    log.save_vote(&Vote::new(3, 1)).await.unwrap();
    disk.kill();
    let mut log = open(&disk);
    assert_eq!((log.last_log_id(), log.bytes()), (None, 0));
    append(&mut log, vec![entry(3, 0, 10)]).await.unwrap();
    assert_eq!(entries(&mut log).await, vec![entry(3, 0, 10)]);
}

#[tokio::test(start_paused = true)]
async fn an_index_written_anew_is_not_durable_by_its_earlier_entry() {
    let mut log = open(&MemoryDisk::new());
    let earlier = submit(&mut log, (0..10).map(|index| entry(1, index, 50)).collect()).await.unwrap();
    log.truncate_after(Some(log_id(1, 3))).await.unwrap();
    let later = submit(&mut log, vec![entry(2, 4, 50)]).await.unwrap();
    earlier.await.unwrap().unwrap();
    later.await.unwrap().unwrap();
    assert_eq!(*log.durable().borrow(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_payload_cannot_pass_for_a_record() {
    // A whole record of this segment, right but for the salt, that claims more than is true.
    let mut forged = vec![0; 64];
    forged[..4].copy_from_slice(b"SRL\x01");
    forged[8..10].copy_from_slice(&[7, 1]);
    forged[16..24].copy_from_slice(&1_u64.to_le_bytes());
    forged[24..32].copy_from_slice(&1000_u64.to_le_bytes());
    forged[32..40].copy_from_slice(&999_u64.to_le_bytes());
    let sum = crc32c::crc32c(&forged[8..]);
    forged[4..8].copy_from_slice(&sum.to_le_bytes());
    // A format byte and a tag come before it; records begin at multiples of 8.
    let payload = [vec![0; 6], forged, vec![0; 100]].concat();
    let payload = Payload::Normal(BatchBytes(payload.into()));

    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    append_each(&mut log, (0..3).map(|index| entry(1, index, 50))).await;
    append(&mut log, vec![EntryOf::<TypeConfig> { log_id: log_id(1, 3), payload }]).await.unwrap();
    disk.kill();
    let (path, records) = last_segment(&disk);
    let last = records.last().copied().expect("a record");
    disk.damage(&path, |bytes| bytes[last.offset + last.bytes - 1] ^= 1);
    assert_eq!(entries(&mut open(&disk)).await.len(), 3, "the torn tail is cut, not refused");
}

#[tokio::test(start_paused = true)]
async fn a_purge_beyond_the_last_entry_survives() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    append_each(&mut log, (0..10).map(|index| entry(1, index, 50))).await;
    log.purge(log_id(4, 500)).await.unwrap();
    assert_eq!((log.last_log_id(), log.bytes()), (Some(log_id(4, 500)), 0));
    log.save_vote(&Vote::new(5, 1)).await.unwrap();
    assert_eq!(*log.durable().borrow(), 500);
    disk.kill();
    let mut log = open(&disk);
    assert_eq!(log.last_purged(), Some(log_id(4, 500)));
    assert!(append(&mut log, vec![entry(5, 502, 1)]).await.is_err(), "501 comes next");
    append(&mut log, vec![entry(5, 501, 1)]).await.unwrap();
    disk.kill();
    assert_eq!(entries(&mut open(&disk)).await, vec![entry(5, 501, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_torn_last_group_is_cut_at_every_byte() {
    let disk = disk_with_a_last_group().await;
    let (path, records) = last_segment(&disk);
    let group = last_group(&records);
    let end = group[2].offset + group[2].padded();
    assert_eq!(group.len(), 3);
    for at in group[0].offset..end {
        let tears: [Tear; 2] = [&|bytes| bytes[at..end].fill(0), &|bytes| {
            bytes[at..end].iter_mut().for_each(|byte| *byte ^= 0xa5)
        }];
        let whole = group.iter().filter(|record| record.offset + record.bytes <= at).count();
        for (kind, tear) in tears.iter().enumerate() {
            let torn = disk.fork();
            assert!(torn.damage(&path, tear));
            let mut log = open(&torn);
            let expected: Vec<_> = (0..6)
                .map(|index| entry(3, index, 30))
                .chain((6..9).map(|index| entry(3, index, 20)))
                .collect();
            let found = entries(&mut log).await;
            // Zeros at the end of a record may be what it ended with.
            let more = found.len() - 6;
            assert!(more == whole || (kind == 0 && more > whole), "at {at}, kind {kind}: {more} not {whole}");
            assert_eq!(found, expected[..found.len()], "at {at}, kind {kind}");
            assert_eq!(vote(&mut log).await, Some(Vote::new(3, 2)));
            // What was cut is gone for good, and the log goes on behind it.
            let next = found.len() as u64;
            append(&mut log, vec![entry(4, next, 40)]).await.unwrap();
            torn.kill();
            let again = entries(&mut open(&torn)).await;
            assert_eq!(again.last(), Some(&entry(4, next, 40)), "at {at}, kind {kind}");
            assert_eq!(again.len() as u64, next + 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_sector_in_the_last_group_cuts_the_rest_of_it() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    append_each(&mut log, (0..3).map(|index| entry(1, index, 30))).await;
    append(&mut log, (3..9).map(|index| entry(1, index, 600)).collect()).await.unwrap();
    disk.kill();
    let (path, records) = last_segment(&disk);
    let group = last_group(&records);
    let (from, to) = (group[0].offset, group[5].offset + group[5].padded());
    for sector in from.div_ceil(512)..to / 512 {
        let torn = disk.fork();
        torn.damage(&path, |bytes| bytes[sector * 512..(sector + 1) * 512].fill(0));
        let whole = group.iter().filter(|record| record.offset + record.bytes <= sector * 512).count();
        let found = entries(&mut open(&torn)).await;
        assert_eq!(found.len(), 3 + whole, "sector {sector}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_before_the_last_group_is_refused() {
    let disk = disk_with_a_last_group().await;
    let (path, records) = last_segment(&disk);
    let last = last_group(&records)[0].group;
    let earlier: Vec<&Record> = records.iter().filter(|record| record.group < last).collect();
    assert_eq!(earlier.len(), 8, "the segment's start, a vote, six entries");
    for record in earlier {
        for at in record.offset..record.offset + record.bytes {
            let damaged = disk.fork();
            damaged.damage(&path, |bytes| bytes[at] ^= 1 << (at % 8));
            assert_eq!(refusal(&damaged), (path.clone(), record.offset as u64), "bit in byte {at}");
        }
    }
    for at in 0..68 {
        let damaged = disk.fork();
        damaged.damage(&path, |bytes| bytes[at] ^= 0x10);
        assert_eq!(refusal(&damaged), (path.clone(), 0), "bit in byte {at} of the segment's header");
    }
}

#[tokio::test(start_paused = true)]
async fn zeros_in_place_of_a_durable_group_are_refused() {
    let disk = disk_with_a_last_group().await;
    let (path, records) = last_segment(&disk);
    let record = records[4];
    disk.damage(&path, |bytes| bytes[record.offset..record.offset + record.padded()].fill(0));
    assert_eq!(refusal(&disk), (path, record.offset as u64));
}

#[tokio::test(start_paused = true)]
async fn damage_to_the_last_synced_group_is_no_torn_tail_after_a_clean_stop_or_when_idle() {
    for idle_instead in [false, true] {
        let disk = MemoryDisk::new();
        let mut log = open(&disk);
        append_each(&mut log, (0..4).map(|index| entry(1, index, 30))).await;
        if idle_instead {
            idle().await;
        } else {
            log.close().await.unwrap();
        }
        disk.kill();
        assert_eq!(entries(&mut open(&disk.fork())).await.len(), 4, "sound it opens");
        let (path, records) = last_segment(&disk);
        let last = records.iter().rfind(|record| record.kind == 3).expect("an entry");
        for at in last.offset..last.offset + last.bytes {
            let damaged = disk.fork();
            damaged.damage(&path, |bytes| bytes[at] ^= 0x40);
            assert_eq!(refusal(&damaged), (path.clone(), last.offset as u64), "byte {at}, {idle_instead}");
        }
    }
}

/// A start would refuse it: so it is not for an entry alone that a scrub reads the log.
#[tokio::test(start_paused = true)]
async fn damage_to_what_lies_between_two_entries_is_found_while_the_log_is_open() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    for term in 1..5 {
        append_each(&mut log, [entry(term, term - 1, 30)]).await;
        log.save_vote(&Vote::new(term + 1, 1)).await.expect("the disk is sound");
    }
    append_each(&mut log, [entry(5, 4, 30)]).await;
    log.verify().expect("nothing was touched");
    let (path, records) = last_segment(&disk);
    let from = records.iter().position(|record| record.kind == 3).expect("an entry");
    let until = records.iter().rposition(|record| record.kind == 3).expect("an entry");
    let others = records[from..until].iter().filter(|record| record.kind != 3).count();
    assert!(others >= 4, "a vote behind each entry but the last: {records:?}");
    for record in &records[from..=until] {
        for at in record.offset..record.offset + record.bytes {
            disk.damage(&path, |bytes| bytes[at] ^= 0x40);
            match log.verify() {
                Err(StorageError::Corrupt { file, offset, .. }) => {
                    assert_eq!((file, offset), (path.clone(), record.offset as u64), "byte {at}");
                }
                other => panic!("byte {at} of {record:?}: {other:?}"),
            }
            disk.damage(&path, |bytes| bytes[at] ^= 0x40);
        }
    }
}

/// A log over several segments, closed.
async fn disk_with_segments() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    append_each(&mut log, (0..60).map(|index| entry(1, index, 1000))).await;
    log.close().await.expect("the disk is sound");
    disk.kill();
    let with_entries = |path: &PathBuf| !records(&disk.contents(path).expect("listed")).is_empty();
    assert!(segments(&disk).iter().filter(|path| with_entries(path)).count() >= 4);
    disk
}

#[tokio::test(start_paused = true)]
async fn a_missing_segment_is_refused() {
    let disk = disk_with_segments().await;
    let paths = segments(&disk);
    assert_eq!(entries(&mut open(&disk.fork())).await.len(), 60);
    for path in &paths[..3] {
        let damaged = disk.fork();
        stockroom_storage::fs::FileSystem::remove(&*damaged.mount(), path).unwrap();
        let (file, _) = refusal(&damaged);
        assert_ne!(&file, path);
    }
}

#[tokio::test(start_paused = true)]
async fn damage_where_a_segment_begins_is_refused_and_named() {
    let disk = disk_with_segments().await;
    for path in &segments(&disk)[..4] {
        let damaged = disk.fork();
        damaged.damage(path, |bytes| bytes[DATA_OFFSET + 66] ^= 1);
        assert_eq!(refusal(&damaged), (path.clone(), DATA_OFFSET as u64));
    }
}

#[tokio::test(start_paused = true)]
async fn damage_shows_when_an_entry_is_read() {
    let disk = disk_with_segments().await;
    let mut log = open(&disk);
    let path = segments(&disk)[0].clone();
    let record = records(&disk.contents(&path).unwrap())[5];
    disk.damage(&path, |bytes| bytes[record.offset + 100] ^= 1);
    let mut reader = log.get_log_reader().await;
    let error = reader.try_get_log_entries(..).await.unwrap_err();
    assert!(error.to_string().contains("does not match its checksum"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn another_nodes_log_is_refused() {
    let disk = disk_with_a_last_group().await;
    let others = [
        Identity { cluster_id: 1, ..IDENTITY },
        Identity { node_id: 9, ..IDENTITY },
        Identity { incarnation: 78, ..IDENTITY },
        Identity { group_id: 1, ..IDENTITY },
    ];
    for other in others {
        match LogStore::open_with(disk.mount(), dir(), &other, OPTIONS, &TaskSpawn) {
            Err(StorageError::Foreign(message)) => assert!(message.contains("data directory"), "{message}"),
            found => panic!("expected a refusal, got {found:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn recycled_segments_never_validate() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    let mut recycled = 0;
    for index in 0..300 {
        append(&mut log, vec![entry(1, index, 700)]).await.unwrap();
        if index > 30 {
            log.purge(log_id(1, index - 30)).await.unwrap();
        }
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
        // Entries of an earlier life lie behind the end of the log, whole.
        let (path, records) = last_segment(&disk);
        let end = records.last().map(|last| last.offset + last.padded()).expect("a record");
        let bytes = disk.contents(&path).expect("listed");
        let stale = bytes[end..].chunks_exact(8).filter(|chunk| chunk.starts_with(b"SRL\x01")).count();
        if stale > 0 && index % 7 == 0 {
            recycled += 1;
            let copy = disk.fork();
            copy.kill();
            let found = entries(&mut open(&copy)).await;
            assert_eq!(found.last(), Some(&entry(1, index, 700)));
            assert_eq!(found, entries(&mut log).await);
        }
    }
    assert!(recycled > 10, "segments were recycled: {recycled}");
    assert!(disk.paths().len() <= 7, "purged segments go: {:?}", disk.paths());
}

#[tokio::test(start_paused = true)]
async fn restarts_leave_no_chain_of_segments() {
    let disk = disk_with_a_last_group().await;
    let before = entries(&mut open(&disk.fork())).await;
    for _ in 0..20 {
        let mut log = open(&disk);
        assert_eq!(entries(&mut log).await, before);
        idle().await;
        disk.kill();
    }
    assert!(disk.paths().len() <= 5, "{:?}", disk.paths());
}

#[tokio::test(start_paused = true)]
async fn a_hole_is_refused() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    append(&mut log, vec![entry(1, 0, 5), entry(1, 1, 5)]).await.unwrap();
    for entries in [vec![entry(1, 3, 5)], vec![entry(1, 1, 5)], vec![entry(1, 2, 5), entry(1, 4, 5)]] {
        assert!(append(&mut log, entries).await.is_err());
    }
    assert_eq!(entries(&mut log).await.len(), 2, "a refused append leaves nothing");
    append(&mut log, vec![entry(1, 2, 5)]).await.unwrap();
    log.purge(log_id(1, 1)).await.unwrap();
    let mut reader = log.get_log_reader().await;
    assert_eq!(reader.try_get_log_entries(0..3).await.unwrap(), vec![entry(1, 2, 5)]);
    // An error would end the leader, an entry would leave a hole at a follower.
    assert_eq!(reader.limited_get_log_entries(1, 3).await.unwrap(), Vec::new());
    assert!(log.truncate_after(Some(log_id(1, 0))).await.is_err(), "what is purged cannot be truncated");
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_of_what_a_leader_had_is_told_and_nothing_else() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    log.save_vote(&Vote::new_committed(3, 1)).await.unwrap();
    append(&mut log, (0..5).map(|index| entry(2, index, 5)).collect()).await.unwrap();
    assert_eq!(log.missing(3, &log_id(2, 4)), None);
    let missing = log.missing(3, &log_id(2, 5)).expect("it ends before");
    assert_eq!((missing.voted_in, missing.last), (3, Some(log_id(2, 4))));
    assert!(log.missing(3, &log_id(3, 4)).is_some(), "there is another entry");
    assert!(log.missing(4, &log_id(2, 4)).is_some(), "the vote for the leader of term 4 is gone");
    assert_eq!(log.missing(2, &log_id(2, 9)), None, "the leader of term 3 may have had it removed");
    log.purge(log_id(2, 4)).await.unwrap();
    assert_eq!(log.missing(3, &log_id(2, 2)), None, "what is purged was there");
    append(&mut log, vec![entry(3, 5, 5)]).await.unwrap();
    disk.kill();
    let log = open(&disk);
    assert_eq!(log.missing(3, &log_id(3, 5)), None);
}

#[tokio::test(start_paused = true)]
async fn an_entry_longer_than_a_segment_is_refused() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    assert!(append(&mut log, vec![entry(1, 0, 16 << 10)]).await.is_err());
    append(&mut log, vec![entry(1, 0, 10 << 10)]).await.unwrap();
    assert!(log.poisoned().borrow().is_none());
}

#[tokio::test(start_paused = true)]
async fn entries_are_readable_before_they_are_durable() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    let flushed = submit(&mut log, (0..5).map(|index| entry(1, index, 900)).collect()).await.unwrap();
    assert_eq!(entries(&mut log).await.len(), 5);
    assert_eq!(*log.durable().borrow(), 0);
    assert_eq!(disk.fork().syncs(), disk.syncs());
    flushed.await.unwrap().unwrap();
    assert_eq!(*log.durable().borrow(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_append_to_a_peer_is_never_empty_and_never_too_long() {
    let disk = MemoryDisk::new();
    let options = stockroom_storage::log_store::LogOptions { segment_bytes: 8 << 20, ..OPTIONS };
    let mut log = LogStore::open_with(disk.mount(), dir(), &IDENTITY, options, &TaskSpawn).unwrap();
    append(&mut log, (0..4).map(|index| entry(1, index, (1 << 20) - 100)).collect()).await.unwrap();
    append(&mut log, vec![entry(1, 4, MAX_APPEND_BYTES + 1)]).await.unwrap();
    let mut reader = log.get_log_reader().await;
    assert_eq!(reader.limited_get_log_entries(0, 5).await.unwrap().len(), 3);
    assert_eq!(reader.limited_get_log_entries(3, 5).await.unwrap().len(), 1);
    assert_eq!(reader.limited_get_log_entries(4, 5).await.unwrap().len(), 1, "at least one");
    let stream = reader.entries_stream(1..5).await;
    let streamed: Vec<_> = futures::StreamExt::collect::<Vec<_>>(stream).await;
    let streamed: Result<Vec<_>, _> = streamed.into_iter().collect();
    assert_eq!(streamed.unwrap(), reader.try_get_log_entries(1..5).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn committed_is_saved_without_a_sync_and_never_ahead_of_the_log() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    append_each(&mut log, (0..6).map(|index| entry(1, index, 30))).await;
    idle().await;
    let syncs = disk.syncs();
    log.save_committed(Some(log_id(1, 4))).await.unwrap();
    assert_eq!(disk.syncs(), syncs);
    idle().await;
    disk.kill();
    let mut log = open(&disk);
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 4)));
    log.save_committed(Some(log_id(1, 9))).await.unwrap();
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 5)), "the log ends there");
    append(&mut log, vec![entry(1, 6, 1)]).await.unwrap();
    disk.kill();
    assert_eq!(open(&disk).read_committed().await.unwrap(), Some(log_id(1, 6)), "rode along");
}

#[tokio::test(start_paused = true)]
async fn bytes_are_counted_since_the_purge_point() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk);
    append_each(&mut log, (0..10).map(|index| entry(1, index, 110))).await;
    // A header of 64, a format byte, a tag and 110 bytes are 176.
    assert_eq!((log.bytes(), log.bytes_since(7), log.bytes_since(9)), (1760, 352, 0));
    assert_eq!(log.purgeable_index(352), Some(7));
    assert_eq!(log.purgeable_index(353), Some(6));
    assert_eq!(log.purgeable_index(1760), None);
    log.purge(log_id(1, 4)).await.unwrap();
    assert_eq!((log.bytes(), log.bytes_since(2), log.bytes_since(7)), (880, 880, 352));
    assert_eq!(log.log_id(4), Some(log_id(1, 4)));
    assert_eq!((log.log_id(3), log.log_id(10)), (None, None));
}

#[test]
fn the_identity_is_kept_whole_or_refused() {
    let disk = MemoryDisk::new();
    let mount = disk.mount();
    stockroom_storage::fs::FileSystem::create_dir_all(&*mount, dir()).unwrap();
    assert_eq!(identity::load(&*mount, dir()).unwrap(), None);
    identity::store(&*mount, dir(), &Identity { node_id: 1, ..IDENTITY }).unwrap();
    identity::store(&*mount, dir(), &IDENTITY).unwrap();
    assert_eq!(identity::load(&*mount, dir()).unwrap(), Some(IDENTITY));
    let path = dir().join("identity");
    for at in 0..disk.contents(&path).unwrap().len() {
        let damaged = disk.fork();
        damaged.damage(&path, |bytes| bytes[at] ^= 2);
        let found = identity::load(&*damaged.mount(), dir());
        assert!(matches!(found, Err(StorageError::Corrupt { .. })), "byte {at}: {found:?}");
    }
}

/// A crash leaves a segment as long as it was made; only damage shortens it, and then what is missing may
/// have been acknowledged.
#[tokio::test(start_paused = true)]
async fn a_segment_that_was_cut_is_refused() {
    let disk = disk_with_a_last_group().await;
    let (path, records) = last_segment(&disk);
    let before_the_last = records.last().expect("a record").offset;
    for length in [before_the_last, records[2].offset, disk.contents(&path).unwrap().len() - 1] {
        let cut = disk.fork();
        cut.damage(&path, |bytes| bytes.truncate(length));
        assert_eq!(refusal(&cut).0, path, "cut to {length} bytes");
    }
}

/// What a start moves leaves the last file without an entry, so that nothing of the log may be there but where it stands.
#[tokio::test(start_paused = true)]
async fn a_log_whose_only_file_with_entries_is_gone_says_which_are_missing() {
    for (first, last) in [(0, 9), (4, 9)] {
        let disk = MemoryDisk::new();
        let mut log = open(&disk);
        append_each(&mut log, (0..=last).map(|index| entry(1, index, 900))).await;
        if first > 0 {
            log.purge(log_id(1, first - 1)).await.unwrap();
        }
        log.close().await.unwrap();
        drop(log);
        disk.kill();
        open(&disk).close().await.unwrap();
        disk.kill();
        let with_entries = segments(&disk).first().cloned().expect("a segment");
        disk.mount().remove(&with_entries).unwrap();
        match open_mount(disk.mount()) {
            Err(StorageError::Corrupt { why, .. }) => {
                assert!(why.starts_with(&format!("entries {first} to {last} are in no segment")), "{why}");
            }
            other => panic!("expected a refusal to start, got {other:?}"),
        }
    }
}
