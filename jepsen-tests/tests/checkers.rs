//! Trust in the checkers: histories written by hand, each wrong one rejected by the checker that is there
//! for it, each right one accepted; and the linearizability search against a brute-force one.

mod notation;

use jepsen_tests::checker::{
    self, Checker, Verdict, Verdicts, always, expiry, idempotency, linearizable, list_append, session, set,
    totals,
};
use std::path::{Path, PathBuf};

const CHECKERS: &[(&str, Checker)] = &[
    ("linearizable", linearizable::check),
    ("list_append", list_append::check),
    ("flash_sale", totals::flash_sale),
    ("transfers", totals::transfers),
    ("idempotency", idempotency::check),
    ("expiry", expiry::check),
    ("set", set::check),
    ("session", session::check),
    ("bounds", always::bounds),
    ("log_order", always::log_order),
    ("one_leader_per_term", always::one_leader_per_term),
    ("digests", always::digests),
    ("probes", always::probes),
    ("deaths", always::deaths),
    ("contract", always::contract),
    ("enough", always::enough),
];

fn files(kind: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories").join(kind);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)
        .expect("the directory is part of the repository")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    files.sort();
    files
}

fn checker(name: &str) -> Checker {
    CHECKERS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no checker {name}")).1
}

fn described(verdict: &Verdict) -> String {
    let violations: Vec<String> =
        verdict.violations.iter().map(|v| format!("\n    {} (calls {:?})", v.what, v.ops)).collect();
    format!("{} {:?}: {}{}", verdict.checker, verdict.result, verdict.summary, violations.concat())
}

/// Each is rejected, by the checker it names and for the reason it names.
#[test]
fn bad_histories_are_rejected() {
    let mut wrong = Vec::new();
    for file in files("bad") {
        let name = file.file_stem().expect("it has a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).expect("it can be read");
        let (history, expected) = notation::parse(&text);
        assert!(!expected.is_empty(), "{name} expects nothing");
        for (by, what) in expected {
            assert!(name.starts_with(&by), "{name} is named after {by}");
            let verdict = checker(&by)(&history);
            let found = if what.starts_with("not decided") {
                let why = what.trim_start_matches("not decided").trim();
                verdict.result == Verdicts::NotDecided && verdict.summary.contains(why)
            } else {
                verdict.result == Verdicts::Violated
                    && verdict.violations.iter().any(|violation| violation.what.contains(&what))
            };
            if !found {
                wrong.push(format!("{name}: expected {what:?}, got {}", described(&verdict)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Each holds by the checker it names, and nothing is wrong with it by any other.
#[test]
fn good_histories_are_accepted() {
    let mut wrong = Vec::new();
    for file in files("good") {
        let name = file.file_stem().expect("it has a name").to_string_lossy().into_owned();
        let (history, expected) = notation::parse(&std::fs::read_to_string(&file).expect("it can be read"));
        assert!(!expected.is_empty(), "{name} names no checker");
        for (known, check) in CHECKERS {
            let verdict = check(&history);
            let must_hold = expected.iter().any(|(by, _)| by == known);
            if verdict.result == Verdicts::Violated || (must_hold && verdict.result != Verdicts::Holds) {
                wrong.push(format!("{name}: {}", described(&verdict)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every checker has a history that it accepts and one that it rejects.
#[test]
fn every_checker_is_tried_both_ways() {
    for (name, _) in CHECKERS {
        for kind in ["good", "bad"] {
            let tried = files(kind).iter().any(|file| {
                let text = std::fs::read_to_string(file).expect("it can be read");
                notation::parse(&text).1.iter().any(|(by, _)| by == name)
            });
            assert!(tried, "no {kind} history for {name}");
        }
    }
}

/// What judges every run is in the list of what judges every run.
#[test]
fn judge_runs_all_that_is_asked_for() {
    let verdicts = checker::judge(&jepsen_tests::history::History::default(), &[set::check]);
    let names: Vec<&str> = verdicts.iter().map(|verdict| verdict.checker.as_str()).collect();
    assert_eq!(
        names,
        [
            "bounds",
            "log_order",
            "one_leader_per_term",
            "digests",
            "probes",
            "deaths",
            "contract",
            "enough",
            "set"
        ]
    );
    assert!(verdicts.iter().any(|verdict| verdict.result == Verdicts::NotDecided), "nothing happened");
}
