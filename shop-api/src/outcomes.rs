//! `/v1/outcomes`: what became of a key.

use crate::answer::Answer;
use crate::codes::Code;
use crate::consistency::{self, Level};
use crate::door::Asked;
use crate::problem::Problem;
use crate::query::Query;
use crate::{headers, render, writes};
use stockroom_storage::codec;
use stockroom_storage::shop::command::Command;
use stockroom_storage::shop::effect::{Kept, Outcome, Rejection, Reply};
use stockroom_storage::shop::ids::IdempotencyKey;

fn key_of(asked: &Asked<'_>) -> Result<IdempotencyKey, Problem> {
    headers::key_from(&asked.target.parameter, asked.limits())
}

fn unknown(key: &IdempotencyKey) -> Problem {
    Problem::new(Code::UnknownKey, format!("nothing is known of the key {key}"))
}

pub(crate) async fn get(asked: &Asked<'_>) -> Result<Answer, Problem> {
    Query::parse(asked.query, &[])?;
    let key = key_of(asked).map_err(|problem| Problem::new(Code::UnknownKey, problem.detail().to_owned()))?;
    look_up(asked, &key, asked.level).await
}

async fn look_up(asked: &Asked<'_>, key: &IdempotencyKey, level: Level) -> Result<Answer, Problem> {
    let (found, shown) = consistency::point(asked.cluster, level, asked.deadline, |view| {
        view.outcome(key)?.ok_or_else(|| unknown(key))
    })
    .await?;
    let (receipt, outcome) = found;
    Ok(Answer::json(body(asked, key, outcome.as_ref(), receipt.place.index)).shown(shown))
}

/// Settles a key. Takes no key of its own: doing it twice changes nothing.
pub(crate) async fn abandon(asked: &Asked<'_>) -> Result<Answer, Problem> {
    headers::no_precondition(asked.headers)?;
    let key = key_of(asked)?;
    let proposal = codec::encode_proposal(None, Command::Abandon(key.clone()));
    let (answer, shown) = writes::propose(asked, proposal, &key).await?;
    let receipt = match answer.outcome {
        Err(rejection) => return Err(Problem::from(&rejection).shown(shown)),
        Ok(Reply::Settled(receipt)) => receipt,
        Ok(other) => {
            tracing::error!(?other, "an abandoned key was answered with something else");
            return Err(Problem::new(
                Code::Internal,
                "the key was settled, but its outcome was not answered",
            ));
        }
    };
    let settled = match receipt.as_deref() {
        None => body(asked, &key, None, answer.log_index),
        Some(receipt) => match &receipt.outcome {
            Kept::Abandoned => body(asked, &key, None, receipt.place.index),
            Kept::Outcome(outcome) => body(asked, &key, Some(outcome), receipt.place.index),
            // The order lies in its own block: look it up, not older than this answer.
            Kept::Placed(_) => {
                let kept = look_up(asked, &key, Level::Session(answer.log_index)).await?;
                return Ok(kept.shown(shown));
            }
        },
    };
    Ok(Answer::json(settled).shown(shown))
}

/// The kept answer; without an outcome, the key was abandoned.
fn body(asked: &Asked<'_>, key: &IdempotencyKey, outcome: Option<&Outcome>, log_index: u64) -> Vec<u8> {
    let (status, kept) = match outcome {
        Some(Ok(reply)) => {
            let decided = writes::decided(reply, log_index);
            (decided.status, decided.body)
        }
        Some(Err(rejection)) => refused(rejection, asked.request_id),
        None => refused(&Rejection::Abandoned, asked.request_id),
    };
    let mut body = Vec::with_capacity(kept.len() + 128);
    body.extend_from_slice(b"{\"key\":");
    body.extend_from_slice(&render::json(&key.as_str(), 64));
    body.extend_from_slice(format!(",\"status\":{status},\"body\":").as_bytes());
    body.extend_from_slice(&kept);
    body.extend_from_slice(format!(",\"log_index\":{log_index}}}").as_bytes());
    body
}

fn refused(rejection: &Rejection, request_id: &str) -> (u16, Vec<u8>) {
    let problem = Problem::from(rejection);
    (problem.status(), problem.body(request_id))
}
