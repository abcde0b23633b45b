//! `member` and `leader`: who is in the cluster, and what an operator changes of that. What is safe the servers work
//! out; this prints it, and takes a replacement through its steps.

use crate::{
    client::{Answer, Call, Client},
    output::{Format, Table, json},
    problem::{Exit, Failure, plain},
    status::{Member, TurnedAway, View, views},
};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Not heard of for so long, a node does not answer. The servers count alike.
const SILENT_MS: u64 = 3_000;
/// Between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// `stockctl member ...`
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// Every member, what it last said of itself, and what the cluster can bear
    List,
    /// What a new node is started with; waits until it is a voter
    Add(AddArgs),
    /// Make a learner a voter now (one that joined becomes one by itself)
    Promote(ChangeArgs),
    /// Make a voter a learner
    Demote(ChangeArgs),
    /// Remove a member for good
    Remove(ChangeArgs),
    /// Replace a dead node: a new one in, the old one out, step by step
    Replace(ReplaceArgs),
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

/// The voters at one time, as servers say it.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Quorum {
    voters: u64,
    majority: u64,
    live: u64,
    fault_tolerance: Option<u64>,
}

impl Quorum {
    fn of(voters: u64, live: u64) -> Self {
        let majority = voters / 2 + 1;
        Quorum { voters, majority, live, fault_tolerance: live.checked_sub(majority) }
    }

    fn text(self) -> String {
        let Quorum { voters, majority, live, fault_tolerance } = self;
        let bears = match fault_tolerance {
            None => "no majority: nothing can be written".into(),
            Some(0) => "none may fail".into(),
            Some(n) => format!("{n} may fail"),
        };
        format!("{voters} voters, a majority is {majority}, {live} answer: {bears}")
    }
}

#[derive(Debug, Deserialize)]
struct Plan {
    #[serde(default)]
    already: bool,
    before: Quorum,
    after: Quorum,
    #[serde(rename = "unsafe")]
    unsafe_because: Vec<Concern>,
    notes: Vec<String>,
    join: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Concern {
    why: String,
    instead: String,
    forceable: bool,
}

#[derive(Debug, Deserialize)]
struct LeaderNow {
    leader: u64,
    term: u64,
    already: bool,
    took_ms: u64,
}

/// `stockctl member`
///
/// # Errors
/// What the servers refuse, in their words.
pub async fn run(client: &Client, command: &MemberCommand, format: Format) -> Result<Exit, Failure> {
    match command {
        MemberCommand::List => list(client, format).await,
        MemberCommand::Add(args) => add(client, args, format).await,
        MemberCommand::Promote(args) => change(client, "promote", args, format).await,
        MemberCommand::Demote(args) => change(client, "demote", args, format).await,
        MemberCommand::Remove(args) => change(client, "remove", args, format).await,
        MemberCommand::Replace(args) => replace(client, args, format).await,
    }
}

/// The view of the leader, or of whoever knows of the newest term.
async fn view(client: &Client) -> Result<View, Failure> {
    let mut best: Option<View> = None;
    let mut last = None;
    let mut turned_away = Vec::new();
    for (_, view) in views(client).await {
        match view {
            Ok(mut view) => {
                // Each knows of those that asked it.
                turned_away.append(&mut view.turned_away);
                let rank = |view: &View| (view.term, view.leader == Some(view.node_id));
                if best.as_ref().is_none_or(|best| rank(&view) > rank(best)) {
                    best = Some(view);
                }
            }
            Err(failure) => last = Some(failure),
        }
    }
    let best = best.ok_or_else(|| last.expect("there is at least one endpoint, and none answered"))?;
    Ok(View { turned_away, ..best })
}

fn answers(view: &View, member: &Member) -> bool {
    member.id == view.node_id
        || member.report.as_ref().is_some_and(|report| report.heard_ms_ago.unwrap_or(0) < SILENT_MS)
}

fn quorum(view: &View) -> Quorum {
    let voters = || view.members.iter().filter(|member| member.role == "voter");
    let live = voters().filter(|member| answers(view, member)).count();
    Quorum::of(voters().count() as u64, live as u64)
}

/// `stockctl member list`, `stockctl members`
///
/// # Errors
/// Nobody answers.
pub async fn list(client: &Client, format: Format) -> Result<Exit, Failure> {
    let view = view(client).await?;
    let quorum = quorum(&view);
    if format == Format::Json {
        let members: Vec<Value> = view.members.iter().map(|member| as_json(&view, member)).collect();
        let quorum = json!({"voters": quorum.voters, "majority": quorum.majority, "live": quorum.live,
            "fault_tolerance": quorum.fault_tolerance});
        let (leader, term) = (view.leader, view.term);
        print!(
            "{}",
            json(
                &json!({"cluster_id": view.cluster_id, "leader": leader, "term": term, "quorum": quorum, "members": members})
            )
        );
    } else {
        print!("{}", table(&view).render());
        println!("{}", quorum.text());
    }
    Ok(if view.leader.is_some() { Exit::Ok } else { Exit::Unavailable })
}

fn as_json(view: &View, member: &Member) -> Value {
    let report = member.report.as_ref();
    json!({
        "id": member.id, "role": member.role, "leads": view.leader == Some(member.id), "answers": answers(view, member),
        "peer_address": member.peer_address, "http_address": member.http_address,
        "applied_index": report.map(|r| r.applied_index), "lag": report.map(|r| &r.lag),
        "sync_us": report.map(|r| &r.sync_us), "clock_offset_ms": report.map(|r| &r.clock_offset_ms),
        "version": report.map(|r| &r.version),
        "serves": report.and_then(|r| r.serves).map(|s| json!({"oldest": s.oldest, "newest": s.newest})), "heard_ms_ago": report.and_then(|r| r.heard_ms_ago),
    })
}

fn table(view: &View) -> Table {
    let columns = [
        ">NODE",
        "ROLE",
        "PEER",
        "HTTP",
        "ANSWERS",
        ">APPLIED",
        ">LAG",
        ">SYNC MS",
        ">CLOCK OFF MS",
        "VERSION",
        "SERVES",
        ">HEARD MS AGO",
    ];
    let mut table = Table::new(&columns);
    for member in &view.members {
        let report = |of: fn(&crate::status::Report) -> String| member.report.as_ref().map_or("-".into(), of);
        let role = if view.leader == Some(member.id) { "leader" } else { &member.role };
        table.row(vec![
            member.id.to_string(),
            role.into(),
            member.peer_address.clone(),
            member.http_address.clone(),
            if answers(view, member) { "yes" } else { "no" }.into(),
            report(|r| r.applied_index.to_string()),
            report(|r| plain(&r.lag)),
            report(|r| r.sync_us.map_or("-".into(), |us| format!("{:.1}", us as f64 / 1_000.0))),
            report(|r| plain(&r.clock_offset_ms)),
            report(|r| plain(&r.version)),
            report(|r| r.serves.map_or("-".into(), |serves| serves.to_string())),
            report(|r| r.heard_ms_ago.map_or("-".into(), |ms| ms.to_string())),
        ]);
    }
    table
}

async fn plan(client: &Client, what: &str, id: u64) -> Result<(Answer, Plan), Failure> {
    let body = json!({ "change": what }).to_string();
    let answer = client.call(&Call::post(format!("/v1/cluster/members/{id}/plan"), body)).await?;
    let plan = answer.parse()?;
    Ok((answer, plan))
}

/// What a plan says, for people.
fn explain(what: &str, id: u64, plan: &Plan) -> String {
    let mut out =
        format!("{what} node {id}\n  before: {}\n  after:  {}\n", plan.before.text(), plan.after.text());
    for concern in &plan.unsafe_because {
        let force = if concern.forceable { "--force does it all the same" } else { "--force does not help" };
        out.push_str(&format!("  UNSAFE: {}\n          {} ({force})\n", concern.why, concern.instead));
    }
    plan.notes.iter().for_each(|note| out.push_str(&format!("  note: {note}\n")));
    match (plan.already, plan.unsafe_because.is_empty()) {
        (true, _) => out.push_str("  it is so already: nothing is to be done\n"),
        (_, true) => out.push_str("  safe\n"),
        _ => {}
    }
    out
}

async fn change(client: &Client, what: &str, args: &ChangeArgs, format: Format) -> Result<Exit, Failure> {
    if args.plan {
        let (answer, plan) = plan(client, what, args.id).await?;
        match format {
            Format::Json => print!("{}", json(&answer.json()?)),
            Format::Table => {
                print!("{}", explain(what, args.id, &plan));
                println!("nothing was changed (--plan)");
            }
        }
        return Ok(if plan.unsafe_because.is_empty() { Exit::Ok } else { Exit::Unsafe });
    }
    let answer = submit(client, what, args.id, args.force).await?;
    let plan: Plan = answer.parse()?;
    match format {
        Format::Json => print!("{}", json(&answer.json()?)),
        Format::Table => {
            print!("{}", explain(what, args.id, &plan));
            println!("done");
        }
    }
    Ok(Exit::Ok)
}

async fn submit(client: &Client, what: &str, id: u64, force: bool) -> Result<Answer, Failure> {
    let body = if force { json!({ "force": true }) } else { json!({}) };
    client.call(&Call::post(format!("/v1/cluster/members/{id}/{what}"), body.to_string())).await
}

/// What is typed on the new machine.
fn join_command(id: u64, join: &[String]) -> String {
    format!(
        "stockroom serve --node-id {id} --data-dir EMPTY-DIRECTORY --http-listen HOST:PORT --peer-listen HOST:PORT --join {}",
        join.join(",")
    )
}

fn free_id(view: &View) -> u64 {
    view.members.iter().map(|member| member.id).max().unwrap_or(0) + 1
}

/// Says something while a command goes on: to people only, whatever stdout is used for.
fn say(format: Format, text: &str) {
    match format {
        Format::Table => println!("{text}"),
        Format::Json => eprintln!("{text}"),
    }
}

async fn add(client: &Client, args: &AddArgs, format: Format) -> Result<Exit, Failure> {
    let id = match args.id {
        Some(id) => id,
        None => free_id(&view(client).await?),
    };
    let (answer, plan) = plan(client, "add", id).await?;
    if args.plan || !plan.unsafe_because.is_empty() {
        match format {
            Format::Json => print!("{}", json(&answer.json()?)),
            Format::Table => print!("{}", explain("add", id, &plan)),
        }
        if !plan.unsafe_because.is_empty() {
            return Ok(Exit::Unsafe);
        }
        say(format, &format!("to do it, start on the new machine:\n  {}", join_command(id, &plan.join)));
        say(format, "nothing was changed (--plan)");
        return Ok(Exit::Ok);
    }
    say(format, explain("add", id, &plan).trim_end());
    say(format, &format!("start on the new machine:\n  {}", join_command(id, &plan.join)));
    until_voter(client, id, Duration::from_secs(args.wait), format).await?;
    if format == Format::Json {
        print!("{}", json(&json!({"id": id, "role": "voter"})));
    }
    Ok(Exit::Ok)
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

/// Waits until a node is a voter, and says how far it is.
async fn until_voter(client: &Client, id: u64, within: Duration, format: Format) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut said = String::new();
    loop {
        // A leader that changes meanwhile, or a node that does not answer, is no reason to give up.
        let now = match view(client).await {
            Ok(view) => match view.members.iter().find(|member| member.id == id) {
                None => of_none(&view, id, begun.elapsed())?,
                Some(member) if member.role == "voter" => {
                    say(
                        format,
                        &format!("node {id} is a voter, after {:.1} s", begun.elapsed().as_secs_f64()),
                    );
                    return Ok(());
                }
                Some(_) => "it has joined as a learner and catches up".into(),
            },
            Err(failure) => failure.problem.detail.clone(),
        };
        if now != said {
            say(format, &format!("waiting for node {id}: {now}"));
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

async fn replace(client: &Client, args: &ReplaceArgs, format: Format) -> Result<Exit, Failure> {
    let now = view(client).await?;
    let new = args.id.unwrap_or_else(|| free_id(&now));
    let joined = now.members.iter().any(|member| member.id == new);
    check_old(&now, args, new)?;
    let (before, voted) = (quorum(&now), now.members.iter().any(|m| m.id == args.old && m.role == "voter"));
    let old_answers = now.members.iter().any(|m| m.id == args.old && answers(&now, m));
    say(format, &format!("replace node {} by node {new}", args.old));
    say(format, &format!("  now:                     {}", before.text()));
    let with_new = if now.members.iter().any(|m| m.id == new && m.role == "voter") {
        before
    } else {
        Quorum::of(before.voters + 1, before.live + 1)
    };
    say(format, &format!("  1. node {new} is a voter:    {}", with_new.text()));
    let gone = u64::from(voted);
    let at_the_end = Quorum::of(with_new.voters - gone, with_new.live - gone * u64::from(old_answers));
    say(format, &format!("  2. node {} is removed:    {}", args.old, at_the_end.text()));
    let join = if joined { Vec::new() } else { plan(client, "add", new).await?.1.join };
    if !joined {
        say(format, &format!("start on the new machine:\n  {}", join_command(new, &join)));
    }
    if args.plan {
        say(format, "nothing was changed (--plan)");
        return Ok(Exit::Ok);
    }
    say(
        format,
        &format!(
            "step 1 of 2: waiting for node {new} (to go on later: stockctl member replace {} --id {new})",
            args.old
        ),
    );
    until_voter(client, new, Duration::from_secs(args.wait), format).await?;
    say(format, &format!("step 2 of 2: removing node {}", args.old));
    match submit(client, "remove", args.old, args.force).await {
        Ok(_) => {}
        // An earlier attempt whose answer was lost.
        Err(failure) if failure.exit == Exit::NotFound => {}
        Err(failure) => return Err(failure),
    }
    let after = view(client).await?;
    say(format, &format!("done: node {new} stands in for node {}; {}", args.old, quorum(&after).text()));
    say(
        format,
        &format!(
            "node {} must not be started again with its old data directory under id {}",
            args.old, args.old
        ),
    );
    if format == Format::Json {
        print!("{}", json(&json!({"removed": args.old, "added": new})));
    }
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

/// `stockctl leader`
///
/// # Errors
/// There is no leader, or leadership cannot be handed over.
pub async fn leader(client: &Client, command: &LeaderCommand, format: Format) -> Result<Exit, Failure> {
    match command {
        LeaderCommand::Show => show(client, format).await,
        LeaderCommand::Transfer { to } => transfer(client, *to, format).await,
    }
}

async fn show(client: &Client, format: Format) -> Result<Exit, Failure> {
    let view = view(client).await?;
    let leader = view.members.iter().find(|member| Some(member.id) == view.leader);
    let Some(leader) = leader else {
        return Err(Failure::local(Exit::Unavailable, "no_leader", "No leader", quorum(&view).text())
            .step("wait: an election takes about two seconds, once a majority of the voters answers")
            .step("see who does not: stockctl member list"));
    };
    match format {
        Format::Json => print!(
            "{}",
            json(&json!({"leader": leader.id, "term": view.term,
            "http_address": leader.http_address, "peer_address": leader.peer_address}))
        ),
        Format::Table => {
            println!("node {} leads, term {}, at {}", leader.id, view.term, leader.http_address);
        }
    }
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
    match format {
        Format::Json => print!(
            "{}",
            json(&json!({"leader": now.leader, "term": now.term, "already": now.already,
            "took_ms": now.took_ms, "all_follow_after_ms": all_ms}))
        ),
        Format::Table if now.already => println!("node {} leads already, term {}", now.leader, now.term),
        Format::Table => println!(
            "node {} leads, term {}: handed over in {} ms, all nodes that answer follow it after {all_ms} ms",
            now.leader, now.term, now.took_ms
        ),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_said_in_words() {
        assert_eq!(Quorum::of(3, 3).text(), "3 voters, a majority is 2, 3 answer: 1 may fail");
        assert_eq!(Quorum::of(4, 3).text(), "4 voters, a majority is 3, 3 answer: none may fail");
        assert_eq!(
            Quorum::of(3, 1).text(),
            "3 voters, a majority is 2, 1 answer: no majority: nothing can be written"
        );
    }
}
