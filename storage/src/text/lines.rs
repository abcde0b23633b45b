//! The lines of an export: each of the shop's rows as JSON, with nothing left out, and back.

use crate::error::StorageError;
use crate::shop::command::Settings;
use crate::shop::ids::{
    Currency, CustomerId, IdempotencyKey, Invalid, Location, OrderId, OrderName, Place, Quantity,
    ReservationId, Sku, TimestampMs,
};
use crate::shop::item::{Item, Price};
use crate::shop::order::{Order, OrderLine, OrderStatus};
use crate::shop::reservation::{Reservation, ReservationStatus, StockLine};
use crate::shop::stock::{Cause, Counters, Ledger, Movement, MovementKind, Stock};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a line cannot be a row.
pub(super) type Wrong = String;

/// A line that stands for one row.
pub(super) trait Line: Serialize + for<'de> Deserialize<'de> + Sized {
    /// The row.
    type Row;
    /// The line of a row; `place` is where it lies, for rows that do not say it themselves.
    fn of(row: &Self::Row, place: Place) -> Result<Self, StorageError>;
    /// The row of a line, and where it lies.
    fn row(self) -> Result<(Place, Self::Row), Wrong>;
}

/// The head of an export: `about.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Of the files.
    pub format: u32,
    /// The cluster that it is of.
    pub cluster_id: String,
    /// Everything up to this entry of the log is in it, and nothing after.
    pub log_index: u64,
    /// Rolling digest over all changes up to there.
    pub digest: String,
    /// The replicated clock there.
    pub clock: String,
    /// How often the cluster's history was begun anew from a backup.
    pub epoch: u16,
    /// In force for the whole cluster.
    pub settings: SettingsLine,
    /// Lines of each file, as a check that all are there.
    pub lines: BTreeMap<String, u64>,
}

/// What holds for the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "as in the shop's own settings")]
pub struct SettingsLine {
    pub receipt_retention_ms: u64,
    pub feature_level: u32,
    pub releases_per_step: u32,
    pub receipt_drops_per_step: u32,
    pub metadata_entries: u32,
}

impl From<&Settings> for SettingsLine {
    fn from(s: &Settings) -> Self {
        SettingsLine {
            receipt_retention_ms: s.receipt_retention_ms,
            feature_level: s.feature_level,
            releases_per_step: s.releases_per_step,
            receipt_drops_per_step: s.receipt_drops_per_step,
            metadata_entries: s.metadata_entries,
        }
    }
}

impl From<&SettingsLine> for Settings {
    fn from(s: &SettingsLine) -> Self {
        Settings {
            receipt_retention_ms: s.receipt_retention_ms,
            feature_level: s.feature_level,
            releases_per_step: s.releases_per_step,
            receipt_drops_per_step: s.receipt_drops_per_step,
            metadata_entries: s.metadata_entries,
        }
    }
}

/// RFC 3339 in UTC with milliseconds.
pub(super) fn time(at: TimestampMs) -> Result<String, StorageError> {
    let time = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let beyond = || StorageError::Format(format!("no calendar has the time {}", at.0));
    Ok(format!("{:.3}", time.ok_or_else(beyond)?))
}

pub(super) fn read_time(text: &str) -> Result<TimestampMs, Wrong> {
    let time: jiff::Timestamp = text.parse().map_err(|error| format!("{text:?} is no time: {error}"))?;
    u64::try_from(time.as_millisecond()).map(TimestampMs).map_err(|_| format!("{text:?} is before 1970"))
}

/// Where a row was written: `epoch.index.slot`.
fn place(place: Place) -> String {
    format!("{}.{}.{}", place.epoch, place.index, place.slot)
}

fn read_place(text: &str) -> Result<Place, Wrong> {
    let mut parts = text.split('.');
    let wrong = || format!("{text:?} is no place, which looks like 0.17.3");
    let mut next = || parts.next().and_then(|part| part.parse::<u64>().ok()).ok_or_else(wrong);
    let (epoch, index, slot) = (next()?, next()?, next()?);
    match (u16::try_from(epoch), u32::try_from(slot), parts.next()) {
        (Ok(epoch), Ok(slot), None) => Ok(Place { epoch, index, slot }),
        _ => Err(wrong()),
    }
}

fn invalid(what: &str, text: &str) -> impl Fn(Invalid) -> Wrong {
    move |why| format!("{what} {text:?} {why}")
}

fn sku(text: &str) -> Result<Sku, Wrong> {
    Sku::new(text).map_err(invalid("sku", text))
}

fn location(text: &str) -> Result<Location, Wrong> {
    Location::new(text).map_err(invalid("location", text))
}

fn currency(text: &str) -> Result<Currency, Wrong> {
    text.as_bytes().try_into().map(Currency).map_err(|_| format!("{text:?} is no currency"))
}

fn quantity(units: u64) -> Result<Quantity, Wrong> {
    Quantity::new(units).map_err(|why| format!("quantity {why}"))
}

/// A word for each variant.
macro_rules! words {
    ($print:ident $read:ident $of:ty: $($word:literal $variant:ident)*) => {
        fn $print(value: $of) -> &'static str {
            match value { $(<$of>::$variant => $word),* }
        }
        fn $read(word: &str) -> Result<$of, Wrong> {
            match word {
                $($word => Ok(<$of>::$variant),)*
                _ => Err(format!("{word:?} is none of {:?}", [$($word),*])),
            }
        }
    };
}

words! { order_status read_order_status OrderStatus:
    "placed" Placed "paid" Paid "partly_shipped" PartlyShipped "shipped" Shipped "completed" Completed
    "cancelled" Cancelled
}
words! { reservation_status read_reservation_status ReservationStatus:
    "held" Held "confirmed" Confirmed "cancelled" Cancelled "expired" Expired
}
words! { movement_kind read_movement_kind MovementKind:
    "received" Received "adjusted" Adjusted "transferred_in" TransferredIn "transferred_out" TransferredOut
    "reserved" Reserved "released" Released "expired" Expired "consumed" Consumed "allocated" Allocated
    "deallocated" Deallocated "shipped" Shipped "restocked" Restocked
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PriceLine {
    amount_minor: u64,
    currency: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ItemLine {
    sku: String,
    name: String,
    price: Option<PriceLine>,
    attributes: Option<Box<RawValue>>,
    retired: bool,
    version: u64,
    created_at: String,
    updated_at: String,
    log_index: u64,
    place: String,
}

impl Line for ItemLine {
    type Row = Item;

    fn of(item: &Item, _: Place) -> Result<Self, StorageError> {
        let attributes = item.attributes.as_ref().map(|text| RawValue::from_string(text.to_string()));
        let price = item.price.map(|price| PriceLine {
            amount_minor: price.amount_minor,
            currency: price.currency.to_string(),
        });
        Ok(ItemLine {
            sku: item.sku.to_string(),
            name: item.name.to_string(),
            price,
            attributes: attributes
                .transpose()
                .map_err(|error| StorageError::Format(format!("attributes: {error}")))?,
            retired: item.retired,
            version: item.version,
            created_at: time(item.created_at)?,
            updated_at: time(item.updated_at)?,
            log_index: item.log_index,
            place: place(item.created),
        })
    }

    fn row(self) -> Result<(Place, Item), Wrong> {
        let created = read_place(&self.place)?;
        let price = self.price.map(|price| {
            Ok::<_, Wrong>(Price { amount_minor: price.amount_minor, currency: currency(&price.currency)? })
        });
        let item = Item {
            sku: sku(&self.sku)?,
            name: self.name.into(),
            price: price.transpose()?,
            attributes: self.attributes.map(|text| text.get().into()),
            retired: self.retired,
            version: self.version,
            created,
            created_at: read_time(&self.created_at)?,
            updated_at: read_time(&self.updated_at)?,
            log_index: self.log_index,
        };
        Ok((created, item))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LevelLine {
    sku: String,
    location: String,
    on_hand: u64,
    reserved: u64,
    allocated: u64,
    available: u64,
    /// What all movements of it add up to.
    sums: SumsLine,
    last_movement: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SumsLine {
    received: u64,
    adjusted: i64,
    transferred_in: u64,
    transferred_out: u64,
    shipped: u64,
    consumed: u64,
    restocked: u64,
}

impl Line for LevelLine {
    type Row = Stock;

    fn of(stock: &Stock, _: Place) -> Result<Self, StorageError> {
        let (counters, l) = (stock.counters, stock.ledger);
        Ok(LevelLine {
            sku: stock.sku.to_string(),
            location: stock.location.to_string(),
            on_hand: counters.on_hand,
            reserved: counters.reserved,
            allocated: counters.allocated,
            available: counters.available(),
            sums: SumsLine {
                received: l.received,
                adjusted: l.adjusted,
                transferred_in: l.transferred_in,
                transferred_out: l.transferred_out,
                shipped: l.shipped,
                consumed: l.consumed,
                restocked: l.restocked,
            },
            last_movement: place(stock.last_movement),
        })
    }

    fn row(self) -> Result<(Place, Stock), Wrong> {
        let last_movement = read_place(&self.last_movement)?;
        let counters = Counters { on_hand: self.on_hand, reserved: self.reserved, allocated: self.allocated };
        if counters.available() != self.available {
            return Err(format!("available is {}, not {}", counters.available(), self.available));
        }
        let net =
            |units: u64| i64::try_from(units).map_err(|_| format!("{units} units are more than can be"));
        let s = self.sums;
        let stock = Stock {
            sku: sku(&self.sku)?,
            location: location(&self.location)?,
            counters,
            ledger: Ledger {
                received: s.received,
                adjusted: s.adjusted,
                transferred_in: s.transferred_in,
                transferred_out: s.transferred_out,
                shipped: s.shipped,
                consumed: s.consumed,
                restocked: s.restocked,
                reserved: net(self.reserved)?,
                allocated: net(self.allocated)?,
            },
            last_movement,
        };
        Ok((last_movement, stock))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnitsLine {
    sku: String,
    location: String,
    quantity: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReservationLine {
    id: String,
    status: String,
    expires_at: String,
    ttl_ms: u64,
    lines: Vec<UnitsLine>,
    created_at: String,
    updated_at: String,
    log_index: u64,
    place: String,
}

impl Line for ReservationLine {
    type Row = Reservation;

    fn of(r: &Reservation, _: Place) -> Result<Self, StorageError> {
        let line = |line: &StockLine| UnitsLine {
            sku: line.sku.to_string(),
            location: line.location.to_string(),
            quantity: line.quantity.units(),
        };
        Ok(ReservationLine {
            id: r.id.to_string(),
            status: reservation_status(r.status).into(),
            expires_at: time(r.expires_at)?,
            ttl_ms: r.ttl_ms,
            lines: r.lines.iter().map(line).collect(),
            created_at: time(r.created_at)?,
            updated_at: time(r.updated_at)?,
            log_index: r.log_index,
            place: place(r.created),
        })
    }

    fn row(self) -> Result<(Place, Reservation), Wrong> {
        let created = read_place(&self.place)?;
        let line = |line: &UnitsLine| {
            let (sku, location) = (sku(&line.sku)?, location(&line.location)?);
            Ok::<_, Wrong>(StockLine { sku, location, quantity: quantity(line.quantity)? })
        };
        let reservation = Reservation {
            id: ReservationId::new(&self.id).map_err(invalid("id", &self.id))?,
            status: read_reservation_status(&self.status)?,
            expires_at: read_time(&self.expires_at)?,
            ttl_ms: self.ttl_ms,
            lines: self.lines.iter().map(line).collect::<Result<_, _>>()?,
            created,
            created_at: read_time(&self.created_at)?,
            updated_at: read_time(&self.updated_at)?,
            log_index: self.log_index,
        };
        Ok((created, reservation))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SoldLine {
    sku: String,
    location: String,
    quantity: u64,
    amount_minor: u64,
    shipped: u32,
    returned: u32,
    cancelled: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SaleLine {
    id: String,
    /// The caller chose the id.
    chosen: bool,
    status: String,
    customer_id: Option<String>,
    currency: Option<String>,
    lines: Vec<SoldLine>,
    due_minor: u64,
    paid_minor: u64,
    refund_owed_total_minor: u64,
    refunded_minor: u64,
    pay_by: Option<String>,
    metadata: BTreeMap<Arc<str>, Arc<str>>,
    references: Vec<Arc<str>>,
    cancel_reason: Option<Arc<str>>,
    /// Of the command that placed it: the same id with another is refused.
    fingerprint: String,
    created_at: String,
    updated_at: String,
    log_index: u64,
    place: String,
}

impl Line for SaleLine {
    type Row = Order;

    fn of(o: &Order, _: Place) -> Result<Self, StorageError> {
        let line = |line: &OrderLine| SoldLine {
            sku: line.sku.to_string(),
            location: line.location.to_string(),
            quantity: line.quantity.units(),
            amount_minor: line.amount_minor,
            shipped: line.shipped,
            returned: line.returned,
            cancelled: line.cancelled,
        };
        Ok(SaleLine {
            id: o.shown_id(),
            chosen: o.name.is_some(),
            status: order_status(o.status).into(),
            customer_id: o.customer_id.as_ref().map(ToString::to_string),
            currency: o.currency.as_ref().map(ToString::to_string),
            lines: o.lines.iter().map(line).collect(),
            due_minor: o.due_minor,
            paid_minor: o.paid_minor,
            refund_owed_total_minor: o.refund_owed_total_minor,
            refunded_minor: o.refunded_minor,
            pay_by: o.pay_by.map(time).transpose()?,
            metadata: o.metadata.clone(),
            references: o.references.clone(),
            cancel_reason: o.cancel_reason.clone(),
            fingerprint: format!("{:032x}", o.fingerprint),
            created_at: time(o.created_at)?,
            updated_at: time(o.updated_at)?,
            log_index: o.log_index,
            place: place(o.id.0),
        })
    }

    fn row(self) -> Result<(Place, Order), Wrong> {
        let placed = read_place(&self.place)?;
        let id = OrderId(placed);
        if !self.chosen && self.id != id.to_string() {
            return Err(format!("an order made at {} has the id {id}, not {:?}", self.place, self.id));
        }
        let line = |line: &SoldLine| {
            Ok::<_, Wrong>(OrderLine {
                sku: sku(&line.sku)?,
                location: location(&line.location)?,
                quantity: quantity(line.quantity)?,
                amount_minor: line.amount_minor,
                shipped: line.shipped,
                returned: line.returned,
                cancelled: line.cancelled,
            })
        };
        let name = || OrderName::chosen(&self.id).map_err(invalid("id", &self.id));
        let customer = |text: &String| CustomerId::new(text).map_err(invalid("customer_id", text));
        let order = Order {
            id,
            name: self.chosen.then(name).transpose()?,
            status: read_order_status(&self.status)?,
            customer_id: self.customer_id.as_ref().map(customer).transpose()?,
            currency: self.currency.as_deref().map(currency).transpose()?,
            lines: self.lines.iter().map(line).collect::<Result<_, _>>()?,
            due_minor: self.due_minor,
            paid_minor: self.paid_minor,
            refund_owed_total_minor: self.refund_owed_total_minor,
            refunded_minor: self.refunded_minor,
            pay_by: self.pay_by.as_deref().map(read_time).transpose()?,
            metadata: self.metadata,
            references: self.references,
            cancel_reason: self.cancel_reason,
            fingerprint: u128::from_str_radix(&self.fingerprint, 16)
                .map_err(|_| format!("{:?} is no fingerprint", self.fingerprint))?,
            created_at: read_time(&self.created_at)?,
            updated_at: read_time(&self.updated_at)?,
            log_index: self.log_index,
        };
        Ok((placed, order))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum CauseLine {
    Order(String),
    Reservation(String),
    Key(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MovementLine {
    sku: String,
    location: String,
    kind: String,
    quantity: i64,
    on_hand_after: u64,
    reserved_after: u64,
    allocated_after: u64,
    at: String,
    cause: CauseLine,
    place: String,
    /// The movement before it of the same stock.
    previous: Option<String>,
}

impl Line for MovementLine {
    type Row = Movement;

    fn of(m: &Movement, at: Place) -> Result<Self, StorageError> {
        Ok(MovementLine {
            sku: m.sku.to_string(),
            location: m.location.to_string(),
            kind: movement_kind(m.kind).into(),
            quantity: m.quantity,
            on_hand_after: m.after.on_hand,
            reserved_after: m.after.reserved,
            allocated_after: m.after.allocated,
            at: time(m.at)?,
            cause: match &m.cause {
                Cause::Order(name) => CauseLine::Order(name.to_string()),
                Cause::Reservation(id) => CauseLine::Reservation(id.to_string()),
                Cause::Key(key) => CauseLine::Key(key.to_string()),
            },
            place: place(at),
            previous: m.previous.map(place),
        })
    }

    fn row(self) -> Result<(Place, Movement), Wrong> {
        let cause = match &self.cause {
            CauseLine::Order(id) => Cause::Order(OrderName::new(id).map_err(invalid("order", id))?),
            CauseLine::Reservation(id) => {
                Cause::Reservation(ReservationId::new(id).map_err(invalid("reservation", id))?)
            }
            CauseLine::Key(key) => Cause::Key(IdempotencyKey::new(key).map_err(invalid("key", key))?),
        };
        let movement = Movement {
            sku: sku(&self.sku)?,
            location: location(&self.location)?,
            kind: read_movement_kind(&self.kind)?,
            quantity: self.quantity,
            after: Counters {
                on_hand: self.on_hand_after,
                reserved: self.reserved_after,
                allocated: self.allocated_after,
            },
            previous: self.previous.as_deref().map(read_place).transpose()?,
            at: read_time(&self.at)?,
            cause,
        };
        Ok((read_place(&self.place)?, movement))
    }
}
