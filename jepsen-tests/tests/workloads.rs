//! Each workload for a moment against a real cluster that nobody hurts: it is understood, and it does much.
//!
//! Runs where `STOCKROOM_BIN` names a `stockroom` binary, and says so where it does not.

use jepsen_tests::checker::Verdicts;
use jepsen_tests::client::Mischief;
use jepsen_tests::cluster::{Cluster, Needs, Options};
use jepsen_tests::history::{History, Outcome, RunInfo};
use jepsen_tests::network::loopback::Loopback;
use jepsen_tests::run::clients::Clients;
use jepsen_tests::run::recorder::Recorder;
use jepsen_tests::workload::{self, Shape, Workload};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const TIME: Duration = Duration::from_secs(3);
/// At least so much of what is asked is answered, of every hundred calls.
const FAIR_SHARE: usize = 95;
/// At least so many calls are made, or the workload stands still.
const FEWEST: usize = 60;

/// What a node may answer although all is well: a bounded read may ask for more than it can know.
const EXPECTED: &[&str] = &["too_stale"];

async fn run(workload: &Workload, binary: PathBuf, nodes: u64) -> anyhow::Result<History> {
    let dir = tempfile::tempdir()?;
    let epoch = Instant::now();
    let network = Loopback::new(nodes).await?;
    let options = Options {
        binary,
        dir: dir.path().to_owned(),
        nodes,
        needs: Needs::default(),
        environment: Vec::new(),
        network: network.clone(),
        epoch,
        mischief: Arc::new(Mischief::default()),
    };
    let cluster = Cluster::start(options).await?;
    let shape = Shape { nodes, clients: workload.clients, time_s: TIME.as_secs(), rate: workload.rate };
    let info = RunInfo { workload: workload.name.to_owned(), nodes, seed: 1, ..RunInfo::default() };
    let path = dir.path().join("history.jsonl");
    let recorder = Arc::new(Recorder::create(&path, epoch, info, shape.clients as u64)?);
    let mut rng = StdRng::seed_from_u64(1);
    let generator = (workload.generator)(&shape);
    let clients = Arc::new(Clients::new(cluster.clone(), recorder.clone(), generator, workload.rate)?);
    let calls = clients.generator.lock().expect("no panic while held").setup(&mut rng);
    clients.insist(calls, true).await?;
    let deadline = Instant::now() + TIME;
    let mut slots = JoinSet::new();
    for slot in 0..shape.clients {
        slots.spawn(clients.clone().run(slot, StdRng::seed_from_u64(slot as u64), deadline));
    }
    slots.join_all().await;
    clients.settle().await?;
    let calls = clients.generator.lock().expect("no panic while held").finish();
    clients.insist(calls, false).await?;
    cluster.shutdown().await?;
    network.close().await;
    Ok(recorder.look(Clone::clone))
}

/// What is wrong with a run without faults.
fn wrong(workload: &Workload, history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut ok, mut ends) = (0, BTreeMap::<String, usize>::new());
    for op in &history.ops {
        match &op.outcome {
            Some(Outcome::Ok { .. }) => ok += 1,
            Some(Outcome::Fail { code, .. }) if EXPECTED.contains(&code.as_str()) => {}
            other => *ends.entry(format!("{}: {other:?}", op.call.name())).or_default() += 1,
        }
    }
    if history.ops.len() < FEWEST || ok * 100 < history.ops.len() * FAIR_SHARE {
        wrong.push(format!("{ok} of {} calls were answered", history.ops.len()));
    }
    wrong.extend(ends.iter().map(|(what, count)| format!("{count} times {what}")));
    for checker in workload.checkers {
        let verdict = checker(history);
        if verdict.result != Verdicts::Holds {
            wrong.push(format!("{}: {:?}: {}", verdict.checker, verdict.result, verdict.summary));
        }
    }
    wrong
}

async fn all_on(nodes: u64) {
    let Some(binary) = std::env::var_os("STOCKROOM_BIN").map(PathBuf::from) else {
        eprintln!("skipped: STOCKROOM_BIN does not name a stockroom binary");
        return;
    };
    let mut found = Vec::new();
    for workload in workload::ALL {
        let history = run(workload, binary.clone(), nodes)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", workload.name));
        eprintln!("{} on {nodes}: {} calls", workload.name, history.ops.len());
        found.extend(wrong(workload, &history).into_iter().map(|what| format!("{}: {what}", workload.name)));
    }
    assert!(found.is_empty(), "on {nodes} nodes:\n{}", found.join("\n"));
}

/// Both sizes in one test, one after another: side by side they would be measured by each other's load.
#[tokio::test(flavor = "multi_thread")]
async fn without_faults_every_workload_is_answered_and_holds() {
    for nodes in [1, 3] {
        all_on(nodes).await;
    }
}
