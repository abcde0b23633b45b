//! `upgrade`: what each member runs, what finalising would switch on and what stands against it; and finalising. What is
//! safe the servers work out.

use crate::{
    client::{Call, Client},
    output::{Format, Table},
    problem::{Exit, Failure},
};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// `stockctl upgrade ...`
#[derive(Debug, Subcommand)]
pub enum UpgradeCommand {
    /// Every member's program, what finalising would switch on, and what stands against it; changes nothing
    Check,
    /// Put the newest cluster version in force that all members serve; from then on no node can go back
    Finalize,
}

#[derive(Debug, Deserialize)]
struct Plan {
    from: u64,
    to: u64,
    already: bool,
    members: Vec<Member>,
    switches_on: Vec<Change>,
    knows_all: bool,
    blocked_by: Vec<Concern>,
}

#[derive(Debug, Deserialize)]
struct Member {
    id: u64,
    role: String,
    answers: bool,
    version: Option<String>,
    serves: Option<Versions>,
    cluster_version: u64,
}

/// The cluster versions that a program serves.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Versions {
    /// The first.
    pub oldest: u64,
    /// The last.
    pub newest: u64,
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Versions { oldest, newest } = self;
        if oldest == newest { write!(f, "{oldest}") } else { write!(f, "{oldest} to {newest}") }
    }
}

#[derive(Debug, Deserialize)]
struct Change {
    version: u64,
    what: String,
}

#[derive(Debug, Deserialize)]
struct Concern {
    why: String,
    instead: String,
}

/// `stockctl upgrade`
///
/// # Errors
/// What the servers refuse, in their words.
pub async fn run(client: &Client, command: &UpgradeCommand, format: Format) -> Result<Exit, Failure> {
    let (call, done) = match command {
        UpgradeCommand::Check => (Call::get("/v1/cluster/upgrade"), false),
        UpgradeCommand::Finalize => (Call::post("/v1/cluster/upgrade/finalize", "{}".to_owned()), true),
    };
    let answer = client.call(&call).await?;
    let plan: Plan = answer.parse()?;
    format.print(&answer.json()?, "", || explain(&plan, done));
    Ok(if plan.blocked_by.is_empty() { Exit::Ok } else { Exit::Unsafe })
}

/// What a plan says, for people.
fn explain(plan: &Plan, done: bool) -> String {
    let mut table = Table::new(&[">NODE", "ROLE", "ANSWERS", "VERSION", "SERVES", ">IN FORCE"]);
    for member in &plan.members {
        table.row(vec![
            member.id.to_string(),
            member.role.clone(),
            if member.answers { "yes" } else { "no" }.into(),
            member.version.clone().unwrap_or_else(|| "-".into()),
            member.serves.map_or("-".into(), |serves| serves.to_string()),
            member.cluster_version.to_string(),
        ]);
    }
    let Plan { from, to, .. } = plan;
    // As they were before, where something was done.
    let mut text = if done { String::new() } else { table.render() };
    if plan.already {
        let _ = writeln!(
            text,
            "cluster version {from} is in force, the newest that any member serves: nothing is to be done"
        );
        return text;
    }
    let _ = writeln!(text, "cluster version {from} -> {to}{}", if done { " is in force now" } else { "" });
    for Change { version, what } in &plan.switches_on {
        let _ = writeln!(text, "  version {version} switches on: {what}");
    }
    if !plan.knows_all {
        text.push_str("  the node that answered is too old to know what that is: ask one that serves it, with --endpoints\n");
    }
    for Concern { why, instead } in &plan.blocked_by {
        let _ = writeln!(text, "  BLOCKED: {why}\n           {instead}");
    }
    text.push_str(match (done, plan.blocked_by.is_empty()) {
        (true, _) => "no node can go back to a program that does not serve it\n",
        (false, true) => {
            "nothing stands against it; until it is finalised each node can go back to the program that it had:\n  stockctl \
             upgrade finalize\n"
        }
        (false, false) => "until it is finalised each node can go back to the program that it had\n",
    });
    text
}
