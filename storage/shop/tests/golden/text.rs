//! What the shop says, as people write it.

use std::fmt::Write as _;
use stockroom_shop::effect::{Kept, Outcome, Rejection, Reply, StockLevel};
use stockroom_shop::ids::{Location, Sku, TimestampMs};
use stockroom_shop::item::Item;
use stockroom_shop::order::Order;
use stockroom_shop::reservation::{Reservation, ReservationStatus};
use stockroom_shop::stock::{Cause, Counters, Movement};

const MINUTE: u64 = 60_000;

/// Time since the script began: `0:15`, `1:00:07.500`.
pub fn clock(time: TimestampMs) -> String {
    let ms = time.0;
    let mut text = match ms / 3_600_000 {
        0 => format!("0:{:02}", ms / MINUTE),
        hours => format!("{hours}:{:02}", ms / MINUTE % 60),
    };
    if !ms.is_multiple_of(MINUTE) {
        write!(text, ":{:02}", ms / 1000 % 60).unwrap();
    }
    if !ms.is_multiple_of(1000) {
        write!(text, ".{:03}", ms % 1000).unwrap();
    }
    text
}

pub fn stock_text(sku: &Sku, location: &Location) -> String {
    if *location == Location::main() { sku.to_string() } else { format!("{sku}@{location}") }
}

pub fn counters_text(c: &Counters) -> String {
    let Counters { on_hand, reserved, allocated } = c;
    format!("on_hand={on_hand} reserved={reserved} allocated={allocated} available={}", c.available())
}

/// A variant as people write it: `PartlyShipped` is `partly shipped`.
pub fn spelled(variant: &impl std::fmt::Debug) -> String {
    let mut text = String::new();
    for c in format!("{variant:?}").chars() {
        if c.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

pub fn movement_text(m: &Movement) -> String {
    let cause = match &m.cause {
        Cause::Order(name) => format!("order {name}"),
        Cause::Reservation(id) => format!("reservation {id}"),
        Cause::Key(key) => format!("key {key}"),
    };
    let kind = spelled(&m.kind);
    format!(
        "  {kind} {} x{} by {cause}: {}",
        stock_text(&m.sku, &m.location),
        m.quantity,
        counters_text(&m.after)
    )
}

pub fn order_text(o: &Order) -> String {
    let mut text = format!("order {} {}", o.shown_id(), spelled(&o.status));
    write!(text, " due={} paid={}", o.due_minor, o.paid_minor).unwrap();
    if o.refund_owed_total_minor > 0 {
        write!(text, " owed={} refunded={}", o.refund_owed_minor(), o.refunded_minor).unwrap();
    }
    if let Some(reason) = &o.cancel_reason {
        write!(text, " because {reason}").unwrap();
    }
    text
}

pub fn order_details(o: &Order) -> String {
    let mut text = String::new();
    for line in &o.lines {
        let name = stock_text(&line.sku, &line.location);
        write!(text, "  {name} x{} for {}", line.quantity.units(), line.amount_minor).unwrap();
        writeln!(
            text,
            ", {} shipped, {} returned, {} cancelled",
            line.shipped, line.returned, line.cancelled
        )
        .unwrap();
    }
    let currency = o.currency.map_or_else(|| "none".to_owned(), |currency| currency.to_string());
    writeln!(
        text,
        "  currency {currency}, placed at {}, changed at {}",
        clock(o.created_at),
        clock(o.updated_at)
    )
    .unwrap();
    if !o.metadata.is_empty() || !o.references.is_empty() {
        writeln!(text, "  metadata {:?}, references {:?}", o.metadata, o.references).unwrap();
    }
    text
}

pub fn reservation_text(r: &Reservation) -> String {
    let lines: Vec<_> = r
        .lines
        .iter()
        .map(|l| format!(" {} x{}", stock_text(&l.sku, &l.location), l.quantity.units()))
        .collect();
    let status = spelled(&r.status);
    let until = if r.status == ReservationStatus::Held {
        format!(" until {}", clock(r.expires_at))
    } else {
        String::new()
    };
    format!("reservation {} {status}{}{until}", r.id, lines.join(","))
}

pub fn item_text(i: &Item) -> String {
    let price = i.price.map_or_else(String::new, |p| format!(" at {}{}", p.amount_minor, p.currency));
    format!(
        "item {} {:?}{price} version {}{}",
        i.sku,
        i.name,
        i.version,
        if i.retired { " retired" } else { "" }
    )
}

pub fn outcome_text(outcome: &Outcome) -> String {
    let made = |created: &bool| if *created { "made " } else { "" };
    match outcome {
        Ok(Reply::Item { item, created }) => format!("{}{}", made(created), item_text(item)),
        Ok(Reply::Stock(levels)) => {
            let level = |s: &StockLevel| {
                format!("{} {}", stock_text(&s.sku, &s.location), counters_text(&s.counters))
            };
            levels.iter().map(level).collect::<Vec<_>>().join("\n")
        }
        Ok(Reply::Reservation { reservation, created }) => {
            format!("{}{}", made(created), reservation_text(reservation))
        }
        Ok(Reply::Order { order, created }) => format!("{}{}", made(created), order_text(order)),
        Ok(Reply::Settled(None)) => "settled: no outcome, and none to come".to_owned(),
        Ok(Reply::Settled(Some(receipt))) => {
            let kept = match &receipt.outcome {
                Kept::Placed(_) => "a placed order".to_owned(),
                Kept::Outcome(outcome) => outcome_text(outcome),
                Kept::Abandoned => "abandoned before".to_owned(),
            };
            format!("settled in entry {}: {kept}", receipt.place.index)
        }
        Ok(Reply::Done) => "done".to_owned(),
        Ok(Reply::Settings(s)) => format!(
            "settings retention={}ms releases={} drops={} metadata={}",
            s.receipt_retention_ms, s.releases_per_step, s.receipt_drops_per_step, s.metadata_entries
        ),
        Err(Rejection::OrderWrongState { status, allowed, .. }) => {
            let allowed: Vec<_> = allowed.iter().map(spelled).collect();
            format!("refused: is {}, has to be {}", spelled(status), allowed.join(" or "))
        }
        Err(Rejection::OutOfStock(short)) => {
            let short = short
                .iter()
                .map(|s| format!("{} x{} of {}", stock_text(&s.sku, &s.location), s.requested, s.available));
            format!("refused: out of stock: {}", short.collect::<Vec<_>>().join(", "))
        }
        Err(rejection @ (Rejection::UnknownSku(skus) | Rejection::Retired(skus))) => {
            let skus: Vec<_> = skus.iter().map(ToString::to_string).collect();
            format!("refused: {rejection}: {}", skus.join(", "))
        }
        Err(rejection) => format!("refused: {rejection}"),
    }
}
