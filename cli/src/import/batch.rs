//! `POST /v1/batch`: many commands in one call, each with an outcome of its own.

use crate::{
    client::{Call, Client, interrupted},
    problem::{Exit, Failure, Problem},
};
use serde::Deserialize;
use serde_json::json;
use std::time::{Duration, Instant};

/// What a call may hold, below the server's 8 MiB.
const MAX_BODY_BYTES: usize = 7 << 20;
/// The wait before commands are sent again that the server had no room for.
const WAIT: Duration = Duration::from_millis(200);

/// One write of a batch.
#[derive(Debug, Clone)]
pub struct Command {
    /// Idempotency key.
    pub key: String,
    /// `POST` or `PUT`.
    pub method: &'static str,
    /// From `/v1` on.
    pub path: String,
    /// JSON.
    pub body: String,
}

/// What became of one command: decided, for good.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// HTTP status; below 300 it happened.
    pub status: u16,
    /// The log index named by the answer, where it names one.
    pub log_index: Option<u64>,
    /// Why not, where it did not happen.
    pub problem: Option<Problem>,
}

#[derive(Deserialize)]
struct Outcomes {
    outcomes: Vec<RawOutcome>,
}

#[derive(Deserialize)]
struct RawOutcome {
    key: String,
    status: u16,
    body: Body,
}

/// The few fields of a long answer that an import looks at.
#[derive(Deserialize)]
struct Body {
    log_index: Option<u64>,
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    code: String,
}

/// Sends the commands until each has a decided outcome; the answer is in their order.
///
/// # Errors
/// The outcome of some could not be learnt: nobody answers, or somebody denies. Sending the same
/// commands again is safe.
pub async fn send(
    client: &Client,
    commands: &[Command],
    give_up_after: Duration,
) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes: Vec<Option<Outcome>> = vec![None; commands.len()];
    let mut todo: Vec<Vec<usize>> = fit(commands);
    let mut last_decided = Instant::now();
    while let Some(part) = todo.pop() {
        let decided = match client.call(&Call::post("/v1/batch", encode(commands, &part))).await {
            Ok(answer) => parse(&answer.parse::<Outcomes>()?, commands, &part)
                .map_err(|why| Failure::contract(&answer.endpoint, why))?,
            // The call itself is malformed, and does not say by which command: halve until it is found.
            Err(failure) if matches!(failure.problem.status, 400 | 413 | 422) => {
                if let [one] = part[..] {
                    vec![(one, refused(*failure.problem))]
                } else {
                    let (left, right) = part.split_at(part.len() / 2);
                    todo.extend([left.to_vec(), right.to_vec()]);
                    continue;
                }
            }
            Err(failure) => return Err(failure),
        };
        let mut again = Vec::new();
        for (index, outcome) in decided {
            if matches!(outcome.status, 408 | 429) || outcome.status >= 500 {
                again.push((index, outcome));
            } else {
                last_decided = Instant::now();
                outcomes[index] = Some(outcome);
            }
        }
        if let Some((_, outcome)) = again.last() {
            if client.stopping() {
                return Err(interrupted());
            }
            if last_decided.elapsed() >= give_up_after {
                return Err(undecided(outcome));
            }
            todo.push(again.iter().map(|(index, _)| *index).collect());
            tokio::time::sleep(WAIT).await;
        }
    }
    Ok(outcomes.into_iter().map(|o| o.expect("the loop ends when each command has its outcome")).collect())
}

fn refused(problem: Problem) -> Outcome {
    Outcome { status: problem.status, log_index: None, problem: Some(problem) }
}

fn undecided(outcome: &Outcome) -> Failure {
    let why = outcome.problem.as_ref().map(|p| p.detail.as_str()).unwrap_or_default();
    Failure::local(Exit::Unknown, "outcome_unknown", "Outcome unknown", format!("{}: {why}", outcome.status))
        .step("run the same command again: nothing is done twice")
}

/// Parts of at most [`MAX_BODY_BYTES`].
fn fit(commands: &[Command]) -> Vec<Vec<usize>> {
    let mut parts: Vec<Vec<usize>> = Vec::new();
    let mut bytes = usize::MAX;
    for (index, command) in commands.iter().enumerate() {
        let more = command.body.len() + command.path.len() + command.key.len() + 64;
        if bytes.saturating_add(more) > MAX_BODY_BYTES {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        parts.last_mut().expect("the first command opens a part").push(index);
    }
    parts
}

fn encode(commands: &[Command], part: &[usize]) -> Vec<u8> {
    let mut out = String::from("{\"commands\":[");
    for (i, index) in part.iter().enumerate() {
        let Command { key, method, path, body } = &commands[*index];
        let comma = if i == 0 { "" } else { "," };
        let (key, path) = (json!(key), json!(path));
        out.push_str(&format!(
            "{comma}{{\"key\":{key},\"method\":\"{method}\",\"path\":{path},\"body\":{body}}}"
        ));
    }
    out.push_str("]}");
    out.into_bytes()
}

fn parse(answer: &Outcomes, commands: &[Command], part: &[usize]) -> Result<Vec<(usize, Outcome)>, String> {
    if answer.outcomes.len() != part.len() {
        return Err(format!("{} outcomes for {} commands", answer.outcomes.len(), part.len()));
    }
    let pairs = answer.outcomes.iter().zip(part);
    pairs
        .map(|(raw, index)| {
            if raw.key != commands[*index].key {
                return Err(format!(
                    "the outcome of {:?} where that of {:?} belongs",
                    raw.key, commands[*index].key
                ));
            }
            Ok((*index, raw.outcome()))
        })
        .collect()
}

impl RawOutcome {
    fn outcome(&self) -> Outcome {
        let problem = (self.status >= 300).then(|| {
            let Body { title, detail, code, .. } = &self.body;
            let mut problem = *Failure::local(Exit::Error, code, title, detail.clone()).problem;
            problem.status = self.status;
            problem
        });
        Outcome { status: self.status, log_index: self.body.log_index, problem }
    }
}
