//! The same history for the real Elle: `elle.list-append` reads one map a line.

use super::lists::{Element, appends};
use crate::checker::writes::{self, Fate};
use crate::history::{Answer, Call, History, Micros};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

/// One event, before it has its place.
struct Event {
    at: Micros,
    begins: bool,
    kind: &'static str,
    process: u64,
    value: String,
}

/// A history as EDN, one operation a line, as `elle.list-append/check` takes it: keys are SKUs, elements are
/// what moved them, named by their cause.
///
/// Each write is one transaction however often it was sent. A write of which nobody knows is `:info`; one
/// that was refused or abandoned is `:fail`. Reads that may be old are left out: Elle would hold them to
/// real time. On an element that nobody wrote Elle throws, where our own checker names it.
pub fn edn(history: &History) -> String {
    let last = history.ops.iter().filter_map(|op| op.completed).max().unwrap_or(0);
    // A process has one call in flight: a write that was sent several times gets one of its own.
    let mut own = history.ops.iter().map(|op| op.client).max().unwrap_or(0);
    let mut events: Vec<Event> = Vec::new();
    let mut add = |process, (invoked, ended): (Micros, Micros), asked: String, kind, value| {
        events.push(Event { at: invoked, begins: true, kind: "invoke", process, value: asked });
        events.push(Event { at: ended, begins: false, kind, process, value });
    };
    let mut written: HashSet<(&str, Element<'_>)> = HashSet::new();
    for write in writes::all(history) {
        written.extend(appends(&write));
        let value = appended(&appends(&write));
        if value.is_empty() {
            continue;
        }
        own += 1;
        let (kind, ended) = match write.fate {
            Fate::Decided(Answer::Refused { .. }, by) => ("fail", by),
            Fate::Decided(_, by) => ("ok", by),
            Fate::Never => ("fail", write.sends.iter().filter_map(|op| op.completed).max().unwrap_or(last)),
            Fate::Unknown => ("info", last),
        };
        let value = format!("[{value}]");
        add(own, (write.invoked, ended.max(write.invoked)), value.clone(), kind, value);
    }
    for read in writes::reads(history).filter(writes::Read::is_linearizable) {
        let (Call::ReadMovements { skus, .. }, Answer::Movements { items }) = (&read.op.call, read.answer)
        else {
            continue;
        };
        let mut lists: BTreeMap<&str, Vec<(Element<'_>, u64)>> = BTreeMap::new();
        for movement in items.iter().rev().filter(|movement| movement.kind != "transferred_in") {
            let list = lists.entry(&movement.sku).or_default();
            let element = Element { kind: &movement.kind, cause: &movement.cause };
            // Expired holds and the like are nobody's append; what somebody should have written stays.
            let counts = matches!(element.kind, "allocated" | "received")
                || written.contains(&(movement.sku.as_str(), element));
            // Several lines of one write are one append; the same write at another index is a second one.
            let append = (element, movement.log_index);
            if counts && list.last() != Some(&append) {
                list.push(append);
            }
        }
        let asked = skus.iter().map(|sku| format!("[:r {} nil]", text(sku))).collect::<Vec<_>>().join(" ");
        let seen = |sku: &String| {
            let list = lists.get(sku.as_str()).into_iter().flatten();
            let list = list.map(|(element, _)| text(&element.to_string())).collect::<Vec<_>>().join(" ");
            format!("[:r {} [{list}]]", text(sku))
        };
        let value = skus.iter().map(seen).collect::<Vec<_>>().join(" ");
        own += 1;
        add(own, (read.op.invoked, read.completed), format!("[{asked}]"), "ok", format!("[{value}]"));
    }
    print(events)
}

fn appended(appends: &[(&str, Element<'_>)]) -> String {
    let one = |(sku, element): &(&str, Element<'_>)| {
        format!("[:append {} {}]", text(sku), text(&element.to_string()))
    };
    appends.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// An EDN string: as in Java, so backslashes and quotes are escaped.
fn text(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

fn print(mut events: Vec<Event>) -> String {
    // An end at the very time of a beginning comes after it: then the two are concurrent, as for us.
    events.sort_by_key(|event| (event.at, !event.begins));
    let mut out = String::new();
    for (index, Event { at, kind, process, value, .. }) in events.iter().enumerate() {
        let time = at.saturating_mul(1_000);
        let _ = writeln!(
            out,
            "{{:index {index}, :time {time}, :type :{kind}, :process {process}, :f :txn, :value {value}}}"
        );
    }
    out
}
