//! Reservations: try, confirm, cancel.

use crate::apply::Ruling;
use crate::command::{Extend, Reserve};
use crate::draft::{Draft, StockRef};
use crate::effect::{Rejection, Reply, line_weight};
use crate::ids::{Location, Place, Quantity, ReservationId, Sku, TimestampMs};
use crate::planted;
use crate::state::{Subject, Unreadable};
use crate::stock::{Cause, MovementKind, check_available, check_skus, units};
use bincode::{Decode, Encode};

/// Units of one SKU at one location.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StockLine {
    /// Which.
    pub sku: Sku,
    /// Where.
    pub location: Location,
    /// How many.
    pub quantity: Quantity,
}

impl StockLine {
    pub(crate) fn parts(&self) -> (&Sku, &Location, Quantity) {
        (&self.sku, &self.location, self.quantity)
    }
}

/// Where a reservation stands. Only `Held` can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum ReservationStatus {
    /// Its units are reserved until `expires_at`.
    Held,
    /// Its units left the room, or became an order's.
    Confirmed,
    /// Released, or cancelled before it was tried.
    Cancelled,
    /// Its time was over.
    Expired,
}

/// A hold on stock for a while.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Reservation {
    /// Chosen by the caller or made.
    pub id: ReservationId,
    /// Where it stands.
    pub status: ReservationStatus,
    /// Frees its units at this time of the replicated clock.
    pub expires_at: TimestampMs,
    /// As tried: the same body again gets the same answer. 0 for one cancelled before its try.
    pub ttl_ms: u64,
    /// Held units; empty for one cancelled before its try.
    pub lines: Vec<StockLine>,
    /// Where it was made: its position in lists.
    pub created: Place,
    /// When it was made.
    pub created_at: TimestampMs,
    /// When it last changed.
    pub updated_at: TimestampMs,
    /// Raft log index of the last change.
    pub log_index: u64,
}

impl Reservation {
    /// Bytes that it takes to keep it, about.
    pub(crate) fn weight(&self) -> usize {
        self.lines.iter().map(|line| line_weight(&line.sku, &line.location)).sum()
    }
}

/// Try: holds units for a while, all lines or none. A chosen id that is known answers for itself.
pub(crate) fn reserve(draft: &mut Draft<'_>, c: &Reserve) -> Ruling {
    if let Some(id) = &c.id
        && let Some(reservation) = current(draft, id)?
    {
        return again(reservation, c);
    }
    check_skus(draft, c.lines.iter().map(|line| &line.sku), true)?;
    let demand = check_available(draft, c.lines.iter().map(StockLine::parts))?;

    let created = draft.next_made();
    let id = c.id.clone().unwrap_or_else(|| ReservationId::made(created));
    let cause = Cause::Reservation(id.clone());
    for (line, stock) in c.lines.iter().zip(&demand.lines) {
        draft.move_stock(*stock, MovementKind::Reserved, units(line.quantity.units()), &cause);
    }
    let expires_at = draft.now.plus_ms(c.ttl_ms);
    draft.hold(expires_at, &Subject::Reservation(id.clone()), &demand.stocks);
    let reservation = draft.add_reservation(Reservation {
        id,
        status: ReservationStatus::Held,
        expires_at,
        ttl_ms: c.ttl_ms,
        lines: c.lines.clone(),
        created,
        created_at: draft.now,
        updated_at: draft.now,
        log_index: draft.log_index,
    });
    Ok(Reply::Reservation { reservation, created: true })
}

/// The try of an id that is known.
fn again(reservation: Reservation, c: &Reserve) -> Ruling {
    match reservation.status {
        ReservationStatus::Cancelled | ReservationStatus::Expired => Err(wrong_state(&reservation)),
        _ if reservation.ttl_ms == c.ttl_ms && reservation.lines == c.lines => {
            Ok(Reply::Reservation { reservation, created: false })
        }
        _ => Err(Rejection::IdTaken(reservation.id.to_string()).into()),
    }
}

/// Confirm: the held units leave the room. A second time changes nothing more.
pub(crate) fn confirm(draft: &mut Draft<'_>, id: &ReservationId) -> Ruling {
    let reservation = existing(draft, id)?;
    let reservation = match reservation.status {
        ReservationStatus::Held => {
            close(draft, reservation, ReservationStatus::Confirmed, MovementKind::Consumed)?
        }
        ReservationStatus::Confirmed => reservation,
        _ => return Err(wrong_state(&reservation)),
    };
    Ok(Reply::Reservation { reservation, created: false })
}

/// Cancel: the held units are free again. One that comes before its try is remembered, so that the
/// try, when it comes at last, holds nothing.
pub(crate) fn cancel(draft: &mut Draft<'_>, id: &ReservationId) -> Ruling {
    let Some(reservation) = current(draft, id)? else {
        return remember_cancelled(draft, id);
    };
    let reservation = match reservation.status {
        ReservationStatus::Held => {
            close(draft, reservation, ReservationStatus::Cancelled, MovementKind::Released)?
        }
        ReservationStatus::Cancelled | ReservationStatus::Expired => reservation,
        ReservationStatus::Confirmed => return Err(wrong_state(&reservation)),
    };
    Ok(Reply::Reservation { reservation, created: false })
}

fn remember_cancelled(draft: &mut Draft<'_>, id: &ReservationId) -> Ruling {
    // Nobody can know an id of our own making before its try has made it, and taking it here
    // would take it from the reservation that gets it.
    if id.is_made() {
        return Err(Rejection::ReservationNotFound(id.clone()).into());
    }
    let created = draft.next_made();
    let reservation = draft.add_reservation(Reservation {
        id: id.clone(),
        status: ReservationStatus::Cancelled,
        expires_at: draft.now,
        ttl_ms: 0,
        lines: Vec::new(),
        created,
        created_at: draft.now,
        updated_at: draft.now,
        log_index: draft.log_index,
    });
    Ok(Reply::Reservation { reservation, created: false })
}

/// Holds on, from now, for as long as said.
pub(crate) fn extend(draft: &mut Draft<'_>, c: &Extend) -> Ruling {
    let mut reservation = held(draft, &c.id)?;
    let stocks = stocks(draft, &reservation)?;

    let subject = Subject::Reservation(reservation.id.clone());
    draft.unhold(reservation.expires_at, &subject, &stocks);
    reservation.expires_at = draft.now.plus_ms(c.ttl_ms);
    draft.hold(reservation.expires_at, &subject, &stocks);
    Ok(Reply::Reservation { reservation: draft.save_reservation(reservation), created: false })
}

/// A reservation as it is now, on the replicated clock: whether or not its release has run.
pub(crate) fn current(draft: &mut Draft<'_>, id: &ReservationId) -> Ruling<Option<Reservation>> {
    let now = planted::expiry_clock(draft.now);
    match draft.reservation(id)? {
        Some(due) if due.status == ReservationStatus::Held && due.expires_at <= now => {
            Ok(Some(close(draft, due, ReservationStatus::Expired, MovementKind::Expired)?))
        }
        other => Ok(other),
    }
}

fn existing(draft: &mut Draft<'_>, id: &ReservationId) -> Ruling<Reservation> {
    current(draft, id)?.ok_or_else(|| Rejection::ReservationNotFound(id.clone()).into())
}

/// A reservation that is held.
pub(crate) fn held(draft: &mut Draft<'_>, id: &ReservationId) -> Ruling<Reservation> {
    let reservation = existing(draft, id)?;
    if reservation.status == ReservationStatus::Held {
        Ok(reservation)
    } else {
        Err(wrong_state(&reservation))
    }
}

fn wrong_state(reservation: &Reservation) -> crate::apply::Halt {
    let (reservation, status) = (reservation.id.clone(), reservation.status);
    Rejection::ReservationWrongState { reservation, status }.into()
}

fn stocks(draft: &mut Draft<'_>, reservation: &Reservation) -> Result<Vec<StockRef>, Unreadable> {
    // Not through `demand`: this runs for what is due in the midst of another command's.
    reservation.lines.iter().map(|line| draft.stock(&line.sku, &line.location)).collect()
}

/// Ends a held reservation: its units move as `kind` says.
///
/// # Errors
/// Only before anything changed.
pub(crate) fn close(
    draft: &mut Draft<'_>,
    mut reservation: Reservation,
    status: ReservationStatus,
    kind: MovementKind,
) -> Result<Reservation, Unreadable> {
    let stocks = stocks(draft, &reservation)?;

    let cause = Cause::Reservation(reservation.id.clone());
    for (line, stock) in reservation.lines.iter().zip(&stocks) {
        draft.move_stock(*stock, kind, units(line.quantity.units()), &cause);
    }
    draft.unhold(reservation.expires_at, &Subject::Reservation(reservation.id.clone()), &stocks);
    reservation.status = status;
    Ok(draft.save_reservation(reservation))
}
