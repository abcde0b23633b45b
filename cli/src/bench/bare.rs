//! The ceiling: an axum server that parses the same requests, answers the same answers, and does nothing else.

use crate::problem::{Exit, Failure};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path},
    http::{HeaderMap, HeaderName, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use std::{
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
};

/// With this as its first argument `stockctl` is the bare server, and nothing else.
pub const ARGUMENT: &str = "bench-bare-server";
/// As much as the real server takes in a batch.
const MAX_BODY_BYTES: usize = 8 << 20;
/// What a read finds; the bare server keeps no stock.
pub const UNITS: i64 = super::UNITS;
const NOW: &str = "2026-01-01T00:00:00.000Z";

/// The bare server as a process of its own; it ends with this value, or with this process.
pub struct Bare {
    _child: Child,
    /// `host:port`.
    pub host: String,
}

impl Bare {
    /// Starts it on a free port of the loopback interface.
    ///
    /// # Errors
    /// The process cannot be started.
    pub async fn start() -> Result<Self, Failure> {
        let failed =
            |why: String| Failure::local(Exit::Error, "bare_server", "The bare server did not start", why);
        let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let mut child = Command::new(program)
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let line =
            BufReader::new(stdout).lines().next_line().await.map_err(|error| failed(error.to_string()))?;
        let host = line.ok_or_else(|| failed("it said nothing".into()))?;
        Ok(Bare { _child: child, host })
    }
}

/// Serves until stdin ends, which it does when the parent process has gone.
///
/// # Errors
/// No port, or the server failed.
pub async fn serve() -> Result<Exit, Failure> {
    let failed = |error: std::io::Error| {
        Failure::local(Exit::Error, "bare_server", "The bare server failed", error.to_string())
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
    println!("{}", listener.local_addr().map_err(failed)?);
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // Without it small answers may wait for the peer's acknowledgement; the real server sets it too.
        let _ = stream.set_nodelay(true);
    });
    let mut rest = Vec::new();
    tokio::select! {
        served = axum::serve(listener, router()) => served.map_err(failed)?,
        _ = async { tokio::io::stdin().read_to_end(&mut rest).await } => {}
    }
    Ok(Exit::Ok)
}

fn router() -> Router {
    Router::new()
        .route("/v1/orders", post(order))
        .route("/v1/reservations", post(reserve))
        .route("/v1/reservations/{id}/confirm", post(confirm))
        .route("/v1/batch", post(batch))
        .route("/v1/stock/{sku}", get(stock))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lines {
    lines: Vec<Line>,
    ttl_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    sku: String,
    quantity: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    commands: Vec<BatchCommand>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchCommand {
    key: String,
    #[serde(rename = "method")]
    _method: String,
    #[serde(rename = "path")]
    _path: String,
    body: Lines,
}

/// All that the real server says of an order.
#[derive(Serialize)]
struct Order {
    id: String,
    status: &'static str,
    customer_id: Option<String>,
    currency: Option<String>,
    lines: Vec<OrderLine>,
    due_minor: i64,
    paid_minor: i64,
    refund_owed_minor: i64,
    refunded_minor: i64,
    pay_by: Option<String>,
    metadata: Nothing,
    references: [u8; 0],
    cancel_reason: Option<String>,
    created_at: &'static str,
    updated_at: &'static str,
    log_index: u64,
}

#[derive(Serialize)]
struct OrderLine {
    sku: String,
    location: &'static str,
    quantity: u64,
    amount_minor: i64,
    shipped: u64,
    returned: u64,
    cancelled: u64,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct Reservation {
    id: String,
    status: &'static str,
    expires_at: &'static str,
    ttl_ms: u64,
    lines: Vec<HeldLine>,
    created_at: &'static str,
    updated_at: &'static str,
    log_index: u64,
}

#[derive(Serialize)]
struct HeldLine {
    sku: String,
    location: &'static str,
    quantity: u64,
}

#[derive(Serialize)]
struct Outcomes {
    outcomes: Vec<Outcome>,
}

#[derive(Serialize)]
struct Outcome {
    key: String,
    status: u16,
    replayed: bool,
    body: Order,
}

#[derive(Serialize)]
struct Levels {
    #[serde(skip_serializing_if = "Option::is_none")]
    sku: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<&'static str>,
    on_hand: i64,
    reserved: i64,
    allocated: i64,
    available: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    locations: Vec<Levels>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

fn placed(body: Lines) -> Order {
    let log_index = NEXT.fetch_add(1, Ordering::Relaxed);
    let line = |l: Line| OrderLine {
        sku: l.sku,
        location: "main",
        quantity: l.quantity,
        amount_minor: 0,
        shipped: 0,
        returned: 0,
        cancelled: 0,
    };
    Order {
        id: format!("o{log_index:016x}"),
        status: "paid",
        customer_id: None,
        currency: None,
        lines: body.lines.into_iter().map(line).collect(),
        due_minor: 0,
        paid_minor: 0,
        refund_owed_minor: 0,
        refunded_minor: 0,
        pay_by: None,
        metadata: Nothing {},
        references: [],
        cancel_reason: None,
        created_at: NOW,
        updated_at: NOW,
        log_index,
    }
}

fn held(id: String, status: &'static str, body: Lines) -> Reservation {
    let line = |l: Line| HeldLine { sku: l.sku, location: "main", quantity: l.quantity };
    Reservation {
        id,
        status,
        expires_at: NOW,
        ttl_ms: body.ttl_ms.unwrap_or_default(),
        lines: body.lines.into_iter().map(line).collect(),
        created_at: NOW,
        updated_at: NOW,
        log_index: NEXT.fetch_add(1, Ordering::Relaxed),
    }
}

/// With the headers that every answer of the real server has.
fn answer(status: StatusCode, location: Option<String>, body: impl Serialize) -> Response {
    let headers = [
        (HeaderName::from_static("cache-control"), "no-cache"),
        (HeaderName::from_static("stockroom-served-by"), "1"),
        (HeaderName::from_static("stockroom-applied-index"), "123456"),
        (HeaderName::from_static("stockroom-session"), "ASgXhfOXFwa-UUpYdDbd-gIAAAAAAAAABA"),
        (HeaderName::from_static("x-request-id"), "7fdff1874a4ec1717b65bff4e2fcfec5"),
    ];
    let location = location.map(|location| [(HeaderName::from_static("location"), location)]);
    match location {
        Some(location) => (status, headers, location, Json(body)).into_response(),
        None => (status, headers, Json(body)).into_response(),
    }
}

fn key_of(headers: &HeaderMap) -> Option<&str> {
    headers.get("idempotency-key")?.to_str().ok().filter(|key| (1..=128).contains(&key.len()))
}

async fn order(headers: HeaderMap, Json(body): Json<Lines>) -> Response {
    if key_of(&headers).is_none() {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let order = placed(body);
    answer(StatusCode::CREATED, Some(format!("/v1/orders/{}", order.id)), order)
}

async fn reserve(headers: HeaderMap, Json(body): Json<Lines>) -> Response {
    if key_of(&headers).is_none() {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let held = held(format!("r{:016x}", NEXT.load(Ordering::Relaxed)), "held", body);
    answer(StatusCode::CREATED, Some(format!("/v1/reservations/{}", held.id)), held)
}

async fn confirm(headers: HeaderMap, Path(id): Path<String>, Json(_): Json<serde_json::Value>) -> Response {
    if key_of(&headers).is_none() {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let lines = vec![Line { sku: "sku".into(), quantity: 1 }];
    answer(StatusCode::OK, None, held(id, "confirmed", Lines { lines, ttl_ms: None }))
}

async fn batch(Json(body): Json<Batch>) -> Response {
    let one = |c: BatchCommand| Outcome { key: c.key, status: 201, replayed: false, body: placed(c.body) };
    let outcomes = body.commands.into_iter().map(one).collect();
    answer(StatusCode::OK, None, Outcomes { outcomes })
}

async fn stock(Path(sku): Path<String>) -> Response {
    let levels = |sku, location, locations| Levels {
        sku,
        location,
        on_hand: UNITS,
        reserved: 0,
        allocated: 0,
        available: UNITS,
        locations,
    };
    let at_main = levels(None, Some("main"), Vec::new());
    answer(StatusCode::OK, None, levels(Some(sku), None, vec![at_main]))
}
