//! The program from outside: what it prints and its exit codes. No cluster is started here.

mod notation;

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

/// A history in the notation of the checkers' tests, as the file of a run of this workload.
fn file(dir: &Path, workload: &str, text: &str) -> PathBuf {
    let (history, _) = notation::parse(text);
    let path = dir.join("history.jsonl");
    let mut writer = Writer::create(&path).expect("a new file");
    let run = RunInfo { workload: workload.into(), ..history.run };
    let records = std::iter::once(Record::Run(run))
        .chain(history.ops.into_iter().map(|op| Record::Op(Box::new(op))))
        .chain(history.faults.into_iter().map(Record::Fault))
        .chain(history.samples.into_iter().map(Record::Sample))
        .chain(history.exits.into_iter().map(Record::Exit))
        .chain(history.probes.into_iter().map(Record::Probe));
    for record in records {
        writer.write(&record).expect("there is room");
    }
    path
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

/// All that a pass needs: unique orders, all there at the end, a fault, nodes that agree.
const GOOD: &str = "
nemeses kill
fault kill process 5-9 nodes=1 effective
sample 5 1 term=1 leader=1 applied=3 digest=d hash=h
sample 6 2 term=1 leader=1 applied=3 digest=d hash=h
probe digests holds
probe audit holds
probe available holds
0-1 receive mug:100 => done @1
20-30 order o1 mug:1 => order o1 mug:1 @2
20-31 order o2 mug:1 => order o2 mug:1 @3
40-41 read mug => stock mug 100/0/2 @3
90-99 list => orders o1 mug:1 #2; o2 mug:1 #3 @3
";

#[test]
fn the_exit_code_says_what_came_out() {
    let without = |what: &str| {
        let lines: Vec<&str> = GOOD.lines().filter(|line| !line.contains(what)).collect();
        lines.join("\n")
    };
    let cases = [
        ("good", 0, GOOD.to_owned()),
        ("an order is lost", 8, GOOD.replace("; o2 mug:1 #3", "")),
        (
            "nodes differ",
            8,
            GOOD.replace("6 2 term=1 leader=1 applied=3 digest=d", "6 2 term=1 leader=1 applied=3 digest=e"),
        ),
        ("no fault took effect", 9, without("fault")),
        ("no audit", 9, without("probe audit")),
        ("lost, and no audit", 8, without("probe audit").replace("; o2 mug:1 #3", "")),
    ];
    for (what, code, history) in cases {
        let dir = tempfile::tempdir().expect("a directory");
        let path = file(dir.path(), "unique", &history);
        for path in [path.as_path(), dir.path()] {
            let output = program(&["check", &path.display().to_string()]);
            let said = text(&output.stdout) + &text(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{what}\n{said}");
        }
    }
}

#[test]
fn a_page_can_be_written_again() {
    let dir = tempfile::tempdir().expect("a directory");
    file(dir.path(), "unique", GOOD);
    let output = program(&["report", &dir.path().display().to_string()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let page = std::fs::read_to_string(text(&output.stdout).trim()).expect("where it says");
    assert!(page.contains("unique"), "{page}");
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

#[test]
fn the_readme_names_every_workload_and_nemesis() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let readme = readme.expect("it is part of the repository");
    let names = workload::ALL.iter().map(|workload| workload.name);
    for name in names.chain(nemesis::all().map(|entry| entry.name)) {
        assert!(readme.contains(&format!("| `{name}` |")), "{name} has no line in a table of README.md");
    }
}
