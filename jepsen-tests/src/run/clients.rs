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
        self.known(self.cluster.ids())
    }

    fn known(&self, ids: Vec<NodeId>) -> Vec<NodeId> {
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
        // One that was removed must not answer as if it were not.
        let ids = self.known(self.cluster.ids_with_leaving());
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
        for (place, call) in calls.iter().enumerate() {
            let ids = self.nodes();
            let nodes = ids.iter().cycle().skip(place % ids.len()).copied();
            self.insist_on(call, nodes, must_succeed, &mut number).await?;
        }
        Ok(())
    }

    /// Makes the same calls at every node: each answers from a state of its own.
    ///
    /// # Errors
    /// Where a node has no answer to one within a minute.
    pub async fn insist_everywhere(&self, calls: &[Call]) -> anyhow::Result<()> {
        for node in self.nodes() {
            let mut number = self.recorder.new_client();
            for call in calls {
                self.insist_on(call, std::iter::repeat(node), false, &mut number).await?;
            }
        }
        Ok(())
    }

    async fn insist_on(
        &self,
        call: &Call,
        nodes: impl Iterator<Item = NodeId>,
        must_succeed: bool,
        number: &mut u64,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut key = None;
        for node in nodes {
            let next = Next { call: call.clone(), key, node: None, wait_ms: None };
            let op = self.call(*number, node, next).await;
            self.generator.lock().expect("no panic while held").seen(0, &op);
            match &op.outcome {
                Some(Outcome::Ok { answer: Answer::Refused { code, .. }, .. }) if must_succeed => {
                    bail!("{} has to succeed and was refused: {code} ({:?})", call.name(), op.call)
                }
                Some(Outcome::Ok { .. }) => return Ok(()),
                outcome if Instant::now() > deadline => bail!(
                    "node {node} had no answer to {} within {PATIENCE:?}; the last: {outcome:?}",
                    call.name()
                ),
                Some(Outcome::Info { .. }) => *number = self.recorder.new_client(),
                _ => {}
            }
            key = op.key;
            tokio::time::sleep(REPEAT_AFTER).await;
        }
        unreachable!("nodes do not end")
    }

    /// Settles every write whose outcome is unknown, at one node after another until one answers.
    ///
    /// # Errors
    /// How many could not be settled within a minute, with the last reason.
    pub async fn settle(&self) -> anyhow::Result<String> {
        let unknown = self.recorder.look(|history| unknown(&history.ops));
        let deadline = Instant::now() + PATIENCE;
        let results: Vec<Result<bool, String>> = stream::iter(&unknown)
            .map(|(key, open)| self.settle_key(key, open, deadline))
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

    async fn settle_key(&self, key: &str, open: &[Open], deadline: Instant) -> Result<bool, String> {
        let ids = self.nodes();
        for attempt in 0.. {
            match self.client.settle(ids[attempt % ids.len()], key).await {
                Ok(settled) => {
                    for call in open {
                        self.recorder.settle(call.op, call.share(key, &settled)?);
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

/// A write without an answer.
#[derive(Debug, PartialEq, Eq)]
struct Open {
    op: u64,
    /// Whether its key stands for its body. `None`: nobody heard which of several bodies was let through.
    is_owner: Option<bool>,
}

impl Open {
    /// What the end of its key means for it: what took place may have been another body, sent with the same
    /// key. Then this one was refused, whether or not anybody heard of that.
    fn share(&self, key: &str, settled: &Settled) -> Result<Settled, String> {
        match (settled, self.is_owner) {
            (Settled::Abandoned, _) | (_, Some(true)) => Ok(settled.clone()),
            (Settled::Happened { .. }, Some(false)) => Ok(Settled::Happened {
                answer: Answer::Refused { status: 422, code: "key_reused".to_owned(), shortages: Vec::new() },
            }),
            (Settled::Happened { .. }, None) => Err(format!(
                "{key}: sent with several bodies, and no answer says which of them it stands for"
            )),
        }
    }
}

/// Writes of which it is not known whether they took place, by key: one key is one write.
fn unknown(ops: &[Op]) -> BTreeMap<String, Vec<Open>> {
    let is_open = |op: &Op| {
        matches!(op.outcome, None | Some(Outcome::Info { .. })) && op.settled.is_none() && op.key.is_some()
    };
    let mut sends: BTreeMap<&str, Vec<&Op>> =
        ops.iter().filter(|op| is_open(op)).filter_map(|op| Some((op.key.as_deref()?, Vec::new()))).collect();
    for op in ops {
        if let Some(sends) = op.key.as_deref().and_then(|key| sends.get_mut(key)) {
            sends.push(op);
        }
    }
    let open = |sends: Vec<&Op>| {
        let has_one_body = sends.iter().all(|op| op.call == sends[0].call);
        let owner = sends.iter().find(|op| has_one_body || is_let_through(op)).map(|op| &op.call);
        let unanswered = sends.iter().filter(|op| is_open(op));
        unanswered.map(|op| Open { op: op.id, is_owner: owner.map(|call| *call == op.call) }).collect()
    };
    sends.into_iter().map(|(key, sends)| (key.to_owned(), open(sends))).collect()
}

/// Whether its answer speaks of the write, and not of the key alone.
fn is_let_through(op: &Op) -> bool {
    match &op.outcome {
        Some(Outcome::Ok { answer: Answer::Refused { code, .. }, .. }) => {
            code != "key_reused" && code != "abandoned"
        }
        Some(Outcome::Ok { .. }) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Line, Meta};

    fn op(id: u64, sku: &str, outcome: Option<Outcome>) -> Op {
        let call = Call::Receive { lines: vec![Line::new(sku, 1)] };
        let (key, completed) = (Some("k".to_owned()), outcome.is_some().then_some(id));
        Op { id, client: 0, node: 1, key, call, invoked: id, completed, outcome, settled: None }
    }

    fn done() -> Settled {
        Settled::Happened { answer: Answer::Done { log_index: Some(1) } }
    }

    fn lost() -> Option<Outcome> {
        Some(Outcome::Info { reason: "no answer in time".to_owned() })
    }

    fn ok() -> Option<Outcome> {
        Some(Outcome::Ok { answer: Answer::Done { log_index: Some(1) }, meta: Meta::default() })
    }

    /// What each open call of the key gets, when the key turns out to have taken place.
    fn shares(ops: &[Op]) -> Vec<(u64, Result<Settled, String>)> {
        unknown(ops)["k"].iter().map(|open| (open.op, open.share("k", &done()))).collect()
    }

    #[test]
    fn one_body_is_settled_by_its_key_however_often_it_was_sent() {
        let ops = [op(0, "mug", lost()), op(1, "mug", ok()), op(2, "mug", None)];
        assert_eq!(shares(&ops), [(0, Ok(done())), (2, Ok(done()))]);
        assert!(unknown(&[op(0, "mug", ok())]).is_empty(), "nothing is open");
    }

    #[test]
    fn another_body_under_the_key_of_what_took_place_was_refused() {
        let ops = [op(0, "mug", ok()), op(1, "cup", lost()), op(2, "mug", lost())];
        let [(1, Ok(Settled::Happened { answer: Answer::Refused { code, .. } })), (2, own)] =
            &shares(&ops)[..]
        else {
            panic!("{:?}", shares(&ops));
        };
        assert_eq!((code.as_str(), own), ("key_reused", &Ok(done())));
    }

    #[test]
    fn which_of_two_bodies_took_place_is_not_guessed() {
        let ops = [op(0, "mug", lost()), op(1, "cup", lost())];
        assert!(shares(&ops).iter().all(|(_, share)| share.is_err()));
        let open = &unknown(&ops)["k"];
        assert!(open.iter().all(|open| open.share("k", &Settled::Abandoned) == Ok(Settled::Abandoned)));
    }
}
