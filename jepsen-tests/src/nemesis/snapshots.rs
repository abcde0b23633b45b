//! Snapshots: a node so far behind that it needs one, and deaths while one is built, sent or received.

use super::disk::faults;
use super::{Effect, Entry, Injected, Nemesis, choice, small_files};
use crate::cluster::shim::{Order, Scope};
use crate::cluster::{Cluster, Needs};
use crate::history::NodeId;
use crate::network::{End, Trouble};
use anyhow::Context as _;
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the others may take until they have purged what the cut node lacks.
const PURGED_WITHIN: Duration = Duration::from_secs(20);
/// How long the leader may take no write. With another node gone for good, the cut leaves no majority, and nothing to
/// wait for.
const SILENT_FOR: Duration = Duration::from_secs(3);
/// How long a snapshot may take to arrive.
const INSTALLED_WITHIN: Duration = Duration::from_secs(20);
/// How long a snapshot is waited for.
const BUILT_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Files come and go within milliseconds.
const LOOK_FOR_FILES_EVERY: Duration = Duration::from_millis(1);
/// Syncs of files that are no log take so much longer while a snapshot is waited for: else none of them
/// would be unfinished for long enough to be met.
const SYNC_DELAY_US: u64 = 300_000;
/// Clients are slow while a node is cut off, and the log grows little by what they write. So the nemesis
/// adds writes of its own, of items that no workload knows: so large, and so many at a time.
const FILLER_BYTES: usize = 3_900;
const FILLERS: u64 = 8;
/// What a node prints when it has one.
const INSTALLED: &str = "installed a snapshot";

/// Those of this file.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "lagging",
        kind: "cluster",
        about: "a follower is cut off until the others have purged what it lacks: it needs a snapshot",
        needs: || Needs { nodes: 3, settings: small_files(), ..Needs::default() },
        make: || Box::new(Lagging::default()),
    },
    Entry {
        name: "kill-in-snapshot",
        kind: "process",
        about: "kill -9 while a snapshot is built, of its sender while it is sent, or of its receiver",
        needs: || Needs { nodes: 3, shim: true, settings: small_files(), ..Needs::default() },
        make: || Box::new(KillInSnapshot::default()),
    },
];

/// A follower that is cut from all other nodes.
struct Cut {
    layer: &'static str,
    node: NodeId,
}

impl Cut {
    /// Cuts a follower, and waits until no other node has the entries any more that it needs next. `None`
    /// where there is no leader; the cut ends at once where the others do not get so far.
    async fn new(cluster: &Cluster, layer: &'static str, rng: &mut StdRng) -> anyhow::Result<Option<Cut>> {
        let Some(leader) = cluster.leader().await else { return Ok(None) };
        let mut followers = cluster.ids();
        followers.retain(|id| *id != leader);
        let Some(node) = choice(&followers, rng) else { return Ok(None) };
        if !cluster.is_up(node).await {
            return Ok(None);
        }
        let others: Vec<NodeId> = cluster.ids().into_iter().filter(|id| *id != node).collect();
        let links: Vec<_> = others
            .iter()
            .flat_map(|other| [(node, *other), (*other, node)])
            .map(|(from, to)| (End::Node(from), End::Node(to), Trouble::CUT))
            .collect();
        cluster.network().impose(layer, &links).await?;
        let cut = Cut { layer, node };
        // What was on its way when the cut began may still have arrived: the leader has no more than that.
        let sent = cluster.sample(leader).await.map(|sample| sample.applied_index);
        let (deadline, mut heard) = (Instant::now() + PURGED_WITHIN, Instant::now());
        while let Some(sent) = sent
            && Instant::now() < deadline
            && heard.elapsed() < SILENT_FOR
        {
            let purged =
                futures::future::join_all(others.iter().map(|id| metric(cluster, *id, "log_purged_index")))
                    .await;
            if purged.iter().all(|purged| purged.is_some_and(|index| index > sent as f64)) {
                return Ok(Some(cut));
            }
            if fill(cluster, leader).await {
                heard = Instant::now();
            }
        }
        cut.end(cluster).await?;
        Ok(None)
    }

    async fn end(&self, cluster: &Cluster) -> anyhow::Result<()> {
        cluster.network().lift(self.layer).await
    }
}

/// Makes the log longer by some tens of kibibytes, past all faults. Whether any of it was answered as done.
async fn fill(cluster: &Cluster, node: NodeId) -> bool {
    let body = serde_json::json!({ "attributes": { "filler": "x".repeat(FILLER_BYTES) } });
    let (address, now) = (cluster.node(node).addresses.http_listen.clone(), cluster.now());
    let writes = (0..FILLERS).map(|number| {
        let request = cluster.admin().put(format!("http://{address}/v1/items/filler-{number}"));
        request.header("Idempotency-Key", format!("filler-{now}-{number}")).json(&body).send()
    });
    // Those that fail are of no use, and of no harm.
    let answered = futures::future::join_all(writes).await;
    let done = answered.iter().flatten().any(|answer| answer.status().is_success());
    if !done {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    done
}

/// One of a node's own measurements.
pub(super) async fn metric(cluster: &Cluster, id: NodeId, name: &str) -> Option<f64> {
    let url = format!("http://{}/metrics", cluster.node(id).addresses.http_listen);
    let text = cluster.admin().get(url).send().await.ok()?.text().await.ok()?;
    let prefix = format!("stockroom_{name} ");
    text.lines().find_map(|line| line.strip_prefix(&prefix))?.trim().parse().ok()
}

#[derive(Default)]
struct Lagging {
    cut: Option<Cut>,
}

#[async_trait]
impl Nemesis for Lagging {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        self.cut = Cut::new(cluster, "lagging", rng).await?;
        Ok(self.cut.as_ref().map(|cut| Injected {
            what: format!("node {} was cut off until the others had purged what it lacks", cut.node),
            nodes: vec![cut.node],
            hold_ms: Some(0),
        }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let cut = self.cut.take().context("it was injected")?;
        let before = cluster.said(cut.node, INSTALLED)?;
        cut.end(cluster).await?;
        let deadline = Instant::now() + INSTALLED_WITHIN;
        while cluster.said(cut.node, INSTALLED)? == before && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let installed = cluster.said(cut.node, INSTALLED)? - before;
        let evidence = format!("node {} installed {installed} snapshots after it was back", cut.node);
        Ok(Effect { effective: installed > 0, evidence })
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    Built,
    Sent,
    Received,
}

#[derive(Default)]
struct KillInSnapshot {
    killed: Option<NodeId>,
    /// The unfinished file that was there when the node was dead.
    left_behind: Option<String>,
}

/// An unfinished snapshot file below a data directory.
fn unfinished(dir: &Path, prefix: &str) -> Option<PathBuf> {
    std::fs::read_dir(dir.join("snapshot")).ok()?.flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(prefix) && name.ends_with(".part")
    })
}

async fn until_unfinished(dir: &Path, prefix: &str) -> bool {
    let deadline = Instant::now() + BUILT_WITHIN;
    while Instant::now() < deadline {
        if unfinished(dir, prefix).is_some() {
            return true;
        }
        tokio::time::sleep(LOOK_FOR_FILES_EVERY).await;
    }
    false
}

async fn fill_for_ever(cluster: &Cluster) {
    loop {
        match cluster.leader().await {
            Some(leader) => {
                fill(cluster, leader).await;
            }
            None => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Makes a node's syncs slow, but for those of its log, or as fast as they are.
fn slow(cluster: &Cluster, id: NodeId, is_slow: bool) -> anyhow::Result<()> {
    let node = cluster.node(id);
    let faults = faults(&node)?;
    faults.order(Order::Scope, if is_slow { Scope::NotLog as u64 } else { Scope::All as u64 })?;
    faults.order(Order::SyncDelayUs, if is_slow { SYNC_DELAY_US } else { 0 })
}

impl KillInSnapshot {
    /// Waits for the moment at `at`, and kills `whom` in it.
    async fn kill(
        &mut self,
        cluster: &Cluster,
        at: NodeId,
        prefix: &str,
        whom: Option<NodeId>,
    ) -> anyhow::Result<()> {
        let dir = cluster.node(at).data_dir.clone();
        let seen = tokio::select! {
            seen = until_unfinished(&dir, prefix) => seen,
            () = fill_for_ever(cluster) => unreachable!("it goes on"),
        };
        if seen
            && let Some(whom) = whom
            && cluster.kill(whom).await?
        {
            self.killed = Some(whom);
            let left = unfinished(&dir, prefix);
            self.left_behind = left.map(|path| path.file_name().unwrap_or_default().to_string_lossy().into());
        }
        Ok(())
    }
}

#[async_trait]
impl Nemesis for KillInSnapshot {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let moments = [Moment::Built, Moment::Built, Moment::Sent, Moment::Received];
        let moment = choice(&moments, rng).expect("there are some");
        (self.killed, self.left_behind) = (None, None);
        let (at, doing) = match moment {
            Moment::Built => {
                let Some(at) = choice(&cluster.ids(), rng) else { return Ok(None) };
                slow(cluster, at, true)?;
                self.kill(cluster, at, "build", Some(at)).await?;
                (at, "it built a snapshot")
            }
            Moment::Sent | Moment::Received => {
                let Some(cut) = Cut::new(cluster, "kill-in-snapshot", rng).await? else { return Ok(None) };
                slow(cluster, cut.node, true)?;
                cut.end(cluster).await?;
                let sender = cluster.leader().await;
                let whom = if moment == Moment::Sent { sender } else { Some(cut.node) };
                self.kill(cluster, cut.node, "receive-", whom).await?;
                let doing =
                    if moment == Moment::Sent { "it sent a snapshot" } else { "it received a snapshot" };
                (cut.node, doing)
            }
        };
        slow(cluster, at, false)?;
        let Some(killed) = self.killed else { return Ok(None) };
        let hold_ms = if rng.random_bool(0.5) { 0 } else { rng.random_range(500..4_000) };
        let what = format!("kill -9 of node {killed} while {doing}");
        Ok(Some(Injected { what, nodes: vec![killed], hold_ms: Some(hold_ms) }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let killed = self.killed.take().context("it was injected")?;
        cluster.start_node(killed).await?;
        Ok(match self.left_behind.take() {
            Some(file) => Effect {
                effective: true,
                evidence: format!("when it was dead, {file} was there, unfinished"),
            },
            None => Effect { effective: false, evidence: "the snapshot was finished before it died".into() },
        })
    }
}
