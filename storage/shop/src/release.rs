//! Frees what is due: holds that expire, and orders that nobody paid.

use crate::draft::{Draft, StockRef};
use crate::ids::TimestampMs;
use crate::order;
use crate::planted;
use crate::reservation::{self, ReservationStatus};
use crate::state::{Breach, Fault, Key, Subject};
use crate::stock::MovementKind;

/// How many due holds are looked up at once. A hot stock may have thousands; most have one.
const CHUNK: usize = 64;
/// One step ends no more holds once so much has moved: a hold may have hundreds of lines, most have one.
const MOST_MOVEMENTS: usize = 20_000;

/// Frees what is due anywhere, in order of (due, subject), as much as one step should. The ticker
/// goes on with the rest; until it is through, commands free what is due on the stock they touch.
pub(crate) fn everywhere(draft: &mut Draft<'_>) -> Result<(), Fault> {
    let from = Key::Due(TimestampMs(0), Subject::first());
    let until = Key::Due(after(draft.now), Subject::first());
    let most = draft.head.settings.releases_per_step.max(1) as usize;
    let due = draft.mark_keys(&from, &until, most.saturating_add(1))?;
    draft.backlog = due.len() > most;
    for key in due.into_iter().take(most) {
        if draft.movements.len() >= MOST_MOVEMENTS {
            draft.backlog = true;
            break;
        }
        if let Key::Due(due, subject) = key {
            end(draft, due, &subject)?;
        }
    }
    Ok(())
}

fn after(time: TimestampMs) -> TimestampMs {
    planted::expiry_clock(time).plus_ms(1)
}

/// Frees all that is due on one stock: a command must not be refused for want of units that are free.
pub(crate) fn on_stock(draft: &mut Draft<'_>, stock: StockRef) -> Result<(), Fault> {
    if !draft.backlog {
        return Ok(());
    }
    let (sku, location) = (draft.of(stock).sku.clone(), draft.of(stock).location.clone());
    let key = |time| Key::Hold(sku.clone(), location.clone(), time, Subject::first());
    let (mut from, until) = (key(TimestampMs(0)), key(after(draft.now)));
    loop {
        let due = draft.mark_keys(&from, &until, CHUNK)?;
        let Some(last) = due.last() else { return Ok(()) };
        from = last.clone();
        for hold in due {
            if let Key::Hold(_, _, due, subject) = hold {
                end(draft, due, &subject)?;
            }
        }
    }
}

/// Ends what a mark says is due. A mark without its subject is a broken invariant.
fn end(draft: &mut Draft<'_>, due: TimestampMs, subject: &Subject) -> Result<(), Fault> {
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
