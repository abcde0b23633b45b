//! `--once`: what must be true after a leader was killed in the middle of the orders, each as a check of its own.

use super::client::{Client, Command, Outcome};
use super::sample::Sample;
use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

const READ_WITHIN: Duration = Duration::from_secs(30);
const AUDIT_WITHIN: Duration = Duration::from_secs(300);
/// SKUs in one read of stock.
const SKUS_PER_READ: usize = 100;

/// The verdict of one check: what holds, or what does not.
pub type Verdict = Result<String, String>;

/// Everything that the checks compare with.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// Asks the nodes.
    pub client: &'a Client,
    /// What was loaded.
    pub sample: &'a Sample,
    /// The orders as they were sent,
    pub orders: &'a [Command],
    /// and what was acknowledged, in the same order.
    pub outcomes: &'a [Outcome],
}

impl Evidence<'_> {
    /// All checks, in an order in which a failed one explains those after it.
    pub async fn check(&self) -> Vec<Verdict> {
        let placed = self.all_placed();
        let present = self.orders_present().await;
        let replayed = self.replays_answer_the_same().await;
        let stock = self.stock_is_exact().await;
        let audits = self.audits_are_clean().await;
        let (audits, same) = match audits {
            Ok((detail, audits)) => (Ok(detail), same_history(&audits)),
            Err(error) => (Err(error), Err(anyhow::anyhow!("no audits to compare"))),
        };
        let verdict = |result: anyhow::Result<String>| result.map_err(|error| format!("{error:#}"));
        [placed, present, replayed, stock, audits, same].map(verdict).into()
    }

    fn all_placed(&self) -> anyhow::Result<String> {
        let refused = self.outcomes.iter().find(|outcome| outcome.status != 201);
        if let Some(Outcome { key, status, body, .. }) = refused {
            anyhow::bail!("{key} was answered with {status}: {body}");
        }
        let (acknowledged, all) = (self.outcomes.len(), self.orders.len());
        ensure!(acknowledged == all, "{acknowledged} of {all} orders were acknowledged");
        Ok(format!("all {all} orders of the sample were acknowledged, each with 201"))
    }

    /// Lists every order on every node, so that a lost one and one too many both show.
    async fn orders_present(&self) -> anyhow::Result<String> {
        let mut expected = BTreeMap::new();
        for outcome in self.outcomes {
            expected.insert(id_of(&outcome.body)?, &outcome.body);
        }
        for node in 0..self.client.nodes() {
            let listed = list(self.client, node, "/v1/orders").await?;
            ensure!(
                listed.len() == expected.len(),
                "node {} lists {} orders, {} were acknowledged",
                node + 1,
                listed.len(),
                expected.len()
            );
            for order in &listed {
                let id = id_of(order)?;
                let acknowledged =
                    expected.get(id).with_context(|| format!("{id} was never acknowledged"))?;
                ensure!(*acknowledged == order, "{id} was acknowledged as {acknowledged} and is {order}");
            }
        }
        Ok(format!(
            "each of {} acknowledged orders is on every node, once, as it was acknowledged",
            expected.len()
        ))
    }

    /// Every order once more under its key, to another node than it may have gone to first.
    async fn replays_answer_the_same(&self) -> anyhow::Result<String> {
        for (at, (orders, before)) in self.orders.chunks(500).zip(self.outcomes.chunks(500)).enumerate() {
            let now = self.client.settle_from(at + 1, orders, Instant::now() + READ_WITHIN).await?;
            for (now, before) in now.iter().zip(before) {
                let same = (now.status, &now.body) == (before.status, &before.body);
                ensure!(same, "{}: answered {} first and {} when sent again", now.key, before.body, now.body);
                ensure!(now.replayed, "{} was done a second time", now.key);
            }
        }
        Ok(format!(
            "each of {} orders sent again got its first answer, and nothing was done twice",
            self.orders.len()
        ))
    }

    /// On hand is what was received, all of it promised to orders, none left.
    async fn stock_is_exact(&self) -> anyhow::Result<String> {
        let needs = self.sample.needs();
        let mut skus: Vec<&str> = needs.keys().map(|(sku, _)| sku.as_str()).collect();
        skus.dedup();
        let mut places = 0;
        let mut units = 0;
        for (at, skus) in skus.chunks(SKUS_PER_READ).enumerate() {
            let query: Vec<String> = skus.iter().map(|sku| format!("sku={sku}")).collect();
            let path = format!("/v1/stock?{}", query.join("&"));
            let body =
                self.client.read(at % self.client.nodes(), &path, Instant::now() + READ_WITHIN).await?;
            for stock in body["items"].as_array().context("a list of stock")? {
                for location in stock["locations"].as_array().context("a list of locations")? {
                    units += check_place(&needs, stock, location)?;
                    places += 1;
                }
            }
        }
        ensure!(places == needs.len(), "{places} places have stock, {} received some", needs.len());
        Ok(format!(
            "stock is exact: {units} units at {places} places, all promised to orders, none available"
        ))
    }

    async fn audits_are_clean(&self) -> anyhow::Result<(String, Vec<Audit>)> {
        let asked = (0..self.client.nodes()).map(|node| async move {
            let text = self.client.post_for_text(node, "/v1/audit", AUDIT_WITHIN).await?;
            let last = text.lines().last().context("an audit without a verdict")?;
            let audit: Audit = serde_json::from_str(last).with_context(|| format!("verdict {last}"))?;
            let clean = audit.verdict == "clean" && audit.findings.is_empty();
            ensure!(clean, "node {}: {} {:?}", node + 1, audit.verdict, audit.findings);
            let (orders, items) = (audit.checked.orders, audit.checked.items);
            ensure!(orders == self.orders.len() as u64, "node {} has {orders} orders", node + 1);
            ensure!(items == self.sample.items() as u64, "node {} has {items} items", node + 1);
            anyhow::Ok(audit)
        });
        let audits: Vec<Audit> =
            futures::future::join_all(asked).await.into_iter().collect::<anyhow::Result<_>>()?;
        let movements = audits.first().map_or(0, |audit| audit.checked.movements);
        Ok((format!("the audit of each node is clean: {movements} movements add up"), audits))
    }
}

fn id_of(order: &Value) -> anyhow::Result<&str> {
    order["id"].as_str().with_context(|| format!("no id in {order}"))
}

async fn list(client: &Client, node: usize, path: &str) -> anyhow::Result<Vec<Value>> {
    let (mut rows, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let after = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let url = format!("{path}?limit=1000{after}");
        let mut page = client.read(node, &url, Instant::now() + READ_WITHIN).await?;
        let Value::Array(items) = page["items"].take() else { anyhow::bail!("no items in a page of {path}") };
        rows.extend(items);
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(rows);
        }
    }
}

fn check_place(
    needs: &BTreeMap<(String, String), u64>,
    stock: &Value,
    location: &Value,
) -> anyhow::Result<u64> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let place = (text(&stock["sku"]), text(&location["location"]));
    let units = *needs.get(&place).with_context(|| format!("nothing was received at {place:?}"))?;
    let figures = ["on_hand", "reserved", "allocated", "available"].map(|name| location[name].as_u64());
    ensure!(
        figures == [Some(units), Some(0), Some(units), Some(0)],
        "{place:?} received {units} and shows {location}"
    );
    Ok(units)
}

#[derive(Debug, Deserialize)]
struct Audit {
    verdict: String,
    #[serde(default)]
    findings: Vec<String>,
    log_index: u64,
    digest: String,
    state_hash: String,
    checked: Checked,
    fingerprints: Vec<Fingerprint>,
}

#[derive(Debug, Deserialize)]
struct Checked {
    items: u64,
    orders: u64,
    movements: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Fingerprint {
    log_index: u64,
    digest: String,
    state_hash: String,
}

/// Digest and state hash at the newest index that all audits know.
fn same_history(audits: &[Audit]) -> anyhow::Result<String> {
    let known = |audit: &Audit| -> BTreeMap<u64, Fingerprint> {
        let own = Fingerprint {
            log_index: audit.log_index,
            digest: audit.digest.clone(),
            state_hash: audit.state_hash.clone(),
        };
        audit.fingerprints.iter().cloned().chain([own]).map(|f| (f.log_index, f)).collect()
    };
    let known: Vec<_> = audits.iter().map(known).collect();
    let first = known.first().context("no audit")?;
    let common = first.keys().rev().find(|index| known.iter().all(|of| of.contains_key(index)));
    let index = common.context("the audits have no index in common")?;
    let fingerprint = &first[index];
    for (node, other) in known.iter().enumerate() {
        ensure!(
            other[index] == *fingerprint,
            "node {} differs at index {index}: {:?}",
            node + 1,
            other[index]
        );
    }
    let Fingerprint { digest, state_hash, .. } = fingerprint;
    Ok(format!("all nodes are equal at index {index}: digest {digest}, state hash {state_hash}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn audit(log_index: u64, digest: &str, fingerprints: &[(u64, &str)]) -> Audit {
        let fingerprints: Vec<_> = fingerprints
            .iter()
            .map(|(index, digest)| json!({"log_index": index, "digest": digest, "state_hash": "s"}))
            .collect();
        serde_json::from_value(json!({
            "verdict": "clean", "findings": [], "log_index": log_index, "digest": digest, "state_hash": "s",
            "checked": {"items": 1, "orders": 1, "movements": 1, "receipts": 3}, "fingerprints": fingerprints,
        }))
        .expect("as the API writes it")
    }

    #[test]
    fn histories_are_compared_at_the_newest_common_index() {
        let (one, two) = (audit(9, "i", &[(7, "g"), (8, "h")]), audit(8, "h", &[(7, "g")]));
        assert!(same_history(&[one, two]).expect("equal").contains("index 8: digest h"));
        let (one, two) = (audit(9, "i", &[(8, "h")]), audit(8, "x", &[]));
        assert!(
            same_history(&[one, two]).expect_err("differ").to_string().contains("node 2 differs at index 8")
        );
        let (one, two) = (audit(9, "i", &[]), audit(8, "h", &[]));
        assert!(same_history(&[one, two]).expect_err("not comparable").to_string().contains("in common"));
    }

    #[test]
    fn a_unit_too_many_or_too_few_is_found() {
        let needs = BTreeMap::from([(("mug".to_owned(), "main".to_owned()), 5)]);
        let stock = json!({"sku": "mug"});
        let place = |on_hand: u64, allocated: u64| {
            json!({"location": "main", "on_hand": on_hand, "reserved": 0, "allocated": allocated,
                   "available": on_hand - allocated})
        };
        assert_eq!(check_place(&needs, &stock, &place(5, 5)).expect("exact"), 5);
        assert!(check_place(&needs, &stock, &place(5, 4)).is_err());
        assert!(check_place(&needs, &stock, &place(6, 6)).is_err());
        assert!(check_place(&needs, &json!({"sku": "cup"}), &place(5, 5)).is_err());
    }
}
