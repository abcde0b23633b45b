//! Backups that are taken while clients write and other faults go on, and each of them really restored.

use super::{Effect, Entry, Injected, Nemesis, choice};
use crate::cluster::{Cluster, Needs, settings_not_passed_on};
use crate::history::{Backup, Fingerprint, Micros, NodeId};
use anyhow::Context as _;
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;
use tokio::task::JoinHandle;

/// How long one may take to come, and to be restored and added up.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
const VERIFIED_WITHIN: Duration = Duration::from_secs(60);
/// How long a node may take to compare itself at its index.
const COMPARED_WITHIN: Duration = Duration::from_secs(10);

/// Those of this file.
pub const ENTRIES: &[Entry] = &[Entry {
    name: "backup",
    kind: "cluster",
    about: "a backup is taken from any node, restored into a scratch store, and compared with what was acknowledged",
    needs: Needs::default,
    make: || Box::new(TakeBackup::default()),
}];

#[derive(Default)]
struct TakeBackup {
    begun: Option<Begun>,
    number: u64,
}

struct Begun {
    node: NodeId,
    file: PathBuf,
    from: Micros,
    fresh: bool,
    taking: JoinHandle<anyhow::Result<u64>>,
}

/// Writes what a node sends into a file.
async fn download(request: reqwest::RequestBuilder, file: PathBuf) -> anyhow::Result<u64> {
    let mut answer = request.send().await?;
    if !answer.status().is_success() {
        let status = answer.status();
        anyhow::bail!("{status}: {}", answer.text().await?);
    }
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        bytes.extend_from_slice(&piece);
    }
    tokio::fs::write(&file, &bytes).await?;
    Ok(bytes.len() as u64)
}

/// What `stockroom verify` says of a file: the one JSON object that it prints.
async fn verify(cluster: &Cluster, file: &Path) -> anyhow::Result<Value> {
    let mut command = Command::new(&cluster.options().binary);
    command.arg("verify").arg("--json").arg("--scratch").arg(cluster.dir()).arg(file).kill_on_drop(true);
    for name in settings_not_passed_on() {
        command.env_remove(name);
    }
    let output =
        tokio::time::timeout(VERIFIED_WITHIN, command.output()).await.context("verify did not end")??;
    let said = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(said.trim()).with_context(|| {
        format!("verify ended with {}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr))
    })
}

/// What another node says of an index, where it remembers it.
async fn fingerprint_at(cluster: &Cluster, node: NodeId, log_index: u64) -> Option<Fingerprint> {
    let url = format!("http://{}/v1/audit", cluster.node(node).addresses.http_listen);
    let request = cluster.admin().post(url).timeout(COMPARED_WITHIN).json(&json!({ "at_index": log_index }));
    let request = request.header("Idempotency-Key", format!("backup-{node}-{log_index}"));
    let text = request.send().await.ok()?.text().await.ok()?;
    let verdict: Value = serde_json::from_str(text.lines().last()?).ok()?;
    let seen = verdict["fingerprints"].as_array()?.iter().chain([&verdict]);
    let mut seen = seen.filter_map(|seen| serde_json::from_value::<Fingerprint>(seen.clone()).ok());
    seen.find(|seen| seen.log_index == log_index)
}

/// What is known of a backup that was verified.
fn read(said: &Value) -> Option<(Fingerprint, u64, Vec<String>)> {
    let about = &said["backup"];
    let text = |name: &str| about[name].as_str().map(str::to_owned);
    let at = Fingerprint {
        log_index: about["log_index"].as_u64()?,
        digest: text("digest")?,
        state_hash: text("state_hash")?,
    };
    let findings = said["findings"].as_array()?.iter().map(|finding| finding.to_string()).collect();
    Some((at, said["checked"]["orders"].as_u64()?, findings))
}

#[async_trait]
impl Nemesis for TakeBackup {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let Some(node) = choice(&cluster.ids(), rng) else { return Ok(None) };
        let fresh = rng.random_bool(0.8);
        self.number += 1;
        let file = cluster.dir().join(format!("backup-{}.bak", self.number));
        let level = if fresh { "linearizable" } else { "stale" };
        let url = format!("http://{}/v1/admin/backup", cluster.node(node).addresses.http_listen);
        let from = cluster.now();
        let request = cluster.admin().get(url).header("Stockroom-Consistency", level).timeout(TAKEN_WITHIN);
        let taking = tokio::spawn(download(request, file.clone()));
        self.begun = Some(Begun { node, file, from, fresh, taking });
        let what = format!("a {} backup is taken from node {node}", if fresh { "fresh" } else { "stale" });
        Ok(Some(Injected { what, nodes: vec![node], hold_ms: Some(rng.random_range(0..1_000)) }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let Begun { node, file, from, fresh, taking } = self.begun.take().context("it was injected")?;
        let bytes = match taking.await? {
            Ok(bytes) => bytes,
            // No file is left of it, and nobody can take it for one.
            Err(why) => {
                return Ok(Effect { effective: false, evidence: format!("it was not given: {why:#}") });
            }
        };
        let until = cluster.now();
        let said = verify(cluster, &file).await;
        let Some((at, orders, findings)) = said.as_ref().ok().and_then(read) else {
            let said = said.map_or_else(|why| format!("{why:#}"), |said| said.to_string());
            cluster
                .find(format!("the backup of node {node} ({}) cannot be verified: {said}", file.display()));
            return Ok(Effect { effective: true, evidence: said });
        };
        let mut peers = Vec::new();
        for other in cluster.ids() {
            peers.extend(fingerprint_at(cluster, other, at.log_index).await.map(|seen| (other, seen)));
        }
        let wrong = !findings.is_empty();
        let evidence = format!(
            "{bytes} bytes of index {} restored, {orders} orders, compared with {} nodes; {findings:?}",
            at.log_index,
            peers.len()
        );
        cluster.keep_backup(Backup { node, from, until, fresh, at, orders, findings, peers });
        if !wrong {
            tokio::fs::remove_file(&file).await?;
        }
        Ok(Effect { effective: true, evidence })
    }
}
