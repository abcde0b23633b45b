//! The OpenAPI 3.1 document: paths made of the table of routes, schemas in `schemas.json`.
//!
//! `tests/` holds every answer against it, so it cannot drift from what is served.

mod components;
mod operations;

use crate::ROUTES;
use crate::codes::Code;
use crate::routes::{Kind, Route};
use operations::{Answers, Operation};
use serde_json::{Map, Value, json};

/// The document, as `/openapi.json` serves it.
pub fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_ascii_lowercase()] = operation(route);
    }
    let schemas: Value = serde_json::from_str(include_str!("schemas.json"))
        .expect("the file is part of this crate and tested");
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Stockroom",
            "version": env!("CARGO_PKG_VERSION"),
            "description": INTRODUCTION,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "The node that serves this document; any node will do." }],
        "security": [],
        "tags": operations::TAGS.iter().map(|tag| json!({
            "name": tag.name, "description": tag.description,
        })).collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": components::parameters(),
            "headers": components::headers(),
        },
    })
}

const INTRODUCTION: &str = "\
A shop's inventory and orders, replicated by Raft. Every call works on every node.

**JSON** in UTF-8. Unknown fields, fields that stand twice, an empty body and a content type other than JSON are \
errors; `{}` is a body. An optional field may be null. Times are RFC 3339 in UTC with milliseconds, money is an \
integer in minor units of an ISO 4217 currency, quantities are integers.

**Writes** take an `Idempotency-Key`. The same key with the same method, path and body hears the same answer again, \
with `Idempotency-Replayed: true`, also after failover and restart; only `request_id` of an error is that of the new \
request. What the shop decided is kept for 24 hours (`receipt_retention_ms` of `/v1/cluster/settings`), success or \
refusal; what was refused at the door (400, 413, 415, 422 of shape, 429, 503, 507) is not.

**Reads** are linearizable unless `Stockroom-Consistency` asks for less. Everything in an answer is of one applied index.

**Errors** are `application/problem+json`. `definite` says that it did not and will not happen; `retryable`, that the \
same request with the same key may pass later; `next_steps`, what to do. A 504 is the only answer to a write that \
leaves open what happened: send it again with the same key, or settle it with `POST /v1/outcomes/{key}/abandon`.

Limits stand in the schemas with their defaults; each is a setting of the node and has an error code of its own. \
The entries of an order's metadata are limited by the cluster's settings as well: the lower limit holds.";

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

fn operation(route: &Route) -> Value {
    let Operation { tag, summary, description, body, answers, codes, parameters } =
        operations::of(route.call);
    let mut operation = json!({
        "operationId": route.name,
        "tags": [tag],
        "summary": summary,
        "parameters": all_parameters(route, parameters),
        "responses": responses(route, &answers, codes),
    });
    if !description.is_empty() {
        operation["description"] = description.into();
    }
    if let Some(schema) = body {
        operation["requestBody"] = json!({
            "required": route.kind != Kind::Local,
            "content": { "application/json": { "schema": reference("schemas", schema) } },
        });
    }
    operation
}

fn all_parameters(route: &Route, own: &[&str]) -> Vec<Value> {
    let mut names: Vec<&str> = Vec::new();
    if let Some((_, rest)) = route.path.split_once('{') {
        let name = rest.split('}').next().unwrap_or_default();
        names.push(match name {
            "sku" => "SkuInPath",
            "key" => "KeyInPath",
            "file" => "FileInPath",
            "member" => "MemberInPath",
            _ => "IdInPath",
        });
    }
    names.extend(own);
    names.extend(match route.kind {
        Kind::Write => &["IdempotencyKey", "Session", "TimeoutMs", "RequestId"][..],
        Kind::Batch | Kind::Settle | Kind::Admin => &["Session", "TimeoutMs", "RequestId"],
        Kind::Read => &["Consistency", "MaxStalenessMs", "Session", "TimeoutMs", "RequestId"],
        Kind::Local => &["Session", "RequestId"],
        Kind::Root => &["RequestId"],
    });
    names.into_iter().map(|name| reference("parameters", name)).collect()
}

/// Headers that every answer of this kind has or may have.
fn headers_of(route: &Route) -> Map<String, Value> {
    let mut names = vec![("X-Request-Id", "RequestId"), ("Stockroom-Served-By", "ServedBy")];
    if route.kind != Kind::Root {
        names.extend([("Stockroom-Applied-Index", "AppliedIndex"), ("Stockroom-Session", "Session")]);
    }
    match route.kind {
        Kind::Write => names.push(("Idempotency-Replayed", "Replayed")),
        Kind::Read => names.push(("Stockroom-Staleness-Ms", "StalenessMs")),
        _ => {}
    }
    names.into_iter().map(|(header, name)| (header.into(), reference("headers", name))).collect()
}

fn responses(route: &Route, answers: &[Answers], codes: &[Code]) -> Value {
    let mut responses = Map::new();
    for Answers { status, description, content, headers } in answers {
        let mut all = headers_of(route);
        all.extend(headers.iter().map(|(header, name)| ((*header).into(), reference("headers", name))));
        let content: Map<String, Value> = content
            .iter()
            .map(|(kind, schema)| {
                let schema = match *schema {
                    "" => json!({ "type": "string" }),
                    name => reference("schemas", name),
                };
                ((*kind).into(), json!({ "schema": schema }))
            })
            .collect();
        let mut response = json!({ "description": description, "headers": all });
        if !content.is_empty() {
            response["content"] = content.into();
        }
        responses.insert(status.to_string(), response);
    }
    let common = operations::common(route);
    let mut statuses: Vec<u16> = common.iter().chain(codes).map(|code| code.spec().status).collect();
    statuses.sort_unstable();
    statuses.dedup();
    for status in statuses {
        let mut of_status: Vec<Code> = Vec::new();
        for code in common.iter().chain(codes) {
            if code.spec().status == status && !of_status.contains(code) {
                of_status.push(*code);
            }
        }
        responses.insert(status.to_string(), problem_response(route, status, &of_status));
    }
    Value::Object(responses)
}

fn problem_response(route: &Route, status: u16, codes: &[Code]) -> Value {
    let lines: Vec<String> =
        codes.iter().map(|code| format!("- `{}`: {}", code.spec().slug, code.spec().title)).collect();
    let slugs: Vec<&str> = codes.iter().map(|code| code.spec().slug).collect();
    let mut headers = headers_of(route);
    if matches!(status, 429 | 503 | 507) {
        headers.insert("Retry-After".into(), reference("headers", "RetryAfter"));
    }
    json!({
        "description": lines.join("\n"),
        "headers": headers,
        "content": { "application/problem+json": { "schema": {
            "allOf": [
                reference("schemas", "Problem"),
                { "type": "object", "properties": { "code": { "enum": slugs }, "status": { "const": status } } },
            ],
        } } },
    })
}
