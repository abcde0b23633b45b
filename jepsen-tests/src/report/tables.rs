//! The tables of a run: verdicts, faults, exits, probes, calls, errors.

use super::axis::Kind;
use super::html::{Esc, Html, count, list, many, moment, plain, span};
use super::put;
use crate::checker::{Verdict, Verdicts};
use crate::history::{Answer, Exit, Fault, History, Micros, Op, Outcome, Probe};
use std::collections::BTreeMap;

/// Rows of any one table; a run of hours has thousands of faults, and the history has them all.
const MOST_ROWS: usize = 1000;

/// A verdict's class and word.
pub(super) fn result(result: Verdicts) -> (&'static str, &'static str) {
    match result {
        Verdicts::Holds => ("good", "holds"),
        Verdicts::Violated => ("bad", "violated"),
        Verdicts::NotDecided => ("open", "not decided"),
    }
}

fn head(out: &mut Html, columns: &[&str]) {
    put!(out, "<div class=\"wide\"><table><thead><tr>");
    for column in columns {
        match column.strip_prefix('#') {
            Some(number) => put!(out, "<th class=\"n\">{number}</th>"),
            None => put!(out, "<th>{column}</th>"),
        }
    }
    put!(out, "</tr></thead><tbody>\n");
}

fn foot<T>(out: &mut Html, rows: &[T]) {
    put!(out, "</tbody></table></div>\n");
    if rows.len() > MOST_ROWS {
        put!(
            out,
            "<p class=\"note\">The first {MOST_ROWS} of {}; the history has them all.</p>\n",
            many(rows)
        );
    }
}

pub(super) fn verdicts(out: &mut Html, verdicts: &[Verdict]) {
    put!(out, "<section><h2>Verdicts</h2>\n");
    if verdicts.is_empty() {
        put!(out, "<p class=\"note\">Nothing was checked.</p></section>\n");
        return;
    }
    head(out, &["Checker", "Result", "What was checked, or what is wrong"]);
    let mut sorted: Vec<&Verdict> = verdicts.iter().collect();
    sorted.sort_by_key(|verdict| match verdict.result {
        Verdicts::Violated => 0,
        Verdicts::NotDecided => 1,
        Verdicts::Holds => 2,
    });
    for verdict in sorted {
        let (class, word) = result(verdict.result);
        put!(
            out,
            "<tr><td><code>{}</code></td><td><span class=\"badge {class}\">{word}</span></td><td>{}</td></tr>\n",
            Esc(&verdict.checker),
            Esc(&verdict.summary)
        );
    }
    foot(out, verdicts);
    put!(out, "</section>\n");
}

pub(super) fn faults(out: &mut Html, faults: &[Fault]) {
    let effective = faults.iter().filter(|fault| fault.effective).count();
    if faults.is_empty() {
        put!(out, "<section><h2>Faults</h2><p class=\"note\">None were injected.</p></section>\n");
        return;
    }
    put!(out, "<section><h2>Faults <small>{effective} of {} took effect</small></h2>\n", faults.len());
    head(out, &["Nemesis", "What", "Nodes", "#From", "#For", "Effect", "How that is known"]);
    for fault in faults.iter().take(MOST_ROWS) {
        let lasted =
            fault.until.map_or("to the end".to_owned(), |until| span(until.saturating_sub(fault.from)));
        let (class, word) = if fault.effective { ("good", "yes") } else { ("open", "none") };
        put!(
            out,
            "<tr><td class=\"keep\"><i class=\"swatch f-{}\"></i>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{lasted}</td>\
             <td><span class=\"badge {class}\">{word}</span></td><td>{}</td></tr>\n",
            super::run_chart::fault_class(&fault.kind),
            Esc(&fault.nemesis),
            Esc(&fault.what),
            list(&fault.nodes),
            moment(fault.from),
            Esc(&fault.evidence)
        );
    }
    foot(out, faults);
    put!(out, "</section>\n");
}

pub(super) fn exits(out: &mut Html, exits: &[Exit]) {
    put!(out, "<section><h2>Processes that ended");
    if exits.is_empty() {
        put!(out, "</h2><p class=\"note\">None before the end of the run.</p></section>\n");
        return;
    }
    let own = exits.iter().filter(|exit| !exit.expected).count();
    put!(out, " <small>{}, {own} of them by themselves</small></h2>\n", exits.len());
    head(out, &["#At", "#Node", "Who ended it", "How", "Its last line"]);
    for exit in exits.iter().take(MOST_ROWS) {
        let (class, who) = match (exit.expected, &exit.excuse) {
            (true, _) => ("", "the harness".to_owned()),
            (false, Some(excuse)) => ("open", format!("itself, and may: {excuse}")),
            (false, None) => ("bad", "itself".to_owned()),
        };
        put!(
            out,
            "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td><span class=\"badge {class}\">{}</span></td><td>{}</td><td><code>{}</code></td></tr>\n",
            moment(exit.at),
            exit.node,
            Esc(who),
            Esc(&exit.how),
            Esc(plain(&exit.last_line))
        );
    }
    foot(out, exits);
    put!(out, "</section>\n");
}

pub(super) fn probes(out: &mut Html, probes: &[Probe]) {
    if probes.is_empty() {
        return;
    }
    put!(out, "<section><h2>Probes of the healed cluster</h2>\n");
    head(out, &["Probe", "Result", "What was seen"]);
    for probe in probes.iter().take(MOST_ROWS) {
        let (class, word) = if probe.holds { ("good", "holds") } else { ("bad", "does not hold") };
        put!(
            out,
            "<tr><td><code>{}</code></td><td><span class=\"badge {class}\">{word}</span></td><td>{}</td></tr>\n",
            Esc(&probe.name),
            Esc(&probe.detail)
        );
    }
    foot(out, probes);
    put!(out, "</section>\n");
}

/// How calls of one name ended.
#[derive(Default)]
struct Ends {
    by_kind: [u64; 3],
    refused: u64,
    latencies: Vec<Micros>,
}

pub(super) fn calls(out: &mut Html, history: &History) {
    if history.ops.is_empty() {
        return;
    }
    let mut names: BTreeMap<&str, Ends> = BTreeMap::new();
    for op in &history.ops {
        let ends = names.entry(op.call.name()).or_default();
        let kind = Kind::of(op);
        ends.by_kind[kind as usize] += 1;
        ends.refused +=
            u64::from(matches!(&op.outcome, Some(Outcome::Ok { answer: Answer::Refused { .. }, .. })));
        if kind == Kind::Ok {
            ends.latencies.extend(op.completed.map(|end| end.saturating_sub(op.invoked)));
        }
    }
    put!(out, "<section><h2>Calls</h2>\n");
    head(out, &["Call", "#All", "#ok", "#of them refused", "#fail", "#info", "#p50", "#p95", "#p99", "#max"]);
    for (name, mut ends) in names {
        ends.latencies.sort_unstable();
        let [ok, fail, info] = ends.by_kind;
        put!(out, "<tr><td><code>{name}</code></td>");
        for number in [ok + fail + info, ok, ends.refused, fail, info] {
            put!(out, "<td class=\"n\">{}</td>", if number == 0 { "–".to_owned() } else { count(number) });
        }
        for quantile in [0.5, 0.95, 0.99, 1.0] {
            let at = (ends.latencies.len().saturating_sub(1) as f64 * quantile).round() as usize;
            put!(
                out,
                "<td class=\"n\">{}</td>",
                ends.latencies.get(at).map_or("–".to_owned(), |took| span(*took))
            );
        }
        put!(out, "</tr>\n");
    }
    put!(out, "</tbody></table></div></section>\n");
}

/// What an error is counted under: kind, status where there is one, and code or reason.
fn error(op: &Op) -> Option<(Kind, String, &str)> {
    match &op.outcome {
        Some(Outcome::Ok { answer: Answer::Refused { status, code, .. }, .. }) => {
            Some((Kind::Ok, status.to_string(), code))
        }
        Some(Outcome::Ok { .. }) => None,
        Some(Outcome::Fail { status: 0, code }) => Some((Kind::Fail, "no answer".to_owned(), code)),
        Some(Outcome::Fail { status, code }) => Some((Kind::Fail, status.to_string(), code)),
        Some(Outcome::Info { reason }) => Some((Kind::Info, "–".to_owned(), reason)),
        None => Some((Kind::Info, "–".to_owned(), "the run ended first")),
    }
}

pub(super) fn errors(out: &mut Html, history: &History) {
    /// Kinds of errors listed; reasons with numbers in them could be as many as calls.
    const MOST: usize = 60;
    let mut errors: BTreeMap<(&str, String, &str), u64> = BTreeMap::new();
    for (kind, status, code) in history.ops.iter().filter_map(error) {
        *errors.entry((kind.name(), status, code)).or_default() += 1;
    }
    if errors.is_empty() {
        return;
    }
    let mut errors: Vec<_> = errors.into_iter().collect();
    errors.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    put!(out, "<section><h2>Refusals and errors</h2>\n");
    head(out, &["Kind", "Status", "Code or reason", "#Times"]);
    for ((kind, status, code), times) in errors.iter().take(MOST) {
        let word = if *kind == "ok" { "ok (refused)" } else { kind };
        put!(
            out,
            "<tr><td class=\"keep\"><i class=\"swatch {kind}\"></i>{word}</td><td>{status}</td><td><code>{}</code></td><td class=\"n\">{}</td></tr>\n",
            Esc(super::html::cut(code, 300)),
            count(*times)
        );
    }
    put!(out, "</tbody></table></div>\n");
    if errors.len() > MOST {
        put!(out, "<p class=\"note\">The most frequent {MOST} of {}.</p>\n", many(&errors));
    }
    put!(out, "</section>\n");
}
