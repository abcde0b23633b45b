//! What is looked at after all faults are healed, while the cluster is still up.

use super::clients::Clients;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::history::{Call, Consistency, NodeId, Outcome};
use futures::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Within this time of healing every live node has to take a write and a linearizable read: the promise.
const AVAILABLE_WITHIN: Duration = Duration::from_secs(10);
/// How soon a call of the probe is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(100);
/// An item of the probe's own, that no workload touches.
const PROBE_SKU: &str = "harness-probe";
/// How long audits may take, all rounds together.
const AUDITS_WITHIN: Duration = Duration::from_secs(60);

/// Whether every node takes a write and a linearizable read within ten seconds of `healed`.
pub async fn available(clients: &Clients, healed: Instant) -> Result<String, String> {
    let deadline = healed + AVAILABLE_WITHIN;
    let (client, nodes) = (&clients.client, clients.nodes());
    let tried = nodes.iter().map(|node| async move {
        let key = format!("harness-probe-{node}");
        let write = Call::PutItem { sku: PROBE_SKU.to_owned() };
        let read =
            Call::ReadStock { skus: vec![PROBE_SKU.to_owned()], consistency: Consistency::Linearizable };
        let both = async {
            answered(client, *node, Some(&key), &write, deadline).await?;
            answered(client, *node, None, &read, deadline).await
        };
        (*node, both.await.map(|()| healed.elapsed()))
    });
    let (mut slowest, mut failed) = (Duration::ZERO, Vec::new());
    for (node, result) in join_all(tried).await {
        match result {
            Ok(after) => slowest = slowest.max(after),
            Err(why) => failed.push(format!("node {node}: {why}")),
        }
    }
    match failed.is_empty() {
        true => Ok(format!(
            "all {} nodes took a write and a linearizable read within {:.1} s of healing",
            nodes.len(),
            slowest.as_secs_f64()
        )),
        false => Err(format!("not within {AVAILABLE_WITHIN:?} of healing: {}", failed.join("; "))),
    }
}

async fn answered(
    client: &Client,
    node: NodeId,
    key: Option<&str>,
    call: &Call,
    deadline: Instant,
) -> Result<(), String> {
    let mut last = "nothing yet".to_owned();
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        match tokio::time::timeout(left, client.call(node, key, call)).await {
            Ok(Outcome::Ok { .. }) => return Ok(()),
            Ok(Outcome::Fail { status, code }) => last = format!("{status} {code}"),
            Ok(Outcome::Info { reason }) => last = reason,
            Err(_) => break,
        }
        tokio::time::sleep(REPEAT_AFTER).await;
    }
    Err(format!("{} had no answer; the last: {last}", call.name()))
}

/// The last line of an audit.
#[derive(Debug, Clone, Deserialize)]
struct Verdict {
    verdict: String,
    findings: Vec<String>,
    #[serde(flatten)]
    at: Fingerprint,
    checked: BTreeMap<String, u64>,
    fingerprints: Vec<Fingerprint>,
}

/// What identifies history and state at one index.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Fingerprint {
    log_index: u64,
    digest: String,
    state_hash: String,
}

/// What came of auditing all nodes.
pub struct Audited {
    /// Whether each node's own books are right.
    pub clean: Result<String, String>,
    /// Whether all nodes have the same history and state at one index.
    pub equal: Result<String, String>,
}

/// Audits every node, again until all were seen at one index.
pub async fn audit(cluster: &Cluster) -> Audited {
    let deadline = Instant::now() + AUDITS_WITHIN;
    let mut findings = BTreeSet::new();
    let mut index = highest(cluster).await;
    loop {
        let verdicts = join_all(cluster.ids().into_iter().map(|id| async move {
            let left = deadline.saturating_duration_since(Instant::now());
            let one = tokio::time::timeout(left, audit_node(cluster, id, index)).await;
            (id, one.unwrap_or_else(|_| Err(format!("no verdict within {AUDITS_WITHIN:?}"))))
        }))
        .await;
        // An error that is seen once is an error, whatever a later round says.
        findings.extend(verdicts.iter().flat_map(|(id, result)| wrong(*id, result)));
        let good: Vec<(NodeId, &Verdict)> =
            verdicts.iter().filter_map(|(id, result)| Some((*id, result.as_ref().ok()?))).collect();
        let failures: Vec<String> = verdicts
            .iter()
            .filter_map(|(id, result)| Some(format!("node {id}: {}", result.as_ref().err()?)))
            .collect();
        let comparison = compare(&good);
        let settled = failures.is_empty() && !matches!(comparison, Comparison::NoCommonIndex { .. });
        if settled
            || !findings.is_empty()
            || matches!(comparison, Comparison::Differ(_))
            || Instant::now() > deadline
        {
            return Audited {
                clean: conclude(&good, findings, &failures),
                equal: equality(&comparison, &failures),
            };
        }
        if let Comparison::NoCommonIndex { highest } = comparison {
            index = Some(highest);
        }
        tokio::time::sleep(REPEAT_AFTER).await;
    }
}

fn wrong(id: NodeId, result: &Result<Verdict, String>) -> Vec<String> {
    match result {
        Ok(verdict) if verdict.verdict != "clean" || !verdict.findings.is_empty() => {
            vec![format!("node {id}: {} {}", verdict.verdict, verdict.findings.join("; "))]
        }
        _ => Vec::new(),
    }
}

fn conclude(
    good: &[(NodeId, &Verdict)],
    findings: BTreeSet<String>,
    failures: &[String],
) -> Result<String, String> {
    let wrong: Vec<String> = findings.into_iter().chain(failures.iter().cloned()).collect();
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    let checked: Vec<String> = good.first().map_or_else(Vec::new, |(_, verdict)| {
        verdict.checked.iter().map(|(what, count)| format!("{count} {what}")).collect()
    });
    Ok(format!("the books of all {} nodes are right: {}", good.len(), checked.join(", ")))
}

fn equality(comparison: &Comparison, failures: &[String]) -> Result<String, String> {
    match comparison {
        Comparison::Differ(says) => Err(format!("nodes differ: {}", says.join("; "))),
        _ if !failures.is_empty() => Err(format!("not all could be compared: {}", failures.join("; "))),
        Comparison::NoCommonIndex { highest } => {
            Err(format!("the nodes were never seen at one index; the highest is {highest}"))
        }
        Comparison::Agree { index, nodes } => {
            Ok(format!("digest and state hash of {nodes} nodes are equal at index {index}"))
        }
    }
}

async fn highest(cluster: &Cluster) -> Option<u64> {
    let samples = join_all(cluster.ids().into_iter().map(|id| cluster.sample(id))).await;
    samples.into_iter().flatten().map(|sample| sample.applied_index).max()
}

/// One node's audit, past all faults: progress lines, then a verdict.
async fn audit_node(cluster: &Cluster, id: NodeId, index: Option<u64>) -> Result<Verdict, String> {
    let url = format!("http://{}/v1/audit", cluster.node(id).addresses.http_listen);
    let body = index.map_or_else(|| json!({}), |index| json!({ "at_index": index }));
    let said = |error: reqwest::Error| format!("{error:?}");
    let request = cluster.admin().post(url).timeout(AUDITS_WITHIN);
    // An audit changes nothing; it has a key because every POST has one.
    let request = request.header("Idempotency-Key", format!("harness-audit-{id}")).json(&body);
    let response = request.send().await.map_err(said)?;
    let status = response.status();
    let text = response.text().await.map_err(said)?;
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let value: Value = serde_json::from_str(last).map_err(|_| format!("{status}: {last}"))?;
    match value.get("verdict").is_some() {
        true => serde_json::from_value(value).map_err(|error| format!("{error}: {last}")),
        false => Err(format!("{status}: {last}")),
    }
}

/// The nodes side by side.
#[derive(Debug, PartialEq, Eq)]
enum Comparison {
    /// All are the same at this index.
    Agree { index: u64, nodes: usize },
    /// Some differ: who says what at which index.
    Differ(Vec<String>),
    /// They were seen at different indexes only.
    NoCommonIndex { highest: u64 },
}

/// Any index that two nodes share is compared; agreement needs one that all share.
fn compare(verdicts: &[(NodeId, &Verdict)]) -> Comparison {
    let mut by_index: BTreeMap<u64, BTreeMap<NodeId, &Fingerprint>> = BTreeMap::new();
    for (id, verdict) in verdicts {
        for fingerprint in std::iter::once(&verdict.at).chain(&verdict.fingerprints) {
            by_index.entry(fingerprint.log_index).or_default().insert(*id, fingerprint);
        }
    }
    for (index, nodes) in &by_index {
        if nodes.values().any(|one| nodes.values().any(|other| one != other)) {
            let says = |(id, at): (&NodeId, &&Fingerprint)| {
                format!(
                    "at index {index} node {id} has digest {} and state hash {}",
                    at.digest, at.state_hash
                )
            };
            return Comparison::Differ(nodes.iter().map(says).collect());
        }
    }
    let common = by_index.iter().rev().find(|(_, nodes)| nodes.len() == verdicts.len());
    match common {
        Some((index, nodes)) => Comparison::Agree { index: *index, nodes: nodes.len() },
        None => Comparison::NoCommonIndex { highest: by_index.keys().next_back().copied().unwrap_or(0) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(index: u64, hash: &str, earlier: &[(u64, &str)]) -> Verdict {
        let at = |log_index: u64, hash: &str| Fingerprint {
            log_index,
            digest: "d".into(),
            state_hash: hash.to_owned(),
        };
        Verdict {
            verdict: "clean".into(),
            findings: Vec::new(),
            at: at(index, hash),
            checked: BTreeMap::new(),
            fingerprints: earlier.iter().map(|(index, hash)| at(*index, hash)).collect(),
        }
    }

    #[test]
    fn nodes_agree_only_at_an_index_that_all_were_seen_at() {
        let one = verdict(9, "x", &[(8, "w")]);
        let two = verdict(8, "w", &[]);
        let three = verdict(7, "v", &[]);
        assert_eq!(compare(&[(1, &one), (2, &two)]), Comparison::Agree { index: 8, nodes: 2 });
        assert_eq!(compare(&[(1, &one), (2, &two), (3, &three)]), Comparison::NoCommonIndex { highest: 9 });
    }

    #[test]
    fn two_that_differ_anywhere_are_found_though_all_agree_elsewhere() {
        let one = verdict(9, "x", &[(8, "w")]);
        let two = verdict(9, "x", &[(8, "other")]);
        let Comparison::Differ(says) = compare(&[(1, &one), (2, &two)]) else { panic!("they differ") };
        assert!(says[0].starts_with("at index 8 node 1"), "{says:?}");
    }
}
