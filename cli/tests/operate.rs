//! A real cluster, looked at and looked after with `stockctl`.

#![allow(clippy::unwrap_used, reason = "clippy knows #[test] functions only, not what they call")]

mod real;

use portable_pty::{CommandBuilder, MasterPty, PtySize, native_pty_system};
use real::{Cluster, PATIENCE, text};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    io::{Read, Write},
    num::NonZeroU16,
    process::Stdio,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

#[test]
fn the_log_the_snapshots_and_the_live_view_show_what_happened() {
    let mut cluster = Cluster::of_three();
    cluster.sell(20);
    log_shows_the_orders(&cluster);
    snapshots_are_listed_and_written(&cluster);
    lines_off_a_terminal(&cluster);
    a_live_view_on_a_terminal(&mut cluster);
}

/// Nothing but what `stockctl` prints is needed.
#[test]
fn a_dead_node_is_replaced_with_what_stockctl_prints() {
    let mut cluster = Cluster::of_three();
    cluster.sell(5);
    let leader = cluster.json(&["leader", "show"]).unwrap()["leader"].as_u64().unwrap();
    let dead = leader % 3 + 1;
    cluster.nodes[usize::try_from(dead).unwrap() - 1].kill();
    let next = format!("stockctl member replace {dead}");
    cluster.until("doctor says what to do", |cluster| {
        let findings = text(&cluster.run(&["doctor"]).stdout);
        findings.contains(&next).then_some(())
    });
    let id = dead.to_string();
    let plan = cluster.ok(&["member", "replace", &id, "--plan"]);
    let serve = plan.lines().find(|line| line.trim().starts_with("stockroom serve")).unwrap();
    let flag = |name: &str| serve.split_whitespace().skip_while(|word| *word != name).nth(1).unwrap();
    assert_eq!(flag("--node-id"), "4", "{plan}");
    let join = flag("--join").to_owned();
    let waiting = cluster.command(&["member", "replace", &id]).stdout(Stdio::piped()).spawn().unwrap();
    cluster.add().start(&["--join", &join]);
    let replaced = waiting.wait_with_output().unwrap();
    assert_eq!(replaced.status.code(), Some(0), "{}", text(&replaced.stdout));
    let said = text(&replaced.stdout);
    assert!(said.contains(&format!("done: node 4 stands in for node {dead}; 3 voters")), "{said}");
    let members = cluster.json(&["members"]).unwrap();
    let ids: Vec<u64> =
        members["members"].as_array().unwrap().iter().filter_map(|m| m["id"].as_u64()).collect();
    assert!(ids.len() == 3 && ids.contains(&4) && !ids.contains(&dead), "{members}");
    assert_eq!(members["quorum"]["fault_tolerance"], 1, "{members}");
    // A second run finds it done, and says so.
    assert_eq!(cluster.run(&["member", "replace", &id, "--id", "4"]).status.code(), Some(5));
    assert!(cluster.ok(&["audit", "verify"]).contains("digests and state hashes agree"));
}

fn log_shows_the_orders(cluster: &Cluster) {
    for node in ["1", "2", "3"] {
        let value = cluster.json(&["log", "--node", node, "--from", "0"]).unwrap();
        let items = value["items"].as_array().unwrap();
        let commands = items.iter().flat_map(|item| item["commands"].as_array().into_iter().flatten());
        let placed: Vec<&str> = commands
            .filter(|command| command["command"] == "place_order")
            .filter_map(|command| command["fields"]["id"].as_str())
            .collect();
        assert_eq!(placed.len(), 20, "node {node}: {placed:?}");
        assert!(items.iter().any(|item| item["kind"] == "members"), "node {node}");
        let lines = cluster.ok(&["-o", "ndjson", "log", "--node", node, "--from", "0"]);
        assert_eq!(lines.lines().count(), items.len());
    }
    let table = cluster.ok(&["log", "--tail", "100", "--commands"]);
    assert!(table.contains("place_order o-7: 1 x mug"), "{table}");
    let two = cluster.json(&["log", "--tail", "2"]).unwrap();
    let last = two["log"]["last_index"].as_u64().unwrap();
    let indexes: Vec<u64> =
        two["items"].as_array().unwrap().iter().filter_map(|item| item["index"].as_u64()).collect();
    assert_eq!(indexes, [last - 1, last]);
    assert_eq!(cluster.run(&["log", "--node", "9"]).status.code(), Some(5));
}

fn snapshots_are_listed_and_written(cluster: &Cluster) {
    let before = cluster.json(&["snapshot", "list"]).unwrap();
    assert!(before["nodes"].as_array().unwrap().iter().all(|node| node["snapshot"].is_null()), "{before}");
    let output = cluster.run(&["snapshot", "show", "2"]);
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stderr).contains("next: stockctl snapshot create 2"), "{}", text(&output.stderr));
    let written = cluster.json(&["snapshot", "create", "2"]).unwrap();
    let applied = before["nodes"][1]["log"]["applied_index"].as_u64();
    assert!(written["nodes"][0]["snapshot"]["log_index"].as_u64() >= applied, "{written}");
    let table = cluster.ok(&["snapshot", "list"]);
    assert_eq!(table.lines().count(), 4, "{table}");
    cluster.ok(&["snapshot", "create"]);
    let all = cluster.json(&["snapshot", "list"]).unwrap();
    let of = |name: &str| -> Vec<&Value> {
        all["nodes"].as_array().unwrap().iter().map(|node| &node["snapshot"][name]).collect()
    };
    assert!(of("log_index").iter().all(|index| index.is_u64()), "{all}");
    // Of one index, they are the same.
    if of("log_index").windows(2).all(|pair| pair[0] == pair[1]) {
        assert!(of("state_hash").windows(2).all(|pair| pair[0] == pair[1]), "{all}");
    }
    assert!(cluster.ok(&["snapshot", "show", "2"]).contains("state hash"));
}

fn lines_off_a_terminal(cluster: &Cluster) {
    let lines = cluster.ok(&["watch", "--interval-ms", "200", "--count", "3"]);
    let samples: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(samples.len(), 3);
    for sample in &samples {
        assert_eq!(sample["nodes"].as_array().map(Vec::len), Some(3), "{sample}");
        assert!(sample["leader"].is_u64() && sample["nodes"][0]["disk_free_share"].is_f64(), "{sample}");
    }
    assert!(samples[0]["orders_per_s"].is_null() && samples[2]["orders_per_s"].is_number(), "{lines}");
}

/// `stockctl` on a terminal of its own, and what is to be seen there.
struct Terminal {
    master: Box<dyn MasterPty + Send>,
    keys: Box<dyn Write + Send>,
    child: Box<dyn portable_pty::Child + Send + Sync>,
    screen: Arc<Mutex<vt100::Parser>>,
    /// Gives all that was printed, once the terminal is closed.
    reader: Option<JoinHandle<Vec<u8>>>,
}

impl Terminal {
    fn open(cluster: &Cluster, variables: &[(&str, &str)], args: &[&str]) -> Self {
        let pty = native_pty_system().openpty(size(24, 80)).unwrap();
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_stockctl"));
        command.env_clear();
        command.args(args);
        command.env("TERM", "xterm-256color");
        command.env("STOCKROOM_ENDPOINTS", cluster.endpoints());
        variables.iter().for_each(|(name, value)| command.env(name, value));
        let child = pty.slave.spawn_command(command).unwrap();
        let mut output = pty.master.try_clone_reader().unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(at_least_1(24), at_least_1(80), 0)));
        let to_screen = screen.clone();
        let reader = std::thread::spawn(move || {
            let (mut buffer, mut bytes) = ([0; 4096], Vec::new());
            // An error where nobody has the terminal open any more.
            while let Ok(read @ 1..) = output.read(&mut buffer) {
                to_screen.lock().unwrap().process(&buffer[..read]);
                bytes.extend_from_slice(&buffer[..read]);
            }
            bytes
        });
        let keys = pty.master.take_writer().unwrap();
        Terminal { master: pty.master, keys, child, screen, reader: Some(reader) }
    }

    fn shows(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    #[track_caller]
    fn until(&self, what: &str, condition: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(&self.shows()) {
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}\n{}", self.shows());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn resize(&self, rows: u16, columns: u16) {
        self.screen.lock().unwrap().screen_mut().set_size(at_least_1(rows), at_least_1(columns));
        self.master.resize(size(rows, columns)).unwrap();
    }

    /// Presses a key, and waits for the end.
    fn quit(mut self) -> (u32, Vec<u8>) {
        self.keys.write_all(b"q").unwrap();
        let deadline = Instant::now() + PATIENCE;
        let exit = loop {
            if let Some(exit) = self.child.try_wait().unwrap() {
                break exit;
            }
            assert!(Instant::now() < deadline, "q does not end it");
            std::thread::sleep(Duration::from_millis(50));
        };
        (exit.exit_code(), self.reader.take().unwrap().join().unwrap())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

fn at_least_1(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn size(rows: u16, cols: u16) -> PtySize {
    PtySize { rows, cols, pixel_width: 0, pixel_height: 0 }
}

fn a_live_view_on_a_terminal(cluster: &mut Cluster) {
    let terminal = Terminal::open(cluster, &[], &["watch", "--interval-ms", "300"]);
    terminal.until("the cluster is shown", |screen| {
        screen.contains("leads, term") && screen.contains("3 voters") && screen.contains("q quits")
    });
    let shown = terminal.shows();
    println!("{shown}");
    assert!(shown.lines().count() <= 24 && shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    terminal.until("rates are shown at the second look", |screen| {
        screen.contains(" orders/s, ") && !screen.contains("- orders/s")
    });
    terminal.resize(10, 50);
    terminal
        .until("it fits the smaller terminal", |screen| screen.contains('…') && screen.lines().count() <= 10);
    terminal.resize(24, 80);
    terminal
        .until("and the larger one", |screen| !screen.contains('…') && screen.contains("a look every 0.3 s"));
    // A node dies: it is seen, with what to do.
    let leader = cluster.json(&["leader", "show"]).unwrap()["leader"].as_u64().unwrap();
    let dead = leader % 3 + 1;
    cluster.nodes[usize::try_from(dead).unwrap() - 1].kill();
    terminal.until("the dead node is an alarm", |screen| {
        screen.contains("SILENT")
            && screen.contains(&format!("ALARM unreachable (node {dead})"))
            && screen.contains("next: start it again")
    });
    println!("{}", terminal.shows());
    // Another one stands still: no majority is left, and the view goes on all the same.
    let other = dead % 3 + 1;
    cluster.nodes[usize::try_from(other).unwrap() - 1].signal(Signal::STOP);
    terminal.until("no majority is left", |screen| screen.contains("1 answer: no majority"));
    cluster.nodes[usize::try_from(other).unwrap() - 1].signal(Signal::CONT);
    terminal.until("it is back", |screen| screen.contains("2 answer: none may fail"));
    let (exit, bytes) = terminal.quit();
    assert_eq!(exit, 0);
    let bytes = text(&bytes);
    assert!(bytes.contains("\x1b[38;5;9m"), "a node that is silent is shown in red");
    assert!(
        bytes.trim_end().ends_with("\x1b[?1049l"),
        "the terminal is as it was: {:?}",
        &bytes[bytes.len().saturating_sub(40)..]
    );
    // NO_COLOR: the same, in no colours.
    let plain = Terminal::open(cluster, &[("NO_COLOR", "1")], &["watch", "--interval-ms", "300"]);
    plain.until("it is shown", |screen| screen.contains("SILENT"));
    let (_, bytes) = plain.quit();
    assert!(!text(&bytes).contains("\x1b[38;5;"), "NO_COLOR");
}
