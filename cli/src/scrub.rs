//! `scrub`: each node reads everything on its disk, so that damage shows before it is needed.

use crate::{
    client::{Call, Client},
    output::{Format, Table},
    problem::{Exit, Failure},
};
use clap::Subcommand;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// `stockctl scrub ...`
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ScrubCommand {
    /// Begin now on every endpoint, unless one is running; it goes on by itself
    Start,
    /// How far each node's is, and what the last one found
    Status,
}

/// As a node says it.
#[derive(Debug, Clone, Deserialize, Serialize)]
struct Scrub {
    node_id: u64,
    running: bool,
    part: Option<String>,
    read_bytes: u64,
    total_bytes: u64,
    running_for_ms: Option<u64>,
    last_ended_ms_ago: Option<u64>,
    last_took_ms: Option<u64>,
    next_in_ms: Option<u64>,
    clean: u64,
    finding: Option<String>,
}

/// Starts, or looks, and prints.
///
/// # Errors
/// Nobody answers.
pub async fn run(client: &Client, command: ScrubCommand, format: Format) -> Result<Exit, Failure> {
    let ask = |endpoint: &str| {
        let (endpoint, call) = (endpoint.to_owned(), call(command));
        async move {
            let scrub: Result<Scrub, Failure> =
                client.ask(&endpoint, &call).await.and_then(|answer| answer.parse());
            (endpoint, scrub)
        }
    };
    let answers = join_all(client.endpoints().map(ask)).await;
    if answers.iter().all(|(_, scrub)| scrub.is_err()) {
        let first = answers.into_iter().find_map(|(_, scrub)| scrub.err());
        return Err(first.expect("there is at least one endpoint, and none answered"));
    }
    let scrubs: Vec<&Scrub> = answers.iter().filter_map(|(_, scrub)| scrub.as_ref().ok()).collect();
    let silent: Vec<(&str, &Failure)> = answers
        .iter()
        .filter_map(|(endpoint, scrub)| Some((endpoint.as_str(), scrub.as_ref().err()?)))
        .collect();
    let unreachable: Vec<_> =
        silent.iter().map(|(endpoint, why)| json!({"endpoint": endpoint, "problem": why.problem})).collect();
    let value = json!({"nodes": scrubs, "unreachable": unreachable});
    format.print(&value, "nodes", || text(&scrubs, &silent));
    Ok(match (scrubs.iter().any(|scrub| scrub.finding.is_some()), silent.is_empty()) {
        (true, _) => Exit::Findings,
        (false, false) => Exit::Unavailable,
        _ => Exit::Ok,
    })
}

fn call(command: ScrubCommand) -> Call {
    match command {
        // To begin what runs changes nothing: no key is needed.
        ScrubCommand::Start => Call::post("/v1/admin/scrub", "{}"),
        ScrubCommand::Status => Call::get("/v1/admin/scrub"),
    }
}

fn text(scrubs: &[&Scrub], silent: &[(&str, &Failure)]) -> String {
    let mut out = table(scrubs).render();
    for Scrub { node_id, finding, .. } in scrubs {
        if let Some(finding) = finding {
            let next = "it stops itself; see RUNBOOK, \"Damage\"";
            out.push_str(&format!("FINDING: node {node_id}: {finding}\n  next: {next}\n"));
        }
    }
    out.extend(silent.iter().map(|(endpoint, why)| format!("note: {endpoint}: {}\n", why.problem.detail)));
    out
}

fn table(scrubs: &[&Scrub]) -> Table {
    let mut table =
        Table::new(&[">NODE", "STATE", "READING", ">READ MIB", ">OF MIB", "LAST", "NEXT", ">CLEAN"]);
    for scrub in scrubs {
        let state = match scrub {
            Scrub { running: true, .. } => "runs",
            Scrub { finding: Some(_), .. } => "DAMAGE",
            Scrub { last_ended_ms_ago: Some(_), .. } => "clean",
            _ => "never ran",
        };
        let part = if scrub.running { scrub.part.clone() } else { None };
        let last = match (scrub.last_ended_ms_ago, scrub.last_took_ms) {
            (Some(ago), Some(took)) => format!("{} ago, took {}", time(ago), time(took)),
            _ => "-".into(),
        };
        table.row(vec![
            scrub.node_id.to_string(),
            state.into(),
            part.unwrap_or_else(|| "-".into()),
            (scrub.read_bytes >> 20).to_string(),
            (scrub.total_bytes >> 20).to_string(),
            last,
            scrub.next_in_ms.map_or("-".into(), |ms| format!("in {}", time(ms))),
            scrub.clean.to_string(),
        ]);
    }
    table
}

fn time(ms: u64) -> String {
    match ms / 1_000 {
        0 => format!("{ms} ms"),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let times = [5, 999, 1_000, 119_000, 120_000, 7_199_000, 7_200_000, 86_400_000].map(time);
        assert_eq!(times, ["5 ms", "999 ms", "1 s", "119 s", "2 min", "119 min", "2 h", "24 h"]);
    }
}
