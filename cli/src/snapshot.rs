//! `snapshot`: the snapshot file of each node, and to have one written.

use crate::{
    client::{Call, Client, interrupted},
    output::{Format, Table, count},
    problem::{Exit, Failure, plain},
    view::{self, Member},
};
use futures::future::join_all;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Between two looks at a snapshot that is being written.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// `stockctl snapshot ...`
#[derive(Debug, clap::Subcommand)]
pub enum Snapshot {
    /// The newest snapshot of each node: index, size, age, sums
    List,
    /// All that one node says of its newest snapshot
    Show {
        /// The node
        #[arg(value_name = "NODE-ID")]
        node: u64,
    },
    /// Have nodes write one of what they have applied now, one node after the other
    #[command(after_help = CREATE_HELP)]
    Create(CreateArgs),
}

const CREATE_HELP: &str = "\
Nodes write snapshots by themselves as their logs grow. One more is of use before planned work: a node that is started
again afterwards, or a new one that joins, has less of the log to go through. To take data home: stockctl backup create.

Examples:
  stockctl snapshot create
  stockctl snapshot create 2 --wait 60";

/// What `snapshot create` takes.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The nodes; all members where none is named
    #[arg(value_name = "NODE-ID")]
    nodes: Vec<u64>,
    /// How long to wait for each, in seconds; 0 only asks for it
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    wait: u64,
}

/// `stockctl snapshot`
///
/// # Errors
/// A node that is named does not answer, or has none in time.
pub async fn run(client: &Client, command: &Snapshot, format: Format) -> Result<Exit, Failure> {
    match command {
        Snapshot::List => list(client, format).await,
        Snapshot::Show { node } => show(client, *node, format).await,
        Snapshot::Create(args) => create(client, args, format).await,
    }
}

async fn newest(client: &Client, member: &Member) -> Result<Value, Failure> {
    member.ask(client, Call::get("/v1/admin/snapshot")).await?.json()
}

/// A node that does not answer is a row, too; the exit code says so.
async fn list(client: &Client, format: Format) -> Result<Exit, Failure> {
    let members = view::members(client, &[]).await?;
    let asked = members.iter().map(|member| async { (member.id, newest(client, member).await) });
    let answers = join_all(asked).await;
    let silent = answers.iter().any(|(_, answer)| answer.is_err());
    let nodes = answers.into_iter().map(|(id, answer)| match answer {
        Ok(answer) => answer,
        Err(failure) => json!({ "node_id": id, "problem": failure.problem }),
    });
    let nodes: Vec<Value> = nodes.collect();
    format.print(&json!({ "nodes": nodes }), "nodes", || table(&nodes));
    Ok(if silent { Exit::Unavailable } else { Exit::Ok })
}

fn table(nodes: &[Value]) -> String {
    let columns = [
        ">NODE",
        ">INDEX",
        ">ENTRIES SINCE",
        ">BYTES",
        ">WRITTEN FOR IT",
        "AGE",
        "DIGEST",
        "STATE HASH",
        ">LOG BYTES",
    ];
    let mut table = Table::new(&columns);
    let mut notes = String::new();
    for node in nodes {
        let id = plain(&node["node_id"]);
        if let Some(problem) = node.get("problem") {
            notes.push_str(&format!("note: node {id}: {}\n", plain(&problem["detail"])));
        }
        if let Some(index) = node["writing_index"].as_u64() {
            notes.push_str(&format!("note: node {id} is writing one of index {index}\n"));
        }
        let (snapshot, log) = (&node["snapshot"], &node["log"]);
        let number = |value: &Value| value.as_u64().map_or("-".into(), count);
        let index = snapshot["log_index"].as_u64().unwrap_or_default();
        table.row(vec![
            id,
            number(&snapshot["log_index"]),
            log["applied_index"].as_u64().map_or("-".into(), |applied| count(applied.saturating_sub(index))),
            number(&snapshot["bytes"]),
            number(&snapshot["own_bytes"]),
            snapshot["age_ms"].as_u64().map_or("-".into(), age),
            plain(&snapshot["digest"]),
            plain(&snapshot["state_hash"]),
            number(&log["bytes"]),
        ]);
    }
    table.render() + &notes
}

/// As people say it: the two largest units.
fn age(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

async fn show(client: &Client, node: u64, format: Format) -> Result<Exit, Failure> {
    let member = view::members(client, &[node]).await?.remove(0);
    let answer = newest(client, &member).await?;
    if answer["snapshot"].is_null() {
        let detail = format!("node {node} has written none yet: its log has everything");
        return Err(Failure::local(Exit::NotFound, "no_snapshot", "There is no snapshot yet", detail)
            .step(format!("stockctl snapshot create {node}")));
    }
    format.print(&answer, "", || details(&answer));
    Ok(Exit::Ok)
}

fn details(answer: &Value) -> String {
    let (snapshot, log) = (&answer["snapshot"], &answer["log"]);
    let number = |value: &Value| value.as_u64().map_or("-".into(), count);
    let age = snapshot["age_ms"].as_u64().map_or("-".into(), age);
    let mut out = String::new();
    for (label, value) in [
        ("node", plain(&answer["node_id"])),
        ("log index", number(&snapshot["log_index"])),
        ("written", format!("{} ({age} ago)", plain(&snapshot["written_at"]))),
        ("bytes", number(&snapshot["bytes"])),
        (
            "written for it",
            format!("{} (the rest it shares with the tables)", number(&snapshot["own_bytes"])),
        ),
        ("digest", plain(&snapshot["digest"])),
        ("state hash", plain(&snapshot["state_hash"])),
        ("log", format!("entries {} to {}", number(&log["first_index"]), number(&log["last_index"]))),
        ("log bytes", number(&log["bytes"])),
        ("applied", number(&log["applied_index"])),
    ] {
        out.push_str(&format!("{label:<15} {value}\n"));
    }
    out
}

async fn create(client: &Client, args: &CreateArgs, format: Format) -> Result<Exit, Failure> {
    let members = view::members(client, &args.nodes).await?;
    let mut nodes = Vec::new();
    for member in &members {
        let answer = create_on(client, member, Duration::from_secs(args.wait), format).await?;
        nodes.push(answer);
    }
    format.print(&json!({ "nodes": nodes }), "nodes", || table(&nodes));
    Ok(Exit::Ok)
}

async fn create_on(
    client: &Client,
    member: &Member,
    within: Duration,
    format: Format,
) -> Result<Value, Failure> {
    let begun = Instant::now();
    // Looked at first: where another node answers, that one is not to write any.
    newest(client, member).await?;
    let mut now = member.ask(client, Call::post("/v1/admin/snapshot", "{}")).await?.json()?;
    let Some(wanted) = now["writing_index"].as_u64() else { return Ok(now) };
    format.say(&format!("node {} writes a snapshot of index {wanted}", member.id));
    while !within.is_zero() && now["snapshot"]["log_index"].as_u64().unwrap_or_default() < wanted {
        if begun.elapsed() >= within {
            let detail = format!("node {} still writes it after {} s", member.id, within.as_secs());
            return Err(Failure::local(
                Exit::Unavailable,
                "still_writing",
                "The snapshot is not there yet",
                detail,
            )
            .step("it goes on by itself: stockctl snapshot list"));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = tokio::signal::ctrl_c() => return Err(interrupted()),
        }
        now = newest(client, member).await?;
    }
    Ok(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_said_as_people_do() {
        assert_eq!(age(999), "0 s");
        assert_eq!(age(61_000), "1 min 1 s");
        assert_eq!(age(3_660_000), "1 h 1 min");
        assert_eq!(age(90_000_000), "1 d 1 h");
    }
}
