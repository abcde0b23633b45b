//! The one table from what the other crates say no with to what is answered.

use crate::codes::Code;
use crate::problem::{Extra, Problem};
use crate::render::{order_status, reservation_status, segment, timestamp};
use stockroom_raft::{ProposeError, ReadError};
use stockroom_storage::error::StorageError;
use stockroom_storage::shop::effect::Rejection;
use stockroom_storage::shop::ids::{IdempotencyKey, Sku};

impl From<&Rejection> for Problem {
    fn from(rejection: &Rejection) -> Self {
        let problem = Problem::new(code_of(rejection), detail_of(rejection));
        match rejection {
            Rejection::UnknownSku(skus) | Rejection::Retired(skus) => problem.with("skus", texts(skus)),
            Rejection::OutOfStock(shortages) => {
                problem.with("shortages", Extra::Shortages(shortages.clone()))
            }
            Rejection::OrderWrongState { order, status, allowed } => problem
                .with("order", Extra::Text(order.to_string()))
                .with("state", Extra::Text(order_status(*status).into()))
                .with("allowed", Extra::Texts(allowed.iter().map(|s| order_status(*s).into()).collect())),
            Rejection::ReservationWrongState { reservation, status } => problem
                .with("reservation", Extra::Text(reservation.to_string()))
                .with("state", Extra::Text(reservation_status(*status).into()))
                .with("allowed", Extra::Texts(vec!["held".into()])),
            Rejection::IdTaken(id) => problem.with("id", Extra::Text(id.clone())),
            Rejection::VersionDiffers { expected, actual }
            | Rejection::OnHandDiffers { expected, actual } => {
                problem.with("expected", Extra::Count(*expected)).with("actual", Extra::Count(*actual))
            }
            Rejection::BelowPromised { on_hand, delta, promised } => problem
                .with("on_hand", Extra::Count(*on_hand))
                .with("delta", Extra::Change(*delta))
                .with("promised", Extra::Count(*promised)),
            Rejection::TooMuch { most, asked, .. } => {
                problem.with("most", Extra::Count(*most)).with("asked", Extra::Count(*asked))
            }
            Rejection::NoSuchLine { sku, location } => problem
                .with("sku", Extra::Text(sku.to_string()))
                .with("location", Extra::Text(location.to_string())),
            Rejection::TooLate(at) => problem.with("deadline", Extra::Text(timestamp(*at).to_string())),
            Rejection::TooMuchMetadata(most) => problem.with("most", Extra::Count(u64::from(*most))),
            Rejection::ItemNotFound(_)
            | Rejection::OrderNotFound(_)
            | Rejection::ReservationNotFound(_)
            | Rejection::KeyReused
            | Rejection::Abandoned
            | Rejection::MixedCurrency
            | Rejection::OutOfRange(_)
            | Rejection::SameLocation
            | Rejection::NothingLeft(_) => problem,
        }
    }
}

fn code_of(rejection: &Rejection) -> Code {
    match rejection {
        Rejection::ItemNotFound(_) => Code::ItemNotFound,
        Rejection::OrderNotFound(_) => Code::OrderNotFound,
        Rejection::ReservationNotFound(_) => Code::ReservationNotFound,
        Rejection::UnknownSku(_) => Code::UnknownSku,
        Rejection::Retired(_) => Code::ItemRetired,
        Rejection::OutOfStock(_) => Code::OutOfStock,
        Rejection::OrderWrongState { .. } | Rejection::ReservationWrongState { .. } => Code::WrongState,
        Rejection::IdTaken(_) => Code::IdTaken,
        Rejection::KeyReused => Code::KeyReused,
        Rejection::Abandoned => Code::Abandoned,
        Rejection::VersionDiffers { .. } => Code::VersionDiffers,
        Rejection::OnHandDiffers { .. } => Code::OnHandDiffers,
        Rejection::BelowPromised { .. } => Code::BelowPromised,
        Rejection::TooMuch { .. } => Code::TooMuch,
        Rejection::NoSuchLine { .. } => Code::NoSuchLine,
        Rejection::MixedCurrency => Code::MixedCurrency,
        Rejection::OutOfRange(_) => Code::OutOfRange,
        Rejection::SameLocation => Code::SameLocation,
        Rejection::TooLate(_) => Code::TooLate,
        Rejection::TooMuchMetadata(_) => Code::TooMuchMetadata,
        Rejection::NothingLeft(_) => Code::NothingLeft,
    }
}

/// The shop's own words, but for what it prints as Rust names.
fn detail_of(rejection: &Rejection) -> String {
    match rejection {
        Rejection::OrderWrongState { order, status, .. } => {
            format!("order {order} is {}", order_status(*status))
        }
        Rejection::ReservationWrongState { reservation, status } => {
            format!("reservation {reservation} is {}", reservation_status(*status))
        }
        Rejection::TooLate(at) => format!("the time {} is over", timestamp(*at)),
        other => other.to_string(),
    }
}

pub(crate) fn texts(skus: &[Sku]) -> Extra {
    Extra::Texts(skus.iter().map(Sku::to_string).collect())
}

/// No answer to a write; `key` is named in what to do next.
pub(crate) fn of_propose(error: &ProposeError, key: Option<&IdempotencyKey>) -> Problem {
    let problem = |code| Problem::new(code, error.to_string());
    match error {
        ProposeError::NoLeader => problem(Code::NoLeader),
        ProposeError::Overloaded { retry_after, .. } => problem(Code::Overloaded).retry_after(*retry_after),
        ProposeError::TimedOutBefore => problem(Code::DeadlineExceeded),
        ProposeError::TooLarge { bytes, most } => problem(Code::ProposalTooLarge)
            .with("most", Extra::Count(*most as u64))
            .with("asked", Extra::Count(*bytes as u64)),
        ProposeError::NotServing(_) => problem(Code::NotServing),
        ProposeError::Unknown(_) => {
            let problem = problem(Code::OutcomeUnknown);
            let Some(key) = key else { return problem };
            let key = segment(key.as_str());
            problem
                .then(format!(
                    "Or ask: GET /v1/outcomes/{key}. A 404 there settles nothing, as the write may still commit."
                ))
                .then(format!(
                    "Or settle it: POST /v1/outcomes/{key}/abandon answers the outcome, or makes sure that the write never happens."
                ))
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let detail = error.to_string();
        match error {
            ReadError::NoLeader => Problem::new(Code::NoLeader, detail),
            ReadError::Behind { applied, needed } => Problem::new(Code::Behind, detail)
                .with("applied_index", Extra::Count(applied))
                .with("needed_index", Extra::Count(needed)),
            ReadError::NotServing(_) => Problem::new(Code::NotServing, detail),
        }
    }
}

/// The node is about to stop; the file and offset stand in its log, not in an answer.
impl From<StorageError> for Problem {
    fn from(error: StorageError) -> Self {
        tracing::error!(%error, "state cannot be read");
        Problem::new(Code::StorageFailed, "this node cannot read its state")
    }
}
