//! `/v1/orders`

use crate::answer::Answer;
use crate::codes::Code;
use crate::door::Asked;
use crate::json::{self, Number, Object, Text, Texts};
use crate::limits::Limits;
use crate::problem::{Extra, Problem};
use crate::query::{List, Query};
use crate::values::{self, Lines};
use crate::writes::NoFields;
use crate::{consistency, render};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use stockroom_storage::shop::command::{
    CancelOrder, Command, NewOrderLine, OrderSource, PatchMetadata, Pay, PlaceOrder, Refund, Return, Ship,
};
use stockroom_storage::shop::ids::{CustomerId, OrderName, ReservationId, Sku};
use stockroom_storage::shop::reservation::StockLine;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceBody<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    customer_id: Option<Text<'a>>,
    #[serde(borrow)]
    currency: Option<Text<'a>>,
    #[serde(borrow)]
    pay_by: Option<Text<'a>>,
    metadata: Option<Texts<String>>,
    #[serde(borrow)]
    lines: Option<Vec<Object<NewLineBody<'a>>>>,
    #[serde(borrow)]
    reservation_id: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewLineBody<'a> {
    #[serde(borrow)]
    sku: Text<'a>,
    #[serde(borrow)]
    location: Option<Text<'a>>,
    quantity: Number,
    amount_minor: Option<Number>,
}

pub(crate) fn place(limits: &Limits, body: &[u8]) -> Result<Command, Problem> {
    let body: PlaceBody<'_> = json::parse(body, limits.json_depth)?;
    let source = match (&body.lines, &body.reservation_id) {
        (Some(lines), None) => OrderSource::Lines(new_lines(limits, lines)?),
        (None, Some(id)) => {
            OrderSource::Reservation(values::name(limits, &id.0, ReservationId::new, || {
                "reservation_id".into()
            })?)
        }
        (None, None) => {
            let detail = "an order needs either `lines` or a `reservation_id`";
            return Err(Problem::new(Code::MissingField, detail).at("lines"));
        }
        (Some(_), Some(_)) => {
            let detail = "an order of a reservation takes its lines from there: send no `lines`";
            return Err(Problem::new(Code::InvalidValue, detail).at("lines"));
        }
    };
    let chosen = |id: &Text<'_>| values::name(limits, &id.0, OrderName::chosen, || "id".into());
    let customer = |id: &Text<'_>| values::name(limits, &id.0, CustomerId::new, || "customer_id".into());
    Ok(Command::PlaceOrder(PlaceOrder {
        name: body.id.as_ref().map(chosen).transpose()?,
        customer_id: body.customer_id.as_ref().map(customer).transpose()?,
        currency: body.currency.as_ref().map(|c| values::currency(c, "currency")).transpose()?,
        pay_by: body.pay_by.as_ref().map(|time| values::time(time, "pay_by")).transpose()?,
        metadata: body.metadata.map_or_else(|| Ok(BTreeMap::new()), |given| metadata(limits, &given.0))?,
        source,
    }))
}

fn new_lines(limits: &Limits, lines: &[Object<NewLineBody<'_>>]) -> Result<Vec<NewOrderLine>, Problem> {
    values::count_lines(limits, lines.len())?;
    let line = |(i, Object(line)): (usize, &Object<NewLineBody<'_>>)| {
        let amount = |number| values::amount(number, 0, || format!("lines[{i}].amount_minor"));
        Ok(NewOrderLine {
            sku: values::name(limits, &line.sku.0, Sku::new, || format!("lines[{i}].sku"))?,
            location: values::location(limits, line.location.as_ref(), || format!("lines[{i}].location"))?,
            quantity: values::quantity(line.quantity, || format!("lines[{i}].quantity"))?,
            amount_minor: line.amount_minor.map(amount).transpose()?,
        })
    };
    lines.iter().enumerate().map(line).collect()
}

fn metadata(
    limits: &Limits,
    given: &BTreeMap<String, String>,
) -> Result<BTreeMap<Arc<str>, Arc<str>>, Problem> {
    if given.len() > limits.metadata_entries {
        return Err(too_much_metadata(given.len(), limits.metadata_entries));
    }
    let entry = |(key, value): (&String, &String)| {
        Ok((
            values::metadata_key(limits, key)?,
            values::metadata(limits, value, || format!("metadata.{key}"))?,
        ))
    };
    given.iter().map(entry).collect()
}

fn too_much_metadata(entries: usize, most: usize) -> Problem {
    Problem::new(Code::TooMuchMetadata, format!("may have {most} entries, has {entries}"))
        .at("metadata")
        .with("most", Extra::Count(most as u64))
}

/// An order in a path that must be there: what no id can look like is not.
fn existing(limits: &Limits, id: &str) -> Result<OrderName, Problem> {
    values::name(limits, id, OrderName::new, || "id".into()).map_err(|problem| {
        Problem::new(Code::OrderNotFound, format!("no order's id looks like this: {}", problem.detail()))
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MoneyBody<'a> {
    amount_minor: Option<Number>,
    #[serde(borrow)]
    reference: Option<Text<'a>>,
}

type Money = (Option<u64>, Option<Arc<str>>);

fn money(limits: &Limits, body: &[u8]) -> Result<Money, Problem> {
    let body: MoneyBody<'_> = json::parse(body, limits.json_depth)?;
    let amount = body.amount_minor.map(|number| values::amount(number, 1, || "amount_minor".into()));
    let reference = body.reference.map(|reference| values::text(limits, &reference, "reference"));
    Ok((amount.transpose()?, reference.transpose()?))
}

pub(crate) fn pay(limits: &Limits, id: &str, body: &[u8]) -> Result<Command, Problem> {
    let order = existing(limits, id)?;
    let (amount_minor, reference) = money(limits, body)?;
    Ok(Command::Pay(Pay { order, amount_minor, reference }))
}

pub(crate) fn refund(limits: &Limits, id: &str, body: &[u8]) -> Result<Command, Problem> {
    let order = existing(limits, id)?;
    let (amount_minor, reference) = money(limits, body)?;
    Ok(Command::Refund(Refund { order, amount_minor, reference }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShipBody<'a> {
    #[serde(borrow)]
    lines: Option<Lines<'a>>,
}

fn some_lines(limits: &Limits, lines: Option<&Lines<'_>>) -> Result<Option<Vec<StockLine>>, Problem> {
    lines.map(|lines| values::lines(limits, lines)).transpose()
}

pub(crate) fn ship(limits: &Limits, id: &str, body: &[u8]) -> Result<Command, Problem> {
    let order = existing(limits, id)?;
    let body: ShipBody<'_> = json::parse(body, limits.json_depth)?;
    Ok(Command::Ship(Ship { order, lines: some_lines(limits, body.lines.as_ref())? }))
}

pub(crate) fn complete(limits: &Limits, id: &str, body: &[u8]) -> Result<Command, Problem> {
    let order = existing(limits, id)?;
    let NoFields {} = json::parse(body, limits.json_depth)?;
    Ok(Command::Complete(order))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CancelBody<'a> {
    #[serde(borrow)]
    reason: Option<Text<'a>>,
}

pub(crate) fn cancel(limits: &Limits, id: &str, body: &[u8]) -> Result<Command, Problem> {
    let order = existing(limits, id)?;
    let body: CancelBody<'_> = json::parse(body, limits.json_depth)?;
    let reason = body.reason.map(|reason| values::text(limits, &reason, "reason")).transpose()?;
    Ok(Command::CancelOrder(CancelOrder { order, reason }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReturnBody<'a> {
    #[serde(borrow)]
    lines: Option<Lines<'a>>,
    restock: Option<bool>,
}

pub(crate) fn return_units(limits: &Limits, id: &str, body: &[u8]) -> Result<Command, Problem> {
    let order = existing(limits, id)?;
    let body: ReturnBody<'_> = json::parse(body, limits.json_depth)?;
    let lines = some_lines(limits, body.lines.as_ref())?;
    Ok(Command::Return(Return { order, lines, restock: body.restock.unwrap_or(true) }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatchBody {
    metadata: Texts<Option<String>>,
}

pub(crate) fn patch_metadata(limits: &Limits, id: &str, body: &[u8]) -> Result<Command, Problem> {
    let order = existing(limits, id)?;
    let PatchBody { metadata: Texts(given) } = json::parse(body, limits.json_depth)?;
    // As many as can be removed and as many as can be added.
    if given.len() > 2 * limits.metadata_entries {
        return Err(too_much_metadata(given.len(), 2 * limits.metadata_entries));
    }
    let change = |(key, value): (&String, &Option<String>)| {
        let value = value.as_ref().map(|value| values::metadata(limits, value, || format!("metadata.{key}")));
        Ok((values::metadata_key(limits, key)?, value.transpose()?))
    };
    let changes = given.iter().map(change).collect::<Result<_, Problem>>()?;
    Ok(Command::PatchMetadata(PatchMetadata { order, changes }))
}

pub(crate) async fn get(asked: &Asked<'_>) -> Result<Answer, Problem> {
    Query::parse(asked.query, &[])?;
    let name = existing(asked.limits(), &asked.target.parameter)?;
    let (order, shown) = consistency::point(asked.cluster, asked.level, asked.deadline, |view| {
        view.order(&name)?
            .ok_or_else(|| Problem::new(Code::OrderNotFound, format!("there is no order {name}")))
    })
    .await?;
    let body = render::json(&render::order(&order), render::order_bytes(&order));
    Ok(Answer::json(body).shown(shown))
}

pub(crate) async fn list(asked: &Asked<'_>) -> Result<Answer, Problem> {
    let query = Query::parse(asked.query, &["customer_id", "status", "limit", "cursor"])?;
    let customer = query.name(asked.limits(), "customer_id", CustomerId::new)?;
    let status = query.word("status", &render::ORDER_STATUSES)?;
    let paging = query.paging(asked.limits(), List::Orders)?;
    consistency::scan(
        asked,
        move |view| Ok(view.orders(customer.as_ref(), status, paging.from, paging.limit)?),
        move |page| render::page(&page.rows, paging.next(page.next), render::order),
    )
    .await
}
