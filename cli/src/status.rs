//! `status`: what every node says of the cluster, side by side, and where they disagree.

use crate::{
    client::{Call, Client},
    output::{Format, Table, json},
    problem::{Exit, Failure, plain},
    upgrade::Versions,
};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `GET /v1/cluster`: the cluster as one node sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct View {
    /// Minted once, when the cluster was made.
    pub cluster_id: Value,
    /// Who says this.
    pub node_id: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<u64>,
    /// The Raft term it is in.
    pub term: u64,
    /// Which commands, rules and formats are in force.
    #[serde(default)]
    pub cluster_version: Value,
    /// All members it knows of.
    pub members: Vec<Member>,
    /// What nodes it has heard of say is wrong with them.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
    /// Nodes that it did not take in.
    #[serde(default)]
    pub turned_away: Vec<TurnedAway>,
}

/// A node that asked to be taken in, and was refused.
#[derive(Debug, Clone, Deserialize)]
pub struct TurnedAway {
    /// Node id.
    pub id: u64,
    /// And what to do.
    pub why: String,
    /// Since it asked.
    pub ms_ago: u64,
}

/// One member, as the answering node sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct Member {
    /// Node id.
    pub id: u64,
    /// Where it serves HTTP.
    pub http_address: String,
    /// Where its peers reach it.
    #[serde(default)]
    pub peer_address: String,
    /// `voter` or `learner`.
    pub role: String,
    /// What it last said of itself; `None` where the answering node has not heard from it.
    pub report: Option<Report>,
}

/// What a node says of itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// How far its state is.
    pub applied_index: u64,
    /// Of its history.
    #[serde(default)]
    pub digest: Value,
    /// Of its state.
    #[serde(default)]
    pub state_hash: Value,
    /// Entries behind the leader.
    #[serde(default)]
    pub lag: Value,
    /// Of its program.
    #[serde(default)]
    pub version: Value,
    /// The cluster versions that its program serves.
    #[serde(default)]
    pub serves: Option<Versions>,
    /// How old this report is.
    #[serde(default)]
    pub heard_ms_ago: Option<u64>,
    /// Mean time of a sync of its log.
    #[serde(default)]
    pub sync_us: Option<u64>,
    /// Its wall clock minus the cluster's.
    #[serde(default)]
    pub clock_offset_ms: Value,
}

/// What somebody should look after, while the node goes on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Alarm {
    /// Whose.
    pub node: u64,
    /// What kind.
    pub code: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub next: String,
}

/// The alarms of each node, by its own word; what another one heard counts where it does not answer itself.
fn alarms(views: &[&View]) -> Vec<Alarm> {
    let answers = |node: u64| views.iter().any(|view| view.node_id == node);
    let mut found = BTreeMap::new();
    for view in views {
        for alarm in view.alarms.iter().filter(|alarm| alarm.node == view.node_id || !answers(alarm.node)) {
            found.insert((alarm.node, alarm.code.clone()), alarm.clone());
        }
    }
    found.into_values().collect()
}

struct Seen {
    endpoint: String,
    view: Result<View, Failure>,
    ready: Option<Result<(), String>>,
}

/// Asks every endpoint for its view; those that do not answer are errors in the list.
pub async fn views(client: &Client) -> Vec<(String, Result<View, Failure>)> {
    let ask = |endpoint: &str| {
        let endpoint = endpoint.to_owned();
        async move {
            let view =
                client.ask(&endpoint, &Call::get("/v1/cluster")).await.and_then(|answer| answer.parse());
            (endpoint, view)
        }
    };
    join_all(client.endpoints().map(ask)).await
}

/// Prints the cluster.
///
/// # Errors
/// Nobody answers.
pub async fn run(client: &Client, format: Format) -> Result<Exit, Failure> {
    let looks = views(client).await.into_iter().map(|(endpoint, view)| async {
        let ready = match view {
            Ok(_) => Some(readiness(client, &endpoint).await),
            Err(_) => None,
        };
        Seen { endpoint, view, ready }
    });
    let seen = join_all(looks).await;
    let views: Vec<&View> = seen.iter().filter_map(|s| s.view.as_ref().ok()).collect();
    let Some(newest) = views.iter().map(|view| view.term).max() else {
        let first = seen.into_iter().find_map(|s| s.view.err());
        return Err(first.expect("there is at least one endpoint, and none answered"));
    };
    let leader = views.iter().filter(|view| view.term == newest).find_map(|view| view.leader);
    let nodes = nodes(&seen);
    let differences = differences(&views, &nodes);
    match format {
        Format::Json => print!("{}", json(&as_json(&seen, leader, newest, &nodes, &differences))),
        Format::Table => print_table(&seen, &views, leader, &nodes, &differences),
    }
    Ok(match (leader, differences.is_empty()) {
        (None, _) => Exit::Unavailable,
        (_, false) => Exit::Findings,
        _ => Exit::Ok,
    })
}

async fn readiness(client: &Client, endpoint: &str) -> Result<(), String> {
    match client.ask(endpoint, &Call::get("/readyz?verbose")).await {
        Ok(_) => Ok(()),
        Err(failure) => {
            let problem = failure.problem;
            Err(if problem.detail.is_empty() { problem.title } else { problem.detail })
        }
    }
}

/// A member with the freshest that is known of it: its own word, or else the last that another heard.
struct Node {
    member: Member,
    own: bool,
    term: Option<u64>,
    ready: Option<Result<(), String>>,
}

fn nodes(seen: &[Seen]) -> BTreeMap<u64, Node> {
    let mut nodes: BTreeMap<u64, Node> = BTreeMap::new();
    for one in seen {
        let Ok(view) = &one.view else { continue };
        for member in &view.members {
            let own = member.id == view.node_id;
            let age = |m: &Member| m.report.as_ref().map_or(u64::MAX, |r| r.heard_ms_ago.unwrap_or(0));
            let better =
                nodes.get(&member.id).is_none_or(|n| !n.own && (own || age(member) < age(&n.member)));
            if better {
                let term = own.then_some(view.term);
                let ready = if own { one.ready.clone() } else { None };
                nodes.insert(member.id, Node { member: member.clone(), own, term, ready });
            }
        }
    }
    nodes
}

/// What must never differ among views and does.
pub fn differences_of(views: &[&View]) -> Vec<String> {
    let seen = |view: &&View| Seen { endpoint: String::new(), view: Ok((*view).clone()), ready: None };
    let seen: Vec<Seen> = views.iter().map(seen).collect();
    differences(views, &nodes(&seen))
}

/// What must never differ and does.
fn differences(views: &[&View], nodes: &BTreeMap<u64, Node>) -> Vec<String> {
    let mut found = Vec::new();
    for (i, a) in views.iter().enumerate() {
        for b in &views[i + 1..] {
            let (x, y) = (a.node_id, b.node_id);
            if a.cluster_id != b.cluster_id {
                let (p, q) = (plain(&a.cluster_id), plain(&b.cluster_id));
                found.push(format!("nodes {x} and {y} belong to different clusters: {p} and {q}"));
            }
            if let (true, Some(l), Some(m)) = (a.term == b.term && a.leader != b.leader, a.leader, b.leader) {
                found.push(format!("two leaders in term {}: node {x} says {l}, node {y} says {m}", a.term));
            }
        }
    }
    let reports: Vec<(u64, &Report)> =
        nodes.iter().filter_map(|(id, node)| Some((*id, node.member.report.as_ref()?))).collect();
    for (i, (x, a)) in reports.iter().enumerate() {
        for (y, b) in reports[i + 1..].iter().filter(|(_, b)| b.applied_index == a.applied_index) {
            for (what, p, q) in
                [("digest", &a.digest, &b.digest), ("state hash", &a.state_hash, &b.state_hash)]
            {
                if !p.is_null() && !q.is_null() && p != q {
                    let (p, q, index) = (plain(p), plain(q), a.applied_index);
                    found.push(format!("nodes {x} and {y} differ in {what} at index {index}: {p} and {q}"));
                }
            }
        }
    }
    found
}

/// Differences that pass by themselves, such as during an election; worth seeing, no finding.
fn notes(views: &[&View], seen: &[Seen]) -> Vec<String> {
    let mut notes = Vec::new();
    if views.iter().any(|v| (v.leader, v.term) != (views[0].leader, views[0].term)) {
        for view in views {
            let leader = view.leader.map_or("no leader".into(), |l| format!("node {l} leads"));
            notes.push(format!("node {} says: {leader}, term {}", view.node_id, view.term));
        }
    }
    for one in seen {
        match (&one.view, &one.ready) {
            (Err(failure), _) => notes.push(format!("{}: {}", one.endpoint, failure.problem.detail)),
            (_, Some(Err(why))) => notes.push(format!("{} is not ready: {why}", one.endpoint)),
            _ => {}
        }
    }
    notes
}

fn print_table(
    seen: &[Seen],
    views: &[&View],
    leader: Option<u64>,
    nodes: &BTreeMap<u64, Node>,
    differences: &[String],
) {
    let columns = [
        ">NODE",
        "HTTP",
        "PEER",
        "ROLE",
        ">TERM",
        ">APPLIED",
        ">LAG",
        "DIGEST",
        "STATE HASH",
        "VERSION",
        "SERVES",
        "READY",
        ">HEARD MS AGO",
    ];
    let mut table = Table::new(&columns);
    for (id, Node { member, own, term, ready }) in nodes {
        let report = |of: fn(&Report) -> String| member.report.as_ref().map_or("-".into(), of);
        let ready = match ready {
            None => "?",
            Some(Ok(())) => "yes",
            Some(Err(_)) => "no",
        };
        table.row(vec![
            id.to_string(),
            member.http_address.clone(),
            member.peer_address.clone(),
            role(*id, leader, member).into(),
            term.map_or("-".into(), |t| t.to_string()),
            report(|r| r.applied_index.to_string()),
            report(|r| plain(&r.lag)),
            report(|r| plain(&r.digest)),
            report(|r| plain(&r.state_hash)),
            report(|r| plain(&r.version)),
            report(|r| r.serves.map_or("-".into(), |serves| serves.to_string())),
            ready.into(),
            if *own {
                "itself".into()
            } else {
                report(|r| r.heard_ms_ago.map_or("-".into(), |ms| ms.to_string()))
            },
        ]);
    }
    println!("cluster {}, version {}", plain(&views[0].cluster_id), in_force(views));
    print!("{}", table.render());
    if leader.is_none() {
        println!(
            "no leader: writes and linearizable reads wait until a majority of the voters can elect one"
        );
    }
    for Alarm { node, code, what, next } in alarms(views) {
        println!("ALARM: {code} (node {node}): {what}\n  next: {next}");
    }
    notes(views, seen).iter().for_each(|note| println!("note: {note}"));
    differences.iter().for_each(|difference| println!("FINDING: {difference}"));
}

/// The newest that any node has seen come into force.
fn in_force(views: &[&View]) -> String {
    views
        .iter()
        .filter_map(|view| view.cluster_version.as_u64())
        .max()
        .map_or("-".into(), |version| version.to_string())
}

fn role(id: u64, leader: Option<u64>, member: &Member) -> &str {
    if leader == Some(id) { "leader" } else { &member.role }
}

fn as_json(
    seen: &[Seen],
    leader: Option<u64>,
    term: u64,
    nodes: &BTreeMap<u64, Node>,
    differences: &[String],
) -> Value {
    let views: Vec<&View> = seen.iter().filter_map(|s| s.view.as_ref().ok()).collect();
    let nodes: Vec<Value> = nodes
        .iter()
        .map(|(id, Node { member, own, term, ready })| {
            let r = member.report.as_ref();
            json!({
                "id": id, "http_address": member.http_address, "peer_address": member.peer_address,
                "role": role(*id, leader, member), "term": term, "answered": own,
                "applied_index": r.map(|r| r.applied_index), "lag": r.map(|r| &r.lag),
                "digest": r.map(|r| &r.digest), "state_hash": r.map(|r| &r.state_hash),
                "version": r.map(|r| &r.version), "serves": r.and_then(|r| r.serves).map(|s| json!({"oldest": s.oldest, "newest": s.newest})),
                "heard_ms_ago": r.and_then(|r| r.heard_ms_ago),
                "ready": ready.as_ref().map(Result::is_ok),
                "not_ready": ready.as_ref().and_then(|r| r.as_ref().err()),
            })
        })
        .collect();
    let unreachable: Vec<Value> = seen
        .iter()
        .filter_map(|s| Some(json!({"endpoint": s.endpoint, "problem": s.view.as_ref().err()?.problem})))
        .collect();
    json!({
        "cluster_id": views[0].cluster_id, "cluster_version": views.iter().filter_map(|view| view.cluster_version.as_u64()).max(),
        "leader": leader, "term": term, "nodes": nodes,
        "alarms": alarms(&views), "unreachable": unreachable, "notes": notes(&views, seen), "findings": differences,
    })
}
