//! Parameters and headers that several calls share, by the names that the calls refer to them by.

use super::reference;
use serde_json::{Value, json};

pub(super) fn parameters() -> Value {
    let parts = [of_paths(), of_queries(), of_headers()];
    let all = parts.iter().filter_map(Value::as_object).flatten();
    all.map(|(name, parameter)| (name.clone(), parameter.clone())).collect()
}

fn parameter(place: &str, name: &str, schema: Value, description: &str) -> Value {
    json!({ "name": name, "in": place, "schema": schema, "description": description })
}

fn of_paths() -> Value {
    let path = |name: &str, schema: &str| json!({ "name": name, "in": "path", "required": true, "schema": reference("schemas", schema) });
    json!({
        "SkuInPath": path("sku", "Sku"),
        "MemberInPath": path("member", "NodeId"),
        "IdInPath": path("id", "Id"),
        "KeyInPath": path("key", "IdempotencyKey"),
        "FileInPath": { "name": "file", "in": "path", "required": true, "schema": { "type": "string" } },
    })
}

fn of_queries() -> Value {
    let query = |name: &str, schema: Value, description: &str| parameter("query", name, schema, description);
    let sku = json!({
        "type": "array", "items": reference("schemas", "Sku"), "minItems": 1, "maxItems": 100,
    });
    let mut skus = query("sku", sku, "`?sku=A&sku=B`: at most 100.");
    skus["required"] = true.into();
    skus["explode"] = true.into();
    let entry_index = || json!({ "type": "integer", "minimum": 0 });
    let mut after = query("after", entry_index(), "The entry of the log behind which to begin.");
    after["required"] = true.into();
    json!({
        "Skus": skus,
        "LocationFilter": query("location", reference("schemas", "Location"), "Movements of this location only."),
        "CustomerFilter": query("customer_id", reference("schemas", "Id"), "Orders of this customer only."),
        "OrderStatusFilter": query("status", reference("schemas", "OrderStatus"), "Orders in this status only."),
        "ReservationStatusFilter":
            query("status", reference("schemas", "ReservationStatus"), "Reservations in this status only."),
        "After": after,
        "From": query("from", entry_index(), "The first entry; the newest ones where absent."),
        "To": query("to", entry_index(), "The last entry; the newest one where absent."),
        "Commands": query(
            "commands",
            json!({ "type": "integer", "minimum": 0, "maximum": 1000, "default": 10 }),
            "Commands of each entry to show; the others are counted only.",
        ),
        "Verbose": query("verbose", json!({}), "Lists the checks that pass, too."),
        "Limit": query(
            "limit",
            json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 50 }),
            "Rows of a page.",
        ),
        "Cursor": query(
            "cursor",
            json!({ "type": "string" }),
            "`next_cursor` of the page before. Opaque; good on any node, for the same list and filters.",
        ),
    })
}

fn of_headers() -> Value {
    let header =
        |name: &str, schema: Value, description: &str| parameter("header", name, schema, description);
    let mut key = header(
        "Idempotency-Key",
        reference("schemas", "IdempotencyKey"),
        "The caller's id of this write. Make a new one for each write, and send the same one with every retry.",
    );
    key["required"] = true.into();
    json!({
        "IdempotencyKey": key,
        "Consistency": header(
            "Stockroom-Consistency",
            json!({ "type": "string", "enum": ["linearizable", "session", "bounded", "stale"], "default": "linearizable" }),
            "How fresh the answer must be. `session`: not older than the `Stockroom-Session` sent along. `bounded`: \
             not older than `Stockroom-Max-Staleness-Ms`. `stale`: as this node has it.",
        ),
        "MaxStalenessMs": header(
            "Stockroom-Max-Staleness-Ms",
            json!({ "type": "integer", "minimum": 0 }),
            "Needed with `bounded`.",
        ),
        "Session": header(
            "Stockroom-Session",
            json!({ "type": "string" }),
            "The newest token that any node answered.",
        ),
        "TimeoutMs": header(
            "Stockroom-Timeout-Ms",
            json!({ "type": "integer", "minimum": 1, "default": 5000 }),
            "Shortens the deadline; a longer one than the default has no effect.",
        ),
        "RequestId": header(
            "X-Request-Id",
            json!({ "type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$" }),
            "For finding the request in logs; made where absent.",
        ),
        "IfMatch": header(
            "If-Match",
            json!({ "type": "string", "pattern": "^\"[1-9][0-9]*\"$" }),
            "Replace only this version: an `ETag` as it was answered. 409 `version_differs` otherwise.",
        ),
        "IfNoneMatchAny": header(
            "If-None-Match",
            json!({ "type": "string", "const": "*" }),
            "Only make, never replace. 409 `version_differs` otherwise.",
        ),
        "IfNoneMatch": header(
            "If-None-Match",
            json!({ "type": "string" }),
            "ETags that the caller has: 304 where one of them is the item's.",
        ),
        "Accept": header("Accept", json!({ "type": "string" }), "`application/json` for JSON instead of text."),
    })
}

/// Headers of answers.
pub(super) fn headers() -> Value {
    let header = |schema: Value, description: &str| json!({ "schema": schema, "description": description });
    let integer = || json!({ "type": "integer", "minimum": 0 });
    json!({
        "RequestId": header(json!({ "type": "string" }), "As sent, else made here."),
        "ServedBy": header(integer(), "Id of the node that answered: the leader that decided a write, the node that was read."),
        "AppliedIndex": header(integer(), "The log index that the answer shows. Absent before the node is a member."),
        "Session": header(
            json!({ "type": "string" }),
            "What the caller has now seen; send it along with `session` reads. Absent before the node is a member.",
        ),
        "StalenessMs": header(
            integer(),
            "Of reads below linearizable: at most so far behind. Absent where the node cannot know.",
        ),
        "Replayed": header(json!({ "type": "string", "const": "true" }), "Decided before, under the same key."),
        "RetryAfter": header(json!({ "type": "integer", "minimum": 1 }), "Seconds."),
        "Etag": header(json!({ "type": "string" }), "The item's version, in quotes."),
        "Location": header(json!({ "type": "string", "format": "uri-reference" }), "Where it can be read."),
    })
}
