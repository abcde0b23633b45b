//! The page of many runs.

use super::html::{Esc, Html, plural};
use super::{html, put, save, tables};
use crate::checker::Verdicts;
use std::path::{Path, PathBuf};

/// What came of one run of a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// The verdict of an ordinary run.
    Verdict(Verdicts),
    /// As it should be, in words: a planted bug was caught.
    Good(String),
    /// Not as it should be: a planted bug was not caught, a run did not start.
    Bad(String),
    /// It did not run, and the note says why.
    Skipped,
}

/// One run of a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What the matrix calls it.
    pub name: String,
    /// Name of the workload.
    pub workload: String,
    /// Names of the nemeses.
    pub nemeses: Vec<String>,
    /// What came out.
    pub result: Shown,
    /// How long it took.
    pub seconds: u64,
    /// Faults that took effect, in words: `31 of 32`.
    pub faults: String,
    /// Its page, relative to the page of the matrix.
    pub report: Option<PathBuf>,
    /// Whatever else there is to say.
    pub note: String,
}

impl Shown {
    fn class_and_word(&self) -> (&'static str, &str) {
        match self {
            Shown::Verdict(Verdicts::Holds) => ("good", "passed"),
            Shown::Verdict(verdict) => tables::result(*verdict),
            Shown::Good(text) => ("good", text),
            Shown::Bad(text) => ("bad", text),
            Shown::Skipped => ("skipped", "not run"),
        }
    }
}

/// Writes `index.html` over the runs of a matrix and gives its path.
///
/// # Errors
/// Where it cannot be written.
pub fn index(dir: &Path, rows: &[Row]) -> anyhow::Result<PathBuf> {
    let of = |class| rows.iter().filter(|row| row.result.class_and_word().0 == class).count();
    let (bad, open, skipped) = (of("bad"), of("open"), of("skipped"));
    let (class, word) = match (bad, open, of("good")) {
        (1.., ..) => ("bad", "FAILED"),
        (0, 1.., _) | (0, 0, 0) => ("open", "NOT DECIDED"),
        _ => ("good", "PASSED"),
    };
    let mut body = Html::default();
    put!(body, "<header class=\"{class}\">\n<p class=\"kicker\">Stockroom, matrix of the harness</p>\n");
    put!(
        body,
        "<h1><span class=\"word\">{word}</span> <span>{}</span></h1>\n",
        plural(rows.len(), "run", "runs")
    );
    let seconds: u64 = rows.iter().map(|row| row.seconds).sum();
    put!(body, "<dl><div><dt>Good</dt><dd>{}</dd></div><div><dt>Bad</dt><dd>{bad}</dd></div>", of("good"));
    put!(body, "<div><dt>Not decided</dt><dd>{open}</dd></div><div><dt>Not run</dt><dd>{skipped}</dd></div>");
    put!(
        body,
        "<div><dt>Time of all runs</dt><dd>{}</dd></div></dl>\n</header>\n",
        html::span(seconds * 1_000_000)
    );
    put!(
        body,
        "<section><h2>Runs</h2><div class=\"wide\"><table><thead><tr><th>Run</th><th>Result</th><th>Workload</th><th>Nemeses</th>\
         <th class=\"n\">Took</th><th class=\"n\">Faults</th><th>Note</th></tr></thead><tbody>\n"
    );
    // What needs a look comes first; otherwise the order of the matrix.
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by_key(|row| {
        ["bad", "open", "good", "skipped"].iter().position(|c| *c == row.result.class_and_word().0)
    });
    for each in sorted {
        row(&mut body, each);
    }
    put!(body, "</tbody></table></div></section>\n");
    save(
        dir.join("index.html"),
        &html::page(&format!("{word}: {}", plural(rows.len(), "run", "runs")), &body),
    )
}

fn row(out: &mut Html, row: &Row) {
    let (class, word) = row.result.class_and_word();
    put!(out, "<tr><td>");
    match &row.report {
        Some(path) => put!(out, "<a href=\"{}\">{}</a>", link(path), Esc(&row.name)),
        None => put!(out, "{}", Esc(&row.name)),
    }
    put!(
        out,
        "</td><td><span class=\"badge {class}\">{}</span></td><td>{}</td>",
        Esc(word),
        Esc(&row.workload)
    );
    let took = if row.seconds == 0 { "–".to_owned() } else { html::span(row.seconds * 1_000_000) };
    put!(out, "<td>{}</td><td class=\"n\">{took}</td>", Esc(row.nemeses.join(", ")));
    put!(out, "<td class=\"n\">{}</td><td>{}</td></tr>\n", Esc(&row.faults), Esc(&row.note));
}

/// A relative path as a link: bytes that mean something else in one are encoded.
fn link(path: &Path) -> String {
    let mut out = String::from("./");
    for byte in path.to_string_lossy().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' | b'~' => {
                out.push(byte.into())
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
