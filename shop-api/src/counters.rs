//! Rates and latencies by call and outcome.

use crate::codes::Code;
use crate::{Call, ROUTES};
use metrics::{Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram};
use std::sync::OnceLock;
use std::time::Duration;

/// Statuses that any answer has; those of [`Code`]s among them.
const STATUSES: [u16; 16] = [200, 201, 304, 400, 404, 405, 406, 409, 413, 415, 422, 429, 500, 503, 504, 507];

/// Handles made once and kept: a look-up by labels with every request would cost more than counting.
/// Labels are names of calls, never paths, so callers cannot make new series.
pub(crate) struct Counters {
    calls: Vec<OfCall>,
    /// Requests that found no route.
    unrouted: OfCall,
    refusals: Vec<OnceLock<Counter>>,
}

#[derive(Default)]
struct OfCall {
    seconds: OnceLock<Histogram>,
    statuses: [OnceLock<Counter>; STATUSES.len()],
}

impl Default for Counters {
    fn default() -> Self {
        describe_counter!("stockroom_http_requests_total", "Requests answered, by call and HTTP status");
        describe_histogram!("stockroom_http_request_seconds", Unit::Seconds, "Time to answer, by call");
        describe_counter!("stockroom_refusals_total", "Errors answered, by code; those within batches, too");
        Counters {
            calls: ROUTES.iter().map(|_| OfCall::default()).collect(),
            unrouted: OfCall::default(),
            refusals: Code::ALL.iter().map(|_| OnceLock::new()).collect(),
        }
    }
}

impl Counters {
    /// Counts one answered request.
    pub fn answered(&self, call: Option<Call>, status: u16, took: Duration) {
        let (of_call, name) = match call {
            Some(call) => (&self.calls[call as usize], call.route().name),
            None => (&self.unrouted, "unrouted"),
        };
        let seconds =
            of_call.seconds.get_or_init(|| histogram!("stockroom_http_request_seconds", "call" => name));
        seconds.record(took.as_secs_f64());
        if let Some(i) = STATUSES.iter().position(|s| *s == status) {
            let make =
                || counter!("stockroom_http_requests_total", "call" => name, "status" => status.to_string());
            of_call.statuses[i].get_or_init(make).increment(1);
        }
    }

    /// Counts one error; a batch may have many.
    pub fn refused(&self, code: Code) {
        let make = || counter!("stockroom_refusals_total", "code" => code.spec().slug);
        self.refusals[code as usize].get_or_init(make).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_status_that_is_counted() {
        for (i, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, i);
            assert!(STATUSES.contains(&code.spec().status), "{code:?}");
        }
    }
}
