//! What each call takes and answers: one entry for each, checked to be there by the compiler.

mod cluster;
mod common;
mod items;
mod node;
mod orders;
mod outcomes;
mod reservations;
mod stock;

pub(crate) use common::common;

use crate::Call;
use crate::codes::Code;

/// A chapter of the document.
#[derive(Clone, Copy)]
pub(crate) struct Tag {
    pub name: &'static str,
    pub description: &'static str,
}

/// The chapters, in the order in which a reader meets them.
pub(crate) const TAGS: [Tag; 6] =
    [orders::TAG, reservations::TAG, stock::TAG, items::TAG, outcomes::TAG, cluster::TAG];

/// What one call takes and answers.
pub(crate) struct Operation {
    pub tag: &'static str,
    pub summary: &'static str,
    pub description: &'static str,
    /// Schema of the body.
    pub body: Option<&'static str>,
    pub answers: Vec<Answers>,
    /// Error codes beside those that all calls of its kind have.
    pub codes: &'static [Code],
    /// Names of parameters beside those.
    pub parameters: &'static [&'static str],
}

/// One successful answer.
pub(crate) struct Answers {
    pub status: u16,
    pub description: &'static str,
    /// Media types and schemas; without a name, any text.
    pub content: &'static [(&'static str, &'static str)],
    /// Headers and their component names, beside those that all answers have.
    pub headers: &'static [(&'static str, &'static str)],
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

const LOCATION: &[(&str, &str)] = &[("Location", "Location")];
fn created(answer: Answers, description: &'static str) -> Answers {
    Answers { status: 201, description, headers: LOCATION, ..answer }
}

fn page(schema: &'static [(&'static str, &'static str)]) -> Vec<Answers> {
    let description = "A page: no skip and no repeat while writes go on. A filtered page may be short, or empty, and \
                       still have a next one.";
    vec![Answers { status: 200, description, content: schema, headers: &[] }]
}

const fn answer(
    status: u16,
    description: &'static str,
    content: &'static [(&'static str, &'static str)],
) -> Answers {
    Answers { status, description, content, headers: &[] }
}

/// What `call` takes and answers.
pub(crate) fn of(call: Call) -> Operation {
    match call {
        Call::PutItem | Call::GetItem | Call::ListItems | Call::RetireItem => items::of(call),
        Call::Receive | Call::Adjust | Call::Transfer => stock::writes(call),
        Call::GetStock | Call::ReadStocks | Call::StockMovements | Call::Movements => stock::reads(call),
        Call::Reserve | Call::Confirm | Call::CancelReservation | Call::Extend => reservations::writes(call),
        Call::GetReservation | Call::ListReservations => reservations::reads(call),
        Call::PlaceOrder | Call::Pay | Call::Ship | Call::Complete => orders::writes(call),
        Call::CancelOrder | Call::Return | Call::Refund | Call::PatchMetadata => orders::changes(call),
        Call::GetOrder | Call::ListOrders => orders::reads(call),
        Call::Batch | Call::GetOutcome | Call::Abandon => outcomes::of(call),
        Call::PlanMember | Call::PromoteMember | Call::DemoteMember | Call::RemoveMember => {
            cluster::members(call)
        }
        Call::TransferLeadership => cluster::transfer(),
        Call::GetSettings | Call::ChangeSettings => cluster::settings(call),
        Call::CheckUpgrade | Call::FinalizeUpgrade => cluster::upgrade(call),
        Call::GetCluster | Call::Audit => cluster::looks(call),
        Call::Backup | Call::Export | Call::ReadLog => node::files(call),
        Call::GetScrub | Call::StartScrub => node::scrub(call),
        Call::LogEntries | Call::GetSnapshot | Call::CreateSnapshot => node::looks(call),
        Call::Live | Call::Ready | Call::Metrics | Call::OpenApi | Call::Docs | Call::DocsFile => {
            node::probes(call)
        }
    }
}

fn operation(tag: Tag, summary: &'static str, answers: Vec<Answers>) -> Operation {
    Operation { tag: tag.name, summary, description: "", body: None, answers, codes: &[], parameters: &[] }
}
