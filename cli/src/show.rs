//! `stock` and `order`: one look at the shop, at the read level the caller asks for.

use crate::{
    client::{Answer, Call, Client, encode},
    output::{Format, Table, money, note},
    problem::{Exit, Failure, plain},
};
use serde_json::{Value, json};

/// SKUs of one `GET /stock` or `GET /movements`.
const SKUS: usize = 100;
/// The largest page of a list.
const PAGE: u64 = 1000;

/// How fresh an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// Not older than the call
    Linearizable,
    /// Not older than --session
    Session,
    /// Not older than --max-staleness-ms
    Bounded,
    /// What the node has, at once
    Stale,
}

/// How a read is asked for.
#[derive(Debug, clap::Args)]
pub struct ReadArgs {
    /// How fresh the answer has to be
    #[arg(long, value_enum, default_value = "linearizable")]
    consistency: Level,
    /// For `--consistency bounded`
    #[arg(long, value_name = "MS", required_if_eq("consistency", "bounded"))]
    max_staleness_ms: Option<u64>,
    /// For `--consistency session`: the token of an earlier answer
    #[arg(long, value_name = "TOKEN")]
    session: Option<String>,
}

/// What `stock` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  stockctl stock P25671 P26093\n  stockctl stock P25671 --movements --limit 20"
)]
pub struct StockArgs {
    /// The items
    #[arg(required = true, value_name = "SKU")]
    skus: Vec<String>,
    /// Show the history, newest first, instead of the levels
    #[arg(long)]
    movements: bool,
    /// Most movements to show
    #[arg(long, value_name = "N", default_value_t = 50, requires = "movements", value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    #[command(flatten)]
    read: ReadArgs,
}

/// What `order` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  stockctl order B31198570044 --consistency stale")]
pub struct OrderArgs {
    /// The order's id
    id: String,
    #[command(flatten)]
    read: ReadArgs,
}

impl ReadArgs {
    fn get(&self, path: String) -> Call {
        let level = match self.consistency {
            Level::Linearizable => "linearizable",
            Level::Session => "session",
            Level::Bounded => "bounded",
            Level::Stale => "stale",
        };
        let mut call = Call::get(path);
        call.headers.push(("Stockroom-Consistency", level.into()));
        if let Some(ms) = self.max_staleness_ms {
            call.headers.push(("Stockroom-Max-Staleness-Ms", ms.to_string()));
        }
        if let Some(token) = &self.session {
            call.headers.push(("Stockroom-Session", token.clone()));
        }
        call
    }
}

/// Says on stderr how fresh a table is. (JSON stays what the server said.)
fn freshness(answer: &Answer) {
    let header = |name: &str| answer.headers.get(name).and_then(|v| v.to_str().ok());
    if let Some(index) = header("stockroom-applied-index") {
        let node = header("stockroom-served-by").map(|n| format!(", served by node {n}")).unwrap_or_default();
        let age =
            header("stockroom-staleness-ms").map(|ms| format!(", at most {ms} ms old")).unwrap_or_default();
        note(&format!("at index {index}{node}{age}"));
    }
}

fn query(skus: &[String]) -> String {
    skus.iter().map(|sku| format!("sku={}", encode(sku))).collect::<Vec<_>>().join("&")
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn cells(value: &Value, names: &[&str]) -> Vec<String> {
    names.iter().map(|name| plain(&value[*name])).collect()
}

/// Prints levels or movements.
///
/// # Errors
/// An item is not known, or nobody answers.
pub async fn stock(client: &Client, args: &StockArgs, format: Format) -> Result<Exit, Failure> {
    if args.movements { movements(client, args, format).await } else { levels(client, args, format).await }
}

async fn levels(client: &Client, args: &StockArgs, format: Format) -> Result<Exit, Failure> {
    const LEVELS: [&str; 4] = ["on_hand", "reserved", "allocated", "available"];
    let mut items = Vec::new();
    for skus in args.skus.chunks(SKUS) {
        let answer = client.call(&args.read.get(format!("/v1/stock?{}", query(skus)))).await?;
        items.extend_from_slice(list(&answer.json()?, "items"));
        if format.is_table() {
            freshness(&answer);
        }
    }
    format.print(&json!({ "items": items }), "items", || level_table(&items, &LEVELS).render());
    Ok(Exit::Ok)
}

fn level_table(items: &[Value], levels: &[&str]) -> Table {
    let mut table = Table::new(&["SKU", "LOCATION", ">ON HAND", ">RESERVED", ">ALLOCATED", ">AVAILABLE"]);
    for item in items {
        let locations = list(item, "locations");
        let mut row = |location: &str, of: &Value| {
            table.row([vec![plain(&item["sku"]), location.into()], cells(of, levels)].concat());
        };
        locations.iter().for_each(|of| row(&plain(&of["location"]), of));
        if locations.len() != 1 {
            row("(all)", item);
        }
    }
    table
}

async fn movements(client: &Client, args: &StockArgs, format: Format) -> Result<Exit, Failure> {
    if args.skus.len() > SKUS {
        return Err(Failure::local(
            Exit::Usage,
            "usage",
            "Too many items",
            format!("--movements shows {SKUS} at most"),
        ));
    }
    let mut items: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let limit = (args.limit - items.len() as u64).min(PAGE);
        let path = format!("/v1/movements?{}&limit={limit}{cursor}", query(&args.skus));
        let answer = client.call(&args.read.get(path)).await?;
        let page = answer.json()?;
        items.extend_from_slice(list(&page, "items"));
        let next = page["next_cursor"].as_str();
        if next.is_none() || items.len() as u64 >= args.limit {
            if format.is_table() {
                freshness(&answer);
            }
            break;
        }
        cursor = next.map(|c| format!("&cursor={}", encode(c))).unwrap_or_default();
    }
    format.print(&json!({ "items": items }), "items", || movement_table(&items).render());
    Ok(Exit::Ok)
}

fn movement_table(items: &[Value]) -> Table {
    let columns = [
        "AT",
        "SKU",
        "LOCATION",
        "KIND",
        ">QUANTITY",
        ">ON HAND",
        ">RESERVED",
        ">ALLOCATED",
        ">INDEX",
        "CAUSE",
    ];
    let mut table = Table::new(&columns);
    for item in items {
        let names = [
            "at",
            "sku",
            "location",
            "kind",
            "quantity",
            "on_hand_after",
            "reserved_after",
            "allocated_after",
            "log_index",
        ];
        let cause = item["cause"].as_object().and_then(|cause| cause.iter().next());
        let cause = cause.map(|(kind, id)| format!("{kind} {}", plain(id))).unwrap_or_else(|| "-".into());
        table.row([cells(item, &names), vec![cause]].concat());
    }
    table
}

/// Prints one order.
///
/// # Errors
/// There is no such order, or nobody answers.
pub async fn order(client: &Client, args: &OrderArgs, format: Format) -> Result<Exit, Failure> {
    let answer = client.call(&args.read.get(format!("/v1/orders/{}", encode(&args.id)))).await?;
    let order = answer.json()?;
    format.print(&order, "", || order_text(&order));
    if format.is_table() {
        freshness(&answer);
    }
    Ok(Exit::Ok)
}

fn order_text(order: &Value) -> String {
    let currency = plain(&order["currency"]);
    let amount = |value: &Value| value.as_i64().map_or_else(|| plain(value), |minor| money(minor, &currency));
    let mut out = format!("order     {}\n", plain(&order["id"]));
    for (label, name) in [
        ("status", "status"),
        ("customer", "customer_id"),
        ("created", "created_at"),
        ("updated", "updated_at"),
        ("pay by", "pay_by"),
    ] {
        if !order[name].is_null() {
            out.push_str(&format!("{label:<9} {}\n", plain(&order[name])));
        }
    }
    for (name, value) in order["metadata"].as_object().into_iter().flatten() {
        out.push_str(&format!("{name:<9} {}\n", plain(value)));
    }
    out.push('\n');
    let mut table = Table::new(&[
        "SKU",
        "LOCATION",
        ">QUANTITY",
        ">SHIPPED",
        ">RETURNED",
        &format!(">AMOUNT {currency}"),
    ]);
    for line in list(order, "lines") {
        let names = ["sku", "location", "quantity", "shipped", "returned"];
        table.row([cells(line, &names), vec![amount(&line["amount_minor"])]].concat());
    }
    out.push_str(&format!("{}\n", table.render()));
    let mut table = Table::new(&["", &format!(">{currency}")]);
    for (label, name) in [
        ("due", "due_minor"),
        ("paid", "paid_minor"),
        ("owed back", "refund_owed_minor"),
        ("refunded", "refunded_minor"),
    ] {
        table.row(vec![label.into(), amount(&order[name])]);
    }
    out.push_str(&table.render());
    out
}
