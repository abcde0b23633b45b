//! `/v1/items`

use crate::answer::Answer;
use crate::codes::Code;
use crate::door::Asked;
use crate::json::{self, Attributes, Number, Object, Text};
use crate::limits::Limits;
use crate::problem::Problem;
use crate::query::{List, Query};
use crate::writes::NoFields;
use crate::{consistency, headers, render, values};
use serde::Deserialize;
use stockroom_storage::shop::command::{Command, PutItem};
use stockroom_storage::shop::ids::Sku;
use stockroom_storage::shop::item::Price;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutBody<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    price: Option<Object<PriceBody<'a>>>,
    attributes: Option<Attributes>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceBody<'a> {
    amount_minor: Number,
    #[serde(borrow)]
    currency: Text<'a>,
}

pub(crate) fn put(
    limits: &Limits,
    sku: &str,
    expected_version: Option<u64>,
    body: &[u8],
) -> Result<Command, Problem> {
    let sku = values::name(limits, sku, Sku::new, || "sku".into())?;
    let body: PutBody<'_> = json::parse(body, limits.json_depth)?;
    let price = |Object(price): Object<PriceBody<'_>>| {
        Ok::<_, Problem>(Price {
            amount_minor: values::amount(price.amount_minor, 0, || "price.amount_minor".into())?,
            currency: values::currency(&price.currency, "price.currency")?,
        })
    };
    let attributes = body.attributes.map(|attributes| attributes.canonical(limits)).transpose()?.flatten();
    Ok(Command::PutItem(PutItem {
        sku,
        name: body.name.map(|name| values::text(limits, &name, "name")).transpose()?,
        price: body.price.map(price).transpose()?,
        attributes: attributes.map(Into::into),
        expected_version,
    }))
}

pub(crate) fn retire(limits: &Limits, sku: &str, body: &[u8]) -> Result<Command, Problem> {
    let sku = existing(limits, sku)?;
    let NoFields {} = json::parse(body, limits.json_depth)?;
    Ok(Command::RetireItem(sku))
}

/// A SKU in a path that must be there: what no SKU can look like is not.
pub(crate) fn existing(limits: &Limits, sku: &str) -> Result<Sku, Problem> {
    values::name(limits, sku, Sku::new, || "sku".into()).map_err(|problem| {
        Problem::new(Code::ItemNotFound, format!("no SKU looks like this: {}", problem.detail()))
    })
}

/// What reads answer where the item is not there.
pub(crate) fn missing(sku: &Sku) -> Problem {
    Problem::new(Code::ItemNotFound, format!("there is no item {sku}"))
}

pub(crate) async fn get(asked: &Asked<'_>) -> Result<Answer, Problem> {
    Query::parse(asked.query, &[])?;
    let sku = existing(asked.limits(), &asked.target.parameter)?;
    let (item, shown) = consistency::point(asked.cluster, asked.level, asked.deadline, |view| {
        view.item(&sku)?.ok_or_else(|| missing(&sku))
    })
    .await?;
    let answer = if headers::none_match(asked.headers, item.version) {
        Answer::new(304, crate::answer::JSON, Vec::new())
    } else {
        Answer::json(render::json(&render::item(&item), 512))
    };
    Ok(answer.etag(item.version).shown(shown))
}

pub(crate) async fn list(asked: &Asked<'_>) -> Result<Answer, Problem> {
    let query = Query::parse(asked.query, &["limit", "cursor"])?;
    let paging = query.paging(asked.limits(), List::Items)?;
    consistency::scan(
        asked,
        move |view| Ok(view.items(paging.from, paging.limit)?),
        move |page| render::page(&page.rows, paging.next(page.next), render::item),
    )
    .await
}
