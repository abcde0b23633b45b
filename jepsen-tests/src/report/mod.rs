//! The page of a run, for people, and the page of many runs.
//!
//! One file that needs nothing else: no network, no library, readable without scripts. What grows with the
//! number of calls is counted into buckets here, so that the page stays small.
//!
//! - `run_chart`, `nodes`: the run on one time axis. `violation`, `timeline`, `touch`: what is wrong, and its SKUs.
//! - `tables`: everything in words. `words`: calls and answers. `html`, `axis`: what they are made of.

mod axis;
mod html;
mod index;
mod nodes;
mod run_chart;
mod tables;
mod timeline;
mod touch;
mod violation;
mod words;

pub use index::{Row, Shown, index};

use crate::checker::{Verdict, Verdicts};
use crate::history::History;
use anyhow::Context as _;
use axis::{Axis, Kind};
use html::{Esc, Html, count, plural};
use std::path::{Path, PathBuf};

/// Adds formatted text to a page.
macro_rules! put {
    ($out:expr, $($text:tt)*) => { $out.add(format_args!($($text)*)) };
}
use put;

/// Violations drawn in full; the others are named. One bug often breaks thousands of reads.
const MOST_DRAWN: usize = 8;
const MOST_NAMED: usize = 200;

/// Writes the page of a run into its directory and gives its path.
///
/// # Errors
/// Where it cannot be written.
pub fn write(dir: &Path, history: &History, verdicts: &[Verdict]) -> anyhow::Result<PathBuf> {
    let mut body = Html::default();
    let axis = Axis::new(axis::end(history));
    header(&mut body, history, verdicts);
    tables::verdicts(&mut body, verdicts);
    violations(&mut body, history, verdicts);
    put!(body, "<section><h2>The run</h2>\n");
    if history.ops.is_empty() && history.samples.is_empty() {
        put!(
            body,
            "<p class=\"note\">The history is empty: no client made a call, and no node was asked how it was.</p>\n"
        );
    } else {
        run_chart::draw(&mut body, history, &axis);
    }
    put!(body, "</section>\n");
    tables::faults(&mut body, &history.faults);
    tables::exits(&mut body, &history.exits);
    tables::probes(&mut body, &history.probes);
    tables::calls(&mut body, history);
    tables::errors(&mut body, history);
    files(&mut body, dir);
    let (_, word) = overall(verdicts);
    let title = format!("{word}: {}", subject(history));
    save(dir.join("report.html"), &html::page(&title, &body))
}

fn save(path: PathBuf, text: &str) -> anyhow::Result<PathBuf> {
    std::fs::write(&path, text).with_context(|| format!("cannot write the report {}", path.display()))?;
    Ok(path)
}

/// One violation is a violated run; without one, everything has to be decided, and something at all.
fn overall(verdicts: &[Verdict]) -> (&'static str, &'static str) {
    let any = |result| verdicts.iter().any(|verdict| verdict.result == result);
    if any(Verdicts::Violated) {
        ("bad", "VIOLATED")
    } else if verdicts.is_empty() || any(Verdicts::NotDecided) {
        ("open", "NOT DECIDED")
    } else {
        ("good", "PASSED")
    }
}

fn nemeses(history: &History) -> String {
    match history.run.nemeses.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

/// What was run, as a headline.
fn subject(history: &History) -> String {
    let workload = match history.run.workload.as_str() {
        "" => "a workload without a name",
        name => name,
    };
    match history.run.nemeses.as_slice() {
        [] => format!("{workload} without faults"),
        names => format!("{workload} under {}", names.join(", ")),
    }
}

/// What came out, in one sentence.
fn sentence(verdicts: &[Verdict]) -> String {
    let named = |result| {
        let names = verdicts.iter().filter(|verdict| verdict.result == result);
        names.map(|verdict| verdict.checker.as_str()).collect::<Vec<_>>().join(", ")
    };
    match overall(verdicts).0 {
        "bad" => format!("It does not hold: {}.", named(Verdicts::Violated)),
        "good" => format!("{} found nothing wrong.", plural(verdicts.len(), "checker", "checkers")),
        _ if verdicts.is_empty() => "Nothing was checked.".to_owned(),
        _ => format!("Not a pass. Could not be decided: {}.", named(Verdicts::NotDecided)),
    }
}

fn header(out: &mut Html, history: &History, verdicts: &[Verdict]) {
    let run = &history.run;
    let (class, word) = overall(verdicts);
    put!(out, "<header class=\"{class}\">\n<p class=\"kicker\">Stockroom, run of the harness</p>\n");
    put!(out, "<h1><span class=\"word\">{word}</span> <span>{}</span></h1>\n", Esc(subject(history)));
    put!(out, "<p class=\"lead\">{}</p>\n<dl>", Esc(sentence(verdicts)));
    let faults = &history.faults;
    let effective = faults.iter().filter(|fault| fault.effective).count();
    let kinds = |kind: Kind| count(history.ops.iter().filter(|op| Kind::of(op) == kind).count() as u64);
    let duration = format!("{} s of load, {} in all", run.time_s, html::span(axis::end(history)));
    let facts = [
        ("Workload", run.workload.clone()),
        ("Nemeses", nemeses(history)),
        ("Nodes", run.nodes.to_string()),
        ("Network", run.network.clone()),
        ("Seed", run.seed.to_string()),
        ("Duration", duration),
        ("Calls", count(history.ops.len() as u64)),
        ("ok / fail / info", format!("{} / {} / {}", kinds(Kind::Ok), kinds(Kind::Fail), kinds(Kind::Info))),
        ("Faults that took effect", format!("{effective} of {}", faults.len())),
        ("Server", run.version.clone()),
    ];
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        put!(out, "<div><dt>{name}</dt><dd>{}</dd></div>", Esc(value));
    }
    put!(out, "</dl>\n");
    if !run.settings.is_empty() {
        let settings: Vec<String> =
            run.settings.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        put!(out, "<p class=\"note\">Settings: <code>{}</code></p>\n", Esc(settings.join(", ")));
    }
    if !run.command.is_empty() {
        put!(
            out,
            "<div class=\"again\"><span>Run it again</span><code id=\"command\">{}</code>",
            Esc(&run.command)
        );
        put!(out, "<button type=\"button\" id=\"copy\" hidden>Copy</button></div>\n");
    }
    put!(out, "</header>\n");
}

fn violations(out: &mut Html, history: &History, verdicts: &[Verdict]) {
    let all: Vec<_> = verdicts
        .iter()
        .flat_map(|verdict| verdict.violations.iter().map(move |each| (verdict, each)))
        .collect();
    if all.is_empty() {
        return;
    }
    let touch = touch::Touch::new(&history.ops);
    put!(
        out,
        "<section><h2>What is wrong <small>{}</small></h2>\n",
        plural(all.len(), "violation", "violations")
    );
    for (nth, (verdict, violation)) in all.iter().take(MOST_DRAWN).enumerate() {
        let open = if nth < 3 { " open" } else { "" };
        put!(
            out,
            "<details{open}><summary><code>{}</code> {}</summary>\n",
            Esc(&verdict.checker),
            Esc(&violation.what)
        );
        violation::draw(out, history, &touch, violation);
        put!(out, "</details>\n");
    }
    if all.len() > MOST_DRAWN {
        put!(out, "<details><summary>{} more</summary><ul>\n", count((all.len() - MOST_DRAWN) as u64));
        for (verdict, violation) in all.iter().skip(MOST_DRAWN).take(MOST_NAMED) {
            let ops = html::list(&violation.ops[..violation.ops.len().min(20)]);
            put!(
                out,
                "<li><code>{}</code> {} (calls {ops})</li>\n",
                Esc(&verdict.checker),
                Esc(&violation.what)
            );
        }
        put!(out, "</ul></details>\n");
        if all.len() > MOST_DRAWN + MOST_NAMED {
            put!(out, "<p class=\"note\">The rest stands in the verdicts beside this page.</p>\n");
        }
    }
    put!(out, "</section>\n");
}

/// Links to what lies beside the page, as far as its names are safe in a link.
fn files(out: &mut Html, dir: &Path) {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = names.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let simple = |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let mut names: Vec<String> =
        names.filter_map(|entry| entry.file_name().into_string().ok()).filter(simple).collect();
    names.retain(|name| name != "report.html");
    names.sort();
    if names.is_empty() {
        return;
    }
    put!(out, "<section><h2>Beside this page</h2><p class=\"files\">");
    for name in names {
        put!(out, "<a href=\"{name}\">{name}</a> ");
    }
    put!(out, "</p></section>\n");
}
