//! All that can be asked for, and who decides it.

use crate::command::{Command, Proposal};
use crate::draft::Draft;
use crate::effect::{Rejection, Reply};
use crate::state::{Breach, Fault, Unreadable};
use crate::{item, order, receipt, reservation, stock};

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

/// What a rule says.
pub(crate) type Ruling<T = Reply> = Result<T, Halt>;

/// Decides. The same rows, command and time give the same ruling on every node, for ever. A rule
/// frees what is due on the stock it touches, checks everything, and changes the draft after.
pub(crate) fn apply(draft: &mut Draft<'_>, proposal: &Proposal) -> Ruling {
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
        Command::Configure(settings) => {
            draft.head.settings = settings.clone();
            Ok(Reply::Done)
        }
    }
}
