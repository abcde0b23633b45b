//! One look at the cluster, and what went on since the one before.

use crate::{
    doctor::{self, Finding, Metrics, Seen},
    members::Quorum,
    problem::plain,
    view::{Member, View, answers},
};
use serde::Serialize;
use std::{collections::BTreeMap, time::Instant};

/// The cluster at one moment.
#[derive(Debug, Serialize)]
pub struct Sample {
    /// On this machine's clock, in RFC 3339.
    pub at: String,
    pub cluster_id: String,
    pub leader: Option<u64>,
    pub term: u64,
    pub committed_index: u64,
    pub quorum: Quorum,
    /// Orders placed a second since the last look; `None` at the first.
    pub orders_per_s: Option<f64>,
    /// Entries committed a second.
    pub entries_per_s: Option<f64>,
    /// Errors answered a second, by all nodes.
    pub refusals_per_s: Option<f64>,
    pub nodes: Vec<Node>,
    pub alarms: Vec<Finding>,
}

/// A member at one moment.
#[derive(Debug, Serialize)]
pub struct Node {
    pub id: u64,
    /// `leader`, `voter` or `learner`.
    pub role: String,
    pub answers: bool,
    /// The term that it is in, where it said so itself.
    pub term: Option<u64>,
    pub applied_index: Option<u64>,
    pub lag: Option<u64>,
    pub orders_per_s: Option<f64>,
    pub sync_ms: Option<f64>,
    pub clock_offset_ms: Option<i64>,
    pub disk_free_share: Option<f64>,
    pub disk_free_bytes: Option<f64>,
    pub heard_ms_ago: Option<u64>,
}

/// What is counted, as of one look.
struct Counted {
    at: Instant,
    committed: u64,
    /// By node: orders placed, errors answered.
    nodes: BTreeMap<u64, (f64, f64)>,
}

/// Looks again and again.
#[derive(Default)]
pub struct Watcher {
    before: Option<Counted>,
}

impl Watcher {
    /// What there is to say of a look. `None` where no node answered.
    pub fn sample(&mut self, seen: &Seen, at: Instant, clock: String) -> Option<Sample> {
        let view = seen.best()?;
        let counted = counted(seen, view, at);
        let before = self.before.as_ref().filter(|before| at > before.at);
        let seconds = before.map(|before| (at - before.at).as_secs_f64());
        let rate = |of: fn(&(f64, f64)) -> f64, node: u64| -> Option<f64> {
            let (now, then) = (counted.nodes.get(&node)?, before?.nodes.get(&node)?);
            // One that was started again begins at zero.
            Some((of(now) - of(then)).max(0.0) / seconds?)
        };
        let rates: Vec<f64> = view.members.iter().filter_map(|m| rate(|counts| counts.0, m.id)).collect();
        let refusals: Vec<f64> = view.members.iter().filter_map(|m| rate(|counts| counts.1, m.id)).collect();
        let node = |member: &Member| {
            let term = own_term(seen, member.id);
            node(view, member, seen.metrics.get(&member.id), term, rate(|counts| counts.0, member.id))
        };
        let sample = Sample {
            at: clock,
            cluster_id: plain(&view.cluster_id),
            leader: view.leader,
            term: view.term,
            committed_index: view.committed,
            quorum: Quorum::seen(view),
            orders_per_s: middle(rates),
            entries_per_s: before
                .zip(seconds)
                .map(|(before, s)| counted.committed.saturating_sub(before.committed) as f64 / s),
            refusals_per_s: (!refusals.is_empty()).then(|| refusals.iter().sum()),
            nodes: view.members.iter().map(node).collect(),
            alarms: doctor::examine(seen),
        };
        self.before = Some(counted);
        Some(sample)
    }
}

/// Each node applies every order: one that catches up counts too many, one that hangs too few.
fn middle(mut rates: Vec<f64>) -> Option<f64> {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied()
}

fn counted(seen: &Seen, view: &View, at: Instant) -> Counted {
    let of_node = |metrics: &Metrics| {
        let orders = metrics.get("stockroom_orders_placed_total").copied().unwrap_or_default();
        let refusals = metrics.iter().filter(|(name, _)| name.starts_with("stockroom_refusals_total"));
        (orders, refusals.map(|(_, count)| count).sum())
    };
    let nodes = seen.metrics.iter().filter(|(_, metrics)| !metrics.is_empty());
    Counted {
        at,
        committed: view.committed,
        nodes: nodes.map(|(id, metrics)| (*id, of_node(metrics))).collect(),
    }
}

fn own_term(seen: &Seen, id: u64) -> Option<u64> {
    let mut views = seen.views.iter().filter_map(|(_, view)| view.as_ref().ok());
    views.find(|view| view.node_id == id).map(|view| view.term)
}

fn node(
    view: &View,
    member: &Member,
    metrics: Option<&Metrics>,
    term: Option<u64>,
    orders_per_s: Option<f64>,
) -> Node {
    let report = member.report.as_ref();
    let metric = |name: &str| metrics.and_then(|metrics| metrics.get(name)).copied();
    let (free, total) = (metric("stockroom_disk_free_bytes"), metric("stockroom_disk_bytes"));
    Node {
        id: member.id,
        role: if view.leader == Some(member.id) { "leader".into() } else { member.role.clone() },
        answers: answers(view, member),
        term,
        applied_index: report.map(|report| report.applied_index),
        lag: report.and_then(|report| report.lag.as_u64()),
        orders_per_s,
        sync_ms: report.and_then(|report| report.sync_us).map(|us| us as f64 / 1_000.0),
        clock_offset_ms: report.and_then(|report| report.clock_offset_ms.as_i64()),
        disk_free_share: free.zip(total).filter(|(_, total)| *total > 0.0).map(|(free, total)| free / total),
        disk_free_bytes: free,
        heard_ms_ago: report.and_then(|report| report.heard_ms_ago),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn seen(committed: u64, orders: &[(u64, f64)]) -> Seen {
        let member = |id: u64| {
            json!({"id": id, "http_address": "h:1", "peer_address": "p:1", "role": "voter",
                "report": {"applied_index": 7, "lag": 0, "heard_ms_ago": 5, "sync_us": 900}})
        };
        let view = json!({"cluster_id": "c", "node_id": 1, "leader": 1, "term": 4, "committed": committed,
            "members": [member(1), member(2), member(3)]});
        let metrics = orders.iter().map(|(id, placed)| {
            let of = [
                ("stockroom_orders_placed_total".to_owned(), *placed),
                ("stockroom_refusals_total{code=\"a\"}".to_owned(), *placed / 10.0),
            ];
            (*id, BTreeMap::from(of))
        });
        Seen {
            views: vec![("e".into(), Ok(serde_json::from_value(view).unwrap()))],
            metrics: metrics.collect(),
        }
    }

    #[test]
    fn rates_are_what_went_on_between_two_looks() {
        let (mut watcher, begun) = (Watcher::default(), Instant::now());
        let first =
            watcher.sample(&seen(10, &[(1, 100.0), (2, 100.0), (3, 0.0)]), begun, String::new()).unwrap();
        assert_eq!((first.orders_per_s, first.entries_per_s), (None, None));
        // Node 2 was started again and begins at zero; node 3 catches up.
        let later = begun + Duration::from_secs(2);
        let second =
            watcher.sample(&seen(30, &[(1, 120.0), (2, 5.0), (3, 120.0)]), later, String::new()).unwrap();
        assert_eq!((second.orders_per_s, second.entries_per_s), (Some(10.0), Some(10.0)));
        assert_eq!(second.nodes[1].orders_per_s, Some(0.0));
        assert_eq!(second.refusals_per_s, Some(1.0 + 6.0));
        assert_eq!((second.quorum.voters, second.leader), (3, Some(1)));
        // A node that did not tell has no rate, and is no zero.
        let third =
            watcher.sample(&seen(30, &[(1, 120.0)]), later + Duration::from_secs(1), String::new()).unwrap();
        assert_eq!((third.orders_per_s, third.nodes[2].orders_per_s), (Some(0.0), None));
    }
}
