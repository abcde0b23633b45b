//! Headers: their names, and how their values are read.

use crate::codes::Code;
use crate::limits::Limits;
use crate::problem::Problem;
use crate::values;
use axum::http::HeaderMap;
use std::fmt;
use std::time::Duration;
use stockroom_storage::shop::ids::IdempotencyKey;

const LONGEST_REQUEST_ID: usize = 128;

/// Makes [`Name`] of one table.
macro_rules! names {
    ($($name:ident $text:literal)*) => {
        /// The headers of requests that mean something here.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Name { $($name),* }

        impl Name {
            const ALL: &'static [(Name, &'static str)] = &[$((Name::$name, $text)),*];

            /// In lower case, as errors name it.
            pub fn as_str(self) -> &'static str {
                Name::ALL[self as usize].1
            }
        }
    };
}

names! {
    Accept "accept"
    AcceptEncoding "accept-encoding"
    Consistency "stockroom-consistency"
    ContentEncoding "content-encoding"
    ContentType "content-type"
    IdempotencyKey "idempotency-key"
    IfMatch "if-match"
    IfNoneMatch "if-none-match"
    MaxStalenessMs "stockroom-max-staleness-ms"
    RequestId "x-request-id"
    Session "stockroom-session"
    TimeoutMs "stockroom-timeout-ms"
}

impl Name {
    fn find(text: &str) -> Option<Self> {
        let same = |known: &str| known.len() == text.len() && known.eq_ignore_ascii_case(text);
        Name::ALL.iter().find(|(_, known)| same(known)).map(|(name, _)| *name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a request says in its headers, whoever read it from the wire. Those that mean nothing here are
/// left out, so that no map has to be built of them.
#[derive(Debug, Default)]
pub(crate) struct Headers<'a>(Vec<(Name, &'a [u8])>);

impl<'a> FromIterator<(&'a str, &'a [u8])> for Headers<'a> {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a [u8])>>(headers: I) -> Self {
        let known = |(name, value)| Some((Name::find(name)?, value));
        Headers(headers.into_iter().filter_map(known).collect())
    }
}

impl<'a> From<&'a HeaderMap> for Headers<'a> {
    fn from(map: &'a HeaderMap) -> Self {
        map.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
    }
}

impl<'a> Headers<'a> {
    fn all(&self, name: Name) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |(of, _)| *of == name).map(|(_, value)| *value)
    }

    fn has(&self, name: Name) -> bool {
        self.all(name).next().is_some()
    }

    /// The elements of a list, which may stand in one header or in several.
    pub fn list(&self, name: Name) -> impl Iterator<Item = &'a str> {
        self.all(name).filter_map(visible).flat_map(|list| list.split(',')).map(str::trim)
    }
}

/// A value as text, if it is nothing but visible ASCII and blanks.
fn visible(value: &[u8]) -> Option<&str> {
    let good = value.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    if good { std::str::from_utf8(value).ok() } else { None }
}

fn wrong(name: Name, detail: String) -> Problem {
    Problem::new(Code::InvalidHeader, detail).at(name.as_str())
}

/// The one value of a header, as text.
pub(crate) fn text<'a>(headers: &Headers<'a>, name: Name) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.all(name);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(wrong(name, format!("`{name}` may stand once")));
    }
    visible(value).map(Some).ok_or_else(|| wrong(name, format!("`{name}` may hold visible ASCII only")))
}

pub(crate) fn integer(headers: &Headers<'_>, name: Name, least: u64) -> Result<Option<u64>, Problem> {
    let Some(text) = text(headers, name)? else { return Ok(None) };
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits && number >= least => Ok(Some(number)),
        _ => Err(wrong(name, format!("`{name}` must be an integer of at least {least}"))),
    }
}

/// For finding a request in logs.
#[derive(Debug)]
pub(crate) enum RequestId<'a> {
    Given(&'a str),
    Made([u8; 32]),
}

impl<'a> RequestId<'a> {
    /// The caller's where it sent a good one, else a new one: a bad one is no reason to refuse.
    pub fn of(headers: &Headers<'a>) -> Self {
        let good = |value: &&[u8]| {
            (1..=LONGEST_REQUEST_ID).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
        };
        match headers.all(Name::RequestId).next().filter(good).and_then(visible) {
            Some(given) => RequestId::Given(given),
            None => RequestId::made(rand::random()),
        }
    }

    fn made(random: u128) -> Self {
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(random.to_be_bytes()) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        RequestId::Made(digits)
    }

    pub fn as_str(&self) -> &str {
        match self {
            RequestId::Given(given) => given,
            RequestId::Made(digits) => std::str::from_utf8(digits).expect("hexadecimal digits are ASCII"),
        }
    }
}

/// How long this request may take: the default, or less where it says so.
pub(crate) fn timeout(headers: &Headers<'_>, limits: &Limits) -> Result<Duration, Problem> {
    let asked = integer(headers, Name::TimeoutMs, 1)?;
    Ok(asked.map_or(limits.timeout, |ms| limits.timeout.min(Duration::from_millis(ms))))
}

/// The key that every write needs.
pub(crate) fn idempotency_key(headers: &Headers<'_>, limits: &Limits) -> Result<IdempotencyKey, Problem> {
    let invalid = |why: String| Problem::new(Code::InvalidIdempotencyKey, why).at("Idempotency-Key");
    match text(headers, Name::IdempotencyKey) {
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
pub(crate) fn precondition(headers: &Headers<'_>) -> Result<Option<u64>, Problem> {
    match (text(headers, Name::IfMatch)?, text(headers, Name::IfNoneMatch)?) {
        (None, None) => Ok(None),
        (Some(tag), None) => version(tag).map(Some).ok_or_else(|| {
            wrong(
                Name::IfMatch,
                "`If-Match` must be one ETag as an item was answered with, such as \"3\"".into(),
            )
        }),
        (None, Some("*")) => Ok(Some(0)),
        (None, Some(_)) => Err(wrong(Name::IfNoneMatch, "`If-None-Match` of a write may only be *".into())),
        (Some(_), Some(_)) => {
            Err(wrong(Name::IfMatch, "`If-Match` and `If-None-Match` exclude each other here".into()))
        }
    }
}

/// A write that knows no versions must not pretend to have checked one.
pub(crate) fn no_precondition(headers: &Headers<'_>) -> Result<(), Problem> {
    for name in [Name::IfMatch, Name::IfNoneMatch] {
        if headers.has(name) {
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
pub(crate) fn none_match(headers: &Headers<'_>, actual: u64) -> bool {
    headers
        .list(Name::IfNoneMatch)
        .any(|tag| tag == "*" || version(tag.strip_prefix("W/").unwrap_or(tag)) == Some(actual))
}

/// 415 unless the body is said to be JSON.
pub(crate) fn content_is_json(headers: &Headers<'_>) -> Result<(), Problem> {
    let unsupported =
        |detail: String| Err(Problem::new(Code::UnsupportedMediaType, detail).at("Content-Type"));
    if headers.has(Name::ContentEncoding) {
        return unsupported("a body may not have a `Content-Encoding`".into());
    }
    let Some(value) = headers.all(Name::ContentType).next() else {
        return unsupported("the request has no `Content-Type`".into());
    };
    if value == b"application/json" {
        return Ok(());
    }
    let text = visible(value).unwrap_or_default();
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
pub(crate) fn accepts(headers: &Headers<'_>, kind: &str) -> bool {
    if !headers.has(Name::Accept) {
        return true;
    }
    let main = kind.split_once('/').map_or(kind, |(main, _)| main);
    // The most specific range decides (RFC 9110, section 12.5.1).
    let mut best = (0, false);
    for range in headers.list(Name::Accept) {
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

    fn headers<'a>(pairs: &[(Name, &'a str)]) -> Headers<'a> {
        Headers(pairs.iter().map(|(name, value)| (*name, value.as_bytes())).collect())
    }

    #[test]
    fn a_name_is_found_in_any_case_and_others_mean_nothing() {
        for (name, text) in Name::ALL {
            assert_eq!((Name::find(text), Name::find(&text.to_uppercase())), (Some(*name), Some(*name)));
            assert_eq!(name.as_str(), *text);
        }
        assert_eq!((Name::find("host"), Name::find("")), (None, None));
    }

    #[test]
    fn a_header_may_stand_once_and_hold_visible_ascii() {
        let read = |values: &[&str]| {
            let pairs: Vec<_> = values.iter().map(|value| (Name::Session, *value)).collect();
            text(&headers(&pairs), Name::Session).map(|text| text.map(str::to_owned)).map_err(|p| p.code())
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["a b"]), Ok(Some("a b".into())));
        for bad in [&["a", "b"][..], &["a", "a"], &["k\u{e4}se"], &["a\u{7f}"]] {
            assert_eq!(read(bad), Err(Code::InvalidHeader), "{bad:?}");
        }
    }

    #[test]
    fn only_json_in_utf_8_is_json() {
        for good in ["application/json", "Application/JSON", "application/json; charset=UTF-8"] {
            assert!(content_is_json(&headers(&[(Name::ContentType, good)])).is_ok(), "{good}");
        }
        for bad in ["", "text/plain", "application/jsonx", "application/json; charset=latin1", "text/json"] {
            assert!(content_is_json(&headers(&[(Name::ContentType, bad)])).is_err(), "{bad}");
        }
        assert!(content_is_json(&Headers::default()).is_err());
        let compressed = headers(&[(Name::ContentType, "application/json"), (Name::ContentEncoding, "gzip")]);
        assert!(content_is_json(&compressed).is_err());
    }

    #[test]
    fn accept_is_read_as_the_standard_says() {
        let json = |accept| accepts(&headers(&[(Name::Accept, accept)]), "application/json");
        assert!(accepts(&Headers::default(), "application/json"));
        assert!(json("*/*") && json("application/*") && json("text/html, application/json;q=0.1"));
        assert!(!json("text/html") && !json("application/json;q=0, */*") && !json("application/xml"));
    }

    #[test]
    fn a_precondition_is_one_version_or_none() {
        let read = |name: Name, value| precondition(&headers(&[(name, value)])).map_err(|p| p.code());
        assert_eq!(read(Name::IfMatch, "\"3\""), Ok(Some(3)));
        assert_eq!(read(Name::IfNoneMatch, "*"), Ok(Some(0)));
        for bad in ["3", "*", "W/\"3\"", "\"1\", \"2\"", "\"\"", "\"0\"", "\"+3\""] {
            assert_eq!(read(Name::IfMatch, bad), Err(Code::InvalidHeader), "{bad}");
        }
        assert_eq!(precondition(&Headers::default()).unwrap(), None);
    }

    #[test]
    fn a_time_out_only_shortens() {
        let limits = Limits::default();
        let read = |value| timeout(&headers(&[(Name::TimeoutMs, value)]), &limits).map_err(|p| p.code());
        assert_eq!(read("100"), Ok(Duration::from_millis(100)));
        assert_eq!(read("60000"), Ok(limits.timeout));
        for bad in ["0", "-1", "1.5", "soon", "", "+5"] {
            assert_eq!(read(bad), Err(Code::InvalidHeader), "{bad}");
        }
    }

    #[test]
    fn a_good_request_id_is_taken_and_a_bad_one_replaced() {
        assert_eq!(RequestId::of(&headers(&[(Name::RequestId, "abc-1")])).as_str(), "abc-1");
        assert_eq!(RequestId::made(0xfe << 120 | 0x1).as_str(), "fe000000000000000000000000000001");
        for bad in ["", "a b", &"x".repeat(129)] {
            let made = headers(&[(Name::RequestId, bad)]);
            assert_eq!(RequestId::of(&made).as_str().len(), 32, "{bad:?}");
        }
    }
}
