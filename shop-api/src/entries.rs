//! `GET /v1/admin/log/entries`: what lies in this node's log, decoded.

use crate::answer::Answer;
use crate::codes::Code;
use crate::commands;
use crate::door::Asked;
use crate::problem::{Extra, Problem};
use crate::query::Query;
use crate::render::{self, timestamp};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use stockroom_storage::entries::{Contents, LogEntry, LogExtent};
use stockroom_storage::shop::command::{Batch, Proposal};

/// Commands of an entry that are shown where the caller names no number.
const DEFAULT_COMMANDS: u64 = 10;
/// An entry of many small commands has some thousands; nobody reads more of it at once.
const MOST_COMMANDS: u64 = 1_000;

#[derive(Serialize)]
struct EntriesBody {
    node_id: u64,
    log: LogBody,
    items: Vec<Value>,
    next_from: Option<u64>,
}

/// Where a node's log begins and ends.
#[derive(Serialize)]
pub(crate) struct LogBody {
    first_index: u64,
    last_index: u64,
    committed_index: u64,
    applied_index: u64,
    bytes: u64,
}

impl LogBody {
    pub fn of(asked: &Asked<'_>, extent: LogExtent) -> Self {
        LogBody {
            first_index: extent.first,
            last_index: extent.last,
            committed_index: asked.cluster.status().committed,
            applied_index: asked.cluster.reader().applied().fingerprint.log_index,
            bytes: extent.bytes,
        }
    }
}

/// Which entries are asked for.
struct Wanted {
    from: u64,
    to: u64,
    limit: usize,
    commands: usize,
}

fn number(query: &Query<'_>, name: &'static str, most: u64) -> Result<Option<u64>, Problem> {
    let Some(text) = query.get(name) else { return Ok(None) };
    match text.parse() {
        Ok(number) if number <= most && !text.starts_with('+') => Ok(Some(number)),
        _ => {
            let detail = match most {
                u64::MAX => format!("must be a log index, a whole number, is {text:?}"),
                most => format!("must be an integer from 0 to {most}, is {text:?}"),
            };
            Err(Problem::new(Code::InvalidParameter, detail).at(name))
        }
    }
}

impl Wanted {
    /// Without `from`, the newest ones.
    fn parse(asked: &Asked<'_>, extent: LogExtent) -> Result<Self, Problem> {
        let query = Query::parse(asked.query, &["from", "to", "limit", "commands"])?;
        let limit = query.limit(asked.limits())?;
        let to = number(&query, "to", u64::MAX)?.unwrap_or(extent.last).min(extent.last);
        let newest = to.saturating_add(1).saturating_sub(limit as u64);
        let from = number(&query, "from", u64::MAX)?;
        if let Some(from) = from.filter(|from| *from < extent.first) {
            let (first, last) = (extent.first, extent.last);
            let detail = format!("this node's log has entries {first} to {last}; entry {from} was purged");
            return Err(Problem::new(Code::LogPurged, detail).with("first_index", Extra::Count(first)));
        }
        let commands = number(&query, "commands", MOST_COMMANDS)?.unwrap_or(DEFAULT_COMMANDS);
        let commands = usize::try_from(commands).unwrap_or(usize::MAX);
        Ok(Wanted { from: from.unwrap_or(newest).max(extent.first), to, limit, commands })
    }
}

/// Answers with what is in memory or on disk here, of no level: also what is not committed, and may be taken back.
pub(crate) async fn list(asked: &Asked<'_>) -> Result<Answer, Problem> {
    let reader = asked.cluster.reader().clone();
    let extent = reader.log_extent();
    let Wanted { from, to, limit, commands } = Wanted::parse(asked, extent)?;
    let read = tokio::task::spawn_blocking(move || reader.log_entries(from, to, limit)).await;
    let entries = read.map_err(|_| Problem::new(Code::NotServing, "this node is stopping"))??;
    let log = LogBody::of(asked, extent);
    let next_from = entries.last().map(|entry| entry.index + 1).filter(|next| *next <= to);
    let items = entries.iter().map(|entry| item(entry, &log, commands)).collect();
    let body = EntriesBody { node_id: asked.api.node_id(), log, items, next_from };
    Ok(Answer::json(render::json(&body, 16 << 10)))
}

fn item(entry: &LogEntry, log: &LogBody, commands: usize) -> Value {
    let state = match entry.index {
        index if index <= log.applied_index => "applied",
        index if index <= log.committed_index => "committed",
        _ => "appended",
    };
    let LogEntry { index, term, bytes, contents } = entry;
    let mut item = json!({ "index": index, "term": term, "state": state, "bytes": bytes });
    match contents {
        Contents::Blank => item["kind"] = "blank".into(),
        Contents::Members { voters, members } => {
            item["kind"] = "members".into();
            item["voters"] = json!(voters);
            let member = |(id, member): &(u64, stockroom_storage::type_config::Member)| json!({ "id": id, "peer_address": member.peer_address, "http_address": member.http_address });
            item["members"] = members.iter().map(member).collect();
        }
        Contents::Commands(batch) => {
            item["kind"] = "commands".into();
            of_batch(batch, commands, &mut item);
        }
    }
    item
}

fn of_batch(batch: &Batch, most: usize, item: &mut Value) {
    item["stamped_at"] = timestamp(batch.stamped_at).to_string().into();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for proposal in &batch.proposals {
        *counts.entry(commands::name_of(&proposal.command)).or_default() += 1;
    }
    item["counts"] = json!(counts);
    item["commands"] = batch.proposals.iter().take(most).map(command).collect();
}

fn command(proposal: &Proposal) -> Value {
    let mut shown = Map::new();
    if let Some(key) = &proposal.idempotency_key {
        shown.insert("key".into(), key.as_str().into());
    }
    shown.insert("command".into(), commands::name_of(&proposal.command).into());
    shown.insert("fields".into(), commands::fields_of(&proposal.command));
    Value::Object(shown)
}
