//! Lines of stock, reservations and movements.

use super::lines::{Line, Wrong};
use super::values::{
    invalid, location, movement_kind, place, quantity, read_movement_kind, read_place,
    read_reservation_status, read_time, reservation_status, sku, time,
};
use crate::error::StorageError;
use crate::shop::ids::{IdempotencyKey, OrderName, Place, ReservationId};
use crate::shop::reservation::{Reservation, StockLine};
use crate::shop::stock::{Cause, Counters, Ledger, Movement, Stock};
use serde::{Deserialize, Serialize};

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
