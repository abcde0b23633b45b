//! Does the harness notice? Servers with a known bug in them, ordinary runs with fresh seeds, until each is caught.
//!
//! A control comes first: the same build with no bug chosen has to pass, or being caught would show nothing.

use super::child::{Child, Ended};
use super::state::{Attempt, State};
use super::table::{self, Row};
use super::{MatrixArgs, page, skip, tell};
use crate::checker::Verdicts;
use crate::run::binary;
use crate::run::plan::Usage;
use anyhow::{Context as _, bail, ensure};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The variable by which a planted build is told which bug to have.
const VARIABLE: &str = "STOCKROOM_PLANTED";

/// What came of one bug.
struct Outcome {
    bug: String,
    said: String,
    caught: bool,
}

/// Control, then every bug.
pub(super) async fn run(args: &MatrixArgs) -> anyhow::Result<u8> {
    let named = match &args.bin {
        Some(path) => path.clone(),
        None => binary::build("planted", &["--features", "planted"]).await?,
    };
    let (binary, version) = binary::find(Some(&named)).await?;
    let bugs: Vec<String> = bugs(&binary).await?.into_iter().filter(|bug| args.wants(bug)).collect();
    if bugs.is_empty() {
        bail!(Usage(format!(
            "no planted bug has {:?} in its name; `{} planted` lists them",
            args.only.as_deref().unwrap_or_default(),
            binary.display()
        )));
    }
    if args.dry_run {
        for bug in &bugs {
            let rows: Vec<String> = table::against(bug).iter().map(Row::name).collect();
            println!("{bug}: {}", rows.join(", "));
        }
        return Ok(0);
    }
    let mut state = super::open(args, &version)?;
    if !control(&binary, &mut state).await? {
        println!("the control did not pass: nothing that follows would show anything");
        return Ok(9);
    }
    let began = Instant::now();
    let mut outcomes = Vec::new();
    for (place, bug) in bugs.iter().enumerate() {
        println!("[{}/{}] {bug}", place + 1, bugs.len());
        let outcome = hunt(bug, args.tries, &binary, &mut state).await?;
        println!("      {}", outcome.said);
        outcomes.push(outcome);
        summary(&state, &outcomes)?;
    }
    println!("\n{}", summary(&state, &outcomes)?);
    println!("{}\ntook {:.0} s", page::write(&state)?.display(), began.elapsed().as_secs_f64());
    Ok(if outcomes.iter().all(|outcome| outcome.caught) { 0 } else { 9 })
}

/// The names of all bugs that the build has.
async fn bugs(binary: &Path) -> anyhow::Result<Vec<String>> {
    let output = tokio::process::Command::new(binary).arg("planted").output().await?;
    ensure!(
        output.status.success(),
        "{} has no planted bugs; build it with cargo build --profile planted -p stockroom --features planted",
        binary.display()
    );
    let text = String::from_utf8(output.stdout).context("names are text")?;
    // A line is a name, and may go on with what it is about.
    let name = |line: &str| line.split_whitespace().next().map(|word| word.trim_end_matches(':').to_owned());
    Ok(text.lines().filter_map(name).collect())
}

async fn control(binary: &Path, state: &mut State) -> anyhow::Result<bool> {
    for row in &table::control() {
        super::one(row, &format!("control: {}", row.name()), binary, state).await?;
        page::write(state)?;
        if state.passed(&row.name()).is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Fitting runs in turns, until one is violated.
async fn hunt(bug: &str, tries: u64, binary: &Path, state: &mut State) -> anyhow::Result<Outcome> {
    let outcome = |caught, said| Outcome { bug: bug.to_owned(), said, caught };
    if let Some(attempt) = state.last(bug).filter(|attempt| attempt.code == Some(8)) {
        return Ok(outcome(true, format!("caught before, by {}", attempt.wrong.join("; "))));
    }
    let (rows, skipped): (Vec<Row>, Vec<Row>) =
        table::against(bug).into_iter().partition(|row| skip(row).is_none());
    for row in &skipped {
        println!("      SKIPPED {}: {}", row.name(), skip(row).unwrap_or_default());
    }
    if rows.is_empty() {
        return Ok(outcome(false, "NOT TRIED: nothing that fits it can be done on this machine".to_owned()));
    }
    let mut seconds = 0.0;
    for (tried, row) in (1..=tries).zip(rows.iter().cycle()) {
        let seed = state.seed_of(bug);
        let dir = state.new_dir(&format!("{bug}-{}", row.name()));
        println!("      try {tried} of {tries}: {}, {} s, seed {seed}", row.name(), row.time_s);
        let env = vec![(VARIABLE.to_owned(), bug.to_owned())];
        let child = Child { row, seed, dir: dir.clone(), binary: binary.to_owned(), env };
        let ended = child.run().await?;
        seconds += ended.seconds;
        let attempt = Attempt { wrong: reasons(&ended), ..ended.attempt(row, &dir, seed) };
        state.add(bug, attempt)?;
        page::write(state)?;
        if ended.code == 8 {
            let by = checkers(&ended).join(", ");
            return Ok(outcome(
                true,
                format!("caught after {seconds:.0} s ({tried} runs) by {by}: {}", row.name()),
            ));
        }
        tell(&ended, &dir);
    }
    Ok(outcome(false, format!("NOT CAUGHT in {tries} runs, {seconds:.0} s")))
}

fn checkers(ended: &Ended) -> Vec<String> {
    let verdicts = ended.summary.iter().flat_map(|summary| &summary.verdicts);
    let violated = verdicts.filter(|verdict| verdict.result == Verdicts::Violated);
    violated.map(|verdict| verdict.checker.clone()).collect()
}

/// What was violated; else what was not decided.
fn reasons(ended: &Ended) -> Vec<String> {
    let Some(summary) = &ended.summary else {
        return vec![format!("the harness failed: {}", ended.last_line)];
    };
    let of = |wanted| {
        let verdicts = summary.verdicts.iter().filter(move |verdict| verdict.result == wanted);
        verdicts.map(|verdict| format!("{}: {}", verdict.checker, verdict.summary)).collect::<Vec<_>>()
    };
    let violated = of(Verdicts::Violated);
    if violated.is_empty() { of(Verdicts::NotDecided) } else { violated }
}

/// One line a bug, also in a file of the matrix.
fn summary(state: &State, outcomes: &[Outcome]) -> anyhow::Result<String> {
    let width = outcomes.iter().map(|outcome| outcome.bug.len()).max().unwrap_or(0);
    let lines: Vec<String> =
        outcomes.iter().map(|outcome| format!("{:<width$}  {}", outcome.bug, outcome.said)).collect();
    let path: PathBuf = state.dir.join("planted.txt");
    super::write(&path, lines.join("\n") + "\n")?;
    Ok(lines.join("\n"))
}
