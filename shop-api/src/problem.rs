//! Errors as they are answered: problem+json (RFC 9457), made from [`Code`]s.

use crate::codes::Code;
use crate::consistency::Shown;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use std::borrow::Cow;
use std::time::Duration;
use stockroom_storage::shop::effect::Shortage;

/// Why a request failed.
#[derive(Debug, Clone)]
pub(crate) struct Problem(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    code: Code,
    detail: Cow<'static, str>,
    /// Where in the request the mistake lies: a JSON path, a header or a parameter.
    param: Option<String>,
    next_steps: Vec<String>,
    extras: Vec<(&'static str, Extra)>,
    retry_after: Option<Duration>,
    allow: Option<String>,
    shown: Option<Shown>,
    replayed: bool,
}

/// What the case needs beside the common members.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Extra {
    Text(String),
    Count(u64),
    Change(i64),
    Texts(Vec<String>),
    Json(serde_json::Value),
    Shortages(#[serde(serialize_with = "shortages")] Vec<Shortage>),
}

fn shortages<S: Serializer>(list: &[Shortage], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Body<'a> {
        sku: &'a str,
        location: &'a str,
        requested: u64,
        available: u64,
    }
    serializer.collect_seq(list.iter().map(|short| Body {
        sku: short.sku.as_str(),
        location: short.location.as_str(),
        requested: short.requested,
        available: short.available,
    }))
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Problem(Box::new(Inner {
            code,
            detail: detail.into(),
            param: None,
            next_steps: Vec::new(),
            extras: Vec::new(),
            retry_after: None,
            allow: None,
            shown: None,
            replayed: false,
        }))
    }

    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.0.param = Some(param.into());
        self
    }

    pub fn with(mut self, name: &'static str, extra: Extra) -> Self {
        self.0.extras.push((name, extra));
        self
    }

    /// Steps that only this case knows, after the one of its code.
    pub fn then(mut self, step: String) -> Self {
        self.0.next_steps.push(step);
        self
    }

    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    pub fn allow(mut self, methods: String) -> Self {
        self.0.allow = Some(methods);
        self
    }

    /// Decided or found missing at a log index, rather than refused at the door.
    pub fn shown(mut self, shown: Shown) -> Self {
        self.0.shown = Some(shown);
        self
    }

    pub fn replayed(mut self, replayed: bool) -> Self {
        self.0.replayed = replayed;
        self
    }

    pub fn code(&self) -> Code {
        self.0.code
    }

    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    pub fn status(&self) -> u16 {
        self.0.code.spec().status
    }

    pub fn is_replayed(&self) -> bool {
        self.0.replayed
    }

    pub fn allowed_methods(&self) -> Option<&str> {
        self.0.allow.as_deref()
    }

    pub fn shows(&self) -> Option<Shown> {
        self.0.shown
    }

    /// Whole seconds for `Retry-After` and `retry_after_s`: on every 429, 503 and 507, at least one.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let wait = match (self.status(), self.0.retry_after) {
            (429 | 503, wait) => wait.unwrap_or(Duration::from_secs(1)),
            // Room is made by people.
            (507, _) => Duration::from_secs(5),
            _ => return None,
        };
        Some(u64::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX).max(1))
    }

    /// The body, for the request that is answered with it.
    pub fn body(&self, request_id: &str) -> Vec<u8> {
        let mut body = Vec::with_capacity(512);
        serde_json::to_writer(&mut body, &Body { problem: self, request_id })
            .expect("a problem holds only strings and integers, and a vector takes any bytes");
        body
    }
}

struct Body<'a> {
    problem: &'a Problem,
    request_id: &'a str,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let inner = &self.problem.0;
        let spec = inner.code.spec();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &format_args!("urn:stockroom:problem:{}", spec.slug))?;
        map.serialize_entry("title", spec.title)?;
        map.serialize_entry("status", &spec.status)?;
        map.serialize_entry("detail", &inner.detail)?;
        map.serialize_entry("code", spec.slug)?;
        map.serialize_entry("definite", &spec.definite)?;
        map.serialize_entry("retryable", &spec.retryable)?;
        if let Some(param) = &inner.param {
            map.serialize_entry("param", param)?;
        }
        for (name, extra) in &inner.extras {
            map.serialize_entry(name, extra)?;
        }
        // Beside the header, as an outcome of a batch has none.
        if let Some(seconds) = self.problem.retry_after_seconds() {
            map.serialize_entry("retry_after_s", &seconds)?;
        }
        map.serialize_entry("next_steps", &Steps(spec.next_step, &inner.next_steps))?;
        map.serialize_entry("request_id", self.request_id)?;
        map.end()
    }
}

struct Steps<'a>(&'static str, &'a [String]);

impl Serialize for Steps<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(std::iter::once(self.0).chain(self.1.iter().map(String::as_str)))
    }
}
