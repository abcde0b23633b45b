//! `status`: what every node says of the cluster, side by side, and where they disagree.

use crate::{
    client::{Call, Client},
    output::{Format, Table},
    problem::{Exit, Failure, plain},
    view::{Alarm, Member, Report, View, views},
};
use futures::future::join_all;
use serde_json::{Value, json};
use std::collections::BTreeMap;

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
    let value = as_json(&seen, leader, newest, &nodes, &differences);
    format.print(&value, "nodes", || text(&seen, &views, leader, &nodes, &differences));
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
            let failed = problem.detail.lines().filter_map(|line| line.strip_prefix("[-]"));
            let failed = failed.collect::<Vec<_>>().join("; ");
            Err(if failed.is_empty() { problem.detail } else { failed })
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
            (Err(failure), _) => notes.push(failure.of_node(&one.endpoint)),
            (_, Some(Err(why))) => notes.push(format!("{} is not ready: {why}", one.endpoint)),
            _ => {}
        }
    }
    notes
}

fn text(
    seen: &[Seen],
    views: &[&View],
    leader: Option<u64>,
    nodes: &BTreeMap<u64, Node>,
    differences: &[String],
) -> String {
    let table = table(leader, nodes).render();
    let mut out = format!("cluster {}, version {}\n{table}", plain(&views[0].cluster_id), in_force(views));
    if leader.is_none() {
        out.push_str(
            "no leader: writes and linearizable reads wait until a majority of the voters can elect one\n",
        );
    }
    for Alarm { node, code, what, next } in alarms(views) {
        out.push_str(&format!("ALARM: {code} (node {node}): {what}\n  next: {next}\n"));
    }
    out.extend(notes(views, seen).iter().map(|note| format!("note: {note}\n")));
    out.extend(differences.iter().map(|difference| format!("FINDING: {difference}\n")));
    out
}

fn table(leader: Option<u64>, nodes: &BTreeMap<u64, Node>) -> Table {
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
    table
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
