//! What is shown of cluster, stock and orders, and how the process ends.

#![allow(clippy::unwrap_used, reason = "clippy knows #[test] functions only, not what they call")]

mod fake;

use fake::{Fake, stderr, stdout};
use serde_json::{Value, json};

/// Every node answers for the cluster; node `n` says what `change` makes of it.
fn with_cluster(change: impl Fn(u64, &mut Value)) -> Fake {
    let fake = Fake::start();
    for node in 1..=3u64 {
        let members: Vec<Value> = (1..=3u64)
            .map(|id| {
                json!({"id": id, "http_address": fake.endpoints[id as usize - 1], "peer_address": "127.0.0.1:1", "role": "voter",
                    "report": {"applied_index": 7, "digest": "d7", "state_hash": "s7", "lag": 0, "version": "0.1.0", "heard_ms_ago": 3}})
            })
            .collect();
        let mut view =
            json!({"cluster_id": "c", "node_id": node, "leader": 2, "term": 4, "members": members});
        change(node, &mut view);
        fake.can(node, "/v1/cluster", 200, view);
        fake.can(node, "/readyz", 200, "ok");
    }
    fake
}

fn audited(fake: &Fake, node: u64, verdict: Value) {
    let progress = json!({"progress": {"done": 1, "total": 2, "what": "orders"}});
    fake.can(node, "/v1/audit", 200, format!("{progress}\n{verdict}\n"));
}

fn clean(index: u64, digest: &str) -> Value {
    json!({"verdict": "clean", "findings": [], "log_index": index, "digest": digest, "state_hash": "s", "checked": {"orders": 5},
        "fingerprints": [{"log_index": 7, "digest": "d7", "state_hash": "s"}]})
}

#[test]
fn status_shows_each_node_and_who_leads() {
    let fake = with_cluster(|_, _| {});
    let output = fake.run(&["status"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    assert_eq!(text.lines().filter(|line| line.contains("d7") && line.contains("yes")).count(), 3, "{text}");
    assert!(
        text.lines().any(|line| line.trim_start().starts_with("2 ") && line.contains("leader")),
        "{text}"
    );
    assert_eq!(fake.json(&["status"])["leader"], json!(2));
}

#[test]
fn no_leader_and_nobody_there_end_with_3() {
    let fake = with_cluster(|_, view| view["leader"] = Value::Null);
    let output = fake.run(&["status"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout(&output).contains("no leader"), "the table is still shown");
    let output = fake::stockctl("127.0.0.1:1", &["status"]);
    assert_eq!(output.status.code(), Some(3));
    let output = fake::stockctl("127.0.0.1:1", &["-o", "json", "status"]);
    let problem: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&problem["code"], &problem["definite"]), (&json!("unreachable"), &json!(true)));
}

#[test]
fn disagreement_is_seen() {
    let fake = with_cluster(|node, view| {
        if node == 3 {
            view["members"][2]["report"]["digest"] = json!("other");
        }
    });
    let output = fake.run(&["status"]);
    assert_eq!(output.status.code(), Some(8));
    assert!(stdout(&output).contains("differ in digest at index 7"), "{}", stdout(&output));
    let fake = with_cluster(|node, view| {
        if node == 1 {
            view["leader"] = json!(1);
            view["term"] = json!(3);
        }
    });
    let output = fake.run(&["status"]);
    assert_eq!(output.status.code(), Some(0), "an older term is old news, not a finding");
    assert!(stdout(&output).contains("node 1 says: node 1 leads, term 3"), "{}", stdout(&output));
}

#[test]
fn an_audit_of_nodes_that_agree_is_clean() {
    let fake = with_cluster(|_, _| {});
    audited(&fake, 1, clean(9, "d9"));
    audited(&fake, 2, clean(8, "d8"));
    audited(&fake, 3, clean(7, "d7"));
    let report = fake.json(&["audit", "verify"]);
    assert_eq!((&report["agree"], &report["compared_at_index"]), (&json!(true), &json!(7)));
    assert_eq!(fake.json(&["audit", "verify", "2"])["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(fake.run(&["audit", "verify", "9"]).status.code(), Some(5), "no such node");
}

#[test]
fn findings_and_differing_nodes_end_with_8() {
    let fake = with_cluster(|_, _| {});
    (1..=3).for_each(|node| audited(&fake, node, clean(9, "d9")));
    assert_eq!(fake.run(&["audit", "verify"]).status.code(), Some(0));
    audited(&fake, 3, clean(9, "other"));
    let output = fake.run(&["audit", "verify"]);
    assert_eq!(output.status.code(), Some(8));
    assert!(stdout(&output).contains("node 3 has digest other"), "{}", stdout(&output));
    let mut found = clean(9, "d9");
    found["verdict"] = json!("findings");
    found["findings"] = json!(["mug at main: on_hand is 4, movements say 5"]);
    audited(&fake, 3, found);
    fake.can(1, "/v1/audit", 503, json!({"code": "starting", "definite": true}));
    let output = fake.run(&["audit", "verify"]);
    assert_eq!(output.status.code(), Some(8), "a node that cannot be asked hides no finding");
    assert!(stdout(&output).contains("movements say 5"), "{}", stdout(&output));
}

#[test]
fn an_audit_that_is_cut_off_is_no_verdict() {
    let fake = with_cluster(|_, _| {});
    (1..=3).for_each(|node| audited(&fake, node, clean(9, "d9")));
    fake.can(2, "/v1/audit", 200, "{\"progress\":{\"done\":1,\"total\":2,\"what\":\"orders\"}}\n");
    assert_eq!(fake.run(&["audit", "verify"]).status.code(), Some(3));
}

#[test]
fn another_nodes_answer_is_not_taken_for_its_own() {
    let fake = with_cluster(|_, view| {
        view["members"][2]["http_address"] = view["members"][0]["http_address"].clone();
    });
    let log = json!({"first_index": 1, "last_index": 9, "applied_index": 9});
    for node in 1..=3 {
        audited(&fake, node, clean(9, "d9"));
        fake.can(node, "/v1/admin/snapshot", 200, json!({"node_id": node, "snapshot": null, "log": log}));
        fake.can(node, "/v1/admin/log/entries", 200, json!({"node_id": node, "items": [], "log": log}));
    }
    let why =
        format!("{} is the address that node 3 advertises, and node 1 answers there", fake.endpoints[0]);
    let commands = [
        &["audit", "verify"][..],
        &["log", "--node", "3"],
        &["snapshot", "show", "3"],
        &["snapshot", "create", "3"],
    ];
    for command in commands {
        let output = fake.run(command);
        assert_eq!(output.status.code(), Some(1), "{command:?}\n{}", stdout(&output));
        let text = stderr(&output);
        assert!(
            text.contains(&why) && text.contains("next: set http_advertise of node 3"),
            "{command:?}\n{text}"
        );
    }
    let posted =
        |path: &str| fake.shop().calls.iter().any(|(_, method, asked, ..)| method == "POST" && asked == path);
    assert!(!posted("/v1/admin/snapshot"), "no other node writes a snapshot in its place");
    let listed = fake.run(&["snapshot", "list"]);
    assert_eq!(listed.status.code(), Some(3));
    assert!(stdout(&listed).contains(&format!("note: node 3: {why}")), "{}", stdout(&listed));
    assert_eq!(fake.run(&["log", "--node", "1"]).status.code(), Some(0));
}

#[test]
fn stock_and_orders_are_shown_at_the_level_that_is_asked_for() {
    let fake = Fake::start();
    fake.shop().stock.insert(("mug".into(), "main".into()), (10, 4));
    let output = fake.run(&["stock", "mug", "--consistency", "bounded", "--max-staleness-ms", "250"]);
    let row: Vec<String> =
        stdout(&output).lines().nth(1).unwrap().split_whitespace().map(Into::into).collect();
    assert_eq!(row, ["mug", "main", "10", "0", "4", "6"]);
    let headers = fake.shop().calls.last().unwrap().3.clone();
    assert_eq!(headers["stockroom-consistency"], "bounded");
    assert_eq!(headers["stockroom-max-staleness-ms"], "250");
    assert_eq!(headers["stockroom-timeout-ms"], "5000");

    let order = json!({"id": "B 1", "status": "paid", "currency": "USD", "due_minor": 1250, "paid_minor": 1250,
        "lines": [{"sku": "mug", "location": "main", "quantity": 2, "shipped": 0, "returned": 0, "amount_minor": 1250}]});
    (1..=3).for_each(|node| fake.can(node, "/v1/orders/B%201", 200, &order));
    assert!(stdout(&fake.run(&["order", "B 1"])).contains("12.50"));
    assert_eq!(fake.json(&["order", "B 1"]), order);
    let output = fake.run(&["order", "nobody"]);
    assert_eq!(output.status.code(), Some(5));
    assert!(stderr(&output).contains("request id: r-1"), "{}", stderr(&output));
}

#[test]
fn a_read_that_nobody_can_answer_in_time_ends_with_3() {
    let fake = Fake::start();
    let late = json!({"code": "timeout", "title": "Too late", "definite": false});
    (1..=3).for_each(|node| fake.can(node, "/v1/cluster", 504, &late));
    assert_eq!(fake.run(&["status"]).status.code(), Some(3));
}

#[test]
fn movements_are_paged_up_to_the_limit() {
    let fake = Fake::start();
    let movement = json!({"sku": "mug", "location": "main", "kind": "received", "quantity": 5, "on_hand_after": 5,
        "reserved_after": 0, "allocated_after": 0, "log_index": 2, "at": "2026-01-01T00:00:00.000Z", "cause": {"key": "k1"}});
    (1..=3).for_each(|node| {
        fake.can(node, "/v1/movements", 200, json!({"items": [movement], "next_cursor": "a b"}))
    });
    let report = fake.json(&["stock", "mug", "--movements", "--limit", "3"]);
    assert_eq!(report["items"].as_array().unwrap().len(), 3);
    assert!(fake.shop().calls.last().unwrap().2.ends_with("limit=1&cursor=a%20b"));
    assert!(stdout(&fake.run(&["stock", "mug", "--movements", "--limit", "1"])).contains("key k1"));
}

#[test]
fn a_command_line_that_makes_no_sense_ends_with_2() {
    for args in [
        &["stock"][..],
        &["nothing"],
        &["--endpoints", "https://a", "status"],
        &["stock", "a", "--consistency", "bounded"],
    ] {
        assert_eq!(fake::stockctl("127.0.0.1:1", args).status.code(), Some(2), "{args:?}");
    }
}
