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

/// What somebody should look after, while the node serves.
#[derive(Serialize)]
struct AlarmLine {
    name: String,
    detail: String,
}

fn alarms(api: &Api) -> Vec<AlarmLine> {
    let alarms = api.serving().map(|serving| serving.cluster.alarms()).unwrap_or_default();
    let line = |alarm: stockroom_raft::Alarm| AlarmLine {
        name: alarm.code,
        detail: format!("{}; {}", alarm.what, alarm.next),
    };
    alarms.into_iter().map(line).collect()
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
            alarms: Vec<AlarmLine>,
        }
        let body = ReadyBody { ready, checks, alarms: alarms(api) };
        return Answer::new(status, JSON, render::json(&body, 512));
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
    if verbose {
        for AlarmLine { name, detail } in alarms(api) {
            writeln!(text, "[!]{name} alarm: {detail}").expect("a string takes any text");
        }
    }
    text.push_str(if ready { "ok\n" } else { "not ready\n" });
    Answer::new(status, TEXT, text)
}

pub(crate) fn metrics(api: &Api) -> Answer {
    Answer::new(200, PROMETHEUS, api.render_metrics())
}
