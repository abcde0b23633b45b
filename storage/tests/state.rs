//! One node's state through crashes, damage, checkpoints and snapshots: always the same sum.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod state_support;

use futures::stream;
use openraft::alias::EntryOf;
use openraft::entry::{EntryPayload, RaftEntry};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use state_support::*;
use stockroom_storage::open;
use stockroom_storage::shop::command::Command;
use stockroom_storage::shop::ids::{CustomerId, OrderName};
use stockroom_storage::shop::order::OrderStatus;
use stockroom_storage::type_config::{BatchBytes, TypeConfig};

#[tokio::test]
async fn a_directory_that_is_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _storage = start(dir.path()).await;
    let error = open(options(dir.path()), &IDENTITY).await.unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
}

#[tokio::test]
async fn a_node_that_crashes_again_and_again_comes_to_the_same_state() {
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
    let dir = tempfile::tempdir().unwrap();
    let mut storage = start(dir.path()).await;
    let before = run(&mut storage, 60).await;
    storage.close().await.unwrap();
    drop(storage);
    let storage = start(dir.path()).await;
    assert_eq!(storage.reader.applied().fingerprint, before);
    check_clean(&storage).await;
}

#[tokio::test]
async fn state_that_is_gone_is_built_anew_from_snapshot_and_log() {
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
async fn without_state_and_snapshot_a_purged_node_asks_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let before = purged_node(dir.path()).await;
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let file = std::fs::read_dir(dir.path().join("snapshot")).unwrap().map(|entry| entry.unwrap().path());
    let file = file.into_iter().find(|path| path.extension().is_some_and(|e| e == "snap")).unwrap();
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

#[tokio::test]
async fn an_installed_snapshot_and_the_log_behind_it_come_to_the_same_state() {
    let (leader_dir, follower_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (leader, at_end, mut follower) = leader_and_straggler(leader_dir.path(), follower_dir.path()).await;
    install(&leader, &mut follower, 10_000).await;
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
    for (status, limit) in [(None, 1), (None, 5), (Some(OrderStatus::Paid), 1), (Some(OrderStatus::Paid), 3)]
    {
        let expected = of_customer.iter().filter(|order| status.is_none_or(|status| order.status == status));
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let page = view.orders(Some(&customer), status, after, limit).unwrap();
            assert!(page.rows.len() <= limit);
            found.extend(page.rows);
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert!(found.iter().eq(expected), "{status:?}, {limit} a page");
    }
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

#[tokio::test]
async fn pages_of_movements_miss_nothing_where_one_stock_moves_far_more_than_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = start(dir.path()).await;
    // The rare stock moved first and last; in between, the busy one moves more often than one page
    // may look at.
    let receive = |sku, n| Command::Receive(vec![line(sku, n)]);
    let mut entries = vec![
        vec![proposal("i0", put_item(sku(0))), proposal("i1", put_item(sku(1)))],
        vec![proposal("rare", receive(sku(0), 5)), proposal("busy", receive(sku(1), 1_000_000))],
    ];
    for n in 0..24u64 {
        entries.push((0..450).map(|k| proposal(&format!("{n}-{k}"), place(None, None, sku(1), 1))).collect());
    }
    entries.push(vec![proposal("rare-again", receive(sku(0), 7))]);
    for (index, proposals) in (1..).zip(&entries) {
        let entry = entry_of(index, proposals);
        storage.log.blocking_append([entry.clone()]).await.unwrap();
        storage.state_machine.apply(stream::iter([Ok((entry, None))])).await.unwrap();
    }
    let view = storage.reader.view().unwrap();
    for skus in [vec![sku(0), sku(1)], vec![sku(1)], vec![sku(0)]] {
        let (mut before, mut seen, mut pages) = (None, Vec::new(), 0);
        loop {
            let page = view.movements(&skus, None, before, 1_000).unwrap();
            pages += 1;
            seen.extend(page.rows);
            match page.next {
                Some(next) => before = Some(next),
                None => break,
            }
        }
        assert!(pages <= 14, "{pages} pages");
        let of_rare = if skus.contains(&sku(0)) { 2 } else { 0 };
        let of_busy = if skus.contains(&sku(1)) { 1 + 24 * 450 } else { 0 };
        assert_eq!(seen.len(), of_rare + of_busy);
        assert!(seen.is_sorted_by(|a, b| a.0 > b.0), "newest first, none twice");
    }
}

#[tokio::test]
async fn an_entry_is_neither_applied_twice_nor_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = start(dir.path()).await;
    let before = run(&mut storage, 10).await;
    for wrong in [10, 12] {
        let error = storage.state_machine.apply(stream::iter([Ok((entry(wrong), None))])).await.unwrap_err();
        assert!(error.to_string().contains("was to be applied after"), "{error}");
        assert_eq!(storage.reader.applied().fingerprint, before);
    }
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_stops_the_node_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = start(dir.path()).await;
    let before = run(&mut storage, 10).await;
    let payload = EntryPayload::Normal(BatchBytes(bytes::Bytes::from_static(b"\x01 not a batch")));
    let unreadable = EntryOf::<TypeConfig>::new(log_id(11), payload);
    let error = storage.state_machine.apply(stream::iter([Ok((unreadable, None))])).await.unwrap_err();
    assert!(error.to_string().contains("entry 1.11 cannot be read"), "{error}");
    assert_eq!(storage.reader.applied().fingerprint, before);
}
