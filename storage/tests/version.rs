//! A data directory belongs to a cluster version; programs that do not serve it leave it alone.

#![allow(clippy::unwrap_used, reason = "nothing in these tests may fail")]

mod state_support;

use openraft::storage::{RaftLogStorageExt, RaftStateMachine};
use state_support::{IDENTITY, entry_of, options, proposal, put_item, sku, start_with};
use std::path::Path;
use stockroom_storage::codec::{self, ProposalBytes};
use stockroom_storage::error::StorageError;
use stockroom_storage::reader::Fingerprint;
use stockroom_storage::shop::command::Command;
use stockroom_storage::shop::ids::IdempotencyKey;
use stockroom_storage::shop::version::{ClusterVersion, SERVED, Versions};
use stockroom_storage::{Storage, StorageOptions, open};

/// A later program, which serves one version more than this one.
fn later(dir: &Path) -> StorageOptions {
    let newest = ClusterVersion(SERVED.newest.0 + 1);
    StorageOptions { served: Versions { newest, ..SERVED }, ..options(dir) }
}

fn raise(to: u32) -> Vec<ProposalBytes> {
    vec![codec::encode_proposal(None, Command::RaiseClusterVersion(ClusterVersion(to)))]
}

async fn apply(storage: &mut Storage, index: u64, proposals: &[ProposalBytes]) -> std::io::Result<()> {
    let entry = entry_of(index, proposals);
    storage.log.blocking_append([entry.clone()]).await?;
    storage.state_machine.apply(futures::stream::iter([Ok((entry, None))])).await
}

fn fingerprint(storage: &Storage) -> Fingerprint {
    storage.reader.applied().fingerprint
}

/// Every file below a directory, with its bytes.
fn contents(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push((path.clone(), std::fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn the_program_before_can_go_on_until_a_version_is_raised_and_never_after() {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = start_with(later(dir.path())).await;
    apply(&mut storage, 1, &[proposal("k1", put_item(sku(1)))]).await.unwrap();
    storage.close().await.unwrap();
    drop(storage);

    let mut back = start_with(options(dir.path())).await;
    apply(&mut back, 2, &[proposal("k2", put_item(sku(2)))]).await.unwrap();
    back.close().await.unwrap();
    drop(back);

    let next = SERVED.newest.0 + 1;
    let mut storage = start_with(later(dir.path())).await;
    apply(&mut storage, 3, &raise(next)).await.unwrap();
    assert_eq!(storage.reader.applied().cluster_version, ClusterVersion(next));
    // As after a power loss: nothing of the entry needs to be anywhere but in the log and the file that says so.
    drop(storage);
    let storage = start_with(later(dir.path())).await;
    storage.close().await.unwrap();
    drop(storage);

    let before = contents(dir.path());
    let refused = open(options(dir.path()), &IDENTITY).await.unwrap_err();
    let StorageError::Version(why) = &refused else { panic!("{refused}") };
    assert!(why.contains(&format!("version {next}")) && why.contains("too old"), "{why}");
    assert_eq!(contents(dir.path()), before, "it was left as it was");
    start_with(later(dir.path())).await.close().await.unwrap();
}

#[tokio::test]
async fn a_program_that_is_too_old_stops_before_the_entry_that_raises() {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = start_with(options(dir.path())).await;
    apply(&mut storage, 1, &[proposal("k1", put_item(sku(1)))]).await.unwrap();
    let before = fingerprint(&storage);
    let stopped = apply(&mut storage, 2, &raise(SERVED.newest.0 + 1)).await.unwrap_err();
    assert!(stopped.to_string().contains("too old"), "{stopped}");
    assert_eq!(fingerprint(&storage), before);
    drop(storage);
    // Nothing is lost by that: a later program goes on where it stopped.
    let mut storage = start_with(later(dir.path())).await;
    let entry = entry_of(2, &raise(SERVED.newest.0 + 1));
    storage.state_machine.apply(futures::stream::iter([Ok((entry, None))])).await.unwrap();
    assert_eq!(storage.reader.applied().cluster_version, ClusterVersion(SERVED.newest.0 + 1));
}

#[tokio::test]
async fn a_program_that_begins_with_a_later_version_is_too_new() {
    let dir = tempfile::tempdir().unwrap();
    start_with(options(dir.path())).await.close().await.unwrap();
    let next = ClusterVersion(SERVED.newest.0 + 1);
    let newer = StorageOptions { served: Versions { oldest: next, newest: next }, ..options(dir.path()) };
    let refused = open(newer, &IDENTITY).await.unwrap_err();
    assert!(refused.to_string().contains("step by step"), "{refused}");
}

/// Bytes of a proposal under this key, of a command with this tag and nothing else.
fn with_tag(key: &str, tag: u8) -> ProposalBytes {
    let tick = codec::encode_proposal(Some(IdempotencyKey::new(key).unwrap()), Command::Tick).0;
    let (tag_of_tick, rest) = tick.split_last().unwrap();
    assert_eq!(*tag_of_tick, 18, "the tag of a command that has nothing else comes last");
    ProposalBytes([rest, &[tag]].concat().into())
}

/// The tag after all that have been released: of no command, or of one that only a `next-version` build knows and that is
/// not in force. Either does nothing at all, so that nodes with either program stay the same.
const OF_A_LATER_PROGRAM: u8 = 22;

#[tokio::test]
async fn a_command_of_a_later_program_does_nothing_and_its_key_stays_free() {
    let after = async |proposals: &[ProposalBytes]| {
        let dir = tempfile::tempdir().unwrap();
        let mut storage = start_with(options(dir.path())).await;
        apply(&mut storage, 1, proposals).await.unwrap();
        fingerprint(&storage)
    };
    let put = proposal("k", put_item(sku(1)));
    for tag in [OF_A_LATER_PROGRAM, 240] {
        let unknown = with_tag("k", tag);
        assert_eq!(after(std::slice::from_ref(&unknown)).await, after(&[]).await);
        assert_eq!(
            after(&[unknown.clone(), put.clone(), unknown]).await,
            after(std::slice::from_ref(&put)).await
        );
    }
}

#[tokio::test]
async fn what_cannot_be_read_for_any_other_reason_stops_the_node() {
    let whole = proposal("k", put_item(sku(1))).0;
    let (shorter, longer) = (whole.slice(..whole.len() - 1), [&whole[..], &[0]].concat().into());
    for bytes in [shorter, longer, [&[9], &whole[1..]].concat().into()] {
        let dir = tempfile::tempdir().unwrap();
        let mut storage = start_with(options(dir.path())).await;
        let stopped = apply(&mut storage, 1, &[ProposalBytes(bytes)]).await.unwrap_err();
        assert!(stopped.to_string().contains("cannot be read"), "{stopped}");
    }
}
