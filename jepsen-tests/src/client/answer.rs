//! What an answer means.
//!
//! | what came | a write | a read |
//! |---|---|---|
//! | 200, 201 with the body of the contract | `ok` | `ok` |
//! | a problem that the shop decided ([`DECIDED`]) | `ok`, refused: it is in the log, a retry hears it again | `ok`, refused: it is not there |
//! | any other problem with `definite: true` | `fail`: not done, and never will be | `fail` |
//! | a problem with `definite: false` | `info` | `fail` |
//! | time-out, reset, half an answer | `info` | `fail` |
//! | no connection | `fail` | `fail` |
//! | anything that the contract does not know | `info`, `contract: ...`: a violation | the same |

use crate::history::{
    Answer, Call, Counters, Line, Meta, MovementSeen, NodeId, OrderSeen, Outcome, ReservationSeen, Settled,
    Shortage, StockSeen,
};
use bytes::Bytes;
use reqwest::header::HeaderMap;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use xxhash_rust::xxh3::xxh3_64;

/// Codes of what the shop decides, as against what is refused at the door. A decision depends on the state
/// and is kept under the key.
pub const DECIDED: &[&str] = &[
    "abandoned",
    "below_promised",
    "id_taken",
    "item_not_found",
    "item_retired",
    "key_reused",
    "mixed_currency",
    "no_such_line",
    "nothing_left",
    "on_hand_differs",
    "order_not_found",
    "out_of_range",
    "out_of_stock",
    "reservation_not_found",
    "too_late",
    "too_many_references",
    "too_much",
    "unknown_sku",
    "version_differs",
    "wrong_state",
];

/// What came over the wire.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// An answer that the contract does not know.
fn breach(reply: &Reply, what: &str) -> Outcome {
    const SHOWN: usize = 300;
    let body = String::from_utf8_lossy(&reply.body[..reply.body.len().min(SHOWN)]);
    Outcome::Info { reason: format!("contract: {what}; {} {body}", reply.status) }
}

/// What a whole answer of this node means.
pub fn outcome(node: NodeId, call: &Call, reply: &Reply) -> Outcome {
    let Ok(mut body) = serde_json::from_slice::<Value>(&reply.body) else {
        return breach(reply, "the body is not JSON");
    };
    let meta = match meta(reply, &mut body) {
        Ok(meta) => meta,
        Err(what) => return breach(reply, what),
    };
    // A write is answered by the node that decided it, wherever it was sent.
    if !call.is_write() && meta.served_by.is_some_and(|by| by != node) {
        return breach(reply, "Stockroom-Served-By names another node than was asked");
    }
    match reply.status {
        200 | 201 => match read(call, &body) {
            Some(answer) if !is_of(call, &answer) => breach(reply, "an answer to another question"),
            Some(answer) => Outcome::Ok { answer, meta },
            None => breach(reply, "the body is not what the call answers"),
        },
        400..=599 => problem(call, reply, &body, meta),
        _ => breach(reply, "a status that the contract does not have"),
    }
}

fn problem(call: &Call, reply: &Reply, body: &Value, meta: Meta) -> Outcome {
    let (Some(code), Some(definite)) = (body["code"].as_str(), body["definite"].as_bool()) else {
        return breach(reply, "an error without `code` and `definite`");
    };
    if body["status"] != reply.status || body["next_steps"].as_array().is_none_or(Vec::is_empty) {
        return breach(reply, "an error with another status, or without `next_steps`");
    }
    if definite && DECIDED.contains(&code) {
        return match refused(reply.status, body) {
            Some(answer) => Outcome::Ok { answer, meta },
            None => breach(reply, "shortages that cannot be read"),
        };
    }
    match (definite, call.is_write()) {
        (true, _) | (false, false) => Outcome::Fail { status: reply.status, code: code.to_owned() },
        (false, true) => Outcome::Info { reason: format!("{} {code}", reply.status) },
    }
}

/// What the headers say, and the sum of the body; takes the request's own id out of the body.
fn meta(reply: &Reply, body: &mut Value) -> Result<Meta, &'static str> {
    let text = |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok());
    let number = |name: &str| text(name).and_then(|text| text.parse::<u64>().ok());
    if text("x-request-id").is_none() {
        return Err("no X-Request-Id");
    }
    let is_success = reply.status < 300;
    let meta = Meta {
        status: reply.status,
        served_by: number("stockroom-served-by"),
        applied_index: number("stockroom-applied-index"),
        staleness_ms: number("stockroom-staleness-ms"),
        session: text("stockroom-session").map(str::to_owned),
        replayed: text("idempotency-replayed") == Some("true"),
        body_hash: 0,
    };
    if is_success && (meta.served_by.is_none() || meta.applied_index.is_none() || meta.session.is_none()) {
        return Err("no Stockroom-Served-By, Stockroom-Applied-Index or Stockroom-Session");
    }
    if let Some(fields) = body.as_object_mut() {
        fields.remove("request_id");
    }
    Ok(Meta { body_hash: xxh3_64(body.to_string().as_bytes()), ..meta })
}

/// The body of a success, by the call that it answers.
fn read(call: &Call, body: &Value) -> Option<Answer> {
    match call {
        Call::ReadStock { .. } => list(body, stock).map(|items| Answer::Stock { items }),
        // A history that does not fit one page is not whole: the workload has to keep them shorter.
        Call::ReadMovements { .. } if !body["next_cursor"].is_null() => None,
        Call::ReadMovements { .. } => list(body, movement).map(|items| Answer::Movements { items }),
        Call::ListOrders { .. } => list(body, order).map(|items| Answer::Orders { items }),
        Call::ReadOrder { .. } | Call::PlaceOrder { .. } | Call::CancelOrder { .. } => {
            order(body).map(Answer::Order)
        }
        Call::ReadReservation { .. }
        | Call::Reserve { .. }
        | Call::Confirm { .. }
        | Call::CancelReservation { .. }
        | Call::Extend { .. } => reservation(body).map(Answer::Reservation),
        Call::PutItem { .. } | Call::Receive { .. } | Call::Transfer { .. } => done(body),
    }
}

/// Whether it speaks of what was asked: all of it, and nothing else.
fn is_of(call: &Call, answer: &Answer) -> bool {
    match (call, answer) {
        (Call::ReadStock { skus, .. }, Answer::Stock { items }) => {
            let asked: BTreeSet<&str> = skus.iter().map(String::as_str).collect();
            items.len() == asked.len()
                && items.iter().map(|item| item.sku.as_str()).collect::<BTreeSet<_>>() == asked
        }
        (Call::ReadMovements { skus, .. }, Answer::Movements { items }) => {
            items.iter().all(|movement| skus.contains(&movement.sku))
        }
        (
            Call::PlaceOrder { id: Some(id), .. } | Call::CancelOrder { id } | Call::ReadOrder { id, .. },
            Answer::Order(order),
        ) => order.id == *id,
        (
            Call::Reserve { id, .. }
            | Call::Confirm { id }
            | Call::CancelReservation { id }
            | Call::Extend { id, .. }
            | Call::ReadReservation { id, .. },
            Answer::Reservation(reservation),
        ) => reservation.id == *id,
        _ => true,
    }
}

fn done(body: &Value) -> Option<Answer> {
    Some(Answer::Done { log_index: Some(body["log_index"].as_u64()?) })
}

/// Where the next page of a list begins.
pub fn next_cursor(reply: &Reply) -> Option<String> {
    let body: Value = serde_json::from_slice(&reply.body).ok()?;
    body["next_cursor"].as_str().map(str::to_owned)
}

/// What `POST /outcomes/{key}/abandon` says became of a write. The kept body is known by its shape.
pub fn settled(body: &Value) -> Option<Settled> {
    let (status, kept) = (u16::try_from(body["status"].as_u64()?).ok()?, &body["body"]);
    if kept["code"] == "abandoned" {
        return Some(Settled::Abandoned);
    }
    let answer = if status >= 400 {
        refused(status, kept)?
    } else if kept["due_minor"].is_u64() {
        Answer::Order(order(kept)?)
    } else if kept["expires_at"].is_string() {
        Answer::Reservation(reservation(kept)?)
    } else {
        done(kept)?
    };
    Some(Settled::Happened { answer })
}

fn refused(status: u16, body: &Value) -> Option<Answer> {
    let shortages = match &body["shortages"] {
        Value::Null => Vec::new(),
        given => given.as_array()?.iter().map(shortage).collect::<Option<_>>()?,
    };
    Some(Answer::Refused { status, code: body["code"].as_str()?.to_owned(), shortages })
}

fn shortage(body: &Value) -> Option<Shortage> {
    Some(Shortage {
        sku: text(body, "sku")?,
        location: text(body, "location")?,
        requested: body["requested"].as_u64()?,
        available: body["available"].as_u64()?,
    })
}

fn text(body: &Value, name: &str) -> Option<String> {
    body[name].as_str().map(str::to_owned)
}

fn list<T>(body: &Value, item: fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    body["items"].as_array()?.iter().map(item).collect()
}

fn counters(body: &Value) -> Option<Counters> {
    Some(Counters {
        on_hand: body["on_hand"].as_u64()?,
        reserved: body["reserved"].as_u64()?,
        allocated: body["allocated"].as_u64()?,
        available: body["available"].as_u64()?,
    })
}

fn stock(body: &Value) -> Option<StockSeen> {
    let locations = body["locations"].as_array()?;
    let locations = locations.iter().map(|place| Some((text(place, "location")?, counters(place)?)));
    let locations = locations.collect::<Option<BTreeMap<_, _>>>()?;
    Some(StockSeen { sku: text(body, "sku")?, total: counters(body)?, locations })
}

fn movement(body: &Value) -> Option<MovementSeen> {
    let cause = body["cause"].as_object()?.values().next()?.as_str()?;
    Some(MovementSeen {
        sku: text(body, "sku")?,
        location: text(body, "location")?,
        kind: text(body, "kind")?,
        quantity: body["quantity"].as_i64()?,
        on_hand_after: body["on_hand_after"].as_u64()?,
        reserved_after: body["reserved_after"].as_u64()?,
        allocated_after: body["allocated_after"].as_u64()?,
        log_index: body["log_index"].as_u64()?,
        cause: cause.to_owned(),
    })
}

fn lines(body: &Value) -> Option<Vec<Line>> {
    let line = |line: &Value| {
        Some(Line {
            sku: text(line, "sku")?,
            location: Some(text(line, "location")?),
            quantity: line["quantity"].as_u64()?,
        })
    };
    body["lines"].as_array()?.iter().map(line).collect()
}

fn order(body: &Value) -> Option<OrderSeen> {
    Some(OrderSeen {
        id: text(body, "id")?,
        status: text(body, "status")?,
        lines: lines(body)?,
        log_index: body["log_index"].as_u64()?,
    })
}

fn reservation(body: &Value) -> Option<ReservationSeen> {
    Some(ReservationSeen {
        id: text(body, "id")?,
        status: text(body, "status")?,
        expires_at: text(body, "expires_at")?,
        lines: lines(body)?,
        log_index: body["log_index"].as_u64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Consistency;
    use serde_json::json;

    fn reply(status: u16, body: &Value) -> Reply {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-request-id", "r1"),
            ("stockroom-served-by", "2"),
            ("stockroom-applied-index", "17"),
            ("stockroom-session", "token"),
        ] {
            headers.insert(name, value.parse().expect("a header's value"));
        }
        Reply { status, headers, body: body.to_string().into() }
    }

    fn problem_body(status: u16, code: &str, definite: bool) -> Value {
        json!({ "status": status, "code": code, "definite": definite, "next_steps": ["x"], "request_id": "r1" })
    }

    fn place() -> Call {
        Call::PlaceOrder { id: None, lines: vec![Line::new("mug", 2)], reservation_id: None }
    }

    fn look() -> Call {
        Call::ReadStock { skus: vec!["mug".to_owned()], consistency: Consistency::Linearizable }
    }

    #[test]
    fn what_the_shop_decided_is_an_observation() {
        let mut body = problem_body(409, "out_of_stock", true);
        body["shortages"] = json!([{ "sku": "mug", "location": "main", "requested": 2, "available": 1 }]);
        let Outcome::Ok { answer: Answer::Refused { shortages, code, .. }, meta } =
            outcome(2, &place(), &reply(409, &body))
        else {
            panic!("a refusal");
        };
        assert_eq!(
            (code.as_str(), shortages[0].available, meta.applied_index),
            ("out_of_stock", 1, Some(17))
        );
    }

    #[test]
    fn what_is_definite_failed_and_what_is_not_is_unknown() {
        for (status, code) in [(503, "no_leader"), (429, "audit_running"), (422, "invalid_value")] {
            let refused = outcome(2, &place(), &reply(status, &problem_body(status, code, true)));
            assert_eq!(refused, Outcome::Fail { status, code: code.to_owned() });
        }
        let unknown = reply(504, &problem_body(504, "outcome_unknown", false));
        assert_eq!(
            outcome(2, &place(), &unknown),
            Outcome::Info { reason: "504 outcome_unknown".to_owned() }
        );
        let failed = Outcome::Fail { status: 504, code: "outcome_unknown".to_owned() };
        assert_eq!(outcome(2, &look(), &unknown), failed, "a read changed nothing");
    }

    #[test]
    fn what_the_contract_does_not_know_is_told() {
        let is_breach =
            |answer: Outcome| matches!(answer, Outcome::Info { reason } if reason.starts_with("contract:"));
        assert!(is_breach(outcome(2, &look(), &reply(200, &json!({ "items": [{ "sku": "mug" }] })))));
        assert!(is_breach(outcome(2, &place(), &reply(302, &json!({})))));
        assert!(is_breach(outcome(2, &place(), &reply(500, &json!({ "code": "x" })))));
        let mut bare = reply(200, &json!({ "items": [] }));
        bare.headers.remove("stockroom-applied-index");
        assert!(is_breach(outcome(2, &look(), &bare)));
        let garbled = Reply { body: "<html>".into(), ..reply(200, &json!({})) };
        assert!(is_breach(outcome(2, &look(), &garbled)));
    }

    #[test]
    fn an_answer_of_another_node_or_of_something_else_is_told() {
        let counters = json!({ "on_hand": 1, "reserved": 0, "allocated": 0, "available": 1 });
        let stock = |sku: &str| {
            let mut item = counters.clone();
            item["sku"] = sku.into();
            item["locations"] = json!([]);
            item
        };
        let of = |node, skus: &[&str]| {
            let items: Vec<Value> = skus.iter().map(|sku| stock(sku)).collect();
            outcome(node, &look(), &reply(200, &json!({ "items": items })))
        };
        assert!(matches!(of(2, &["mug"]), Outcome::Ok { .. }));
        for wrong in [of(1, &["mug"]), of(2, &["cup"]), of(2, &[]), of(2, &["mug", "mug"])] {
            assert!(
                matches!(&wrong, Outcome::Info { reason } if reason.starts_with("contract:")),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn equal_answers_have_equal_sums_whoever_asked() {
        let hash = |request: &str| {
            let mut body = problem_body(409, "wrong_state", true);
            body["request_id"] = request.into();
            match outcome(2, &place(), &reply(409, &body)) {
                Outcome::Ok { meta, .. } => meta.body_hash,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(hash("r1"), hash("r2"));
    }

    #[test]
    fn a_settled_outcome_is_known_by_its_shape() {
        let abandoned = json!({ "key": "k", "status": 409, "body": problem_body(409, "abandoned", true), "log_index": 4 });
        assert_eq!(settled(&abandoned), Some(Settled::Abandoned));
        let done =
            json!({ "key": "k", "status": 201, "body": { "items": [], "log_index": 3 }, "log_index": 3 });
        assert_eq!(settled(&done), Some(Settled::Happened { answer: Answer::Done { log_index: Some(3) } }));
        let refused = json!({ "key": "k", "status": 404, "body": problem_body(404, "order_not_found", true), "log_index": 3 });
        assert!(matches!(settled(&refused), Some(Settled::Happened { answer: Answer::Refused { .. } })));
        assert_eq!(settled(&json!({ "status": 201, "body": {} })), None);
    }
}
