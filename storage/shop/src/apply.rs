//! All that can be asked for, and who decides it.

use crate::command::{Batch, Command, Proposal, Settings, SettingsChange};
use crate::draft::Draft;
use crate::effect::{Answer, Rejection, Reply, Step};
use crate::state::{Fault, Rows, Unreadable};
use crate::{item, order, receipt, release, reservation, stock};

/// Why a rule went no further. A rejection is an answer; a fault stops the node.
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

/// What a rule says.
pub(crate) type Ruling<T = Reply> = Result<T, Halt>;

/// Decides. The same rows, command and time give the same ruling on every node, for ever. A rule
/// frees what is due on the stock it touches, checks everything, and changes the draft after.
fn apply(draft: &mut Draft<'_>, proposal: &Proposal) -> Ruling {
    match &proposal.command {
        Command::PutItem(c) => item::put(draft, c),
        Command::RetireItem(sku) => item::retire(draft, sku),
        Command::Receive(lines) => stock::receive(draft, lines, proposal),
        Command::Adjust(c) => stock::adjust(draft, c, proposal),
        Command::Transfer(c) => stock::transfer(draft, c, proposal),
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
        Command::Abandon(key) => receipt::abandon(draft, key),
        // Time has passed by the time a proposal is looked at.
        Command::Tick => Ok(Reply::Done),
        Command::Configure(c) => Ok(configure(draft, c)),
        Command::RaiseClusterVersion(to) => {
            draft.head.cluster_version = draft.head.cluster_version.max(*to);
            Ok(Reply::Done)
        }
        Command::Unknown => Err(Rejection::NotInForce(draft.head.cluster_version).into()),
        #[cfg(feature = "next-version")]
        Command::Rehearse => crate::rehearsal::rehearse(draft),
    }
}

/// Merged here, with what is in force by now: of two changes of different fields both hold.
fn configure(draft: &mut Draft<'_>, change: &SettingsChange) -> Reply {
    let now = &draft.head.settings;
    draft.head.settings = Settings {
        receipt_retention_ms: change.receipt_retention_ms.unwrap_or(now.receipt_retention_ms),
        releases_per_step: change.releases_per_step.unwrap_or(now.releases_per_step),
        receipt_drops_per_step: change.receipt_drops_per_step.unwrap_or(now.receipt_drops_per_step),
        metadata_entries: change.metadata_entries.unwrap_or(now.metadata_entries),
    };
    Reply::Settings(draft.head.settings.clone())
}

/// Applies one entry: moves the clock (never back), frees what is due, and answers each proposal,
/// from its receipt where its key is known. The only way in which state changes; the caller
/// absorbs the [`Step`] whole.
///
/// # Errors
/// [`Fault`]: nothing of the entry may be absorbed, and the node stops.
pub fn step(rows: &impl Rows, log_index: u64, batch: &Batch) -> Result<Step, Fault> {
    let mut draft = Draft::open(rows, log_index, batch)?;
    release::everywhere(&mut draft)?;
    receipt::drop_expired(&mut draft)?;
    let mut answers = Vec::with_capacity(batch.proposals.len());
    for proposal in &batch.proposals {
        answers.push(answer(&mut draft, proposal)?);
    }
    Ok(Step { answers, ..draft.close()? })
}

/// One proposal: a known key hears its receipt, anything else is decided and kept. What is not in force does nothing and
/// is not kept either: programs that cannot read it do not know its key. Nor is what finds its entry full.
fn answer(draft: &mut Draft<'_>, proposal: &Proposal) -> Result<Answer, Fault> {
    if proposal.command.since() > draft.head.cluster_version {
        let outcome = Err(Rejection::NotInForce(draft.head.cluster_version));
        return Ok(Answer { outcome, replayed: false, log_index: draft.log_index });
    }
    if let Some(key) = &proposal.idempotency_key {
        if let Some(receipt) = receipt::of(draft, key)? {
            return receipt::replay(draft, receipt, proposal.fingerprint);
        }
        if receipt::are_enough(draft) {
            let outcome = Err(Rejection::EntryFull);
            return Ok(Answer { outcome, replayed: false, log_index: draft.log_index });
        }
    }
    let outcome = match apply(draft, proposal) {
        Ok(reply) => Ok(reply),
        Err(Halt::Rejected(rejection)) => Err(rejection),
        Err(Halt::Fault(fault)) => return Err(fault),
    };
    if let Some(key) = &proposal.idempotency_key {
        receipt::keep(draft, key, proposal.fingerprint, &outcome);
    }
    Ok(Answer { outcome, replayed: false, log_index: draft.log_index })
}
