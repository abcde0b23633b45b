//! The program from outside: what it prints and its exit codes. No cluster is started here.

use jepsen_tests::history::{self, Call, Consistency, Line, Op, Outcome, Record, RunInfo, Writer};
use jepsen_tests::{nemesis, workload};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jepsen-tests")).args(arguments).output().expect("it can be run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn histories(kind: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories").join(kind);
    let files = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = files.map(|entry| entry.expect("readable").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    paths.sort();
    assert!(!paths.is_empty(), "no histories in {}", dir.display());
    paths
}

#[test]
fn list_names_every_workload_and_nemesis() {
    let output = program(&["list"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let names = said.lines().filter_map(|line| line.split_whitespace().next());
    let names: std::collections::BTreeSet<&str> = names.collect();
    for workload in workload::ALL {
        assert!(names.contains(workload.name), "{} is not in\n{said}", workload.name);
    }
    for entry in nemesis::all() {
        assert!(names.contains(entry.name), "{} is not in\n{said}", entry.name);
    }
}

#[test]
fn good_histories_pass_and_bad_ones_are_violated() {
    for (kind, code) in [("good", 0), ("bad", 8)] {
        for path in histories(kind) {
            let output = program(&["check", &path.display().to_string()]);
            assert_eq!(output.status.code(), Some(code), "{}\n{}", path.display(), text(&output.stdout));
        }
    }
}

#[test]
fn names_that_mean_nothing_are_usage_errors_that_say_what_there_is() {
    let cases = [
        (vec!["run", "--workload", "nothing", "--nemesis", "none"], "there is no workload"),
        (vec!["run", "--workload", "stock", "--nemesis", "nothing"], "there is no nemesis"),
        (vec!["run", "--workload", "stock", "--nemesis", "none", "--rate", "0"], "above 0"),
        (vec!["matrix", "--quick", "--only", "nothing of that name"], "no run of this matrix"),
    ];
    for (arguments, expected) in cases {
        let output = program(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
}

#[test]
fn a_directory_with_something_in_it_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("mine"), "keep").expect("writable");
    let path = dir.path().display().to_string();
    let this = env!("CARGO_BIN_EXE_jepsen-tests");
    let output = program(&["run", "--workload", "stock", "--nemesis", "none", "--bin", this, "--dir", &path]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("is not empty"), "{}", text(&output.stderr));
}

fn op(id: u64, call: Call) -> Op {
    let key = call.is_write().then(|| format!("op-{id}"));
    Op { id, client: 0, node: 1, key, call, invoked: id * 10, completed: None, outcome: None, settled: None }
}

/// A run that died: one call ended, one under way, one of which only a part was written.
fn cut(dir: &Path) -> PathBuf {
    let path = dir.join("history.jsonl");
    let mut writer = Writer::create(&path).expect("a new file");
    let run = RunInfo { workload: "stock".into(), ..RunInfo::default() };
    let receive = op(0, Call::Receive { lines: vec![Line::new("mug", 1)] });
    let fail = Outcome::Fail { status: 503, code: "no_leader".into() };
    let ended = Op { completed: Some(5), outcome: Some(fail), ..receive.clone() };
    let read =
        |id| op(id, Call::ReadStock { skus: vec!["mug".into()], consistency: Consistency::Linearizable });
    let records = [
        Record::Run(run),
        Record::Op(Box::new(receive)),
        Record::Op(Box::new(ended)),
        Record::Op(Box::new(read(1))),
        Record::Op(Box::new(read(2))),
    ];
    for record in records {
        writer.write(&record).expect("there is room");
    }
    let bytes = std::fs::read(&path).expect("readable");
    std::fs::write(&path, &bytes[..bytes.len() - 7]).expect("writable");
    path
}

#[test]
fn a_run_that_was_cut_leaves_a_history_that_can_be_judged_and_is_no_pass() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = cut(dir.path());
    let history = history::read(&path).expect("readable");
    assert_eq!(history.ops.len(), 2, "the line that was cut is left out");
    assert!(history.ops[0].outcome.is_some() && history.ops[1].outcome.is_none());
    let output = program(&["check", &dir.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(9), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn a_history_that_is_none_is_a_failure_and_not_a_verdict() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("history.jsonl");
    std::fs::write(&path, "{\"record\":\"run\"}\nnothing\n{}\n").expect("writable");
    for arguments in [["check", &path.display().to_string()], ["check", "/nonexistent/history.jsonl"]] {
        let output = program(&arguments);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
        assert!(text(&output.stderr).starts_with("error: "), "{}", text(&output.stderr));
    }
}
