//! `stockroom playground` as a program.

use crate::harness::{PATIENCE, STOCKROOM, alone, free_ports, signal, until};
use rustix::process::{Pid, Signal, test_kill_process};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use tokio::process::{Child, Command};

fn start(dir: &Path, flags: &[&str]) -> Child {
    Command::new(STOCKROOM)
        .arg("playground")
        .args(flags)
        .arg("--dir")
        .arg(dir)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("can be started")
}

/// A directory whose state is told when its test fails.
struct Told(tempfile::TempDir);

impl Told {
    fn new() -> Self {
        Told(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["nodes.json", "node-1.log", "node-2.log", "node-3.log"] {
                let text = std::fs::read_to_string(self.path().join(name)).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                eprintln!("-- {name}:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            }
        }
    }
}

fn nodes_json(dir: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(dir.join("nodes.json")).ok()?).ok()
}

async fn is_ready(http: &str) -> bool {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = client.get(format!("http://{http}/readyz")).send().await;
    answer.is_ok_and(|answer| answer.status() == 200)
}

/// Its nodes, once each is ready.
async fn ready(dir: &Path) -> Value {
    until("each node in nodes.json is ready", || async {
        let file = nodes_json(dir)?;
        for node in file["nodes"].as_array()? {
            (node["pid"].is_u64() && is_ready(node["http"].as_str()?).await).then_some(())?;
        }
        Some(file)
    })
    .await
}

fn pid(file: &Value, at: usize) -> u32 {
    u32::try_from(file["nodes"][at]["pid"].as_u64().expect("a pid")).expect("a pid")
}

async fn exit_code(child: Child) -> (Option<i32>, String) {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("ends in time");
    let output = output.expect("our own process");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_json_is_true_through_deaths_and_runs() {
    let _alone = alone().await;
    let dir = Told::new();
    let port = free_ports(6);
    let text = port.to_string();
    let child = start(dir.path(), &["--no-sample", "--port", &text]);
    let before = ready(dir.path()).await;
    for at in 0..3_u16 {
        let node = &before["nodes"][usize::from(at)];
        assert_eq!(node["id"], at + 1);
        assert_eq!(node["http"], format!("127.0.0.1:{}", port + at));
        assert_eq!(node["peer"], format!("127.0.0.1:{}", port + 3 + at));
    }
    assert_eq!(before["cluster_id"].as_str().map(str::len), Some(32));

    signal(pid(&before, 1), Signal::KILL);
    let after = until("node 2 runs again", || async {
        nodes_json(dir.path())
            .filter(|file| file["nodes"][1]["pid"].is_u64() && pid(file, 1) != pid(&before, 1))
    })
    .await;
    assert_eq!((pid(&after, 0), pid(&after, 2)), (pid(&before, 0), pid(&before, 2)));
    ready(dir.path()).await;

    signal(child.id().expect("runs"), Signal::TERM);
    let (code, told) = exit_code(child).await;
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("all nodes stopped cleanly"), "{told}");

    let child = start(dir.path(), &["--no-sample"]);
    let again = ready(dir.path()).await;
    assert_eq!(again["cluster_id"], before["cluster_id"]);
    assert_eq!(again["nodes"][0]["http"], before["nodes"][0]["http"]);
    signal(child.id().expect("runs"), Signal::INT);
    assert_eq!(exit_code(child).await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_node_outlives_a_playground_that_was_killed() {
    let _alone = alone().await;
    let dir = Told::new();
    let port = free_ports(4).to_string();
    let mut child = start(dir.path(), &["--no-sample", "--nodes", "2", "--port", &port]);
    let file = ready(dir.path()).await;
    child.kill().await.expect("our own process");
    for at in 0..2 {
        let pid = Pid::from_raw(i32::try_from(pid(&file, at)).expect("a pid")).expect("not 0");
        until("it is gone", || async { test_kill_process(pid).is_err().then_some(()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn once_kills_the_leader_and_every_check_passes() {
    let _alone = alone().await;
    let dir = Told::new();
    let port = free_ports(6).to_string();
    let child = start(dir.path(), &["--once", "--port", &port]);
    let output = tokio::time::timeout(PATIENCE * 5, child.wait_with_output()).await.expect("ends in time");
    let output = output.expect("our own process");
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}");
    for part in ["was killed with kill -9", "verdict: all 6 checks passed on 3 nodes"] {
        assert!(told.contains(part), "no {part:?} in\n{told}");
    }
}
