//! Requests to the nodes: whom to ask, how long to wait, when to ask again.

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a node may take to answer a request that it should answer at once.
const LOOK_WITHIN: Duration = Duration::from_millis(800);
/// First pause after a refusal; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(160);

/// One write of a batch.
#[derive(Debug, Clone, Serialize)]
pub struct Command {
    /// Idempotency key: sent again with the same key, it happens once.
    pub key: String,
    /// Method of the call.
    pub method: &'static str,
    /// Path of the call.
    pub path: String,
    /// Its body.
    pub body: Value,
}

/// What a node answered to one write.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Outcome {
    /// The write's key.
    pub key: String,
    /// Status of the call.
    pub status: u16,
    /// Whether it was answered before.
    #[serde(default)]
    pub replayed: bool,
    /// Body of the answer.
    pub body: Value,
}

impl Outcome {
    /// Done, or refused for good; otherwise the same key has to be sent again.
    fn is_settled(&self) -> bool {
        !matches!(self.status, 429 | 500 | 502 | 503 | 504)
    }

    /// Whether it was done.
    pub fn is_done(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

#[derive(Deserialize)]
struct Outcomes {
    outcomes: Vec<Outcome>,
}

/// A node that did not answer is asked last for so long.
const AVOID_FOR: Duration = Duration::from_secs(3);

/// Talks to all nodes of a cluster.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    endpoints: Vec<String>,
    /// How long a node may take to settle a batch before another is asked.
    patience: Duration,
    /// When each node last gave no answer at all.
    silent: Arc<Mutex<Vec<Option<Instant>>>>,
}

/// Where the next batch goes first.
static NEXT: AtomicUsize = AtomicUsize::new(0);

impl Client {
    /// A client of the nodes at these addresses.
    ///
    /// # Errors
    /// Where the HTTP client cannot be made.
    pub fn new(addresses: impl IntoIterator<Item = String>) -> anyhow::Result<Self> {
        // A proxy set for the outside world must not see what stays on this machine.
        let http = reqwest::Client::builder().no_proxy().build().context("HTTP client")?;
        let endpoints: Vec<_> = addresses.into_iter().map(|address| format!("http://{address}")).collect();
        let silent = Arc::new(Mutex::new(vec![None; endpoints.len()]));
        Ok(Client { http, endpoints, patience: Duration::from_millis(4_000), silent })
    }

    /// The same, asking another node already after `patience`.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Client { patience, ..self }
    }

    /// The first node from `first` on that answered when it was last asked; `first` itself where none did.
    fn answering(&self, first: usize) -> usize {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let recently = |node: usize| silent[node].is_some_and(|at| at.elapsed() < AVOID_FOR);
        (first..first + self.nodes()).find(|node| !recently(node % self.nodes())).unwrap_or(first)
            % self.nodes()
    }

    fn note(&self, node: usize, answered: bool) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent[node] = (!answered).then(Instant::now);
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether the node at this place answers 200 to `path` now.
    pub async fn is_ok(&self, node: usize, path: &str) -> bool {
        let request = self.http.get(format!("{}{path}", self.endpoints[node])).timeout(LOOK_WITHIN);
        matches!(request.send().await, Ok(answer) if answer.status().is_success())
    }

    /// A quick look that may fail.
    ///
    /// # Errors
    /// Where the node does not answer 200 in time.
    pub async fn look(&self, node: usize, path: &str) -> anyhow::Result<Value> {
        let request = self.http.get(format!("{}{path}", self.endpoints[node])).timeout(LOOK_WITHIN);
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// A counter of `/metrics` that has no labels.
    pub async fn counter(&self, node: usize, name: &str) -> Option<u64> {
        let request = self.http.get(format!("{}/metrics", self.endpoints[node])).timeout(LOOK_WITHIN);
        let text = request.send().await.ok()?.error_for_status().ok()?.text().await.ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// Reads from one node, and asks it again until `deadline`.
    ///
    /// # Errors
    /// What the node answered last.
    pub async fn read(&self, node: usize, path: &str, deadline: Instant) -> anyhow::Result<Value> {
        loop {
            let url = format!("{}{path}", self.endpoints[node]);
            let failure = match self.http.get(&url).timeout(Duration::from_secs(10)).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(answer.json().await?),
                Ok(answer) => format!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()),
                Err(error) => format!("{:#}", anyhow::Error::from(error)),
            };
            ensure!(Instant::now() < deadline, "GET {url}: {failure}");
            sleep(LONGEST_PAUSE).await;
        }
    }

    /// The whole text of an answer that is streamed.
    ///
    /// # Errors
    /// Where the node does not answer 200, or stops in between.
    pub async fn post_for_text(&self, node: usize, path: &str, within: Duration) -> anyhow::Result<String> {
        let url = format!("{}{path}", self.endpoints[node]);
        let request = self.http.post(&url).json(&serde_json::json!({})).timeout(within);
        let answer = request.send().await.with_context(|| format!("POST {url}"))?;
        let status = answer.status();
        let text = answer.text().await.with_context(|| format!("POST {url}"))?;
        ensure!(status.is_success(), "POST {url}: {status}: {text}");
        Ok(text)
    }

    /// Sends writes until each is settled, with the same keys, to whichever node answers.
    ///
    /// # Errors
    /// Where some are not settled by `deadline`, or a node says that the batch itself is wrong.
    pub async fn settle(&self, commands: &[Command], deadline: Instant) -> anyhow::Result<Vec<Outcome>> {
        self.settle_from(NEXT.fetch_add(1, Ordering::Relaxed), commands, deadline).await
    }

    /// The same, with a node to ask first.
    ///
    /// # Errors
    /// As [`Client::settle`].
    pub async fn settle_from(
        &self,
        first: usize,
        commands: &[Command],
        deadline: Instant,
    ) -> anyhow::Result<Vec<Outcome>> {
        let mut settled: Vec<Option<Outcome>> = vec![None; commands.len()];
        let (mut node, mut pause) = (first, FIRST_PAUSE);
        loop {
            let open: Vec<usize> = (0..commands.len()).filter(|&at| settled[at].is_none()).collect();
            if open.is_empty() {
                return Ok(settled.into_iter().flatten().collect());
            }
            let batch: Vec<&Command> = open.iter().map(|&at| &commands[at]).collect();
            node = self.answering(node);
            let failure = match self.send(node, &batch).await? {
                Ok(outcomes) => {
                    let refused = outcomes.iter().find(|o| !o.is_settled()).map(|o| o.body.to_string());
                    for (at, outcome) in open.into_iter().zip(outcomes) {
                        settled[at] = Some(outcome).filter(Outcome::is_settled);
                    }
                    refused.unwrap_or_default()
                }
                Err(failure) => failure,
            };
            ensure!(Instant::now() < deadline, "writes are not settled: {failure}");
            if !failure.is_empty() {
                node += 1;
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// One try: outcomes, or why it may be tried again.
    async fn send(&self, node: usize, batch: &[&Command]) -> anyhow::Result<Result<Vec<Outcome>, String>> {
        let url = format!("{}/v1/batch", self.endpoints[node]);
        let body = serde_json::json!({ "commands": batch });
        let patience_ms = self.patience.as_millis().to_string();
        let request = self.http.post(&url).json(&body).header("Stockroom-Timeout-Ms", patience_ms);
        // The client waits a little longer than the node, which knows more than a time-out tells.
        let sent = request.timeout(self.patience + Duration::from_millis(500)).send().await;
        self.note(node, sent.is_ok());
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(format!("{:#}", anyhow::Error::from(error)))),
        };
        let status = answer.status().as_u16();
        let text = match answer.text().await {
            Ok(text) => text,
            Err(error) => return Ok(Err(format!("{:#}", anyhow::Error::from(error)))),
        };
        match status {
            200 => {
                let Outcomes { outcomes } = serde_json::from_str(&text).context("the answer of a batch")?;
                let same = outcomes.iter().map(|o| &o.key).eq(batch.iter().map(|c| &c.key));
                ensure!(same, "the outcomes of a batch are not those of its commands");
                Ok(Ok(outcomes))
            }
            429 | 500..=504 => Ok(Err(format!("{status}: {text}"))),
            _ => bail!("POST {url}: {status}: {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::extract::State;
    use axum::{Json, Router, http::StatusCode, routing::post};
    use serde_json::json;
    use std::collections::BTreeMap;

    /// How often each key came, and what to answer to the n-th time.
    #[derive(Clone)]
    struct Fake {
        seen: Arc<Mutex<BTreeMap<String, usize>>>,
        status: fn(&str, usize) -> u16,
    }

    async fn batch(State(fake): State<Fake>, Json(body): Json<Value>) -> (StatusCode, Json<Value>) {
        let mut outcomes = Vec::new();
        for command in body["commands"].as_array().expect("commands") {
            let key = command["key"].as_str().expect("a key");
            let mut seen = fake.seen.lock().expect("not poisoned");
            let times = seen.entry(key.to_owned()).or_default();
            *times += 1;
            outcomes.push(json!({"key": key, "status": (fake.status)(key, *times), "body": {}}));
        }
        let whole = if outcomes.is_empty() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        (whole, Json(json!({ "outcomes": outcomes })))
    }

    async fn fake(status: fn(&str, usize) -> u16) -> (String, Fake) {
        let fake = Fake { seen: Arc::default(), status };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let router = Router::new().route("/v1/batch", post(batch)).with_state(fake.clone());
        tokio::spawn(async { axum::serve(listener, router).await });
        (address, fake)
    }

    fn commands(keys: &[&str]) -> Vec<Command> {
        let command = |key: &&str| Command {
            key: (*key).into(),
            method: "POST",
            path: "/v1/orders".into(),
            body: json!({}),
        };
        keys.iter().map(command).collect()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn only_what_is_not_settled_is_sent_again_and_the_order_is_kept() {
        let status = |key: &str, times: usize| match (key, times) {
            ("late", 1) => 503,
            ("late", 2) => 504,
            ("refused", _) => 409,
            _ => 201,
        };
        let (address, fake) = fake(status).await;
        let client = Client::new([address]).expect("a client");
        let outcomes =
            client.settle(&commands(&["first", "late", "refused"]), soon()).await.expect("settled");
        let answers: Vec<_> = outcomes.iter().map(|o| (o.key.as_str(), o.status)).collect();
        assert_eq!(answers, [("first", 201), ("late", 201), ("refused", 409)]);
        let seen = fake.seen.lock().expect("not poisoned").clone();
        assert_eq!(seen, BTreeMap::from([("first".into(), 1), ("late".into(), 3), ("refused".into(), 1)]));
    }

    #[tokio::test]
    async fn a_node_that_is_down_is_passed_over() {
        let down = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let nowhere = down.local_addr().expect("bound").to_string();
        drop(down);
        let (address, _) = fake(|_, _| 201).await;
        let client = Client::new([nowhere, address]).expect("a client");
        let outcomes = client.settle_from(0, &commands(&["a"]), soon()).await.expect("settled");
        assert!(outcomes[0].is_done());
        assert_eq!(client.answering(0), 1, "the next batch goes to the other node at once");
    }

    #[tokio::test]
    async fn what_is_never_settled_is_an_error_at_the_deadline() {
        let (address, _) = fake(|_, _| 503).await;
        let client = Client::new([address]).expect("a client");
        let deadline = Instant::now() + Duration::from_millis(200);
        let told = client.settle(&commands(&["a"]), deadline).await.expect_err("never settled").to_string();
        assert!(told.contains("not settled"), "{told}");
    }
}
