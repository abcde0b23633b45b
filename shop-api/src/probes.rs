//! `/livez`, `/readyz` and `/metrics`

use crate::answer::{Answer, JSON};
use crate::api::Api;
use crate::headers::{self, Headers};
use crate::render;
use serde::Serialize;
use std::fmt::Write;

const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Fails for nothing but a dead process: restarting a node that waits for others would not help.
pub(crate) fn live() -> Answer {
    Answer::new(200, TEXT, "ok\n")
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

fn checks(api: &Api) -> Vec<Check> {
    let draining = api.is_draining();
    let mut checks = vec![Check {
        name: "accepting",
        ok: !draining,
        detail: if draining { "this node is stopping".into() } else { String::new() },
    }];
    match api.serving() {
        Some(serving) => {
            let readiness = serving.cluster.readiness();
            checks.extend(readiness.into_iter().map(|(name, ok, detail)| Check { name, ok, detail }));
        }
        None => checks.push(Check { name: "member", ok: false, detail: api.reason() }),
    }
    checks
}

/// Whether this node should be sent requests. Text as Kubernetes' own probes have it, or JSON.
pub(crate) fn ready(api: &Api, headers: &Headers<'_>, query: Option<&str>) -> Answer {
    let checks = checks(api);
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready { 200 } else { 503 };
    if headers::accepts(headers, JSON) && !headers::accepts(headers, "text/plain") {
        #[derive(Serialize)]
        struct ReadyBody {
            ready: bool,
            checks: Vec<Check>,
        }
        return Answer::new(status, JSON, render::json(&ReadyBody { ready, checks }, 512));
    }
    let verbose = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .any(|(name, value)| name == "verbose" && !matches!(&*value, "false" | "0"));
    let mut text = String::new();
    for check in checks.iter().filter(|check| verbose || !check.ok) {
        let Check { name, ok, detail } = check;
        let line = match ok {
            true => writeln!(text, "[+]{name} ok"),
            false => writeln!(text, "[-]{name} failed: {detail}"),
        };
        line.expect("a string takes any text");
    }
    text.push_str(if ready { "ok\n" } else { "not ready\n" });
    Answer::new(status, TEXT, text)
}

pub(crate) fn metrics(api: &Api) -> Answer {
    Answer::new(200, PROMETHEUS, api.render_metrics())
}
