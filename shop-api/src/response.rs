//! An answer as it goes out. Two ways lead to the wire, hyper's and that of `whole.rs`; both take status, headers
//! and body from here, so that they cannot disagree.

use crate::answer::{Answer, Body};
use crate::api::Api;
use crate::consistency::{self, SessionToken, Shown};
use crate::headers::RequestId;
use crate::problem::Problem;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::io::Write as _;

/// A header's value.
pub(crate) enum Value<'a> {
    Text(&'a str),
    Number(u64),
}

/// Everything about an answer but who writes it.
pub(crate) struct Response<'a> {
    request_id: RequestId<'a>,
    status: StatusCode,
    content_type: &'static str,
    body: Body,
    etag: Option<u64>,
    location: Option<String>,
    gzip: bool,
    retry_after: Option<u64>,
    allow: Option<String>,
    replayed: bool,
    close: bool,
    served_by: u64,
    /// Of a member: the entry that is shown, and what the caller has seen with it.
    seen: Option<(u64, SessionToken)>,
    staleness_ms: Option<u64>,
}

impl<'a> Response<'a> {
    /// `seen` is the log index of the session token that came along.
    pub fn new(
        result: Result<Answer, Problem>,
        request_id: RequestId<'a>,
        api: &Api,
        seen: Option<u64>,
    ) -> Self {
        match result {
            Ok(answer) => Response {
                content_type: answer.content_type,
                etag: answer.etag,
                location: answer.location,
                gzip: answer.gzip,
                ..Response::bare(
                    request_id,
                    answer.status,
                    answer.body,
                    api,
                    seen,
                    answer.shown,
                    answer.replayed,
                )
            },
            Err(problem) => {
                let body = problem.body(request_id.as_str()).into();
                let (status, shown) = (problem.status(), problem.shows());
                Response {
                    content_type: "application/problem+json",
                    retry_after: problem.retry_after_seconds(),
                    allow: problem.allowed_methods().map(str::to_owned),
                    ..Response::bare(request_id, status, body, api, seen, shown, problem.is_replayed())
                }
            }
        }
    }

    /// What every answer says.
    fn bare(
        request_id: RequestId<'a>,
        status: u16,
        body: Body,
        api: &Api,
        seen: Option<u64>,
        shown: Option<Shown>,
        replayed: bool,
    ) -> Self {
        let seen = api.serving().map(|serving| {
            let index = match shown {
                Some(shown) => shown.log_index,
                None => serving.cluster.reader().applied().fingerprint.log_index,
            };
            (index, consistency::print_session(serving.cluster_id, index.max(seen.unwrap_or(0))))
        });
        Response {
            request_id,
            status: StatusCode::from_u16(status).expect("our statuses are valid"),
            content_type: "",
            body,
            etag: None,
            location: None,
            gzip: false,
            retry_after: None,
            allow: None,
            replayed,
            close: api.is_draining(),
            served_by: shown.map_or(api.node_id(), |shown| shown.node_id),
            seen,
            staleness_ms: shown.and_then(|shown| shown.staleness_ms),
        }
    }

    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    pub fn request_id(&self) -> &str {
        self.request_id.as_str()
    }

    /// Names every header but those of the transport: date, length, connection.
    fn headers(&self, mut put: impl FnMut(&'static str, Value<'_>)) {
        use Value::{Number, Text};
        if self.status != StatusCode::NOT_MODIFIED {
            put("content-type", Text(self.content_type));
        }
        if let Some(version) = self.etag {
            put("etag", Text(&format!("\"{version}\"")));
        }
        if let Some(path) = &self.location {
            put("location", Text(path));
        }
        if self.gzip {
            put("content-encoding", Text("gzip"));
            put("vary", Text("Accept-Encoding"));
        }
        if let Some(seconds) = self.retry_after {
            put("retry-after", Number(seconds));
        }
        if let Some(methods) = &self.allow {
            put("allow", Text(methods));
        }
        put("cache-control", Text("no-cache"));
        put("stockroom-served-by", Number(self.served_by));
        if self.replayed {
            put("idempotency-replayed", Text("true"));
        }
        if let Some((index, token)) = &self.seen {
            put("stockroom-applied-index", Number(*index));
            if let Some(staleness_ms) = self.staleness_ms {
                put("stockroom-staleness-ms", Number(staleness_ms));
            }
            put("stockroom-session", Text(token.as_str()));
        }
        put("x-request-id", Text(self.request_id.as_str()));
    }

    /// For hyper.
    pub fn into_http(self) -> axum::response::Response {
        let mut head = HeaderMap::with_capacity(16);
        self.headers(|name, value| {
            let value = match value {
                Value::Text(text) => HeaderValue::from_str(text).ok(),
                Value::Number(number) => Some(number.into()),
            };
            // Every value is visible ASCII: names are checked as they come in, paths are percent-encoded.
            if let Some(value) = value {
                head.insert(HeaderName::from_static(name), value);
            }
        });
        if self.close {
            head.insert("connection", HeaderValue::from_static("close"));
        }
        let mut response = axum::response::Response::new(match self.body {
            Body::Whole(bytes) => bytes.into(),
            Body::Stream(body) => body,
        });
        *response.status_mut() = self.status;
        *response.headers_mut() = head;
        response
    }

    /// As HTTP/1.1, behind what is in `out` already. `date` is the value of that header.
    ///
    /// # Errors
    /// The body is not whole, and nothing was written.
    pub fn write(&self, date: &str, out: &mut Vec<u8>) -> Result<(), NotWhole> {
        let Body::Whole(body) = &self.body else { return Err(NotWhole) };
        out.reserve(HEAD_BYTES + body.len());
        put_text(out, &["HTTP/1.1 ", self.status.as_str(), " "]);
        put_text(out, &[self.status.canonical_reason().unwrap_or_default(), "\r\n"]);
        self.headers(|name, value| match value {
            Value::Text(text) => put_text(out, &[name, ": ", text, "\r\n"]),
            Value::Number(number) => put_number(out, name, number),
        });
        if self.close {
            put_text(out, &["connection: close\r\n"]);
        }
        if self.status != StatusCode::NOT_MODIFIED {
            put_number(out, "content-length", body.len() as u64);
        }
        put_text(out, &["date: ", date, "\r\n\r\n"]);
        out.extend_from_slice(body);
        Ok(())
    }
}

/// A little more than most heads have.
const HEAD_BYTES: usize = 512;

/// The answer is made while it is sent, which only hyper does here.
#[derive(Debug)]
pub(crate) struct NotWhole;

fn put_text(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

fn put_number(out: &mut Vec<u8>, name: &str, number: u64) {
    write!(out, "{name}: {number}\r\n").expect("a vector takes any bytes");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::Code;
    use crate::limits::Limits;
    use bytes::Bytes;

    #[test]
    fn both_ways_out_say_the_same() {
        let api = Api::new(Limits::default(), 7);
        let problem = Problem::new(Code::MethodNotAllowed, "no").allow("GET, HEAD".into());
        let make = || Response::new(Err(problem.clone()), RequestId::Given("r"), &api, None);
        let mut out = b"before".to_vec();
        make().write("now", &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n");
        assert_eq!(lines.next(), Some("beforeHTTP/1.1 405 Method Not Allowed"));
        let response = make().into_http();
        let mut wanted: Vec<String> = response
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        wanted.extend([format!("content-length: {}", body.len()), "date: now".into()]);
        wanted.sort_unstable();
        let mut found: Vec<&str> = lines.collect();
        found.sort_unstable();
        assert_eq!(found, wanted);
        assert_eq!(body.as_bytes(), problem.body("r"));
    }

    #[test]
    fn a_stream_is_not_written_and_a_304_has_no_length() {
        let api = Api::new(Limits::default(), 7);
        let write = |answer| {
            let mut out = Vec::new();
            let response = Response::new(Ok(answer), RequestId::Given("r"), &api, None);
            response.write("now", &mut out).map(|()| String::from_utf8(out).unwrap())
        };
        let stream = Body::Stream(axum::body::Body::from("x"));
        assert!(write(Answer { body: stream, ..Answer::json(Vec::new()) }).is_err());
        let text = write(Answer::new(304, "application/json", Bytes::new()).etag(3)).unwrap();
        assert!(text.starts_with("HTTP/1.1 304 Not Modified\r\netag: \"3\"\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n") && !text.contains("content-"), "{text}");
    }
}
