//! The processes of the nodes: started, killed, paused, and started again where they end by themselves.

use super::holds::Excuses;
use super::node::Node;
use super::{Cluster, PATIENCE, Standing, clock};
use crate::history::{Exit, NodeId};
use crate::network::Network as _;
use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// How long a node that ended by itself stays down before the supervisor starts it again.
const RESTART_AFTER: Duration = Duration::from_secs(2);

/// What is known of a node's process, and what is to become of it.
#[derive(Default)]
pub(super) struct Process {
    pub(super) child: Option<Child>,
    pub(super) paused: bool,
    /// Whether the harness wants it down: the supervisor leaves it alone.
    pub(super) held_down: bool,
    /// When it ended by itself; the supervisor starts it again a while later.
    pub(super) died: Option<Instant>,
    /// Number of the process, also when it has ended.
    pub(super) pid: Option<u32>,
    /// When it was started.
    pub(super) started: Option<Instant>,
    /// Nemeses that work on its disk or files: nobody starts it meanwhile.
    pub(super) holds: BTreeSet<&'static str>,
    /// Why it may stop itself just now.
    pub(super) excuses: Excuses,
    /// Whether the kernel may kill it.
    pub(super) may_be_killed: bool,
    /// Variables for the next start, beside the cluster's.
    pub(super) environment: Vec<(String, String)>,
    /// Program for the next start, where it is not the cluster's.
    pub(super) program: Option<PathBuf>,
}

impl Cluster {
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

    pub(super) fn spawn(&self, node: &Node, process: &mut Process) -> anyhow::Result<()> {
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

    pub(super) async fn kill_process(&self, node: &Node, process: &mut Process) -> anyhow::Result<bool> {
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

    pub(super) async fn terminate_process(&self, node: &Node, process: &mut Process) -> anyhow::Result<bool> {
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

    /// How long its process has been running, where it runs.
    pub async fn running_for(&self, id: NodeId) -> Option<Duration> {
        let node = self.node(id);
        let process = node.process.lock().await;
        process.child.as_ref().and(process.started).map(|started| started.elapsed())
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

    /// Looks after nodes that ended by themselves.
    pub(super) async fn supervise(&self) {
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
}

/// A command of `stockroom`. What the user's shell has set for a server of their own is none of this
/// cluster's business, and a setting that `stockroom` does not know would end it.
pub(super) fn without_settings(words: &[OsString]) -> Command {
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
