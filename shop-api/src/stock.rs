//! `/v1/stock` and `/v1/movements`

use crate::answer::Answer;
use crate::codes::Code;
use crate::door::Asked;
use crate::items::{existing, missing};
use crate::json::{self, Number, Text};
use crate::limits::Limits;
use crate::problem::Problem;
use crate::query::{List, Paging, Query};
use crate::refusals::texts;
use crate::values::{self, Lines};
use crate::{consistency, render};
use serde::Deserialize;
use stockroom_storage::reader::View;
use stockroom_storage::shop::command::{Adjust, Command, Transfer};
use stockroom_storage::shop::ids::{Location, Sku};
use stockroom_storage::shop::stock::Stock;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReceiveBody<'a> {
    #[serde(borrow)]
    lines: Lines<'a>,
}

pub(crate) fn receive(limits: &Limits, body: &[u8]) -> Result<Command, Problem> {
    let body: ReceiveBody<'_> = json::parse(body, limits.json_depth)?;
    Ok(Command::Receive(values::lines(limits, &body.lines)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdjustBody<'a> {
    #[serde(borrow)]
    sku: Text<'a>,
    #[serde(borrow)]
    location: Option<Text<'a>>,
    delta: Number,
    #[serde(borrow)]
    reason: Text<'a>,
    expected_on_hand: Option<Number>,
}

pub(crate) fn adjust(limits: &Limits, body: &[u8]) -> Result<Command, Problem> {
    let body: AdjustBody<'_> = json::parse(body, limits.json_depth)?;
    let expected = |number| values::amount(number, 0, || "expected_on_hand".into());
    Ok(Command::Adjust(Adjust {
        sku: values::name(limits, &body.sku.0, Sku::new, || "sku".into())?,
        location: values::location(limits, body.location.as_ref(), || "location".into())?,
        delta: values::delta(body.delta)?,
        reason: values::text(limits, &body.reason, "reason")?,
        expected_on_hand: body.expected_on_hand.map(expected).transpose()?,
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferBody<'a> {
    #[serde(borrow)]
    sku: Text<'a>,
    #[serde(borrow)]
    from: Text<'a>,
    #[serde(borrow)]
    to: Text<'a>,
    quantity: Number,
}

pub(crate) fn transfer(limits: &Limits, body: &[u8]) -> Result<Command, Problem> {
    let body: TransferBody<'_> = json::parse(body, limits.json_depth)?;
    Ok(Command::Transfer(Transfer {
        sku: values::name(limits, &body.sku.0, Sku::new, || "sku".into())?,
        from: values::name(limits, &body.from.0, Location::new, || "from".into())?,
        to: values::name(limits, &body.to.0, Location::new, || "to".into())?,
        quantity: values::quantity(body.quantity, || "quantity".into())?,
    }))
}

/// All stocks of a SKU; `None` where there is no such item. One that never had stock has none.
fn stocks(view: &View<'_>, sku: &Sku) -> Result<Option<Vec<Stock>>, Problem> {
    let stocks = view.stock(sku)?;
    if stocks.is_empty() && view.item(sku)?.is_none() {
        return Ok(None);
    }
    Ok(Some(stocks))
}

pub(crate) async fn get(asked: &Asked<'_>) -> Result<Answer, Problem> {
    Query::parse(asked.query, &[])?;
    let sku = existing(asked.limits(), &asked.target.parameter)?;
    let (found, shown) = consistency::point(asked.cluster, asked.level, asked.deadline, |view| {
        stocks(view, &sku)?.ok_or_else(|| missing(&sku))
    })
    .await?;
    let body = render::json(&render::stock(&sku, &found), 128 + 128 * found.len());
    Ok(Answer::json(body).shown(shown))
}

pub(crate) async fn read_several(asked: &Asked<'_>) -> Result<Answer, Problem> {
    let query = Query::parse(asked.query, &["sku"])?;
    let skus = query.skus(asked.limits())?;
    let read = move |view: &View<'_>| {
        let mut found = Vec::with_capacity(skus.len());
        let mut unknown = Vec::new();
        for sku in skus {
            match stocks(view, &sku)? {
                Some(stocks) => found.push((sku, stocks)),
                None => unknown.push(sku),
            }
        }
        if unknown.is_empty() { Ok(found) } else { Err(unknown_skus(&unknown)) }
    };
    consistency::scan(asked, read, |found: Vec<(Sku, Vec<Stock>)>| {
        render::list(found.iter().map(|(sku, stocks)| render::stock(sku, stocks)).collect())
    })
    .await
}

fn unknown_skus(skus: &[Sku]) -> Problem {
    let detail = format!("{} unknown SKU(s), the first is {}", skus.len(), skus[0]);
    Problem::new(Code::UnknownSku, detail).at("sku").with("skus", texts(skus))
}

pub(crate) async fn movements_of_one(asked: &Asked<'_>) -> Result<Answer, Problem> {
    let query = Query::parse(asked.query, &["location", "limit", "cursor"])?;
    let sku = existing(asked.limits(), &asked.target.parameter)?;
    let paging = query.paging_in(asked.limits(), List::StockMovements, sku.as_str())?;
    list_movements(asked, &query, paging, vec![sku], |unknown| missing(&unknown[0])).await
}

pub(crate) async fn movements(asked: &Asked<'_>) -> Result<Answer, Problem> {
    let query = Query::parse(asked.query, &["sku", "location", "limit", "cursor"])?;
    let mut skus = query.skus(asked.limits())?;
    // A movement is one line of the list, however often its SKU is asked for.
    skus.sort_unstable();
    skus.dedup();
    let paging = query.paging(asked.limits(), List::Movements)?;
    list_movements(asked, &query, paging, skus, unknown_skus).await
}

async fn list_movements(
    asked: &Asked<'_>,
    query: &Query<'_>,
    paging: Paging,
    skus: Vec<Sku>,
    refuse: fn(&[Sku]) -> Problem,
) -> Result<Answer, Problem> {
    let location = query.name(asked.limits(), "location", Location::new)?;
    let read = move |view: &View<'_>| {
        let mut unknown = Vec::new();
        for sku in &skus {
            if view.item(sku)?.is_none() {
                unknown.push(sku.clone());
            }
        }
        if !unknown.is_empty() {
            return Err(refuse(&unknown));
        }
        Ok(view.movements(&skus, location.as_ref(), paging.from, paging.limit)?)
    };
    consistency::scan(asked, read, move |page| {
        render::page(&page.rows, paging.next(page.next), render::movement)
    })
    .await
}
