//! What is shown of an upgrade, and how the process ends.

#![allow(clippy::unwrap_used, reason = "clippy knows #[test] functions only, not what they call")]

mod fake;

use fake::{Fake, stderr, stdout};
use serde_json::{Value, json};

/// What a server works out; `newest` of each member.
fn plan(newest: [u64; 3], done: bool, blocked_by: &Value) -> Value {
    let member = |(id, newest): (u64, u64)| {
        json!({"id": id, "role": "voter", "answers": true, "version": format!("0.{newest}.0"),
            "serves": {"oldest": 1, "newest": newest}, "cluster_version": 1})
    };
    let to = newest.into_iter().max().unwrap();
    let members: Vec<Value> = (1..).zip(newest).map(member).collect();
    json!({"from": 1, "to": to, "done": done, "already": to == 1, "members": members,
        "switches_on": [{"version": 2, "what": "rehearsals"}], "knows_all": true, "blocked_by": blocked_by})
}

fn with(path: &str, status: u16, body: &Value) -> Fake {
    let fake = Fake::start();
    (1..=3).for_each(|node| fake.can(node, path, status, body));
    fake
}

fn check(fake: &Fake, command: &[&str], exit: i32, parts: &[&str]) {
    let output = fake.run(command);
    assert_eq!(output.status.code(), Some(exit), "{}{}", stdout(&output), stderr(&output));
    let text = stdout(&output) + &stderr(&output);
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
}

#[test]
fn a_check_shows_what_each_member_runs_and_what_finalising_would_do() {
    let fake = with("/v1/cluster/upgrade", 200, &plan([2, 2, 2], false, &json!([])));
    let parts = [
        "1 to 2",
        "cluster version 1 -> 2\n",
        "version 2 switches on: rehearsals",
        "stockctl upgrade finalize",
    ];
    check(&fake, &["upgrade", "check"], 0, &parts);
    assert_eq!(fake.json(&["upgrade", "check"])["to"], 2);

    let old = json!([{"code": "member_too_old", "why": "node 3 runs 0.1.0", "instead": "Restart node 3.", "forceable": false}]);
    let fake = with("/v1/cluster/upgrade", 200, &plan([2, 2, 1], false, &old));
    check(&fake, &["upgrade", "check"], 7, &["BLOCKED: node 3 runs 0.1.0", "Restart node 3.", "can go back"]);

    let fake = with("/v1/cluster/upgrade", 200, &plan([1, 1, 1], false, &json!([])));
    check(&fake, &["upgrade", "check"], 0, &["nothing is to be done"]);
}

#[test]
fn an_upgrade_is_finalised_or_refused_in_the_servers_words() {
    let path = "/v1/cluster/upgrade/finalize";
    let fake = with(path, 200, &plan([2, 2, 2], true, &json!([])));
    check(
        &fake,
        &["upgrade", "finalize"],
        0,
        &["cluster version 1 -> 2 is in force now", "no node can go back"],
    );
    let refused = json!({"title": "The upgrade cannot be finalised", "status": 409, "code": "unsafe_upgrade", "definite": true,
        "detail": "node 3 is too old", "next_steps": ["Restart node 3."], "request_id": "r"});
    let parts = ["node 3 is too old", "next: Restart node 3.", "definite: yes"];
    check(&with(path, 409, &refused), &["upgrade", "finalize"], 7, &parts);
}
