//! What goes out: the shop's types as JSON. Made from the shop's answer alone, so that a replay
//! says the same again.

use serde::Serialize;
use serde::ser::Serializer;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use stockroom_storage::shop::effect::StockLevel;
use stockroom_storage::shop::ids::{Currency, MAX_UNITS, Place, Sku, TimestampMs};
use stockroom_storage::shop::item::Item;
use stockroom_storage::shop::order::{Order, OrderLine, OrderStatus};
use stockroom_storage::shop::reservation::{Reservation, ReservationStatus, StockLine};
use stockroom_storage::shop::stock::{Cause, Counters, Movement, MovementKind, Stock};

/// JSON bytes of a body.
pub(crate) fn json(body: &impl Serialize, expected_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(expected_bytes);
    serde_json::to_writer(&mut bytes, body)
        .expect("our bodies have string keys, and a vector takes any bytes");
    bytes
}

pub(crate) const ORDER_STATUSES: [(&str, OrderStatus); 6] = [
    ("placed", OrderStatus::Placed),
    ("paid", OrderStatus::Paid),
    ("partly_shipped", OrderStatus::PartlyShipped),
    ("shipped", OrderStatus::Shipped),
    ("completed", OrderStatus::Completed),
    ("cancelled", OrderStatus::Cancelled),
];

pub(crate) const RESERVATION_STATUSES: [(&str, ReservationStatus); 4] = [
    ("held", ReservationStatus::Held),
    ("confirmed", ReservationStatus::Confirmed),
    ("cancelled", ReservationStatus::Cancelled),
    ("expired", ReservationStatus::Expired),
];

pub(crate) fn order_status(status: OrderStatus) -> &'static str {
    match status {
        OrderStatus::Placed => "placed",
        OrderStatus::Paid => "paid",
        OrderStatus::PartlyShipped => "partly_shipped",
        OrderStatus::Shipped => "shipped",
        OrderStatus::Completed => "completed",
        OrderStatus::Cancelled => "cancelled",
    }
}

pub(crate) fn reservation_status(status: ReservationStatus) -> &'static str {
    match status {
        ReservationStatus::Held => "held",
        ReservationStatus::Confirmed => "confirmed",
        ReservationStatus::Cancelled => "cancelled",
        ReservationStatus::Expired => "expired",
    }
}

fn movement_kind(kind: MovementKind) -> &'static str {
    match kind {
        MovementKind::Received => "received",
        MovementKind::Adjusted => "adjusted",
        MovementKind::TransferredIn => "transferred_in",
        MovementKind::TransferredOut => "transferred_out",
        MovementKind::Reserved => "reserved",
        MovementKind::Released => "released",
        MovementKind::Expired => "expired",
        MovementKind::Consumed => "consumed",
        MovementKind::Allocated => "allocated",
        MovementKind::Deallocated => "deallocated",
        MovementKind::Shipped => "shipped",
        MovementKind::Restocked => "restocked",
    }
}

/// RFC 3339 in UTC with milliseconds. What no calendar reaches is shown as its last moment.
pub(crate) fn timestamp(at: TimestampMs) -> impl std::fmt::Display {
    struct Shown(jiff::Timestamp);
    impl std::fmt::Display for Shown {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{:.3}", self.0)
        }
    }
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    Shown(jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX))
}

fn time<S: Serializer>(at: &TimestampMs, serializer: S) -> Result<S::Ok, S::Error> {
    // All that one entry changed has its stamp, so the last one printed is most often the next one, too.
    thread_local! {
        static LAST: RefCell<(TimestampMs, String)> = const { RefCell::new((TimestampMs(0), String::new())) };
    }
    LAST.with_borrow_mut(|(last, text)| {
        if last != at || text.is_empty() {
            (*last, *text) = (*at, timestamp(*at).to_string());
        }
        serializer.serialize_str(text)
    })
}

fn optional_time<S: Serializer>(at: &Option<TimestampMs>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => time(at, serializer),
        None => serializer.serialize_none(),
    }
}

fn currency<S: Serializer>(currency: &Option<Currency>, serializer: S) -> Result<S::Ok, S::Error> {
    match currency {
        Some(currency) => serializer.collect_str(currency),
        None => serializer.serialize_none(),
    }
}

/// A name as one segment of a path.
pub(crate) fn segment(name: &str) -> Cow<'_, str> {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    // What RFC 3986 leaves unreserved.
    const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    match name {
        // Clients would take these for steps in the path.
        "." => "%2E".into(),
        ".." => "%2E%2E".into(),
        _ => utf8_percent_encode(name, SEGMENT).into(),
    }
}

#[derive(Serialize)]
struct PriceBody {
    amount_minor: u64,
    #[serde(serialize_with = "currency")]
    currency: Option<Currency>,
}

#[derive(Serialize)]
struct ItemBody<'a> {
    sku: &'a str,
    name: &'a str,
    price: Option<PriceBody>,
    attributes: Option<&'a RawValue>,
    retired: bool,
    version: u64,
    #[serde(serialize_with = "time")]
    created_at: TimestampMs,
    #[serde(serialize_with = "time")]
    updated_at: TimestampMs,
    log_index: u64,
}

pub(crate) fn item(item: &Item) -> impl Serialize {
    ItemBody {
        sku: item.sku.as_str(),
        name: &item.name,
        price: item.price.map(|p| PriceBody { amount_minor: p.amount_minor, currency: Some(p.currency) }),
        attributes: serde_json::from_str(item.attributes.as_deref().unwrap_or("{}")).ok(),
        retired: item.retired,
        version: item.version,
        created_at: item.created_at,
        updated_at: item.updated_at,
        log_index: item.log_index,
    }
}

#[derive(Serialize)]
struct CountersBody {
    on_hand: u64,
    reserved: u64,
    allocated: u64,
    available: u64,
}

impl From<Counters> for CountersBody {
    fn from(counters: Counters) -> Self {
        CountersBody {
            on_hand: counters.on_hand,
            reserved: counters.reserved,
            allocated: counters.allocated,
            available: counters.available(),
        }
    }
}

#[derive(Serialize)]
struct LevelBody<'a> {
    sku: &'a str,
    location: &'a str,
    #[serde(flatten)]
    counters: CountersBody,
}

#[derive(Serialize)]
struct LevelsBody<'a> {
    items: Vec<LevelBody<'a>>,
    log_index: u64,
}

/// Stocks after a command that moved them.
pub(crate) fn levels<'a>(levels: &'a [StockLevel], log_index: u64) -> impl Serialize {
    let body = |StockLevel { sku, location, counters }: &'a StockLevel| LevelBody {
        sku: sku.as_str(),
        location: location.as_str(),
        counters: (*counters).into(),
    };
    LevelsBody { items: levels.iter().map(body).collect(), log_index }
}

#[derive(Serialize)]
struct LocationBody<'a> {
    location: &'a str,
    #[serde(flatten)]
    counters: CountersBody,
}

#[derive(Serialize)]
struct StockBody<'a> {
    sku: &'a str,
    #[serde(flatten)]
    counters: CountersBody,
    locations: Vec<LocationBody<'a>>,
}

/// A SKU over all its locations.
pub(crate) fn stock<'a>(sku: &'a Sku, stocks: &'a [Stock]) -> impl Serialize {
    // Each location stays within MAX_UNITS, but not all of them together.
    let sum = |of: fn(&Counters) -> u64| {
        let sum = stocks.iter().fold(0u64, |sum, stock| sum.saturating_add(of(&stock.counters)));
        sum.min(MAX_UNITS)
    };
    let body = |stock: &'a Stock| LocationBody {
        location: stock.location.as_str(),
        counters: stock.counters.into(),
    };
    StockBody {
        sku: sku.as_str(),
        counters: CountersBody {
            on_hand: sum(|counters| counters.on_hand),
            reserved: sum(|counters| counters.reserved),
            allocated: sum(|counters| counters.allocated),
            available: sum(Counters::available),
        },
        locations: stocks.iter().map(body).collect(),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum CauseBody<'a> {
    Order(&'a str),
    Reservation(&'a str),
    Key(&'a str),
}

#[derive(Serialize)]
struct MovementBody<'a> {
    sku: &'a str,
    location: &'a str,
    kind: &'static str,
    quantity: i64,
    on_hand_after: u64,
    reserved_after: u64,
    allocated_after: u64,
    log_index: u64,
    #[serde(serialize_with = "time")]
    at: TimestampMs,
    cause: CauseBody<'a>,
}

pub(crate) fn movement((place, movement): &(Place, Movement)) -> impl Serialize {
    MovementBody {
        sku: movement.sku.as_str(),
        location: movement.location.as_str(),
        kind: movement_kind(movement.kind),
        quantity: movement.quantity,
        on_hand_after: movement.after.on_hand,
        reserved_after: movement.after.reserved,
        allocated_after: movement.after.allocated,
        log_index: place.index,
        at: movement.at,
        cause: match &movement.cause {
            Cause::Order(name) => CauseBody::Order(name.as_str()),
            Cause::Reservation(id) => CauseBody::Reservation(id.as_str()),
            Cause::Key(key) => CauseBody::Key(key.as_str()),
        },
    }
}

#[derive(Serialize)]
struct HeldLineBody<'a> {
    sku: &'a str,
    location: &'a str,
    quantity: u64,
}

fn held_lines<S: Serializer>(lines: &[StockLine], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(lines.iter().map(|line| HeldLineBody {
        sku: line.sku.as_str(),
        location: line.location.as_str(),
        quantity: line.quantity.units(),
    }))
}

#[derive(Serialize)]
struct ReservationBody<'a> {
    id: &'a str,
    status: &'static str,
    #[serde(serialize_with = "time")]
    expires_at: TimestampMs,
    ttl_ms: u64,
    #[serde(serialize_with = "held_lines")]
    lines: &'a [StockLine],
    #[serde(serialize_with = "time")]
    created_at: TimestampMs,
    #[serde(serialize_with = "time")]
    updated_at: TimestampMs,
    log_index: u64,
}

pub(crate) fn reservation(reservation: &Reservation) -> impl Serialize {
    ReservationBody {
        id: reservation.id.as_str(),
        status: reservation_status(reservation.status),
        expires_at: reservation.expires_at,
        ttl_ms: reservation.ttl_ms,
        lines: &reservation.lines,
        created_at: reservation.created_at,
        updated_at: reservation.updated_at,
        log_index: reservation.log_index,
    }
}

#[derive(Serialize)]
struct OrderLineBody<'a> {
    sku: &'a str,
    location: &'a str,
    quantity: u64,
    amount_minor: u64,
    shipped: u32,
    returned: u32,
    cancelled: u32,
}

fn order_lines<S: Serializer>(lines: &[OrderLine], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(lines.iter().map(|line| OrderLineBody {
        sku: line.sku.as_str(),
        location: line.location.as_str(),
        quantity: line.quantity.units(),
        amount_minor: line.amount_minor,
        shipped: line.shipped,
        returned: line.returned,
        cancelled: line.cancelled,
    }))
}

#[derive(Serialize)]
struct OrderBody<'a> {
    id: Cow<'a, str>,
    status: &'static str,
    customer_id: Option<&'a str>,
    #[serde(serialize_with = "currency")]
    currency: Option<Currency>,
    #[serde(serialize_with = "order_lines")]
    lines: &'a [OrderLine],
    due_minor: u64,
    paid_minor: u64,
    refund_owed_minor: u64,
    refunded_minor: u64,
    #[serde(serialize_with = "optional_time")]
    pay_by: Option<TimestampMs>,
    metadata: &'a BTreeMap<Arc<str>, Arc<str>>,
    references: &'a [Arc<str>],
    cancel_reason: Option<&'a str>,
    #[serde(serialize_with = "time")]
    created_at: TimestampMs,
    #[serde(serialize_with = "time")]
    updated_at: TimestampMs,
    log_index: u64,
}

pub(crate) fn order_id(order: &Order) -> Cow<'_, str> {
    order.name.as_ref().map_or_else(|| order.id.to_string().into(), |name| name.as_str().into())
}

pub(crate) fn order(order: &Order) -> impl Serialize {
    OrderBody {
        id: order_id(order),
        status: order_status(order.status),
        customer_id: order.customer_id.as_ref().map(|id| id.as_str()),
        currency: order.currency,
        lines: &order.lines,
        due_minor: order.due_minor,
        paid_minor: order.paid_minor,
        refund_owed_minor: order.refund_owed_minor(),
        refunded_minor: order.refunded_minor,
        pay_by: order.pay_by,
        metadata: &order.metadata,
        references: &order.references,
        cancel_reason: order.cancel_reason.as_deref(),
        created_at: order.created_at,
        updated_at: order.updated_at,
        log_index: order.log_index,
    }
}

/// Bytes that are a good guess for an order's body.
pub(crate) fn order_bytes(order: &Order) -> usize {
    512 + 128 * order.lines.len()
}

#[derive(Serialize)]
struct PageBody<T> {
    items: Vec<T>,
    next_cursor: Option<String>,
}

/// A page of a list.
pub(crate) fn page<'a, R, T: Serialize>(
    rows: &'a [R],
    next_cursor: Option<String>,
    body: impl FnMut(&'a R) -> T,
) -> Vec<u8> {
    json(&PageBody { items: rows.iter().map(body).collect(), next_cursor }, 64 + 256 * rows.len())
}

/// A list that is whole.
pub(crate) fn list<T: Serialize>(items: Vec<T>) -> Vec<u8> {
    #[derive(Serialize)]
    struct ListBody<T> {
        items: Vec<T>,
    }
    let rows = items.len();
    json(&ListBody { items }, 32 + 256 * rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds() {
        assert_eq!(timestamp(TimestampMs(0)).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(TimestampMs(1_700_000_000_123)).to_string(), "2023-11-14T22:13:20.123Z");
        assert_eq!(&timestamp(TimestampMs::MAX).to_string()[..4], "9999");
    }

    #[test]
    fn a_segment_survives_any_name() {
        assert_eq!(segment("mug-1.2_x~"), "mug-1.2_x~");
        assert_eq!(segment("50%?#&+"), "50%25%3F%23%26%2B");
        assert_eq!(segment(".."), "%2E%2E");
    }
}
