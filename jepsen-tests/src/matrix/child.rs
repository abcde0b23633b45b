//! One run of a matrix, as a process of its own: the very command that a person would give.

use super::state::Attempt;
use super::table::Row;
use crate::run::judge::Summary;
use crate::run::plan::{NetworkKind, RunArgs, arguments};
use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::process::Command;

/// What a run may take beside the time of its clients: starting, healing, final reads, audits, checkers.
const OVERHEAD_MAX: Duration = Duration::from_secs(15 * 60);
/// How long a run that is told to end may take to take everything down.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(120);

/// A run that is to be made.
pub struct Child<'a> {
    /// What.
    pub row: &'a Row,
    /// With which seed.
    pub seed: u64,
    /// Where its results go; there is nothing yet.
    pub dir: PathBuf,
    /// The server.
    pub binary: PathBuf,
    /// Variables of the nodes (a planted bug).
    pub env: Vec<(String, String)>,
}

/// What came of it.
pub struct Ended {
    /// Exit code; 1 also where a signal ended it.
    pub code: u8,
    /// How long it took.
    pub seconds: f64,
    /// Its verdicts, where it came so far.
    pub summary: Option<Summary>,
    /// The last that it said.
    pub last_line: String,
}

/// Where what a run prints is kept.
pub fn output(dir: &Path) -> PathBuf {
    dir.with_extension("txt")
}

impl Child<'_> {
    fn arguments(&self) -> Vec<String> {
        let row = self.row;
        let args = RunArgs {
            workload: row.workload.to_owned(),
            nemesis: match row.nemeses.as_slice() {
                [] => vec!["none".to_owned()],
                names => names.iter().map(|name| (*name).to_owned()).collect(),
            },
            nodes: row.nodes,
            time: row.time_s,
            seed: Some(self.seed),
            clients: None,
            rate: None,
            network: row.network,
            dir: None,
            bin: Some(self.binary.clone()),
            setting: Vec::new(),
            keep: false,
            env: self.env.clone(),
        };
        let mut words = arguments(&args, self.seed);
        words.extend(["--dir".to_owned(), self.dir.display().to_string()]);
        words
    }

    /// Runs it to its end. Where the matrix is interrupted the run is told to take everything down.
    ///
    /// # Errors
    /// Where it cannot be started, or the matrix is interrupted.
    pub async fn run(&self) -> anyhow::Result<Ended> {
        let began = Instant::now();
        let path = output(&self.dir);
        let file =
            std::fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(self.arguments())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Ctrl-C on a terminal goes to a whole group: here it has to come from us, and once.
            .process_group(0)
            .spawn()
            .context("a run cannot be started")?;
        let limit = Duration::from_secs(self.row.time_s) + OVERHEAD_MAX;
        let status = tokio::select! {
            status = tokio::time::timeout(limit, child.wait()) => status,
            signal = crate::run::interrupted() => {
                end(&mut child).await?;
                bail!("interrupted by {signal}; the same command with the same --dir goes on");
            }
        };
        let status = match status {
            Ok(status) => status?,
            Err(_) => end(&mut child).await?,
        };
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let last_line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        // What failed after its verdicts were written has not passed.
        let summary = Summary::read(&self.dir).ok().filter(|_| matches!(code, 0 | 8 | 9));
        Ok(Ended {
            code: if summary.is_some() { code } else { 1 },
            seconds: began.elapsed().as_secs_f64(),
            summary,
            last_line: last_line.to_owned(),
        })
    }
}

/// Tells a run to take everything down, and waits for it.
async fn end(child: &mut tokio::process::Child) -> anyhow::Result<ExitStatus> {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        kill_process(pid, Signal::TERM)?;
    }
    match tokio::time::timeout(CLEAN_UP_WITHIN, child.wait()).await {
        Ok(status) => Ok(status?),
        Err(_) => {
            child.kill().await?;
            Ok(child.wait().await?)
        }
    }
}

impl Ended {
    /// As the state of a matrix keeps it.
    pub fn attempt(&self, row: &Row, dir: &Path, seed: u64) -> Attempt {
        let faults = self.summary.as_ref().map(|summary| summary.faults.clone()).unwrap_or_default();
        let wrong = self.summary.as_ref().map_or_else(
            || vec![format!("the harness failed: {}", self.last_line)],
            |summary| {
                let bad = summary.verdicts.iter().filter(|v| v.result != crate::checker::Verdicts::Holds);
                bad.map(|verdict| format!("{}: {}", verdict.checker, verdict.summary)).collect()
            },
        );
        Attempt {
            code: Some(self.code),
            run: row.name(),
            workload: row.workload.to_owned(),
            nemeses: row.nemeses.iter().map(|name| (*name).to_owned()).collect(),
            seed,
            dir: dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            seconds: self.seconds,
            calls: self.summary.as_ref().map(|summary| summary.calls).unwrap_or_default(),
            faults,
            wrong,
        }
    }
}

impl Row {
    /// Its name: what it does, readable and fit for a file.
    pub fn name(&self) -> String {
        let nemeses = if self.nemeses.is_empty() { "none".to_owned() } else { self.nemeses.join("+") };
        let network = match self.network {
            NetworkKind::Loopback => "",
            NetworkKind::Netns => "-netns",
        };
        format!("{}-{nemeses}-{}n{network}", self.workload, self.nodes)
    }
}
