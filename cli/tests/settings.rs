//! The cluster's settings: shown, and changed under one key.

#![allow(clippy::unwrap_used, reason = "clippy knows #[test] functions only, not what they call")]

mod fake;

use axum::http::Method;
use fake::{Fake, stderr, stdout};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const PATH: &str = "/v1/cluster/settings";

fn settings(metadata_entries: u64) -> Value {
    json!({"receipt_retention_ms": 86_400_000, "releases_per_step": 1_000, "receipt_drops_per_step": 8,
        "metadata_entries": metadata_entries})
}

fn problem(status: u16, code: &str) -> Value {
    json!({"title": "t", "status": status, "code": code, "definite": true, "detail": "as a server says it",
        "next_steps": ["Do something."], "request_id": "r"})
}

fn with(answers: [(u16, Value); 3]) -> Fake {
    let fake = Fake::start();
    (1..).zip(answers).for_each(|(node, (status, body))| fake.can(node, PATH, status, body));
    fake
}

#[test]
fn the_settings_are_shown() {
    let fake = with([(); 3].map(|()| (200, settings(16))));
    assert_eq!(fake.json(&["settings", "show"]), settings(16));
    let output = fake.run(&["settings", "show"]);
    let text = stdout(&output);
    for part in ["SETTING", "receipt_retention_ms    86400000\n", "metadata_entries              16\n"] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    assert!(fake.shop().calls.iter().all(|(_, method, ..)| method == Method::GET));
}

#[test]
fn a_change_names_only_what_changes_and_keeps_its_key_on_every_node() {
    let fake =
        with([(503, problem(503, "no_leader")), (200, settings(32)), (503, problem(503, "no_leader"))]);
    let printed = fake.json(&["settings", "set", "metadata_entries=32", "receipt_drops_per_step=8"]);
    assert_eq!(printed, settings(32));
    let keys: BTreeSet<String> = fake
        .shop()
        .calls
        .drain(..)
        .map(|(_, method, path, headers, body)| {
            assert_eq!((method, path.as_str()), (Method::PATCH, PATH));
            assert_eq!(body, json!({"metadata_entries": 32, "receipt_drops_per_step": 8}));
            headers["idempotency-key"].to_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    // The same values again are another change: somebody may have changed them since.
    fake.json(&["settings", "set", "metadata_entries=32"]);
    assert!(
        fake.shop()
            .calls
            .iter()
            .all(|(_, _, _, headers, _)| !keys.contains(headers["idempotency-key"].to_str().unwrap()))
    );
}

#[test]
fn what_cannot_be_is_refused() {
    let fake = with([(); 3].map(|()| (422, problem(422, "invalid_value"))));
    let output = fake.run(&["settings", "set", "metadata_entries=1001"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("as a server says it"), "{}", stderr(&output));
    fake.shop().calls.clear();
    for wrong in [&["metadata_entries"][..], &["=3"], &["metadata_entries=many"], &["a=1", "a=2"], &[]] {
        let output = fake.run(&[&["settings", "set"], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", stderr(&output));
    }
    assert!(fake.shop().calls.is_empty());
}
