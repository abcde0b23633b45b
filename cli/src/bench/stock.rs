//! A run's own items and stock: made before it, counted after it. Nothing else in the shop is touched.

use super::books::{Books, Check, Levels, Unknown};
use crate::{
    client::{Call, Client},
    import::batch::{self, Command},
    problem::{Exit, Failure},
};
use futures::{StreamExt, TryStreamExt, stream};
use rand::Rng;
use serde::Deserialize;
use std::time::Duration;

/// Items of one `POST /v1/batch`; the most that a batch may have.
const ITEMS_PER_CALL: usize = 1000;
/// Lines of one receipt of stock; the most that a write may have.
const LINES_PER_RECEIPT: u32 = 500;
/// SKUs of one read; the most that a read may have.
const SKUS_PER_READ: u32 = 100;
/// Calls under way at once.
const CALLS_AT_ONCE: usize = 8;
/// Abandonments under way at once.
const SETTLED_AT_ONCE: usize = 32;
/// Preparing gives up when nothing has gone on for so long.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

/// A name that no other run has, short because each line carries it.
pub fn new_prefix() -> String {
    let mut rng = rand::rng();
    let mut letter = || char::from(b"0123456789abcdefghijklmnopqrstuvwxyz"[rng.random_range(0..36)]);
    format!("b{}", (0..8).map(|_| letter()).collect::<String>())
}

/// Makes the items `{prefix}-0..skus` and receives so many units of each.
///
/// # Errors
/// The shop refuses some, or nobody answers.
pub async fn prepare(client: &Client, prefix: &str, skus: u32, units: i64) -> Result<(), Failure> {
    let item = |sku: u32| Command {
        key: format!("{prefix}-item-{sku}"),
        method: "PUT",
        path: format!("/v1/items/{prefix}-{sku}"),
        body: "{}".into(),
    };
    let items: Vec<Command> = (0..skus).map(item).collect();
    send_all(client, &items, ITEMS_PER_CALL).await?;
    let receipt = |from: u32| {
        let line = |sku| format!("{{\"sku\":\"{prefix}-{sku}\",\"quantity\":{units}}}");
        let lines: Vec<String> = (from..skus.min(from + LINES_PER_RECEIPT)).map(line).collect();
        Command {
            key: format!("{prefix}-stock-{from}"),
            method: "POST",
            path: "/v1/stock/receive".into(),
            body: format!("{{\"lines\":[{}]}}", lines.join(",")),
        }
    };
    let receipts: Vec<Command> = (0..skus).step_by(LINES_PER_RECEIPT as usize).map(receipt).collect();
    send_all(client, &receipts, 10).await?;
    everywhere(client, prefix).await;
    Ok(())
}

/// Waits until every node has what was prepared, as one that is behind may answer a `stale` read without it: a
/// linearizable read is answered by a node that has everything before. Who does not answer is none of this.
async fn everywhere(client: &Client, prefix: &str) {
    let call = Call::get(format!("/v1/stock/{prefix}-0"));
    futures::future::join_all(client.endpoints().map(|endpoint| client.ask(endpoint, &call))).await;
}

async fn send_all(client: &Client, commands: &[Command], per_call: usize) -> Result<(), Failure> {
    let calls = commands.chunks(per_call).map(|part| batch::send(client, part, GIVE_UP_AFTER));
    let mut answers = stream::iter(calls).buffer_unordered(CALLS_AT_ONCE);
    while let Some(outcomes) = answers.try_next().await? {
        if let Some(problem) = outcomes.into_iter().find_map(|outcome| outcome.problem) {
            let why = format!("{} {}: {}", problem.status, problem.code, problem.detail);
            return Err(Failure::local(Exit::Error, "not_prepared", "The run's own stock was refused", why));
        }
    }
    Ok(())
}

/// Settles each write without a certain answer: it has happened, or it never will.
pub async fn settle(client: &Client, books: &Books, unknown: Vec<Unknown>, check: &mut Check) {
    let calls = unknown.into_iter().map(|unknown| async {
        let call = Call::post(format!("/v1/outcomes/{}/abandon", unknown.key), "{}");
        let status = client.call(&call).await.and_then(|answer| answer.parse::<Settled>()).map(|s| s.status);
        (unknown, status)
    });
    let mut calls = std::pin::pin!(stream::iter(calls).buffer_unordered(SETTLED_AT_ONCE));
    while let Some((Unknown { write, lines, .. }, status)) = calls.next().await {
        match status {
            Ok(200..300) => {
                books.done(write, &lines);
                check.settled_done += 1;
            }
            Ok(_) => check.settled_not_done += 1,
            Err(_) => {
                books.perhaps(&lines);
                check.unsettled += 1;
            }
        }
    }
}

#[derive(Deserialize)]
struct Settled {
    status: u16,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Stock>,
}

#[derive(Deserialize)]
struct Stock {
    sku: String,
    #[serde(flatten)]
    levels: Levels,
}

/// Compares the stock of every SKU of the run with the books, by linearizable reads.
///
/// # Errors
/// It cannot be read; nothing is then known.
pub async fn count(
    client: &Client,
    prefix: &str,
    skus: u32,
    books: &Books,
    check: &mut Check,
) -> Result<(), Failure> {
    let pages = (0..skus).step_by(SKUS_PER_READ as usize).map(|from| async move {
        let names: Vec<u32> = (from..skus.min(from + SKUS_PER_READ)).collect();
        let query: Vec<String> = names.iter().map(|sku| format!("sku={prefix}-{sku}")).collect();
        let answer = client.call(&Call::get(format!("/v1/stock?{}", query.join("&")))).await?;
        let page = answer.parse::<Page>()?.items;
        let in_order = page.len() == names.len()
            && page.iter().zip(&names).all(|(stock, sku)| stock.sku == format!("{prefix}-{sku}"));
        if !in_order {
            return Err(Failure::contract(&answer.endpoint, "other SKUs than were asked for"));
        }
        Ok(names.into_iter().zip(page).collect::<Vec<_>>())
    });
    let mut pages = std::pin::pin!(stream::iter(pages).buffer_unordered(CALLS_AT_ONCE));
    while let Some(page) = pages.try_next().await? {
        for (sku, stock) in page {
            books.compare(sku, &stock.levels, check);
        }
    }
    Ok(())
}
