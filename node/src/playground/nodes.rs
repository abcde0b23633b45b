//! The child processes: started, killed, paused, restarted, and written down in `nodes.json`.

use super::layout::{Layout, write_atomically};
use anyhow::{Context as _, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// How long a node that died from outside stays down.
const RESTART_AFTER: Duration = Duration::from_secs(2);
/// The setting of that name, as a variable.
const WORKER_THREADS: &str = "STOCKROOM_WORKER_THREADS";
/// A little more than the nodes' own `shutdown_drain_ms`.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// What a node's process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not started yet, or between two starts.
    Down,
    /// Running.
    Up,
    /// Stopped with SIGSTOP by us.
    Paused,
    /// Killed by us; stays down until it is restarted.
    Killed,
    /// Died from outside or by itself; comes back after two seconds.
    Died,
}

/// What to do with a node's process.
#[derive(Debug)]
pub enum Action {
    /// `kill -9`, and leave it down.
    Kill,
    /// SIGSTOP.
    Pause,
    /// SIGCONT.
    Resume,
    /// Start it; where it runs, end it with SIGTERM before.
    Restart,
    /// SIGTERM, and SIGKILL where that does not help. Answers whether it ended cleanly.
    Stop(oneshot::Sender<bool>),
}

/// One row of `nodes.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Node {
    /// Its number.
    pub id: u16,
    /// Its process, where it has one.
    pub pid: Option<u32>,
    /// What that is doing.
    pub state: State,
    /// HTTP address.
    pub http: String,
    /// Peer address.
    pub peer: String,
    /// Data directory.
    pub data_dir: PathBuf,
    /// What it logs.
    pub log: PathBuf,
    /// How often it was started.
    pub starts: u32,
}

#[derive(Debug, Serialize)]
struct NodesFile {
    cluster_id: Option<String>,
    playground_pid: u32,
    nodes: Vec<Node>,
}

/// `nodes.json`, and the same in memory.
#[derive(Debug)]
struct Registry {
    path: PathBuf,
    file: Mutex<NodesFile>,
}

impl Registry {
    fn update(&self, change: impl FnOnce(&mut NodesFile)) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut file);
        if let Err(error) = write_atomically(&self.path, &*file) {
            eprintln!("{error:#}");
        }
    }
}

/// All nodes of a playground. Ends them when it is dropped.
#[derive(Debug)]
pub struct Nodes {
    registry: Arc<Registry>,
    keepers: Vec<(mpsc::Sender<Action>, JoinHandle<()>)>,
}

impl Nodes {
    /// Starts a process for each node.
    ///
    /// # Errors
    /// Where `nodes.json` cannot be written or the own executable cannot be found.
    pub fn start(layout: &Layout) -> anyhow::Result<Self> {
        let node = |id| Node {
            id,
            pid: None,
            state: State::Down,
            http: layout.http(id),
            peer: layout.peer(id),
            data_dir: layout.data_dir(id),
            log: layout.log_file(id),
            starts: 0,
        };
        let file = NodesFile {
            cluster_id: layout.memory.cluster_id.clone(),
            playground_pid: std::process::id(),
            nodes: layout.ids().map(node).collect(),
        };
        let nodes = file.nodes.clone();
        let count = nodes.len();
        let registry = Arc::new(Registry { path: layout.dir.join("nodes.json"), file: Mutex::new(file) });
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let keepers = nodes.into_iter().map(|node| {
            let (sender, actions) = mpsc::channel(16);
            let keeper = Keeper {
                registry: registry.clone(),
                program: program.clone(),
                worker_threads: worker_threads(count),
                node,
                killed: false,
            };
            (sender, tokio::spawn(keeper.keep(actions)))
        });
        Ok(Nodes { keepers: keepers.collect(), registry })
    }

    /// What each process is doing now.
    pub fn list(&self) -> Vec<Node> {
        self.registry.file.lock().unwrap_or_else(PoisonError::into_inner).nodes.clone()
    }

    /// One of them.
    pub fn get(&self, id: u16) -> Option<Node> {
        self.list().into_iter().find(|node| node.id == id)
    }

    /// Writes the cluster's id into `nodes.json`.
    pub fn set_cluster_id(&self, cluster_id: &str) {
        self.registry.update(|file| file.cluster_id = Some(cluster_id.to_owned()));
    }

    /// Has something done to a node. Unknown ids are ignored: keys 4 to 9 of a cluster of three.
    pub async fn act(&self, id: u16, action: Action) {
        if let Some((keeper, _)) = usize::from(id).checked_sub(1).and_then(|at| self.keepers.get(at)) {
            // A keeper that is gone has nothing left to act on.
            let _ = keeper.send(action).await;
        }
    }

    /// Ends all of them at once; true where each ended cleanly.
    pub async fn stop(self) -> bool {
        let mut answers = Vec::new();
        for (keeper, _) in &self.keepers {
            let (sender, answer) = oneshot::channel();
            if keeper.send(Action::Stop(sender)).await.is_ok() {
                answers.push(answer);
            }
        }
        let mut clean = true;
        for answer in answers {
            clean &= answer.await.unwrap_or(false);
        }
        clean
    }

    /// The error of a node that ended before it served, with the end of its log.
    pub fn failure(&self, id: u16) -> Option<anyhow::Error> {
        let node = self.get(id).filter(|node| node.state == State::Died)?;
        Some(anyhow!("node {id} ended at its start; the end of {}:\n{}", node.log.display(), tail(&node)))
    }
}

/// Last lines of a node's log.
fn tail(node: &Node) -> String {
    let text = std::fs::read(&node.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_else(|error| error.to_string());
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].iter().fold(String::new(), |mut out, line| {
        let _ = writeln!(out, "    {line}");
        out
    })
}

/// A process and the pipe that it watches: when this program ends, however it does, the pipe closes and the node
/// stops itself.
struct Process {
    child: Child,
    _stdin: Option<ChildStdin>,
}

/// Looks after one node's process.
struct Keeper {
    registry: Arc<Registry>,
    program: PathBuf,
    worker_threads: usize,
    node: Node,
    killed: bool,
}

impl Keeper {
    async fn keep(mut self, mut actions: mpsc::Receiver<Action>) {
        let mut process = self.spawn();
        let mut start_at = process.is_none().then(|| Instant::now() + RESTART_AFTER);
        loop {
            tokio::select! {
                _ = exit(&mut process) => {
                    process = None;
                    let state = if self.killed { State::Killed } else { State::Died };
                    self.tell(state, None);
                    start_at = (!self.killed).then(|| Instant::now() + RESTART_AFTER);
                }
                () = reached(start_at) => {
                    process = self.spawn();
                    start_at = process.is_none().then(|| Instant::now() + RESTART_AFTER);
                }
                action = actions.recv() => match action {
                    Some(Action::Kill) => { self.killed = true; self.signal(Signal::KILL); start_at = None; }
                    Some(Action::Pause) => self.pause(),
                    Some(Action::Resume) => self.resume(),
                    Some(Action::Restart) => {
                        self.end(&mut process).await;
                        process = self.spawn();
                        start_at = process.is_none().then(|| Instant::now() + RESTART_AFTER);
                    }
                    Some(Action::Stop(answer)) => {
                        let clean = self.end(&mut process).await;
                        // Nobody may wait for the answer any more.
                        let _ = answer.send(clean);
                        return;
                    }
                    None => return,
                },
            }
        }
    }

    fn spawn(&mut self) -> Option<Process> {
        self.killed = false;
        self.node.starts += 1;
        match start(&self.program, &self.node, self.worker_threads) {
            Ok(process) => {
                self.tell(State::Up, process.child.id());
                Some(process)
            }
            Err(error) => {
                let _ = std::fs::write(&self.node.log, format!("cannot start: {error:#}\n"));
                self.tell(State::Died, None);
                None
            }
        }
    }

    fn tell(&mut self, state: State, pid: Option<u32>) {
        (self.node.state, self.node.pid) = (state, pid);
        self.registry.update(|file| {
            if let Some(row) = file.nodes.iter_mut().find(|row| row.id == self.node.id) {
                *row = self.node.clone();
            }
        });
    }

    fn signal(&self, signal: Signal) {
        let pid = self.node.pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // The child is not reaped before `exit` returns, so the number is still its own; it may be dead.
            let _ = kill_process(pid, signal);
        }
    }

    fn pause(&mut self) {
        if self.node.state == State::Up {
            self.signal(Signal::STOP);
            self.tell(State::Paused, self.node.pid);
        }
    }

    fn resume(&mut self) {
        if self.node.state == State::Paused {
            self.signal(Signal::CONT);
            self.tell(State::Up, self.node.pid);
        }
    }

    /// SIGTERM, then SIGKILL; true where it was down already or ended by itself with 0.
    async fn end(&mut self, process: &mut Option<Process>) -> bool {
        let Some(running) = process else { return true };
        self.resume();
        self.signal(Signal::TERM);
        let clean = match timeout(STOP_WITHIN, running.child.wait()).await {
            Ok(status) => status.is_ok_and(|status| status.success()),
            Err(_) => {
                self.signal(Signal::KILL);
                let _ = running.child.wait().await;
                false
            }
        };
        *process = None;
        self.tell(State::Down, None);
        clean
    }
}

async fn exit(process: &mut Option<Process>) -> Option<ExitStatus> {
    match process {
        Some(process) => process.child.wait().await.ok(),
        None => std::future::pending().await,
    }
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The nodes share this machine: with a thread for each core in each of them they would wake threads for
/// one another's work, and an order would cost more.
fn worker_threads(nodes: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / nodes).max(1)
}

fn start(program: &PathBuf, node: &Node, worker_threads: usize) -> anyhow::Result<Process> {
    let log = OpenOptions::new().create(true).append(true).open(&node.log)?;
    let (http, peer) = (node.http.as_str(), node.peer.as_str());
    let mut command = Command::new(program);
    // Whoever sets it for the playground wants it for its nodes.
    if std::env::var_os(WORKER_THREADS).is_none() {
        command.env(WORKER_THREADS, worker_threads.to_string());
    }
    let mut child = command
        // A short drain: where all nodes stop at once, the leader waits in vain for another to take over.
        .args(["serve", "--stop-with-parent", "--log-format", "text", "--shutdown-drain-ms", "4000"])
        .args(["--node-id", &node.id.to_string()])
        // Whatever this machine's settings say: these nodes are a cluster of their own.
        .args(["--join", "", "--initial-cluster", ""])
        .arg("--data-dir")
        .arg(&node.data_dir)
        .args([
            "--http-listen",
            http,
            "--http-advertise",
            http,
            "--peer-listen",
            peer,
            "--peer-advertise",
            peer,
        ])
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A group of its own: Ctrl-C at the terminal is for the playground, which ends its nodes in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    // Taken out, because waiting for a child closes its standard input.
    let stdin = child.stdin.take();
    Ok(Process { child, _stdin: stdin })
}
