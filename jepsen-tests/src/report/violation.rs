//! One violation: the calls that show it, as a table and as a picture, and its SKUs around that time.

use super::axis::{Axis, LEFT, RIGHT, WIDTH};
use super::html::{Esc, Html, moment, plural, span};
use super::timeline::Timeline;
use super::touch::Touch;
use super::{put, words};
use crate::checker::Violation;
use crate::history::{Answer, Counters, Fault, History, Micros, Op, Outcome};
use std::collections::BTreeSet;

/// Calls of one violation that are listed; a checker gives the fewest that show it.
const MOST_LISTED: usize = 80;
/// Calls in a picture: more than this cannot be told apart.
const MOST_DRAWN: usize = 160;
const MOST_SKUS: usize = 4;
/// How much of the SKU's life is shown on each side.
const AROUND: Micros = 1_500_000;
/// Reads on one chart of counters.
const MOST_READS: usize = 700;

/// Draws it.
pub(super) fn draw(out: &mut Html, history: &History, touch: &Touch<'_>, violation: &Violation) {
    let ids: BTreeSet<u64> = violation.ops.iter().copied().collect();
    let ops: Vec<&Op> = history.ops.iter().filter(|op| ids.contains(&op.id)).collect();
    put!(out, "<article class=\"violation\">\n<h3>{}</h3>\n", Esc(&violation.what));
    meanwhile(out, history, &ops);
    if ops.is_empty() {
        put!(out, "<p class=\"note\">The checker named no calls for it.</p>\n");
    } else {
        put!(
            out,
            "<h4>{} {} it</h4>\n",
            plural(ops.len(), "call", "calls"),
            if ops.len() == 1 { "shows" } else { "show" }
        );
        table(out, &ops);
        let drawn: Vec<&Op> = ops.iter().take(MOST_DRAWN).copied().collect();
        let only = if violation.skus.len() == 1 { violation.skus.first().map(String::as_str) } else { None };
        Timeline { ops: drawn, marked: &BTreeSet::new(), sku: only, per_op: 150.0 }.draw(out);
        put!(
            out,
            "<p class=\"note\">Time is stretched where much happens: order and overlap are exact, lengths are not. \
            A dashed line: the call may take place at any later time.</p>\n"
        );
    }
    for sku in violation.skus.iter().take(MOST_SKUS) {
        around(out, history, touch, sku, &ops, &ids);
    }
    if violation.skus.len() > MOST_SKUS {
        let more = plural(violation.skus.len() - MOST_SKUS, "more SKU", "more SKUs");
        put!(out, "<p class=\"note\">It is about {more}, not drawn here.</p>\n");
    }
    put!(out, "</article>\n");
}

/// Faults that were in force between the first and the last of these calls.
fn meanwhile(out: &mut Html, history: &History, ops: &[&Op]) {
    const MOST: usize = 6;
    let Some((from, to)) = extent(ops) else { return };
    let within = |fault: &&Fault| fault.from <= to && fault.until.is_none_or(|until| until >= from);
    let faults: Vec<&Fault> = history.faults.iter().filter(within).collect();
    put!(out, "<p>From {} to {}. ", moment(from), moment(to));
    if faults.is_empty() {
        put!(out, "No fault was in force.");
    } else {
        put!(out, "Faults in force: ");
    }
    for (at, fault) in faults.iter().take(MOST).enumerate() {
        let (comma, since) = (if at == 0 { "" } else { "; " }, moment(fault.from));
        put!(out, "{comma}<b>{}</b> since {since}, {}", Esc(&fault.nemesis), Esc(&fault.what));
    }
    if faults.len() > MOST {
        put!(out, "; and {} more", faults.len() - MOST);
    }
    put!(out, "</p>\n");
}

fn table(out: &mut Html, ops: &[&Op]) {
    put!(
        out,
        "<div class=\"wide\"><table class=\"ops\"><thead><tr><th class=\"n\">Call</th><th class=\"n\">From</th><th class=\"n\">Took</th>\
         <th class=\"n\">Client</th><th class=\"n\">Node</th><th>Asked</th><th>Answered</th></tr></thead><tbody>\n"
    );
    for op in ops.iter().take(MOST_LISTED) {
        let took = op.completed.map_or("–".to_owned(), |end| span(end.saturating_sub(op.invoked)));
        put!(
            out,
            "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{took}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>",
            op.id,
            moment(op.invoked),
            op.client,
            op.node
        );
        put!(out, "<td>{}", Esc(words::call(&op.call)));
        if let Some(key) = &op.key {
            put!(out, "<small>key {}</small>", Esc(key));
        }
        put!(
            out,
            "</td><td><i class=\"swatch {}\"></i>{}",
            super::axis::Kind::of(op).name(),
            Esc(words::end(op))
        );
        put!(out, "{}</td></tr>\n", headers(op));
    }
    put!(out, "</tbody></table></div>\n");
    if ops.len() > MOST_LISTED {
        put!(out, "<p class=\"note\">The first {MOST_LISTED} of {}.</p>\n", ops.len());
    }
}

/// What the headers said, where they help to understand a stale or repeated answer.
fn headers(op: &Op) -> Html {
    let mut out = Html::default();
    let Some(meta) = op.meta() else { return out };
    let mut said = Vec::new();
    said.extend(meta.served_by.map(|node| format!("served by node {node}")));
    said.extend(meta.applied_index.map(|index| format!("applied index {index}")));
    said.extend(meta.staleness_ms.map(|ms| format!("{ms} ms stale")));
    said.extend(meta.replayed.then(|| "replayed".to_owned()));
    if !said.is_empty() {
        put!(out, "<small>{}</small>", said.join(", "));
    }
    out
}

/// When the first call began and the last one ended.
fn extent(ops: &[&Op]) -> Option<(Micros, Micros)> {
    let from = ops.iter().map(|op| op.invoked).min()?;
    let to = ops.iter().map(|op| op.completed.unwrap_or(op.invoked)).max()?;
    Some((from, to))
}

fn around(out: &mut Html, history: &History, touch: &Touch<'_>, sku: &str, ops: &[&Op], ids: &BTreeSet<u64>) {
    let about: Vec<&Op> = history.ops.iter().filter(|op| touch.is_about(op, sku)).collect();
    let (Some(first), Some(last)) = (about.first(), about.last()) else { return };
    let (from, to) = extent(ops).unwrap_or((first.invoked, last.completed.unwrap_or(last.invoked)));
    let (from, to) = (from.saturating_sub(AROUND), to.saturating_add(AROUND));
    let inside = |op: &&&Op| op.invoked <= to && op.completed.unwrap_or(op.invoked) >= from;
    let mut shown: Vec<&Op> = about.iter().filter(inside).copied().collect();
    let within = shown.len();
    nearest(&mut shown, ids);
    put!(
        out,
        "<h4>SKU <code>{}</code>: every call around it, from {} to {}</h4>\n",
        Esc(sku),
        moment(from),
        moment(to)
    );
    if shown.len() < within {
        put!(out, "<p class=\"note\">The {} of {within} calls that are nearest to it.</p>\n", shown.len());
    }
    Timeline { ops: shown, marked: ids, sku: Some(sku), per_op: 26.0 }.draw(out);
    counters(out, &about, sku, ops);
}

/// Keeps the calls nearest to those of the violation, in order of invocation.
fn nearest(shown: &mut Vec<&Op>, ids: &BTreeSet<u64>) {
    let marked: Vec<Micros> = shown.iter().filter(|op| ids.contains(&op.id)).map(|op| op.invoked).collect();
    let far = |op: &&Op| marked.iter().map(|at| at.abs_diff(op.invoked)).min().unwrap_or(op.invoked);
    shown.sort_by_key(far);
    shown.truncate(MOST_DRAWN);
    shown.sort_by_key(|op| op.id);
}

/// A SKU's totals, as one read saw them.
struct Read {
    from: Micros,
    to: Micros,
    seen: Counters,
}

fn reads(about: &[&Op], sku: &str) -> Vec<Read> {
    let read = |op: &&Op| match &op.outcome {
        Some(Outcome::Ok { answer: Answer::Stock { items }, .. }) => {
            let item = items.iter().find(|item| item.sku == sku)?;
            Some(Read { from: op.invoked, to: op.completed?, seen: item.total })
        }
        _ => None,
    };
    let mut reads: Vec<Read> = about.iter().filter_map(read).collect();
    reads.sort_by_key(|read| read.to);
    if reads.len() > MOST_READS {
        let every = reads.len().div_ceil(MOST_READS);
        reads = reads.into_iter().step_by(every).collect();
    }
    reads
}

/// A counter's name and how to get it.
type Counter = (&'static str, fn(&Counters) -> u64);

const COUNTERS: [Counter; 4] = [
    ("on hand", |seen| seen.on_hand),
    ("available", |seen| seen.available),
    ("allocated", |seen| seen.allocated),
    ("reserved", |seen| seen.reserved),
];

fn counters(out: &mut Html, about: &[&Op], sku: &str, ops: &[&Op]) {
    const HEIGHT: f64 = 130.0;
    let reads = reads(about, sku);
    let (Some(first), Some(last)) = (reads.first(), reads.last()) else {
        put!(out, "<p class=\"note\">No read saw the stock of this SKU.</p>\n");
        return;
    };
    let part = Part { from: first.from, axis: Axis::new(last.to.saturating_sub(first.from)) };
    let most = reads.iter().flat_map(|read| COUNTERS.map(|(_, of)| of(&read.seen))).max().unwrap_or(0).max(1);
    let y = |units: u64| 8.0 + HEIGHT - HEIGHT * units as f64 / most as f64;
    put!(
        out,
        "<h4>SKU <code>{}</code>: what reads saw in all its life</h4>\n<div class=\"legend\"><span class=\"group\">",
        Esc(sku)
    );
    for (at, (name, _)) in COUNTERS.iter().enumerate() {
        put!(out, "<span><i class=\"line c{at}\"></i>{name}</span>");
    }
    put!(
        out,
        "</span></div>\n<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"Counters over time\">\n",
        HEIGHT + 34.0
    );
    if let Some((from, to)) = extent(ops) {
        let x = part.x(from);
        let width = (part.x(to) - x).max(2.0);
        let height = HEIGHT + 6.0;
        put!(
            out,
            "<rect class=\"here\" x=\"{x:.1}\" y=\"2\" width=\"{width:.1}\" height=\"{height}\"><title>the violation</title></rect>\n"
        );
    }
    for units in [0, most] {
        let y = y(units);
        put!(out, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y}\" y2=\"{y}\"/>");
        put!(out, "<text class=\"name\" x=\"{}\" y=\"{:.1}\">{units}</text>", LEFT - 8.0, y + 4.0);
    }
    for (at, label) in part.ticks() {
        put!(
            out,
            "<text class=\"tick\" text-anchor=\"middle\" x=\"{at:.1}\" y=\"{}\">{label}</text>",
            HEIGHT + 26.0
        );
    }
    for (at, (_, of)) in COUNTERS.iter().enumerate() {
        put!(out, "<path class=\"c c{at}\" d=\"");
        for (nth, read) in reads.iter().enumerate() {
            let (x, y) = (part.x(read.to), y(of(&read.seen)));
            if nth == 0 { put!(out, "M{x:.1} {y:.1}") } else { put!(out, "H{x:.1}V{y:.1}") }
        }
        put!(out, "\"/>\n");
    }
    put!(out, "</svg>\n");
}

/// A part of the run on an axis of its own.
struct Part {
    from: Micros,
    axis: Axis,
}

impl Part {
    fn x(&self, at: Micros) -> f64 {
        self.axis.x(at.saturating_sub(self.from))
    }

    /// Eight places, each with the time of the run.
    fn ticks(&self) -> Vec<(f64, String)> {
        let at = |nth: u64| self.from + self.axis.end * nth / 8;
        (0..=8).map(|nth| (self.x(at(nth)).min(RIGHT - 20.0), moment(at(nth)))).collect()
    }
}
