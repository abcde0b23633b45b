//! One HTTP client over all nodes: which one to ask, and when to ask again.
//!
//! Every write carries an idempotency key, so asking again is always safe, on any node: what was
//! committed answers again as it did. What decides how a call ends is only whether an earlier
//! attempt may have gone through: if one may have, giving up means "outcome unknown", never "failed".

use crate::problem::{Exit, Failure};
use bytes::Bytes;
use rand::Rng;
use reqwest::{Method, Response, header::HeaderMap};
use serde_json::Value;
use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How long a node that could not be reached is passed over while others can be asked.
const AVOID_FOR: Duration = Duration::from_secs(1);
/// The first wait between attempts; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// Long enough not to trouble a cluster that elects, short enough to notice soon when it has.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// What our own time-out allows beyond the deadline that the server is told, so that its answer
/// ("outcome unknown, and here is what to do") still arrives.
const GRACE: Duration = Duration::from_secs(1);

/// One request, to be sent as often as it takes.
#[derive(Debug, Clone)]
pub struct Call {
    /// `GET`, `POST` or `PATCH`.
    pub method: Method,
    /// Path and query, from `/` on.
    pub path: String,
    /// JSON.
    pub body: Option<Bytes>,
    /// The idempotency key of a single write. `/batch` has its keys inside.
    pub key: Option<String>,
    /// Further headers, such as the read level.
    pub headers: Vec<(&'static str, String)>,
    /// The node that is asked; an answer of another is none.
    pub node: Option<u64>,
}

impl Call {
    /// A read.
    pub fn get(path: impl Into<String>) -> Self {
        Call {
            method: Method::GET,
            path: path.into(),
            body: None,
            key: None,
            headers: Vec::new(),
            node: None,
        }
    }

    /// A write, or a `/batch` of them.
    pub fn post(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Call {
            method: Method::POST,
            path: path.into(),
            body: Some(body.into()),
            key: None,
            headers: Vec::new(),
            node: None,
        }
    }

    /// A write that changes what is named and leaves the rest.
    pub fn patch(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Call { method: Method::PATCH, ..Call::post(path, body) }
    }

    /// With an idempotency key.
    #[must_use]
    pub fn key(mut self, key: String) -> Self {
        self.key = Some(key);
        self
    }

    /// For this node alone: at its address another one may answer.
    #[must_use]
    pub fn of_node(mut self, node: u64) -> Self {
        self.node = Some(node);
        self
    }

    fn writes(&self) -> bool {
        self.method != Method::GET
    }
}

/// A success.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What was said.
    pub body: Bytes,
    /// Who said it, and how fresh it is.
    pub headers: HeaderMap,
    /// Which endpoint was asked.
    pub endpoint: String,
}

impl Answer {
    /// The body as JSON of a known shape.
    ///
    /// # Errors
    /// The answer is not what the contract promises.
    pub fn parse<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| Failure::contract(&self.endpoint, error))
    }

    /// The body as any JSON.
    ///
    /// # Errors
    /// It is no JSON.
    pub fn json(&self) -> Result<Value, Failure> {
        self.parse()
    }

    /// A header that is a number.
    pub fn number(&self, header: &str) -> Option<u64> {
        number(&self.headers, header)
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

struct Endpoint {
    url: String,
    /// Milliseconds since the client was made, up to which others are asked first.
    avoid_until_ms: AtomicU64,
}

/// Asks the nodes in turn, and again until there is an answer or no hope.
pub struct Client {
    http: reqwest::Client,
    endpoints: Vec<Endpoint>,
    next: AtomicUsize,
    timeout: Duration,
    give_up_after: Duration,
    made: Instant,
    /// Milliseconds since the client was made at which any call last succeeded. Calls give up only
    /// when *nothing* goes on: a slow cluster is not a dead one.
    progress_ms: AtomicU64,
    stop: watch::Sender<bool>,
}

/// Why one attempt did not succeed.
struct Miss {
    failure: Failure,
    again: bool,
    /// The write may have happened, or may still happen.
    perhaps: bool,
    /// Where there was no connection at all.
    unreachable: bool,
    /// The server's wish.
    retry_after: Option<Duration>,
}

impl Client {
    /// A client for these nodes (base URLs).
    ///
    /// # Errors
    /// An endpoint is no `http://` address.
    pub fn new(endpoints: &[String], timeout: Duration, give_up_after: Duration) -> Result<Self, Failure> {
        let urls: Vec<String> = endpoints.iter().map(|e| base_url(e)).collect::<Result<_, _>>()?;
        if urls.is_empty() {
            return Err(Failure::local(
                Exit::Usage,
                "usage",
                "No endpoint",
                "name at least one with --endpoints",
            ));
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .user_agent(concat!("stockctl/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(timeout.min(Duration::from_secs(2)))
            .build()
            .map_err(|error| Failure::local(Exit::Error, "client", "No HTTP client", error.to_string()))?;
        // Several stockctl at once should not all begin at the same node.
        let first = rand::rng().random_range(0..urls.len());
        let endpoints =
            urls.into_iter().map(|url| Endpoint { url, avoid_until_ms: AtomicU64::new(0) }).collect();
        Ok(Client {
            http,
            endpoints,
            next: AtomicUsize::new(first),
            timeout,
            give_up_after,
            made: Instant::now(),
            progress_ms: AtomicU64::new(0),
            stop: watch::Sender::new(false),
        })
    }

    /// The nodes' base URLs.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.endpoints.iter().map(|e| e.url.as_str())
    }

    /// Asks all calls to end: none is sent again.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Whether [`Client::stop`] was called.
    pub fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Resolves once [`Client::stop`] was called.
    pub async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        stop.wait_for(|stop| *stop).await.expect("the sender lives in self");
    }

    /// Sends until there is an answer.
    ///
    /// # Errors
    /// A refusal of the server, at once; what last went wrong, when nothing has gone on for
    /// `give_up_after`; "outcome unknown" in its place, where a write may have gone through.
    pub async fn call(&self, call: &Call) -> Result<Answer, Failure> {
        let begun = self.now_ms();
        let mut perhaps = false;
        let mut wait = FIRST_WAIT;
        loop {
            let endpoint = self.pick();
            let miss = match self.attempt(&endpoint.url, call).await {
                Ok(answer) => {
                    endpoint.avoid_until_ms.store(0, Ordering::Relaxed);
                    self.progress_ms.fetch_max(self.now_ms(), Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(miss) => miss,
            };
            perhaps |= miss.perhaps && call.writes();
            if miss.unreachable {
                endpoint
                    .avoid_until_ms
                    .store(self.now_ms() + AVOID_FOR.as_millis() as u64, Ordering::Relaxed);
            }
            if !miss.again {
                return Err(miss.failure);
            }
            let progress = begun.max(self.progress_ms.load(Ordering::Relaxed));
            let still_ms = self.now_ms().saturating_sub(progress);
            if still_ms >= self.give_up_after.as_millis() as u64 || self.stopping() {
                return Err(self.give_up(call, miss.failure, perhaps));
            }
            let pause = match miss.retry_after {
                Some(wish) => wish.min(self.give_up_after).max(wait),
                None => wait,
            };
            let jitter = pause.mul_f64(rand::rng().random_range(0.0..0.5));
            tokio::select! {
                () = tokio::time::sleep(pause + jitter) => {}
                () = self.stopped() => {}
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Sends once, to this endpoint and no other.
    ///
    /// # Errors
    /// Whatever it says or does not say.
    pub async fn ask(&self, endpoint: &str, call: &Call) -> Result<Answer, Failure> {
        self.attempt(endpoint, call).await.map_err(|miss| {
            let unknown = miss.perhaps && call.writes();
            if unknown { self.give_up(call, miss.failure, true) } else { miss.failure }
        })
    }

    /// Opens an answer that goes on for long. `idle` is how long it may be silent.
    ///
    /// # Errors
    /// No success to read from.
    pub async fn open(&self, endpoint: &str, call: &Call, idle: Duration) -> Result<Response, Failure> {
        let request = self.request(endpoint, call);
        let sent = tokio::time::timeout(idle, request.send()).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(lost(endpoint, call, &error).failure),
            Err(_) => return Err(unavailable(endpoint, "no answer in time")),
        };
        if response.status().is_success() {
            by_the_one_asked(endpoint, call, true, response.headers())?;
            return Ok(response);
        }
        Err(read(endpoint, call, response).await.err().map_or_else(
            || Failure::contract(endpoint, "neither a success nor an error"),
            |miss| miss.failure,
        ))
    }

    fn now_ms(&self) -> u64 {
        self.made.elapsed().as_millis() as u64
    }

    fn pick(&self) -> &Endpoint {
        let now = self.now_ms();
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let ring = (0..self.endpoints.len()).map(|i| &self.endpoints[(start + i) % self.endpoints.len()]);
        let until = |e: &Endpoint| e.avoid_until_ms.load(Ordering::Relaxed).max(now);
        ring.min_by_key(|e| until(e)).expect("there is at least one endpoint")
    }

    fn request(&self, endpoint: &str, call: &Call) -> reqwest::RequestBuilder {
        let mut request = self.http.request(call.method.clone(), format!("{endpoint}{}", call.path));
        if let Some(body) = &call.body {
            request = request.header("Content-Type", "application/json").body(body.clone());
        }
        if let Some(key) = &call.key {
            request = request.header("Idempotency-Key", key);
        }
        call.headers.iter().fold(request, |request, (name, value)| request.header(*name, value))
    }

    async fn attempt(&self, endpoint: &str, call: &Call) -> Result<Answer, Miss> {
        let request = self
            .request(endpoint, call)
            .header("Stockroom-Timeout-Ms", self.timeout.as_millis().to_string())
            .timeout(self.timeout + GRACE);
        match request.send().await {
            Ok(response) => read(endpoint, call, response).await,
            Err(error) => Err(lost(endpoint, call, &error)),
        }
    }

    fn give_up(&self, call: &Call, last: Failure, perhaps: bool) -> Failure {
        if !perhaps {
            return if self.stopping() { interrupted() } else { last };
        }
        let detail = format!(
            "{} {} was sent, and no answer says whether it happened. Last: {}",
            call.method, call.path, last.problem.detail
        );
        let mut failure = Failure::local(Exit::Unknown, "outcome_unknown", "Outcome unknown", detail);
        failure.problem.request_id = last.problem.request_id;
        failure.problem.next_steps = last.problem.next_steps;
        failure.step("run the same command again: nothing is done twice")
    }
}

/// The end that Ctrl-C asks for.
pub fn interrupted() -> Failure {
    Failure::local(Exit::Error, "interrupted", "Stopped", "stopped before the end")
        .step("run the same command again: it goes on, and nothing is done twice")
}

fn unavailable(endpoint: &str, why: &str) -> Failure {
    Failure::local(Exit::Unavailable, "unreachable", "No answer", format!("{endpoint}: {why}"))
        .step("check --endpoints (or STOCKROOM_ENDPOINTS), and that the nodes run: stockctl status")
}

fn lost(endpoint: &str, call: &Call, error: &reqwest::Error) -> Miss {
    let unreachable = error.is_connect();
    let why = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source()).last();
    let why = if error.is_timeout() {
        "no answer in time".into()
    } else {
        why.map(ToString::to_string).unwrap_or_default()
    };
    // A request that cannot be built will not get better; anything on the wire may.
    let again = !error.is_builder();
    Miss {
        failure: unavailable(endpoint, &why),
        again,
        perhaps: call.writes() && !unreachable && again,
        unreachable: true,
        retry_after: None,
    }
}

async fn read(endpoint: &str, call: &Call, response: Response) -> Result<Answer, Miss> {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let success = (200..300).contains(&status);
    if let Err(failure) = by_the_one_asked(endpoint, call, success, &headers) {
        let (again, perhaps, unreachable) = (false, false, false);
        return Err(Miss { failure, again, perhaps, unreachable, retry_after: None });
    }
    let body = match response.bytes().await {
        Ok(body) => body,
        Err(error) => return Err(lost(endpoint, call, &error)),
    };
    if success {
        return Ok(Answer { body, headers, endpoint: endpoint.to_owned() });
    }
    let mut failure = Failure::answered(endpoint, status, &header("x-request-id"), &body);
    if !call.writes() && failure.exit == Exit::Unknown {
        failure.exit = Exit::Unavailable; // a read has no outcome that could be unknown
    }
    Err(Miss {
        again: status == 429 || status == 408 || status >= 500,
        perhaps: !failure.problem.definite && (status >= 500 || status == 408),
        unreachable: false,
        retry_after: header("retry-after").parse().ok().map(Duration::from_secs),
        failure,
    })
}

/// Whether the node answered that was asked, where it had to be a certain one. What is no node, such as a proxy, may say
/// that there is no answer, and nothing else.
fn by_the_one_asked(endpoint: &str, call: &Call, success: bool, headers: &HeaderMap) -> Result<(), Failure> {
    let Some(asked) = call.node else { return Ok(()) };
    match number(headers, "stockroom-served-by") {
        Some(by) if by != asked => {
            let why = format!(
                "{endpoint} is the address that node {asked} advertises, and node {by} answers there"
            );
            Err(Failure::local(Exit::Error, "unexpected_answer", "Another node answers", why).step(format!(
                "set http_advertise of node {asked} to the address at which clients reach its HTTP, and restart it"
            )))
        }
        None if success => Err(Failure::contract(endpoint, "it does not say which node it is of")),
        _ => Ok(()),
    }
}

/// `host:port` or `http://host:port/`, as `http://host:port`.
///
/// # Errors
/// Anything else; there is no TLS in this client.
pub fn base_url(text: &str) -> Result<String, Failure> {
    let text = text.trim();
    let host = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let usage =
        |why: &str| Failure::local(Exit::Usage, "usage", "Not an endpoint", format!("{text:?}: {why}"));
    if host.contains("://") {
        return Err(usage("only http:// addresses can be asked"));
    }
    if host.is_empty() || host.contains(['/', ' ', '?', '#']) {
        return Err(usage("an endpoint looks like http://127.0.0.1:8081"));
    }
    Ok(format!("http://{host}"))
}

/// A name as one segment of a path, or as a value in a query.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_http_addresses() {
        assert_eq!(base_url("127.0.0.1:8081").unwrap(), "http://127.0.0.1:8081");
        assert_eq!(base_url(" http://a:1/ ").unwrap(), "http://a:1");
        for bad in ["https://a:1", "", "http://", "a/b"] {
            assert_eq!(base_url(bad).unwrap_err().exit, Exit::Usage, "{bad}");
        }
    }

    #[test]
    fn another_nodes_answer_is_refused() {
        let by = |node: Option<u64>| {
            node.map(|node| ("stockroom-served-by".parse().unwrap(), node.into())).into_iter().collect()
        };
        let check = |call: Call, success, node| by_the_one_asked("http://a", &call, success, &by(node));
        assert!(check(Call::get("/"), true, Some(1)).is_ok(), "any node will do");
        let of_2 = || Call::get("/").of_node(2);
        assert!(check(of_2(), true, Some(2)).is_ok());
        for success in [true, false] {
            let why = check(of_2(), success, Some(1)).unwrap_err().problem.detail;
            assert_eq!(why, "http://a is the address that node 2 advertises, and node 1 answers there");
        }
        assert!(check(of_2(), true, None).is_err(), "no node answers without its id");
        assert!(check(of_2(), false, None).is_ok(), "a proxy's refusal is shown as it is");
    }

    #[test]
    fn names_survive_being_part_of_a_path() {
        assert_eq!(encode("P1-a.b_c~"), "P1-a.b_c~");
        assert_eq!(encode("a b/c?&#%+"), "a%20b%2Fc%3F%26%23%25%2B");
    }
}
