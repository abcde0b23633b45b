//! A shop in memory behind three addresses: as much of the HTTP contract as the CLI uses, faults on demand.

#![allow(dead_code, reason = "each test file uses a part of it")]

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::Response,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    process::{Command, Output},
    sync::{Arc, Mutex},
};

/// What goes wrong with the next write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Nothing goes wrong, this time.
    Fine,
    /// 503, `Retry-After: 0`, nothing done.
    Unavailable,
    /// Done, and the connection ends before the answer does.
    LostAnswer,
    /// 504 after it was done.
    DoneUnknown,
    /// 504, and nothing done.
    LostUnknown,
    /// 413 for a `/batch` of more than one command.
    TooLarge,
}

#[derive(Default)]
pub struct Shop {
    pub items: BTreeMap<String, Value>,
    /// (SKU, location) to (on hand, allocated).
    pub stock: BTreeMap<(String, String), (u64, u64)>,
    pub orders: BTreeMap<String, (Value, Value)>,
    pub receipts: HashMap<String, (Value, u16, Value)>,
    pub index: u64,
    pub faults: VecDeque<Fault>,
    /// Node, method, path with query, headers, body.
    pub calls: Vec<(u64, Method, String, HeaderMap, Value)>,
    /// Path to (status, body) of canned answers, per node.
    pub canned: HashMap<(u64, String), (u16, Bytes)>,
    /// Whether calls are logged; a long import would fill the memory.
    pub quiet: bool,
}

pub struct Fake {
    pub shop: Arc<Mutex<Shop>>,
    pub endpoints: Vec<String>,
    _runtime: tokio::runtime::Runtime,
}

impl Fake {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let shop = Arc::new(Mutex::new(Shop { index: 1, ..Shop::default() }));
        let mut endpoints = Vec::new();
        for node in 1..=3 {
            let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
            endpoints.push(format!("http://{}", listener.local_addr().unwrap()));
            let app = axum::Router::new().fallback(answer).with_state((node, shop.clone()));
            runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        }
        Fake { shop, endpoints, _runtime: runtime }
    }

    pub fn shop(&self) -> std::sync::MutexGuard<'_, Shop> {
        self.shop.lock().unwrap()
    }

    pub fn run(&self, args: &[&str]) -> Output {
        stockctl(&self.endpoints.join(","), args)
    }

    /// Runs with `-o json`, expects success, and returns what was printed.
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[&["-o", "json"], args].concat());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn can(&self, node: u64, path: &str, status: u16, body: impl ToString) {
        self.can_bytes(node, path, status, body.to_string().as_bytes());
    }

    pub fn can_bytes(&self, node: u64, path: &str, status: u16, body: &[u8]) {
        self.shop().canned.insert((node, path.into()), (status, Bytes::copy_from_slice(body)));
    }

    /// The sum of what is available, and whether the books are right.
    pub fn available(&self) -> u64 {
        self.shop().stock.values().map(|(on_hand, allocated)| on_hand.checked_sub(*allocated).unwrap()).sum()
    }
}

pub fn stockctl(endpoints: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stockctl"))
        .env("STOCKROOM_ENDPOINTS", endpoints)
        .args(args)
        .output()
        .unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

type Context = (u64, Arc<Mutex<Shop>>);

async fn answer(
    State((node, shop)): State<Context>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut response = answer_of(node, &shop, method, uri, headers, &body);
    response.headers_mut().insert("stockroom-served-by", node.into());
    response
}

fn answer_of(
    node: u64,
    shop: &Mutex<Shop>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: &[u8],
) -> Response {
    let mut shop = shop.lock().unwrap();
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    if !shop.quiet {
        shop.calls.push((node, method.clone(), uri.to_string(), headers.clone(), body.clone()));
    }
    if let Some((status, text)) = shop.canned.get(&(node, uri.path().to_owned())) {
        return respond(*status, text.clone(), 1);
    }
    let fault = if method == Method::GET { None } else { shop.faults.pop_front() };
    let several = body["commands"].as_array().is_some_and(|c| c.len() > 1);
    match fault {
        Some(Fault::Unavailable) => return problem(503, "no_leader", true),
        Some(Fault::LostUnknown) => return problem(504, "outcome_unknown", false),
        Some(Fault::TooLarge) if several => return problem(413, "too_large", true),
        _ => {}
    }
    let (status, answer) = shop.route(&method, &uri, headers.get("idempotency-key"), &body);
    match fault {
        Some(Fault::DoneUnknown) => problem(504, "outcome_unknown", false),
        Some(Fault::LostAnswer) => {
            let cut = futures::stream::iter([Ok(Bytes::from("{")), Err(std::io::Error::other("cut"))]);
            Response::builder().status(status).body(Body::from_stream(cut)).unwrap()
        }
        _ => respond(status, answer.to_string(), shop.index),
    }
}

fn respond(status: u16, body: impl Into<Body>, index: u64) -> Response {
    let kind = if status < 300 { "application/json" } else { "application/problem+json" };
    Response::builder()
        .status(StatusCode::from_u16(status).unwrap())
        .header("content-type", kind)
        .header("stockroom-applied-index", index)
        .header("retry-after", "0")
        .body(body.into())
        .unwrap()
}

fn refusal(status: u16, code: &str, detail: &str) -> (u16, Value) {
    let body = json!({"type": "about:blank", "title": code.replace('_', " "), "status": status, "detail": detail,
        "code": code, "definite": status != 504, "retryable": status >= 500, "next_steps": [], "request_id": "r-1"});
    (status, body)
}

fn problem(status: u16, code: &str, definite: bool) -> Response {
    let (_, mut body) = refusal(status, code, "made up");
    body["definite"] = json!(definite);
    respond(status, body.to_string(), 1)
}

fn query(uri: &Uri, name: &str) -> Vec<String> {
    let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(n, _)| *n == name).map(|(_, value)| decode(value)).collect()
}

fn decode(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push(char::from(u8::from_str_radix(&part[..2], 16).unwrap()));
        out.push_str(&part[2..]);
    }
    out
}

impl Shop {
    fn route(
        &mut self,
        method: &Method,
        uri: &Uri,
        key: Option<&axum::http::HeaderValue>,
        body: &Value,
    ) -> (u16, Value) {
        let path = uri.path();
        match (method.as_str(), path) {
            ("POST", "/v1/batch") => self.batch(body),
            ("POST", "/v1/stock/receive") => match key.and_then(|k| k.to_str().ok()) {
                Some(key) => self.write(key, "POST", path, body),
                None => refusal(400, "missing_key", "Idempotency-Key is missing"),
            },
            ("GET", "/v1/items") => page(self.items.values().cloned().collect(), uri),
            ("GET", "/v1/orders") => {
                page(self.orders.values().map(|(_, answer)| answer.clone()).collect(), uri)
            }
            ("GET", "/v1/stock") => {
                let items: Vec<Value> = query(uri, "sku").iter().map(|sku| self.levels(sku)).collect();
                (200, json!({ "items": items }))
            }
            ("GET", path) if path.starts_with("/v1/orders/") => {
                match self.orders.get(&decode(&path["/v1/orders/".len()..])) {
                    Some((_, answer)) => (200, answer.clone()),
                    None => refusal(404, "unknown_order", "no such order"),
                }
            }
            _ => refusal(404, "unknown_path", path),
        }
    }

    fn levels(&self, sku: &str) -> Value {
        let of = |(location, on_hand, allocated): (&str, u64, u64)| {
            json!({"location": location, "on_hand": on_hand, "reserved": 0, "allocated": allocated,
                "available": on_hand - allocated})
        };
        let range = (sku.to_owned(), String::new())..(format!("{sku}\0"), String::new());
        let at: Vec<_> = self.stock.range(range).map(|((_, l), (h, a))| (l.as_str(), *h, *a)).collect();
        let mut all = of(("", at.iter().map(|l| l.1).sum(), at.iter().map(|l| l.2).sum()));
        all["sku"] = json!(sku);
        all["locations"] = at.into_iter().map(of).collect();
        all
    }

    fn batch(&mut self, body: &Value) -> (u16, Value) {
        let commands = body["commands"].as_array().cloned().unwrap_or_default();
        assert!((1..=1000).contains(&commands.len()));
        let outcome = |c: Value| {
            let text = |name: &str| c[name].as_str().unwrap().to_owned();
            let (status, body) = self.write(&text("key"), &text("method"), &text("path"), &c["body"]);
            json!({"key": c["key"], "status": status, "body": body})
        };
        let outcomes: Vec<Value> = commands.into_iter().map(outcome).collect();
        (200, json!({ "outcomes": outcomes }))
    }

    fn write(&mut self, key: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        if let Some((first, status, answer)) = self.receipts.get(key) {
            return match first == body {
                true => (*status, answer.clone()),
                false => refusal(422, "key_reused", "the key was used for something else"),
            };
        }
        let lines = body["lines"].as_array().cloned().unwrap_or_default();
        if lines.iter().any(|l| !(1..=1_000_000_000).contains(&l["quantity"].as_i64().unwrap_or(0))) {
            return refusal(422, "invalid_quantity", "must be 1 to 1000000000");
        }
        self.index += 1;
        let (status, answer) = match (method, path) {
            ("POST", "/v1/orders") => self.place(body, &lines),
            ("POST", "/v1/stock/receive") => self.receive(&lines),
            ("PUT", path) => self.put(&decode(path.strip_prefix("/v1/items/").unwrap()), body),
            _ => refusal(404, "unknown_path", path),
        };
        self.receipts.insert(key.into(), (body.clone(), status, answer.clone()));
        (status, answer)
    }

    fn put(&mut self, sku: &str, body: &Value) -> (u16, Value) {
        let mut item = body.clone();
        item["sku"] = json!(sku);
        if item["name"].is_null() {
            item["name"] = json!(sku);
        }
        item["retired"] = json!(false);
        item["log_index"] = json!(self.index);
        let new = self.items.insert(sku.into(), item.clone()).is_none();
        (if new { 201 } else { 200 }, item)
    }

    fn unknown(&self, lines: &[Value]) -> Option<(u16, Value)> {
        let unknown = lines.iter().find(|l| !self.items.contains_key(l["sku"].as_str().unwrap()))?;
        Some(refusal(422, "unknown_sku", &format!("no item {}", unknown["sku"])))
    }

    fn receive(&mut self, lines: &[Value]) -> (u16, Value) {
        assert!(lines.len() <= 500);
        if let Some(refusal) = self.unknown(lines) {
            return refusal;
        }
        for line in lines {
            self.stock.entry(pair(line)).or_default().0 += line["quantity"].as_u64().unwrap();
        }
        (200, json!({"lines": lines, "log_index": self.index}))
    }

    fn place(&mut self, body: &Value, lines: &[Value]) -> (u16, Value) {
        let id = body["id"].as_str().unwrap().to_owned();
        if let Some((first, answer)) = self.orders.get(&id) {
            return if first == body {
                (200, answer.clone())
            } else {
                refusal(409, "id_taken", "other contents")
            };
        }
        if let Some(refusal) = self.unknown(lines) {
            return refusal;
        }
        let mut needs: BTreeMap<(String, String), u64> = BTreeMap::new();
        for line in lines {
            *needs.entry(pair(line)).or_default() += line["quantity"].as_u64().unwrap();
        }
        let free =
            |p: &(String, String)| self.stock.get(p).map_or(0, |(on_hand, allocated)| on_hand - allocated);
        if let Some(((sku, location), _)) = needs.iter().find(|(pair, need)| free(pair) < **need) {
            return refusal(409, "out_of_stock", &format!("{sku} at {location} is short"));
        }
        for (pair, need) in needs {
            self.stock.get_mut(&pair).unwrap().1 += need;
        }
        let mut answer = body.clone();
        answer["status"] = json!("placed");
        answer["log_index"] = json!(self.index);
        self.orders.insert(id, (body.clone(), answer.clone()));
        (201, answer)
    }
}

fn pair(line: &Value) -> (String, String) {
    (line["sku"].as_str().unwrap().into(), line["location"].as_str().unwrap_or("main").into())
}

fn page(all: Vec<Value>, uri: &Uri) -> (u16, Value) {
    let limit: usize = query(uri, "limit").first().map_or(50, |l| l.parse().unwrap());
    let from: usize = query(uri, "cursor").first().map_or(0, |c| c.parse().unwrap());
    let next = (from + limit < all.len()).then(|| (from + limit).to_string());
    let items: Vec<Value> = all.into_iter().skip(from).take(limit).collect();
    (200, json!({"items": items, "next_cursor": next}))
}
