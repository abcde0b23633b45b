//! `stockroom recover`: a new cluster out of what is left when a majority of the voters is lost for good.
//!
//! Raft cannot go on without a majority, and must not: nobody can know any more what the lost nodes agreed on. This
//! command shows what is left, refuses where a majority could still be had, and asks before it decides.

use super::restore::{Addresses, tell};
use super::{Exit, Refusal, scratch};
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use stockroom_raft::{Alive, NewVoter, ask, identity_of, refound, refusal_of};
use stockroom_storage::refound::must_be_empty;
use stockroom_storage::remains::{Remains, examine};
use stockroom_storage::type_config::Member;

/// What `recover` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// Data directories of nodes that are left, each of them stopped; copies will do
    #[arg(required = true, value_name = "DIR")]
    survivors: Vec<PathBuf>,
    /// Becomes the data directory of the new cluster's first node: empty, or not there yet
    #[arg(long, value_name = "DIR", required_unless_present = "plan")]
    to: Option<PathBuf>,
    /// The new node; the chosen survivor's id and addresses where absent
    #[arg(long, value_name = "ID=PEER,HTTP")]
    member: Option<Addresses>,
    /// Show what is left, what each choice loses and what would be done; do nothing
    #[arg(long)]
    plan: bool,
    /// The id of the cluster that is given up; asked for on a terminal where absent
    #[arg(long, value_name = "ID")]
    cluster_id: Option<String>,
    /// Take this survivor's state instead of the one that goes furthest
    #[arg(long, value_name = "NODE-ID")]
    choose: Option<u64>,
    /// Go on without this node, although it answers: what only it has is lost. It must be stopped before its
    /// clients find it
    #[arg(long, value_name = "NODE-ID")]
    without: Vec<u64>,
    /// Where intermediate files go; beside --to where absent. They take about three times the size of a state
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

const HELP: &str = "\
For the loss of a majority of the voters, for good. While a majority could still answer it refuses: start the nodes
again instead, nothing is lost then. A node that is lost for good while a majority lives is replaced, not recovered.

The survivors' directories are not changed; keep them until the new cluster has been checked. The new cluster has an id
of its own, so a lost node that comes back can never disturb it. Make sure all the same that clients cannot reach one.

Examples:
  stockroom recover --plan /var/lib/stockroom
  stockroom recover /var/lib/stockroom --to /var/lib/stockroom-new
  stockroom recover d1 copied-from-2 --to new --cluster-id 5f0c... --member 1=10.0.0.1:9081,10.0.0.1:8081

Exit codes: 0 recovered (or planned), 1 error, 2 usage, 4 a directory is in use or not empty, 7 refused as unsafe,
8 what is left is damaged, or differs";

/// One directory that was named.
struct Survivor {
    dir: PathBuf,
    /// Why it does not count: it forgot what it had acknowledged. What it has may be all there is.
    refused: Option<String>,
    remains: Result<Remains, Refusal>,
}

/// Recovers.
///
/// # Errors
/// [`Refusal`]; nothing was changed.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    Ok(runtime.block_on(recover(options))?)
}

async fn recover(options: &Options) -> Result<ExitCode, Refusal> {
    if let Some(to) = &options.to {
        must_be_empty(to)?;
    }
    let beside = options.to.as_deref().and_then(Path::parent).map_or_else(std::env::temp_dir, Path::to_owned);
    let scratch = scratch(options.scratch.as_deref(), &beside)?;
    let mut survivors = look(&options.survivors, scratch.path()).await?;
    let best = best(&survivors, options.choose)?;
    let missing = missing(&survivors, &best.members).await;
    println!("{}", situation(&survivors, &best, &missing));
    must_be_lost(&survivors, &best, &missing, &options.without)?;
    must_agree(&survivors, options.choose)?;
    println!("{}", losses(&survivors, &best));
    let member = match &options.member {
        Some(member) => member.clone(),
        None => addresses(best.node_id, &best.members)?,
    };
    let Some(to) = options.to.as_ref().filter(|_| !options.plan) else {
        println!("a plan only: nothing was done. To do it: the same with --to EMPTY-DIR, without --plan");
        return Ok(ExitCode::SUCCESS);
    };
    confirm(options.cluster_id.as_deref(), best.cluster_id, best.node_id)?;
    let chosen = survivors.iter_mut().filter_map(|survivor| survivor.remains.as_mut().ok());
    let mut chosen = chosen.filter(|remains| remains.identity.node_id == best.node_id);
    let snapshot = chosen.next().expect("the best one is one of them").snapshot().await?;
    let voter = NewVoter {
        dir: to.clone(),
        node_id: member.id,
        peer_address: member.peer,
        http_address: member.http,
    };
    let voters = [voter];
    tell(&refound(&snapshot, &voters)?, &voters);
    eprintln!("check it (stockctl audit verify) before you remove the old directories");
    Ok(ExitCode::SUCCESS)
}

/// Opens each directory, one after the other.
async fn look(dirs: &[PathBuf], scratch: &Path) -> Result<Vec<Survivor>, Refusal> {
    let mut survivors: Vec<Survivor> = Vec::new();
    for (at, dir) in dirs.iter().enumerate() {
        eprintln!("reading {}", dir.display());
        let place = scratch.join(at.to_string());
        let remains = std::fs::create_dir_all(&place)
            .map_err(|error| stockroom_storage::error::StorageError::io("making the scratch store", &error));
        let remains = match remains {
            Ok(()) => examine(dir, &place).await.map_err(Refusal::from),
            Err(error) => Err(error.into()),
        };
        match remains {
            // In use, or no node's: the caller's mistake, not a loss.
            Err(refusal) if matches!(refusal.exit, Exit::Conflict | Exit::NotFound) => return Err(refusal),
            remains => survivors.push(Survivor { dir: dir.clone(), refused: refusal_of(dir)?, remains }),
        }
    }
    let ids = survivors.iter().filter_map(|survivor| survivor.remains.as_ref().ok());
    let ids: Vec<_> = ids.map(|remains| remains.identity).collect();
    if let Some(other) = ids.iter().find(|id| id.cluster_id != ids[0].cluster_id) {
        let detail = format!(
            "node {} belongs to cluster {:032x}, node {} to {:032x}",
            ids[0].node_id, ids[0].cluster_id, other.node_id, other.cluster_id
        );
        return Err(Refusal::new(Exit::Usage, "usage", "These are nodes of different clusters", detail)
            .step("name directories of one cluster"));
    }
    if let Some(twice) =
        ids.iter().enumerate().find(|(at, id)| ids[at + 1..].iter().any(|o| o.node_id == id.node_id))
    {
        let detail = format!("two directories say that they are node {}", twice.1.node_id);
        return Err(Refusal::new(Exit::Usage, "usage", "A node is named twice", detail));
    }
    Ok(survivors)
}

/// The survivor whose state is taken.
#[derive(Debug, Clone)]
struct Best {
    node_id: u64,
    cluster_id: u128,
    term: u64,
    index: u64,
    members: BTreeMap<u64, (Member, bool)>,
    voters: Vec<BTreeSet<u64>>,
}

/// The one whose log goes furthest, by term first, as Raft itself would elect; or the chosen one.
fn best(survivors: &[Survivor], choose: Option<u64>) -> Result<Best, Refusal> {
    let usable = survivors.iter().filter_map(|survivor| survivor.remains.as_ref().ok());
    let wanted = usable.filter(|remains| choose.is_none_or(|id| remains.identity.node_id == id));
    let best = wanted.max_by_key(|remains| (remains.last_term, remains.last.log_index));
    let Some(best) = best else {
        let why = |survivor: &Survivor| {
            survivor
                .remains
                .as_ref()
                .err()
                .map(|refusal| format!("{}: {}", survivor.dir.display(), refusal.detail))
        };
        let whys: Vec<String> = survivors.iter().filter_map(why).collect();
        let detail =
            if whys.is_empty() { "no survivor has that node id".to_owned() } else { whys.join("\n  ") };
        return Err(Refusal::new(Exit::Findings, "nothing_left", "None of these can be used", detail)
            .step("restore the newest backup: stockroom restore FILE --dir D"));
    };
    Ok(Best {
        node_id: best.identity.node_id,
        cluster_id: best.identity.cluster_id,
        term: best.last_term,
        index: best.last.log_index,
        members: best.members.clone(),
        voters: best.voters.clone(),
    })
}

/// How long a member may take to say that it is there.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// A member whose directory was not named.
struct Missing {
    node_id: u64,
    peer: String,
    voter: bool,
    alive: Option<Alive>,
}

async fn missing(survivors: &[Survivor], members: &BTreeMap<u64, (Member, bool)>) -> Vec<Missing> {
    let here = |id: u64| {
        survivors.iter().any(|survivor| match &survivor.remains {
            Ok(remains) => remains.identity.node_id == id,
            Err(_) => {
                identity_of(&survivor.dir).ok().flatten().is_some_and(|identity| identity.node_id == id)
            }
        })
    };
    let asked = members.iter().filter(|(id, _)| !here(**id)).map(|(id, (member, voter))| async {
        let answer = ask(&member.peer_address, ANSWER_WITHIN).await;
        // Somebody else may have the address by now.
        let alive = answer.filter(|alive| (alive.node_id, alive.incarnation) == (*id, member.incarnation));
        Missing { node_id: *id, peer: member.peer_address.clone(), voter: *voter, alive }
    });
    join_all(asked).await
}

fn situation(survivors: &[Survivor], best: &Best, missing: &[Missing]) -> String {
    let voters = best.members.values().filter(|(_, votes)| *votes).count();
    let mut text = format!(
        "cluster {:032x}: {voters} voters, a majority is {}\n\
         {:>5}  {:<9}  {:>9}  {:>9}  {:>5}  {:<32}  {}\n",
        best.cluster_id,
        voters / 2 + 1,
        "NODE",
        "STATE",
        "COMMITTED",
        "LAST LOG",
        "TERM",
        "DIGEST",
        "WHERE"
    );
    for survivor in survivors {
        let dir = survivor.dir.display();
        let line = match &survivor.remains {
            Ok(r) => format!(
                "{:>5}  {:<9}  {:>9}  {:>9}  {:>5}  {:032x}  {dir}",
                r.identity.node_id,
                if survivor.refused.is_some() { "LOST SOME" } else { "stopped" },
                r.committed.log_index,
                r.last.log_index,
                r.last_term,
                r.last.digest
            ),
            Err(refusal) => format!("{:>5}  {:<9}  {}", "?", "unusable", refusal.detail),
        };
        text.push_str(&line);
        text.push('\n');
    }
    for Missing { node_id, peer, voter, alive } in missing {
        let state = if alive.is_some() { "ANSWERS" } else { "no answer" };
        let role = if *voter { "" } else { " (learner)" };
        let _ = writeln!(
            text,
            "{node_id:>5}  {state:<9}  {:>9}  {:>9}  {:>5}  {:<32}  {peer}{role}",
            "?", "?", "?", "?"
        );
    }
    text.push_str(
        "COMMITTED is what the node knew to be; what it has beyond, up to LAST LOG, may have been, too.",
    );
    text
}

/// Refuses where a majority could still be had, or a node that answers would be left behind unasked.
fn must_be_lost(
    survivors: &[Survivor],
    best: &Best,
    missing: &[Missing],
    without: &[u64],
) -> Result<(), Refusal> {
    let refuse = |title, detail: String| Refusal::new(Exit::Unsafe, "quorum_unsafe", title, detail);
    let is_voter = |id: &u64| best.members.get(id).is_some_and(|(_, votes)| *votes);
    // Another directory under the id of a member does not count: it forgot its votes.
    let same_disk = |remains: &&Remains| {
        let id = remains.identity;
        best.members.get(&id.node_id).is_some_and(|(member, _)| member.incarnation == id.incarnation)
    };
    let counting = survivors.iter().filter(|survivor| survivor.refused.is_none());
    let usable = counting.filter_map(|survivor| survivor.remains.as_ref().ok()).filter(same_disk);
    let stopped: Vec<u64> = usable.map(|remains| remains.identity.node_id).filter(is_voter).collect();
    let alive: Vec<u64> =
        missing.iter().filter(|m| m.voter && m.alive.is_some()).map(|m| m.node_id).collect();
    let there = |voters: &BTreeSet<u64>| {
        voters.iter().filter(|id| stopped.contains(id) || alive.contains(id)).count()
    };
    if best.voters.iter().all(|voters| there(voters) * 2 > voters.len()) {
        let detail = format!(
            "voters that are here: {}; that answer: {}. Together they are a majority of {}, and nothing need be lost",
            names(&stopped),
            names(&alive),
            names(
                &best.members.iter().filter(|(_, (_, votes))| *votes).map(|(id, _)| *id).collect::<Vec<_>>()
            )
        );
        return Err(refuse("A majority is not lost", detail)
            .step(format!("start {} again as it was, with its own data directory", names(&stopped))));
    }
    // It may be out of reach of this machine only. One that is stopped here leads nobody, whatever others remember.
    let leads = |m: &Missing| m.alive.as_ref()?.leader.filter(|leader| !stopped.contains(leader));
    if let Some((node, leader)) = missing.iter().find_map(|m| Some((m.node_id, leads(m)?))) {
        let detail = format!("node {node} answers and says that node {leader} leads");
        return Err(refuse("The cluster may have a leader", detail)
            .step("if it serves: start the stopped nodes again, and replace those that are lost for good")
            .step(format!(
                "if it does not: stop node {node}, and name its data directory (or a copy of it), too"
            )));
    }
    let left_behind: Vec<u64> = alive.into_iter().filter(|id| !without.contains(id)).collect();
    if left_behind.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "{} answers: what only it has would be lost, and clients could go on asking it",
        names(&left_behind)
    );
    Err(refuse("A node that is left was not named", detail)
        .step("stop it, and name its data directory (or a copy of it), too".to_owned())
        .step(format!("or, if its data does not matter, stop it and say --without {}", left_behind[0])))
}

fn names(ids: &[u64]) -> String {
    match ids {
        [] => "none".to_owned(),
        [one] => format!("node {one}"),
        _ => format!("nodes {}", ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// Two that have one entry in common must have made the same of it.
fn must_agree(survivors: &[Survivor], choose: Option<u64>) -> Result<(), Refusal> {
    let usable: Vec<&Remains> =
        survivors.iter().filter_map(|survivor| survivor.remains.as_ref().ok()).collect();
    for (at, one) in usable.iter().enumerate() {
        for other in &usable[at + 1..] {
            let common = one.committed.log_index.min(other.committed.log_index);
            let (Some(a), Some(b)) = (one.fingerprint_at(common), other.fingerprint_at(common)) else {
                continue;
            };
            if a != b && choose.is_none() {
                let (x, y) = (one.identity.node_id, other.identity.node_id);
                let detail = format!(
                    "at committed index {common}, node {x} has digest {:032x}, node {y} has {:032x}",
                    a.digest, b.digest
                );
                return Err(Refusal::new(Exit::Findings, "nodes_differ", "What is left differs", detail)
                    .step("find out which is right (stockroom recover --plan DIR on each alone), then say --choose NODE-ID"));
            }
        }
    }
    Ok(())
}

fn losses(survivors: &[Survivor], best: &Best) -> String {
    let mut text = format!(
        "the new cluster begins with the state of node {}, at log index {} of term {}\n\
         lost, whatever is chosen: what the lost nodes had after entry {} and none of these has\n",
        best.node_id, best.index, best.term, best.index
    );
    let others = survivors.iter().filter_map(|survivor| survivor.remains.as_ref().ok());
    for other in others.filter(|other| other.identity.node_id != best.node_id) {
        let (id, index, term) = (other.identity.node_id, other.last.log_index, other.last_term);
        let line = if (term, index) > (best.term, best.index) {
            format!("LOST by this choice: node {id} goes further, to index {index} of term {term}")
        } else if index > best.index {
            format!(
                "node {id} has entries to index {index} of an earlier term {term}: a later leader overruled those after \
                 its own, none of them was acknowledged"
            )
        } else {
            format!(
                "choosing node {id} instead would lose {} entries after index {index}",
                best.index - index
            )
        };
        text.push_str(&line);
        text.push('\n');
    }
    text.pop();
    text
}

fn addresses(node_id: u64, members: &BTreeMap<u64, (Member, bool)>) -> Result<Addresses, Refusal> {
    let known = members.get(&node_id).map(|(member, _)| member);
    let known = known.ok_or_else(|| {
        let detail = format!("node {node_id} is no member as of the end of its own log");
        Refusal::new(Exit::Usage, "usage", "The new node needs addresses", detail)
            .step("say --member ID=PEER,HTTP")
    })?;
    Ok(Addresses { id: node_id, peer: known.peer_address.clone(), http: known.http_address.clone() })
}

/// Whoever decides must have looked at what is decided.
fn confirm(given: Option<&str>, cluster_id: u128, node_id: u64) -> Result<(), Refusal> {
    let wanted = format!("{cluster_id:032x}");
    let typed = match given {
        Some(given) => given.to_owned(),
        None if std::io::stdin().is_terminal() => {
            eprintln!("Be sure that no lost node can still be reached by clients.");
            eprintln!("To give up cluster {wanted} and found a new one from node {node_id}, type its id:");
            let mut line = String::new();
            let read = std::io::stdin().lock().read_line(&mut line);
            read.map_err(|error| Refusal::new(Exit::Error, "stdin", "Nothing was typed", error.to_string()))?;
            line
        }
        None => String::new(),
    };
    if typed.trim().eq_ignore_ascii_case(&wanted) {
        return Ok(());
    }
    let detail = if typed.trim().is_empty() {
        "the cluster's id was not given; nothing was done".to_owned()
    } else {
        format!("{:?} is not the id of this cluster; nothing was done", typed.trim())
    };
    Err(Refusal::new(Exit::Unsafe, "unsafe_unconfirmed", "Not confirmed", detail)
        .step(format!("to do it: the same command with --cluster-id {wanted}")))
}
