//! Every error code is shown by a test, or says here where else.

use crate::shop::DOCUMENT;
use std::collections::BTreeSet;

/// Codes that a healthy one-node cluster does not answer; `src/refusals.rs` tests their table.
const ELSEWHERE: &[&str] = &[
    "proposal_too_large",
    "no_leader",
    "deadline_exceeded",
    "not_serving",
    "outcome_unknown",
    "storage_failed",
    // Of a disk that is full: `node/tests/cluster/disk.rs` has one.
    "disk_full",
    "no_room",
    "internal",
    // Needs a majority that is away: see node/tests/cluster/members.rs.
    "change_in_progress",
    // Of a cluster whose nodes run different programs: `src/upgrade.rs`, and `node/tests/upgrade`.
    "unsafe_upgrade",
    "member_too_old",
    "member_unreachable",
    "not_in_force",
];

const TESTS: &[&str] = &[
    include_str!("admin.rs"),
    include_str!("batch.rs"),
    include_str!("cluster.rs"),
    include_str!("door.rs"),
    include_str!("items.rs"),
    include_str!("members.rs"),
    include_str!("orders.rs"),
    include_str!("outcomes.rs"),
    include_str!("reads.rs"),
    include_str!("reservations.rs"),
    include_str!("settings.rs"),
    include_str!("stock.rs"),
];

#[test]
fn every_described_error_code_is_seen_in_a_test() {
    let mut codes = BTreeSet::new();
    collect(&DOCUMENT["paths"], &mut codes);
    assert!(codes.len() > 60, "{codes:?}");
    let unseen: Vec<_> = codes
        .iter()
        .filter(|code| !ELSEWHERE.contains(&code.as_str()))
        .filter(|code| !TESTS.iter().any(|test| test.contains(&format!("\"{code}\""))))
        .collect();
    assert!(unseen.is_empty(), "{unseen:?}");
}

/// Codes are the `enum` of a property `code`.
fn collect(value: &serde_json::Value, codes: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Array(list) => list.iter().for_each(|value| collect(value, codes)),
        serde_json::Value::Object(map) => {
            if let Some(list) = map.get("code").and_then(|code| code["enum"].as_array()) {
                codes.extend(list.iter().map(|code| code.as_str().unwrap().to_owned()));
            }
            map.values().for_each(|value| collect(value, codes));
        }
        _ => {}
    }
}
