//! `member`: who is in the cluster, and what an operator changes of that. What is safe the servers work out; this
//! prints it, and takes a replacement through its steps.

mod join;
mod list;
mod plan;
mod replace;

pub use list::list;
pub use plan::Quorum;

use crate::{
    client::{Answer, Call, Client},
    output::Format,
    problem::{Exit, Failure},
};
use clap::{Args, Subcommand};
use plan::{Plan, explain};
use serde_json::json;

/// `stockctl member ...`
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// Every member, what it last said of itself, and what the cluster can bear
    List,
    /// What a new node is started with; waits until it is a voter
    Add(join::AddArgs),
    /// Make a learner a voter now (one that joined becomes one by itself)
    Promote(ChangeArgs),
    /// Make a voter a learner
    Demote(ChangeArgs),
    /// Remove a member for good
    Remove(ChangeArgs),
    /// Replace a dead node: a new one in, the old one out, step by step
    Replace(replace::ReplaceArgs),
}

/// A change of one member.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// The node's id
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Only show quorum and fault tolerance before and after, and what is unsafe; change nothing
    #[arg(long, conflicts_with = "force")]
    plan: bool,
    /// Do it although it is unsafe, where that is possible
    #[arg(long)]
    force: bool,
}

/// `stockctl member`
///
/// # Errors
/// What the servers refuse, in their words.
pub async fn run(client: &Client, command: &MemberCommand, format: Format) -> Result<Exit, Failure> {
    match command {
        MemberCommand::List => list(client, format).await,
        MemberCommand::Add(args) => join::add(client, args, format).await,
        MemberCommand::Promote(args) => change(client, "promote", args, format).await,
        MemberCommand::Demote(args) => change(client, "demote", args, format).await,
        MemberCommand::Remove(args) => change(client, "remove", args, format).await,
        MemberCommand::Replace(args) => replace::replace(client, args, format).await,
    }
}

async fn change(client: &Client, what: &str, args: &ChangeArgs, format: Format) -> Result<Exit, Failure> {
    if args.plan {
        let (answer, plan) = plan::plan(client, what, args.id).await?;
        format.print(&answer.json()?, "", || {
            format!("{}nothing was changed (--plan)\n", explain(what, args.id, &plan))
        });
        return Ok(if plan.unsafe_because.is_empty() { Exit::Ok } else { Exit::Unsafe });
    }
    let answer = submit(client, what, args.id, args.force).await?;
    let plan: Plan = answer.parse()?;
    format.print(&answer.json()?, "", || format!("{}done\n", explain(what, args.id, &plan)));
    Ok(Exit::Ok)
}

async fn submit(client: &Client, what: &str, id: u64, force: bool) -> Result<Answer, Failure> {
    let body = if force { json!({ "force": true }) } else { json!({}) };
    client.call(&Call::post(format!("/v1/cluster/members/{id}/{what}"), body.to_string())).await
}
