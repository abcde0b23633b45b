//! The bundled sample: items, the stock that its orders need, and the orders themselves, as writes.

use super::client::Command;
use anyhow::Context as _;
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};

const ITEMS: &[u8] = include_bytes!("../../sample/items.ndjson.gz");
const ORDERS: &[u8] = include_bytes!("../../sample/orders.ndjson.gz");
/// Lines of one receipt of goods: one command of a size like that of a large order.
const RECEIVE_LINES: usize = 200;

#[derive(Debug, Deserialize)]
struct Product {
    sku: String,
    category: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    package_size: Option<String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct SampleOrder {
    order_id: String,
    customer_id: String,
    location: String,
    placed_at: String,
    lines: Vec<SampleLine>,
}

#[derive(Debug, Clone, Deserialize)]
struct SampleLine {
    sku: String,
    quantity: u64,
    amount_cents: u64,
}

/// A SKU at a location.
pub type Place = (String, String);

/// The sample, unpacked.
#[derive(Debug)]
pub struct Sample {
    items: Vec<Product>,
    orders: Vec<SampleOrder>,
}

impl Sample {
    /// Unpacks it.
    ///
    /// # Errors
    /// Where the files in `node/sample` are not what their README says.
    pub fn unpack() -> anyhow::Result<Self> {
        Ok(Sample {
            items: lines(ITEMS).context("sample items")?,
            orders: lines(ORDERS).context("sample orders")?,
        })
    }

    /// Number of items.
    pub fn items(&self) -> usize {
        self.items.len()
    }

    /// Units that all orders together need.
    pub fn needs(&self) -> BTreeMap<Place, u64> {
        needs(&self.orders)
    }

    /// Puts each item.
    pub fn put_items(&self) -> Vec<Command> {
        self.items.iter().map(put_item).collect()
    }

    /// Receives exactly what all orders together need.
    pub fn receive_stock(&self) -> Vec<Command> {
        receive(&self.needs(), "sample-stock")
    }

    /// Places the orders, each under its own id.
    pub fn place_orders(&self) -> Vec<Command> {
        self.orders.iter().map(|order| place(order, &order.order_id)).collect()
    }

    /// `count` orders from `first` on, round and round, under ids that begin with `run`; and the stock they need.
    pub fn again(&self, run: &str, first: usize, count: usize) -> (Vec<Command>, Vec<Command>) {
        let orders: Vec<_> =
            (first..first + count).map(|at| (at, &self.orders[at % self.orders.len()])).collect();
        let stock = needs(orders.iter().map(|(_, order)| *order));
        let stock = receive(&stock, &format!("{run}-stock-{first}"));
        (stock, orders.into_iter().map(|(at, order)| place(order, &format!("{run}-{at}"))).collect())
    }
}

fn lines<T: DeserializeOwned>(packed: &[u8]) -> anyhow::Result<Vec<T>> {
    BufReader::new(GzDecoder::new(packed)).lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

fn needs<'a>(orders: impl IntoIterator<Item = &'a SampleOrder>) -> BTreeMap<Place, u64> {
    let mut needs = BTreeMap::new();
    for order in orders {
        for line in &order.lines {
            *needs.entry((line.sku.clone(), order.location.clone())).or_default() += line.quantity;
        }
    }
    needs
}

/// Products have no name; what they are and how they are packed reads like one.
fn put_item(product: &Product) -> Command {
    let parts = [&product.category, &product.kind, &product.package_size];
    let name = parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(", ");
    let mut body = json!({ "attributes": product.others });
    if !name.is_empty() {
        body["name"] = name.into();
    }
    Command {
        key: format!("sample-item-{}", product.sku),
        method: "PUT",
        path: format!("/v1/items/{}", product.sku),
        body,
    }
}

fn receive(needs: &BTreeMap<Place, u64>, key: &str) -> Vec<Command> {
    let lines: Vec<Value> = needs
        .iter()
        .map(|((sku, location), units)| json!({ "sku": sku, "location": location, "quantity": units }))
        .collect();
    lines
        .chunks(RECEIVE_LINES)
        .enumerate()
        .map(|(at, lines)| Command {
            key: format!("{key}-{at}"),
            method: "POST",
            path: "/v1/stock/receive".into(),
            body: json!({ "lines": lines }),
        })
        .collect()
}

fn place(order: &SampleOrder, id: &str) -> Command {
    let line = |line: &SampleLine| {
        json!({
            "sku": line.sku, "location": order.location, "quantity": line.quantity, "amount_minor": line.amount_cents
        })
    };
    let body = json!({
        "id": id,
        "customer_id": order.customer_id,
        "currency": "USD",
        "metadata": { "placed_at": order.placed_at },
        "lines": order.lines.iter().map(line).collect::<Vec<_>>(),
    });
    Command { key: format!("order-{id}"), method: "POST", path: "/v1/orders".into(), body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_what_its_readme_says() {
        let sample = Sample::unpack().expect("bundled");
        let lines: usize = sample.orders.iter().map(|order| order.lines.len()).sum();
        let measured = (sample.orders.len(), lines, sample.items(), sample.needs().len());
        assert_eq!(measured, (3_000, 23_986, 9_856, 12_908));
        assert!(ITEMS.len() + ORDERS.len() < 500 * 1024);
    }

    #[test]
    fn what_is_received_is_what_the_orders_take() {
        let sample = Sample::unpack().expect("bundled");
        let total = |commands: &[Command], path: &str| -> u64 {
            assert!(commands.iter().all(|c| c.path == path), "only {path}");
            let lines = commands.iter().flat_map(|c| c.body["lines"].as_array().expect("lines"));
            lines.map(|line| line["quantity"].as_u64().expect("a quantity")).sum()
        };
        let orders = total(&sample.place_orders(), "/v1/orders");
        assert_eq!(total(&sample.receive_stock(), "/v1/stock/receive"), orders);
        // Over the end of the sample, and round again.
        let (stock, orders) = sample.again("x", 2_990, 20);
        assert_eq!(total(&stock, "/v1/stock/receive"), total(&orders, "/v1/orders"));
        assert_eq!(orders[19].body["id"], "x-3009");
    }

    #[test]
    fn keys_and_ids_are_unique() {
        let sample = Sample::unpack().expect("bundled");
        let all = [sample.put_items(), sample.receive_stock(), sample.place_orders()].concat();
        let keys: std::collections::BTreeSet<_> = all.iter().map(|c| &c.key).collect();
        assert_eq!(keys.len(), all.len());
    }
}
