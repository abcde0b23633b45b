//! `settings`: what holds for the whole cluster, whichever node is asked. What a value may be the servers know.

use crate::{
    client::{Call, Client},
    output::{Format, Table},
    problem::{Exit, Failure},
};
use clap::Subcommand;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// `stockctl settings ...`
#[derive(Debug, Subcommand)]
pub enum SettingsCommand {
    /// Those in force
    Show,
    /// Change those that are named; the others stay as they are
    Set {
        /// New values, such as `metadata_entries=32`
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = assignment)]
        changes: Vec<(String, u64)>,
    },
}

fn assignment(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("it needs a name, `=` and a value")?;
    if name.is_empty() {
        return Err("it needs a name".into());
    }
    let value = value.parse().map_err(|error| format!("{value:?}: {error}"))?;
    Ok((name.to_owned(), value))
}

const PATH: &str = "/v1/cluster/settings";

/// Shows or changes, and prints those in force.
///
/// # Errors
/// What the servers refuse, in their words.
pub async fn run(client: &Client, command: &SettingsCommand, format: Format) -> Result<Exit, Failure> {
    let call = match command {
        SettingsCommand::Show => Call::get(PATH),
        SettingsCommand::Set { changes } => Call::patch(PATH, body(changes)?.to_string())
            .key(format!("stockctl-settings-{:032x}", rand::random::<u128>())),
    };
    let answer = client.call(&call).await?;
    let settings: BTreeMap<String, u64> = answer.parse()?;
    format.print(&answer.json()?, "", || table(&settings).render());
    Ok(Exit::Ok)
}

fn body(changes: &[(String, u64)]) -> Result<Value, Failure> {
    let mut body = Map::new();
    for (name, value) in changes {
        if body.insert(name.clone(), (*value).into()).is_some() {
            let detail = format!("{name} stands there twice");
            return Err(Failure::local(Exit::Usage, "usage", "One value for each setting", detail));
        }
    }
    Ok(body.into())
}

fn table(settings: &BTreeMap<String, u64>) -> Table {
    let mut table = Table::new(&["SETTING", ">VALUE"]);
    for (name, value) in settings {
        table.row(vec![name.clone(), value.to_string()]);
    }
    table
}
