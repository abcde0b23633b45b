//! `member add`: what a new node is started with, and waiting until it is a voter.

use super::plan::{explain, plan};
use crate::{
    client::Client,
    output::Format,
    problem::{Exit, Failure},
    view::{self, TurnedAway, View},
};
use clap::Args;
use serde_json::json;
use std::time::{Duration, Instant};

/// Between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A node that is to come in.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// The new node's id: one that no node ever had
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    id: Option<u64>,
    /// Only show the plan and what to start; do not wait
    #[arg(long)]
    plan: bool,
    /// How long to wait until it is a voter, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    wait: u64,
}

/// `stockctl member add`
///
/// # Errors
/// The change is not possible, or the node is no voter in time.
pub async fn add(client: &Client, args: &AddArgs, format: Format) -> Result<Exit, Failure> {
    let id = match args.id {
        Some(id) => id,
        None => free_id(&view::best(client).await?),
    };
    let (answer, plan) = plan(client, "add", id).await?;
    let safe = plan.unsafe_because.is_empty();
    let start = format!("start on the new machine:\n  {}", join_command(id, &plan.join));
    if args.plan || !safe {
        let next =
            if safe { format!("to do it, {start}\nnothing was changed (--plan)\n") } else { String::new() };
        format.print(&answer.json()?, "", || format!("{}{next}", explain("add", id, &plan)));
        return Ok(if safe { Exit::Ok } else { Exit::Unsafe });
    }
    format.say(explain("add", id, &plan).trim_end());
    format.say(&start);
    let took = until_voter(client, id, Duration::from_secs(args.wait), format).await?;
    format.print(&json!({"id": id, "role": "voter"}), "", || voter_text(id, took));
    Ok(Exit::Ok)
}

fn voter_text(id: u64, took: Duration) -> String {
    format!("node {id} is a voter, after {:.1} s\n", took.as_secs_f64())
}

/// What is typed on the new machine.
pub fn join_command(id: u64, join: &[String]) -> String {
    format!(
        "stockroom serve --node-id {id} --data-dir EMPTY-DIRECTORY --http-listen HOST:PORT --peer-listen HOST:PORT --join {}",
        join.join(",")
    )
}

/// An id that no member has, and that none had if ids only grew.
pub fn free_id(view: &View) -> u64 {
    view.members.iter().map(|member| member.id).max().unwrap_or(0) + 1
}

/// What was last said to a node that was refused.
fn turned_away(view: &View, id: u64) -> Option<&TurnedAway> {
    view.turned_away.iter().filter(|one| one.id == id).min_by_key(|one| one.ms_ago)
}

/// What is to be said of a node that is no member; why it was refused, where that was while this command waits.
fn of_none(view: &View, id: u64, waited: Duration) -> Result<String, Failure> {
    let Some(TurnedAway { why, ms_ago, .. }) = turned_away(view, id) else {
        return Ok("it has not joined yet".to_owned());
    };
    if u128::from(*ms_ago) > waited.as_millis() {
        return Ok(format!("it has not joined since it was turned away: {why}"));
    }
    let failure = Failure::local(Exit::Unsafe, "not_taken_in", "The node was not taken in", why.as_str());
    Err(failure.step("see what the members serve: stockctl upgrade check"))
}

/// Waits until a node is a voter, and says meanwhile how far it is; returns how long that took.
///
/// # Errors
/// It is none in time.
pub async fn until_voter(
    client: &Client,
    id: u64,
    within: Duration,
    format: Format,
) -> Result<Duration, Failure> {
    let begun = Instant::now();
    let mut said = String::new();
    loop {
        // A leader that changes meanwhile, or a node that does not answer, is no reason to give up.
        let now = match view::best(client).await {
            Ok(view) => match view.members.iter().find(|member| member.id == id) {
                None => of_none(&view, id, begun.elapsed())?,
                Some(member) if member.role == "voter" => return Ok(begun.elapsed()),
                Some(_) => "it has joined as a learner and catches up".into(),
            },
            Err(failure) => failure.problem.detail.clone(),
        };
        if now != said {
            format.say(&format!("waiting for node {id}: {now}"));
            said = now;
        }
        if begun.elapsed() >= within || client.stopping() {
            let detail = format!("node {id} is no voter after {} s: {said}", begun.elapsed().as_secs());
            return Err(Failure::local(Exit::Unavailable, "not_a_voter_yet", "Still waiting", detail)
                .step(format!("see the log of node {id}: it says whom it asks and what it hears"))
                .step("run the same command again, with --id for the same node: it goes on from here"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
