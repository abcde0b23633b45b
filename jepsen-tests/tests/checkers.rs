//! Trust in the checkers: histories written by hand, each wrong one rejected by the checker that is there
//! for it, each right one accepted; and the linearizability search against a brute-force one.

mod brute_force;
mod notation;

use jepsen_tests::checker::{
    self, Checker, Verdict, Verdicts, always, expiry, idempotency, linearizable, list_append, session, set,
    totals,
};
use jepsen_tests::history::History;
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
    ("backups", always::backups),
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
    let verdicts = checker::judge(&History::default(), &[set::check]);
    let names: Vec<&str> = verdicts.iter().map(|verdict| verdict.checker.as_str()).collect();
    assert_eq!(
        names,
        [
            "bounds",
            "log_order",
            "one_leader_per_term",
            "digests",
            "backups",
            "probes",
            "deaths",
            "contract",
            "enough",
            "set"
        ]
    );
    assert!(verdicts.iter().any(|verdict| verdict.result == Verdicts::NotDecided), "nothing happened");
}

/// The search and every order tried by hand come to one verdict, on histories that are right and on such
/// that may not be. Ids are shared by orders and reservations that name the SKU, so all are projected.
#[test]
fn the_search_agrees_with_brute_force() {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..4_000 {
        let mut history = brute_force::random(seed);
        names_an_sku(&mut history);
        let expected = brute_force::is_linearizable(&history);
        let verdict = linearizable::check(&history);
        let found = match verdict.result {
            Verdicts::Holds => true,
            Verdicts::Violated => false,
            Verdicts::NotDecided => continue,
        };
        assert_eq!(found, expected, "seed {seed}: {}\n{history:#?}", described(&verdict));
        if expected {
            right += 1;
        } else {
            wrong += 1;
        }
    }
    assert!(right > 1_000 && wrong > 300, "{right} right, {wrong} wrong: too few of one kind");
}

/// A call that names an id only belongs to the SKU of the order or reservation that was asked for under it;
/// without any the checker has nothing to hold it against, nor has brute force.
fn names_an_sku(history: &mut History) {
    use jepsen_tests::history::Call;
    let orders: Vec<String> = history
        .ops
        .iter()
        .filter_map(|op| match &op.call {
            Call::PlaceOrder { id, .. } => id.clone(),
            _ => None,
        })
        .collect();
    let holds: Vec<String> = history
        .ops
        .iter()
        .filter_map(|op| match &op.call {
            Call::Reserve { id, .. } => Some(id.clone()),
            _ => None,
        })
        .collect();
    history.ops.retain(|op| match &op.call {
        Call::CancelOrder { id } => orders.contains(id),
        Call::Confirm { id } | Call::CancelReservation { id } | Call::Extend { id, .. } => holds.contains(id),
        _ => true,
    });
}

/// What the real Elle is given: events in order of time, each with its place, and a write that was sent
/// twice as one transaction.
#[test]
fn edn_is_what_elle_reads() {
    let (history, _) = notation::parse(
        "0-10 key=a receive mug:10 => done @1
         20-30 order o1 mug:1,cup:1 => info lost
         25-40 movements mug cup => moves mug received a 10 10/0/0 #1 @1
         50-60 key=b order o2 mug:99 => short mug:99/10 @2",
    );
    let expected = r#"{:index 0, :time 0, :type :invoke, :process 4, :f :txn, :value [[:append "mug" "a"]]}
{:index 1, :time 10000000, :type :ok, :process 4, :f :txn, :value [[:append "mug" "a"]]}
{:index 2, :time 20000000, :type :invoke, :process 5, :f :txn, :value [[:append "cup" "o1"] [:append "mug" "o1"]]}
{:index 3, :time 25000000, :type :invoke, :process 7, :f :txn, :value [[:r "mug" nil] [:r "cup" nil]]}
{:index 4, :time 40000000, :type :ok, :process 7, :f :txn, :value [[:r "mug" ["a"]] [:r "cup" []]]}
{:index 5, :time 50000000, :type :invoke, :process 6, :f :txn, :value [[:append "mug" "o2"]]}
{:index 6, :time 60000000, :type :info, :process 5, :f :txn, :value [[:append "cup" "o1"] [:append "mug" "o1"]]}
{:index 7, :time 60000000, :type :fail, :process 6, :f :txn, :value [[:append "mug" "o2"]]}
"#;
    assert_eq!(list_append::edn(&history), expected);
}

/// Two lines of one write are one append; the same write at a later index is what Elle is there to find.
#[test]
fn edn_shows_a_write_that_was_done_twice() {
    let (history, _) = notation::parse(
        "0-10 key=a receive mug:10 => done @1
         20-30 key=b order o1 mug:1,mug:2 => order o1 mug:1,mug:2 @2
         40-50 movements mug => moves mug received a 10 10/0/0 #1; mug allocated o1 1 10/0/1 #2; \
            mug allocated o1 2 10/0/3 #2; mug allocated o1 1 10/0/4 #3 @3",
    );
    let edn = list_append::edn(&history);
    assert!(edn.contains(r#"[:r "mug" ["a" "o1" "o1"]]"#), "{edn}");
}

/// A hundred thousand calls take seconds, in a build for development too.
#[test]
fn long_histories_take_seconds() {
    use std::fmt::Write as _;
    let mut text = String::new();
    let mut allocated = 0;
    for number in 0..100_000u64 {
        let (at, index) = (number * 2, number / 3 + 1);
        match number % 3 {
            0 if number == 0 => writeln!(text, "0-1 receive tv:1000000 => done @1 token=t1"),
            0 => {
                allocated += 1;
                writeln!(
                    text,
                    "{at}-{} order o{number} tv:1 => order o{number} tv:1 @{index} token=t{index}",
                    at + 1
                )
            }
            1 => writeln!(text, "{at}-{} read tv => stock tv 1000000/0/{allocated} @{index}", at + 1),
            _ => writeln!(
                text,
                "{at}-{} n2 session=t{index} read tv => stock tv 1000000/0/{allocated} @{index}",
                at + 1
            ),
        }
        .expect("a string takes all");
    }
    let (history, _) = notation::parse(&text);
    // The search is for short histories of one SKU: the others are.
    for (name, check) in CHECKERS.iter().filter(|(name, _)| *name != "linearizable") {
        let began = std::time::Instant::now();
        let verdict = check(&history);
        let took = began.elapsed();
        assert_ne!(verdict.result, Verdicts::Violated, "{}", described(&verdict));
        assert!(took < std::time::Duration::from_secs(20), "{name} took {took:?}");
    }
}
