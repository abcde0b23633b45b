//! Real nodes, and `stockctl` against them.

#![allow(dead_code, reason = "each test file uses a part of it")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Generous: debug builds on two cores, beside other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The server's program, of the profile that this test was built with. Where the whole workspace is tested it is there
/// and cargo has nothing to do.
pub fn stockroom() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let dir = Path::new(env!("CARGO_BIN_EXE_stockctl")).parent().unwrap();
        let profile = match dir.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            profile => profile,
        };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--package", "stockroom", "--profile", profile])
            .arg("--target-dir")
            .arg(dir.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(built.success(), "stockroom cannot be built");
        dir.join("stockroom")
    })
}

/// The first of `count` free ports in a row, below those that the system gives to outgoing connections.
fn free_ports(count: u16) -> u16 {
    let offset = u16::try_from(std::process::id() % 700).unwrap() * 14;
    let first = (0..500).map(|turn| 20_000 + (offset + turn * count) % 10_000);
    let free =
        |first: &u16| (*first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    first.into_iter().find(free).expect("free ports in a row")
}

/// A node, killed at the end of its test.
pub struct Node {
    pub id: u64,
    pub http: String,
    pub peer: String,
    dir: PathBuf,
    child: Option<Child>,
}

impl Node {
    /// Starts it, in the directory it had, with these flags beside its own.
    pub fn start(&mut self, flags: &[&str]) {
        let log = File::options().create(true).append(true).open(self.dir.with_extension("log")).unwrap();
        let child = Command::new(stockroom())
            .args(["serve", "--log-format", "text", "--node-id", &self.id.to_string()])
            .args(["--http-listen", &self.http, "--peer-listen", &self.peer])
            .arg("--data-dir")
            .arg(&self.dir)
            .args(flags)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.as_ref().expect("runs").id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three nodes that are one cluster, and addresses for more.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub dir: TempDir,
    spare_port: u16,
    _alone: MutexGuard<'static, ()>,
}

/// Three processes and a test fill two cores, so one cluster runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    pub fn of_three() -> Self {
        Self::of_three_with(|_| &[])
    }

    /// Each with these flags, by its id.
    pub fn of_three_with(flags: fn(u64) -> &'static [&'static str]) -> Self {
        let alone = alone();
        let (dir, port) = (tempfile::tempdir().unwrap(), free_ports(8));
        let mut cluster = Cluster { nodes: Vec::new(), dir, spare_port: port, _alone: alone };
        for _ in 0..3 {
            cluster.add();
        }
        let list: Vec<String> =
            cluster.nodes.iter().map(|node| format!("{}={}", node.id, node.peer)).collect();
        let list = list.join(",");
        let form = ["--initial-cluster", list.as_str()];
        cluster.nodes.iter_mut().for_each(|node| node.start(&[&form, flags(node.id)].concat()));
        cluster.until("all nodes are ready", |cluster| {
            let status = cluster.json(&["status"])?;
            let nodes = status["nodes"].as_array()?;
            (nodes.len() == 3 && nodes.iter().all(|node| node["ready"] == true)).then_some(())
        });
        cluster
    }

    /// A further node, not started yet.
    pub fn add(&mut self) -> &mut Node {
        let id = self.nodes.len() as u64 + 1;
        let port = self.spare_port;
        self.spare_port += 2;
        let (http, peer) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", port + 1));
        self.nodes.push(Node {
            id,
            http,
            peer,
            dir: self.dir.path().join(format!("node-{id}")),
            child: None,
        });
        self.nodes.last_mut().unwrap()
    }

    pub fn endpoints(&self) -> String {
        self.nodes.iter().map(|node| node.http.as_str()).collect::<Vec<_>>().join(",")
    }

    /// `stockctl` with its arguments, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stockctl"));
        command.env_clear().env("STOCKROOM_ENDPOINTS", self.endpoints()).args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What it prints, and that it ends well.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{args:?}\n{stdout}{stderr}");
        stdout
    }

    /// What it prints as JSON; `None` where it fails.
    pub fn json(&self, args: &[&str]) -> Option<Value> {
        let output = self.run(&[&["-o", "json"], args].concat());
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// An item, stock of it, and orders of one unit each.
    pub fn sell(&self, orders: usize) {
        let items = self.dir.path().join("items.ndjson");
        std::fs::write(&items, "{\"sku\": \"mug\", \"name\": \"Mug\"}\n").unwrap();
        self.ok(&["import", "items", items.to_str().unwrap()]);
        let file = self.dir.path().join("orders.ndjson");
        let line = |n| {
            format!(
                "{{\"order_id\": \"o-{n}\", \"lines\": [{{\"sku\": \"mug\", \"location\": \"main\", \"quantity\": 1}}]}}\n"
            )
        };
        std::fs::write(&file, (0..orders).map(line).collect::<String>()).unwrap();
        self.ok(&["import", "orders", "--receive-stock", file.to_str().unwrap()]);
    }

    /// Waits for a condition.
    #[track_caller]
    pub fn until<T>(&self, what: &str, mut condition: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = condition(self) {
                return value;
            }
            let logs = || {
                self.nodes
                    .iter()
                    .map(|node| format!("-- node {}\n{}", node.id, node.log()))
                    .collect::<String>()
            };
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}\n{}", logs());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
