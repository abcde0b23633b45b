//! One row of an orders file, and the order it asks for.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value, json};

/// Largest quantity of one line.
const MAX_QUANTITY: u64 = 1_000_000_000;
/// Most lines of one order.
const MAX_LINES: usize = 500;
/// Longest id of an order, a customer or an item, in bytes.
const MAX_ID_BYTES: usize = 128;
/// Longest location, in bytes.
const MAX_LOCATION_BYTES: usize = 64;
/// The location of whoever names none.
pub const DEFAULT_LOCATION: &str = "main";

/// A row, in the words of a shop's export or in those of the API. Unknown fields are errors: what
/// is not understood must not be dropped in silence.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRow {
    /// The order's own id, under which it is stored.
    #[serde(alias = "id")]
    pub order_id: String,
    /// Who ordered.
    #[serde(default)]
    pub customer_id: Option<String>,
    /// Where all lines are taken from that name no location of their own.
    #[serde(default)]
    pub location: Option<String>,
    /// When it was placed where it comes from; kept in the metadata.
    #[serde(default)]
    pub placed_at: Option<String>,
    /// ISO 4217.
    #[serde(default)]
    pub currency: Option<String>,
    /// When it lapses without payment.
    #[serde(default)]
    pub pay_by: Option<String>,
    /// The caller's own notes.
    #[serde(default)]
    pub metadata: Option<Map<String, Value>>,
    /// What was ordered.
    pub lines: Vec<LineRow>,
}

/// One line of an [`OrderRow`]. Numbers stay as they were written: the server is the judge of them.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LineRow {
    /// What.
    pub sku: String,
    /// Where from; the order's location where absent.
    #[serde(default)]
    pub location: Option<String>,
    /// How many.
    pub quantity: Number,
    /// For the whole line, in minor units.
    #[serde(default, alias = "amount_minor")]
    pub amount_cents: Option<Number>,
}

impl OrderRow {
    /// The body of `POST /v1/orders`.
    pub fn body(&self, currency: &str) -> String {
        let mut metadata = self.metadata.clone().unwrap_or_default();
        if let Some(placed_at) = &self.placed_at {
            metadata.insert("placed_at".into(), json!(placed_at));
        }
        let lines: Vec<Value> = self.lines.iter().map(|line| line.body(self.location.as_deref())).collect();
        let currency = self.currency.as_deref().unwrap_or(currency);
        let mut body = json!({"id": self.order_id, "currency": currency, "lines": lines});
        let mut set = |name: &str, value: Value| body[name] = value;
        if let Some(customer_id) = &self.customer_id {
            set("customer_id", json!(customer_id));
        }
        if let Some(pay_by) = &self.pay_by {
            set("pay_by", json!(pay_by));
        }
        if !metadata.is_empty() {
            set("metadata", Value::Object(metadata));
        }
        body.to_string()
    }

    /// Where a line is taken from.
    pub fn location_of<'a>(&'a self, line: &'a LineRow) -> &'a str {
        line.location.as_deref().or(self.location.as_deref()).unwrap_or(DEFAULT_LOCATION)
    }

    /// Whether the shop can take this order at all, apart from which items it knows and has. Only
    /// such orders are worth receiving stock for. (Every order is sent; the server decides.)
    pub fn well_formed(&self) -> bool {
        is_id(&self.order_id, MAX_ID_BYTES)
            && !is_made_by_the_server(&self.order_id)
            && self.customer_id.as_deref().is_none_or(|id| is_id(id, MAX_ID_BYTES))
            && (1..=MAX_LINES).contains(&self.lines.len())
            && self.lines.iter().all(|line| {
                line.units().is_some()
                    && is_id(&line.sku, MAX_ID_BYTES)
                    && is_id(self.location_of(line), MAX_LOCATION_BYTES)
                    && line.amount_cents.as_ref().is_none_or(Number::is_u64)
            })
    }
}

impl LineRow {
    /// The quantity, where it is one.
    pub fn units(&self) -> Option<u64> {
        self.quantity.as_u64().filter(|units| (1..=MAX_QUANTITY).contains(units))
    }

    fn body(&self, location: Option<&str>) -> Value {
        let mut body = json!({"sku": self.sku, "quantity": self.quantity});
        if let Some(location) = self.location.as_deref().or(location) {
            body["location"] = json!(location);
        }
        if let Some(amount) = &self.amount_cents {
            body["amount_minor"] = json!(amount);
        }
        body
    }
}

fn is_id(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
}

/// `o` and 16 characters of Crockford's base 32: an id that cannot be chosen.
fn is_made_by_the_server(id: &str) -> bool {
    let made = |b: u8| b"0123456789abcdefghjkmnpqrstvwxyz".contains(&b);
    id.len() == 17 && id.starts_with('o') && id.bytes().skip(1).all(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> OrderRow {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn an_export_row_and_an_api_row_ask_for_the_same_order() {
        let export = row(
            r#"{"order_id":"B1","customer_id":"H9","location":"S3","placed_at":"2017-01-01T11:53:26Z","lines":[{"sku":"P1","quantity":2,"amount_cents":50}]}"#,
        );
        let api = row(
            r#"{"id":"B1","customer_id":"H9","currency":"USD","metadata":{"placed_at":"2017-01-01T11:53:26Z"},"lines":[{"sku":"P1","location":"S3","quantity":2,"amount_minor":50}]}"#,
        );
        assert_eq!(export.body("USD"), api.body("EUR"));
        let body: Value = serde_json::from_str(&api.body("EUR")).unwrap();
        assert_eq!(
            body,
            json!({"id":"B1","customer_id":"H9","currency":"USD","metadata":{"placed_at":"2017-01-01T11:53:26Z"},
                "lines":[{"sku":"P1","location":"S3","quantity":2,"amount_minor":50}]})
        );
    }

    #[test]
    fn what_cannot_be_stored_is_not_received_for() {
        let with =
            |quantity: &str| row(&format!(r#"{{"id":"B1","lines":[{{"sku":"P1","quantity":{quantity}}}]}}"#));
        assert!(with("1").well_formed());
        assert!(with("1000000000").well_formed());
        for bad in ["0", "1000000001", "-1", "1.5"] {
            assert!(!with(bad).well_formed(), "{bad}");
        }
        assert!(!row(r#"{"id":"B1","lines":[]}"#).well_formed());
        assert!(!row(r#"{"id":"a b","lines":[{"sku":"P1","quantity":1}]}"#).well_formed());
        assert!(!row(r#"{"id":"o0000000000000000","lines":[{"sku":"P1","quantity":1}]}"#).well_formed());
        assert!(!row(r#"{"id":"B1","lines":[{"sku":"P1","quantity":1,"amount_minor":-1}]}"#).well_formed());
    }
}
