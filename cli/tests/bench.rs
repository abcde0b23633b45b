//! `stockctl bench` against a shop in memory: what it counts is what was done, and what is wrong is found.

#![allow(clippy::unwrap_used, reason = "clippy knows #[test] functions only, not what they call")]

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    process::{Command, Output},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{net::TcpSocket, time::sleep};

/// What the shop does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
enum Fault {
    #[default]
    None,
    /// The tenth order is acknowledged and forgotten.
    Forgets,
    /// The tenth order is taken off stock twice.
    Doubles,
    /// Every tenth order is done, and answered with 504.
    HidesDone,
    /// Every tenth order is not done, and answered with 504.
    HidesLost,
    /// Every tenth order is refused: 503.
    Refuses,
    /// Checks nothing: sells what is not there.
    Oversells,
    /// As [`Fault::HidesLost`], after a wait of [`LATE`].
    HidesLostLate,
    /// Every tenth order is refused for want of a leader, after a wait of [`LATE`].
    RefusesLate,
    /// An order, and a look at the figures of the node, takes [`SLOW`].
    Slow,
    /// The stock of one SKU is not told before nobody waits for it any more.
    HangsReads,
}

const LATE: Duration = Duration::from_millis(300);
const SLOW: Duration = Duration::from_millis(20);
/// What a client that is told `--timeout-ms 100` waits: a second more.
const GIVEN_UP_MS: f64 = 1_100.0;

#[derive(Default)]
struct Shop {
    fault: Fault,
    /// SKU to on hand, reserved, allocated.
    stock: BTreeMap<String, [i64; 3]>,
    held: HashMap<String, Vec<(String, i64)>>,
    receipts: HashMap<String, (u16, Value)>,
    orders: u64,
    /// How many orders there were at each look at the figures.
    looks: Vec<u64>,
}

type Shared = State<Arc<Mutex<Shop>>>;

fn answer(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (status, [("content-type", "application/json"), ("stockroom-session", "s1")], body.to_string())
        .into_response()
}

fn problem(status: u16, code: &str, definite: bool) -> (u16, Value) {
    (status, json!({"code": code, "definite": definite, "status": status}))
}

fn lines(body: &Value) -> Vec<(String, i64)> {
    let line = |l: &Value| (l["sku"].as_str().unwrap().to_owned(), l["quantity"].as_i64().unwrap());
    body["lines"].as_array().unwrap().iter().map(line).collect()
}

impl Shop {
    fn write(&mut self, key: &str, path: &str, body: &Value) -> (u16, Value) {
        if let Some(known) = self.receipts.get(key) {
            return known.clone();
        }
        let outcome = match path.trim_start_matches("/v1/") {
            "orders" => return self.order(key, body),
            "stock/receive" => {
                lines(body)
                    .into_iter()
                    .for_each(|(sku, units)| self.stock.get_mut(&sku).unwrap()[0] += units);
                (200, json!({}))
            }
            "reservations" => {
                let id = format!("r{}", self.held.len());
                lines(body).iter().for_each(|(sku, units)| self.stock.get_mut(sku).unwrap()[1] += units);
                self.held.insert(id.clone(), lines(body));
                (201, json!({"id": id, "status": "held"}))
            }
            confirm if confirm.ends_with("/confirm") => {
                for (sku, units) in &self.held[confirm.split('/').nth(1).unwrap()] {
                    let levels = self.stock.get_mut(sku).unwrap();
                    (levels[0], levels[1]) = (levels[0] - units, levels[1] - units);
                }
                (200, json!({"status": "confirmed"}))
            }
            item => {
                self.stock.entry(item.strip_prefix("items/").unwrap().to_owned()).or_default();
                (201, json!({}))
            }
        };
        self.receipts.insert(key.to_owned(), outcome.clone());
        outcome
    }

    fn order(&mut self, key: &str, body: &Value) -> (u16, Value) {
        let lines = lines(body);
        self.orders += 1;
        let tenth = self.orders.is_multiple_of(10);
        let times = match self.fault {
            Fault::Refuses if tenth => return problem(503, "overloaded", true),
            Fault::RefusesLate if tenth => return problem(503, "no_leader", true),
            Fault::HidesLost | Fault::HidesLostLate if tenth => {
                return problem(504, "outcome_unknown", false);
            }
            Fault::Forgets if self.orders == 10 => 0,
            Fault::Doubles if self.orders == 10 => 2,
            _ => 1,
        };
        let short = |(sku, units): &(String, i64)| self.stock[sku][0] - self.stock[sku][2] < *units;
        let outcome = if lines.iter().any(short) && self.fault != Fault::Oversells {
            problem(409, "out_of_stock", true)
        } else {
            lines.iter().for_each(|(sku, units)| self.stock.get_mut(sku).unwrap()[2] += units * times);
            (201, json!({"id": format!("o{}", self.orders), "status": "paid"}))
        };
        self.receipts.insert(key.to_owned(), outcome.clone());
        if self.fault == Fault::HidesDone && tenth { problem(504, "outcome_unknown", false) } else { outcome }
    }

    fn levels(&self, sku: &str) -> Value {
        let [on_hand, reserved, allocated] = self.stock[sku];
        json!({"sku": sku, "on_hand": on_hand, "reserved": reserved, "allocated": allocated,
            "available": on_hand - reserved - allocated})
    }
}

async fn write(State(shop): Shared, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let body = serde_json::from_slice(&body).unwrap();
    let (status, body) =
        shop.lock().unwrap().write(headers["idempotency-key"].to_str().unwrap(), uri.path(), &body);
    let fault = shop.lock().unwrap().fault;
    match fault {
        Fault::HidesLostLate | Fault::RefusesLate if status >= 500 => sleep(LATE).await,
        Fault::Slow if uri.path() == "/v1/orders" => sleep(SLOW).await,
        _ => {}
    }
    answer(status, &body)
}

/// 100 bytes of log for each order.
async fn metrics(State(shop): Shared) -> Response {
    let slow = shop.lock().unwrap().fault == Fault::Slow;
    if slow {
        sleep(SLOW * 5).await;
    }
    let mut shop = shop.lock().unwrap();
    let orders = shop.orders;
    shop.looks.push(orders);
    format!("stockroom_log_append_bytes_total {}\n", orders * 100).into_response()
}

async fn batch(State(shop): Shared, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let mut shop = shop.lock().unwrap();
    let outcome = |c: &Value| {
        let (status, body) = shop.write(c["key"].as_str().unwrap(), c["path"].as_str().unwrap(), &c["body"]);
        json!({"key": c["key"], "status": status, "body": body})
    };
    let outcomes: Vec<Value> = body["commands"].as_array().unwrap().iter().map(outcome).collect();
    answer(200, &json!({ "outcomes": outcomes }))
}

async fn abandon(State(shop): Shared, uri: Uri) -> Response {
    let key = uri.path().split('/').nth(3).unwrap().to_owned();
    let abandoned = problem(409, "abandoned", true);
    let (status, body) = shop.lock().unwrap().receipts.entry(key).or_insert(abandoned).clone();
    answer(200, &json!({"status": status, "body": body}))
}

async fn stock(State(shop): Shared, uri: Uri) -> Response {
    let hangs = shop.lock().unwrap().fault == Fault::HangsReads;
    if hangs && uri.query().is_none() {
        sleep(Duration::from_secs(60)).await;
    }
    let shop = shop.lock().unwrap();
    match uri.query() {
        None => answer(200, &shop.levels(uri.path().strip_prefix("/v1/stock/").unwrap())),
        Some(query) => {
            let skus = query.split('&').map(|pair| shop.levels(pair.strip_prefix("sku=").unwrap()));
            answer(200, &json!({"items": skus.collect::<Vec<_>>()}))
        }
    }
}

/// The shop behind one address, for the time of one test.
struct Served {
    endpoint: String,
    shop: Arc<Mutex<Shop>>,
    _runtime: tokio::runtime::Runtime,
}

impl Served {
    fn start(fault: Fault) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let shop = Arc::new(Mutex::new(Shop { fault, ..Shop::default() }));
        let cluster = json!({"cluster_id": "c", "node_id": 1, "leader": 1, "term": 1, "members":
            [{"id": 1, "http_address": endpoint, "role": "voter", "report": null}]});
        let app = Router::new()
            .route("/v1/cluster", get(async move || answer(200, &cluster)))
            .route("/metrics", get(metrics))
            .route("/v1/items/{sku}", put(write))
            .route("/v1/stock/receive", post(write))
            .route("/v1/orders", post(write))
            .route("/v1/reservations", post(write))
            .route("/v1/reservations/{id}/confirm", post(write))
            .route("/v1/batch", post(batch))
            .route("/v1/outcomes/{key}/abandon", post(abandon))
            .route("/v1/stock", get(stock))
            .route("/v1/stock/{sku}", get(stock))
            .with_state(shop.clone());
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Served { endpoint, shop, _runtime: runtime }
    }

    fn bench(&self, args: &[&str]) -> (Output, Value) {
        self.bench_for("0.1", "0.4", args)
    }

    fn bench_for(&self, warmup: &str, time: &str, args: &[&str]) -> (Output, Value) {
        let output = self.run(&self.endpoint, warmup, time, args);
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{args:?}: {error}: {}", String::from_utf8_lossy(&output.stderr));
        });
        (output, report)
    }

    fn run(&self, endpoints: &str, warmup: &str, time: &str, args: &[&str]) -> Output {
        let connections = if args.contains(&"--connections") { &[][..] } else { &["--connections", "4"] };
        Command::new(env!("CARGO_BIN_EXE_stockctl"))
            .env("STOCKROOM_ENDPOINTS", endpoints)
            .args(["-o", "json", "bench", "--skus", "400", "--warmup", warmup, "--time", time])
            .args(connections)
            .args(args)
            .output()
            .unwrap()
    }

    fn allocated(&self) -> i64 {
        self.shop.lock().unwrap().stock.values().map(|levels| levels[2]).sum()
    }
}

#[test]
fn what_was_acknowledged_is_what_the_shop_has() {
    for workload in ["uniform", "hot", "mixed", "real", "batch"] {
        let served = Served::start(Fault::None);
        let (output, report) = served.bench(&["--workload", workload, "--batch-size", "10"]);
        assert_eq!(output.status.code(), Some(0), "{workload}: {report:#}");
        let run = &report["runs"][0];
        assert!(run["measured"]["done"].as_u64().unwrap() > 0, "{report:#}");
        assert_eq!(run["check"]["units_acknowledged"], json!(served.allocated()), "{workload}");
        assert_eq!(run["check"]["units_in_stock"], json!(served.allocated()), "{workload}");
    }
}

#[test]
fn reservations_leave_the_room_and_reads_find_what_was_received() {
    let served = Served::start(Fault::None);
    let levels = "linearizable,session,bounded,stale";
    let (output, report) = served.bench(&["--workload", "reserve,read", "--consistency", levels]);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let names: Vec<&str> =
        report["runs"].as_array().unwrap().iter().map(|run| run["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["reserve", "read linearizable", "read session", "read bounded", "read stale"]);
    assert!(report["runs"][0]["check"]["units_in_stock"].as_i64().unwrap() > 0);
    assert_eq!(report["runs"][1]["check"]["units_in_stock"], json!(0));
}

#[test]
fn one_order_lost_or_doubled_ends_with_8() {
    for (fault, says) in [(Fault::Forgets, "1 units lost"), (Fault::Doubles, "1 units too many")] {
        let served = Served::start(fault);
        let (output, report) = served.bench(&[]);
        assert_eq!(output.status.code(), Some(8), "{fault:?}: {report:#}");
        let check = &report["runs"][0]["check"];
        assert_eq!(check["findings_count"], json!(1), "{check}");
        assert!(check["findings"][0].as_str().unwrap().contains(says), "{check}");
    }
}

#[test]
fn outcomes_that_nobody_knew_are_settled_before_stock_is_counted() {
    for (fault, settled) in [(Fault::HidesDone, "settled_done"), (Fault::HidesLost, "settled_not_done")] {
        let served = Served::start(fault);
        let (output, report) = served.bench_for("0", "0.4", &[]);
        assert_eq!(output.status.code(), Some(0), "{fault:?}: {report:#}");
        let run = &report["runs"][0];
        assert!(run["check"][settled].as_u64().unwrap() > 0, "{fault:?}: {report:#}");
        assert_eq!(run["check"][settled], run["measured"]["unknown"]["outcome_unknown"], "{fault:?}");
        assert_eq!(run["check"]["units_in_stock"], json!(served.allocated()));
    }
}

#[test]
fn a_refusal_is_counted_and_is_no_finding() {
    let served = Served::start(Fault::Refuses);
    let (output, report) = served.bench(&[]);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert!(report["runs"][0]["measured"]["refused"]["overloaded"].as_u64().unwrap() > 0, "{report:#}");
}

#[test]
fn a_sellout_sells_exactly_what_is_there_or_ends_with_8() {
    let sellout = ["--workload", "sellout", "--stock", "30", "--attempts", "200"];
    let served = Served::start(Fault::None);
    let (output, report) = served.bench(&sellout);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let run = &report["runs"][0];
    assert_eq!((&run["measured"]["done"], served.allocated()), (&json!(30), 30));
    assert_eq!(run["measured"]["refused"]["out_of_stock"], json!(170));
    let (output, report) = Served::start(Fault::Oversells).bench(&sellout);
    assert_eq!(output.status.code(), Some(8), "{report:#}");
    assert!(report.to_string().contains("oversold: 200 units sold of 30"), "{report:#}");
}

#[test]
fn an_open_loop_sends_what_is_due_and_a_page_shows_it() {
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("bench.html");
    let served = Served::start(Fault::None);
    let (output, report) = served.bench_for("0.1", "1", &["--rate", "200", "--html", page.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let sent =
        served.shop.lock().unwrap().orders + report["runs"][0]["measured"]["never_sent"].as_u64().unwrap();
    assert!((215..=221).contains(&sent), "{sent} of 1.1 s at 200 a second: {report:#}");
    assert!(std::fs::read_to_string(page).unwrap().contains("<svg "));
}

#[test]
fn the_bare_server_is_measured_in_windows_between() {
    let served = Served::start(Fault::None);
    let workloads = "uniform,reserve,batch,read";
    let (output, report) =
        served.bench(&["--workload", workloads, "--batch-size", "10", "--against-bare", "--rounds", "2"]);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    for run in report["runs"].as_array().unwrap() {
        assert_eq!(run["measured"]["windows_per_s"].as_array().unwrap().len(), 2, "{}", run["name"]);
        assert_eq!(run["bare"]["windows_per_s"].as_array().unwrap().len(), 2, "{}", run["name"]);
        assert_eq!(run["bare"]["refused"], json!({}), "{}", run["name"]);
        assert!(run["bare"]["done"].as_u64().unwrap() > 0, "{}", run["name"]);
    }
}

#[test]
fn what_ended_late_is_in_the_latency_and_what_was_refused_at_once_is_not() {
    let late_ms = LATE.as_secs_f64() * 1000.0;
    for (fault, counted, late) in [
        (Fault::HidesLostLate, ["unknown", "outcome_unknown"], true),
        (Fault::RefusesLate, ["refused", "no_leader"], true),
        (Fault::Refuses, ["refused", "overloaded"], false),
    ] {
        let (output, report) = Served::start(fault).bench_for("0", "0.5", &["--orders", "60"]);
        assert_eq!(output.status.code(), Some(0), "{fault:?}: {report:#}");
        let measured = &report["runs"][0]["measured"];
        assert_eq!(
            (&measured[counted[0]][counted[1]], &measured["done"]),
            (&json!(6), &json!(54)),
            "{report:#}"
        );
        let slowest = |share: &str| measured["latency_ms"][share].as_f64().unwrap();
        assert_eq!(slowest("max") >= late_ms, late, "{fault:?}: {report:#}");
        assert!(slowest("p50") < late_ms, "{fault:?}: {report:#}");
    }
}

#[test]
fn a_read_that_nobody_answers_is_unknown_and_late() {
    let served = Served::start(Fault::HangsReads);
    let (output, report) = served.bench_for("0", "0.2", &["--workload", "read", "--timeout-ms", "100"]);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let measured = &report["runs"][0]["measured"];
    assert_eq!(measured["unknown"], json!({"no_answer_in_time": 4}), "{report:#}");
    assert_eq!(measured["refused"], json!({}), "{report:#}");
    assert!(measured["latency_ms"]["p50"].as_f64().unwrap() >= GIVEN_UP_MS, "{report:#}");
}

#[test]
fn a_counted_window_counts_from_its_begin() {
    let sellout = ["--workload", "sellout", "--stock", "40", "--attempts", "40"];
    for args in [&["--orders", "40"][..], &sellout] {
        let served = Served::start(Fault::Slow);
        let (output, report) = served.bench_for("0.1", "30", args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {report:#}");
        assert_eq!(served.shop.lock().unwrap().looks, [0, 40], "{args:?}: looked at before and after");
        let run = &report["runs"][0];
        assert_eq!(run["nodes"][0]["log_bytes_per_order"], json!(100.0), "{args:?}: {report:#}");
        // Ten orders of each of the four clients, one after the other.
        let (seconds, at_least) = (run["measured"]["seconds"].as_f64().unwrap(), 10.0 * SLOW.as_secs_f64());
        assert!((at_least..at_least + 5.0).contains(&seconds), "{args:?}: {report:#}");
    }
}

/// An address that takes no connection and refuses none: its queue is full.
fn silent() -> (tokio::net::TcpListener, Vec<std::net::TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
    let waiting = std::iter::from_fn(connect).take(1000).collect();
    (listener, waiting)
}

#[test]
fn a_node_that_takes_no_connection_is_unreachable_in_time() {
    let served = Served::start(Fault::None);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (silent, _waiting) = runtime.block_on(async { silent() });
    let endpoints = format!("{},{}", served.endpoint, silent.local_addr().unwrap());
    let begun = Instant::now();
    let output = served.run(&endpoints, "0", "0.2", &["--timeout-ms", "100", "--connections", "16"]);
    let took = begun.elapsed();
    let why = String::from_utf8_lossy(&output.stderr);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {why}"));
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let measured = &report["runs"][0]["measured"];
    assert_eq!(measured["refused"], json!({"unreachable": 8}), "{report:#}");
    assert!(measured["done"].as_u64().unwrap() > 0, "the other node is measured: {report:#}");
    assert!(measured["latency_ms"]["max"].as_f64().unwrap() >= GIVEN_UP_MS, "{report:#}");
    // One wait for all connections, one for the first calls; one after the other there were nine.
    assert!(took < Duration::from_millis(GIVEN_UP_MS as u64 * 6), "{took:?}");
}

#[test]
fn the_nodes_of_another_cluster_are_refused() {
    let served = Served::start(Fault::None);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("nodes.json");
    let run = |cluster_id: Value| {
        let nodes = json!({"cluster_id": cluster_id, "playground_pid": 1, "nodes":
            [{"id": 1, "pid": null, "state": "down", "http": served.endpoint}]});
        std::fs::write(&file, nodes.to_string()).unwrap();
        served.run(&served.endpoint, "0", "0.2", &["--nodes-json", file.to_str().unwrap()])
    };
    let refused = run(json!("other"));
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{why}");
    assert!(why.contains("nodes.json is of cluster other, the endpoints are of cluster c: "), "{why}");
    assert!(why.contains("name the nodes.json of the cluster"), "{why}");
    assert!(served.shop.lock().unwrap().stock.is_empty(), "nothing was begun");
    for same in [json!("c"), Value::Null] {
        assert_eq!(run(same).status.code(), Some(0), "the same cluster, or one that was not formed yet");
    }
}
