//! `/v1/reservations`

use crate::answer::Answer;
use crate::codes::Code;
use crate::door::Asked;
use crate::json::{self, Number, Text};
use crate::limits::Limits;
use crate::problem::Problem;
use crate::query::{List, Query};
use crate::values::{self, Lines};
use crate::writes::NoFields;
use crate::{consistency, render};
use serde::Deserialize;
use stockroom_storage::shop::command::{Command, Extend, Reserve};
use stockroom_storage::shop::ids::ReservationId;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReserveBody<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    ttl_ms: Number,
    #[serde(borrow)]
    lines: Lines<'a>,
}

pub(crate) fn reserve(limits: &Limits, body: &[u8]) -> Result<Command, Problem> {
    let body: ReserveBody<'_> = json::parse(body, limits.json_depth)?;
    let chosen = |id: Text<'_>| values::name(limits, &id.0, ReservationId::chosen, || "id".into());
    Ok(Command::Reserve(Reserve {
        id: body.id.map(chosen).transpose()?,
        ttl_ms: values::ttl_ms(body.ttl_ms)?,
        lines: values::lines(limits, &body.lines)?,
    }))
}

pub(crate) fn confirm(limits: &Limits, id: &str, body: &[u8]) -> Result<Command, Problem> {
    let id = existing(limits, id)?;
    let NoFields {} = json::parse(body, limits.json_depth)?;
    Ok(Command::Confirm(id))
}

/// Of one that is not there it is remembered, so here a bad id is a bad value.
pub(crate) fn cancel(limits: &Limits, id: &str, body: &[u8]) -> Result<Command, Problem> {
    let id = values::name(limits, id, ReservationId::new, || "id".into())?;
    let NoFields {} = json::parse(body, limits.json_depth)?;
    Ok(Command::CancelReservation(id))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtendBody {
    ttl_ms: Number,
}

pub(crate) fn extend(limits: &Limits, id: &str, body: &[u8]) -> Result<Command, Problem> {
    let id = existing(limits, id)?;
    let body: ExtendBody = json::parse(body, limits.json_depth)?;
    Ok(Command::Extend(Extend { id, ttl_ms: values::ttl_ms(body.ttl_ms)? }))
}

fn existing(limits: &Limits, id: &str) -> Result<ReservationId, Problem> {
    values::name(limits, id, ReservationId::new, || "id".into()).map_err(|problem| {
        let detail = format!("no reservation's id looks like this: {}", problem.detail());
        Problem::new(Code::ReservationNotFound, detail)
    })
}

pub(crate) async fn get(asked: &Asked<'_>) -> Result<Answer, Problem> {
    Query::parse(asked.query, &[])?;
    let id = existing(asked.limits(), &asked.target.parameter)?;
    let (found, shown) = consistency::point(asked.cluster, asked.level, asked.deadline, |view| {
        view.reservation(&id)?
            .ok_or_else(|| Problem::new(Code::ReservationNotFound, format!("there is no reservation {id}")))
    })
    .await?;
    let body = render::json(&render::reservation(&found), 256 + 96 * found.lines.len());
    Ok(Answer::json(body).shown(shown))
}

pub(crate) async fn list(asked: &Asked<'_>) -> Result<Answer, Problem> {
    let query = Query::parse(asked.query, &["status", "limit", "cursor"])?;
    let status = query.word("status", &render::RESERVATION_STATUSES)?;
    let paging = query.paging(asked.limits(), List::Reservations)?;
    consistency::scan(
        asked,
        move |view| Ok(view.reservations(status, paging.from, paging.limit)?),
        move |page| render::page(&page.rows, paging.next(page.next), render::reservation),
    )
    .await
}
