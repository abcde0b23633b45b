//! What nodes say of themselves: asked past all faults, and in what they print.

use super::{Cluster, LOOK_EVERY};
use crate::history::{NodeId, Sample};
use anyhow::{Context as _, bail};
use serde_json::Value;
use std::time::{Duration, Instant};

impl Cluster {
    /// `GET` past all faults. `None` where it does not answer in time, or not with 200 and JSON.
    pub async fn ask(&self, id: NodeId, path: &str) -> Option<Value> {
        let node = self.node(id);
        let url = format!("http://{}{path}", node.addresses.http_listen);
        let answer = self.admin.get(url).send().await.ok()?;
        answer.status().is_success().then_some(())?;
        answer.json().await.ok()
    }

    /// The client that goes past all faults.
    pub fn admin(&self) -> &reqwest::Client {
        &self.admin
    }

    /// What a node says of itself now.
    pub async fn sample(&self, id: NodeId) -> Option<Sample> {
        let body = self.ask(id, "/v1/cluster").await?;
        let member = body["members"].as_array()?.iter().find(|member| member["id"] == id)?;
        let text = |name: &str| member["report"][name].as_str().unwrap_or_default().to_owned();
        Some(Sample {
            at: self.now(),
            node: id,
            term: body["term"].as_u64()?,
            leader: body["leader"].as_u64(),
            applied_index: member["report"]["applied_index"].as_u64().unwrap_or(0),
            digest: text("digest"),
            state_hash: text("state_hash"),
        })
    }

    /// The node that says of itself that it leads, of the highest term.
    pub async fn leader(&self) -> Option<NodeId> {
        let ids = self.ids_with_leaving();
        let samples = futures::future::join_all(ids.into_iter().map(|id| self.sample(id))).await;
        let leading = samples.into_iter().flatten().filter(|sample| sample.leader == Some(sample.node));
        leading.max_by_key(|sample| sample.term).map(|sample| sample.node)
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// Where it does not in time; the message has the node's last line.
    pub async fn wait_ready(&self, id: NodeId, patience: Duration) -> anyhow::Result<()> {
        let node = self.node(id);
        let url = format!("http://{}/readyz", node.addresses.http_listen);
        let deadline = Instant::now() + patience;
        loop {
            let answer = self.admin.get(&url).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("node {id} was not ready within {patience:?}; its last line: {}", node.last_line());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How often a text is in what a node has printed.
    ///
    /// # Errors
    /// Where its log cannot be read.
    pub fn said(&self, id: NodeId, text: &str) -> anyhow::Result<usize> {
        let node = self.node(id);
        let log = std::fs::read(&node.log).with_context(|| format!("reading {}", node.log.display()))?;
        Ok(String::from_utf8_lossy(&log).matches(text).count())
    }
}
