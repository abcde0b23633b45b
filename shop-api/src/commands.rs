//! Commands as they lie in the log, in the words of the calls that they came from: for whoever looks into a log.

use crate::Call;
use crate::render::timestamp;
use serde_json::{Map, Value, json};
use stockroom_storage::shop::command::{
    Adjust, Command, Extend, OrderSource, Pay, PlaceOrder, PutItem, Refund, Reserve, Return, SettingsChange,
    Ship, Transfer,
};
use stockroom_storage::shop::reservation::StockLine;

/// What the command is called.
pub(crate) fn name_of(command: &Command) -> &'static str {
    let call = match command {
        Command::PutItem(_) => Call::PutItem,
        Command::RetireItem(_) => Call::RetireItem,
        Command::Receive(_) => Call::Receive,
        Command::Adjust(_) => Call::Adjust,
        Command::Transfer(_) => Call::Transfer,
        Command::Reserve(_) => Call::Reserve,
        Command::Confirm(_) => Call::Confirm,
        Command::CancelReservation(_) => Call::CancelReservation,
        Command::Extend(_) => Call::Extend,
        Command::PlaceOrder(_) => Call::PlaceOrder,
        Command::Pay(_) => Call::Pay,
        Command::Ship(_) => Call::Ship,
        Command::Complete(_) => Call::Complete,
        Command::CancelOrder(_) => Call::CancelOrder,
        Command::Return(_) => Call::Return,
        Command::Refund(_) => Call::Refund,
        Command::PatchMetadata(_) => Call::PatchMetadata,
        Command::Abandon(_) => Call::Abandon,
        Command::Configure(_) => Call::ChangeSettings,
        // Not of callers.
        Command::Tick => return "tick",
        Command::RaiseClusterVersion(_) => return "raise_cluster_version",
        // Of a later program, or of one for tests.
        _ => return "unknown",
    };
    call.route().name
}

/// Its fields: those of the call's body, and the id of its path.
pub(crate) fn fields_of(command: &Command) -> Value {
    let fields = match command {
        Command::PutItem(put) => put_item(put),
        Command::RetireItem(sku) => json!({ "sku": sku.as_str() }),
        Command::Receive(lines) => json!({ "lines": stock_lines(lines) }),
        Command::Adjust(adjust) => adjusted(adjust),
        Command::Transfer(transfer) => transferred(transfer),
        Command::Reserve(Reserve { id, ttl_ms, lines }) => {
            let id = id.as_ref().map(|id| id.as_str());
            json!({ "id": id, "ttl_ms": ttl_ms, "lines": stock_lines(lines) })
        }
        Command::Confirm(id) | Command::CancelReservation(id) => json!({ "id": id.as_str() }),
        Command::Extend(Extend { id, ttl_ms }) => json!({ "id": id.as_str(), "ttl_ms": ttl_ms }),
        Command::PlaceOrder(place) => placed(place),
        Command::Pay(Pay { order, amount_minor, reference })
        | Command::Refund(Refund { order, amount_minor, reference }) => {
            json!({ "id": order.as_str(), "amount_minor": amount_minor, "reference": reference })
        }
        Command::Ship(Ship { order, lines }) => {
            json!({ "id": order.as_str(), "lines": lines.as_deref().map(stock_lines) })
        }
        Command::Complete(order) => json!({ "id": order.as_str() }),
        Command::CancelOrder(cancel) => json!({ "id": cancel.order.as_str(), "reason": cancel.reason }),
        Command::Return(Return { order, lines, restock }) => {
            json!({ "id": order.as_str(), "lines": lines.as_deref().map(stock_lines), "restock": restock })
        }
        Command::PatchMetadata(patch) => json!({ "id": patch.order.as_str(), "metadata": patch.changes }),
        Command::Abandon(key) => json!({ "abandoned_key": key.as_str() }),
        Command::Tick => json!({}),
        Command::Configure(change) => configured(change),
        Command::RaiseClusterVersion(version) => json!({ "cluster_version": version.0 }),
        _ => json!({}),
    };
    without_absent(fields)
}

fn put_item(PutItem { sku, name, price, attributes, expected_version }: &PutItem) -> Value {
    let price = price
        .map(|price| json!({ "amount_minor": price.amount_minor, "currency": price.currency.to_string() }));
    // Made canonical where it entered; what is no JSON is shown as text rather than not at all.
    let attributes = attributes.as_deref();
    let attributes = attributes.map(|text| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)));
    let sku = sku.as_str();
    json!({ "sku": sku, "name": name, "price": price, "attributes": attributes, "expected_version": expected_version })
}

fn adjusted(Adjust { sku, location, delta, reason, expected_on_hand }: &Adjust) -> Value {
    json!({
        "sku": sku.as_str(), "location": location.as_str(), "delta": delta, "reason": reason,
        "expected_on_hand": expected_on_hand,
    })
}

fn transferred(Transfer { sku, from, to, quantity }: &Transfer) -> Value {
    json!({ "sku": sku.as_str(), "from": from.as_str(), "to": to.as_str(), "quantity": quantity.units() })
}

fn stock_lines(lines: &[StockLine]) -> Value {
    lines.iter().map(stock_line).collect()
}

fn stock_line(StockLine { sku, location, quantity }: &StockLine) -> Value {
    json!({ "sku": sku.as_str(), "location": location.as_str(), "quantity": quantity.units() })
}

fn placed(place: &PlaceOrder) -> Value {
    let PlaceOrder { name, customer_id, currency, pay_by, metadata, source } = place;
    let mut order = json!({
        "id": name.as_ref().map(|name| name.as_str()),
        "customer_id": customer_id.as_ref().map(|customer| customer.as_str()),
        "currency": currency.map(|currency| currency.to_string()),
        "pay_by": pay_by.map(|at| timestamp(at).to_string()),
    });
    if !metadata.is_empty() {
        order["metadata"] = json!(metadata);
    }
    match source {
        OrderSource::Reservation(id) => order["reservation_id"] = id.as_str().into(),
        OrderSource::Lines(lines) => {
            let line = |line: &stockroom_storage::shop::command::NewOrderLine| {
                without_absent(json!({
                    "sku": line.sku.as_str(), "location": line.location.as_str(), "quantity": line.quantity.units(),
                    "amount_minor": line.amount_minor,
                }))
            };
            order["lines"] = lines.iter().map(line).collect();
        }
    }
    order
}

fn configured(change: &SettingsChange) -> Value {
    let SettingsChange { receipt_retention_ms, releases_per_step, receipt_drops_per_step, metadata_entries } =
        change;
    json!({
        "receipt_retention_ms": receipt_retention_ms, "releases_per_step": releases_per_step, "receipt_drops_per_step": receipt_drops_per_step,
        "metadata_entries": metadata_entries,
    })
}

/// What the caller left out is left out here.
fn without_absent(fields: Value) -> Value {
    match fields {
        Value::Object(fields) => {
            Value::Object(fields.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::Headers;
    use crate::limits::Limits;
    use crate::{routes, writes};

    /// A call's body comes out of the log as it went in, with the id of its path.
    #[test]
    fn commands_are_shown_in_the_words_of_their_calls() {
        let shown = |method: &str, path: &str, body: Value| {
            let target = routes::resolve(method, path).unwrap();
            let headers: Headers<'_> = [].into_iter().collect();
            let body = body.to_string();
            let command =
                writes::command_from(&Limits::default(), &target, &headers, body.as_bytes()).unwrap();
            (name_of(&command), fields_of(&command))
        };
        let line = json!({"sku": "mug", "location": "main", "quantity": 2});
        let price = json!({"amount_minor": 1200, "currency": "EUR"});
        for (method, path, name, body, more) in [
            (
                "PUT",
                "/v1/items/mug",
                "put_item",
                json!({"name": "Mug", "price": price, "attributes": {"a": 1}}),
                json!({"sku": "mug"}),
            ),
            ("POST", "/v1/items/mug/retire", "retire_item", json!({}), json!({"sku": "mug"})),
            ("POST", "/v1/stock/receive", "receive_stock", json!({"lines": [line]}), json!({})),
            (
                "POST",
                "/v1/stock/adjust",
                "adjust_stock",
                json!({"sku": "mug", "location": "b", "delta": -3, "reason": "broken"}),
                json!({}),
            ),
            (
                "POST",
                "/v1/stock/transfer",
                "transfer_stock",
                json!({"sku": "mug", "from": "a", "to": "b", "quantity": 1}),
                json!({}),
            ),
            (
                "POST",
                "/v1/reservations",
                "reserve",
                json!({"id": "r1", "ttl_ms": 60_000, "lines": [line]}),
                json!({}),
            ),
            ("POST", "/v1/reservations/r1/confirm", "confirm_reservation", json!({}), json!({"id": "r1"})),
            ("POST", "/v1/reservations/r1/cancel", "cancel_reservation", json!({}), json!({"id": "r1"})),
            (
                "POST",
                "/v1/reservations/r1/extend",
                "extend_reservation",
                json!({"ttl_ms": 60_000}),
                json!({"id": "r1"}),
            ),
            (
                "POST",
                "/v1/orders",
                "place_order",
                json!({"id": "A-1", "customer_id": "c", "currency": "EUR", "pay_by": "2030-01-01T00:00:00.000Z", "metadata": {"a": "b"}, "lines": [line]}),
                json!({}),
            ),
            ("POST", "/v1/orders", "place_order", json!({"reservation_id": "r1"}), json!({})),
            (
                "POST",
                "/v1/orders/A-1/pay",
                "pay_order",
                json!({"amount_minor": 5, "reference": "p"}),
                json!({"id": "A-1"}),
            ),
            ("POST", "/v1/orders/A-1/ship", "ship_order", json!({"lines": [line]}), json!({"id": "A-1"})),
            ("POST", "/v1/orders/A-1/complete", "complete_order", json!({}), json!({"id": "A-1"})),
            ("POST", "/v1/orders/A-1/cancel", "cancel_order", json!({"reason": "no"}), json!({"id": "A-1"})),
            (
                "POST",
                "/v1/orders/A-1/return",
                "return_order",
                json!({"lines": [line], "restock": false}),
                json!({"id": "A-1"}),
            ),
            (
                "POST",
                "/v1/orders/A-1/refund",
                "refund_order",
                json!({"amount_minor": 5}),
                json!({"id": "A-1"}),
            ),
            (
                "PATCH",
                "/v1/orders/A-1/metadata",
                "patch_order_metadata",
                json!({"metadata": {"a": "c"}}),
                json!({"id": "A-1"}),
            ),
            (
                "PATCH",
                "/v1/cluster/settings",
                "change_settings",
                json!({"metadata_entries": 20, "receipt_retention_ms": 60_000}),
                json!({}),
            ),
            ("PATCH", "/v1/cluster/settings", "change_settings", json!({}), json!({})),
        ] {
            let mut wanted = body.as_object().unwrap().clone();
            wanted.extend(more.as_object().unwrap().clone());
            assert_eq!(shown(method, path, body), (name, Value::Object(wanted)), "{path}");
        }
        assert_eq!((name_of(&Command::Tick), fields_of(&Command::Tick)), ("tick", json!({})));
    }
}
