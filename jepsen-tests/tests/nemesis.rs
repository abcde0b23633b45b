//! Every nemesis that this machine can do, once, against a real cluster under load: its fault must really
//! take effect, and when it is healed every node must be ready, and no node may have ended without a rule.
//!
//! Takes minutes, and needs a server: set `STOCKROOM_BIN` to a `stockroom` binary. `NEMESES=a,b` does
//! only those.

use anyhow::{Context as _, ensure};
use jepsen_tests::checker::{Verdicts, always};
use jepsen_tests::client::Mischief;
use jepsen_tests::cluster::{Cluster, Options, machine};
use jepsen_tests::history::{History, NodeId};
use jepsen_tests::nemesis::{self, Entry};
use jepsen_tests::network::loopback::Loopback;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a fault lasts where the nemesis leaves it to the runner.
const HOLD: Duration = Duration::from_secs(3);
/// How long a nemesis may find nothing to do, or have no effect, before that is a mistake of its own.
const EFFECT_WITHIN: Duration = Duration::from_secs(100);
const READY_WITHIN: Duration = Duration::from_secs(30);
const WRITERS: u64 = 8;

#[tokio::test(flavor = "multi_thread")]
async fn every_nemesis_takes_effect_and_heals() {
    let Some(binary) = std::env::var_os("STOCKROOM_BIN").map(PathBuf::from) else {
        println!("skipped: STOCKROOM_BIN names no server");
        return;
    };
    let wanted = std::env::var("NEMESES").unwrap_or_default();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.split(',').any(|one| one == name);
    let mut wrong = Vec::new();
    for entry in nemesis::all().filter(|entry| is_wanted(entry.name)) {
        let needs = (entry.needs)();
        if let Some(lacks) = machine::missing(&needs) {
            println!("{:<20} skipped: this machine lacks {lacks}", entry.name);
            continue;
        }
        let began = Instant::now();
        let result = once(entry, &binary).await;
        let seconds = began.elapsed().as_secs();
        match result {
            Ok(said) => println!("{:<20} {seconds} s: {said}", entry.name),
            Err(error) => {
                println!("{:<20} {seconds} s: WRONG: {error:#}", entry.name);
                wrong.push(entry.name);
            }
        }
    }
    assert!(wrong.is_empty(), "not as they should be: {wrong:?}");
}

async fn once(entry: &'static Entry, binary: &Path) -> anyhow::Result<String> {
    let dir = tempfile::Builder::new().prefix("nemesis-").tempdir()?;
    let needs = (entry.needs)();
    let nodes = needs.nodes.max(3);
    let options = Options {
        binary: binary.to_owned(),
        dir: dir.path().to_owned(),
        nodes,
        needs,
        environment: Vec::new(),
        network: Loopback::new(nodes).await?,
        epoch: Instant::now(),
        mischief: Arc::new(Mischief::default()),
    };
    let cluster = Cluster::start(options).await?;
    let writing = tokio::spawn(load(cluster.clone()));
    let done = act(entry, &cluster).await;
    let ready = all_ready(&cluster).await;
    writing.abort();
    let stopped = cluster.shutdown().await;
    let lines: Vec<String> = cluster
        .ids()
        .into_iter()
        .map(|id| {
            let log = std::fs::read_to_string(&cluster.node(id).log).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(4).collect();
            format!("\n  node {id}: {}", last.join("\n          "))
        })
        .collect();
    let said = done
        .and_then(|said| ready.map(|()| said))
        .with_context(|| format!("last lines:{}", lines.concat()))?;
    stopped?;
    let history = History { exits: cluster.exits(), ..History::default() };
    let deaths = always::deaths(&history);
    ensure!(deaths.result == Verdicts::Holds, "{said}; {:?}", deaths.violations);
    Ok(said)
}

/// Injects and heals until the fault has taken effect.
async fn act(entry: &'static Entry, cluster: &Cluster) -> anyhow::Result<String> {
    let mut nemesis = (entry.make)();
    let mut rng = StdRng::seed_from_u64(seed());
    let deadline = Instant::now() + EFFECT_WITHIN;
    let mut said = Vec::new();
    while Instant::now() < deadline {
        let Some(injected) = nemesis.inject(cluster, &mut rng).await? else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        tokio::time::sleep(injected.hold_ms.map_or(HOLD, Duration::from_millis)).await;
        let effect = nemesis.heal(cluster).await?;
        said.push(format!("{}: {}", injected.what, effect.evidence));
        if effect.effective {
            return Ok(said.join(" | "));
        }
    }
    anyhow::bail!("it had no effect: {}", said.join(" | "))
}

/// Of the choices; another one each time, and printed, so that what is seen can be seen again.
fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed}");
    seed
}

async fn all_ready(cluster: &Cluster) -> anyhow::Result<()> {
    for id in cluster.ids() {
        cluster.wait_ready(id, READY_WITHIN).await?;
    }
    Ok(())
}

/// Some writes a second until it is aborted, so that faults meet traffic.
async fn load(cluster: Arc<Cluster>) {
    let http =
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build().expect("a client");
    let number = Arc::new(AtomicU64::new(0));
    let writers = (0..WRITERS).map(|_| write(http.clone(), cluster.clone(), number.clone()));
    futures::future::join_all(writers).await;
}

async fn write(http: reqwest::Client, cluster: Arc<Cluster>, number: Arc<AtomicU64>) {
    loop {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let ids: Vec<NodeId> = cluster.ids();
        let id = ids[usize::try_from(number).expect("small") % ids.len()];
        let address = cluster.network().addresses(id).http_clients;
        let body = json!({ "name": format!("an item with a name of some length, the {number}.") });
        let request = http.put(format!("http://{address}/v1/items/item-{number}"));
        // Whatever comes of it: it is there to be harmed.
        let _ = request.header("Idempotency-Key", format!("load-{number}")).json(&body).send().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
