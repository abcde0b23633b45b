//! From a method, a path and a body to a command; from the shop's outcome to an answer.

use crate::answer::Answer;
use crate::codes::Code;
use crate::consistency::Shown;
use crate::door::Asked;
use crate::headers::{self, Headers};
use crate::limits::Limits;
use crate::problem::Problem;
use crate::refusals::of_propose;
use crate::routes::Target;
use crate::{Call, items, orders, render, reservations, settings, stock};
use stockroom_raft::Served;
use stockroom_storage::codec::{self, ProposalBytes};
use stockroom_storage::shop::command::Command;
use stockroom_storage::shop::effect::{self, Reply};
use stockroom_storage::shop::ids::IdempotencyKey;

/// The one way from a request to a command, alone or in a batch (which has no headers), so that
/// the two cannot disagree. Equal commands are equal requests: that is what keys are compared by.
pub(crate) fn command_from(
    limits: &Limits,
    target: &Target<'_>,
    headers: &Headers<'_>,
    body: &[u8],
) -> Result<Command, Problem> {
    if target.call != Call::PutItem {
        headers::no_precondition(headers)?;
    }
    let id = &*target.parameter;
    match target.call {
        Call::PutItem => items::put(limits, id, headers::precondition(headers)?, body),
        Call::RetireItem => items::retire(limits, id, body),
        Call::Receive => stock::receive(limits, body),
        Call::Adjust => stock::adjust(limits, body),
        Call::Transfer => stock::transfer(limits, body),
        Call::Reserve => reservations::reserve(limits, body),
        Call::Confirm => reservations::confirm(limits, id, body),
        Call::CancelReservation => reservations::cancel(limits, id, body),
        Call::Extend => reservations::extend(limits, id, body),
        Call::PlaceOrder => orders::place(limits, body),
        Call::Pay => orders::pay(limits, id, body),
        Call::Ship => orders::ship(limits, id, body),
        Call::Complete => orders::complete(limits, id, body),
        Call::CancelOrder => orders::cancel(limits, id, body),
        Call::Return => orders::return_units(limits, id, body),
        Call::Refund => orders::refund(limits, id, body),
        Call::PatchMetadata => orders::patch_metadata(limits, id, body),
        Call::ChangeSettings => settings::change(limits, body),
        other => {
            let detail = format!("{} is not a write with a key of its own", other.route().path);
            Err(Problem::new(Code::RouteNotFound, detail))
        }
    }
}

/// A body without fields: `{}`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoFields {}

/// Proposes one write and answers what the shop decided.
pub(crate) async fn submit(asked: &Asked<'_>, key: IdempotencyKey, body: &[u8]) -> Result<Answer, Problem> {
    let command = command_from(asked.limits(), &asked.target, asked.headers, body)?;
    let proposal = codec::encode_proposal(Some(key.clone()), command);
    let (answer, shown) = propose(asked, proposal, &key).await?;
    match &answer.outcome {
        Ok(reply) => {
            let decided = decided(reply, answer.log_index);
            Ok(Answer {
                etag: decided.etag,
                location: decided.location,
                replayed: answer.replayed,
                shown: Some(shown),
                ..Answer::new(decided.status, crate::answer::JSON, decided.body)
            })
        }
        Err(rejection) => Err(Problem::from(rejection).shown(shown).replayed(answer.replayed)),
    }
}

/// What the shop decided, and what an answer that says so shows.
pub(crate) async fn propose(
    asked: &Asked<'_>,
    proposal: ProposalBytes,
    key: &IdempotencyKey,
) -> Result<(effect::Answer, Shown), Problem> {
    let served = asked.cluster.propose(proposal, asked.deadline).await;
    let Served { answer, node_id } = served.map_err(|error| of_propose(&error, Some(key)))?;
    let shown = Shown { log_index: answer.log_index, node_id, staleness_ms: None };
    Ok((answer, shown))
}

/// A reply as it is answered.
pub(crate) struct Decided {
    pub status: u16,
    pub body: Vec<u8>,
    pub etag: Option<u64>,
    pub location: Option<String>,
}

/// Renders a reply from nothing but itself, so that every replay says the same.
pub(crate) fn decided(reply: &Reply, log_index: u64) -> Decided {
    let (created, body, etag, location) = match reply {
        Reply::Item { item, created } => {
            let path = format!("/v1/items/{}", render::segment(item.sku.as_str()));
            (*created, render::json(&render::item(item), 512), Some(item.version), path)
        }
        Reply::Order { order, created } => {
            let path = format!("/v1/orders/{}", render::segment(&render::order_id(order)));
            (*created, render::json(&render::order(order), render::order_bytes(order)), None, path)
        }
        Reply::Reservation { reservation, created } => {
            let path = format!("/v1/reservations/{}", render::segment(reservation.id.as_str()));
            let bytes = 256 + 96 * reservation.lines.len();
            // One that is cancelled before its try is remembered, which creates nothing to hold.
            let held = reservation.status == stockroom_storage::shop::reservation::ReservationStatus::Held;
            (*created && held, render::json(&render::reservation(reservation), bytes), None, path)
        }
        Reply::Stock(levels) => {
            let bytes = 32 + 128 * levels.len();
            (false, render::json(&render::levels(levels, log_index), bytes), None, String::new())
        }
        Reply::Settings(settings) => (false, settings::body(settings), None, String::new()),
        Reply::Settled(_) | Reply::Done => (false, b"{}".to_vec(), None, String::new()),
    };
    Decided { status: if created { 201 } else { 200 }, body, etag, location: created.then_some(location) }
}
