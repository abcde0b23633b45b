//! The cluster under test: real `stockroom serve` processes, their disks and clocks.

pub mod clock;
pub mod disk;
mod holds;
pub mod machine;
pub mod members;
mod needs;
mod rebuilt;
pub mod resources;
pub mod shim;

pub use needs::Needs;

use crate::client::Mischief;
use crate::history::{Backup, Exit, Micros, NodeId, Sample};
use crate::network::places::Places;
use crate::network::{Addresses, Network};
use anyhow::{Context as _, bail};
use clock::Clock;
use disk::Disk;
use holds::{Claims, Excuses};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use shim::Faults;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// How long a node that ended by itself stays down before the supervisor starts it again.
const RESTART_AFTER: Duration = Duration::from_secs(2);
/// How long starting, forming and becoming ready may take.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How a cluster is made.
pub struct Options {
    /// The `stockroom` binary.
    pub binary: PathBuf,
    /// Directory of the run: data, logs, control files.
    pub dir: PathBuf,
    /// How many nodes.
    pub nodes: u64,
    /// What the nemeses need.
    pub needs: Needs,
    /// Environment of every node, beside what [`Options::needs`] brings (a planted bug).
    pub environment: Vec<(String, String)>,
    /// The network, already built.
    pub network: Arc<dyn Network>,
    /// When time 0 of the history was.
    pub epoch: Instant,
    /// What clients do wrong; shared with them.
    pub mischief: Arc<Mischief>,
}

/// Real processes. All methods take `&self`: clients, nemeses and the supervisor use it at once.
pub struct Cluster {
    options: Options,
    /// All that there ever were: some nemesis may still know the numbers of those that are gone.
    nodes: Mutex<BTreeMap<NodeId, (Standing, Arc<Node>)>>,
    admin: reqwest::Client,
    exits: Mutex<Vec<Exit>>,
    claims: Mutex<Claims>,
    /// What nemeses saw that must not be.
    findings: Mutex<Vec<String>>,
    /// Backups that were taken and unpacked.
    backups: Mutex<Vec<Backup>>,
    /// Held while a new node gets its number.
    joining: tokio::sync::Mutex<()>,
    /// Libraries that every node has preloaded.
    preload: Vec<PathBuf>,
    /// Where each node is.
    places: Places,
}

/// What a node is to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is meant to be a member: it is compared with the others, and asked at the end.
    Member,
    /// It is to be removed, or was: it runs until it has said so itself, and clients go on asking it.
    Leaving,
    /// Down for good.
    Gone,
}

/// One node, through all its lives.
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Where it listens and is reached.
    pub addresses: Addresses,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// All that it ever printed.
    pub log: PathBuf,
    /// Orders to its fault shim, where it has one.
    pub faults: Option<Arc<Faults>>,
    /// Its clock, where it can be set.
    pub clock: Option<Arc<Clock>>,
    /// Its disk, where it has one of its own.
    pub disk: Option<Arc<Disk>>,
    arguments: Vec<String>,
    process: tokio::sync::Mutex<Process>,
}

#[derive(Default)]
struct Process {
    child: Option<Child>,
    paused: bool,
    /// Whether the harness wants it down: the supervisor leaves it alone.
    held_down: bool,
    /// When it ended by itself; the supervisor starts it again a while later.
    died: Option<Instant>,
    /// Number of the process, also when it has ended.
    pid: Option<u32>,
    /// When it was started.
    started: Option<Instant>,
    /// Nemeses that work on its disk or files: nobody starts it meanwhile.
    holds: BTreeSet<&'static str>,
    /// Why it may stop itself just now.
    excuses: Excuses,
    /// Whether the kernel may kill it.
    may_be_killed: bool,
    /// Variables for the next start, beside the cluster's.
    environment: Vec<(String, String)>,
    /// Program for the next start, where it is not the cluster's.
    program: Option<PathBuf>,
}

impl Drop for Node {
    /// Where a run breaks off, its processes are killed as they are dropped, and cannot clean up.
    fn drop(&mut self) {
        if let (Some(pid), true) = (self.process.get_mut().pid, self.clock.is_some()) {
            clock::clean_up_after(pid);
        }
    }
}

impl Node {
    async fn new(id: NodeId, options: &Options, join: Option<&str>) -> anyhow::Result<Self> {
        let addresses = options.network.addresses(id);
        let mut arguments: Vec<String> = [
            ("--node-id", id.to_string()),
            ("--http-listen", addresses.http_listen.clone()),
            ("--http-advertise", addresses.http_clients.clone()),
            ("--peer-listen", addresses.peer_listen.clone()),
            ("--peer-advertise", addresses.peer_advertise.clone()),
            ("--log-format", "text".to_owned()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        for (flag, value) in &options.needs.settings {
            arguments.extend([(*flag).to_owned(), value.clone()]);
        }
        if let Some(peer) = join {
            arguments.extend(["--join".to_owned(), peer.to_owned()]);
        }
        let (dir, needs) = (&options.dir, &options.needs);
        let own = dir.join(format!("node-{id}"));
        let disk = match needs.own_disks {
            true => Some(Arc::new(Disk::create(&dir.join(format!("disks/node-{id}.ext4")), &own).await?)),
            false => None,
        };
        let data_dir = disk.as_ref().map_or(own, |disk| disk.data());
        let control = |what: &str| dir.join(format!("node-{id}.{what}"));
        Ok(Node {
            id,
            addresses,
            log: control("log"),
            faults: needs
                .shim
                .then(|| Faults::create(&control("faults"), &data_dir))
                .transpose()?
                .map(Arc::new),
            clock: needs.faketime.then(|| Clock::create(&control("clock"))).transpose()?.map(Arc::new),
            disk,
            data_dir,
            arguments,
            process: tokio::sync::Mutex::default(),
        })
    }

    /// What its preloaded libraries have to know.
    fn equipment(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let faults = self.faults.iter().flat_map(|faults| faults.environment());
        faults.chain(self.clock.iter().flat_map(|clock| clock.environment()))
    }

    /// The last line that is not empty, of what it printed.
    fn last_line(&self) -> String {
        const TAIL_BYTES: u64 = 64 * 1024;
        let read = || -> std::io::Result<String> {
            let mut file = std::fs::File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
    }
}

impl Cluster {
    /// Starts all nodes, forms the cluster, and waits until every node is ready. From then on a node that
    /// ends by itself is started again after two seconds, as a service manager would.
    ///
    /// # Errors
    /// Where it does not come up within a minute; the message has the node's last line.
    pub async fn start(options: Options) -> anyhow::Result<Arc<Self>> {
        let mut admin = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2));
        if let Some(source) = options.network.admin_source() {
            admin = admin.local_address(source);
        }
        let mut preload = Vec::new();
        if options.needs.shim {
            preload.push(shim::build(&options.dir).await?);
        }
        if options.needs.faketime {
            preload.push(machine::libfaketime().context("there is no libfaketime")?);
        }
        let places = Places::of(options.network.clone());
        let mut nodes = BTreeMap::new();
        for id in 1..=options.nodes {
            nodes.insert(id, (Standing::Member, Arc::new(Node::new(id, &options, None).await?)));
        }
        let cluster = Arc::new(Cluster {
            options,
            nodes: Mutex::new(nodes),
            admin: admin.build()?,
            exits: Mutex::default(),
            claims: Mutex::default(),
            findings: Mutex::default(),
            backups: Mutex::default(),
            joining: tokio::sync::Mutex::default(),
            preload,
            places,
        });
        for id in cluster.ids() {
            cluster.start_node(id).await?;
        }
        cluster.bootstrap().await?;
        for id in cluster.ids() {
            cluster.wait_ready(id, PATIENCE).await?;
        }
        let weak = Arc::downgrade(&cluster);
        tokio::spawn(async move {
            while let Some(cluster) = weak.upgrade() {
                cluster.supervise().await;
                drop(cluster);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        Ok(cluster)
    }

    async fn bootstrap(&self) -> anyhow::Result<()> {
        let mut command: Vec<OsString> = self.places.enter(1);
        command.push(self.options.binary.clone().into());
        command.push("bootstrap".into());
        for node in self.that_are(|standing| standing == Standing::Member) {
            command.push("--member".into());
            command.push(format!("{}={}", node.id, node.addresses.peer_advertise).into());
        }
        let output = without_settings(&command).kill_on_drop(true).output();
        let output = tokio::time::timeout(PATIENCE, output).await.context("bootstrap did not end")??;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let nodes = self.that_are(|_| true);
            let lines: Vec<String> =
                nodes.iter().map(|node| format!("\n  node {}: {}", node.id, node.last_line())).collect();
            bail!("the cluster could not be formed: {}; last lines:{}", said.trim(), lines.concat());
        }
        Ok(())
    }

    fn that_are(&self, fit: impl Fn(Standing) -> bool) -> Vec<Arc<Node>> {
        let nodes = self.nodes.lock().expect("no panic while held");
        nodes.values().filter(|(standing, _)| fit(*standing)).map(|(_, node)| node.clone()).collect()
    }

    /// All nodes that are meant to belong to the cluster, running or not.
    pub fn ids(&self) -> Vec<NodeId> {
        self.that_are(|standing| standing == Standing::Member).iter().map(|node| node.id).collect()
    }

    /// The same with those that are being removed: whoever has their addresses goes on asking them.
    pub fn ids_with_leaving(&self) -> Vec<NodeId> {
        self.that_are(|standing| standing != Standing::Gone).iter().map(|node| node.id).collect()
    }

    /// One node, also one that is gone.
    ///
    /// # Panics
    /// Where there never was one of that number.
    pub fn node(&self, id: NodeId) -> Arc<Node> {
        let nodes = self.nodes.lock().expect("no panic while held");
        nodes.get(&id).map(|(_, node)| node.clone()).expect("a node of this cluster")
    }

    /// How it was made.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What lies between the nodes.
    pub fn network(&self) -> &dyn Network {
        &self.places
    }

    /// The time of the history.
    pub fn now(&self) -> Micros {
        Micros::try_from(self.options.epoch.elapsed().as_micros()).unwrap_or(Micros::MAX)
    }

    /// Processes that ended, so far.
    pub fn exits(&self) -> Vec<Exit> {
        self.exits.lock().expect("no panic while held").clone()
    }

    /// A backup was taken and verified.
    pub fn keep_backup(&self, backup: Backup) {
        self.backups.lock().expect("no panic while held").push(backup);
    }

    /// Backups, so far.
    pub fn backups(&self) -> Vec<Backup> {
        self.backups.lock().expect("no panic while held").clone()
    }

    /// Starts a node that is down, and hands it back to the supervisor. Nothing where it runs; where a nemesis
    /// has taken it, it is started as soon as that gives it back.
    ///
    /// # Errors
    /// Where the process cannot be made.
    pub async fn start_node(&self, id: NodeId) -> anyhow::Result<()> {
        let node = self.node(id);
        let mut process = node.process.lock().await;
        process.held_down = false;
        self.spawn(&node, &mut process)
    }

    fn spawn(&self, node: &Node, process: &mut Process) -> anyhow::Result<()> {
        if process.child.is_some() || !process.holds.is_empty() {
            return Ok(());
        }
        process.died = None;
        let log = OpenOptions::new().create(true).append(true).open(&node.log)?;
        let mut words = self.places.enter(node.id);
        let program = process.program.as_ref().unwrap_or(&self.options.binary);
        words.push(program.into());
        let mut command = without_settings(&words);
        if !self.preload.is_empty() {
            command.env("LD_PRELOAD", std::env::join_paths(&self.preload)?);
        }
        let child = command
            // Ends with its standard input: nothing of a run outlives the harness.
            .args(["serve", "--stop-with-parent"])
            .args(&node.arguments)
            .arg("--data-dir")
            .arg(&node.data_dir)
            .envs(self.options.environment.iter().map(|(name, value)| (name, value)))
            .envs(node.equipment())
            .envs(process.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        process.pid = child.id();
        self.places.started(node.id, child.id().context("it has just begun")?);
        process.child = Some(child);
        process.started = Some(Instant::now());
        process.paused = false;
        Ok(())
    }

    /// `kill -9`, also of a paused node, and waits until it is gone. It stays down until [`Self::start_node`].
    /// `false` where it was down already.
    ///
    /// # Errors
    /// Where the process cannot be waited for.
    pub async fn kill(&self, id: NodeId) -> anyhow::Result<bool> {
        let node = self.node(id);
        let mut process = node.process.lock().await;
        process.held_down = true;
        self.kill_process(&node, &mut process).await
    }

    async fn kill_process(&self, node: &Node, process: &mut Process) -> anyhow::Result<bool> {
        let Some(mut child) = process.child.take() else { return Ok(false) };
        process.paused = false;
        let pid = child.id();
        child.kill().await?;
        self.ended(node, true, pid, child.wait().await?, None);
        Ok(true)
    }

    /// SIGTERM, and waits until it is gone; it stays down. `false` where it was down already.
    ///
    /// # Errors
    /// Where it does not end within a minute.
    pub async fn terminate(&self, id: NodeId) -> anyhow::Result<bool> {
        let node = self.node(id);
        let mut process = node.process.lock().await;
        process.held_down = true;
        self.terminate_process(&node, &mut process).await
    }

    async fn terminate_process(&self, node: &Node, process: &mut Process) -> anyhow::Result<bool> {
        let Some(mut child) = process.child.take() else { return Ok(false) };
        process.paused = false;
        let (id, number) = (node.id, child.id());
        let pid = number.and_then(|pid| Pid::from_raw(pid.cast_signed())).context("it runs")?;
        kill_process(pid, Signal::CONT)?;
        kill_process(pid, Signal::TERM)?;
        let Ok(status) = tokio::time::timeout(PATIENCE, child.wait()).await else {
            child.kill().await?;
            bail!("node {id} did not end within {PATIENCE:?} of SIGTERM");
        };
        self.ended(node, true, number, status?, process.excuses.in_force());
        Ok(true)
    }

    /// SIGSTOP. `false` where it is down.
    ///
    /// # Errors
    /// Where the signal cannot be sent.
    pub async fn pause(&self, id: NodeId) -> anyhow::Result<bool> {
        self.signal(id, Signal::STOP, true).await
    }

    /// SIGCONT. `false` where it is down.
    ///
    /// # Errors
    /// Where the signal cannot be sent.
    pub async fn resume(&self, id: NodeId) -> anyhow::Result<bool> {
        self.signal(id, Signal::CONT, false).await
    }

    async fn signal(&self, id: NodeId, signal: Signal, paused: bool) -> anyhow::Result<bool> {
        let node = self.node(id);
        let mut process = node.process.lock().await;
        let pid = process.child.as_ref().and_then(Child::id).and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let Some(pid) = pid else { return Ok(false) };
        kill_process(pid, signal)?;
        process.paused = paused;
        Ok(true)
    }

    /// Its process, where it runs.
    pub async fn pid(&self, id: NodeId) -> Option<u32> {
        self.node(id).process.lock().await.child.as_ref().and_then(Child::id)
    }

    /// Whether it runs and is not paused.
    pub async fn is_up(&self, id: NodeId) -> bool {
        let node = self.node(id);
        let process = node.process.lock().await;
        process.child.is_some() && !process.paused
    }

    /// Sets a variable for this node's next starts; `None` takes it away.
    pub async fn set_environment(&self, id: NodeId, name: &str, value: Option<&str>) {
        let node = self.node(id);
        let mut process = node.process.lock().await;
        process.environment.retain(|(set, _)| set != name);
        process.environment.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    /// Sets the program for this node's next starts; `None`: the cluster's own.
    pub async fn set_program(&self, id: NodeId, program: Option<PathBuf>) {
        self.node(id).process.lock().await.program = program;
    }

    /// Adds a new, empty node that joins the running cluster through any of the others; its number is one that no
    /// node ever had.
    ///
    /// # Errors
    /// Where the process cannot be made.
    pub async fn join(&self) -> anyhow::Result<NodeId> {
        let _one_at_a_time = self.joining.lock().await;
        let id = self.new_number();
        let node = Arc::new(Node::new(id, &self.options, Some(&self.peers())).await?);
        self.nodes.lock().expect("no panic while held").insert(id, (Standing::Member, node));
        self.start_node(id).await?;
        Ok(id)
    }

    /// One that no node ever had.
    fn new_number(&self) -> NodeId {
        let nodes = self.nodes.lock().expect("no panic while held");
        nodes.keys().next_back().map_or(1, |highest| highest + 1)
    }

    /// Where the members are reached by others, as settings have it.
    fn peers(&self) -> String {
        let members = self.that_are(|standing| standing == Standing::Member);
        let peers: Vec<String> = members.iter().map(|node| node.addresses.peer_advertise.clone()).collect();
        peers.join(",")
    }

    /// Looks after nodes that ended by themselves.
    async fn supervise(&self) {
        for node in self.that_are(|standing| standing != Standing::Gone) {
            // Whoever holds it is starting or ending this node just now.
            let Ok(mut process) = node.process.try_lock() else { continue };
            if let Some(child) = &mut process.child
                && let Ok(Some(status)) = child.try_wait()
            {
                // Asked before it is known to have ended, which is when the child forgets its number.
                let pid = process.pid.take();
                process.child = None;
                process.paused = false;
                process.died = Some(Instant::now());
                let expected = process.may_be_killed && status.signal() == Some(Signal::KILL.as_raw());
                self.ended(&node, expected, pid, status, process.excuses.in_force());
            }
            let due = process.died.is_some_and(|died| died.elapsed() >= RESTART_AFTER);
            if due
                && !process.held_down
                && process.holds.is_empty()
                && let Err(error) = self.spawn(&node, &mut process)
            {
                eprintln!("node {} cannot be started again: {error:#}", node.id);
            }
        }
    }

    fn ended(
        &self,
        node: &Node,
        expected: bool,
        pid: Option<u32>,
        status: ExitStatus,
        excuse: Option<String>,
    ) {
        if let (Some(pid), true) = (pid, node.clock.is_some()) {
            clock::clean_up_after(pid);
        }
        self.exits.lock().expect("no panic while held").push(Exit {
            at: self.now(),
            node: node.id,
            expected,
            how: status.to_string(),
            code: status.code(),
            last_line: node.last_line(),
            excuse,
        });
    }

    /// `GET` past all faults. `None` where it does not answer in time, or not with 200 and JSON.
    pub async fn ask(&self, id: NodeId, path: &str) -> Option<Value> {
        let node = self.node(id);
        let url = format!("http://{}{path}", node.addresses.http_listen);
        let answer = self.admin.get(url).send().await.ok()?;
        answer.status().is_success().then_some(())?;
        answer.json().await.ok()
    }

    /// The client that goes past all faults.
    pub fn admin(&self) -> &reqwest::Client {
        &self.admin
    }

    /// What a node says of itself now.
    pub async fn sample(&self, id: NodeId) -> Option<Sample> {
        let body = self.ask(id, "/v1/cluster").await?;
        let member = body["members"].as_array()?.iter().find(|member| member["id"] == id)?;
        let text = |name: &str| member["report"][name].as_str().unwrap_or_default().to_owned();
        Some(Sample {
            at: self.now(),
            node: id,
            term: body["term"].as_u64()?,
            leader: body["leader"].as_u64(),
            applied_index: member["report"]["applied_index"].as_u64().unwrap_or(0),
            digest: text("digest"),
            state_hash: text("state_hash"),
        })
    }

    /// The node that says of itself that it leads, of the highest term.
    pub async fn leader(&self) -> Option<NodeId> {
        let ids = self.ids_with_leaving();
        let samples = futures::future::join_all(ids.into_iter().map(|id| self.sample(id))).await;
        let leading = samples.into_iter().flatten().filter(|sample| sample.leader == Some(sample.node));
        leading.max_by_key(|sample| sample.term).map(|sample| sample.node)
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// Where it does not in time; the message has the node's last line.
    pub async fn wait_ready(&self, id: NodeId, patience: Duration) -> anyhow::Result<()> {
        let node = self.node(id);
        let url = format!("http://{}/readyz", node.addresses.http_listen);
        let deadline = Instant::now() + patience;
        loop {
            let answer = self.admin.get(&url).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("node {id} was not ready within {patience:?}; its last line: {}", node.last_line());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Stops all nodes cleanly, and then the network; unmounts their disks.
    ///
    /// # Errors
    /// Where a node does not end.
    pub async fn shutdown(&self) -> anyhow::Result<()> {
        let ids = self.ids_with_leaving();
        let ends = futures::future::join_all(ids.into_iter().map(|id| self.terminate(id))).await;
        self.places.close().await;
        for node in self.that_are(|_| true) {
            if let Some(disk) = &node.disk {
                disk.unmount().await?;
            }
        }
        for end in ends {
            end?;
        }
        Ok(())
    }

    /// Directory of the run.
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }
}

/// A command of `stockroom`. What the user's shell has set for a server of their own is none of this
/// cluster's business, and a setting that `stockroom` does not know would end it.
fn without_settings(words: &[OsString]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    for name in settings_not_passed_on() {
        command.env_remove(name);
    }
    command
}

/// Settings of `stockroom` in the environment of the harness.
pub fn settings_not_passed_on() -> impl Iterator<Item = String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.filter(|name| name.starts_with("STOCKROOM_"))
}
