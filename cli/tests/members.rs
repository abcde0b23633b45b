//! What is shown and asked of the members and of leadership, and how the process ends.

#![allow(clippy::unwrap_used, reason = "clippy knows #[test] functions only, not what they call")]

mod fake;

use fake::{Fake, stderr, stdout};
use serde_json::{Value, json};

/// Members by (id, role, heard ms ago), as node 2 sees them, which leads.
fn with_members(members: &[(u64, &str, u64)]) -> Fake {
    let fake = Fake::start();
    for node in 1..=3u64 {
        let members: Vec<Value> = members
            .iter()
            .map(|(id, role, heard)| {
                json!({"id": id, "http_address": format!("h{id}:1"), "peer_address": format!("p{id}:2"), "role": role,
                    "report": {"applied_index": 7, "digest": "d", "state_hash": "s", "lag": 0, "version": "0.1.0",
                        "heard_ms_ago": heard, "sync_us": 1234, "clock_offset_ms": -3}})
            })
            .collect();
        fake.can(
            node,
            "/v1/cluster",
            200,
            json!({"cluster_id": "c", "node_id": node, "leader": 2, "term": 4, "members": members}),
        );
    }
    fake
}

fn can_all(fake: &Fake, path: &str, status: u16, body: &Value) {
    (1..=3).for_each(|node| fake.can(node, path, status, body));
}

fn plan(before: (u64, u64), after: (u64, u64), unsafe_because: &Value) -> Value {
    let quorum = |(voters, live): (u64, u64)| {
        let majority = voters / 2 + 1;
        json!({"voters": voters, "majority": majority, "live": live, "fault_tolerance": live.checked_sub(majority)})
    };
    json!({"id": 3, "change": "remove", "done": false, "already": false, "before": quorum(before), "after": quorum(after),
        "unsafe": unsafe_because, "notes": ["a note"], "join": ["p1:2", "p2:2"]})
}

fn asked(fake: &Fake, path: &str) -> Vec<Value> {
    let shop = fake.shop();
    shop.calls.iter().filter(|(_, _, asked, ..)| asked == path).map(|call| call.4.clone()).collect()
}

#[test]
fn members_are_listed_with_what_the_cluster_can_bear() {
    let fake = with_members(&[(1, "voter", 5), (2, "voter", 0), (3, "voter", 60_000), (4, "learner", 5)]);
    for command in [&["member", "list"][..], &["members"]] {
        let output = fake.run(command);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let text = stdout(&output);
        assert!(text.contains("3 voters, a majority is 2, 2 answer: none may fail"), "{text}");
        assert!(
            text.lines().any(|line| line.contains("p2:2") && line.contains("leader") && line.contains("1.2")),
            "{text}"
        );
        assert!(text.lines().any(|line| line.contains("p3:2") && line.contains("no")), "{text}");
    }
    let shown = fake.json(&["members"]);
    assert_eq!(
        (&shown["quorum"]["fault_tolerance"], &shown["members"][2]["answers"]),
        (&json!(0), &json!(false))
    );
}

#[test]
fn a_plan_shows_the_sums_and_what_is_unsafe_and_changes_nothing() {
    let fake = with_members(&[(1, "voter", 5), (2, "voter", 0), (3, "voter", 5)]);
    let concern = json!([{"code": "loses_fault_tolerance", "why": "none may fail then", "instead": "add one first", "forceable": true}]);
    can_all(&fake, "/v1/cluster/members/3/plan", 200, &plan((3, 3), (2, 2), &concern));
    let output = fake.run(&["member", "remove", "3", "--plan"]);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    let text = stdout(&output);
    for part in [
        "before: 3 voters, a majority is 2, 3 answer: 1 may fail",
        "after:  2 voters, a majority is 2, 2 answer: none may fail",
        "UNSAFE: none may fail then",
        "add one first (--force does it all the same)",
        "nothing was changed",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    assert_eq!(asked(&fake, "/v1/cluster/members/3/remove"), Vec::<Value>::new());
}

#[test]
fn a_refusal_is_in_the_servers_words_and_force_is_passed_on() {
    let fake = with_members(&[(1, "voter", 5), (2, "voter", 0), (3, "voter", 5)]);
    let refused = json!({"title": "The change of members is unsafe", "status": 409, "code": "unsafe_change", "definite": true,
        "detail": "none may fail then", "next_steps": ["add one first"], "request_id": "r"});
    can_all(&fake, "/v1/cluster/members/3/remove", 409, &refused);
    let output = fake.run(&["member", "remove", "3"]);
    assert_eq!(output.status.code(), Some(7));
    let text = stderr(&output);
    assert!(
        text.contains("none may fail then")
            && text.contains("next: add one first")
            && text.contains("definite: yes"),
        "{text}"
    );
    fake.run(&["member", "remove", "3", "--force"]);
    assert_eq!(asked(&fake, "/v1/cluster/members/3/remove"), [json!({}), json!({"force": true})]);
}

#[test]
fn a_dead_node_is_replaced_step_by_step() {
    let fake = with_members(&[(1, "voter", 5), (2, "voter", 0), (3, "voter", 60_000)]);
    can_all(&fake, "/v1/cluster/members/4/plan", 200, &plan((3, 2), (4, 3), &json!([])));
    let output = fake.run(&["member", "replace", "3", "--plan"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    for part in [
        "replace node 3 by node 4",
        "now:                     3 voters, a majority is 2, 2 answer: none may fail",
        "4 voters, a majority is 3, 3 answer: none may fail",
        "3 voters, a majority is 2, 3 answer: 1 may fail",
        "stockroom serve --node-id 4 ",
        "--join p1:2,p2:2",
        "nothing was changed",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    assert_eq!(asked(&fake, "/v1/cluster/members/3/remove"), Vec::<Value>::new());

    // The new one is there: only the last step is left.
    let fake = with_members(&[(1, "voter", 5), (2, "voter", 0), (3, "voter", 60_000), (4, "voter", 5)]);
    can_all(&fake, "/v1/cluster/members/3/remove", 200, &plan((4, 3), (3, 3), &json!([])));
    let output = fake.run(&["member", "replace", "3", "--id", "4"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(
        text.contains("node 4 is a voter") && text.contains("done: node 4 stands in for node 3"),
        "{text}"
    );
    assert_eq!(asked(&fake, "/v1/cluster/members/3/remove").len(), 1);
}

#[test]
fn a_node_that_answers_is_not_replaced_by_mistake() {
    let fake = with_members(&[(1, "voter", 5), (2, "voter", 0), (3, "voter", 5)]);
    let output = fake.run(&["member", "replace", "3"]);
    assert_eq!(output.status.code(), Some(7));
    assert!(stderr(&output).contains("it is not dead"), "{}", stderr(&output));
    assert_eq!(fake.run(&["member", "replace", "9"]).status.code(), Some(5));
    assert_eq!(fake.run(&["member", "replace", "3", "--id", "3"]).status.code(), Some(2));
}

#[test]
fn a_wait_that_is_over_says_how_to_go_on() {
    let fake = with_members(&[(1, "voter", 5), (2, "voter", 0), (3, "voter", 60_000), (4, "learner", 5)]);
    let output = fake.run(&["member", "replace", "3", "--id", "4", "--wait", "0"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout(&output).contains("joined as a learner"), "{}", stdout(&output));
    assert!(stderr(&output).contains("it goes on from here"), "{}", stderr(&output));
}

#[test]
fn leadership_is_shown_and_handed_over() {
    let fake = with_members(&[(1, "voter", 5), (2, "voter", 0), (3, "voter", 5)]);
    let output = fake.run(&["leader", "show"]);
    assert_eq!((output.status.code(), stdout(&output).trim()), (Some(0), "node 2 leads, term 4, at h2:1"));
    let now = json!({"leader": 2, "term": 4, "already": false, "took_ms": 34});
    can_all(&fake, "/v1/cluster/leader/transfer", 200, &now);
    let output = fake.run(&["leader", "transfer", "--to", "2"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("handed over in 34 ms, all nodes that answer follow it after"),
        "{}",
        stdout(&output)
    );
    assert_eq!(asked(&fake, "/v1/cluster/leader/transfer"), [json!({"to": 2})]);
}

#[test]
fn a_node_that_was_not_taken_in_ends_the_wait_with_the_reason() {
    let fake = with_members(&[(1, "voter", 5), (2, "voter", 0), (3, "voter", 5)]);
    can_all(&fake, "/v1/cluster/members/4/plan", 200, &plan((3, 3), (4, 4), &json!([])));
    let mut view = json!({"cluster_id": "c", "node_id": 2, "leader": 2, "term": 4, "members": [], "turned_away": [
        {"id": 4, "peer_address": "p4:2", "why": "node 4 cannot come in: it is too old", "ms_ago": 0}]});
    can_all(&fake, "/v1/cluster", 200, &view);
    let output = fake.run(&["member", "add", "--id", "4"]);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert!(stderr(&output).contains("node 4 cannot come in: it is too old"), "{}", stderr(&output));
    // What was said to it before, when it ran another program, is no reason to give up.
    view["turned_away"][0]["ms_ago"] = json!(600_000);
    can_all(&fake, "/v1/cluster", 200, &view);
    let output = fake.run(&["member", "add", "--id", "4", "--wait", "0"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("not joined since it was turned away"), "{}", stderr(&output));
}
