//! Decides: one match, one line per command.

use crate::command::{Batch, Command, Proposal};
use crate::draft::Draft;
use crate::effect::{Answer, Kept, Outcome, Rejection, Reply, Step};
use crate::ids::{IdempotencyKey, Location, Sku, TimestampMs};
use crate::state::{Breach, Entry, Fault, Head, Key, Row, Rows, Subject, Unreadable};
use crate::stock::Cause;
use crate::{item, order, reservation, stock};
use std::collections::BTreeSet;

/// Why a rule stopped: the shop says no, or the node must stop.
#[derive(Debug)]
pub(crate) enum Halt {
    Rejected(Rejection),
    Fault(Fault),
}

impl From<Rejection> for Halt {
    fn from(rejection: Rejection) -> Self {
        Halt::Rejected(rejection)
    }
}

impl From<Fault> for Halt {
    fn from(fault: Fault) -> Self {
        Halt::Fault(fault)
    }
}

impl From<Unreadable> for Halt {
    fn from(unreadable: Unreadable) -> Self {
        Halt::Fault(unreadable.into())
    }
}

impl From<Breach> for Halt {
    fn from(breach: Breach) -> Self {
        Halt::Fault(breach.into())
    }
}

/// Decides. The same rows, command and time give the same effect on every node, for ever. A rule
/// checks everything first and changes the draft after; past that line nothing is rejected.
fn apply<R: Rows>(draft: &mut Draft<'_, R>, proposal: &Proposal) -> Result<Reply, Halt> {
    let cause = || Cause::Key(proposal.idempotency_key.clone().unwrap_or_else(IdempotencyKey::none));
    match &proposal.command {
        Command::PutItem(c) => item::put(draft, c),
        Command::RetireItem(sku) => item::retire(draft, sku),
        Command::Receive(lines) => stock::receive(draft, lines, cause()),
        Command::Adjust(c) => stock::adjust(draft, c, cause()),
        Command::Transfer(c) => stock::transfer(draft, c, cause()),
        Command::Reserve(c) => reservation::reserve(draft, c),
        Command::Confirm(id) => reservation::confirm(draft, id),
        Command::CancelReservation(id) => reservation::cancel(draft, id),
        Command::Extend(c) => reservation::extend(draft, c),
        Command::PlaceOrder(c) => order::place(draft, c, proposal.fingerprint),
        Command::Pay(c) => order::pay(draft, c),
        Command::Ship(c) => order::ship(draft, c),
        Command::Complete(name) => order::complete(draft, name),
        Command::CancelOrder(c) => order::cancel(draft, c),
        Command::Return(c) => order::take_back(draft, c),
        Command::Refund(c) => order::refund(draft, c),
        Command::PatchMetadata(c) => order::patch_metadata(draft, c),
        Command::Abandon(key) => abandon(draft, key, proposal.fingerprint),
        Command::Tick => Ok(Reply::Done),
        Command::Configure(settings) => {
            draft.head.settings = settings.clone();
            Ok(Reply::Done)
        }
    }
}

/// Settles a key: its outcome where there is one, else a receipt that no later write can pass.
fn abandon<R: Rows>(
    draft: &mut Draft<'_, R>,
    key: &IdempotencyKey,
    fingerprint: u128,
) -> Result<Reply, Halt> {
    if let Some(receipt) = draft.receipt(key)? {
        return Ok(Reply::Settled(Some(Box::new(receipt))));
    }
    draft.keep(key.clone(), fingerprint, Kept::Abandoned);
    Ok(Reply::Settled(None))
}

/// Applies one entry: moves the clock (never back), frees what is due, and answers each proposal,
/// from its receipt where its key is known. The only way in which state changes; the caller
/// absorbs the [`Step`] whole.
///
/// # Errors
/// [`Fault`]: nothing of the entry may be absorbed, and the node stops.
pub fn step(rows: &impl Rows, log_index: u64, batch: &Batch) -> Result<Step, Fault> {
    let mut head = match rows.get(&Key::Head)? {
        None => Head::default(),
        Some(Row::Head(head)) => head,
        Some(_) => return Err(Unreadable("the head row is of another kind".to_owned()).into()),
    };
    head.clock = head.clock.max(batch.stamped_at);
    let mut draft = Draft::new(rows, log_index, head.clock, head);
    release_due(&mut draft)?;
    let dropped_receipts = drop_receipts(&mut draft)?;
    let mut answers = Vec::with_capacity(batch.proposals.len());
    for proposal in &batch.proposals {
        answers.push(answer(&mut draft, proposal)?);
    }
    Ok(Step { answers, dropped_receipts, ..draft.finish()? })
}

/// Answers one proposal: again, where its key is known.
fn answer<R: Rows>(draft: &mut Draft<'_, R>, proposal: &Proposal) -> Result<Answer, Fault> {
    let fresh = |outcome, log_index| Answer { outcome, replayed: false, log_index };
    let log_index = draft.log_index;
    let Some(key) = &proposal.idempotency_key else {
        return Ok(fresh(decide(draft, proposal)?, log_index));
    };
    if let Some(receipt) = draft.receipt(key)? {
        return Ok(match receipt.outcome {
            Kept::Abandoned => fresh(Err(Rejection::Abandoned), receipt.place.index),
            _ if receipt.fingerprint != proposal.fingerprint => fresh(Err(Rejection::KeyReused), log_index),
            kept => Answer { outcome: recall(draft, kept)?, replayed: true, log_index: receipt.place.index },
        });
    }
    let outcome = decide(draft, proposal)?;
    let kept = match &outcome {
        Ok(Reply::Order { order, created: true }) => Kept::Placed(order.id.0),
        other => Kept::Outcome(other.clone()),
    };
    draft.keep(key.clone(), proposal.fingerprint, kept);
    Ok(fresh(outcome, log_index))
}

fn decide<R: Rows>(draft: &mut Draft<'_, R>, proposal: &Proposal) -> Result<Outcome, Fault> {
    if draft.backlog {
        for (sku, location) in touched(draft, &proposal.command)? {
            release_due_on(draft, &sku, &location)?;
        }
    }
    match apply(draft, proposal) {
        Ok(reply) => Ok(Ok(reply)),
        Err(Halt::Rejected(rejection)) => Ok(Err(rejection)),
        Err(Halt::Fault(fault)) => Err(fault),
    }
}

/// Puts a kept outcome together again.
fn recall<R: Rows>(draft: &Draft<'_, R>, kept: Kept) -> Result<Outcome, Fault> {
    match kept {
        Kept::Placed(place) => match draft.placed(crate::ids::OrderId(place))? {
            Some(order) => Ok(Ok(Reply::Order { order: Box::new(order), created: true })),
            None => Err(Unreadable(format!("the order placed at {place:?} is gone")).into()),
        },
        Kept::Outcome(outcome) => Ok(outcome),
        Kept::Abandoned => Ok(Err(Rejection::Abandoned)),
    }
}

/// Frees what is due, in order of (due, subject), up to the settings' bound.
fn release_due<R: Rows>(draft: &mut Draft<'_, R>) -> Result<(), Fault> {
    let limit = draft.head.settings.releases_per_step as usize;
    let from = Key::Due(TimestampMs(0), Subject::first());
    let until = Key::Due(draft.now.plus_ms(1), Subject::first());
    let due = draft.keys(&from, &until, limit + 1)?;
    draft.backlog = due.len() > limit;
    for key in due.into_iter().take(limit) {
        if let Key::Due(at, subject) = key {
            release(draft, at, &subject)?;
        }
    }
    Ok(())
}

/// Frees what is due on one stock.
fn release_due_on<R: Rows>(draft: &mut Draft<'_, R>, sku: &Sku, location: &Location) -> Result<(), Fault> {
    let bound = |at| Key::Hold(sku.clone(), location.clone(), at, Subject::first());
    for key in draft.keys(&bound(TimestampMs(0)), &bound(draft.now.plus_ms(1)), usize::MAX / 2)? {
        if let Key::Hold(_, _, at, subject) = key {
            release(draft, at, &subject)?;
        }
    }
    Ok(())
}

fn release<R: Rows>(draft: &mut Draft<'_, R>, at: TimestampMs, subject: &Subject) -> Result<(), Fault> {
    match subject {
        Subject::Reservation(id) => reservation::expire(draft, at, id),
        Subject::Order(id) => order::cancel_unpaid(draft, at, *id),
    }
}

/// Stocks that a command looks at or changes.
fn touched<R: Rows>(
    draft: &Draft<'_, R>,
    command: &Command,
) -> Result<BTreeSet<(Sku, Location)>, Unreadable> {
    let pair = |sku: &Sku, location: &Location| (sku.clone(), location.clone());
    Ok(match command {
        Command::Receive(lines) => lines.iter().map(|l| pair(&l.sku, &l.location)).collect(),
        Command::Reserve(c) => c.lines.iter().map(|l| pair(&l.sku, &l.location)).collect(),
        Command::Adjust(c) => [pair(&c.sku, &c.location)].into(),
        Command::Transfer(c) => [pair(&c.sku, &c.from), pair(&c.sku, &c.to)].into(),
        Command::PlaceOrder(c) => match &c.source {
            crate::command::OrderSource::Lines(lines) => {
                lines.iter().map(|l| pair(&l.sku, &l.location)).collect()
            }
            crate::command::OrderSource::Reservation(id) => reserved_by(draft, id)?,
        },
        Command::Confirm(id) | Command::CancelReservation(id) => reserved_by(draft, id)?,
        Command::Extend(c) => reserved_by(draft, &c.id)?,
        Command::Pay(crate::command::Pay { order, .. })
        | Command::CancelOrder(crate::command::CancelOrder { order, .. }) => match draft.resolve(order)? {
            Some(id) => draft
                .order(id)?
                .map(|o| o.lines.iter().map(|l| pair(&l.sku, &l.location)).collect())
                .unwrap_or_default(),
            None => BTreeSet::new(),
        },
        _ => BTreeSet::new(),
    })
}

fn reserved_by<R: Rows>(
    draft: &Draft<'_, R>,
    id: &crate::ids::ReservationId,
) -> Result<BTreeSet<(Sku, Location)>, Unreadable> {
    let lines = draft.reservation(id)?.map(|r| r.lines).unwrap_or_default();
    Ok(lines.into_iter().map(|l| (l.sku, l.location)).collect())
}

/// Drops blocks of receipts that are all over, oldest first, up to the settings' bound.
fn drop_receipts<R: Rows>(draft: &mut Draft<'_, R>) -> Result<Vec<Entry>, Fault> {
    let limit = draft.head.settings.receipt_drops_per_step as usize;
    let retention = draft.head.settings.receipt_retention_ms;
    let mut dropped = Vec::new();
    if draft.head.receipts_since.plus_ms(retention) > draft.now {
        return Ok(dropped);
    }
    for (entry, stamp) in draft.rows().receipt_entries(draft.head.receipts_from, limit)? {
        if stamp.plus_ms(retention) > draft.now {
            draft.head.receipts_since = stamp;
            break;
        }
        draft.head.receipts_from = (entry.0, entry.1 + 1);
        dropped.push(entry);
    }
    Ok(dropped)
}
