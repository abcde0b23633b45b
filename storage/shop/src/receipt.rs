//! Receipts: what is kept under idempotency keys. A receipt exists if and only if the time it was
//! kept + retention > the replicated clock; when its bytes are dropped shows nowhere.

use crate::apply::Ruling;
use crate::draft::Draft;
use crate::effect::{Answer, Kept, Outcome, Receipt, Rejection, Reply};
use crate::ids::{IdempotencyKey, TimestampMs};
use crate::planted;
use crate::state::{Fault, Index, Unreadable};

/// One entry keeps no more than this, and one answer, beside the orders that it places: a command of a few bytes may be
/// answered by an order of a hundred thousand, which is kept whole.
const MOST_KEPT_BYTES: usize = 32 << 20;

/// Whether an entry keeps so much already that what comes has to wait for the next one.
pub(crate) fn are_enough(draft: &Draft<'_>) -> bool {
    draft.kept_bytes > MOST_KEPT_BYTES
}

fn is_live(draft: &Draft<'_>, at: TimestampMs) -> bool {
    at.plus_ms(draft.head.settings.receipt_retention_ms) > draft.now
}

/// The live receipt of a key. Fingerprints of keys collide, so the full key is compared.
pub(crate) fn of(draft: &Draft<'_>, key: &IdempotencyKey) -> Result<Option<Receipt>, Unreadable> {
    if let Some(receipt) = draft.receipt_here(key) {
        return Ok(is_live(draft, receipt.at).then(|| receipt.clone()));
    }
    for place in draft.rows.find(Index::Receipt, key.as_str())? {
        let over = (place.epoch, place.index) < draft.head.receipts_from;
        if over || place.index < planted::receipts_known_from() {
            break;
        }
        // Newest first: where this one is over, older ones are.
        if let Some(receipt) = draft.rows.receipt(place)?.filter(|receipt| receipt.key == *key) {
            return Ok(Some(receipt).filter(|receipt| is_live(draft, receipt.at)));
        }
    }
    Ok(None)
}

/// Answers a key that is known: the same command hears the same again, another is refused.
pub(crate) fn replay(draft: &Draft<'_>, receipt: Receipt, fingerprint: u128) -> Result<Answer, Fault> {
    let log_index = receipt.place.index;
    let outcome = match receipt.outcome {
        Kept::Abandoned => Err(Rejection::Abandoned),
        _ if receipt.fingerprint != fingerprint => {
            let outcome = Err(Rejection::KeyReused);
            return Ok(Answer { outcome, replayed: false, log_index: draft.log_index });
        }
        Kept::Placed(place) => {
            let lost = || Unreadable(format!("the order placed at {place:?} is not there"));
            let order = draft.placed_order(place)?.ok_or_else(lost)?;
            Ok(Reply::Order { order, created: true })
        }
        Kept::Outcome(outcome) => outcome,
    };
    Ok(Answer { outcome, replayed: true, log_index })
}

/// Keeps what was decided, whether the write passed or not.
pub(crate) fn keep(draft: &mut Draft<'_>, key: &IdempotencyKey, fingerprint: u128, outcome: &Outcome) {
    let kept = match outcome {
        // Idempotent by itself, and its answer may hold another receipt: kept, they would nest.
        Ok(Reply::Settled(_)) => return,
        Ok(Reply::Order { order, created: true }) => Kept::Placed(order.id.0),
        outcome => {
            draft.kept_bytes += outcome.as_ref().map_or(0, Reply::weight);
            Kept::Outcome(outcome.clone())
        }
    };
    add(draft, key, fingerprint, kept);
}

fn add(draft: &mut Draft<'_>, key: &IdempotencyKey, fingerprint: u128, outcome: Kept) {
    let (place, at) = (draft.place(draft.receipts.len()), draft.now);
    draft.add_receipt(Receipt { key: key.clone(), fingerprint, outcome, place, at });
}

/// Settles a key: its outcome where there is one, else none ever will be.
pub(crate) fn abandon(draft: &mut Draft<'_>, key: &IdempotencyKey) -> Ruling {
    let known = of(draft, key)?;
    if known.is_none() {
        add(draft, key, 0, Kept::Abandoned);
    }
    Ok(Reply::Settled(known.map(Box::new)))
}

/// Drops blocks of receipts that are over, oldest first, as many as one step should.
pub(crate) fn drop_expired(draft: &mut Draft<'_>) -> Result<(), Unreadable> {
    if is_live(draft, draft.head.receipts_since) {
        return Ok(());
    }
    let most = draft.head.settings.receipt_drops_per_step.max(1) as usize;
    for (entry @ (epoch, index), at) in draft.rows.receipt_entries(draft.head.receipts_from, most)? {
        draft.head.receipts_since = at;
        if is_live(draft, at) {
            break;
        }
        draft.dropped_receipts.push(entry);
        draft.head.receipts_from = (epoch, index + 1);
    }
    Ok(())
}
