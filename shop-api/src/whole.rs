//! The short way in and out, for a server that reads HTTP/1.1 itself: a request that is whole in memory
//! becomes an answer's bytes. It is the same door; only the maps, boxes and streams around it are left out.

use crate::api::Api;
use crate::door::{self, Arrived, Incoming};
use crate::headers::Headers;
use crate::routes::{self, Kind, Target};
use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

/// A request that has arrived whole, but for its body, which comes with [`Api::answer`].
#[derive(Debug)]
pub struct WholeRequest<'a> {
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    target: Target<'a>,
    headers: Headers<'a>,
}

impl<'a> WholeRequest<'a> {
    /// `None` where only the router takes it: paths without a call, and calls whose answer is streamed or
    /// is no part of the shop. Nor does this take HEAD, whose answers end with their head. `target` is path and query as they came.
    pub fn new(
        method: &'a str,
        target: &'a str,
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Option<Self> {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        if method == "HEAD" {
            return None;
        }
        let target = routes::resolve(method, path).ok()?;
        match target.call.route().kind {
            Kind::Write | Kind::Batch | Kind::Settle | Kind::Read => {}
            Kind::Admin | Kind::Local | Kind::Root => return None,
        }
        Some(WholeRequest { method, path, query, target, headers: headers.into_iter().collect() })
    }
}

impl Api {
    /// Answers a request with a body: a whole HTTP/1.1 answer, behind what is in `out` already.
    pub async fn answer(&self, request: WholeRequest<'_>, body: &[u8], out: &mut Vec<u8>) {
        let WholeRequest { method, path, query, target, headers } = request;
        let body = Incoming::Whole(body);
        let arrived = Arrived { method, path, query, target: Ok(target), headers, body };
        let response = door::respond(self, arrived).await;
        with_date(|date| response.write(date, out)).expect("only calls outside of the shop answer a stream");
    }
}

/// Hands over the time as the header `Date` has it, which changes once a second.
fn with_date<T>(then: impl FnOnce(&str) -> T) -> T {
    thread_local! {
        static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(second, text)| {
        if *second != now || text.is_empty() {
            (*second, *text) = (now, date(now));
        }
        then(text)
    })
}

/// As RFC 9110 wants it: `Tue, 15 Nov 1994 08:12:31 GMT`.
fn date(unix_seconds: u64) -> String {
    let second =
        i64::try_from(unix_seconds).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
    jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&second.unwrap_or(jiff::Timestamp::UNIX_EPOCH))
        .expect("years of four digits can be printed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_as_the_standard_has_it() {
        assert_eq!(date(784_887_151), "Tue, 15 Nov 1994 08:12:31 GMT");
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        with_date(|date| assert!(date.ends_with(" GMT") && date.len() == 29, "{date}"));
    }

    #[test]
    fn only_calls_of_the_shop_are_taken() {
        let takes = |method, target| WholeRequest::new(method, target, []).is_some();
        assert!(takes("POST", "/v1/orders") && takes("GET", "/v1/stock/a?x") && takes("POST", "/v1/batch"));
        for (method, target) in [
            ("GET", "/metrics"),
            ("GET", "/v1/cluster"),
            ("POST", "/v1/audit"),
            ("GET", "/v1/nothing"),
            ("DELETE", "/v1/orders"),
            ("HEAD", "/v1/stock/a"),
        ] {
            assert!(!takes(method, target), "{method} {target}");
        }
    }
}
