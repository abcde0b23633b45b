//! Real processes, and what a test does with them.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, MutexGuard};

/// The binary under test.
pub const STOCKROOM: &str = env!("CARGO_BIN_EXE_stockroom");
/// How long a condition may take to come true. Generous: debug builds on two cores, beside other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Three processes and their load fill two cores, so one cluster runs at a time.
pub async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

/// The first of `count` free ports in a row. Below the range from which the system picks ports for outgoing
/// connections, so that none is taken while a node is down.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 900).expect("below 900") * 20;
    for _ in 0..500 {
        let first = 12_000 + (offset + NEXT.fetch_add(count, Ordering::Relaxed)) % 18_000;
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("no {count} free ports in a row");
}

/// Waits until `condition` gives a value.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Runs `stockroom` to its end.
pub async fn stockroom(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(STOCKROOM);
    command.args(args).env_clear().envs(variables.iter().copied()).kill_on_drop(true);
    tokio::time::timeout(PATIENCE, command.output()).await.expect("ends in time").expect("can be started")
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Sends a signal to a process of ours.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not 0");
    kill_process(pid, signal).expect("our own process");
}

/// One node.
pub struct Server {
    /// As the members have it.
    pub id: u64,
    /// As its settings have it still, where it was rebuilt under another one.
    pub configured_before: Option<u64>,
    pub http: String,
    pub peer: String,
    pub data_dir: PathBuf,
    pub log: PathBuf,
    /// What it runs from its next start on.
    pub program: PathBuf,
    settings: Vec<String>,
    child: Option<Child>,
    client: reqwest::Client,
}

impl Server {
    pub fn new(id: u64, dir: &Path, http_port: u16, peer_port: u16, settings: &[&str]) -> Self {
        Server {
            id,
            configured_before: None,
            http: format!("127.0.0.1:{http_port}"),
            peer: format!("127.0.0.1:{peer_port}"),
            data_dir: dir.join(format!("node-{id}")),
            log: dir.join(format!("node-{id}.log")),
            program: STOCKROOM.into(),
            settings: settings.iter().map(|&s| s.to_owned()).collect(),
            child: None,
            client: reqwest::Client::builder().no_proxy().build().expect("a client"),
        }
    }

    /// For the next start.
    pub fn add_setting(&mut self, flag: &str, value: &str) {
        self.settings.extend([flag.to_owned(), value.to_owned()]);
    }

    pub fn start(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log file");
        let child = Command::new(&self.program)
            .args(["serve", "--log-format", "text", "--node-id", &self.configured().to_string()])
            .args(["--http-listen", &self.http, "--peer-listen", &self.peer])
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(&self.settings)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("can be started");
        self.child = Some(child);
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("runs");
        child.kill().await.expect("our own process");
    }

    /// SIGTERM; the exit code.
    pub async fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("runs");
        signal(child.id().expect("runs"), Signal::TERM);
        let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("ends in time");
        status.expect("our own process").code()
    }

    /// The id in its settings.
    pub fn configured(&self) -> u64 {
        self.configured_before.unwrap_or(self.id)
    }

    /// Whether it has not ended by itself.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Sends it a signal, such as SIGSTOP: it stands still, and its connections stay open.
    pub fn signal(&self, kind: Signal) {
        let pid = self.child.as_ref().and_then(Child::id);
        signal(pid.expect("runs"), kind);
    }

    /// Waits until it ends by itself; the exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("was started");
        let status = tokio::time::timeout(PATIENCE, child.wait()).await;
        status
            .unwrap_or_else(|_| panic!("still runs; its log:\n{}", self.log()))
            .expect("our own process")
            .code()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Status and body; `None` where it does not answer.
    pub async fn get(&self, path: &str) -> Option<(u16, Value)> {
        let request = self.client.get(format!("http://{}{path}", self.http)).timeout(Duration::from_secs(6));
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let text = answer.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    pub async fn post(&self, path: &str, key: Option<&str>, body: &Value) -> Option<(u16, Value)> {
        let request = self.client.post(format!("http://{}{path}", self.http)).json(body);
        let request = key.into_iter().fold(request, |request, key| request.header("Idempotency-Key", key));
        let answer = request.timeout(Duration::from_secs(6)).send().await.ok()?;
        Some((answer.status().as_u16(), answer.json().await.ok()?))
    }

    /// An operator's call, which needs no key; the node gives up after so long.
    pub async fn ask_within(&self, path: &str, body: &Value, ms: u64) -> Option<(u16, Value)> {
        let request = self.client.post(format!("http://{}{path}", self.http)).json(body);
        let request = request.header("Stockroom-Timeout-Ms", ms).timeout(Duration::from_secs(6));
        let answer = request.send().await.ok()?;
        Some((answer.status().as_u16(), answer.json().await.ok()?))
    }

    pub async fn is_ready(&self) -> bool {
        matches!(self.get("/readyz").await, Some((200, _)))
    }

    /// A sample of `/metrics` without labels.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let (_, body) = self.get("/metrics").await?;
        let prefix = format!("{name} ");
        body.as_str()?.lines().find_map(|line| line.strip_prefix(&prefix)?.parse().ok())
    }

    /// Applied index, digest and state hash, as it says itself.
    pub async fn fingerprint(&self) -> Option<(u64, String, String)> {
        let (_, body) = self.get("/v1/cluster").await.filter(|(status, _)| *status == 200)?;
        let member = body["members"].as_array()?.iter().find(|member| member["id"] == self.id)?;
        let report = &member["report"];
        let text = |name: &str| report[name].as_str().map(str::to_owned);
        Some((report["applied_index"].as_u64()?, text("digest")?, text("state_hash")?))
    }
}

/// A cluster of its own processes in a temporary directory.
pub struct Cluster {
    pub nodes: Vec<Server>,
    pub dir: TempDir,
    pub id: String,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts and forms a cluster of three.
    pub async fn of_three(settings: &[&str]) -> Self {
        Self::of_three_of(Path::new(STOCKROOM), settings).await
    }

    /// The same of a program.
    pub async fn of_three_of(program: &Path, settings: &[&str]) -> Self {
        Self::of_three_in(program, settings, |_| true).await.expect("nothing to prepare")
    }

    /// The same after `prepare` did something for each node; `None` where that failed.
    pub async fn of_three_in(
        program: &Path,
        settings: &[&str],
        prepare: impl FnMut(&Server) -> bool,
    ) -> Option<Self> {
        let alone = alone().await;
        let dir = tempfile::tempdir().expect("a directory");
        let port = free_ports(6);
        let mut nodes: Vec<_> = (0..3)
            .map(|at| Server::new(u64::from(at) + 1, dir.path(), port + at, port + 3 + at, settings))
            .collect();
        if !nodes.iter().all(prepare) {
            return None;
        }
        for node in &mut nodes {
            node.program = program.to_owned();
            node.start();
        }
        let mut cluster = Cluster { nodes, dir, id: String::new(), _alone: alone };
        let output = cluster.bootstrap().await;
        assert!(output.status.success(), "bootstrap: {}", stderr(&output));
        cluster.id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        cluster.wait_until_ready().await;
        Some(cluster)
    }

    /// `stockroom bootstrap` with all nodes as members.
    pub async fn bootstrap(&self) -> Output {
        let members: Vec<_> = self.nodes.iter().map(|node| format!("{}={}", node.id, node.peer)).collect();
        let mut args = vec!["bootstrap"];
        for member in &members {
            args.extend(["--member", member]);
        }
        stockroom(&args, &[]).await
    }

    pub async fn wait_until_ready(&self) {
        for node in &self.nodes {
            let what = format!("node {} is ready", node.id);
            until(&what, || async { node.is_ready().await.then_some(()) }).await;
        }
    }

    /// Place in `nodes` of the leader that every running node agrees on.
    pub async fn leader(&self) -> usize {
        until("all running nodes name one running leader", || async {
            let mut named = Vec::new();
            for node in self.nodes.iter().filter(|node| node.child.is_some()) {
                let (status, body) = node.get("/v1/cluster").await?;
                (status == 200).then_some(())?;
                named.push(body["leader"].as_u64()?);
            }
            let leader = *named.first()?;
            let at = self.nodes.iter().position(|node| node.id == leader)?;
            let agreed = named.iter().all(|other| *other == leader) && self.nodes[at].child.is_some();
            agreed.then_some(at)
        })
        .await
    }

    /// Waits until all nodes are at one index, and checks that digest and state hash are equal there.
    pub async fn assert_equal(&self) -> (u64, String, String) {
        let all = until("all nodes at one applied index", || async {
            let all = futures::future::join_all(self.nodes.iter().map(Server::fingerprint)).await;
            let all: Vec<_> = all.into_iter().collect::<Option<_>>()?;
            all.iter().all(|other| other.0 == all[0].0).then_some(all)
        })
        .await;
        assert!(all.iter().all(|other| *other == all[0]), "nodes differ: {all:?}");
        all.into_iter().next().expect("three nodes")
    }

    /// A write through whichever node answers, with one key until it is settled.
    pub async fn write(&self, key: &str, path: &str, body: &Value) -> (u16, Value) {
        let from = NEXT.fetch_add(1, Ordering::Relaxed);
        let turn = AtomicU64::new(from);
        until(path, || async {
            let at = turn.fetch_add(1, Ordering::Relaxed) % self.nodes.len() as u64;
            let answer = self.nodes[usize::try_from(at).expect("small")].post(path, Some(key), body).await;
            answer.filter(|(status, _)| !matches!(status, 429 | 500..))
        })
        .await
    }

    /// The item `mug`, and this much stock of it.
    pub async fn stock_mugs(&self, units: u64) {
        let put =
            json!({"commands": [{"key": "item-mug", "method": "PUT", "path": "/v1/items/mug", "body": {}}]});
        until("the item is put", || async {
            let (status, body) = self.nodes[0].post("/v1/batch", None, &put).await?;
            (status == 200 && body["outcomes"][0]["status"].as_u64()? < 300).then_some(())
        })
        .await;
        let lines = json!({"lines": [{"sku": "mug", "quantity": units}]});
        let (status, body) = self.write("stock-mug", "/v1/stock/receive", &lines).await;
        assert!(status < 300, "{body}");
    }

    /// Places an order of one mug under a chosen id; what was acknowledged.
    pub async fn order(&self, id: &str) -> Value {
        let body = json!({"id": id, "lines": [{"sku": "mug", "quantity": 1}]});
        let (status, answer) = self.write(&format!("key-{id}"), "/v1/orders", &body).await;
        assert_eq!(status, 201, "{id}: {answer}");
        answer
    }

    /// Places `count` orders, some at a time, and returns what was acknowledged by id.
    pub async fn orders(&self, prefix: &str, count: usize) -> Orders {
        use futures::StreamExt as _;
        let placing = (0..count).map(|at| async move {
            let id = format!("{prefix}-{at}");
            let answer = self.order(&id).await;
            (id, answer)
        });
        futures::stream::iter(placing).buffer_unordered(8).collect().await
    }

    /// Each acknowledged order is on each node as it was acknowledged, and the mugs say so too.
    pub async fn assert_kept(&self, orders: &Orders, received: u64) {
        for node in &self.nodes {
            for (id, acknowledged) in orders {
                let path = format!("/v1/orders/{id}");
                let (status, kept) = until(&path, || node.get(&path)).await;
                assert_eq!((status, &kept), (200, acknowledged), "node {}", node.id);
            }
            let (_, stock) = until("the stock", || node.get("/v1/stock/mug")).await;
            let figures = ["on_hand", "allocated", "available"].map(|name| stock[name].as_u64());
            let placed = orders.len() as u64;
            assert_eq!(figures, [Some(received), Some(placed), Some(received - placed)], "node {}", node.id);
        }
    }

    /// The audit of each node is clean.
    pub async fn assert_audits_clean(&self) {
        for node in &self.nodes {
            let request = node.client.post(format!("http://{}/v1/audit", node.http)).json(&json!({}));
            let text = request.send().await.expect("an answer").text().await.expect("all of it");
            let last: Value = serde_json::from_str(text.lines().last().expect("a verdict")).expect("JSON");
            assert_eq!(last["verdict"], "clean", "node {}: {last}", node.id);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                let log = node.log();
                let lines: Vec<_> = log.lines().collect();
                eprintln!(
                    "-- log of node {}:\n{}",
                    node.id,
                    lines[lines.len().saturating_sub(40)..].join("\n")
                );
            }
        }
    }
}

/// Acknowledged orders by id.
pub type Orders = BTreeMap<String, Value>;

static NEXT: AtomicU64 = AtomicU64::new(0);
