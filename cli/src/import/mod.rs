//! `stockctl import`: files of items and orders into the shop.
//!
//! Nothing is kept on this side: an import can be stopped at any point, also by `kill -9`, and run
//! again at any later time. Items and orders have ids of their own, which protect them for ever;
//! how the receiving of stock is protected is told in [`stock`].

pub mod batch;
mod input;
mod items;
mod orders;
mod refused;
mod row;
mod stock;

use crate::{
    client::{Answer, Call, Client, encode},
    output::Format,
    problem::{Exit, Failure},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{
    collections::HashMap,
    io::IsTerminal,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often progress is written where nobody watches a bar.
const PLAIN_PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// The largest page of a list.
const PAGE: usize = 1000;
/// How long calls under way may take to end after Ctrl-C.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// What to import.
#[derive(Debug, clap::Subcommand)]
pub enum Import {
    /// Items: one JSON object a line with `sku`, perhaps `name`, `price` and `attributes`; other fields become attributes
    #[command(after_help = "Example:\n  stockctl import items products.ndjson.gz")]
    Items(Common),
    /// Orders: one JSON object a line, `{"order_id","customer_id","location","placed_at","lines":[{"sku","quantity","amount_cents"}]}` or as in the API
    #[command(after_help = ORDERS_HELP)]
    Orders(OrdersArgs),
}

const ORDERS_HELP: &str = "\
An order's own id is its id in the shop: running an import again, also days later, stores nothing twice.
Refused orders are written to FILE.refused.ndjson with the reason; the import goes on.

Examples:
  stockctl import orders --receive-stock orders.ndjson.gz
  stockctl import orders --refused refused.ndjson monday.ndjson tuesday.ndjson
  zcat orders.ndjson.gz | head -1000 | stockctl import orders -";

/// What both imports take.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// Newline-delimited JSON, plain or gzip; `-` is stdin
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<String>,
    /// Batches under way at once, over all nodes
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub in_flight: u16,
    /// Rows of one batch
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub batch: u16,
    /// Give up when nothing has gone on for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub give_up_after: u64,
    /// Where refused rows go, instead of FILE.refused.ndjson
    #[arg(long, value_name = "PATH")]
    pub refused: Option<String>,
}

/// What `import orders` takes beyond that.
#[derive(Debug, clap::Args)]
pub struct OrdersArgs {
    #[command(flatten)]
    common: Common,
    /// First receive what the orders of the files need and is not there. Safe to run again
    #[arg(long)]
    receive_stock: bool,
    /// Currency (ISO 4217) of orders that name none
    #[arg(long, value_name = "CODE", default_value = "USD")]
    currency: String,
}

impl Import {
    /// How long the client asks again while nothing goes on.
    pub fn give_up_after(&self) -> Duration {
        Duration::from_secs(self.common().give_up_after)
    }

    fn common(&self) -> &Common {
        match self {
            Import::Items(common) => common,
            Import::Orders(args) => &args.common,
        }
    }
}

/// Runs the import; Ctrl-C and SIGTERM end it at the next safe point, which is any.
///
/// # Errors
/// It could not go on. What was done until then is printed before.
pub async fn run(client: Client, import: &Import, format: Format) -> Result<Exit, Failure> {
    let client = Arc::new(client);
    tokio::spawn(stop_on_signal(client.clone()));
    match import {
        Import::Items(common) => items::run(&client, common, format).await,
        Import::Orders(args) => orders::run(&client, args, format).await,
    }
}

async fn stop_on_signal(client: Arc<Client>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return; // without handlers a signal ends the process at once, which is as safe
    };
    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    client.stop();
    eprintln!("stopping: waiting for the calls under way (again to stop at once)");
    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, () = tokio::time::sleep(STOP_WITHIN) => {} }
    eprintln!("stopped at once. Run the same command again: it goes on, and nothing is done twice");
    std::process::exit(Exit::Error as i32);
}

impl Common {
    fn refused_path(&self) -> String {
        let of = |file: &str| {
            if file == "-" { "stdin.refused.ndjson".into() } else { format!("{file}.refused.ndjson") }
        };
        self.refused.clone().unwrap_or_else(|| of(&self.files[0]))
    }
}

/// A bar on a terminal, a line every two seconds elsewhere; both on stderr.
pub struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: Option<u64>,
    last: Instant,
}

impl Progress {
    /// `total` is in units of [`Progress::show`]'s `done`.
    pub fn new(what: &'static str, total: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            let template = if total.is_some() {
                "{prefix:>8} [{bar:30}] {percent:>3}% {elapsed_precise} {msg}"
            } else {
                "{prefix:>8} {spinner} {elapsed_precise} {msg}"
            };
            bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
            bar.with_prefix(what)
        });
        Progress { bar, what, total, last: Instant::now() }
    }

    /// Says how far it is; not more often than anyone can read.
    pub fn show(&mut self, done: u64, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(message());
        } else if self.last.elapsed() >= PLAIN_PROGRESS_EVERY {
            self.last = Instant::now();
            let percent = self.total.filter(|t| *t > 0).map(|t| format!(" {}%", done.min(t) * 100 / t));
            eprintln!("{}:{} {}", self.what, percent.unwrap_or_default(), message());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What the shop knows of an item, as far as imports care.
#[derive(Debug, Clone, Deserialize, PartialEq)]
pub struct KnownItem {
    sku: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    price: Option<Value>,
    #[serde(default)]
    attributes: Option<Map<String, Value>>,
    /// Retired items take no new orders and no stock.
    #[serde(default)]
    retired: bool,
}

#[derive(Deserialize)]
struct ItemsPage {
    items: Vec<KnownItem>,
    next_cursor: Option<String>,
}

/// Every item of the shop.
async fn known_items(client: &Client) -> Result<HashMap<String, KnownItem>, Failure> {
    let mut known = HashMap::new();
    let mut cursor = None::<String>;
    loop {
        let from = cursor.map(|c| format!("&cursor={}", encode(&c))).unwrap_or_default();
        let answer = client.call(&Call::get(format!("/v1/items?limit={PAGE}{from}"))).await?;
        let page: ItemsPage = answer.parse()?;
        known.extend(page.items.into_iter().map(|item| (item.sku.clone(), item)));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(known);
        }
        if client.stopping() {
            return Err(crate::client::interrupted());
        }
    }
}

/// The index up to which the answer shows everything.
fn applied_index(answer: &Answer) -> Option<u64> {
    answer.number("stockroom-applied-index")
}

/// A key prefix that no other run has, for writes that are protected by more than their key.
fn run_key() -> String {
    format!("stockctl-{:032x}", rand::random::<u128>())
}
