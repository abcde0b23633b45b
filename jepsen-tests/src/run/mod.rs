//! One run from start to verdict.
//!
//! [`plan`] decides what is done; this file does it in order: network, cluster, the workload's set-up,
//! clients and nemeses side by side, healing, what is asked and probed of the healed cluster, a clean
//! stop, verdicts. [`clients`] and [`faults`] are the two sides of it, [`recorder`] takes down what both
//! see, [`probes`] looks at the healed cluster, [`judge`] asks the checkers, [`say`] tells a person.
//!
//! However it ends, processes are ended and what was built is taken down.

pub mod binary;
pub mod clients;
pub mod faults;
pub mod judge;
pub mod plan;
pub mod probes;
pub mod recorder;
pub mod say;

use crate::checker::list_append;
use crate::client::Mischief;
use crate::cluster::{Cluster, Options};
use crate::history::Call;
use crate::network::{Network, loopback::Loopback, netns::Netns};
use crate::report;
use crate::workload::Shape;
use anyhow::{Context as _, anyhow, bail};
use clients::Clients;
use judge::Summary;
use plan::{NetworkKind, Plan};
use recorder::Recorder;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How often each node is asked what it says of itself.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// How often a person hears how it goes.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// What starting may take.
const START_WITHIN: Duration = Duration::from_secs(180);
/// What everything after the clients' time may take: healing, settling, final reads, audits.
const FINISH_WITHIN: Duration = Duration::from_secs(600);
/// What finishing changes of members may take: a new node's catching up, and a removed one's noticing.
const MEMBERS_WITHIN: Duration = Duration::from_secs(60);
/// What taking everything down may take.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(90);

/// Name of the file of a history.
pub const HISTORY: &str = "history.jsonl";

/// Runs a plan to its verdict, and prints it.
///
/// # Errors
/// Where the harness itself failed, or was interrupted: then the run shows nothing.
pub async fn run(plan: Plan) -> anyhow::Result<Summary> {
    let began = Instant::now();
    let (binary, version) = binary::find(plan.bin.as_deref()).await?;
    let dir = plan::make_dir(&plan.dir)?;
    say::header(&plan, &binary, &version, &dir);
    let network: Arc<dyn Network> = match plan.network {
        NetworkKind::Loopback => Loopback::new(plan.nodes).await?,
        NetworkKind::Netns => Netns::new(plan.nodes).await?,
    };
    let epoch = Instant::now();
    let first_client = plan.clients as u64;
    let recorder = Arc::new(Recorder::create(&dir.join(HISTORY), epoch, plan.info(&version), first_client)?);
    let options = Options {
        binary,
        dir: dir.clone(),
        nodes: plan.nodes,
        needs: plan.needs.clone(),
        environment: plan.env.clone(),
        network: network.clone(),
        epoch,
        mischief: Arc::new(Mischief::default()),
    };
    let cluster = Arc::new(Mutex::new(None));
    let whole = async {
        let started = tokio::time::timeout(START_WITHIN, Cluster::start(options)).await;
        let started =
            started.with_context(|| format!("the cluster did not start within {START_WITHIN:?}"))?;
        let started = started.context("the cluster did not start")?;
        *cluster.lock().expect("no panic while held") = Some(started.clone());
        Run::new(&plan, started, recorder.clone())?.whole().await
    };
    let ended = tokio::select! {
        ended = whole => ended,
        signal = interrupted() => Err(anyhow!("interrupted by {signal}: processes are ended, results so far are kept")),
    };
    let cluster = cluster.lock().expect("no panic while held").take();
    let stopped = take_down(cluster, &*network, &recorder, ended.is_ok()).await;
    ended?;
    recorder.probe("stopped", stopped);
    recorder.check()?;
    conclude(&plan, &recorder, &dir, began)
}

/// Judges, writes what is for people, and removes what nobody needs after a pass.
fn conclude(plan: &Plan, recorder: &Recorder, dir: &Path, began: Instant) -> anyhow::Result<Summary> {
    println!("judging");
    let history = Arc::new(recorder.look(Clone::clone));
    let mut summary = Summary::of(&history)?;
    summary.skipped.clone_from(&plan.skipped);
    summary.seconds = began.elapsed().as_secs_f64();
    summary.write(dir)?;
    if history.ops.iter().any(|op| matches!(op.call, Call::ReadMovements { .. })) {
        let path = dir.join("history.edn");
        let edn = list_append::edn(&history);
        std::fs::write(&path, edn).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let page = report::write(dir, &history, &summary.verdicts);
    // Verdicts are told also where no page can be written.
    say::verdicts(&summary, page.as_deref().ok());
    page.context("the page could not be written")?;
    if judge::exit_code(summary.result) == 0 && !plan.keep {
        remove_data(dir)?;
    }
    Ok(summary)
}

/// Which signal asked for the end, once one does. The second one ends the process at once.
pub async fn interrupted() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    let name = tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    };
    eprintln!("{name}: taking everything down; once more ends at once");
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {},
            _ = terminate.recv() => {},
        }
        std::process::exit(130);
    });
    name
}

/// Stops all nodes and takes the network down: cleanly after a whole run, by force otherwise.
async fn take_down(
    cluster: Option<Arc<Cluster>>,
    network: &dyn Network,
    recorder: &Recorder,
    cleanly: bool,
) -> Result<String, String> {
    let Some(cluster) = cluster else {
        // It never stood: its processes ended with it.
        network.close().await;
        return Ok("nothing had been started".to_owned());
    };
    let before = cluster.exits().len();
    if !cleanly {
        for id in cluster.ids_with_leaving() {
            if let Err(error) = cluster.kill(id).await {
                eprintln!("node {id} could not be ended: {error:#}");
            }
        }
    }
    let stopped = tokio::time::timeout(CLEAN_UP_WITHIN, cluster.shutdown()).await;
    let exits = cluster.exits();
    recorder.exits(&exits);
    match stopped {
        Err(_) => return Err(format!("the nodes did not stop within {CLEAN_UP_WITHIN:?}")),
        Ok(Err(error)) => return Err(format!("{error:#}")),
        Ok(Ok(())) => {}
    }
    let unclean: Vec<String> = exits[before..]
        .iter()
        .filter(|exit| exit.code != Some(0))
        .map(|exit| format!("node {}: {}; its last line: {}", exit.node, exit.how, exit.last_line))
        .collect();
    match unclean.is_empty() {
        true => Ok(format!("{} nodes stopped cleanly", exits.len() - before)),
        false => Err(format!("not stopped cleanly: {}", unclean.join("; "))),
    }
}

/// Removes the nodes' data; history, logs, verdicts and page stay.
fn remove_data(dir: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            std::fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// A run whose cluster stands.
struct Run<'a> {
    plan: &'a Plan,
    cluster: Arc<Cluster>,
    recorder: Arc<Recorder>,
    clients: Arc<Clients>,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, cluster: Arc<Cluster>, recorder: Arc<Recorder>) -> anyhow::Result<Self> {
        let shape = Shape { nodes: plan.nodes, clients: plan.clients, time_s: plan.time_s, rate: plan.rate };
        let generator = (plan.workload.generator)(&shape);
        let clients = Arc::new(Clients::new(cluster.clone(), recorder.clone(), generator, plan.rate)?);
        Ok(Run { plan, cluster, recorder, clients })
    }

    /// All of it while the cluster is up.
    async fn whole(&self) -> anyhow::Result<()> {
        // Ends with this function: dropping the set ends its tasks.
        let mut watching = JoinSet::new();
        watching.spawn(watch(self.cluster.clone(), self.recorder.clone()));
        let calls = {
            let mut generator = self.clients.generator.lock().expect("no panic while held");
            generator.setup(&mut self.plan.random("setup"))
        };
        self.clients.insist(calls, true).await.context("the workload could not be set up")?;
        let healed = self.storm().await?;
        tokio::time::timeout(FINISH_WITHIN, self.aftermath(healed))
            .await
            .with_context(|| format!("the end of the run took more than {FINISH_WITHIN:?}"))??;
        self.recorder.exits(&self.cluster.exits());
        self.recorder.check()
    }

    /// Clients and nemeses side by side; when it returns no call is in flight and all is healed. Gives when
    /// the last fault was.
    async fn storm(&self) -> anyhow::Result<Instant> {
        let deadline = Instant::now() + Duration::from_secs(self.plan.time_s);
        let mut tasks: JoinSet<anyhow::Result<Option<Instant>>> = JoinSet::new();
        for slot in 0..self.plan.clients {
            let client =
                self.clients.clone().run(slot, self.plan.random(&format!("client {slot}")), deadline);
            tasks.spawn(async move {
                client.await;
                Ok(None)
            });
        }
        for entry in &self.plan.nemeses {
            let rng = self.plan.random(&format!("nemesis {}", entry.name));
            let (cluster, recorder) = (self.cluster.clone(), self.recorder.clone());
            let nemesis = faults::run(entry, cluster, recorder, rng, self.plan.time_s, deadline);
            tasks.spawn(async move {
                nemesis.await?;
                Ok(Some(Instant::now()))
            });
        }
        let mut healed = None;
        let mut said = (Instant::now(), self.recorder.tally().ok);
        let mut say = tokio::time::interval(SAY_EVERY);
        say.tick().await;
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    None => return Ok(healed.unwrap_or_else(Instant::now)),
                    Some(ended) => healed = healed.max(ended.context("a part of the harness panicked")??),
                },
                _ = say.tick() => {
                    let ok = self.recorder.tally().ok;
                    say::live(&self.recorder, ok - said.1, said.0.elapsed());
                    said = (Instant::now(), ok);
                    self.recorder.check()?;
                }
            }
        }
    }

    /// What is asked of the healed cluster.
    async fn aftermath(&self, healed: Instant) -> anyhow::Result<()> {
        println!("all healed; probing");
        let available = probes::available(&self.clients, healed).await;
        self.recorder.probe("available", available);
        let members = self.cluster.settle_members(Instant::now() + MEMBERS_WITHIN).await;
        self.recorder.probe("members", members);
        let settled = self.clients.settle().await.map_err(|error| format!("{error:#}"));
        self.recorder.probe("settled", settled);
        let calls = self.clients.generator.lock().expect("no panic while held").finish();
        let read = self.clients.insist_everywhere(&calls).await;
        let read = read.map(|()| "all final calls were answered".to_owned());
        self.recorder.probe("final", read.map_err(|error| format!("{error:#}")));
        let audited = probes::audit(&self.cluster).await;
        self.recorder.probe("digests", audited.equal);
        self.recorder.probe("audit", audited.clean);
        self.recorder.probe("operations", operations(&self.cluster));
        self.recorder.backups(self.cluster.backups());
        Ok(())
    }
}

/// Whether nemeses saw anything that must not be, in what operators asked for.
fn operations(cluster: &Cluster) -> Result<String, String> {
    let findings = cluster.findings();
    match findings.is_empty() {
        true => Ok("nothing was wrong with what operators did".to_owned()),
        false => Err(findings.join("; ")),
    }
}

/// Takes down what nodes say of themselves, and which ended.
async fn watch(cluster: Arc<Cluster>, recorder: Arc<Recorder>) {
    let mut tick = tokio::time::interval(SAMPLE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asking = JoinSet::new();
    let mut waiting = BTreeSet::new();
    loop {
        tick.tick().await;
        recorder.exits(&cluster.exits());
        while let Some(answer) = asking.try_join_next() {
            let Ok((id, sample)) = answer else { continue };
            waiting.remove(&id);
            if let Some(sample) = sample {
                recorder.sample(sample);
            }
        }
        for id in cluster.ids_with_leaving() {
            // A paused node does not hold up the others: it is asked again when it has answered.
            if waiting.insert(id) {
                let cluster = cluster.clone();
                asking.spawn(async move { (id, cluster.sample(id).await) });
            }
        }
    }
}

/// Where results lie, of a name or a directory that a person gives.
///
/// # Errors
/// Where there is no history.
pub fn history_in(path: &Path) -> anyhow::Result<PathBuf> {
    let file = if path.is_dir() { path.join(HISTORY) } else { path.to_owned() };
    if !file.exists() {
        bail!("there is no {}", file.display());
    }
    Ok(file)
}
