//! `leader`: who leads, and handing it over.

use crate::{
    client::{Call, Client},
    members::Quorum,
    output::Format,
    problem::{Exit, Failure},
    view::{self, views},
};
use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;
use std::time::{Duration, Instant};

/// `stockctl leader ...`
#[derive(Debug, Subcommand)]
pub enum LeaderCommand {
    /// Who leads
    Show,
    /// Let another voter lead, and wait until all nodes that answer follow it
    Transfer {
        /// Whom; else the voter that has the most
        #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        to: Option<u64>,
    },
}

#[derive(Debug, Deserialize)]
struct LeaderNow {
    leader: u64,
    term: u64,
    already: bool,
    took_ms: u64,
}

/// `stockctl leader`
///
/// # Errors
/// There is no leader, or leadership cannot be handed over.
pub async fn run(client: &Client, command: &LeaderCommand, format: Format) -> Result<Exit, Failure> {
    match command {
        LeaderCommand::Show => show(client, format).await,
        LeaderCommand::Transfer { to } => transfer(client, *to, format).await,
    }
}

async fn show(client: &Client, format: Format) -> Result<Exit, Failure> {
    let view = view::best(client).await?;
    let leader = view.members.iter().find(|member| Some(member.id) == view.leader);
    let Some(leader) = leader else {
        return Err(Failure::local(Exit::Unavailable, "no_leader", "No leader", Quorum::seen(&view).text())
            .step("wait: an election takes about two seconds, once a majority of the voters answers")
            .step("see who does not: stockctl member list"));
    };
    let value = json!({"leader": leader.id, "term": view.term,
        "http_address": leader.http_address, "peer_address": leader.peer_address});
    format.print(&value, "", || {
        format!("node {} leads, term {}, at {}\n", leader.id, view.term, leader.http_address)
    });
    Ok(Exit::Ok)
}

async fn transfer(client: &Client, to: Option<u64>, format: Format) -> Result<Exit, Failure> {
    let begun = Instant::now();
    let body = to.map_or(json!({}), |to| json!({ "to": to })).to_string();
    let answer = client.call(&Call::post("/v1/cluster/leader/transfer", body)).await?;
    let now: LeaderNow = answer.parse()?;
    while !all_follow(client, now.leader, now.term).await {
        if begun.elapsed() > Duration::from_secs(10) {
            let detail =
                format!("node {} took over in term {}, but not all nodes follow it", now.leader, now.term);
            return Err(Failure::local(Exit::Unavailable, "not_followed", "Not all nodes follow", detail)
                .step("see what each of them says: stockctl status"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let all_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let value = json!({"leader": now.leader, "term": now.term, "already": now.already,
        "took_ms": now.took_ms, "all_follow_after_ms": all_ms});
    format.print(&value, "", || match now.already {
        true => format!("node {} leads already, term {}\n", now.leader, now.term),
        false => format!(
            "node {} leads, term {}: handed over in {} ms, all nodes that answer follow it after {all_ms} ms\n",
            now.leader, now.term, now.took_ms
        ),
    });
    Ok(Exit::Ok)
}

/// Whether every node that answers follows this leader, or a later one.
async fn all_follow(client: &Client, leader: u64, term: u64) -> bool {
    let views = views(client).await;
    let mut seen = views.iter().filter_map(|(_, view)| view.as_ref().ok());
    seen.all(|view| {
        (view.leader == Some(leader) && view.term >= term) || (view.leader.is_some() && view.term > term)
    })
}
