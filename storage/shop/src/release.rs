//! Frees what is due: holds that expire, and orders that nobody paid.

use crate::apply::{Halt, Ruling};
use crate::draft::{Draft, StockRef};
use crate::ids::{ReservationId, TimestampMs};
use crate::reservation::{self, ReservationStatus};
use crate::state::{Breach, Fault, Key, Subject};
use crate::stock::{MAX_MOVEMENTS, MovementKind};
use crate::{order, state};

/// How many due holds are looked up at once. A hot stock may have thousands; most have one.
const CHUNK: usize = 64;

/// The first of all that is due at one time: where a range over times begins and ends.
fn first() -> Subject {
    Subject::Reservation(ReservationId::lowest())
}

fn after(time: TimestampMs) -> TimestampMs {
    time.plus_ms(1)
}

/// Frees what is due anywhere, in order of (due, subject), as much as one step should. The ticker
/// goes on with the rest. Half of the entry's room stays with its proposals.
pub(crate) fn everywhere(draft: &mut Draft<'_>) -> Result<(), Fault> {
    let from = Key::Due(TimestampMs(0), first());
    let until = Key::Due(after(draft.now), first());
    let most = draft.head.settings.releases_per_step.max(1) as usize;
    for key in draft.mark_keys(&from, &until, most)? {
        let Key::Due(due, subject) = key else { continue };
        if draft.movements.len() > MAX_MOVEMENTS / 2 {
            break;
        }
        match end(draft, due, &subject) {
            Ok(()) => {}
            // No room: in the next entry.
            Err(Halt::Rejected(_)) => break,
            Err(Halt::Fault(fault)) => return Err(fault),
        }
    }
    Ok(())
}

/// Frees all that is due on one stock.
///
/// # Errors
/// [`crate::effect::Rejection::EntryFull`] where the entry has no room for all of it: a command must
/// not be refused for want of units that are free.
pub(crate) fn on_stock(draft: &mut Draft<'_>, stock: StockRef) -> Ruling<()> {
    let now = draft.now;
    if draft.of(stock).next_due.is_none_or(|due| due > now) {
        return Ok(());
    }
    let (sku, location) = (draft.of(stock).sku.clone(), draft.of(stock).location.clone());
    let key = |time| Key::Hold(sku.clone(), location.clone(), time, first());
    let (mut from, until) = (key(TimestampMs(0)), key(after(now)));
    loop {
        let due = draft.mark_keys(&from, &until, CHUNK)?;
        let Some(last) = due.last() else { break };
        from = last.clone();
        for hold in due {
            if let Key::Hold(_, _, due, subject) = hold {
                end(draft, due, &subject)?;
            }
        }
    }
    let next = draft.mark_keys(&until, &key(TimestampMs::MAX), 1)?;
    draft.of_mut(stock).next_due = next.into_iter().find_map(|key| match key {
        Key::Hold(_, _, due, _) => Some(due),
        _ => None,
    });
    Ok(())
}

/// Ends what a mark says is due. A mark without its subject is a broken invariant.
fn end(draft: &mut Draft<'_>, due: TimestampMs, subject: &state::Subject) -> Ruling<()> {
    let found = match subject {
        Subject::Reservation(id) => match draft.reservation(id)? {
            Some(held) if held.status == ReservationStatus::Held && held.expires_at == due => {
                reservation::close(draft, held, ReservationStatus::Expired, MovementKind::Expired)?;
                true
            }
            _ => false,
        },
        Subject::Order(id) => match draft.order(*id)? {
            Some(unpaid) if unpaid.unpaid_at() == Some(due) => {
                order::cancel_unpaid(draft, unpaid)?;
                true
            }
            _ => false,
        },
    };
    if found {
        return Ok(());
    }
    let law = format!("{subject:?} is marked as due at {} and is not", due.0);
    Err(Breach { log_index: draft.log_index, law }.into())
}
