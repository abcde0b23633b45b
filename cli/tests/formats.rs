//! How everything is printed: four formats, colours only where somebody sees them, and no noise when a reader leaves.

#![allow(clippy::unwrap_used, reason = "clippy knows #[test] functions only, not what they call")]

mod fake;

use fake::{Fake, stderr, stdout};
use serde_json::{Value, json};
use std::{
    fs::File,
    process::{Command, Stdio},
};

/// Three nodes, of which the third is behind by more than it should be.
fn cluster() -> Fake {
    let fake = Fake::start();
    let members: Vec<Value> = (1..=3u64)
        .map(|id| {
            json!({"id": id, "http_address": fake.endpoints[id as usize - 1], "peer_address": format!("p{id}:1"), "role": "voter",
                "report": {"applied_index": 7 + id, "digest": "d7", "state_hash": "s7", "lag": if id == 3 { 5_000 } else { 0 },
                    "version": "0.1.0", "heard_ms_ago": 3, "sync_us": 900, "clock_offset_ms": 1}})
        })
        .collect();
    let quorum = json!({"voters": 3, "majority": 2, "live": 3, "fault_tolerance": 1});
    let plan = json!({"id": 3, "change": "remove", "done": false, "already": false, "before": quorum, "after": quorum,
        "unsafe": [{"code": "x", "why": "because", "instead": "wait", "forceable": true}], "notes": ["n"], "join": ["p1:1"]});
    let log =
        json!({"first_index": 1, "last_index": 9, "committed_index": 9, "applied_index": 8, "bytes": 500});
    for node in 1..=3 {
        fake.can(node, "/v1/cluster", 200, json!({"cluster_id": "c", "node_id": node, "leader": 2, "term": 4, "committed": 9, "members": members}));
        fake.can(node, "/readyz", 200, "ok");
        fake.can(node, "/metrics", 200, "process_max_fds 65536\n");
        fake.can(node, "/v1/cluster/members/3/plan", 200, &plan);
        let items = json!([
            {"index": 8, "term": 4, "state": "applied", "kind": "blank", "bytes": 0},
            {"index": 9, "term": 4, "state": "committed", "kind": "commands", "bytes": 90, "stamped_at": "2026-01-01T00:00:00.000Z",
                "counts": {"pay_order": 1}, "commands": [{"key": "k", "command": "pay_order", "fields": {"id": "A-1"}}]},
        ]);
        fake.can(
            node,
            "/v1/admin/log/entries",
            200,
            json!({"node_id": node, "log": log, "items": items, "next_from": null}),
        );
        let snapshot = json!({"log_index": 5, "digest": "d5", "state_hash": "s5", "bytes": 4_000, "own_bytes": 400,
            "written_at": "2026-01-01T00:00:00.000Z", "age_ms": 61_000});
        fake.can(
            node,
            "/v1/admin/snapshot",
            200,
            json!({"node_id": node, "snapshot": snapshot, "writing_index": null, "log": log}),
        );
        let verdict = json!({"verdict": "clean", "findings": [], "log_index": 7, "digest": "d7", "state_hash": "s7", "checked": {"orders": 5}});
        fake.can(node, "/v1/audit", 200, format!("{verdict}\n"));
        let order = json!({"id": "A-1", "status": "paid", "currency": "EUR", "lines": [], "due_minor": 5});
        fake.can(node, "/v1/orders/A-1", 200, order);
    }
    fake.shop().stock.insert(("mug".into(), "main".into()), (10, 4));
    fake
}

/// A command, how it ends, and the list whose elements are lines of NDJSON.
const COMMANDS: [(&[&str], i32, &str); 14] = [
    (&["status"], 0, "nodes"),
    (&["members"], 0, "members"),
    (&["member", "list"], 0, "members"),
    (&["member", "remove", "3", "--plan"], 7, ""),
    (&["member", "replace", "3", "--plan"], 7, ""),
    (&["doctor"], 8, "findings"),
    (&["leader", "show"], 0, ""),
    (&["log", "--node", "1"], 0, "items"),
    (&["snapshot", "list"], 0, "nodes"),
    (&["snapshot", "show", "2"], 0, ""),
    (&["snapshot", "create", "1"], 0, "nodes"),
    (&["stock", "mug"], 0, "items"),
    (&["order", "A-1"], 0, ""),
    (&["audit", "verify"], 0, "nodes"),
];

#[test]
fn every_command_says_the_same_in_every_format() {
    let fake = cluster();
    for (args, exit, rows) in COMMANDS {
        let run = |format: &str| {
            let output = fake.run(&[&["-o", format], args].concat());
            assert_eq!(
                output.status.code(),
                Some(exit),
                "{format} {args:?}\n{}{}",
                stdout(&output),
                stderr(&output)
            );
            // An error goes to stderr, in the same format.
            if output.stdout.is_empty() { stderr(&output) } else { stdout(&output) }
        };
        let value: Value = serde_json::from_str(&run("json")).unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(&run("yaml")).unwrap(), value, "{args:?}");
        let lines: Vec<Value> =
            run("ndjson").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        match value[rows].as_array() {
            Some(rows) => assert_eq!(&lines, rows, "{args:?}"),
            None => assert_eq!(lines, std::slice::from_ref(&value), "{args:?}"),
        }
        assert!(!run("table").trim_start().starts_with('{'), "{args:?}");
    }
}

#[test]
fn no_colours_off_a_terminal_unless_they_are_asked_for() {
    let fake = cluster();
    for (args, ..) in COMMANDS {
        let output = fake.run(args);
        assert!(!stdout(&output).contains('\x1b') && !stderr(&output).contains('\x1b'), "{args:?}");
    }
    let output = fake.run(&["--color", "always", "doctor"]);
    assert!(stdout(&output).contains("\x1b[1m\x1b[31mFINDING:\x1b[0m lag (node 3)"), "{:?}", stdout(&output));
    let output = fake.run(&["--color", "always", "-o", "json", "doctor"]);
    assert!(!stdout(&output).contains('\x1b'), "programs read no colours");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let fake = cluster();
    let mut child = Command::new(env!("CARGO_BIN_EXE_stockctl"))
        .env("STOCKROOM_ENDPOINTS", fake.endpoints.join(","))
        .args(["status"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let fake = cluster();
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_stockctl"))
            .env("STOCKROOM_ENDPOINTS", fake.endpoints.join(","))
            .env("HOME", home.path())
            .args(args)
            .stdout(File::options().write(true).open("/dev/full").unwrap())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        stderr(&output)
    };
    let pages = home.path().join("man");
    let man = ["man", "--dir", pages.to_str().unwrap()];
    for args in [&["status"][..], &["-o", "ndjson", "status"], &["completions", "bash"], &["man"], &man] {
        assert!(run(args).contains("standard output: No space left"), "{args:?}");
    }
    let problem: Value = serde_json::from_str(&run(&["-o", "json", "context", "show"])).unwrap();
    assert_eq!(problem["code"], json!("file"));
}

#[test]
fn errors_are_told_in_the_format_that_was_asked_for() {
    let problem = |format: &str| {
        let output = fake::stockctl("127.0.0.1:1", &["-o", format, "status"]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(3), String::new()));
        stderr(&output)
    };
    for value in [
        serde_json::from_str::<Value>(&problem("json")).unwrap(),
        serde_json::from_str(problem("ndjson").trim_end()).unwrap(),
        serde_saphyr::from_str(&problem("yaml")).unwrap(),
    ] {
        assert_eq!((&value["code"], &value["definite"]), (&json!("unreachable"), &json!(true)));
    }
    assert_eq!(problem("ndjson").lines().count(), 1);
}
