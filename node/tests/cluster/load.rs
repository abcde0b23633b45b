//! Clients that place orders all the time and try the next node on a refusal: what a shop does while nodes come and go.

use crate::harness::{Cluster, Orders, Server, until};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Clients at a time.
const CLIENTS: usize = 8;
/// A refusal by all nodes, one after the other, again and again for so long, is a failed request.
const GIVES_UP_AFTER: Duration = Duration::from_secs(5);

/// What clients did: orders they had acknowledged, when each was answered, and what failed.
#[derive(Default)]
pub struct Seen {
    pub orders: Orders,
    pub answered: Vec<Instant>,
    pub refusals: usize,
    failed: Vec<String>,
}

/// As an HTTP client with a list of nodes does it.
struct Client {
    http: reqwest::Client,
    nodes: Vec<String>,
}

/// One try at one node.
enum Tried {
    Acknowledged(Value),
    /// It was definitely not done here: the next node may do it.
    Refused,
    /// Neither done nor not done, or refused for good.
    Failed(String),
}

impl Client {
    async fn try_at(&self, node: usize, id: &str) -> Tried {
        let body = json!({"id": id, "lines": [{"sku": "mug", "quantity": 1}]});
        let request = self
            .http
            .post(format!("http://{}/v1/orders", self.nodes[node % self.nodes.len()]))
            .header("Idempotency-Key", format!("key-{id}"))
            .timeout(Duration::from_secs(6))
            .json(&body);
        let answer = match request.send().await {
            Ok(answer) => answer,
            // Nobody listens: nothing was sent.
            Err(error) if error.is_connect() => return Tried::Refused,
            Err(error) => return Tried::Failed(format!("{id}: {error:?}")),
        };
        let status = answer.status().as_u16();
        let body: Value = match answer.json().await {
            Ok(body) => body,
            Err(error) => return Tried::Failed(format!("{id}: {status}, then {error:?}")),
        };
        match status {
            200 | 201 => Tried::Acknowledged(body),
            429 | 503 if body["definite"] == true => Tried::Refused,
            _ => Tried::Failed(format!("{id}: {status} {body}")),
        }
    }

    /// Orders until told to stop.
    async fn run(&self, number: usize, stop: &AtomicBool) -> Seen {
        let (mut seen, mut node) = (Seen::default(), number);
        for at in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (id, begun) = (format!("c{number}-{at}"), Instant::now());
            loop {
                match self.try_at(node, &id).await {
                    Tried::Acknowledged(order) => {
                        seen.answered.push(Instant::now());
                        seen.orders.insert(id, order);
                        break;
                    }
                    Tried::Refused if begun.elapsed() < GIVES_UP_AFTER => {
                        seen.refusals += 1;
                        node += 1;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Tried::Refused => {
                        seen.failed.push(format!("{id}: refused by all for {GIVES_UP_AFTER:?}"));
                        break;
                    }
                    Tried::Failed(why) => {
                        seen.failed.push(why);
                        break;
                    }
                }
            }
        }
        seen
    }
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Load {
    /// Starts them, all of them before this returns. There are mugs enough.
    pub async fn start(cluster: &Cluster) -> Self {
        cluster.stock_mugs(10_000_000).await;
        let client = Arc::new(Client {
            http: reqwest::Client::builder().no_proxy().build().expect("a client"),
            nodes: cluster.nodes.iter().map(|node: &Server| node.http.clone()).collect(),
        });
        let (stop, running) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let start = |number| {
            let (client, stop, running) = (Arc::clone(&client), Arc::clone(&stop), Arc::clone(&running));
            tokio::spawn(async move {
                running.fetch_add(1, Ordering::Relaxed);
                client.run(number, &stop).await
            })
        };
        let clients = (0..CLIENTS).map(start).collect();
        until("all clients run", || async { (running.load(Ordering::Relaxed) == CLIENTS).then_some(()) })
            .await;
        Load { stop, clients }
    }

    /// Ends them. No request of theirs has failed.
    pub async fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for seen in futures::future::join_all(self.clients).await {
            let seen = seen.expect("no panic");
            all.orders.extend(seen.orders);
            all.answered.extend(seen.answered);
            all.failed.extend(seen.failed);
            all.refusals += seen.refusals;
        }
        all.answered.sort_unstable();
        assert_eq!(all.failed, Vec::<String>::new(), "of {} orders", all.orders.len());
        all
    }
}

/// All that was acknowledged is there, on every node and nothing else; a part of it is looked at one by one.
pub async fn assert_all_there(cluster: &Cluster, orders: Orders) {
    let (count, every) = (orders.len(), (orders.len() / 200).max(1));
    let some: Orders = orders.into_iter().step_by(every).collect();
    cluster.assert_equal().await;
    for node in &cluster.nodes {
        let (_, stock) = until("the stock", || node.get("/v1/stock/mug")).await;
        assert_eq!(stock["allocated"].as_u64(), Some(count as u64), "{stock}");
    }
    for (id, acknowledged) in &some {
        let path = format!("/v1/orders/{id}");
        let (_, kept) = until(&path, || cluster.nodes[1].get(&path)).await;
        assert_eq!(&kept, acknowledged);
    }
    cluster.assert_audits_clean().await;
}
