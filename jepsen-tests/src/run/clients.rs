//! Clients: each has one call in flight, and takes the next from the workload's generator.

use super::recorder::Recorder;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::history::{Answer, Call, NodeId, Op, Outcome, Settled};
use crate::workload::{Generator, Next};
use anyhow::bail;
use futures::stream::{self, StreamExt as _};
use rand::Rng as _;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a client waits for an answer. Beyond it the outcome is unknown, and the next call is made
/// under a new number; shorter than most faults last, so that clients see them.
pub const TIMEOUT: Duration = Duration::from_secs(3);
/// How soon a generator that had nothing is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// How soon a call that must succeed is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(200);
/// How long one call that must succeed is repeated.
const PATIENCE: Duration = Duration::from_secs(60);
/// How the shop refuses another body under a key.
const KEY_REUSED: &str = "key_reused";
/// How many unknown outcomes are settled at a time.
const SETTLE_AT_ONCE: usize = 16;

/// What all clients share.
pub struct Clients {
    /// Who makes the calls.
    pub client: Client,
    /// Whom they are made to.
    pub cluster: Arc<Cluster>,
    /// Who takes them down.
    pub recorder: Arc<Recorder>,
    /// Who chooses them.
    pub generator: Mutex<Box<dyn Generator>>,
    /// Calls per second of each.
    pub rate: f64,
    /// Nodes whose addresses the client has.
    known: Mutex<BTreeSet<NodeId>>,
}

impl Clients {
    /// Clients of a cluster that stands.
    ///
    /// # Errors
    /// Where no HTTP client can be made.
    pub fn new(
        cluster: Arc<Cluster>,
        recorder: Arc<Recorder>,
        generator: Box<dyn Generator>,
        rate: f64,
    ) -> anyhow::Result<Self> {
        let addresses: BTreeMap<NodeId, String> = cluster
            .ids()
            .into_iter()
            .map(|id| (id, cluster.node(id).addresses.http_clients.clone()))
            .collect();
        let known = Mutex::new(addresses.keys().copied().collect());
        let client = Client::new(addresses, TIMEOUT, cluster.options().mischief.clone())?;
        Ok(Clients { client, cluster, recorder, generator: Mutex::new(generator), rate, known })
    }

    /// All nodes of the cluster; the client gets the addresses of those that came to it since.
    pub fn nodes(&self) -> Vec<NodeId> {
        let ids = self.cluster.ids();
        let mut known = self.known.lock().expect("no panic while held");
        for id in &ids {
            if known.insert(*id) {
                self.client.add_node(*id, self.cluster.network().addresses(*id).http_clients);
            }
        }
        ids
    }

    /// One client, until the deadline; its last call may end up to [`TIMEOUT`] later.
    pub async fn run(self: Arc<Self>, slot: usize, mut rng: StdRng, deadline: Instant) {
        let mut number = slot as u64;
        let mut due = Instant::now() + self.pace(&mut rng);
        while Instant::now() < deadline {
            let next = self.generator.lock().expect("no panic while held").next(slot, &mut rng);
            let Some(next) = next else {
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            };
            let at = next.wait_ms.map_or(due, |wait| Instant::now() + Duration::from_millis(wait));
            tokio::time::sleep_until(at.min(deadline).into()).await;
            if at >= deadline {
                return;
            }
            due = Instant::now() + self.pace(&mut rng);
            let node = self.choose(next.node, &mut rng);
            let op = self.call(number, node, next).await;
            self.generator.lock().expect("no panic while held").seen(slot, &op);
            if matches!(op.outcome, Some(Outcome::Info { .. })) {
                number = self.recorder.new_client();
            }
        }
    }

    /// Half to one and a half times the mean, so that clients do not march in step.
    fn pace(&self, rng: &mut StdRng) -> Duration {
        Duration::from_secs_f64(rng.random_range(0.5..1.5) / self.rate)
    }

    fn choose(&self, wanted: Option<NodeId>, rng: &mut StdRng) -> NodeId {
        let ids = self.nodes();
        wanted.filter(|id| ids.contains(id)).unwrap_or_else(|| ids[rng.random_range(0..ids.len())])
    }

    async fn call(&self, number: u64, node: NodeId, next: Next) -> Op {
        let op = self.recorder.invoke(number, node, next.key, next.call);
        let outcome = self.client.call(node, op.key.as_deref(), &op.call).await;
        self.recorder.complete(op.id, outcome)
    }

    /// Makes calls one after another, each repeated with its key, at one node after another, until it has
    /// an answer.
    ///
    /// # Errors
    /// Where one has none within a minute, or `must_succeed` and the shop refuses it.
    pub async fn insist(&self, calls: Vec<Call>, must_succeed: bool) -> anyhow::Result<()> {
        let mut number = self.recorder.new_client();
        for (place, call) in calls.into_iter().enumerate() {
            let deadline = Instant::now() + PATIENCE;
            let ids = self.nodes();
            let mut key = None;
            let mut attempt = place;
            loop {
                let node = ids[attempt % ids.len()];
                let next = Next { call: call.clone(), key: key.clone(), node: None, wait_ms: None };
                let op = self.call(number, node, next).await;
                self.generator.lock().expect("no panic while held").seen(0, &op);
                match &op.outcome {
                    Some(Outcome::Ok { answer: Answer::Refused { code, .. }, .. }) if must_succeed => {
                        bail!("{} has to succeed and was refused: {code} ({:?})", call.name(), op.call)
                    }
                    Some(Outcome::Ok { .. }) => break,
                    outcome if Instant::now() > deadline => {
                        bail!("{} had no answer within {PATIENCE:?}; the last: {outcome:?}", call.name())
                    }
                    Some(Outcome::Info { .. }) => number = self.recorder.new_client(),
                    _ => {}
                }
                key = op.key;
                attempt += 1;
                tokio::time::sleep(REPEAT_AFTER).await;
            }
        }
        Ok(())
    }

    /// Settles every write whose outcome is unknown, at one node after another until one answers.
    ///
    /// # Errors
    /// How many could not be settled within a minute, with the last reason.
    pub async fn settle(&self) -> anyhow::Result<String> {
        let unknown = self.recorder.look(|history| unknown(&history.ops));
        let deadline = Instant::now() + PATIENCE;
        let results: Vec<Result<bool, String>> = stream::iter(&unknown)
            .map(|key| self.settle_key(key, deadline))
            .buffer_unordered(SETTLE_AT_ONCE)
            .collect()
            .await;
        let failed: Vec<&String> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        if let Some(last) = failed.last() {
            bail!(
                "{} of {} unknown outcomes could not be settled; the last: {last}",
                failed.len(),
                unknown.len()
            );
        }
        let happened = results.iter().filter(|result| **result == Ok(true)).count();
        Ok(format!("{} unknown outcomes settled; {happened} of them had taken place", unknown.len()))
    }

    async fn settle_key(&self, key: &str, deadline: Instant) -> Result<bool, String> {
        let ids = self.nodes();
        for attempt in 0.. {
            match self.client.settle(ids[attempt % ids.len()], key).await {
                Ok(settled) => {
                    for (op, settled) in self.recorder.look(|history| fates(&history.ops, key, &settled)) {
                        self.recorder.settle(op, settled);
                    }
                    return Ok(matches!(settled, Settled::Happened { .. }));
                }
                Err(why) if Instant::now() > deadline => return Err(format!("{key}: {why}")),
                Err(_) => tokio::time::sleep(REPEAT_AFTER).await,
            }
        }
        unreachable!("attempts do not end by themselves")
    }
}

/// Whether nobody knows yet if this write took place.
fn is_open(op: &Op) -> bool {
    op.key.is_some() && op.settled.is_none() && matches!(op.outcome, None | Some(Outcome::Info { .. }))
}

/// Keys of writes of which it is not known whether they took place: one key is one write.
fn unknown(ops: &[Op]) -> BTreeSet<String> {
    ops.iter().filter(|op| is_open(op)).filter_map(|op| op.key.clone()).collect()
}

/// What the outcome of a key says of each call under it that is open. A key may have been sent with several
/// bodies; what it came to is of the one that was answered, and the others never will be let through.
fn fates(ops: &[Op], key: &str, settled: &Settled) -> Vec<(u64, Settled)> {
    let same: Vec<&Op> = ops.iter().filter(|op| op.key.as_deref() == Some(key)).collect();
    let decided = same.iter().find(|op| match &op.outcome {
        Some(Outcome::Ok { answer: Answer::Refused { code, .. }, .. }) => code != KEY_REUSED,
        outcome => matches!(outcome, Some(Outcome::Ok { .. })),
    });
    let fate = |op: &Op| match (settled, decided) {
        (Settled::Abandoned, _) => Some(Settled::Abandoned),
        (happened, Some(decided)) if decided.call == op.call => Some(happened.clone()),
        (_, Some(_)) => Some(Settled::Abandoned),
        // Of which of several bodies the outcome is, nobody can say.
        (happened, None) => same.iter().all(|other| other.call == op.call).then(|| happened.clone()),
    };
    same.iter().filter(|op| is_open(op)).filter_map(|op| Some((op.id, fate(op)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Line, Meta};

    fn op(id: u64, quantity: u64, outcome: Option<Outcome>) -> Op {
        Op {
            id,
            client: id,
            node: 1,
            key: Some("k".into()),
            call: Call::Receive { lines: vec![Line::new("mug", quantity)] },
            invoked: id,
            completed: None,
            outcome,
            settled: None,
        }
    }

    fn ok() -> Option<Outcome> {
        Some(Outcome::Ok { answer: Answer::Done { log_index: Some(3) }, meta: Meta::default() })
    }

    fn reused() -> Option<Outcome> {
        let answer = Answer::Refused { status: 422, code: KEY_REUSED.into(), shortages: Vec::new() };
        Some(Outcome::Ok { answer, meta: Meta::default() })
    }

    fn lost() -> Option<Outcome> {
        Some(Outcome::Info { reason: "time-out".into() })
    }

    fn happened() -> Settled {
        Settled::Happened { answer: Answer::Done { log_index: Some(3) } }
    }

    #[test]
    fn every_open_call_of_a_key_is_settled_and_no_other() {
        let ops = [op(0, 1, lost()), op(1, 1, ok()), op(2, 1, None)];
        assert_eq!(unknown(&ops).len(), 1);
        assert_eq!(fates(&ops, "k", &happened()), [(0, happened()), (2, happened())]);
        assert_eq!(fates(&ops, "k", &Settled::Abandoned).len(), 2);
    }

    #[test]
    fn the_outcome_of_a_key_is_not_that_of_another_body_under_it() {
        let ops = [op(0, 1, ok()), op(1, 1_000, lost()), op(2, 1_000, reused())];
        assert_eq!(fates(&ops, "k", &happened()), [(1, Settled::Abandoned)]);
    }

    #[test]
    fn of_several_bodies_that_nobody_answered_none_is_known() {
        let ops = [op(0, 1, lost()), op(1, 2, lost()), op(2, 2, reused())];
        assert_eq!(fates(&ops, "k", &happened()), []);
        assert_eq!(fates(&ops, "k", &Settled::Abandoned).len(), 2);
    }
}
