//! `import items`: puts what the file says, where the shop says something else.

use super::{
    Common, KnownItem, Progress, batch,
    batch::Command,
    input::{Lines, Position},
    known_items,
    refused::Refused,
    run_key,
};
use crate::{
    client::{Client, encode},
    output::{Format, count},
    problem::{Exit, Failure},
};
use futures::{StreamExt, stream};
use serde_json::{Map, Value, json};
use std::{
    collections::HashMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

/// One row to put.
struct Row {
    file: usize,
    line: u64,
    sku: String,
    text: String,
    body: Value,
}

#[derive(Default)]
struct Tally {
    stored: u64,
    unchanged: u64,
    replaced_in_file: u64,
}

/// Runs the import.
pub async fn run(client: &Client, common: &Common, format: Format) -> Result<Exit, Failure> {
    let begun = Instant::now();
    let mut refused = Refused::create(common.refused_path())?;
    let mut tally = Tally::default();
    let rows = read(common, &mut refused, &mut tally)?;
    let result = store(client, common, rows, &mut refused, &mut tally).await;
    refused.finish()?;
    print(&tally, &refused, begun.elapsed(), result.is_ok(), format);
    result.map(|()| Exit::Ok)
}

/// The last row of each SKU: rows are put in no order, so only one of them may be sent.
fn read(common: &Common, refused: &mut Refused, tally: &mut Tally) -> Result<Vec<Row>, Failure> {
    let mut rows: HashMap<String, Row> = HashMap::new();
    for (file, path) in common.files.iter().enumerate() {
        let mut lines = Lines::open(path, &Position::default())?;
        while let Some((line, text)) = lines.next()? {
            let text = String::from_utf8_lossy(text).into_owned();
            match parse(&text) {
                Ok((sku, body)) => {
                    let row = Row { file, line, sku: sku.clone(), text, body };
                    tally.replaced_in_file += u64::from(rows.insert(sku, row).is_some());
                }
                Err(why) => {
                    let failure = Failure::local(Exit::Error, "unreadable_row", "Not an item", why);
                    refused.add(file, line, ("sku", None), &failure.problem, ("item", &text))?;
                }
            }
        }
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_unstable_by_key(|row| (row.file, row.line));
    Ok(rows)
}

/// The SKU and the body to put. Fields that the API does not know become attributes.
fn parse(text: &str) -> Result<(String, Value), String> {
    let mut row: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let Some(Value::String(sku)) = row.remove("sku") else {
        return Err("`sku` is missing, or is no text".into());
    };
    let mut body = Map::new();
    for name in ["name", "price"] {
        if let Some(value) = row.remove(name).filter(|v| !v.is_null()) {
            body.insert(name.into(), value);
        }
    }
    let mut attributes = match row.remove("attributes") {
        Some(Value::Object(attributes)) => attributes,
        None | Some(Value::Null) => Map::new(),
        Some(_) => return Err("`attributes` is no object".into()),
    };
    attributes.extend(row);
    if !attributes.is_empty() {
        body.insert("attributes".into(), Value::Object(attributes));
    }
    Ok((sku, Value::Object(body)))
}

/// Whether the shop says this of the item already. What is retired is put: that brings it back.
fn same(known: &KnownItem, body: &Value) -> bool {
    let attributes = known.attributes.as_ref().filter(|a| !a.is_empty());
    !known.retired
        && known.name.as_deref() == Some(body.get("name").and_then(Value::as_str).unwrap_or(&known.sku))
        && known.price.as_ref().filter(|p| !p.is_null()) == body.get("price")
        && attributes == body.get("attributes").and_then(Value::as_object)
}

async fn store(
    client: &Client,
    common: &Common,
    rows: Vec<Row>,
    refused: &mut Refused,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let known = known_items(client).await?;
    let all = rows.len() as u64;
    let rows: Vec<Row> = rows
        .into_iter()
        .filter(|row| known.get(&row.sku).is_none_or(|item| !same(item, &row.body)))
        .collect();
    tally.unchanged = all - rows.len() as u64;
    let mut progress = Progress::new("items", Some(rows.len() as u64));
    let run = run_key();
    let give_up_after = Duration::from_secs(common.give_up_after);
    let calls = rows.chunks(common.batch.into()).map(|chunk| {
        let commands: Vec<Command> = chunk.iter().map(|row| command(&run, row)).collect();
        async move { (chunk, batch::send(client, &commands, give_up_after).await) }
    });
    let calls = stream::iter(calls).take_until(client.stopped()).buffer_unordered(common.in_flight.into());
    let mut calls = std::pin::pin!(calls);
    let mut failed = None;
    while let Some((chunk, result)) = calls.next().await {
        let outcomes = match result {
            Ok(outcomes) => outcomes,
            Err(failure) => {
                client.stop();
                failed = failed.or(Some(failure));
                continue;
            }
        };
        for (row, outcome) in chunk.iter().zip(outcomes) {
            match outcome.problem {
                None => tally.stored += 1,
                Some(problem) => {
                    refused.add(
                        row.file,
                        row.line,
                        ("sku", Some(&row.sku)),
                        &problem,
                        ("item", &row.text),
                    )?;
                }
            }
        }
        progress.show(tally.stored + refused.count(), || format!("{} stored", count(tally.stored)));
    }
    match failed {
        Some(failure) => Err(failure),
        None if client.stopping() => Err(crate::client::interrupted()),
        None => Ok(()),
    }
}

fn command(run: &str, row: &Row) -> Command {
    Command {
        // A put is the same twice; the key is for attempts within this run. One that outlived the
        // run would answer a later import with what was put before someone changed the item.
        key: format!("{run}-{}-{}", row.file, row.line),
        method: "PUT",
        path: format!("/v1/items/{}", encode(&row.sku)),
        body: row.body.to_string(),
    }
}

fn print(tally: &Tally, refused: &Refused, took: Duration, complete: bool, format: Format) {
    let refused_file = (refused.count() > 0).then(|| refused.path());
    let summary = json!({
        "complete": complete, "stored": tally.stored, "unchanged": tally.unchanged,
        "replaced_by_later_rows": tally.replaced_in_file, "refused": refused.count(),
        "refused_by_code": refused.reasons, "refused_file": refused_file, "took_ms": took.as_millis() as u64,
    });
    format.print(&summary, "", || {
        let mut out = format!("items stored      {}\n", count(tally.stored));
        let _ = writeln!(out, "items unchanged   {}", count(tally.unchanged));
        if tally.replaced_in_file > 0 {
            let _ =
                writeln!(out, "earlier rows of the same SKU, not sent: {}", count(tally.replaced_in_file));
        }
        refused.describe("items", &mut out);
        let _ = writeln!(out, "took {:.1} s", took.as_secs_f64());
        out
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_the_api_does_not_know_become_attributes() {
        let (sku, body) =
            parse(r#"{"sku":"P1","name":"Mug","brand":"National","attributes":{"a":1}}"#).unwrap();
        assert_eq!(
            (sku.as_str(), body),
            ("P1", json!({"name":"Mug","attributes":{"a":1,"brand":"National"}}))
        );
        assert_eq!(parse(r#"{"sku":"P1"}"#).unwrap().1, json!({}));
        assert!(parse(r#"{"name":"Mug"}"#).is_err());
        assert!(parse("[1]").is_err());
    }

    #[test]
    fn an_item_that_says_the_same_is_left_alone() {
        let known = |text: &str| serde_json::from_str::<KnownItem>(text).unwrap();
        let body = json!({"attributes": {"brand": "National"}});
        assert!(same(
            &known(r#"{"sku":"P1","name":"P1","price":null,"attributes":{"brand":"National"},"version":3}"#),
            &body
        ));
        assert!(!same(&known(r#"{"sku":"P1","name":"P1","attributes":{"brand":"Private"}}"#), &body));
        assert!(!same(&known(r#"{"sku":"P1","name":"Mug","attributes":{"brand":"National"}}"#), &body));
        assert!(same(&known(r#"{"sku":"P1","name":"P1","attributes":{}}"#), &json!({})));
    }

    #[test]
    fn an_item_that_is_retired_is_put_again() {
        let known = |retired: bool| {
            serde_json::from_value::<KnownItem>(json!({"sku": "P1", "name": "Mug", "retired": retired}))
                .unwrap()
        };
        assert!(same(&known(false), &json!({"name": "Mug"})));
        assert!(!same(&known(true), &json!({"name": "Mug"})));
    }
}
