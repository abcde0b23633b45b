//! `log`: what lies in a node's log, entry by entry.

use crate::{
    client::{Call, Client},
    output::{Format, Table, count},
    problem::{Exit, Failure, plain},
    view::{self, Member},
};
use serde_json::{Value, json};

/// Entries of one answer.
const PAGE: u64 = 1_000;
/// Commands of an entry that an answer shows at most.
const COMMANDS: u64 = 1_000;
/// Lines of a command that are written out.
const LINES: usize = 3;

/// What `log` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct LogArgs {
    /// The node whose log it is; the leader's where absent
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    node: Option<u64>,
    /// The first entry to show, by its log index
    #[arg(long, value_name = "INDEX", conflicts_with = "tail")]
    from: Option<u64>,
    /// The last entry to show
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// The newest entries only, so many of them (up to --to) [default: 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    tail: Option<u64>,
    /// Most entries to show with --from
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    limit: u64,
    /// Every command of an entry on a line of its own (the first 1,000)
    #[arg(long)]
    commands: bool,
}

const HELP: &str = "\
STATE says how far the entry is on that node: applied (its effect is in the state), committed (on a majority), or
appended (not known to be committed: it may be taken back). KIND is commands, members (who the members are from there
on) or blank (a new leader's first entry).

Examples:
  stockctl log
  stockctl log --node 2 --tail 5 --commands
  stockctl log --from 1000 --to 1100
  stockctl -o ndjson log --from 1000 | jq -r '.commands[] | select(.key == \"k3\")'";

/// Without `--from` and `--tail`.
const DEFAULT_TAIL: u64 = 20;

/// Prints the entries.
///
/// # Errors
/// The node does not answer, or has purged what is asked for.
pub async fn run(client: &Client, args: &LogArgs, format: Format) -> Result<Exit, Failure> {
    let member = chosen(client, args.node).await?;
    let (mut from, most) = match args.from {
        Some(from) => (from, args.limit),
        None => {
            let most = args.tail.unwrap_or(DEFAULT_TAIL);
            (newest(client, &member, args.to, most).await?, most)
        }
    };
    let commands = if args.commands || !format.is_table() { COMMANDS } else { 1 };
    let (mut items, mut log) = (Vec::new(), Value::Null);
    loop {
        let limit = (most - items.len() as u64).min(PAGE);
        let to = args.to.map(|to| format!("&to={to}")).unwrap_or_default();
        let path = format!("/v1/admin/log/entries?from={from}&limit={limit}&commands={commands}{to}");
        let page = member.ask(client, Call::get(path)).await?.json()?;
        items.extend(page["items"].as_array().into_iter().flatten().cloned());
        log = if log.is_null() { page["log"].clone() } else { log };
        match page["next_from"].as_u64() {
            Some(next) if (items.len() as u64) < most => from = next,
            _ => break,
        }
    }
    let value = json!({ "node_id": member.id, "log": log, "items": items });
    format.print(&value, "items", || text(&value, &items, args.commands));
    Ok(Exit::Ok)
}

/// The member whose log is asked for.
async fn chosen(client: &Client, node: Option<u64>) -> Result<Member, Failure> {
    let view = view::best(client).await?;
    let id = node.or(view.leader).unwrap_or(view.node_id);
    let members = view::of_ids(&view, &[id])?;
    Ok(members.into_iter().next().expect("one member was asked for and found"))
}

/// The first of the newest `most` entries up to `to` that are there.
async fn newest(client: &Client, member: &Member, to: Option<u64>, most: u64) -> Result<u64, Failure> {
    let path = "/v1/admin/log/entries?limit=1&commands=0";
    let log = member.ask(client, Call::get(path)).await?.json()?["log"].take();
    let index = |name: &str| log[name].as_u64().unwrap_or_default();
    let last = to.unwrap_or(u64::MAX).min(index("last_index"));
    Ok((last + 1).saturating_sub(most).max(index("first_index")))
}

fn text(value: &Value, items: &[Value], commands: bool) -> String {
    let log = &value["log"];
    let of = |name: &str| count(log[name].as_u64().unwrap_or_default());
    let mut out = format!(
        "node {}: entries {} to {}, committed {}, applied {}; {} bytes\n",
        value["node_id"],
        of("first_index"),
        of("last_index"),
        of("committed_index"),
        of("applied_index"),
        of("bytes"),
    );
    let mut table = Table::new(&[">INDEX", ">TERM", "STATE", "KIND", ">BYTES", "AT", "WHAT"]);
    for item in items {
        let cell = |name: &str| plain(&item[name]);
        let what = summary(item);
        table.row(vec![
            cell("index"),
            cell("term"),
            cell("state"),
            cell("kind"),
            cell("bytes"),
            cell("stamped_at"),
            what,
        ]);
        let several = item["commands"].as_array().filter(|list| commands && list.len() > 1);
        for command in several.into_iter().flatten() {
            let blank = String::new;
            table.row(vec![
                blank(),
                blank(),
                blank(),
                blank(),
                blank(),
                blank(),
                format!("  {}", described(command)),
            ]);
        }
    }
    out.push_str(&table.render());
    out
}

/// What an entry is about, in one line.
fn summary(item: &Value) -> String {
    let counts = item["counts"].as_object();
    let all: u64 = counts.into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
    match (all, &item["commands"][0], &item["voters"]) {
        (1, command @ Value::Object(_), _) => described(command),
        (1.., ..) => {
            let kinds: Vec<String> =
                counts.into_iter().flatten().map(|(name, n)| format!("{name} {n}")).collect();
            format!("{} commands: {}", count(all), kinds.join(", "))
        }
        (0, _, Value::Array(voters)) => {
            let lists: Vec<String> = voters.iter().map(ids).collect();
            let voters = lists.join(" and ");
            let all: Value =
                item["members"].as_array().into_iter().flatten().map(|m| m["id"].clone()).collect();
            format!("voters {voters} of members {}", ids(&all))
        }
        _ => String::new(),
    }
}

fn ids(list: &Value) -> String {
    let ids: Vec<String> = list.as_array().into_iter().flatten().map(plain).collect();
    ids.join(",")
}

/// A command in one line: what, of what, with what.
fn described(command: &Value) -> String {
    let mut out = plain(&command["command"]);
    let fields = command["fields"].as_object();
    for name in ["id", "sku"] {
        if let Some(value) = fields.and_then(|fields| fields.get(name)) {
            out.push_str(&format!(" {}", plain(value)));
        }
    }
    if let Some(lines) = command["fields"]["lines"].as_array() {
        let shown: Vec<String> = lines.iter().take(LINES).map(line).collect();
        let more =
            if lines.len() > LINES { format!(", and {} more", lines.len() - LINES) } else { String::new() };
        out.push_str(&format!(": {}{more}", shown.join(", ")));
    }
    let others =
        fields.into_iter().flatten().filter(|(name, _)| !["id", "sku", "lines"].contains(&name.as_str()));
    others.for_each(|(name, value)| out.push_str(&format!(" {name}={}", plain(value))));
    if let Some(key) = command["key"].as_str() {
        out.push_str(&format!(" (key {key})"));
    }
    out
}

fn line(line: &Value) -> String {
    let (sku, quantity, location) = (plain(&line["sku"]), plain(&line["quantity"]), plain(&line["location"]));
    let at = if location == "main" { String::new() } else { format!(" at {location}") };
    format!("{quantity} x {sku}{at}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_told_in_one_line() {
        let place = json!({"key": "k3", "command": "place_order", "fields": {"id": "A-1", "currency": "EUR", "lines": [
            {"sku": "mug", "location": "main", "quantity": 2}, {"sku": "cup", "location": "b", "quantity": 1}]}});
        let one = json!({"kind": "commands", "counts": {"place_order": 1}, "commands": [place]});
        assert_eq!(summary(&one), "place_order A-1: 2 x mug, 1 x cup at b currency=EUR (key k3)");
        let many = json!({"kind": "commands", "counts": {"pay_order": 1200, "place_order": 34}, "commands": [place]});
        assert_eq!(summary(&many), "1,234 commands: pay_order 1200, place_order 34");
        let members = json!({"kind": "members", "voters": [[1, 2, 3], [1, 2]], "members": [{"id": 1}, {"id": 2}, {"id": 3}]});
        assert_eq!(summary(&members), "voters 1,2,3 and 1,2 of members 1,2,3");
        assert_eq!(summary(&json!({"kind": "blank"})), "");
    }
}
