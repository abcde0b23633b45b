//! `--receive-stock`: receives what the orders of the files need and is not there.
//!
//! Receiving has no id of its own, and idempotency keys are forgotten after a day. So nothing relies
//! on remembering; each run works out anew what is missing, from what the shop shows:
//!
//!     missing(SKU, location) = what the orders need that are not stored yet - available
//!
//! With nothing missing, nothing is received, however long ago the first run was, and whatever has
//! been shipped, cancelled or received since. What remains are writes of an earlier run that were
//! still under way when it died:
//!
//! - *Its orders.* Stock is read first, and only then which orders are stored (all reads are
//!   linearizable). An order that is stored in between counts as taken care of although its units
//!   were still free when the stock was read: too little may be received, never too much. (And a run
//!   stores orders only after all its receipts are settled, so there is nothing missing then.)
//! - *Its receipts.* A call that has not been applied when the stock is read may be applied later. So its
//!   key is made from everything it was computed from: the lines, the units on hand that were seen, and
//!   the orders they are for. A later run that sees the same asks with the same key and the same body,
//!   and the server applies one of the two. One that sees something else does so because the call
//!   has been applied, and finds nothing missing. For this the lines of a call must not depend on
//!   how far the earlier run came: pairs are cut into calls once, over the whole files, and a call is
//!   all or nothing.
//!
//! Within a run each call is repeated under its key until it is settled, before any order is sent.
//! What this does not protect against is a *second, different* change of the same stock in the
//! seconds in which a dead run's call may still come through. Too little is no loss either: the
//! orders are refused as out of stock, and the next run receives for them.

use super::{
    Common, OrdersArgs, Progress,
    input::{Lines, Position},
    known_items,
    row::OrderRow,
};
use crate::{
    client::{Call, Client, encode, interrupted},
    output::count,
    problem::{Exit, Failure},
};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Lines of one `POST /stock/receive`.
const LINES: usize = 500;
/// SKUs of one `GET /stock`.
const SKUS: usize = 100;
/// The most that one line can receive.
const MAX_QUANTITY: u64 = 1_000_000_000;
/// Look-ups of single orders under way at once. Each is small, so there are more of them than batches.
const LOOKUPS: usize = 64;

/// What was received.
#[derive(Debug, Default, Clone, Copy)]
pub struct Received {
    /// Pairs of SKU and location that were short.
    pub pairs: u64,
    /// Units received for them.
    pub units: u64,
}

/// One SKU at one location.
struct Pair {
    sku: Arc<str>,
    location: Arc<str>,
    /// What all orders of the files need.
    needed: u64,
    /// What those need that are not stored; filled in for pairs that are short of `needed`.
    needed_now: u64,
    /// Stands for the set of those orders.
    orders: u64,
    on_hand: u64,
    available: u64,
}

struct Order {
    id: String,
    lines: Vec<(u32, u64)>,
}

/// What the files need, of what the shop can take.
#[derive(Default)]
struct Plan {
    pairs: Vec<Pair>,
    orders: Vec<Order>,
}

/// Receives what is missing.
///
/// # Errors
/// It cannot be learnt what is missing, or a receipt is refused or cannot be settled.
pub async fn receive(client: &Client, args: &OrdersArgs) -> Result<Received, Failure> {
    eprintln!("stock: reading what the orders need");
    let known: HashSet<String> =
        known_items(client).await?.into_values().filter(|item| !item.retired).map(|item| item.sku).collect();
    let mut plan = Plan::read(&args.common, &known)?;
    let in_flight = args.common.in_flight.into();
    plan.read_stock(client, in_flight).await?;
    plan.count_needed_now(client).await?;
    plan.receive(client, in_flight).await
}

impl Plan {
    fn read(common: &Common, known: &HashSet<String>) -> Result<Plan, Failure> {
        let mut plan = Plan::default();
        let mut index: HashMap<(Arc<str>, Arc<str>), u32> = HashMap::new();
        let mut seen: HashSet<String> = HashSet::new();
        for path in &common.files {
            let mut lines = Lines::open(path, &Position::default())?;
            while let Some((_, text)) = lines.next()? {
                let Ok(row) = serde_json::from_slice::<OrderRow>(text) else { continue };
                // The first row of an id is the one that is sent.
                if seen.insert(row.order_id.clone())
                    && row.well_formed()
                    && row.lines.iter().all(|line| known.contains(&line.sku))
                {
                    plan.add(&row, &mut index);
                }
            }
        }
        plan.sort();
        Ok(plan)
    }

    fn add(&mut self, row: &OrderRow, index: &mut HashMap<(Arc<str>, Arc<str>), u32>) {
        let mut lines = Vec::with_capacity(row.lines.len());
        for line in &row.lines {
            let units = line.units().expect("a well-formed row has only such lines");
            let key: (Arc<str>, Arc<str>) = (line.sku.as_str().into(), row.location_of(line).into());
            let at = *index.entry(key).or_insert_with_key(|(sku, location)| {
                let (sku, location) = (sku.clone(), location.clone());
                self.pairs.push(Pair {
                    sku,
                    location,
                    needed: 0,
                    needed_now: 0,
                    orders: 0,
                    on_hand: 0,
                    available: 0,
                });
                (self.pairs.len() - 1) as u32
            });
            self.pairs[at as usize].needed += units;
            lines.push((at, units));
        }
        self.orders.push(Order { id: row.order_id.clone(), lines });
    }

    /// By SKU and location, so that the calls are the same whatever the order of the rows.
    fn sort(&mut self) {
        let mut order: Vec<usize> = (0..self.pairs.len()).collect();
        order.sort_unstable_by_key(|i| (self.pairs[*i].sku.clone(), self.pairs[*i].location.clone()));
        let mut place = vec![0u32; order.len()];
        for (new, old) in order.iter().enumerate() {
            place[*old] = new as u32;
        }
        self.pairs.sort_unstable_by_key(|pair| (pair.sku.clone(), pair.location.clone()));
        for (at, _) in self.orders.iter_mut().flat_map(|order| &mut order.lines) {
            *at = place[*at as usize];
        }
    }

    async fn read_stock(&mut self, client: &Client, in_flight: usize) -> Result<(), Failure> {
        let mut skus: Vec<Arc<str>> = self.pairs.iter().map(|pair| pair.sku.clone()).collect();
        skus.dedup();
        let mut progress = Progress::new("stock", Some(skus.len() as u64));
        let reads = skus.chunks(SKUS).map(|chunk| read_levels(client, chunk));
        let mut reads = stream::iter(reads).buffer_unordered(in_flight);
        let mut levels: HashMap<String, Vec<LevelAt>> = HashMap::new();
        while let Some(page) = reads.try_next().await? {
            levels.extend(page.into_iter().map(|item| (item.sku, item.locations)));
            progress.show(levels.len() as u64, || format!("{} SKUs read", count(levels.len() as u64)));
        }
        for pair in &mut self.pairs {
            let at =
                levels.get(&*pair.sku).and_then(|all| all.iter().find(|l| *l.location == *pair.location));
            (pair.on_hand, pair.available) = at.map_or((0, 0), |l| (l.on_hand, l.available));
        }
        Ok(())
    }

    fn short(&self, at: u32) -> bool {
        let pair = &self.pairs[at as usize];
        pair.needed > pair.available
    }

    /// Must come after [`Plan::read_stock`]; the head of this file says why.
    async fn count_needed_now(&mut self, client: &Client) -> Result<(), Failure> {
        let touching: Vec<&Order> =
            self.orders.iter().filter(|order| order.lines.iter().any(|(at, _)| self.short(*at))).collect();
        let mut unstored: Vec<&Order> = Vec::new();
        if touching.is_empty() || !any_order(client).await? {
            unstored = touching;
        } else {
            let mut progress = Progress::new("orders", Some(touching.len() as u64));
            let lookups =
                touching.iter().map(|order| async move { Ok((*order, is_stored(client, &order.id).await?)) });
            let mut lookups = stream::iter(lookups).buffer_unordered(LOOKUPS);
            let mut done = 0;
            while let Some((order, stored)) = lookups.try_next().await? {
                done += 1;
                if !stored {
                    unstored.push(order);
                }
                progress.show(done, || {
                    format!("{} looked up, {} not stored yet", count(done), count(unstored.len() as u64))
                });
            }
        }
        let needs: Vec<(u32, u64, u64)> = unstored
            .iter()
            .flat_map(|order| {
                order.lines.iter().map(|(at, units)| (*at, *units, xxh3_64(order.id.as_bytes())))
            })
            .collect();
        for (at, units, order) in needs {
            let pair = &mut self.pairs[at as usize];
            pair.needed_now += units;
            // A sum, because look-ups end in any order.
            pair.orders = pair.orders.wrapping_add(order);
        }
        Ok(())
    }

    async fn receive(&self, client: &Client, in_flight: usize) -> Result<Received, Failure> {
        let calls: Vec<(Received, Vec<Call>)> =
            self.pairs.chunks(LINES).map(calls).filter(|(_, calls)| !calls.is_empty()).collect();
        let mut progress = Progress::new("stock", Some(calls.len() as u64));
        let mut received = Received::default();
        let mut done = 0;
        let sends = calls.iter().map(|(what, calls)| async move {
            for call in calls {
                client.call(call).await?;
            }
            Ok::<_, Failure>(what)
        });
        let sends = stream::iter(sends).take_until(client.stopped()).buffer_unordered(in_flight);
        let mut sends = std::pin::pin!(sends);
        while let Some(what) = sends.try_next().await? {
            done += 1;
            received.pairs += what.pairs;
            received.units += what.units;
            progress.show(done, || format!("{} units received", count(received.units)));
        }
        if client.stopping() { Err(interrupted()) } else { Ok(received) }
    }
}

/// The calls for one window of pairs: one, but for stock that needs more than a line can receive.
fn calls(window: &[Pair]) -> (Received, Vec<Call>) {
    let mut missing: Vec<u64> = window.iter().map(|p| p.needed_now.saturating_sub(p.available)).collect();
    let pairs = missing.iter().filter(|units| **units > 0).count() as u64;
    let total = Received { pairs, units: missing.iter().sum() };
    let mut calls = Vec::new();
    while missing.iter().any(|units| *units > 0) {
        let mut lines = Vec::new();
        let mut seen = format!("{}\n", calls.len());
        for (pair, missing) in window.iter().zip(&mut missing).filter(|(_, missing)| **missing > 0) {
            let quantity = (*missing).min(MAX_QUANTITY);
            *missing -= quantity;
            lines.push(json!({"sku": *pair.sku, "location": *pair.location, "quantity": quantity}));
            let Pair { sku, location, on_hand, orders, .. } = pair;
            seen.push_str(&format!("{sku} {location} {quantity} {on_hand} {orders}\n"));
        }
        let key = format!("stockctl-receive-{:032x}", xxh3_128(seen.as_bytes()));
        calls.push(Call::post("/v1/stock/receive", json!({ "lines": lines }).to_string()).key(key));
    }
    (total, calls)
}

#[derive(Deserialize)]
struct Levels {
    items: Vec<LevelsOf>,
}

#[derive(Deserialize)]
struct LevelsOf {
    sku: String,
    locations: Vec<LevelAt>,
}

#[derive(Deserialize)]
struct LevelAt {
    location: String,
    on_hand: u64,
    available: u64,
}

async fn read_levels(client: &Client, skus: &[Arc<str>]) -> Result<Vec<LevelsOf>, Failure> {
    if client.stopping() {
        return Err(interrupted());
    }
    let query: Vec<String> = skus.iter().map(|sku| format!("sku={}", encode(sku))).collect();
    let answer = client.call(&Call::get(format!("/v1/stock?{}", query.join("&")))).await?;
    let levels: Levels = answer.parse()?;
    // A SKU that is left out would count as out of stock, and be received for again.
    if levels.items.len() != skus.len() {
        return Err(Failure::contract(
            &answer.endpoint,
            format!("stock of {} SKUs where {} were asked for", levels.items.len(), skus.len()),
        ));
    }
    Ok(levels.items)
}

async fn any_order(client: &Client) -> Result<bool, Failure> {
    let page = client.call(&Call::get("/v1/orders?limit=1")).await?.json()?;
    Ok(page["items"].as_array().is_none_or(|items| !items.is_empty()))
}

async fn is_stored(client: &Client, id: &str) -> Result<bool, Failure> {
    if client.stopping() {
        return Err(interrupted());
    }
    match client.call(&Call::get(format!("/v1/orders/{}", encode(id)))).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.exit == Exit::NotFound => Ok(false),
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(sku: &str, needed_now: u64, available: u64) -> Pair {
        Pair {
            sku: sku.into(),
            location: "main".into(),
            needed: 9,
            needed_now,
            orders: 1,
            on_hand: available,
            available,
        }
    }

    fn key(call: &Call) -> &str {
        call.key.as_deref().unwrap()
    }

    #[test]
    fn only_what_is_missing_is_received() {
        let (what, sent) = calls(&[pair("a", 5, 0), pair("b", 5, 5), pair("c", 5, 7), pair("d", 5, 3)]);
        assert_eq!((what.pairs, what.units, sent.len()), (2, 7, 1));
        let body: serde_json::Value = serde_json::from_slice(sent[0].body.as_ref().unwrap()).unwrap();
        assert_eq!(
            body,
            json!({"lines": [{"sku": "a", "location": "main", "quantity": 5}, {"sku": "d", "location": "main", "quantity": 2}]})
        );
        assert!(calls(&[pair("a", 5, 5)]).1.is_empty());
    }

    #[test]
    fn the_same_view_asks_under_the_same_key_and_any_other_view_under_another() {
        let of = |pair: Pair| key(&calls(&[pair]).1[0]).to_owned();
        let first = of(pair("a", 5, 0));
        assert_eq!(first, of(pair("a", 5, 0)));
        assert_ne!(first, of(pair("a", 6, 1)), "other units on hand");
        assert_ne!(first, of(Pair { orders: 2, ..pair("a", 5, 0) }), "for other orders");
    }

    #[test]
    fn more_than_a_line_can_receive_goes_into_several_calls() {
        let (what, sent) = calls(&[pair("a", 2_500_000_000, 0)]);
        assert_eq!((what.units, sent.len()), (2_500_000_000, 3));
        assert_ne!(key(&sent[0]), key(&sent[1]));
    }
}
