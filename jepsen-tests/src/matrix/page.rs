//! The page of a matrix, `index.html`, and the same as text.

use super::state::{Attempt, State};
use crate::run::say;
use std::fmt::Write as _;
use std::path::PathBuf;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1c2733}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.35rem .6rem;border-bottom:1px solid #d8dee6}\
th{font-weight:600}td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\
.holds,.caught{color:#14692f}.bad{color:#a51616;font-weight:600}.open{color:#8a5a00;font-weight:600}small{color:#5a6775}";

/// What an attempt came to, in words, and its class on the page.
fn result(which: &str, attempt: &Attempt) -> (&'static str, &'static str) {
    match (which, attempt.code) {
        (_, None) => ("SKIPPED", "open"),
        (_, Some(0)) => ("holds", "holds"),
        ("planted", Some(8)) => ("violated", "caught"),
        (_, Some(8)) => ("VIOLATED", "bad"),
        (_, Some(9)) => ("NOT DECIDED", "open"),
        (_, Some(_)) => ("HARNESS FAILED", "bad"),
    }
}

/// Writes both and gives the path of the page.
///
/// # Errors
/// Where they cannot be written.
pub fn write(state: &State) -> anyhow::Result<PathBuf> {
    super::write(&state.dir.join("matrix.txt"), text(state))?;
    let path = state.dir.join("index.html");
    super::write(&path, html(state))?;
    Ok(path)
}

fn attempts(state: &State) -> impl Iterator<Item = (&String, &Attempt)> {
    state.order.iter().flat_map(|name| state.runs[name].iter().map(move |attempt| (name, attempt)))
}

fn text(state: &State) -> String {
    let width = state.order.iter().map(String::len).max().unwrap_or(0);
    let mut text = format!("matrix {} with {}, seed {}\n\n", state.which, state.version, state.seed);
    for (name, attempt) in attempts(state) {
        let (result, _) = result(&state.which, attempt);
        let calls = attempt.calls;
        let _ = writeln!(
            text,
            "{result:<14}  {name:<width$}  {:>5.0} s  seed {:<6}  {} ok, {} fail, {} info; faults {}",
            attempt.seconds,
            attempt.seed,
            calls.ok,
            calls.fail,
            calls.info,
            say::counts(&attempt.faults)
        );
        for wrong in &attempt.wrong {
            let _ = writeln!(text, "{:<16}- {wrong}", "");
        }
    }
    text
}

fn html(state: &State) -> String {
    let mut rows = String::new();
    for (name, attempt) in attempts(state) {
        let (result, class) = result(&state.which, attempt);
        let link = match attempt.code {
            Some(0 | 8 | 9) => format!("<a href=\"{0}/report.html\">{0}</a>", escape(&attempt.dir)),
            Some(_) => format!("<a href=\"{}.txt\">output</a>", escape(&attempt.dir)),
            None => String::new(),
        };
        let wrong: String =
            attempt.wrong.iter().map(|wrong| format!("<br><small>{}</small>", escape(wrong))).collect();
        let calls = attempt.calls;
        let _ = writeln!(
            rows,
            "<tr><td>{}{wrong}</td><td class=\"{class}\">{result}</td><td class=n>{:.0} s</td>\
             <td class=n>{}</td><td class=n>{} / {} / {}</td><td>{}</td><td>{link}</td></tr>",
            escape(name),
            attempt.seconds,
            attempt.seed,
            calls.ok,
            calls.fail,
            calls.info,
            escape(&say::counts(&attempt.faults)),
        );
    }
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Stockroom: matrix {0}</title>\
         <style>{STYLE}</style><h1>Matrix {0}</h1><p>{1}, seed {2}. Faults are those that took effect, of all.</p>\n\
         <table><tr><th>Run<th>Result<th>Took<th>Seed<th>Calls: ok / fail / info<th>Faults<th>Report</tr>\n{rows}</table></html>\n",
        escape(&state.which),
        escape(&state.version),
        state.seed,
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_loud_and_linked() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut state = State::open(dir.path(), "quick", 7, "v1").expect("new");
        let wrong = vec!["set: <lost> 3 orders".to_owned()];
        let attempt = Attempt { code: Some(8), dir: "unique-kill-3n-1".into(), wrong, ..Attempt::default() };
        state.add("unique-kill-3n", attempt).expect("writable");
        state.add("stock-x-3n", Attempt::skipped("x: no root".into())).expect("writable");
        let page = std::fs::read_to_string(write(&state).expect("writable")).expect("readable");
        assert!(page.contains("<td class=\"bad\">VIOLATED</td>"), "{page}");
        assert!(page.contains("href=\"unique-kill-3n-1/report.html\""), "{page}");
        assert!(page.contains("set: &lt;lost&gt; 3 orders"), "{page}");
        let text = text(&state);
        assert!(text.contains("VIOLATED        unique-kill-3n") && text.contains("x: no root"), "{text}");
    }
}
