//! All nodes restarted in order, one after the other, as for a new configuration or a new program.

use super::{Effect, Entry, Injected, Nemesis};
use crate::cluster::{Cluster, Needs, machine};
use crate::history::NodeId;
use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a node may take to be ready again while other faults go on.
const READY_WITHIN: Duration = Duration::from_secs(20);
const NAME: &str = "rolling-restart";
const UPGRADE: &str = "upgrade";

/// Those of this file.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: NAME,
        kind: "cluster",
        about: "SIGTERM to one node after the other, each started again and ready before the next",
        needs: Needs::default,
        make: || Box::new(Rolling::new(NAME, None)),
    },
    Entry {
        name: UPGRADE,
        kind: "cluster",
        about: "the same with another build of the server, and the next time with the first one again",
        needs: || Needs { other_program: true, ..Needs::default() },
        make: || Box::new(Rolling::new(UPGRADE, machine::other_program())),
    },
];

struct Rolling {
    name: &'static str,
    /// The program that is not the cluster's own.
    other: Option<PathBuf>,
    /// Whether nodes are to run it after this turn.
    is_upgraded: bool,
    restarted: Vec<String>,
    skipped: Vec<NodeId>,
}

impl Rolling {
    fn new(name: &'static str, other: Option<PathBuf>) -> Self {
        Rolling { name, other, is_upgraded: false, restarted: Vec::new(), skipped: Vec::new() }
    }
}

/// Restarts one node in order: it hands leadership over, ends with code 0, and is ready again. `None` where another
/// fault has it.
async fn restart(
    cluster: &Cluster,
    id: NodeId,
    by: &'static str,
    program: Option<&Path>,
) -> anyhow::Result<Option<String>> {
    // It may be removed since the turn began.
    if !cluster.ids().contains(&id) {
        return Ok(None);
    }
    let (began, led) = (Instant::now(), cluster.leader().await == Some(id));
    let exits = cluster.exits().len();
    if !cluster.take_cleanly(id, by).await? {
        let mut ends = cluster.exits().into_iter().skip(exits);
        if let Some(exit) = ends.find(|exit| exit.node == id && exit.expected && exit.excuse.is_none()) {
            cluster.find(format!(
                "node {id} did not end in order on SIGTERM ({}): {}",
                exit.how, exit.last_line
            ));
        }
        return Ok(None);
    }
    let stopped = began.elapsed();
    cluster.set_program(id, program.map(Path::to_owned)).await;
    cluster.give_back(id, by).await?;
    let ready = cluster.wait_ready(id, READY_WITHIN).await.is_ok();
    let (role, state) =
        (if led { ", which led," } else { "" }, if ready { "ready" } else { "not ready yet" });
    let (stopped, all) = (stopped.as_secs_f64(), began.elapsed().as_secs_f64());
    if let (Some(program), Some(pid)) = (program, cluster.pid(id).await) {
        let runs = tokio::fs::read_link(format!("/proc/{pid}/exe")).await?;
        anyhow::ensure!(
            runs == program,
            "node {id} runs {} instead of {}",
            runs.display(),
            program.display()
        );
    }
    Ok(Some(format!("node {id}{role} ended in {stopped:.1} s and was {state} after {all:.1} s")))
}

#[async_trait]
impl Nemesis for Rolling {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        (self.restarted, self.skipped) = (Vec::new(), Vec::new());
        let mut ids = cluster.ids();
        ids.shuffle(rng);
        self.is_upgraded = !self.is_upgraded;
        let program = self.other.as_deref().filter(|_| self.is_upgraded);
        for id in &ids {
            match restart(cluster, *id, self.name, program).await? {
                Some(said) => self.restarted.push(said),
                None => self.skipped.push(*id),
            }
        }
        let with = match (&self.other, program) {
            (None, _) => String::new(),
            (Some(_), Some(other)) => format!(" with {}", other.display()),
            (Some(_), None) => " with the first program".to_owned(),
        };
        let what = format!("{} restarted in order, one after the other{with}", super::named(&ids));
        Ok(Some(Injected { what, nodes: ids, hold_ms: Some(0) }))
    }

    async fn heal(&mut self, _: &Cluster) -> anyhow::Result<Effect> {
        let mut evidence = self.restarted.join("; ");
        if !self.skipped.is_empty() {
            evidence += &format!("; another fault had {:?}", self.skipped);
        }
        Ok(Effect { effective: !self.restarted.is_empty(), evidence })
    }
}
