//! Calls and answers in words.

use super::html::span;
use crate::history::{Answer, Call, Consistency, Counters, Line, Op, Outcome, Settled, StockSeen};

/// Longest list spelled out; a page of movements would drown the table.
const LISTED: usize = 12;

fn joined<T>(items: &[T], one: impl Fn(&T) -> String) -> String {
    let mut words: Vec<String> = items.iter().take(LISTED).map(one).collect();
    if items.len() > LISTED {
        words.push(format!("and {} more", items.len() - LISTED));
    }
    words.join(", ")
}

fn lines(lines: &[Line]) -> String {
    joined(lines, |line| match &line.location {
        Some(location) => format!("{} ×{} at {location}", line.sku, line.quantity),
        None => format!("{} ×{}", line.sku, line.quantity),
    })
}

fn level(consistency: &Consistency) -> String {
    match consistency {
        Consistency::Linearizable => "linearizable".to_owned(),
        Consistency::Session(None) => "session".to_owned(),
        Consistency::Session(Some(token)) => format!("session {token}"),
        Consistency::Bounded(ms) => format!("at most {ms} ms old"),
        Consistency::Stale => "stale".to_owned(),
    }
}

/// What was asked.
pub(super) fn call(call: &Call) -> String {
    match call {
        Call::PutItem { sku } => format!("put item {sku}"),
        Call::Receive { lines: all } => format!("receive {}", lines(all)),
        Call::Transfer { sku, from, to, quantity } => {
            format!("transfer {sku} ×{quantity} from {from} to {to}")
        }
        Call::PlaceOrder { id, lines: all, reservation_id } => {
            let id = id.as_deref().unwrap_or("(new id)");
            let from =
                reservation_id.as_ref().map(|id| format!(", from reservation {id}")).unwrap_or_default();
            format!("place order {id}: {}{from}", lines(all))
        }
        Call::CancelOrder { id } => format!("cancel order {id}"),
        Call::Reserve { id, ttl_ms, lines: all } => format!("reserve {id} for {ttl_ms} ms: {}", lines(all)),
        Call::Confirm { id } => format!("confirm reservation {id}"),
        Call::CancelReservation { id } => format!("cancel reservation {id}"),
        Call::Extend { id, ttl_ms } => format!("extend reservation {id} to {ttl_ms} ms from now"),
        Call::ReadStock { skus, consistency } => {
            format!("read stock of {} ({})", joined(skus, String::clone), level(consistency))
        }
        Call::ReadMovements { skus, consistency } => {
            format!("read movements of {} ({})", joined(skus, String::clone), level(consistency))
        }
        Call::ReadReservation { id, consistency } => {
            format!("read reservation {id} ({})", level(consistency))
        }
        Call::ReadOrder { id, consistency } => format!("read order {id} ({})", level(consistency)),
        Call::ListOrders { consistency } => format!("list orders ({})", level(consistency)),
    }
}

/// What was asked, as short as fits beside a bar.
pub(super) fn brief(call: &Call, sku: Option<&str>) -> String {
    let units = |lines: &[Line]| match sku {
        Some(sku) => {
            let units: u64 = lines.iter().filter(|line| line.sku == sku).map(|line| line.quantity).sum();
            format!("×{units}")
        }
        None => joined(lines, |line| format!("{}×{}", line.sku, line.quantity)),
    };
    match call {
        Call::PutItem { .. } => "put".to_owned(),
        Call::Receive { lines } => format!("receive {}", units(lines)),
        Call::Transfer { quantity, .. } => format!("transfer ×{quantity}"),
        Call::PlaceOrder { lines, .. } => format!("order {}", units(lines)),
        Call::CancelOrder { .. } => "cancel order".to_owned(),
        Call::Reserve { lines, .. } => format!("reserve {}", units(lines)),
        Call::Confirm { .. } => "confirm".to_owned(),
        Call::CancelReservation { .. } => "cancel reserv.".to_owned(),
        Call::Extend { .. } => "extend".to_owned(),
        Call::ReadStock { .. } => "read".to_owned(),
        Call::ReadMovements { .. } => "movements".to_owned(),
        Call::ReadReservation { .. } => "read reserv.".to_owned(),
        Call::ReadOrder { .. } => "read order".to_owned(),
        Call::ListOrders { .. } => "list".to_owned(),
    }
}

/// How it ended, as short as fits beside a bar.
pub(super) fn brief_end(op: &Op, sku: Option<&str>) -> String {
    match &op.outcome {
        Some(Outcome::Ok { answer: Answer::Stock { items }, .. }) => {
            let wanted = items.iter().find(|item| sku.is_none_or(|sku| item.sku == sku));
            wanted.map_or("nothing".to_owned(), |item| format!("{} available", item.total.available))
        }
        Some(Outcome::Ok { answer: Answer::Refused { code, .. }, .. }) => code.clone(),
        Some(Outcome::Ok { .. }) => "ok".to_owned(),
        Some(Outcome::Fail { .. }) => "fail".to_owned(),
        Some(Outcome::Info { .. }) | None => match &op.settled {
            Some((_, Settled::Happened { .. })) => "unknown, later: it happened".to_owned(),
            Some((_, Settled::Abandoned)) => "unknown, later: it never will".to_owned(),
            None => "unknown".to_owned(),
        },
    }
}

fn counters(counters: &Counters) -> String {
    let Counters { on_hand, reserved, allocated, available } = counters;
    format!("{on_hand} on hand, {reserved} reserved, {allocated} allocated, {available} available")
}

fn stock(item: &StockSeen) -> String {
    let mut text = format!("{}: {}", item.sku, counters(&item.total));
    if item.locations.len() > 1 {
        let each: Vec<String> =
            item.locations.iter().map(|(location, seen)| format!("{location}: {}", counters(seen))).collect();
        text.push_str(&format!(" ({})", each.join("; ")));
    }
    text
}

fn at(index: Option<u64>) -> String {
    index.map(|index| format!(" at index {index}")).unwrap_or_default()
}

/// What an answer says.
pub(super) fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Done { log_index } => format!("done{}", at(*log_index)),
        Answer::Order(order) => {
            format!(
                "order {} is {}: {}{}",
                order.id,
                order.status,
                lines(&order.lines),
                at(Some(order.log_index))
            )
        }
        Answer::Reservation(seen) => format!(
            "reservation {} is {} until {}: {}{}",
            seen.id,
            seen.status,
            seen.expires_at,
            lines(&seen.lines),
            at(Some(seen.log_index))
        ),
        Answer::Stock { items } if items.is_empty() => "no stock".to_owned(),
        Answer::Stock { items } => joined(items, stock),
        Answer::Movements { items } => {
            let each = joined(items, |seen| {
                format!(
                    "{} {} {:+} by {} at {}",
                    seen.sku, seen.kind, seen.quantity, seen.cause, seen.log_index
                )
            });
            format!("{} movements, newest first: {each}", items.len())
        }
        Answer::Orders { items } => {
            format!(
                "{} orders: {}",
                items.len(),
                joined(items, |order| format!("{} {}", order.id, order.status))
            )
        }
        Answer::Refused { status, code, shortages } => {
            let short = joined(shortages, |short| {
                format!(
                    "{} at {}: {} wanted, {} available",
                    short.sku, short.location, short.requested, short.available
                )
            });
            let colon = if short.is_empty() { "" } else { ": " };
            format!("refused, {status} {code}{colon}{short}")
        }
    }
}

/// How a call ended, and what was found out later.
pub(super) fn end(op: &Op) -> String {
    let mut text = match &op.outcome {
        Some(Outcome::Ok { answer: said, .. }) => answer(said),
        Some(Outcome::Fail { status: 0, code }) => format!("did not take place: {code}"),
        Some(Outcome::Fail { status, code }) => format!("did not take place: {status} {code}"),
        Some(Outcome::Info { reason }) => format!("unknown: {reason}"),
        None => "unknown: the run ended first".to_owned(),
    };
    match &op.settled {
        Some((_, Settled::Happened { answer: said })) => {
            text.push_str(&format!("; asked at the end: it had happened, {}", answer(said)));
        }
        Some((_, Settled::Abandoned)) => text.push_str("; asked at the end: it had not and never will"),
        None => {}
    }
    text
}

/// All of a call, for a tooltip.
pub(super) fn tip(op: &Op) -> String {
    let took = op.completed.map_or("no end".to_owned(), |end| span(end.saturating_sub(op.invoked)));
    let from = super::html::moment(op.invoked);
    format!(
        "#{} client {} → node {}\n{}\n{}\nat {from}, {took}",
        op.id,
        op.client,
        op.node,
        call(&op.call),
        end(op)
    )
}
