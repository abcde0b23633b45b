//! Leadership that an operator moves about.

use super::{Effect, Entry, Injected, Nemesis, choice};
use crate::cluster::{Cluster, Needs};
use crate::history::NodeId;
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::json;
use std::time::Duration;

/// So often in one turn.
const TIMES: std::ops::RangeInclusive<u64> = 1..=5;
/// Between two.
const PAUSE_MS: std::ops::Range<u64> = 0..700;
/// A node that is to lag is stopped for so long: not for longer than its lease, so that it stays what it is.
const LAG_MS: std::ops::Range<u64> = 200..1_200;

/// Those of this file.
pub const ENTRIES: &[Entry] = &[Entry {
    name: "leadership",
    kind: "cluster",
    about: "leadership is handed over again and again, to any voter, to a named one, to one that lags",
    needs: || Needs { nodes: 3, ..Needs::default() },
    make: || Box::new(Leadership::default()),
}];

#[derive(Default)]
struct Leadership {
    moved: Vec<NodeId>,
    refused: Vec<String>,
}

/// Stops a node for a moment, so that it has not caught up when it is asked to lead.
async fn lags(cluster: &Cluster, id: NodeId, rng: &mut StdRng) -> anyhow::Result<()> {
    // One that another fault stopped is not ours to resume.
    if cluster.is_up(id).await && cluster.pause(id).await? {
        tokio::time::sleep(Duration::from_millis(rng.random_range(LAG_MS))).await;
        cluster.resume(id).await?;
    }
    Ok(())
}

#[async_trait]
impl Nemesis for Leadership {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        (self.moved, self.refused) = (Vec::new(), Vec::new());
        let times = rng.random_range(TIMES);
        for _ in 0..times {
            let (Some(leader), ids) = (cluster.leader().await, cluster.ids()) else { continue };
            let to = choice(&ids, rng).filter(|to| *to != leader && rng.random_bool(0.7));
            if let Some(to) = to.filter(|_| rng.random_bool(0.4)) {
                lags(cluster, to, rng).await?;
            }
            let Some(asked) = choice(&ids, rng) else { continue };
            let body = to.map_or(json!({}), |to| json!({ "to": to }));
            match cluster.operate(asked, "/v1/cluster/leader/transfer", &body).await {
                Ok((200, answer)) => {
                    self.moved.extend(answer["leader"].as_u64().filter(|new| *new != leader));
                }
                Ok((status, answer)) => self.refused.push(format!("{status} {}", answer["code"])),
                Err(why) => self.refused.push(why),
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(PAUSE_MS))).await;
        }
        if self.moved.is_empty() && self.refused.is_empty() {
            return Ok(None);
        }
        let what = format!("leadership was to be handed over {times} times");
        Ok(Some(Injected { what, nodes: self.moved.clone(), hold_ms: Some(0) }))
    }

    async fn heal(&mut self, _: &Cluster) -> anyhow::Result<Effect> {
        let evidence = format!("it went to {:?}; not handed over: {:?}", self.moved, self.refused);
        Ok(Effect { effective: !self.moved.is_empty(), evidence })
    }
}
