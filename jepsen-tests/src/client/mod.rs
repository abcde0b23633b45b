//! One call over HTTP, and what its answer means.
//!
//! `request` says how a call is sent, `answer` what came back. Between them lies what decides whether
//! the harness is honest: which answers are certain, and of what.

mod answer;
mod request;

use crate::history::{Answer, Call, Meta, NodeId, Outcome, Settled};
use answer::Reply;
use rand::Rng as _;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Copies of requests under way at most; beyond it none are made.
const COPIES_AT_ONCE: usize = 256;
/// Pages of one list at most; a list that does not end is broken.
const PAGES: usize = 10_000;

/// What goes wrong between a client and its node above TCP: a middlebox or an impatient library that sends
/// a request twice. Set by a nemesis, obeyed by every client.
#[derive(Debug, Default)]
pub struct Mischief {
    /// How many of 1,000 writes are sent a second time.
    pub duplicate_permille: AtomicU32,
    /// The second copy goes to a random node up to this many milliseconds later; its answer is dropped.
    pub late_ms: AtomicU32,
    /// Copies sent so far.
    pub copies: AtomicU64,
}

/// Makes calls. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    nodes: Arc<RwLock<BTreeMap<NodeId, String>>>,
    timeout: Duration,
    mischief: Arc<Mischief>,
    copies: Arc<Semaphore>,
}

impl Client {
    /// A client that reaches nodes at these addresses (`host:port`) and waits this long for each answer.
    ///
    /// # Errors
    /// Where no HTTP client can be made.
    pub fn new(
        nodes: BTreeMap<NodeId, String>,
        timeout: Duration,
        mischief: Arc<Mischief>,
    ) -> anyhow::Result<Client> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            // A request that was sent twice behind our back would be a call that the history does not have.
            .retry(reqwest::retry::never())
            .build()?;
        let copies = Arc::new(Semaphore::new(COPIES_AT_ONCE));
        Ok(Client { http, nodes: Arc::new(RwLock::new(nodes)), timeout, mischief, copies })
    }

    /// Where a node is reached that came to the cluster later.
    pub fn add_node(&self, id: NodeId, address: String) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).insert(id, address);
    }

    fn base(&self, node: NodeId) -> Option<String> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(&node).map(|address| format!("http://{address}"))
    }

    /// Makes one call.
    pub async fn call(&self, node: NodeId, key: Option<&str>, call: &Call) -> Outcome {
        let is_copied = key.is_some_and(|key| call.is_write() && self.maybe_copy(key, call));
        let made = match call {
            Call::ListOrders { .. } => self.list(node, call).await,
            _ => self.send(node, key, call, None).await.map(|reply| answer::outcome(node, call, &reply)),
        };
        let outcome = made.unwrap_or_else(|broken| broken.outcome(call));
        if is_copied { beside_a_copy(outcome) } else { outcome }
    }

    /// One request. It always ends, at the time-out at the latest.
    async fn send(
        &self,
        node: NodeId,
        key: Option<&str>,
        call: &Call,
        cursor: Option<&str>,
    ) -> Result<Reply, Broken> {
        let Some(base) = self.base(node) else {
            return Err(Broken::before("the node is not known".to_owned()));
        };
        // The server should say "not in time" itself, so it gets a little less than we wait.
        let server_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX) * 9 / 10;
        let request =
            request::of(&self.http, &base, call, key, cursor).header("Stockroom-Timeout-Ms", server_ms);
        let answer = request.timeout(self.timeout).send().await.map_err(|error| Broken::of(&error))?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.bytes().await.map_err(|error| Broken::after(&error))?;
        Ok(Reply { status, headers, body })
    }

    /// All pages. What it says of its index is of the first page: later ones may be newer.
    async fn list(&self, node: NodeId, call: &Call) -> Result<Outcome, Broken> {
        let (mut orders, mut first, mut cursor): (Vec<_>, Option<Meta>, Option<String>) =
            (Vec::new(), None, None);
        for _ in 0..PAGES {
            let reply = self.send(node, None, call, cursor.as_deref()).await?;
            match answer::outcome(node, call, &reply) {
                Outcome::Ok { answer: Answer::Orders { items }, meta } => {
                    orders.extend(items);
                    first.get_or_insert(meta);
                }
                other => return Ok(other),
            }
            cursor = answer::next_cursor(&reply);
            if let (None, Some(meta)) = (&cursor, &first) {
                return Ok(Outcome::Ok { answer: Answer::Orders { items: orders }, meta: meta.clone() });
            }
        }
        Ok(Outcome::Info { reason: format!("contract: a list of orders does not end after {PAGES} pages") })
    }

    /// Asks once what became of a key, and makes sure that nothing comes of it any more if nothing did.
    ///
    /// # Errors
    /// Why it is not known yet; ask again, also another node.
    pub async fn settle(&self, node: NodeId, key: &str) -> Result<Settled, String> {
        let base = self.base(node).ok_or("the node is not known")?;
        let ask = async {
            let request = self.http.post(format!("{base}/v1/outcomes/{key}/abandon"));
            let answer = request.send().await.map_err(|error| error.to_string())?;
            let status = answer.status().as_u16();
            let body = answer.text().await.map_err(|error| error.to_string())?;
            if status != 200 {
                return Err(format!("{status}: {body}"));
            }
            let body: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
            answer::settled(&body).ok_or_else(|| format!("contract: not a settled outcome: {body}"))
        };
        tokio::time::timeout(self.timeout, ask).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    /// With the probability that a nemesis has set, sends a write once more: late, to any node, under its key.
    /// Says whether it does.
    fn maybe_copy(&self, key: &str, call: &Call) -> bool {
        let permille = self.mischief.duplicate_permille.load(Ordering::Relaxed);
        if permille == 0 {
            return false;
        }
        // Not of the run's seed: which request is doubled depends on how far the run is anyway.
        let mut rng = rand::rng();
        let late_ms = self.mischief.late_ms.load(Ordering::Relaxed);
        let late = Duration::from_millis(rng.random_range(0..=late_ms).into());
        let nodes: Vec<NodeId> =
            self.nodes.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        if rng.random_range(0..1_000) >= permille || nodes.is_empty() {
            return false;
        }
        let node = nodes[rng.random_range(0..nodes.len())];
        let Ok(permit) = self.copies.clone().try_acquire_owned() else { return false };
        let (client, key, call) = (self.clone(), key.to_owned(), call.clone());
        tokio::spawn(async move {
            let _permit = permit;
            tokio::time::sleep(late).await;
            let sent = client.send(node, Some(&key), &call, None);
            if sent.await.is_ok() {
                client.mischief.copies.fetch_add(1, Ordering::Relaxed);
            }
        });
        true
    }
}

/// What is known of a write of which a copy is under way: that this request was refused at the door says
/// nothing of the other. What the shop decided is decided for both.
fn beside_a_copy(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Fail { status, code } => {
            Outcome::Info { reason: format!("{status} {code}, but a copy may have been let through") }
        }
        decided_or_unknown => decided_or_unknown,
    }
}

/// A request that got no whole answer.
#[derive(Debug)]
struct Broken {
    why: String,
    /// No connection was made, so nothing was sent.
    before: bool,
}

impl Broken {
    fn before(why: String) -> Self {
        Broken { why, before: true }
    }

    fn of(error: &reqwest::Error) -> Self {
        Broken { why: chain(error), before: error.is_connect() || error.is_builder() }
    }

    fn after(error: &reqwest::Error) -> Self {
        Broken { why: chain(error), before: false }
    }

    fn outcome(self, call: &Call) -> Outcome {
        if self.before { Outcome::Fail { status: 0, code: self.why } } else { unanswered(call, self.why) }
    }
}

/// What nobody answered: a write may have happened, a read changed nothing.
fn unanswered(call: &Call, why: String) -> Outcome {
    if call.is_write() { Outcome::Info { reason: why } } else { Outcome::Fail { status: 0, code: why } }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    /// A client of one node that nobody is.
    fn client(mischief: Mischief) -> Client {
        // Bound and dropped: nothing listens there.
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = closed.local_addr().expect("it is bound").to_string();
        let nodes = BTreeMap::from([(1, address)]);
        Client::new(nodes, Duration::from_millis(500), Arc::new(mischief)).expect("a client")
    }

    fn put() -> Call {
        Call::PutItem { sku: "mug".to_owned() }
    }

    #[tokio::test]
    async fn what_could_not_be_sent_failed() {
        let outcome = client(Mischief::default()).call(1, Some("k"), &put()).await;
        assert!(matches!(outcome, Outcome::Fail { status: 0, .. }), "{outcome:?}");
        let nobody = client(Mischief::default()).call(9, Some("k"), &put()).await;
        assert!(matches!(nobody, Outcome::Fail { status: 0, .. }), "{nobody:?}");
    }

    #[tokio::test]
    async fn a_refusal_beside_a_copy_says_nothing_of_the_copy() {
        let all = Mischief { duplicate_permille: AtomicU32::new(1_000), ..Mischief::default() };
        let outcome = client(all).call(1, Some("k"), &put()).await;
        assert!(matches!(outcome, Outcome::Info { .. }), "{outcome:?}");
    }

    #[tokio::test]
    async fn what_was_sent_and_never_answered_is_unknown_of_a_write_only() {
        // The kernel takes the connection; nobody ever reads it.
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let nodes = BTreeMap::from([(1, silent.local_addr().expect("it is bound").to_string())]);
        let client = Client::new(nodes, Duration::from_millis(200), Arc::default()).expect("a client");
        let write = client.call(1, Some("k"), &put()).await;
        assert!(matches!(&write, Outcome::Info { reason } if !reason.starts_with("contract:")), "{write:?}");
        let look = Call::ListOrders { consistency: crate::history::Consistency::Stale };
        let read = client.call(1, None, &look).await;
        assert!(matches!(read, Outcome::Fail { status: 0, .. }), "{read:?}");
    }
}
