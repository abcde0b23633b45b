//! `member replace`: a new node in, the dead one out, step by step. It can be stopped and run again at each.

use super::{
    join::{free_id, join_command, until_voter},
    plan::{Quorum, plan},
    submit,
};
use crate::{
    client::Client,
    output::Format,
    problem::{Exit, Failure},
    view::{self, View, answers},
};
use clap::Args;
use serde::Serialize;
use serde_json::json;
use std::{fmt::Write as _, time::Duration};

/// A dead node and its replacement.
#[derive(Debug, Args)]
pub struct ReplaceArgs {
    /// The dead node's id
    #[arg(value_name = "OLD", value_parser = clap::value_parser!(u64).range(1..))]
    old: u64,
    /// The new node's id: one that no node ever had; one that joined in an earlier run goes on
    #[arg(long, value_name = "NEW", value_parser = clap::value_parser!(u64).range(1..))]
    id: Option<u64>,
    /// Only show the steps; change nothing
    #[arg(long, conflicts_with = "force")]
    plan: bool,
    /// Although the old node answers, or what is left is unsafe
    #[arg(long)]
    force: bool,
    /// How long to wait until the new node is a voter, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    wait: u64,
}

/// What the voters are at each step.
#[derive(Serialize)]
struct Steps {
    removed: u64,
    added: u64,
    before: Quorum,
    with_new: Quorum,
    after: Quorum,
    /// What the new node is given as `join`; empty where it has joined.
    join: Vec<String>,
}

impl Steps {
    fn new(now: &View, old: u64, new: u64, join: Vec<String>) -> Self {
        let votes = |id: u64| now.members.iter().find(|member| member.id == id && member.role == "voter");
        let before = Quorum::seen(now);
        let with_new = match votes(new) {
            Some(_) => before,
            None => Quorum::of(before.voters + 1, before.live + 1),
        };
        let after = match votes(old) {
            Some(voter) => Quorum::of(with_new.voters - 1, with_new.live - u64::from(answers(now, voter))),
            None => with_new,
        };
        Steps { removed: old, added: new, before, with_new, after, join }
    }

    fn text(&self) -> String {
        let Steps { removed, added, before, with_new, after, join } = self;
        let mut out = format!("replace node {removed} by node {added}\n");
        let _ = writeln!(out, "  now:                     {}", before.text());
        let _ = writeln!(out, "  1. node {added} is a voter:    {}", with_new.text());
        let _ = writeln!(out, "  2. node {removed} is removed:    {}", after.text());
        if !join.is_empty() {
            let _ = writeln!(out, "start on the new machine:\n  {}", join_command(*added, join));
        }
        out
    }
}

/// `stockctl member replace`
///
/// # Errors
/// The old node answers, the new one is no voter in time, or what the servers refuse.
pub async fn replace(client: &Client, args: &ReplaceArgs, format: Format) -> Result<Exit, Failure> {
    let now = view::best(client).await?;
    let new = args.id.unwrap_or_else(|| free_id(&now));
    check_old(&now, args, new)?;
    let joined = now.members.iter().any(|member| member.id == new);
    let join = if joined { Vec::new() } else { plan(client, "add", new).await?.1.join };
    let steps = Steps::new(&now, args.old, new, join);
    if args.plan {
        let value = serde_json::to_value(&steps).expect("numbers and strings always print");
        format.print(&value, "", || format!("{}nothing was changed (--plan)\n", steps.text()));
        return Ok(Exit::Ok);
    }
    format.say(steps.text().trim_end());
    let again = format!("stockctl member replace {} --id {new}", args.old);
    format.say(&format!("step 1 of 2: waiting for node {new} (to go on later: {again})"));
    let took = until_voter(client, new, Duration::from_secs(args.wait), format).await?;
    format.say(&format!("node {new} is a voter, after {:.1} s", took.as_secs_f64()));
    format.say(&format!("step 2 of 2: removing node {}", args.old));
    match submit(client, "remove", args.old, args.force).await {
        Ok(_) => {}
        // An earlier attempt whose answer was lost.
        Err(failure) if failure.exit == Exit::NotFound => {}
        Err(failure) => return Err(failure),
    }
    let after = Quorum::seen(&view::best(client).await?);
    let old = args.old;
    format.print(&json!({"removed": old, "added": new, "quorum": after}), "", || {
        format!(
            "done: node {new} stands in for node {old}; {}\n\
             node {old} must not be started again with its old data directory under id {old}\n",
            after.text()
        )
    });
    Ok(Exit::Ok)
}

fn check_old(now: &View, args: &ReplaceArgs, new: u64) -> Result<(), Failure> {
    let Some(old) = now.members.iter().find(|member| member.id == args.old) else {
        let ids: Vec<String> = now.members.iter().map(|member| member.id.to_string()).collect();
        let detail = format!("node {} is no member: the members are {}", args.old, ids.join(", "));
        return Err(Failure::local(Exit::NotFound, "member_not_found", "There is no such member", detail)
            .step("if an earlier run was cut short after it removed the node, all is done: stockctl member list"));
    };
    if new == args.old {
        return Err(Failure::local(
            Exit::Usage,
            "usage",
            "The same id twice",
            format!(
                "node {new} cannot replace itself: a node that lost its data forgot its votes, so it needs a new id"
            ),
        ));
    }
    if answers(now, old) && !args.force {
        let detail = format!("node {} answers: it is not dead", args.old);
        return Err(Failure::local(Exit::Unsafe, "unsafe_replace", "The node answers", detail).step(
            format!("stop node {} first; or use --force, which adds the new one first in any case", args.old),
        ));
    }
    Ok(())
}
