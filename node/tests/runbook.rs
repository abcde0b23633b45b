//! `deploy/RUNBOOK.md` has an entry for whatever a node, `stockctl` or `stockroom` refuses or raises an alarm about. An
//! entry is a row of a table whose first cell has the code in backquotes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use stockroom_shop_api::openapi_document;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is one up").to_owned()
}

/// The codes that have a row, and whether its last cell says what to do.
fn entries() -> BTreeMap<String, bool> {
    let text = std::fs::read_to_string(repository().join("deploy/RUNBOOK.md")).expect("the runbook");
    let mut entries = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let (Some(first), Some(last)) = (cells.first(), cells.last()) else { continue };
        for code in first.split('`').skip(1).step_by(2) {
            entries.insert(code.to_owned(), cells.len() > 1 && !last.is_empty());
        }
    }
    entries
}

#[track_caller]
fn all_have_an_entry(what: &str, codes: &BTreeSet<String>, at_least: usize) {
    assert!(
        codes.len() >= at_least,
        "only {codes:?} were found of {what}: the search for them has gone blind"
    );
    let entries = entries();
    let missing: Vec<&String> = codes.iter().filter(|code| entries.get(*code) != Some(&true)).collect();
    assert!(
        missing.is_empty(),
        "{what} without an entry in deploy/RUNBOOK.md that says what to do: {missing:?}"
    );
}

/// What the source files below a folder of the repository say.
fn sources(folder: &str) -> Vec<String> {
    fn collect(dir: &Path, texts: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                collect(&path, texts);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                texts.push(std::fs::read_to_string(path).expect("a source file"));
            }
        }
    }
    let mut texts = Vec::new();
    collect(&repository().join(folder), &mut texts);
    texts
}

/// The first string literal behind each place where `begins` stands.
fn literals_behind(texts: &[String], begins: &str) -> BTreeSet<String> {
    let of_text = |text: &String| -> Vec<String> {
        text.split(begins)
            .skip(1)
            .filter_map(|rest| {
                let call = &rest[..rest.find(')').unwrap_or(rest.len())];
                Some(call.split('"').nth(1)?.to_owned())
            })
            .collect()
    };
    texts.iter().flat_map(of_text).filter(|literal| is_code(literal)).collect()
}

fn is_code(text: &str) -> bool {
    text.len() > 2 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

#[test]
fn whatever_http_refuses_has_an_entry() {
    fn collect(value: &serde_json::Value, codes: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Array(list) => list.iter().for_each(|value| collect(value, codes)),
            serde_json::Value::Object(map) => {
                let listed = map.get("code").and_then(|code| code["enum"].as_array());
                codes
                    .extend(listed.into_iter().flatten().filter_map(|code| code.as_str().map(str::to_owned)));
                map.values().for_each(|value| collect(value, codes));
            }
            _ => {}
        }
    }
    let mut codes = BTreeSet::new();
    // Of the schemas, too: what speaks against a change of members is said there.
    collect(&openapi_document(), &mut codes);
    all_have_an_entry("refusals over HTTP", &codes, 70);
}

#[test]
fn whatever_stockctl_refuses_has_an_entry() {
    let codes = literals_behind(&sources("cli/src"), "Failure::local(");
    all_have_an_entry("refusals of stockctl", &codes, 25);
}

#[test]
fn whatever_stockroom_refuses_without_a_server_has_an_entry() {
    let codes = literals_behind(&sources("node/src/offline"), "Refusal::new(");
    all_have_an_entry("refusals of stockroom", &codes, 15);
}

#[test]
fn every_alarm_has_an_entry() {
    let checks =
        std::fs::read_to_string(repository().join("cli/src/doctor.rs")).expect("the source of doctor");
    let list =
        checks.split("const CHECKS").nth(1).and_then(|rest| rest.split(';').nth(1)).expect("its checks");
    let checks: BTreeSet<String> = list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    all_have_an_entry("findings of stockctl doctor", &checks, 10);
    let mut counted = BTreeSet::new();
    for text in sources("node/src").iter().chain(&sources("raft/src")).chain(&sources("storage/src")) {
        let names = text.split('"').skip(1).step_by(2);
        counted.extend(
            names
                .filter(|name| name.starts_with("stockroom_") && name.ends_with("_alarms_total"))
                .map(str::to_owned),
        );
    }
    counted.extend(
        ["stockroom_raft_log_reversions_total", "stockroom_raft_state_differences_total"].map(str::to_owned),
    );
    all_have_an_entry("alarms in the metrics", &counted, 4);
    let ready = sources("shop-api/src").into_iter().chain(sources("raft/src"));
    let ready: Vec<String> =
        ready.filter(|text| text.contains("fn readiness(") || text.contains("fn checks(api")).collect();
    assert_eq!(ready.len(), 2, "where readiness is worked out");
    let checks = ["accepting", "serving", "member", "leader", "keeps_up", "fresh"];
    for check in checks {
        assert!(
            ready.iter().any(|text| text.contains(&format!("\"{check}\""))),
            "{check} is no check any more"
        );
    }
    all_have_an_entry("checks of /readyz", &checks.map(str::to_owned).into(), 6);
}
