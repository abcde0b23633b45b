//! Reservations: try, confirm, cancel.

use crate::apply::Halt;
use crate::command::{Extend, Reserve};
use crate::draft::Draft;
use crate::effect::{Rejection, Reply};
use crate::ids::{Location, Place, Quantity, ReservationId, Sku, TimestampMs};
use crate::state::{Fault, Key, Row, Rows, Subject};
use crate::stock::{Cause, MovementKind};
use crate::{item, stock};
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
    fn subject(&self) -> Subject {
        Subject::Reservation(self.id.clone())
    }

    fn stocks(&self) -> impl Iterator<Item = (Sku, Location)> + use<'_> {
        self.lines.iter().map(|line| (line.sku.clone(), line.location.clone()))
    }

    fn wrong_state(&self, status: ReservationStatus) -> Halt {
        Rejection::ReservationWrongState { reservation: self.id.clone(), status }.into()
    }
}

fn reply(reservation: Reservation, created: bool) -> Reply {
    Reply::Reservation { reservation, created }
}

/// Where a hold stands: a hold that is due is over, whether or not it has been released yet.
fn status_now<R: Rows>(draft: &Draft<'_, R>, reservation: &Reservation) -> ReservationStatus {
    match reservation.status {
        ReservationStatus::Held if reservation.expires_at <= draft.now => ReservationStatus::Expired,
        status => status,
    }
}

fn find<R: Rows>(draft: &Draft<'_, R>, id: &ReservationId) -> Result<Reservation, Halt> {
    Ok(draft.reservation(id)?.ok_or_else(|| Rejection::ReservationNotFound(id.clone()))?)
}

/// Ends a hold: takes its deadline away and stores its new status.
fn end<R: Rows>(draft: &mut Draft<'_, R>, mut held: Reservation, status: ReservationStatus) -> Reservation {
    let stocks: Vec<_> = held.stocks().collect();
    draft.remove_due(held.expires_at, &held.subject(), stocks.into_iter());
    held.status = status;
    held.updated_at = draft.now;
    held.log_index = draft.log_index;
    draft.put(Key::Reservation(held.id.clone()), Some(Row::Reservation(held.clone())));
    held
}

/// Moves each line of a reservation.
fn move_lines<R: Rows>(
    draft: &mut Draft<'_, R>,
    reservation: &Reservation,
    kind: MovementKind,
) -> Result<(), Fault> {
    for line in &reservation.lines {
        let cause = Cause::Reservation(reservation.id.clone());
        draft.move_stock(&line.sku, &line.location, kind, line.quantity.units() as i64, cause)?;
    }
    Ok(())
}

/// Makes a reservation's row, and its position in lists.
fn create<R: Rows>(
    draft: &mut Draft<'_, R>,
    id: Option<ReservationId>,
    status: ReservationStatus,
    ttl_ms: u64,
    lines: Vec<StockLine>,
) -> Reservation {
    let made = draft.next_made();
    let reservation = Reservation {
        id: id.unwrap_or_else(|| ReservationId::made(made)),
        status,
        expires_at: draft.now.plus_ms(ttl_ms),
        ttl_ms,
        lines,
        created: made,
        created_at: draft.now,
        updated_at: draft.now,
        log_index: draft.log_index,
    };
    draft.put(Key::ReservationMade(made), Some(Row::ReservationId(reservation.id.clone())));
    draft.put(Key::Reservation(reservation.id.clone()), Some(Row::Reservation(reservation.clone())));
    reservation
}

/// Try.
pub(crate) fn reserve<R: Rows>(draft: &mut Draft<'_, R>, c: &Reserve) -> Result<Reply, Halt> {
    if let Some(id) = &c.id
        && let Some(found) = draft.reservation(id)?
    {
        return try_again(draft, c, found);
    }
    item::known(draft, c.lines.iter().map(|line| &line.sku), false)?;
    stock::check_available(
        draft,
        &stock::summed(c.lines.iter().map(|line| (&line.sku, &line.location, line.quantity))),
    )?;
    let held = create(draft, c.id.clone(), ReservationStatus::Held, c.ttl_ms, c.lines.clone());
    move_lines(draft, &held, MovementKind::Reserved)?;
    let stocks: Vec<_> = held.stocks().collect();
    draft.add_due(held.expires_at, &held.subject(), stocks.into_iter());
    Ok(reply(held, true))
}

/// The same try again, or another one under a taken id.
fn try_again<R: Rows>(draft: &Draft<'_, R>, c: &Reserve, found: Reservation) -> Result<Reply, Halt> {
    match status_now(draft, &found) {
        // A cancel that came before its try knows neither lines nor ttl.
        status @ (ReservationStatus::Cancelled | ReservationStatus::Expired) => {
            Err(found.wrong_state(status))
        }
        _ if found.ttl_ms != c.ttl_ms || found.lines != c.lines => {
            Err(Rejection::IdTaken(found.id.to_string()).into())
        }
        _ => Ok(reply(found, false)),
    }
}

/// Confirm: the held units leave the room.
pub(crate) fn confirm<R: Rows>(draft: &mut Draft<'_, R>, id: &ReservationId) -> Result<Reply, Halt> {
    let found = find(draft, id)?;
    match status_now(draft, &found) {
        ReservationStatus::Confirmed => Ok(reply(found, false)),
        ReservationStatus::Held => {
            move_lines(draft, &found, MovementKind::Consumed)?;
            Ok(reply(end(draft, found, ReservationStatus::Confirmed), false))
        }
        status => Err(found.wrong_state(status)),
    }
}

/// Cancel: the held units are free again. One that comes before its try is remembered.
pub(crate) fn cancel<R: Rows>(draft: &mut Draft<'_, R>, id: &ReservationId) -> Result<Reply, Halt> {
    let Some(found) = draft.reservation(id)? else {
        return Ok(reply(
            create(draft, Some(id.clone()), ReservationStatus::Cancelled, 0, Vec::new()),
            false,
        ));
    };
    match status_now(draft, &found) {
        ReservationStatus::Cancelled => Ok(reply(found, false)),
        ReservationStatus::Expired if found.status == ReservationStatus::Held => {
            expire(draft, found.expires_at, id)?;
            Ok(reply(find(draft, id)?, false))
        }
        ReservationStatus::Expired => Ok(reply(found, false)),
        ReservationStatus::Held => {
            move_lines(draft, &found, MovementKind::Released)?;
            Ok(reply(end(draft, found, ReservationStatus::Cancelled), false))
        }
        status @ ReservationStatus::Confirmed => Err(found.wrong_state(status)),
    }
}

/// Holds on for longer, counted from now.
pub(crate) fn extend<R: Rows>(draft: &mut Draft<'_, R>, c: &Extend) -> Result<Reply, Halt> {
    let mut found = find(draft, &c.id)?;
    let status = status_now(draft, &found);
    if status != ReservationStatus::Held {
        return Err(found.wrong_state(status));
    }
    let stocks: Vec<_> = found.stocks().collect();
    draft.remove_due(found.expires_at, &found.subject(), stocks.iter().cloned());
    found.expires_at = draft.now.plus_ms(c.ttl_ms);
    found.updated_at = draft.now;
    found.log_index = draft.log_index;
    draft.add_due(found.expires_at, &found.subject(), stocks.into_iter());
    draft.put(Key::Reservation(found.id.clone()), Some(Row::Reservation(found.clone())));
    Ok(reply(found, false))
}

/// Gives a hold's units to an order: released here, allocated there, in the same entry.
pub(crate) fn hand_over<R: Rows>(draft: &mut Draft<'_, R>, held: Reservation) -> Result<(), Fault> {
    move_lines(draft, &held, MovementKind::Released)?;
    end(draft, held, ReservationStatus::Confirmed);
    Ok(())
}

/// A hold that an order may take over.
pub(crate) fn held<R: Rows>(draft: &Draft<'_, R>, id: &ReservationId) -> Result<Reservation, Halt> {
    let found = find(draft, id)?;
    match status_now(draft, &found) {
        ReservationStatus::Held => Ok(found),
        status => Err(found.wrong_state(status)),
    }
}

/// Ends a hold whose time is over.
pub(crate) fn expire<R: Rows>(
    draft: &mut Draft<'_, R>,
    at: TimestampMs,
    id: &ReservationId,
) -> Result<(), Fault> {
    let found = draft.reservation(id)?;
    let Some(held) = found.filter(|r| r.status == ReservationStatus::Held && r.expires_at == at) else {
        return Err(draft.breach(format!("reservation {id} is due at {at:?} but does not hold until then")));
    };
    move_lines(draft, &held, MovementKind::Expired)?;
    end(draft, held, ReservationStatus::Expired);
    Ok(())
}
