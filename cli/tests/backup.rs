//! Taking backups and exports: a file or directory has its name only when it is whole.

#![allow(clippy::unwrap_used, reason = "clippy knows #[test] functions only, not what they call")]

mod fake;

use fake::{Fake, stderr, stdout};
use serde_json::{Value, json};
use std::path::Path;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// A backup as a node writes it. The fake serves text, so all of it is: sums are searched for that are.
fn backup() -> Vec<u8> {
    let block = vec![b'r'; 3_000];
    let about = json!({"format": 1, "cluster_id": "c".repeat(32), "log_index": 7, "digest": "d", "state_hash": "s",
        "orders_placed": 5, "snapshot_bytes": block.len(), "node_id": 2, "version": "0.1.0",
        "created_at": "2026-11-21T10:20:30Z"});
    let json = about.to_string().into_bytes();
    let mut file = b"STKBAK01".to_vec();
    file.extend((json.len() as u32).to_le_bytes());
    file.extend(xxh3_64(&json).to_le_bytes());
    file.extend(json);
    for number in [block.len() as u32; 2] {
        file.extend(number.to_le_bytes());
    }
    file.extend(xxh3_64(&block).to_le_bytes());
    file.extend(&block);
    file.extend(0u32.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend((block.len() as u64).to_le_bytes());
    let whole = xxh3_128(&file);
    file.extend(whole.to_le_bytes());
    file
}

/// A cluster of which each node gives this backup.
fn with_backup(file: &[u8]) -> Fake {
    let fake = Fake::start();
    for node in 1..=3 {
        fake.can_bytes(node, "/v1/admin/backup", 200, file);
    }
    fake
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_whole_backup_gets_its_name_and_its_checksums_can_be_proved() {
    let dir = tempfile::tempdir().unwrap();
    let fake = with_backup(&backup());
    let output = fake.run(&["backup", "create", "--to", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("stockroom verify"), "{}", stdout(&output));
    assert_eq!(names(dir.path()), ["stockroom-cccccccc-000000000007-20261121T102030Z.bak"]);
    let file = dir.path().join(&names(dir.path())[0]);
    let file = file.to_str().unwrap();
    let about = fake.json(&["backup", "verify", "--checksums-only", file]);
    assert_eq!((&about["log_index"], &about["orders_placed"]), (&json!(7), &json!(5)));
    std::fs::write(file, &backup()[..2_000]).unwrap();
    let output = fake.run(&["backup", "verify", "--checksums-only", file]);
    assert_eq!(output.status.code(), Some(8), "{}", stderr(&output));
    assert!(stderr(&output).contains("ends too soon"), "{}", stderr(&output));
    let output = fake.run(&["backup", "verify", "/nowhere.bak"]);
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
}

#[test]
fn what_breaks_off_or_is_changed_on_its_way_leaves_nothing() {
    let whole = backup();
    let mut changed = whole.clone();
    changed[1_000] ^= 1;
    for (bad, exit) in
        [(&whole[..whole.len() - 1], 3), (&whole[..50], 3), (&b"<html>"[..], 1), (&changed[..], 1)]
    {
        let dir = tempfile::tempdir().unwrap();
        let fake = with_backup(bad);
        let to = dir.path().join("monday.bak");
        let output = fake.run(&["backup", "create", "--to", to.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(exit), "{}", stderr(&output));
        assert_eq!(names(dir.path()), [""; 0], "{}", stderr(&output));
    }
}

#[test]
fn a_file_that_is_there_is_replaced_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("monday.bak");
    std::fs::write(&to, "mine").unwrap();
    let fake = with_backup(&backup());
    let args = ["backup", "create", "--to", to.to_str().unwrap()];
    let output = fake.run(&args);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(&to).unwrap(), "mine");
    let output = fake.run(&[&args[..], &["--overwrite"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(std::fs::read(&to).unwrap(), backup());
}

#[test]
fn a_node_that_cannot_give_one_is_passed_over_and_all_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let fake = with_backup(&backup());
    let problem = json!({"code": "no_leader", "title": "No leader", "detail": "none", "definite": true});
    fake.can(1, "/v1/admin/backup", 503, &problem);
    fake.can(2, "/v1/admin/backup", 503, &problem);
    let to = dir.path().join("monday.bak");
    let args = ["backup", "create", "--to", to.to_str().unwrap()];
    assert_eq!(fake.run(&args).status.code(), Some(0));
    fake.can(3, "/v1/admin/backup", 503, &problem);
    let output = fake.run(&[&args[..], &["--overwrite"]].concat());
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("--consistency stale"), "{}", stderr(&output));
}

fn exported(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn an_export_is_a_directory_of_files_or_nothing() {
    let end = json!({"end": {"cluster_id": "c", "log_index": 7, "lines": {"items": 2, "stock": 1}}});
    let mut lines = vec![json!({"section": "items"}), json!({"sku": "a"}), json!({"sku": "b"})];
    lines.extend([json!({"section": "stock"}), json!({"sku": "a", "on_hand": 1}), end]);
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("monday");
    let args = ["export", "--to", to.to_str().unwrap()];
    let serve = |lines: &[Value]| {
        let fake = Fake::start();
        (1..=3).for_each(|node| fake.can(node, "/v1/admin/export", 200, exported(lines)));
        fake
    };
    for bad in [&lines[..5], &[&lines[..2], &lines[3..]].concat(), &lines[1..], &[json!({"section": "../x"})]]
    {
        let output = serve(bad).run(&args);
        assert_ne!(output.status.code(), Some(0), "{bad:?}");
        assert_eq!(names(dir.path()), [""; 0], "{}", stderr(&output));
    }
    let fake = serve(&lines);
    let output = fake.run(&args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(to.join("items.ndjson")).unwrap(), exported(&lines[1..3]));
    assert_eq!(std::fs::read_to_string(to.join("stock.ndjson")).unwrap(), exported(&lines[4..5]));
    let about: Value = serde_json::from_slice(&std::fs::read(to.join("about.json")).unwrap()).unwrap();
    assert_eq!(about, lines[5]["end"]);
    assert_eq!(fake.run(&args).status.code(), Some(4), "there already");
}
