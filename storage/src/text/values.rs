//! Times, places, names and words of lines, and back.

use super::lines::Wrong;
use crate::error::StorageError;
use crate::shop::ids::{Currency, Invalid, Location, Place, Quantity, Sku, TimestampMs};
use crate::shop::order::OrderStatus;
use crate::shop::reservation::ReservationStatus;
use crate::shop::stock::MovementKind;

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
pub(super) fn place(place: Place) -> String {
    format!("{}.{}.{}", place.epoch, place.index, place.slot)
}

pub(super) fn read_place(text: &str) -> Result<Place, Wrong> {
    let mut parts = text.split('.');
    let wrong = || format!("{text:?} is no place, which looks like 0.17.3");
    let mut next = || parts.next().and_then(|part| part.parse::<u64>().ok()).ok_or_else(wrong);
    let (epoch, index, slot) = (next()?, next()?, next()?);
    match (u16::try_from(epoch), u32::try_from(slot), parts.next()) {
        (Ok(epoch), Ok(slot), None) => Ok(Place { epoch, index, slot }),
        _ => Err(wrong()),
    }
}

pub(super) fn invalid(what: &str, text: &str) -> impl Fn(Invalid) -> Wrong {
    move |why| format!("{what} {text:?} {why}")
}

pub(super) fn sku(text: &str) -> Result<Sku, Wrong> {
    Sku::new(text).map_err(invalid("sku", text))
}

pub(super) fn location(text: &str) -> Result<Location, Wrong> {
    Location::new(text).map_err(invalid("location", text))
}

pub(super) fn currency(text: &str) -> Result<Currency, Wrong> {
    text.as_bytes().try_into().map(Currency).map_err(|_| format!("{text:?} is no currency"))
}

pub(super) fn quantity(units: u64) -> Result<Quantity, Wrong> {
    Quantity::new(units).map_err(|why| format!("quantity {why}"))
}

/// A word for each variant.
macro_rules! words {
    ($print:ident $read:ident $of:ty: $($word:literal $variant:ident)*) => {
        pub(super) fn $print(value: $of) -> &'static str {
            match value { $(<$of>::$variant => $word),* }
        }
        pub(super) fn $read(word: &str) -> Result<$of, Wrong> {
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
