//! `/v1/batch`: many writes in one request, independent of each other.

use crate::answer::Answer;
use crate::codes::Code;
use crate::consistency::Shown;
use crate::door::Asked;
use crate::headers::{self, Headers};
use crate::json::{self, Object, Text};
use crate::problem::{Extra, Problem};
use crate::refusals::of_propose;
use crate::routes::{self, Kind};
use crate::{Call, door, writes};
use axum::http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use stockroom_raft::{ProposeError, Served};
use stockroom_storage::codec::{self, ProposalBytes};
use stockroom_storage::shop::ids::IdempotencyKey;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchBody<'a> {
    /// Kept as they are, so that what is wrong with one does not refuse the others.
    #[serde(borrow)]
    commands: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandBody<'a> {
    #[serde(borrow)]
    key: Text<'a>,
    #[serde(borrow)]
    method: Text<'a>,
    #[serde(borrow)]
    path: Text<'a>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// The key alone, for the outcome of a command that is otherwise malformed.
#[derive(Deserialize)]
struct KeyOnly<'a> {
    #[serde(borrow)]
    key: Text<'a>,
}

/// A command of the batch: its key as it came, and what can be proposed or why not.
struct Parsed<'a> {
    key: Option<Cow<'a, str>>,
    proposal: Result<(IdempotencyKey, ProposalBytes), Problem>,
}

pub(crate) async fn submit(asked: &Asked<'_>, body: &[u8]) -> Result<Answer, Problem> {
    headers::no_precondition(asked.headers)?;
    let limits = asked.limits();
    let BatchBody { commands } = json::parse_envelope(body)?;
    if commands.is_empty() {
        return Err(Problem::new(Code::InvalidValue, "must have at least one command").at("commands"));
    }
    if commands.len() > limits.batch_commands {
        let detail = format!("may have {} commands, has {}", limits.batch_commands, commands.len());
        return Err(Problem::new(Code::TooManyCommands, detail)
            .at("commands")
            .with("most", Extra::Count(limits.batch_commands as u64)));
    }
    let mut parsed: Vec<Parsed<'_>> = Vec::with_capacity(commands.len());
    for (i, command) in commands.into_iter().enumerate() {
        breathe(i).await;
        parsed.push(parse(asked, command.get()));
    }
    let proposals = parsed.iter().filter_map(|p| p.proposal.as_ref().ok()).map(|(_, bytes)| bytes.clone());
    let served = asked.cluster.propose_all(proposals.collect(), asked.deadline).await;

    let mut outcomes = Outcomes::new(asked, parsed.len());
    let mut served = served.into_iter();
    for (i, Parsed { key, proposal }) in parsed.into_iter().enumerate() {
        breathe(i).await;
        match proposal {
            Err(problem) => outcomes.refused(key.as_deref(), &problem, false),
            Ok((key, _)) => {
                let served = served.next().unwrap_or_else(|| Err(ProposeError::Unknown("no answer".into())));
                outcomes.add(&key, served);
            }
        }
    }
    Ok(outcomes.finish())
}

/// Lets other requests have their turn: a large batch is a lot of work for one thread.
async fn breathe(done: usize) {
    if done % 64 == 63 {
        tokio::task::yield_now().await;
    }
}

fn parse<'a>(asked: &Asked<'_>, command: &'a str) -> Parsed<'a> {
    let limits = asked.limits();
    // One level more than a body: the command around it.
    let envelope: CommandBody<'a> = match json::parse(command.as_bytes(), limits.json_depth + 1) {
        Ok(envelope) => envelope,
        Err(problem) => {
            let key = serde_json::from_str::<Object<KeyOnly<'a>>>(command).ok().map(|found| found.0.key.0);
            return Parsed { key, proposal: Err(problem) };
        }
    };
    let proposal = propose(asked, &envelope);
    Parsed { key: Some(envelope.key.0), proposal }
}

fn propose(
    asked: &Asked<'_>,
    envelope: &CommandBody<'_>,
) -> Result<(IdempotencyKey, ProposalBytes), Problem> {
    let limits = asked.limits();
    let key = headers::key_from(&envelope.key.0, limits).map_err(|problem| {
        Problem::new(Code::InvalidIdempotencyKey, problem.detail().to_owned()).at("key")
    })?;
    let method: Method = envelope
        .method
        .0
        .parse()
        .map_err(|_| Problem::new(Code::InvalidValue, "must be a method such as POST").at("method"))?;
    let target = routes::resolve(method.as_str(), &envelope.path.0).map_err(|problem| problem.at("path"))?;
    if target.call.route().kind != Kind::Write {
        let detail = format!("{method} {} is not a write that a batch can carry", envelope.path.0);
        return Err(Problem::new(Code::RouteNotFound, detail).at("path"));
    }
    let body = envelope.body.map_or("", RawValue::get);
    let command = writes::command_from(limits, &target, &Headers::default(), body.as_bytes())?;
    let bytes = codec::encode_proposal(Some(key.clone()), command);
    Ok((key, bytes))
}

/// The answer as it grows.
struct Outcomes<'a> {
    asked: &'a Asked<'a>,
    body: Vec<u8>,
    shown: Option<Shown>,
    /// Whether the log tells of a command that failed: the others failed for the same reason.
    noted: bool,
}

impl<'a> Outcomes<'a> {
    fn new(asked: &'a Asked<'a>, count: usize) -> Self {
        let mut body = Vec::with_capacity(32 + 768 * count);
        body.extend_from_slice(b"{\"outcomes\":[");
        Outcomes { asked, body, shown: None, noted: false }
    }

    fn add(&mut self, key: &IdempotencyKey, served: Result<Served, ProposeError>) {
        let Served { answer, node_id } = match served {
            Ok(served) => served,
            Err(error) => return self.refused(Some(key.as_str()), &of_propose(&error, Some(key)), false),
        };
        let newest = self.shown.map_or(0, |shown| shown.log_index).max(answer.log_index);
        self.shown = Some(Shown { log_index: newest, node_id, staleness_ms: None });
        match &answer.outcome {
            Ok(reply) => {
                let decided = writes::decided(reply, answer.log_index);
                self.push(Some(key.as_str()), decided.status, answer.replayed, &decided.body);
            }
            Err(rejection) => self.refused(Some(key.as_str()), &Problem::from(rejection), answer.replayed),
        }
    }

    fn refused(&mut self, key: Option<&str>, problem: &Problem, replayed: bool) {
        self.asked.api.counters().refused(problem.code());
        if matches!(problem.status(), 500 | 504) && !self.noted {
            door::note(problem, self.asked.request_id, Some(Call::Batch));
            self.noted = true;
        }
        self.push(key, problem.status(), replayed, &problem.body(self.asked.request_id));
    }

    fn push(&mut self, key: Option<&str>, status: u16, replayed: bool, body: &[u8]) {
        if self.body.last() == Some(&b'}') {
            self.body.push(b',');
        }
        self.body.extend_from_slice(b"{\"key\":");
        self.body.extend_from_slice(&crate::render::json(&key, 32));
        self.body
            .extend_from_slice(format!(",\"status\":{status},\"replayed\":{replayed},\"body\":").as_bytes());
        self.body.extend_from_slice(body);
        self.body.push(b'}');
    }

    fn finish(mut self) -> Answer {
        self.body.extend_from_slice(b"]}");
        Answer { shown: self.shown, ..Answer::json(self.body) }
    }
}
