//! What can go wrong, in the words of `application/problem+json`, and the exit code that says so to scripts.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// The exit codes of `stockctl`. They are part of its interface: scripts branch on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All done.
    Ok = 0,
    /// Anything that has no code of its own.
    Error = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No leader, nobody answers, or nobody has room now.
    Unavailable = 3,
    /// Conflict or out of stock.
    Conflict = 4,
    /// No such thing.
    NotFound = 5,
    /// Who asks may not.
    Denied = 6,
    /// Refused because it could lose data.
    Unsafe = 7,
    /// A check found something.
    Findings = 8,
    /// A write was sent and its outcome is not known.
    Unknown = 9,
}

/// An error as the server says it, and as `stockctl` says its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    /// A URI that names the kind of error.
    #[serde(rename = "type", default = "about_blank")]
    pub kind: String,
    /// What kind of error it is, for people.
    #[serde(default)]
    pub title: String,
    /// HTTP status; 0 where no server said anything.
    #[serde(default)]
    pub status: u16,
    /// What happened this time.
    #[serde(default)]
    pub detail: String,
    /// What kind of error it is, for programs.
    #[serde(default)]
    pub code: String,
    /// "It did not and will not happen."
    #[serde(default)]
    pub definite: bool,
    /// Whether asking again makes sense.
    #[serde(default)]
    pub retryable: bool,
    /// What to do now.
    #[serde(default)]
    pub next_steps: Vec<String>,
    /// Names the request in the server's log.
    #[serde(default)]
    pub request_id: String,
    /// What the case needs beyond that, such as `shortages`.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

fn about_blank() -> String {
    "about:blank".into()
}

/// Why a command did not do what it was asked.
#[derive(Debug, Clone)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What is printed.
    pub problem: Box<Problem>,
}

impl Failure {
    /// An error of our own: nothing a server said.
    pub fn local(exit: Exit, code: &str, title: &str, detail: impl Into<String>) -> Self {
        let problem = Problem {
            kind: about_blank(),
            title: title.into(),
            status: 0,
            detail: detail.into(),
            code: code.into(),
            definite: exit != Exit::Unknown,
            retryable: matches!(exit, Exit::Unknown | Exit::Unavailable),
            next_steps: Vec::new(),
            request_id: String::new(),
            more: Map::new(),
        };
        Failure { exit, problem: Box::new(problem) }
    }

    /// A file that cannot be read or written.
    pub fn file(path: &str, error: &std::io::Error) -> Self {
        Failure::local(Exit::Error, "file", "A file cannot be used", format!("{path}: {error}"))
    }

    /// An answer that is not what the contract promises.
    pub fn contract(endpoint: &str, detail: impl std::fmt::Display) -> Self {
        Failure::local(
            Exit::Error,
            "unexpected_answer",
            "The server's answer makes no sense",
            format!("{endpoint}: {detail}"),
        )
        .step(
            "check that the address is a Stockroom node, and that stockctl and the nodes are of one version",
        )
    }

    /// Adds one thing to do now.
    #[must_use]
    pub fn step(mut self, text: impl Into<String>) -> Self {
        self.problem.next_steps.push(text.into());
        self
    }

    /// What went wrong with one of several nodes, in one line that names it once.
    pub fn of_node(&self, endpoint: &str) -> String {
        match &self.problem.detail {
            detail if detail.starts_with(endpoint) => detail.clone(),
            detail => format!("{endpoint}: {detail}"),
        }
    }

    /// An error answer of a server. A body that is no problem+json becomes one.
    pub fn answered(endpoint: &str, status: u16, request_id: &str, body: &[u8]) -> Self {
        let parsed = serde_json::from_slice::<Problem>(body).ok().filter(|p| !p.code.is_empty());
        let mut problem = parsed.unwrap_or_else(|| {
            let text = String::from_utf8_lossy(&body[..body.len().min(500)]).trim().to_owned();
            let plain = Failure::local(Exit::Error, &format!("http_{status}"), "The server refused", text);
            // 5xx from who knows whom (a proxy, a crash) says nothing about what happened behind it.
            Problem { definite: status < 500, retryable: status >= 500, ..*plain.problem }
        });
        problem.status = status;
        if problem.request_id.is_empty() {
            problem.request_id = request_id.to_owned();
        }
        problem.more.insert("endpoint".into(), json!(endpoint));
        Failure { exit: exit_of(&problem), problem: Box::new(problem) }
    }

    /// For people.
    pub fn text(&self) -> String {
        let p = &self.problem;
        let mut out = format!("error: {}", if p.title.is_empty() { &p.code } else { &p.title });
        let code = if p.status == 0 { p.code.clone() } else { format!("{} {}", p.status, p.code) };
        let _ = write!(out, " ({code})");
        if !p.detail.is_empty() {
            let _ = write!(out, "\n  {}", p.detail);
        }
        for shortage in p.more.get("shortages").and_then(Value::as_array).into_iter().flatten() {
            let text = |name| shortage.get(name).map(plain).unwrap_or_default();
            let _ = write!(
                out,
                "\n  {} at {}: requested {}, available {}",
                text("sku"),
                text("location"),
                text("requested"),
                text("available")
            );
        }
        let _ = write!(out, "\n  {}", certainty(self.exit, p.definite));
        for step in &p.next_steps {
            let _ = write!(out, "\n  next: {step}");
        }
        if !p.request_id.is_empty() {
            let _ = write!(out, "\n  request id: {}", p.request_id);
        }
        if let Some(endpoint) = p.more.get("endpoint") {
            let _ = write!(out, "\n  answered by: {}", plain(endpoint));
        }
        out
    }
}

fn certainty(exit: Exit, definite: bool) -> &'static str {
    match (exit, definite) {
        (Exit::Unknown, _) | (_, false) => "definite: no (it may have happened, or may still happen)",
        _ => "definite: yes (it did not and will not happen)",
    }
}

/// A JSON value as a person writes it: strings without quotes.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

fn exit_of(problem: &Problem) -> Exit {
    match problem.status {
        401 | 403 => Exit::Denied,
        404 => Exit::NotFound,
        _ if problem.code.contains("unsafe") => Exit::Unsafe,
        409 | 412 => Exit::Conflict,
        429 | 503 | 507 => Exit::Unavailable,
        500.. if !problem.definite => Exit::Unknown,
        _ => Exit::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_exit_code() {
        let exit =
            |status, body: Value| Failure::answered("e", status, "r", body.to_string().as_bytes()).exit;
        let definite = |code: &str| json!({"code": code, "definite": true});
        assert_eq!(exit(403, definite("denied")), Exit::Denied);
        assert_eq!(exit(404, definite("unknown_order")), Exit::NotFound);
        assert_eq!(exit(409, definite("out_of_stock")), Exit::Conflict);
        assert_eq!(exit(409, definite("unsafe_quorum")), Exit::Unsafe);
        assert_eq!(exit(503, definite("no_leader")), Exit::Unavailable);
        assert_eq!(exit(507, definite("disk_full")), Exit::Unavailable);
        assert_eq!(exit(504, json!({"code": "outcome_unknown", "definite": false})), Exit::Unknown);
        assert_eq!(exit(422, definite("unknown_sku")), Exit::Error);
        assert_eq!(exit(502, json!("a proxy's page")), Exit::Unknown);
    }

    #[test]
    fn people_see_all_that_matters_of_a_problem() {
        let body = json!({"title": "Out of stock", "detail": "1 line is short", "code": "out_of_stock", "definite": true,
            "next_steps": ["receive stock"], "request_id": "r-1",
            "shortages": [{"sku": "mug", "location": "main", "requested": 5, "available": 3}]});
        let text = Failure::answered("http://a", 409, "", body.to_string().as_bytes()).text();
        for part in [
            "Out of stock",
            "409 out_of_stock",
            "1 line is short",
            "mug at main: requested 5, available 3",
            "definite: yes",
            "next: receive stock",
            "request id: r-1",
            "answered by: http://a",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }
}
