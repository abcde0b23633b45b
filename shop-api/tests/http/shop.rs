//! A client that believes no answer before it has checked it against the OpenAPI document.

use crate::node::{self, Node};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::BodyExt;
use jsonschema::Validator;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use stockroom_shop_api::{Api, Limits, WholeRequest, openapi_document, router};
use tower::ServiceExt;

/// One node's HTTP surface.
pub struct Shop {
    pub api: Api,
    pub node: Option<Node>,
    router: Router,
    keys: AtomicU64,
}

/// An answer that agrees with the document.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
    /// Null where the body is not JSON.
    pub body: Value,
}

impl Answer {
    fn new(status: u16, headers: HeaderMap, bytes: Bytes) -> Self {
        let is_json = headers.get("content-type").is_some_and(|kind| {
            matches!(kind.to_str().unwrap(), "application/json" | "application/problem+json")
        });
        let body = if is_json { serde_json::from_slice(&bytes).unwrap() } else { Value::Null };
        Answer { status, headers, bytes, body }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap_or("(not text)")
    }

    /// The answer itself, if it has this status.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// The answer itself, if it is this refusal.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self.body["code"].as_str()), (status, Some(code)), "{}", self.text());
        self
    }

    /// Whether a write was answered from its receipt.
    pub fn replayed(&self) -> bool {
        self.headers.contains_key("idempotency-replayed")
    }

    /// The body without what differs in a replay.
    pub fn lasting(&self) -> Value {
        let mut body = self.body.clone();
        if let Some(body) = body.as_object_mut() {
            body.remove("request_id");
        }
        body
    }
}

impl Shop {
    pub async fn open() -> Self {
        Shop::with_limits(Limits::default()).await
    }

    pub async fn with_limits(limits: Limits) -> Self {
        Shop::taking(8_192, limits).await
    }

    /// One whose node takes so many proposals at once.
    pub async fn taking(proposals_in_flight: usize, limits: Limits) -> Self {
        let node = node::start(proposals_in_flight).await;
        let mut shop = Shop::before_joining(limits);
        shop.api.serve(node.cluster.clone());
        shop.node = Some(node);
        shop
    }

    /// A node that is not a member of a cluster yet.
    pub fn before_joining(limits: Limits) -> Self {
        let api = Api::new(limits, 1);
        let router = router(api.clone());
        Shop { api, node: None, router, keys: AtomicU64::new(0) }
    }

    /// A key that no other write of this shop has.
    pub fn new_key(&self) -> String {
        format!("key-{}", self.keys.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends exactly this.
    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let body: Bytes = body.into();
        let answer = match self.by_short_way(method, path, headers, &body).await {
            Some(answer) => answer,
            None => self.by_router(method, path, headers, body.clone()).await,
        };
        check(method, path, &body, &answer, self.node.is_some());
        answer
    }

    /// `None` where only the router takes it.
    pub async fn by_short_way(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Answer> {
        let sent = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        let request = WholeRequest::new(method, path, sent)?;
        let mut out = Vec::new();
        self.api.answer(request, body, &mut out).await;
        Some(parse(&out))
    }

    pub async fn by_router(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.into())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, stream) = response.into_parts();
        let bytes = stream.collect().await.unwrap().to_bytes();
        Answer::new(parts.status.as_u16(), parts.headers, bytes)
    }

    pub async fn write(&self, method: &str, path: &str, key: &str, body: Value) -> Answer {
        self.write_with(method, path, &[("idempotency-key", key)], body).await
    }

    pub async fn write_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> Answer {
        let headers = [headers, &[("content-type", "application/json")]].concat();
        self.raw(method, path, &headers, body.to_string()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.write("POST", path, &self.new_key(), body).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.write("PUT", path, &self.new_key(), body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.raw("GET", path, &[], "").await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.raw("GET", path, headers, "").await
    }

    /// Makes items, each with so many units at `main`.
    pub async fn stocked(&self, items: &[(&str, u64)]) {
        for (sku, units) in items {
            self.put(&format!("/v1/items/{sku}"), json!({"price": {"amount_minor": 250, "currency": "EUR"}}))
                .await
                .is(201);
            if *units > 0 {
                let lines = json!({"lines": [{"sku": sku, "quantity": units}]});
                self.post("/v1/stock/receive", lines).await.is(200);
            }
        }
    }

    /// (on hand, reserved, allocated, available) of a SKU.
    pub async fn counters(&self, sku: &str) -> [u64; 4] {
        let stock = self.get(&format!("/v1/stock/{sku}")).await.is(200).body;
        ["on_hand", "reserved", "allocated", "available"].map(|name| stock[name].as_u64().unwrap())
    }
}

/// An answer as it stands on the wire: nothing before it, nothing behind it.
fn parse(wire: &[u8]) -> Answer {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = response.parse(wire).unwrap().unwrap();
    let pair = |header: &httparse::Header<'_>| {
        (header.name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(header.value).unwrap())
    };
    let mut headers = HeaderMap::new();
    for (name, value) in response.headers.iter().map(pair) {
        assert!(headers.insert(&name, value).is_none(), "{name} stands twice");
    }
    let length = headers.get("content-length").map_or(0, |value| value.to_str().unwrap().parse().unwrap());
    assert_eq!(wire.len() - head, length, "{}", String::from_utf8_lossy(wire));
    assert!(headers.contains_key("date"));
    Answer::new(response.code.unwrap(), headers, Bytes::copy_from_slice(&wire[head..]))
}

pub static DOCUMENT: LazyLock<Value> = LazyLock::new(openapi_document);

/// The document's schemas, closed: what is not described must not be answered.
static CLOSED: LazyLock<Value> = LazyLock::new(|| {
    let mut components = DOCUMENT["components"].clone();
    for schema in components["schemas"].as_object_mut().unwrap().values_mut() {
        close(schema);
    }
    components
});

fn close(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(close),
        Value::Object(map) => {
            let has_fields = map.get("properties").is_some_and(Value::is_object);
            if has_fields && !map.contains_key("additionalProperties") {
                map.insert("additionalProperties".into(), false.into());
            }
            map.values_mut().for_each(close);
        }
        _ => {}
    }
}

type Validators = Mutex<HashMap<String, Arc<Validator>>>;
static VALIDATORS: LazyLock<Validators> = LazyLock::new(Validators::default);

fn validator(schema: &Value) -> Arc<Validator> {
    let mut validators = VALIDATORS.lock().unwrap();
    let make = || {
        let root = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "allOf": [schema],
            "components": *CLOSED,
        });
        Arc::new(jsonschema::validator_for(&root).unwrap())
    };
    validators.entry(schema.to_string()).or_insert_with(make).clone()
}

#[track_caller]
pub fn validate(schema: &Value, instance: &Value, what: &str) {
    let errors: Vec<String> =
        validator(schema).iter_errors(instance).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{what} does not fit the document: {errors:#?}\n{instance:#}");
}

/// The document's description of a call, or `None` for a path or method that it does not have.
pub fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let path: Vec<&str> = path.split('?').next().unwrap().split('/').collect();
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let fits = |template: &str| {
        let form: Vec<&str> = template.split('/').collect();
        form.len() == path.len()
            && form
                .iter()
                .zip(&path)
                .all(|(form, segment)| form.starts_with('{') && !segment.is_empty() || form == segment)
    };
    let method = if method == "HEAD" { "get".into() } else { method.to_ascii_lowercase() };
    let found = paths.iter().filter(|(template, _)| fits(template)).map(|(_, calls)| &calls[&method]);
    found.into_iter().find(|call| call.is_object())
}

fn check(method: &str, path: &str, sent: &[u8], answer: &Answer, member: bool) {
    let what = format!("{method} {path} -> {} {}", answer.status, answer.text());
    assert!(!answer.header("x-request-id").is_empty(), "{what}");
    let Some(operation) = operation(method, path) else {
        assert!(matches!(answer.status, 404 | 405), "not described, yet answered: {what}");
        validate(&json!({"$ref": "#/components/schemas/Problem"}), &answer.body, &what);
        return;
    };
    let response = &operation["responses"][answer.status.to_string()];
    assert!(response.is_object(), "no such answer is described: {what}");
    check_headers(path, response, answer, member, &what);

    let kind = answer.header("content-type").split(';').next().unwrap();
    let content = &response["content"];
    if content.is_null() {
        assert!(answer.bytes.is_empty() && kind.is_empty(), "{what}");
    } else {
        assert!(content[kind].is_object(), "no such media type is described: {kind} in {what}");
        match kind {
            "application/x-ndjson" => {
                for line in answer.text().lines() {
                    validate(&content[kind]["schema"], &serde_json::from_str(line).unwrap(), &what);
                }
            }
            _ if !answer.body.is_null() => validate(&content[kind]["schema"], &answer.body, &what),
            _ => {}
        }
    }
    check_problem(answer, &what);
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    if answer.status < 300 && schema.is_object() && !sent.is_empty() {
        validate(schema, &serde_json::from_slice(sent).unwrap(), "a body that was taken");
    }
}

fn check_headers(path: &str, response: &Value, answer: &Answer, member: bool, what: &str) {
    let described = response["headers"].as_object().unwrap();
    let ours = |name: &str| {
        name.starts_with("stockroom-")
            || matches!(name, "x-request-id" | "etag" | "location" | "retry-after" | "idempotency-replayed")
    };
    for name in answer.headers.keys().map(|name| name.as_str()).filter(|name| ours(name)) {
        // What a node says of itself is on every answer; only what belongs to the call is described.
        let of_the_node = !path.starts_with("/v1") && name.starts_with("stockroom-");
        let found = described.keys().any(|header| header.eq_ignore_ascii_case(name));
        assert!(found || of_the_node, "the header {name} is not described: {what}");
    }
    let always: &[&str] = match (path.starts_with("/v1"), member) {
        (true, true) => &["stockroom-served-by", "stockroom-applied-index", "stockroom-session"],
        _ => &["stockroom-served-by"],
    };
    for name in always {
        assert!(!answer.header(name).is_empty(), "the header {name} is missing: {what}");
    }
}

fn check_problem(answer: &Answer, what: &str) {
    if answer.header("content-type") != "application/problem+json" {
        assert!(answer.status < 400 || answer.status == 503, "an error is not a problem: {what}");
        return;
    }
    assert_eq!(answer.body["status"], answer.status, "{what}");
    assert_eq!(answer.body["request_id"], answer.header("x-request-id"), "{what}");
    let retry_after = answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1);
    assert_eq!(retry_after, matches!(answer.status, 429 | 503), "{what}");
    assert_eq!(answer.body["retry_after_s"].as_u64(), answer.header("retry-after").parse().ok(), "{what}");
    assert_eq!(answer.body["definite"], answer.status != 504 && answer.status != 500, "{what}");
}
