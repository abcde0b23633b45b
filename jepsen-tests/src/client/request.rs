//! How a call is sent.

use crate::history::{Call, Consistency, Line};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

/// Rows of a page: the most there are.
const PAGE: &str = "1000";

/// The request of a call. SKUs, ids and keys of the harness need no escaping in a path.
pub fn of(http: &Client, base: &str, call: &Call, key: Option<&str>, cursor: Option<&str>) -> RequestBuilder {
    let (method, path, body) = write(call);
    let mut request = http.request(method, format!("{base}/v1{path}"));
    if let Some(body) = body {
        request = request.json(&body);
    }
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    let (query, consistency) = read(call);
    if !query.is_empty() {
        request = request.query(&query);
    }
    if let Some(cursor) = cursor {
        request = request.query(&[("cursor", cursor)]);
    }
    match consistency {
        None => request,
        Some(Consistency::Linearizable) => request.header("Stockroom-Consistency", "linearizable"),
        Some(Consistency::Stale) => request.header("Stockroom-Consistency", "stale"),
        Some(Consistency::Bounded(ms)) => {
            request.header("Stockroom-Consistency", "bounded").header("Stockroom-Max-Staleness-Ms", *ms)
        }
        Some(Consistency::Session(token)) => {
            let request = request.header("Stockroom-Consistency", "session");
            token.iter().fold(request, |request, token| request.header("Stockroom-Session", token))
        }
    }
}

fn write(call: &Call) -> (Method, String, Option<Value>) {
    let post = |path: String, body: Value| (Method::POST, path, Some(body));
    let get = |path: String| (Method::GET, path, None);
    match call {
        Call::PutItem { sku } => (Method::PUT, format!("/items/{sku}"), Some(json!({}))),
        Call::Receive { lines } => post("/stock/receive".to_owned(), json!({ "lines": lines })),
        Call::Transfer { sku, from, to, quantity } => {
            let body = json!({ "sku": sku, "from": from, "to": to, "quantity": quantity });
            post("/stock/transfer".to_owned(), body)
        }
        Call::PlaceOrder { id, lines, reservation_id } => {
            post("/orders".to_owned(), order(id.as_deref(), lines, reservation_id.as_deref()))
        }
        Call::CancelOrder { id } => post(format!("/orders/{id}/cancel"), json!({})),
        Call::Reserve { id, ttl_ms, lines } => {
            post("/reservations".to_owned(), json!({ "id": id, "ttl_ms": ttl_ms, "lines": lines }))
        }
        Call::Confirm { id } => post(format!("/reservations/{id}/confirm"), json!({})),
        Call::CancelReservation { id } => post(format!("/reservations/{id}/cancel"), json!({})),
        Call::Extend { id, ttl_ms } => {
            post(format!("/reservations/{id}/extend"), json!({ "ttl_ms": ttl_ms }))
        }
        Call::ReadStock { .. } => get("/stock".to_owned()),
        Call::ReadMovements { .. } => get("/movements".to_owned()),
        Call::ReadReservation { id, .. } => get(format!("/reservations/{id}")),
        Call::ReadOrder { id, .. } => get(format!("/orders/{id}")),
        Call::ListOrders { .. } => get("/orders".to_owned()),
    }
}

fn order(id: Option<&str>, lines: &[Line], reservation_id: Option<&str>) -> Value {
    let mut body = json!({});
    if let Some(id) = id {
        body["id"] = id.into();
    }
    match reservation_id {
        Some(reservation) => body["reservation_id"] = reservation.into(),
        None => body["lines"] = json!(lines),
    }
    body
}

fn read(call: &Call) -> (Vec<(&str, &str)>, Option<&Consistency>) {
    match call {
        Call::ReadStock { skus, consistency } => {
            (skus.iter().map(|sku| ("sku", sku.as_str())).collect(), Some(consistency))
        }
        Call::ReadMovements { skus, consistency } => {
            let skus = skus.iter().map(|sku| ("sku", sku.as_str()));
            (skus.chain([("limit", PAGE)]).collect(), Some(consistency))
        }
        Call::ReadReservation { consistency, .. } | Call::ReadOrder { consistency, .. } => {
            (Vec::new(), Some(consistency))
        }
        Call::ListOrders { consistency } => (vec![("limit", PAGE)], Some(consistency)),
        _ => (Vec::new(), None),
    }
}
