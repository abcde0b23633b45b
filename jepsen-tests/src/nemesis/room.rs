//! Disks that run full: real ones, each a file system of the node's own, which something else fills.
//!
//! Down to the mark at which a disk counts as full: then, where no majority has room, new things are refused (507,
//! definite), and no node may end. Or down to the last kilobytes, so that whatever the node writes next finds none:
//! it may go on without that, or stop itself and say so; with room again it must be back, with all that it
//! had acknowledged, and its alarms must be over by themselves.

use super::snapshots::metric;
use super::{Effect, Entry, Injected, Nemesis, leader_or_any, named, small_files};
use crate::cluster::disk::Disk;
use crate::cluster::{Cluster, Needs};
use crate::history::NodeId;
use anyhow::Context as _;
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use std::time::{Duration, Instant};

/// What is left where the mark is to be passed: below a twentieth of the disk, which is the mark, and enough for what
/// the node still writes.
const BELOW_THE_MARK: std::ops::Range<u64> = 24 << 20..80 << 20;
/// What is left where the node is to find none: a snapshot or the tables miss it first, or the log's next file.
const NEXT_TO_NOTHING: std::ops::Range<u64> = 0..256 << 10;
/// How long a node that stopped itself may take until it is back.
const BACK_WITHIN: Duration = Duration::from_secs(25);
/// How long the alarms of a node that is ready may take to be over.
const OVER_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(250);
const NAME: &str = "no-room";
/// How the system says it.
const SAYS_FULL: &str = "No space left";
/// What a disk without room raises.
const ALARMS: &[&str] = &["disk_low", "disk_full", "checkpoint_waits", "snapshot_waits"];

/// Files of the log that are full after some hundred orders: the next one is made ahead, and hides for so long that there
/// is no room.
fn own_small_files() -> Needs {
    let mut settings = small_files();
    settings.retain(|(flag, _)| *flag != "--log-segment-bytes");
    settings.push(("--log-segment-bytes", (64 << 10).to_string()));
    settings.push(("--entry-max-bytes", (32 << 10).to_string()));
    Needs { root: true, own_disks: true, settings, ..Needs::default() }
}

/// Those of this file.
pub const ENTRIES: &[Entry] = &[Entry {
    name: NAME,
    kind: "disk",
    about: "the disks of some nodes, or of all, run full and get room again: at the mark new things are refused (507), at the last byte a node may stop",
    needs: own_small_files,
    make: || Box::new(NoRoom::default()),
}];

#[derive(Default)]
struct NoRoom {
    begun: Option<Begun>,
}

struct Begun {
    nodes: Vec<NodeId>,
    /// In words: what excuses a node that ends for it.
    what: String,
    exits_before: usize,
    refused_before: f64,
}

impl Begun {
    /// How many nodes ended and said that there is no room. One that had no other excuse has to say so.
    fn ended_for_want_of_room(&self, cluster: &Cluster) -> usize {
        let exits = cluster.exits().into_iter().skip(self.exits_before);
        let (say_so, others): (Vec<_>, Vec<_>) = exits
            .filter(|exit| self.nodes.contains(&exit.node) && !exit.expected)
            .partition(|exit| exit.last_line.contains(SAYS_FULL));
        for exit in others.iter().filter(|exit| exit.excuse.as_ref() == Some(&self.what)) {
            cluster.find(format!(
                "node {} had no room, and ended for something else: {}",
                exit.node, exit.last_line
            ));
        }
        say_so.len()
    }
}

/// What the leaders refused for want of room, as far as the nodes that live remember.
async fn refused(cluster: &Cluster) -> f64 {
    let all =
        cluster.ids().into_iter().map(|id| async move { metric(cluster, id, "disk_refusals_total").await });
    futures::future::join_all(all).await.into_iter().flatten().sum()
}

/// Alarms of a node for want of room, as it says itself; `None` where it does not answer.
async fn alarms(cluster: &Cluster, id: NodeId) -> Option<Vec<String>> {
    let body = cluster.ask(id, "/v1/cluster").await?;
    let own = body["alarms"].as_array()?.iter().filter(|alarm| alarm["node"] == id);
    let codes = own.filter_map(|alarm| alarm["code"].as_str().map(str::to_owned));
    Some(codes.filter(|code| ALARMS.contains(&code.as_str())).collect())
}

impl NoRoom {
    async fn whom(cluster: &Cluster, rng: &mut StdRng) -> Vec<NodeId> {
        let mut all = cluster.ids();
        match rng.random_range(0..4) {
            // The others have room, so clients go on, and what they write is what fills its log.
            0 | 1 => {
                leader_or_any(cluster, 0.5, rng).await.filter(|id| all.contains(id)).into_iter().collect()
            }
            2 => {
                all.shuffle(rng);
                all.truncate(all.len() / 2 + 1);
                all
            }
            _ => all,
        }
    }

    /// Each node that had no room gets ready, and its alarms end. How many did not come so far.
    async fn recover(cluster: &Cluster, nodes: &[NodeId]) -> usize {
        let recovered = nodes.iter().map(|id| async move {
            // One that another nemesis holds down comes back with that one.
            if cluster.wait_ready(*id, BACK_WITHIN).await.is_err() {
                return false;
            }
            let deadline = Instant::now() + OVER_WITHIN;
            loop {
                match alarms(cluster, *id).await {
                    Some(alarms) if alarms.is_empty() => return true,
                    // It ended again, by another fault.
                    None => return false,
                    Some(alarms) if Instant::now() > deadline => {
                        cluster.find(format!("node {id} has room again, and says {alarms:?} all the same"));
                        return false;
                    }
                    Some(_) => tokio::time::sleep(LOOK_EVERY).await,
                }
            }
        });
        futures::future::join_all(recovered).await.into_iter().filter(|recovered| !recovered).count()
    }
}

fn disk(cluster: &Cluster, id: NodeId) -> anyhow::Result<std::sync::Arc<Disk>> {
    cluster.node(id).disk.clone().context("the cluster was started without disks of its own")
}

#[async_trait]
impl Nemesis for NoRoom {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let nodes = Self::whom(cluster, rng).await;
        let to_the_mark = rng.random_bool(0.4);
        let leave = rng.random_range(if to_the_mark { BELOW_THE_MARK } else { NEXT_TO_NOTHING });
        let what = format!("{}: a full disk, {} KiB left", named(&nodes), leave >> 10);
        let (exits_before, refused_before) = (cluster.exits().len(), refused(cluster).await);
        for id in &nodes {
            if !to_the_mark {
                cluster.excuse(*id, NAME, &what).await;
            }
            disk(cluster, *id)?.fill(leave).await?;
        }
        self.begun = Some(Begun { nodes: nodes.clone(), what: what.clone(), exits_before, refused_before });
        Ok((!nodes.is_empty()).then_some(Injected { what, nodes, hold_ms: None }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let begun = self.begun.take().context("it was injected")?;
        let nodes = &begun.nodes;
        let (mut full, mut free) = (0, Vec::new());
        for id in nodes {
            let told = alarms(cluster, *id).await.unwrap_or_default();
            full += usize::from(told.iter().any(|code| code == "disk_full"));
            free.push(format!("{} KiB", disk(cluster, *id)?.free()? >> 10));
        }
        let refusals = (refused(cluster).await - begun.refused_before).max(0.0);
        let ended = begun.ended_for_want_of_room(cluster);
        for id in nodes {
            disk(cluster, *id)?.make_room().await?;
        }
        let missing = Self::recover(cluster, nodes).await;
        for id in nodes {
            cluster.excuse_ends(*id, NAME).await;
        }
        let mut evidence = format!(
            "{} left at the end; {full} nodes said disk_full, {refusals} writes were refused for it, nodes stopped \
             themselves {ended} times for want of room",
            free.join(", ")
        );
        if missing > 0 {
            evidence += &format!("; {missing} of them are not back yet");
        }
        Ok(Effect { effective: full > 0 || ended > 0, evidence })
    }
}
