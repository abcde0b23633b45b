//! The page of a matrix, `index.html`, and the same as text.

use super::state::{Attempt, State};
use super::table;
use crate::checker::Verdicts;
use crate::report::{self, Row, Shown};
use crate::run::say;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Writes both and gives the path of the page.
///
/// # Errors
/// Where they cannot be written.
pub fn write(state: &State) -> anyhow::Result<PathBuf> {
    super::write(&state.dir.join("matrix.txt"), text(state))?;
    let rows: Vec<Row> = attempts(state).map(|(name, attempt)| row(state, name, attempt)).collect();
    report::index(&state.dir, &rows)
}

fn attempts(state: &State) -> impl Iterator<Item = (&String, &Attempt)> {
    state.order.iter().flat_map(|name| state.runs[name].iter().map(move |attempt| (name, attempt)))
}

/// What an attempt came to. A later pass does not make good what an earlier attempt showed.
fn shown(state: &State, attempt: &Attempt) -> Shown {
    let hunted = state.which == "planted" && !table::control().iter().any(|row| row.name() == attempt.run);
    match (attempt.code, hunted) {
        (None, _) => Shown::Skipped,
        (Some(8), true) => Shown::Good("caught".to_owned()),
        (Some(0), true) => Shown::Bad("not caught".to_owned()),
        (Some(0), false) => Shown::Verdict(Verdicts::Holds),
        (Some(8), false) => Shown::Verdict(Verdicts::Violated),
        (Some(9), _) => Shown::Verdict(Verdicts::NotDecided),
        (Some(_), _) => Shown::Bad("harness failed".to_owned()),
    }
}

fn row(state: &State, name: &str, attempt: &Attempt) -> Row {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
    let seconds = attempt.seconds.round() as u64;
    let (effective, total) =
        attempt.faults.values().fold((0, 0), |(e, t), count| (e + count.effective, t + count.total));
    Row {
        name: if name == attempt.run { name.to_owned() } else { format!("{name}: {}", attempt.run) },
        workload: attempt.workload.clone(),
        nemeses: attempt.nemeses.clone(),
        result: shown(state, attempt),
        seconds,
        faults: format!("{effective} of {total}"),
        report: match attempt.code {
            None => None,
            Some(0 | 8 | 9) => Some(PathBuf::from(&attempt.dir).join("report.html")),
            Some(_) => Some(PathBuf::from(format!("{}.txt", attempt.dir))),
        },
        note: attempt.wrong.join("; "),
    }
}

fn text(state: &State) -> String {
    let width = state.order.iter().map(String::len).max().unwrap_or(0);
    let mut text = format!("matrix {} with {}, seed {}\n\n", state.which, state.version, state.seed);
    for (name, attempt) in attempts(state) {
        let result = match shown(state, attempt) {
            Shown::Verdict(verdict) => say::word(verdict).to_owned(),
            Shown::Good(word) => word,
            Shown::Bad(word) => word.to_uppercase(),
            Shown::Skipped => "SKIPPED".to_owned(),
        };
        let _ = write!(
            text,
            "{result:<14}  {name:<width$}  {:>5.0} s  seed {:<6}",
            attempt.seconds, attempt.seed
        );
        let calls = attempt.calls;
        let _ = write!(text, "  {} ok, {} fail, {} info", calls.ok, calls.fail, calls.info);
        let _ = writeln!(text, "; faults {}", say::counts(&attempt.faults));
        for wrong in &attempt.wrong {
            let _ = writeln!(text, "{:<16}- {wrong}", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(code: u8, run: &str) -> Attempt {
        Attempt { code: Some(code), run: run.into(), dir: format!("{run}-1"), ..Attempt::default() }
    }

    #[test]
    fn what_failed_is_loud_and_linked() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut state = State::open(dir.path(), "quick", 7, "v1").expect("new");
        let wrong = vec!["set: <lost> 3 orders".to_owned()];
        state.add("unique-kill-3n", Attempt { wrong, ..attempt(8, "unique-kill-3n") }).expect("writable");
        state.add("stock-x-3n", Attempt::skipped("stock-x-3n", "x: no root".into())).expect("writable");
        let page = std::fs::read_to_string(write(&state).expect("writable")).expect("readable");
        assert!(page.contains("unique-kill-3n-1/report.html"), "{page}");
        assert!(page.contains("&lt;lost&gt; 3 orders"), "{page}");
        let text = text(&state);
        assert!(text.contains("VIOLATED        unique-kill-3n") && text.contains("x: no root"), "{text}");
    }

    #[test]
    fn a_planted_bug_has_to_be_violated_and_the_control_has_to_hold() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State::open(dir.path(), "planted", 7, "v1").expect("new");
        let control = table::control()[0].name();
        assert_eq!(shown(&state, &attempt(8, "unique-kill-3n")), Shown::Good("caught".into()));
        assert_eq!(shown(&state, &attempt(0, "unique-kill-3n")), Shown::Bad("not caught".into()));
        assert_eq!(shown(&state, &attempt(0, &control)), Shown::Verdict(Verdicts::Holds));
        assert_eq!(shown(&state, &attempt(8, &control)), Shown::Verdict(Verdicts::Violated));
    }
}
