//! Which cluster is meant, and what a shell and `man` get to know.

#![allow(clippy::unwrap_used, reason = "clippy knows #[test] functions only, not what they call")]

mod fake;

use fake::{Fake, stderr, stdout};
use serde_json::{Value, json};
use std::{
    path::Path,
    process::{Command, Output},
};

fn run(home: &Path, variables: &[(&str, &str)], args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stockctl"))
        .env_clear()
        .env("HOME", home)
        .envs(variables.iter().copied())
        .args(args)
        .output()
        .unwrap()
}

#[track_caller]
fn ok(home: &Path, args: &[&str]) -> String {
    let output = run(home, &[], args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

#[test]
fn a_context_is_made_used_changed_and_forgotten() {
    let fake = Fake::start();
    fake.shop().stock.insert(("mug".into(), "main".into()), (10, 4));
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    assert!(ok(home, &["context", "list"]).contains("no contexts"));
    ok(home, &["context", "set", "shop", "--endpoints", &fake.endpoints.join(","), "--timeout-ms", "2500"]);
    ok(home, &["context", "set", "away", "--endpoints", "127.0.0.1:1"]);
    // Made is not used.
    assert!(ok(home, &["context", "show"]).contains("(default)"));
    assert!(ok(home, &["--context", "shop", "stock", "mug"]).contains("mug"));
    ok(home, &["context", "use", "shop"]);
    assert!(ok(home, &["stock", "mug"]).contains("mug"));
    assert_eq!(fake.shop().calls.last().unwrap().3["stockroom-timeout-ms"], "2500");
    let file = home.join(".config/stockroom/stockctl.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("current = \"shop\"") && text.contains("[contexts.away]"), "{text}");
    let listed: Value = serde_json::from_str(&ok(home, &["-o", "json", "context", "list"])).unwrap();
    assert_eq!(
        listed["contexts"][0],
        json!({"name": "away", "current": false, "endpoints": ["http://127.0.0.1:1"], "timeout_ms": null})
    );
    assert_eq!((&listed["contexts"][1]["current"], &listed["file"]), (&json!(true), &json!(file)));
    // A part of it may be changed.
    ok(home, &["context", "set", "shop", "--timeout-ms", "100"]);
    let shown: Value = serde_json::from_str(&ok(home, &["-o", "json", "context", "show", "shop"])).unwrap();
    assert_eq!((&shown["timeout_ms"], &shown["endpoints"]), (&json!(100), &json!(fake.endpoints)));
    ok(home, &["context", "delete", "shop"]);
    assert!(ok(home, &["context", "show"]).contains("(default)"), "what is forgotten is not used");
    for args in
        [&["context", "use", "shop"][..], &["--context", "shop", "status"], &["context", "delete", "shop"]]
    {
        let output = run(home, &[], args);
        assert_eq!(output.status.code(), Some(5), "{args:?}");
        assert!(stderr(&output).contains("there are away"), "{}", stderr(&output));
    }
}

#[test]
fn variables_name_a_context_and_a_file() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("mine.toml");
    std::fs::write(&file, "[contexts.a]\nendpoints = [\"http://a:1\"]\n").unwrap();
    let file = file.to_str().unwrap();
    let shown = |variables: &[(&str, &str)]| {
        let output = run(home.path(), variables, &["context", "show"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let by_context = shown(&[("STOCKCTL_CONFIG", file), ("STOCKCTL_CONTEXT", "a")]);
    assert!(by_context.contains("http://a:1  (context a, by STOCKCTL_CONTEXT)"), "{by_context}");
    let by_endpoints =
        shown(&[("STOCKCTL_CONFIG", file), ("STOCKCTL_CONTEXT", "a"), ("STOCKROOM_ENDPOINTS", "b:1")]);
    assert!(by_endpoints.contains("b:1  (STOCKROOM_ENDPOINTS)"), "{by_endpoints}");
    std::fs::write(file, "contexts = 1\n").unwrap();
    let output = run(home.path(), &[("STOCKCTL_CONFIG", file)], &["context", "list"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("mine.toml"), "{}", stderr(&output));
    // What names its nodes itself needs no file.
    let output = run(home.path(), &[("STOCKCTL_CONFIG", file)], &["--endpoints", "127.0.0.1:1", "status"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}

#[test]
fn what_makes_no_sense_ends_with_2() {
    let home = tempfile::tempdir().unwrap();
    for args in [
        &["context", "set", "new"][..],
        &["context", "set", "a b", "--endpoints", "a:1"],
        &["context", "set", "a", "--endpoints", "https://a"],
        &["--context", "a", "--endpoints", "b:1", "status"],
        &["completions", "cmd"],
    ] {
        assert_eq!(run(home.path(), &[], args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn shells_and_man_know_every_command() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ok(home.path(), &["completions", shell]);
        for command in ["status", "watch", "snapshot", "context", "replace"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
        assert!(!script.contains("bench-bare-server"), "{shell} offers what is hidden");
    }
    // bash itself finds nothing wrong with it.
    let script = home.path().join("stockctl.bash");
    std::fs::write(&script, ok(home.path(), &["completions", "bash"])).unwrap();
    let checked = Command::new("bash").arg("-n").arg(&script).status().unwrap();
    assert!(checked.success());
    let page = ok(home.path(), &["man"]);
    assert!(page.contains(".TH stockctl 1") && page.contains("Exit codes"), "{page}");
    let pages = home.path().join("man");
    ok(home.path(), &["man", "--dir", pages.to_str().unwrap()]);
    for page in [
        "stockctl.1",
        "stockctl-watch.1",
        "stockctl-member-replace.1",
        "stockctl-context-set.1",
        "stockctl-snapshot-create.1",
    ] {
        assert!(pages.join(page).is_file(), "{page}");
    }
}

/// Scripts branch on them, so they are written down where people look.
#[test]
fn the_help_has_every_exit_code() {
    let home = tempfile::tempdir().unwrap();
    let help = ok(home.path(), &["--help"]);
    for code in 0..=9 {
        let begins = |word: &str| word == code.to_string();
        assert!(
            help.lines()
                .skip_while(|line| *line != "Exit codes:")
                .any(|line| line.split_whitespace().any(begins)),
            "{code}\n{help}"
        );
    }
}
