//! What the nodes spend on an order: CPU from `/proc`, log and tables from `/metrics`, before and after.

use crate::{
    client::{Call, Client, base_url},
    problem::{Exit, Failure, plain},
    view,
};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, str::FromStr, time::Instant};

/// A node that can be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: u64,
    /// Base URL.
    pub url: String,
    /// Its process, where it runs on this machine and was named.
    pub pid: Option<u32>,
}

/// `1=4711`: a node's id and its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pid {
    /// Node id.
    pub node: u64,
    /// Process id.
    pub pid: u32,
}

impl FromStr for Pid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('=').and_then(|(node, pid)| {
            Some(Pid { node: node.trim().parse().ok()?, pid: pid.trim().parse().ok()? })
        });
        parsed.ok_or_else(|| format!("{text:?} is no ID=PID, such as 1=4711"))
    }
}

/// `nodes.json` of the playground.
#[derive(Deserialize)]
struct NodesFile {
    /// None before the cluster was formed.
    #[serde(default)]
    cluster_id: Option<String>,
    nodes: Vec<NodeEntry>,
}

#[derive(Deserialize)]
struct NodeEntry {
    id: u64,
    pid: Option<u32>,
    http: String,
}

/// The nodes to look at: those of the file, or else all members of the cluster.
///
/// # Errors
/// The file cannot be read or is of another cluster, or nobody knows the cluster.
pub async fn find(client: &Client, file: Option<&str>, pids: &[Pid]) -> Result<Vec<Node>, Failure> {
    let mut nodes = match file {
        Some(path) => {
            let bytes = std::fs::read(path).map_err(|error| Failure::file(path, &error))?;
            let entries: NodesFile = serde_json::from_slice(&bytes).map_err(|error| {
                Failure::local(Exit::Usage, "usage", "Not a nodes.json", format!("{path}: {error}"))
            })?;
            if let Some(cluster_id) = &entries.cluster_id {
                of_this_cluster(client, path, cluster_id).await?;
            }
            let node = |e: NodeEntry| Ok(Node { id: e.id, url: base_url(&e.http)?, pid: e.pid });
            entries.nodes.into_iter().map(node).collect::<Result<Vec<_>, Failure>>()?
        }
        None => {
            let view: view::View = client.call(&Call::get("/v1/cluster")).await?.parse()?;
            let node = |m: view::Member| Ok(Node { id: m.id, url: base_url(&m.http_address)?, pid: None });
            view.members.into_iter().map(node).collect::<Result<Vec<_>, Failure>>()?
        }
    };
    for Pid { node, pid } in pids {
        match nodes.iter_mut().find(|known| known.id == *node) {
            Some(known) => known.pid = Some(*pid),
            None => {
                let why = format!("--pids names node {node}, which the cluster does not have");
                return Err(Failure::local(Exit::Usage, "usage", "No such node", why));
            }
        }
    }
    Ok(nodes)
}

/// The file of another cluster, or of an earlier one in the same place, names processes that have no part in the run. An
/// endpoint that does not answer is found out by the run itself.
async fn of_this_cluster(client: &Client, path: &str, cluster_id: &str) -> Result<(), Failure> {
    let views = view::views(client).await;
    let mut theirs = views.iter().filter_map(|(_, view)| Some(plain(&view.as_ref().ok()?.cluster_id)));
    match theirs.find(|theirs| theirs != cluster_id) {
        Some(theirs) => {
            let why = format!(
                "{path} is of cluster {cluster_id}, the endpoints are of cluster {theirs}: what its nodes spend is not \
                 what the run costs"
            );
            Err(Failure::local(Exit::Usage, "usage", "Nodes of another cluster", why).step(
                "name the nodes.json of the cluster that --endpoints are of, or endpoints of the cluster that it is of",
            ))
        }
        None => Ok(()),
    }
}

/// A node at one moment.
#[derive(Debug, Clone)]
pub struct Look {
    node: u64,
    at: Instant,
    /// Sum over labels of each metric; empty where it did not answer.
    metrics: BTreeMap<String, f64>,
    process: Option<Process>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Process {
    cpu_seconds: f64,
    written_bytes: Option<u64>,
}

/// Looks at all nodes at once.
pub async fn look(client: &Client, nodes: &[Node]) -> Vec<Look> {
    join_all(nodes.iter().map(|node| async {
        let answer = client.ask(&node.url, &Call::get("/metrics")).await;
        let text =
            answer.map(|answer| String::from_utf8_lossy(&answer.body).into_owned()).unwrap_or_default();
        Look { node: node.id, at: Instant::now(), metrics: sums(&text), process: node.pid.and_then(process) }
    }))
    .await
}

/// Prometheus' text format, summed over labels; buckets of histograms are left out.
fn sums(text: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or(series);
        if let (false, Ok(value)) = (name.ends_with("_bucket"), value.parse::<f64>()) {
            *sums.entry(name.to_owned()).or_default() += value;
        }
    }
    sums
}

fn process(pid: u32) -> Option<Process> {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let field = |name: &str| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    // Counted when a page is changed; what was removed before it was written is taken back.
    let written =
        field("write_bytes:").map(|w| w.saturating_sub(field("cancelled_write_bytes:").unwrap_or(0)));
    Some(Process { cpu_seconds: cpu_seconds(&pid.to_string())?, written_bytes: written })
}

/// CPU seconds that a process has used so far, all threads together, as of `/proc/{pid}/stat`.
pub fn cpu_seconds(pid: &str) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(cpu_ticks(&stat)? as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// User and system time: fields 14 and 15, counted after the name, which may hold spaces and brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(ticks()? + ticks()?)
}

/// What one node spent while so many orders were done. `None`: it cannot be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// Node id.
    pub node: u64,
    /// CPU seconds per 1,000 orders.
    pub cpu_s_per_1000: Option<f64>,
    /// Cores in use, 1 is one whole core.
    pub cores: Option<f64>,
    /// Syncs of the log per second.
    pub log_syncs_per_s: Option<f64>,
    /// Orders per Raft entry.
    pub orders_per_entry: Option<f64>,
    /// Bytes written to the log per order.
    pub log_bytes_per_order: Option<f64>,
    /// Bytes of checkpoints per order: rows that are written once, and what is handed to sled.
    pub table_bytes_per_order: Option<f64>,
    /// Bytes of snapshot files written per order.
    pub snapshot_bytes_per_order: Option<f64>,
    /// Bytes of new log segments, zeroed before they are used, per order.
    #[serde(default)]
    pub zeroed_bytes_per_order: Option<f64>,
    /// All bytes that the process wrote to disk per order: whole pages, and what sled makes of its rows, but
    /// neither the zeroing of log segments nor files that were removed before they got there.
    pub disk_bytes_per_order: Option<f64>,
}

/// Compares two looks at the same nodes. `orders` were done in between.
pub fn spent(before: &[Look], after: &[Look], orders: u64) -> Vec<Spent> {
    before.iter().zip(after).map(|(before, after)| one_spent(before, after, orders)).collect()
}

fn one_spent(before: &Look, after: &Look, orders: u64) -> Spent {
    let seconds = after.at.duration_since(before.at).as_secs_f64();
    // A counter that fell belongs to a process that was restarted in between.
    let grown = |name: &str| {
        let grown = after.metrics.get(name)? - before.metrics.get(name)?;
        (grown >= 0.0).then_some(grown)
    };
    let per_order = |grown: Option<f64>| grown.filter(|_| orders > 0).map(|grown| grown / orders as f64);
    let processes = before.process.zip(after.process);
    let cpu = processes.map(|(b, a)| a.cpu_seconds - b.cpu_seconds);
    let written = processes.and_then(|(b, a)| Some(a.written_bytes?.checked_sub(b.written_bytes?)? as f64));
    let zeroed = grown("stockroom_log_zeroed_bytes_total");
    let entries = grown("stockroom_raft_applied_index").filter(|entries| *entries > 0.0);
    Spent {
        node: before.node,
        cpu_s_per_1000: per_order(cpu).map(|cpu| cpu * 1000.0),
        cores: cpu.filter(|_| seconds > 0.0).map(|cpu| cpu / seconds),
        log_syncs_per_s: grown("stockroom_log_syncs_total").map(|syncs| syncs / seconds),
        orders_per_entry: grown("stockroom_orders_placed_total")
            .filter(|orders| *orders > 0.0)
            .zip(entries)
            .map(|(orders, entries)| orders / entries),
        log_bytes_per_order: per_order(grown("stockroom_log_append_bytes_total")),
        table_bytes_per_order: per_order(grown("stockroom_checkpoint_written_bytes_total")),
        snapshot_bytes_per_order: per_order(grown("stockroom_snapshot_written_bytes_total")),
        disk_bytes_per_order: per_order(
            written.map(|written| (written - zeroed.unwrap_or_default()).max(0.0)),
        ),
        zeroed_bytes_per_order: per_order(zeroed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_name_of_a_process_may_look_like_fields() {
        let stat = "7 (a b) 1) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 9 0 1";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("7 (a"), None);
        assert!(cpu_seconds("self").is_some());
    }

    #[test]
    fn metrics_are_summed_over_labels() {
        let sums = sums("# TYPE a counter\na{x=\"1 2\"} 3\na{x=\"2\"} 4.5\nb_bucket{le=\"1\"} 9\nc 1\n\n");
        assert_eq!(sums, BTreeMap::from([("a".into(), 7.5), ("c".into(), 1.0)]));
    }

    #[test]
    fn what_cannot_be_told_is_left_out() {
        let look = |at, placed: f64, entries: f64, syncs: f64, cpu_seconds| Look {
            node: 2,
            at,
            metrics: BTreeMap::from([
                ("stockroom_orders_placed_total".into(), placed),
                ("stockroom_raft_applied_index".into(), entries),
                ("stockroom_log_syncs_total".into(), syncs),
                ("stockroom_log_append_bytes_total".into(), placed * 200.0),
            ]),
            process: Some(Process { cpu_seconds, written_bytes: None }),
        };
        let now = Instant::now();
        let before = look(now, 100.0, 10.0, 5.0, 1.0);
        let spent = one_spent(&before, &look(now + Duration::from_secs(2), 2100.0, 60.0, 1.0, 2.0), 2000);
        assert_eq!((spent.cpu_s_per_1000, spent.cores), (Some(0.5), Some(0.5)));
        assert_eq!((spent.orders_per_entry, spent.log_bytes_per_order), (Some(40.0), Some(200.0)));
        assert_eq!(spent.log_syncs_per_s, None, "the node was restarted");
        assert_eq!((spent.disk_bytes_per_order, spent.table_bytes_per_order), (None, None));
    }

    #[test]
    fn pids_name_their_nodes() {
        assert_eq!("1=4711".parse(), Ok(Pid { node: 1, pid: 4711 }));
        assert!("4711".parse::<Pid>().is_err() && "a=1".parse::<Pid>().is_err());
    }
}
