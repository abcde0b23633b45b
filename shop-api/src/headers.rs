//! Headers: their names, and how their values are read.

use crate::codes::Code;
use crate::limits::Limits;
use crate::problem::Problem;
use crate::values;
use axum::http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;
use stockroom_storage::shop::ids::IdempotencyKey;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const TIMEOUT_MS: HeaderName = HeaderName::from_static("stockroom-timeout-ms");
pub(crate) const CONSISTENCY: HeaderName = HeaderName::from_static("stockroom-consistency");
pub(crate) const MAX_STALENESS_MS: HeaderName = HeaderName::from_static("stockroom-max-staleness-ms");
pub(crate) const SESSION: HeaderName = HeaderName::from_static("stockroom-session");
pub(crate) const APPLIED_INDEX: HeaderName = HeaderName::from_static("stockroom-applied-index");
pub(crate) const SERVED_BY: HeaderName = HeaderName::from_static("stockroom-served-by");
pub(crate) const STALENESS_MS: HeaderName = HeaderName::from_static("stockroom-staleness-ms");
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(crate) const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

const LONGEST_REQUEST_ID: usize = 128;

fn wrong(name: &HeaderName, detail: String) -> Problem {
    Problem::new(Code::InvalidHeader, detail).at(name.as_str())
}

/// The one value of a header, as text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(wrong(name, format!("`{name}` may stand once")));
    }
    value.to_str().map(Some).map_err(|_| wrong(name, format!("`{name}` may hold visible ASCII only")))
}

pub(crate) fn integer(headers: &HeaderMap, name: &HeaderName, least: u64) -> Result<Option<u64>, Problem> {
    let Some(text) = text(headers, name)? else { return Ok(None) };
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits && number >= least => Ok(Some(number)),
        _ => Err(wrong(name, format!("`{name}` must be an integer of at least {least}"))),
    }
}

/// The caller's id of this request where it sent a good one, else a new one: it is for finding the
/// request in logs, so a bad one is no reason to refuse.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let good = |value: &&HeaderValue| {
        (1..=LONGEST_REQUEST_ID).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    match headers.get(&REQUEST_ID).filter(good) {
        Some(value) => value.clone(),
        None => HeaderValue::try_from(format!("{:032x}", rand::random::<u128>()))
            .expect("hexadecimal digits are visible ASCII"),
    }
}

/// How long this request may take: the default, or less where it says so.
pub(crate) fn timeout(headers: &HeaderMap, limits: &Limits) -> Result<Duration, Problem> {
    let asked = integer(headers, &TIMEOUT_MS, 1)?;
    Ok(asked.map_or(limits.timeout, |ms| limits.timeout.min(Duration::from_millis(ms))))
}

/// The key that every write needs.
pub(crate) fn idempotency_key(headers: &HeaderMap, limits: &Limits) -> Result<IdempotencyKey, Problem> {
    let invalid = |why: String| Problem::new(Code::InvalidIdempotencyKey, why).at("Idempotency-Key");
    match text(headers, &IDEMPOTENCY_KEY) {
        Ok(Some(key)) => key_from(key, limits).map_err(|problem| invalid(problem.detail().to_owned())),
        Ok(None) => Err(Problem::new(Code::MissingIdempotencyKey, "the request has no `Idempotency-Key`")
            .at("Idempotency-Key")),
        Err(problem) => Err(invalid(problem.detail().to_owned())),
    }
}

pub(crate) fn key_from(text: &str, limits: &Limits) -> Result<IdempotencyKey, Problem> {
    values::name(limits, text, IdempotencyKey::new, || "key".into())
}

/// Which version of an item a write may replace: as `PutItem::expected_version`.
pub(crate) fn precondition(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    match (text(headers, &IF_MATCH)?, text(headers, &IF_NONE_MATCH)?) {
        (None, None) => Ok(None),
        (Some(tag), None) => version(tag).map(Some).ok_or_else(|| {
            wrong(&IF_MATCH, "`If-Match` must be one ETag as an item was answered with, such as \"3\"".into())
        }),
        (None, Some("*")) => Ok(Some(0)),
        (None, Some(_)) => Err(wrong(&IF_NONE_MATCH, "`If-None-Match` of a write may only be *".into())),
        (Some(_), Some(_)) => {
            Err(wrong(&IF_MATCH, "`If-Match` and `If-None-Match` exclude each other here".into()))
        }
    }
}

/// A write that knows no versions must not pretend to have checked one.
pub(crate) fn no_precondition(headers: &HeaderMap) -> Result<(), Problem> {
    for name in [&IF_MATCH, &IF_NONE_MATCH] {
        if headers.contains_key(name) {
            return Err(wrong(name, format!("this call takes no `{name}`")));
        }
    }
    Ok(())
}

fn version(tag: &str) -> Option<u64> {
    let digits = tag.trim().strip_prefix('"')?.strip_suffix('"')?;
    if digits.is_empty() || digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// Whether a read's `If-None-Match` names this version: then 304.
pub(crate) fn none_match(headers: &HeaderMap, actual: u64) -> bool {
    let tags = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    tags.flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || version(tag.strip_prefix("W/").unwrap_or(tag)) == Some(actual))
}

/// 415 unless the body is said to be JSON.
pub(crate) fn content_is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported =
        |detail: String| Err(Problem::new(Code::UnsupportedMediaType, detail).at("Content-Type"));
    if headers.contains_key(CONTENT_ENCODING) {
        return unsupported("a body may not have a `Content-Encoding`".into());
    }
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return unsupported("the request has no `Content-Type`".into());
    };
    if value.as_bytes() == b"application/json" {
        return Ok(());
    }
    let text = value.to_str().unwrap_or_default();
    let (kind, parameters) = text.split_once(';').unwrap_or((text, ""));
    let parameters = parameters.trim().to_ascii_lowercase().replace('"', "");
    if kind.trim().eq_ignore_ascii_case("application/json")
        && matches!(parameters.as_str(), "" | "charset=utf-8")
    {
        return Ok(());
    }
    unsupported(format!("`Content-Type` is {text:?}, must be application/json in UTF-8"))
}

/// Whether `Accept` lets `kind` (such as `application/json`) through.
pub(crate) fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let mut values = headers.get_all(ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return true;
    }
    let main = kind.split_once('/').map_or(kind, |(main, _)| main);
    // The most specific range decides (RFC 9110, section 12.5.1).
    let mut best = (0, false);
    for range in values.filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let rank = match name.strip_suffix("/*") {
            _ if name == kind => 3,
            Some(family) if family == main => 2,
            Some("*") => 1,
            _ => continue,
        };
        let refused = parts.any(|p| p.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()) == Some(0.0));
        if rank > best.0 {
            best = (rank, !refused);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_json_in_utf_8_is_json() {
        for good in ["application/json", "Application/JSON", "application/json; charset=UTF-8"] {
            assert!(content_is_json(&headers(&[(CONTENT_TYPE, good)])).is_ok(), "{good}");
        }
        for bad in ["", "text/plain", "application/jsonx", "application/json; charset=latin1", "text/json"] {
            assert!(content_is_json(&headers(&[(CONTENT_TYPE, bad)])).is_err(), "{bad}");
        }
        assert!(content_is_json(&HeaderMap::new()).is_err());
        let compressed = headers(&[(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "gzip")]);
        assert!(content_is_json(&compressed).is_err());
    }

    #[test]
    fn accept_is_read_as_the_standard_says() {
        let json = |accept| accepts(&headers(&[(ACCEPT, accept)]), "application/json");
        assert!(accepts(&HeaderMap::new(), "application/json"));
        assert!(json("*/*") && json("application/*") && json("text/html, application/json;q=0.1"));
        assert!(!json("text/html") && !json("application/json;q=0, */*") && !json("application/xml"));
    }

    #[test]
    fn a_precondition_is_one_version_or_none() {
        let read = |name: HeaderName, value| precondition(&headers(&[(name, value)])).map_err(|p| p.code());
        assert_eq!(read(IF_MATCH, "\"3\""), Ok(Some(3)));
        assert_eq!(read(IF_NONE_MATCH, "*"), Ok(Some(0)));
        for bad in ["3", "*", "W/\"3\"", "\"1\", \"2\"", "\"\"", "\"0\"", "\"+3\""] {
            assert_eq!(read(IF_MATCH, bad), Err(Code::InvalidHeader), "{bad}");
        }
        assert_eq!(precondition(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn a_time_out_only_shortens() {
        let limits = Limits::default();
        let read = |value| timeout(&headers(&[(TIMEOUT_MS, value)]), &limits).map_err(|p| p.code());
        assert_eq!(read("100"), Ok(Duration::from_millis(100)));
        assert_eq!(read("60000"), Ok(limits.timeout));
        for bad in ["0", "-1", "1.5", "soon", "", "+5"] {
            assert_eq!(read(bad), Err(Code::InvalidHeader), "{bad}");
        }
    }

    #[test]
    fn a_good_request_id_is_taken_and_a_bad_one_replaced() {
        assert_eq!(request_id(&headers(&[(REQUEST_ID, "abc-1")])), "abc-1");
        for bad in ["", "a b", &"x".repeat(129)] {
            let made = request_id(&headers(&[(REQUEST_ID, bad)]));
            assert_eq!(made.len(), 32, "{bad:?}");
        }
    }
}
