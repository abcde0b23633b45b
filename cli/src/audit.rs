//! `audit verify`: each node recomputes its books; then the nodes are compared at one index.

use crate::{
    client::{Call, Client, base_url},
    output::{Format, Table, note},
    problem::{Exit, Failure, plain},
    view::{Member, members},
};
use futures::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// How long a node may say nothing while it computes. It reports progress far more often.
const SILENCE: Duration = Duration::from_secs(120);
/// How often nodes are asked again that had no index in common.
const COMPARE_AGAIN: usize = 5;
/// The wait before that.
const COMPARE_WAIT: Duration = Duration::from_millis(200);

/// What can be audited.
#[derive(Debug, clap::Subcommand)]
pub enum Audit {
    /// Recompute every sum from movements and orders on each node, and compare the nodes at one index
    #[command(after_help = "Examples:\n  stockctl audit verify\n  stockctl audit verify 2 --at-index 120000")]
    Verify(VerifyArgs),
}

/// What `audit verify` takes.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The nodes; all members where none is named
    #[arg(value_name = "NODE-ID")]
    nodes: Vec<u64>,
    /// Wait until each node has applied this log index
    #[arg(long, value_name = "INDEX")]
    at_index: Option<u64>,
}

/// The last line of an audit.
#[derive(Debug, Clone, Deserialize)]
struct Verdict {
    verdict: String,
    #[serde(default)]
    findings: Vec<Value>,
    #[serde(flatten)]
    at: Fingerprint,
    #[serde(default)]
    checked: Value,
    #[serde(default)]
    fingerprints: Vec<Fingerprint>,
}

/// What identifies history and state at one index.
#[derive(Debug, Clone, Deserialize)]
struct Fingerprint {
    log_index: u64,
    digest: Value,
    state_hash: Value,
}

type Results = BTreeMap<u64, Result<Verdict, Failure>>;

/// Audits and compares.
///
/// # Errors
/// Nobody tells who the members are, or a named node is no member.
pub async fn verify(client: &Client, args: &VerifyArgs, format: Format) -> Result<Exit, Failure> {
    let members = members(client, &args.nodes).await?;
    let mut results = audit_all(client, &members, args.at_index).await;
    let mut comparison = compare(&results);
    for _ in 0..COMPARE_AGAIN {
        let Comparison::NoCommonIndex { highest } = comparison else { break };
        tokio::time::sleep(COMPARE_WAIT).await;
        // Findings of the first round stay: an error that is seen once is an error.
        let again = audit_all(client, &members, Some(highest)).await;
        for (id, result) in again {
            let bad = matches!(&results[&id], Ok(verdict) if !verdict.clean());
            if !bad {
                results.insert(id, result);
            }
        }
        comparison = compare(&results);
    }
    format.print(&as_json(&results, &comparison), "nodes", || text(&results, &comparison));
    exit(&results, &comparison)
}

async fn audit_all(client: &Client, members: &[Member], at_index: Option<u64>) -> Results {
    let audits = members.iter().map(|m| async move { (m.id, audit(client, m, at_index).await) });
    join_all(audits).await.into_iter().collect()
}

/// One node's audit: progress lines, then a verdict.
async fn audit(client: &Client, member: &Member, at_index: Option<u64>) -> Result<Verdict, Failure> {
    let endpoint = base_url(&member.http_address)?;
    let body = at_index.map_or_else(|| json!({}), |index| json!({ "at_index": index }));
    // An audit changes nothing; the key is there because each POST has one.
    let call = Call::post("/v1/audit", body.to_string())
        .key(format!("stockctl-audit-{:032x}", rand::random::<u128>()))
        .of_node(member.id);
    let mut response = client.open(&endpoint, &call, SILENCE).await?;
    let broken =
        |why: String| Failure::local(Exit::Unavailable, "audit_interrupted", "The audit was cut off", why);
    let mut buffer = Vec::new();
    let mut verdict = None;
    loop {
        let chunk = match tokio::time::timeout(SILENCE, response.chunk()).await {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(error)) => return Err(broken(format!("node {}: {error}", member.id))),
            Err(_) => return Err(broken(format!("node {} says nothing any more", member.id))),
        };
        let end = chunk.is_none();
        buffer.extend_from_slice(chunk.as_deref().unwrap_or(b"\n"));
        while let Some(at) = buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = buffer.drain(..=at).collect();
            if !line.trim_ascii().is_empty() {
                verdict = read_line(member.id, &endpoint, &line)?.or(verdict);
            }
        }
        if end {
            return verdict.ok_or_else(|| broken(format!("node {} ended without a verdict", member.id)));
        }
    }
}

fn read_line(node: u64, endpoint: &str, line: &[u8]) -> Result<Option<Verdict>, Failure> {
    let value: Value = serde_json::from_slice(line).map_err(|error| Failure::contract(endpoint, error))?;
    if let Some(progress) = value.get("progress") {
        let part = |name| plain(&progress[name]);
        note(&format!("node {node}: {} {} of {}", part("what"), part("done"), part("total")));
        return Ok(None);
    }
    if value.get("verdict").is_some() {
        return serde_json::from_value(value).map(Some).map_err(|error| Failure::contract(endpoint, error));
    }
    // An error in mid-stream can have no HTTP status any more; it comes as a problem in the stream.
    let status = value["status"].as_u64().and_then(|s| u16::try_from(s).ok()).unwrap_or(500);
    Err(Failure::answered(endpoint, status, "", line))
}

impl Verdict {
    fn clean(&self) -> bool {
        self.verdict == "clean" && self.findings.is_empty()
    }

    fn all(&self) -> impl Iterator<Item = &Fingerprint> {
        std::iter::once(&self.at).chain(&self.fingerprints)
    }
}

/// The nodes side by side.
enum Comparison {
    /// Fewer than two verdicts.
    Nothing,
    /// All are the same at this index.
    Agree { index: u64 },
    /// Some differ: who says what at which index.
    Differ(Vec<String>),
    /// They were seen at different indexes only.
    NoCommonIndex { highest: u64 },
}

/// Any index that two nodes share is compared; agreement needs one that all share.
fn compare(results: &Results) -> Comparison {
    let verdicts: Vec<(u64, &Verdict)> =
        results.iter().filter_map(|(id, r)| Some((*id, r.as_ref().ok()?))).collect();
    if verdicts.len() < 2 {
        return Comparison::Nothing;
    }
    let mut by_index: BTreeMap<u64, BTreeMap<u64, &Fingerprint>> = BTreeMap::new();
    for (id, verdict) in &verdicts {
        for fingerprint in verdict.all() {
            by_index.entry(fingerprint.log_index).or_default().entry(*id).or_insert(fingerprint);
        }
    }
    for (index, nodes) in &by_index {
        let first = nodes.values().next().expect("an index is there because a node named it");
        if nodes.values().any(|f| (&f.digest, &f.state_hash) != (&first.digest, &first.state_hash)) {
            let says = |(id, f): (&u64, &&Fingerprint)| {
                format!(
                    "index {index}: node {id} has digest {}, state hash {}",
                    plain(&f.digest),
                    plain(&f.state_hash)
                )
            };
            return Comparison::Differ(nodes.iter().map(says).collect());
        }
    }
    let common = by_index.iter().rev().find(|(_, nodes)| nodes.len() == verdicts.len());
    match common {
        Some((index, _)) => Comparison::Agree { index: *index },
        None => {
            let highest = by_index.keys().next_back().copied().unwrap_or_default();
            Comparison::NoCommonIndex { highest }
        }
    }
}

/// Findings come before everything: a node that could not be asked must not hide them.
fn exit(results: &Results, comparison: &Comparison) -> Result<Exit, Failure> {
    let findings = results.values().flatten().any(|verdict| !verdict.clean());
    if findings || matches!(comparison, Comparison::Differ(_)) {
        return Ok(Exit::Findings);
    }
    if let Some(failure) = results.values().find_map(|r| r.as_ref().err()) {
        return Err(failure.clone());
    }
    if matches!(comparison, Comparison::NoCommonIndex { .. }) {
        return Err(Failure::local(
            Exit::Error,
            "not_compared",
            "The nodes could not be compared",
            "each node is clean, but they were never seen at one log index",
        )
        .step("run it again when there are fewer writes"));
    }
    Ok(Exit::Ok)
}

fn conclusion(comparison: &Comparison) -> Vec<String> {
    match comparison {
        Comparison::Nothing => vec!["fewer than two verdicts: nothing to compare".into()],
        Comparison::Agree { index } => vec![format!("digests and state hashes agree at index {index}")],
        Comparison::Differ(lines) => [vec!["FINDING: the nodes differ".to_owned()], lines.clone()].concat(),
        Comparison::NoCommonIndex { .. } => vec!["not compared: no log index in common".into()],
    }
}

fn text(results: &Results, comparison: &Comparison) -> String {
    let mut table = Table::new(&[">NODE", "VERDICT", ">INDEX", "DIGEST", "STATE HASH", "CHECKED"]);
    for (id, result) in results {
        let cells = match result {
            Ok(v) => {
                let checked = v.checked.as_object().into_iter().flatten();
                let checked: Vec<String> = checked.map(|(what, n)| format!("{} {what}", plain(n))).collect();
                let verdict = if v.clean() { "clean" } else { "FINDINGS" };
                vec![
                    verdict.into(),
                    v.at.log_index.to_string(),
                    plain(&v.at.digest),
                    plain(&v.at.state_hash),
                    checked.join(", "),
                ]
            }
            Err(failure) => {
                vec!["not audited".into(), "-".into(), "-".into(), "-".into(), failure.problem.detail.clone()]
            }
        };
        table.row([vec![id.to_string()], cells].concat());
    }
    let mut out = table.render();
    for (id, verdict) in results.iter().filter_map(|(id, r)| Some((id, r.as_ref().ok()?))) {
        let findings =
            verdict.findings.iter().map(|finding| format!("FINDING: node {id}: {}\n", plain(finding)));
        out.extend(findings);
    }
    out.extend(conclusion(comparison).iter().map(|line| format!("{line}\n")));
    out
}

fn as_json(results: &Results, comparison: &Comparison) -> Value {
    let nodes: Vec<Value> = results
        .iter()
        .map(|(id, result)| match result {
            Ok(v) => json!({
                "id": id, "verdict": if v.clean() { "clean" } else { "findings" }, "findings": v.findings,
                "log_index": v.at.log_index, "digest": v.at.digest, "state_hash": v.at.state_hash, "checked": v.checked,
            }),
            Err(failure) => json!({"id": id, "verdict": null, "problem": failure.problem}),
        })
        .collect();
    let (agree, index) = match comparison {
        Comparison::Agree { index } => (Some(true), Some(*index)),
        Comparison::Differ(_) => (Some(false), None),
        Comparison::Nothing | Comparison::NoCommonIndex { .. } => (None, None),
    };
    json!({"nodes": nodes, "agree": agree, "compared_at_index": index, "comparison": conclusion(comparison)})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(index: u64, digest: &str, earlier: &[(u64, &str)]) -> Result<Verdict, Failure> {
        let print =
            |(index, digest): &(u64, &str)| json!({"log_index": index, "digest": digest, "state_hash": "s"});
        let earlier: Vec<Value> = earlier.iter().map(print).collect();
        Ok(serde_json::from_value(
            json!({"verdict": "clean", "log_index": index, "digest": digest, "state_hash": "s",
            "fingerprints": earlier}),
        )
        .unwrap())
    }

    #[test]
    fn nodes_at_different_indexes_are_compared_at_one_they_share() {
        let results = Results::from([(1, verdict(9, "d9", &[(8, "d8")])), (2, verdict(8, "d8", &[]))]);
        assert!(matches!(compare(&results), Comparison::Agree { index: 8 }));
        let results = Results::from([(1, verdict(9, "d9", &[(8, "x")])), (2, verdict(8, "d8", &[]))]);
        assert!(matches!(compare(&results), Comparison::Differ(_)));
        let results = Results::from([(1, verdict(9, "d9", &[])), (2, verdict(8, "d8", &[]))]);
        assert!(matches!(compare(&results), Comparison::NoCommonIndex { highest: 9 }));
    }
}
