//! The one table from what the other crates say no with to what is answered.

use crate::codes::Code;
use crate::problem::{Extra, Problem};
use crate::render::{order_status, reservation_status, segment, timestamp};
use std::time::Duration;
use stockroom_raft::{ProposeError, ReadError};
use stockroom_storage::error::StorageError;
use stockroom_storage::shop::effect::Rejection;
use stockroom_storage::shop::ids::{IdempotencyKey, Sku};
use stockroom_storage::shop::order::REFERENCES;

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
            | Rejection::NothingLeft(_)
            | Rejection::NotInForce(_) => problem,
            Rejection::EntryFull => problem.retry_after(NEXT_ENTRY),
        }
    }
}

/// The next entry leaves as soon as this one is applied; what made it full may come again.
const NEXT_ENTRY: Duration = Duration::from_secs(1);

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
        Rejection::TooMuch { what, .. } if what == REFERENCES => Code::TooManyReferences,
        Rejection::TooMuch { .. } => Code::TooMuch,
        Rejection::NoSuchLine { .. } => Code::NoSuchLine,
        Rejection::MixedCurrency => Code::MixedCurrency,
        Rejection::OutOfRange(_) => Code::OutOfRange,
        Rejection::SameLocation => Code::SameLocation,
        Rejection::TooLate(_) => Code::TooLate,
        Rejection::TooMuchMetadata(_) => Code::TooMuchMetadata,
        Rejection::NothingLeft(_) => Code::NothingLeft,
        Rejection::NotInForce(_) => Code::NotInForce,
        Rejection::EntryFull => Code::Overloaded,
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
        ProposeError::DiskFull { nodes } => {
            let nodes = nodes.iter().map(|id| (*id).into()).collect();
            problem(Code::DiskFull).with("nodes", Extra::Json(serde_json::Value::Array(nodes)))
        }
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
        if error.is_no_room() {
            tracing::warn!(%error, "refused for want of room");
            return Problem::new(
                Code::NoRoom,
                "a snapshot file or a checkpoint has no room on this node's disk",
            );
        }
        tracing::error!(%error, "state cannot be read");
        Problem::new(Code::StorageFailed, "this node cannot read its state")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::time::Duration;
    use stockroom_storage::shop::effect::Shortage;
    use stockroom_storage::shop::ids::{Location, TimestampMs};
    use stockroom_storage::shop::version::ClusterVersion;

    /// Status, whether definite, seconds of `Retry-After`, and the body.
    fn shown(problem: &Problem) -> (u16, bool, Option<u64>, Value) {
        let body: Value = serde_json::from_slice(&problem.body("r-1")).unwrap();
        assert_eq!(body["status"], problem.status());
        (problem.status(), body["definite"].as_bool().unwrap(), problem.retry_after_seconds(), body)
    }

    #[test]
    fn everything_before_proposing_is_definite_and_everything_after_is_not() {
        let key = IdempotencyKey::new("a/b").unwrap();
        let overloaded =
            ProposeError::Overloaded { what: "proposals", retry_after: Duration::from_millis(1_001) };
        for (error, status, code, retry_after) in [
            (ProposeError::NoLeader, 503, "no_leader", Some(1)),
            (overloaded, 503, "overloaded", Some(2)),
            (ProposeError::TimedOutBefore, 503, "deadline_exceeded", Some(1)),
            (ProposeError::NotServing("stopping".into()), 503, "not_serving", Some(1)),
            (ProposeError::TooLarge { bytes: 9, most: 5 }, 413, "proposal_too_large", None),
            (ProposeError::DiskFull { nodes: vec![2, 3] }, 507, "disk_full", Some(5)),
        ] {
            let (shown_status, definite, seconds, body) = shown(&of_propose(&error, Some(&key)));
            assert_eq!((shown_status, definite, seconds), (status, true, retry_after), "{error}");
            assert_eq!(body["code"], code);
        }
        let unknown = of_propose(&ProposeError::Unknown("the stream was lost".into()), Some(&key));
        let (status, definite, seconds, body) = shown(&unknown);
        assert_eq!((status, definite, seconds), (504, false, None));
        assert_eq!((&body["code"], &body["retryable"]), (&json!("outcome_unknown"), &json!(true)));
        let steps = body["next_steps"].to_string();
        assert!(
            steps.contains("GET /v1/outcomes/a%2Fb.") && steps.contains("POST /v1/outcomes/a%2Fb/abandon")
        );
    }

    #[test]
    fn reads_that_cannot_be_answered_now_say_so() {
        let behind = shown(&Problem::from(ReadError::Behind { applied: 3, needed: 5 })).3;
        assert_eq!((&behind["applied_index"], &behind["needed_index"]), (&json!(3), &json!(5)));
        for error in [
            ReadError::NoLeader,
            ReadError::Behind { applied: 3, needed: 5 },
            ReadError::NotServing("x".into()),
        ] {
            let (status, definite, seconds, _) = shown(&Problem::from(error));
            assert_eq!((status, definite, seconds), (503, true, Some(1)));
        }
        let failed = Problem::from(StorageError::Format("unknown format byte 9 of /data/x".into()));
        let (status, .., body) = shown(&failed);
        assert_eq!((status, &body["code"]), (500, &json!("storage_failed")));
        assert!(!body.to_string().contains("/data"), "no file names for callers: {body}");
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let (status, definite, seconds, body) =
            shown(&Problem::from(StorageError::io("writing /data/x", &full)));
        assert_eq!((status, definite, seconds, &body["code"]), (507, true, Some(5), &json!("no_room")));
    }

    #[test]
    fn every_rejection_has_a_status_and_what_the_case_needs() {
        let sku = |text| Sku::new(text).unwrap();
        let location = Location::main();
        let shortage = Shortage { sku: sku("a"), location: location.clone(), requested: 5, available: 3 };
        let shortages = json!([{"sku": "a", "location": "main", "requested": 5, "available": 3}]);
        let cases = [
            (Rejection::ItemNotFound(sku("a")), 404, "item_not_found", json!({})),
            (
                Rejection::UnknownSku(vec![sku("a"), sku("b")]),
                422,
                "unknown_sku",
                json!({"skus": ["a", "b"]}),
            ),
            (Rejection::Retired(vec![sku("a")]), 409, "item_retired", json!({"skus": ["a"]})),
            (Rejection::OutOfStock(vec![shortage]), 409, "out_of_stock", json!({"shortages": shortages})),
            (Rejection::KeyReused, 422, "key_reused", json!({})),
            (Rejection::Abandoned, 409, "abandoned", json!({})),
            (
                Rejection::BelowPromised { on_hand: 5, delta: -3, promised: 4 },
                409,
                "below_promised",
                json!({"on_hand": 5, "delta": -3, "promised": 4}),
            ),
            (
                Rejection::TooMuch { what: "amount to pay".into(), most: 1, asked: 2 },
                422,
                "too_much",
                json!({"most": 1, "asked": 2}),
            ),
            (
                Rejection::TooLate(TimestampMs(0)),
                422,
                "too_late",
                json!({"deadline": "1970-01-01T00:00:00.000Z"}),
            ),
            (Rejection::NothingLeft("amount".into()), 409, "nothing_left", json!({})),
            (Rejection::NotInForce(ClusterVersion(1)), 409, "not_in_force", json!({})),
            (Rejection::EntryFull, 503, "overloaded", json!({})),
        ];
        for (rejection, status, code, extras) in cases {
            let (shown_status, definite, _, body) = shown(&Problem::from(&rejection));
            assert_eq!(
                (shown_status, definite, &body["code"]),
                (status, true, &json!(code)),
                "{rejection:?}"
            );
            for (name, extra) in extras.as_object().unwrap() {
                assert_eq!(&body[name], extra, "{rejection:?}");
            }
        }
    }
}
