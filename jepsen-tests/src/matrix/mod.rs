//! Many runs: a table in code, each run a process of its own, and a page with all of them.
//!
//! [`table`] says which runs there are, [`child`] makes one, [`state`] remembers what came of each, so
//! that a matrix goes on where it stopped, [`page`] shows it, [`planted`] turns the question round: does
//! the harness notice a server with a bug?

pub mod child;
pub mod page;
pub mod planted;
pub mod state;
pub mod table;

use crate::checker::Verdicts;
use crate::run::plan::{self, NetworkKind, Usage};
use crate::run::{binary, judge::Count, say};
use anyhow::{Context as _, bail};
use child::{Child, Ended};
use rand::RngCore as _;
use state::{Attempt, State};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;
use table::Row;
use xxhash_rust::xxh3::xxh3_64;

/// Of a shortened form in CI: fewer faults than this were no test.
const CI_FAULTS: u64 = 10;
/// Of so many kinds: nemeses of one kind break one thing.
const CI_KINDS: usize = 3;

/// What `matrix` takes.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["quick", "full", "ci", "planted"]))]
pub struct MatrixArgs {
    /// 25 minutes: three nodes on loopback, without root; every workload
    #[arg(long)]
    pub quick: bool,
    /// 2 to 3 hours: five nodes too, network namespaces, disks, clocks; needs root
    #[arg(long)]
    pub full: bool,
    /// A little more than 3 minutes of the quick one, with at least 10 effective faults of 3 kinds
    #[arg(long)]
    pub ci: bool,
    /// Servers with a bug planted in them: each has to be caught
    #[arg(long)]
    pub planted: bool,
    /// Only runs (or planted bugs) whose name has this in it
    #[arg(long, value_name = "PATTERN")]
    pub only: Option<String>,
    /// Directory of the results; one that holds an unfinished matrix is gone on with [default: jepsen-results/TIME-matrix-WHICH]
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Seeds of all runs come from it; a random one where absent
    #[arg(long)]
    pub seed: Option<u64>,
    /// The `stockroom` binary [default: built from this workspace]
    #[arg(long, value_name = "PATH")]
    pub bin: Option<PathBuf>,
    /// How many runs may try to catch one planted bug
    #[arg(long, value_name = "RUNS", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub tries: u64,
    /// Only say which runs there are
    #[arg(long)]
    pub dry_run: bool,
}

impl MatrixArgs {
    fn which(&self) -> &'static str {
        match (self.quick, self.full, self.ci) {
            (true, ..) => "quick",
            (_, true, _) => "full",
            (_, _, true) => "ci",
            _ => "planted",
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|pattern| name.contains(pattern.as_str()))
    }
}

/// Runs a matrix and gives the exit code: 0 where all runs passed.
///
/// # Errors
/// Where the harness itself failed before or between runs.
pub async fn run(args: &MatrixArgs) -> anyhow::Result<u8> {
    if args.planted {
        return planted::run(args).await;
    }
    let rows: Vec<Row> = table::of(args.which()).into_iter().filter(|row| args.wants(&row.name())).collect();
    if rows.is_empty() {
        bail!(Usage(format!(
            "no run of this matrix has {:?} in its name; --dry-run shows the names",
            args.only.as_deref().unwrap_or_default()
        )));
    }
    if args.dry_run {
        for row in rows {
            let skip = skip(&row).map_or_else(String::new, |why| format!("  SKIPPED: {why}"));
            println!("{}{skip}", row.name());
        }
        return Ok(0);
    }
    let (binary, version) = binary::find(args.bin.as_deref()).await?;
    let mut state = open(args, &version)?;
    let began = Instant::now();
    for (place, row) in rows.iter().enumerate() {
        let title = format!("[{}/{}] {}", place + 1, rows.len(), row.name());
        one(row, &title, &binary, &mut state).await?;
        page::write(&state)?;
    }
    finish(args, &rows, &state, began)
}

/// The matrix in `--dir`, or a new one.
fn open(args: &MatrixArgs, version: &str) -> anyhow::Result<State> {
    let dir = args.dir.clone().unwrap_or_else(|| {
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        Path::new("jepsen-results").join(format!("{time}-matrix-{}", args.which()))
    });
    let seed = args.seed.unwrap_or_else(|| rand::rng().next_u64() % 1_000_000);
    let state = State::open(&dir, args.which(), seed, version)?;
    println!("matrix {} with {version}, seed {}, in {}", args.which(), state.seed, state.dir.display());
    Ok(state)
}

/// One run, unless it passed before.
async fn one(row: &Row, title: &str, binary: &Path, state: &mut State) -> anyhow::Result<()> {
    let name = row.name();
    if let Some(seconds) = state.passed(&name) {
        println!("{title}: passed before, in {seconds:.0} s");
        return Ok(());
    }
    if let Some(why) = skip(row) {
        println!("{title}: SKIPPED: {why}");
        return state.add(&name, Attempt::skipped(&name, why));
    }
    let seed = state.seed_of(&name);
    println!("{title}: {} s, seed {seed}", row.time_s);
    let dir = state.new_dir(&name);
    let child = Child { row, seed, dir: dir.clone(), binary: binary.to_owned(), env: Vec::new() };
    let ended = child.run().await?;
    tell(&ended, &dir);
    state.add(&name, ended.attempt(row, &dir, seed))
}

/// Why a row cannot be run here, if it cannot: a part of a composition is no composition.
fn skip(row: &Row) -> Option<String> {
    if row.network == NetworkKind::Netns
        && let Some(why) = crate::network::netns::missing()
    {
        return Some(format!("netns: {why}"));
    }
    row.nemeses.iter().find_map(|name| match plan::find_nemesis(name) {
        Ok(entry) => plan::lacking(entry, row.nodes).map(|why| format!("{name}: {why}")),
        Err(error) => Some(error.to_string()),
    })
}

/// What came of a run, in a few lines.
fn tell(ended: &Ended, dir: &Path) {
    match &ended.summary {
        None => println!(
            "      HARNESS FAILED after {:.0} s: {}; see {}",
            ended.seconds,
            ended.last_line,
            child::output(dir).display()
        ),
        Some(summary) => {
            let (calls, faults) = (summary.calls, say::counts(&summary.faults));
            println!(
                "      {} after {:.0} s: {} ok, {} fail, {} info; faults {faults}",
                say::word(summary.result),
                ended.seconds,
                calls.ok,
                calls.fail,
                calls.info
            );
            let bad = summary.verdicts.iter().filter(|verdict| verdict.result != Verdicts::Holds);
            for line in say::table(&bad.cloned().collect::<Vec<_>>()) {
                println!("      {line}");
            }
            if summary.result != Verdicts::Holds {
                println!("      {}", dir.join("report.html").display());
            }
        }
    }
}

/// The end of a matrix: totals, the page, the exit code.
fn finish(args: &MatrixArgs, rows: &[Row], state: &State, began: Instant) -> anyhow::Result<u8> {
    let page = page::write(state)?;
    let names: Vec<String> = rows.iter().map(Row::name).collect();
    let last: Vec<&Attempt> = names.iter().filter_map(|name| state.last(name)).collect();
    let count = |code: Option<u8>| last.iter().filter(|attempt| attempt.code == code).count();
    println!();
    println!(
        "{} runs: {} passed, {} violated, {} not decided, {} where the harness failed, {} skipped",
        names.len(),
        count(Some(0)),
        count(Some(8)),
        count(Some(9)),
        count(Some(1)),
        count(None)
    );
    let (effective, kinds) = totals(last.iter().copied());
    println!("{effective} faults took effect, of {} kinds: {}", kinds.len(), kinds.join(", "));
    println!("{}", page.display());
    println!("took {:.0} s", began.elapsed().as_secs_f64());
    let worst = worst(&last.iter().map(|attempt| attempt.code).collect::<Vec<_>>());
    if args.ci && worst == 0 && args.only.is_none() && (effective < CI_FAULTS || kinds.len() < CI_KINDS) {
        println!("FAILED: at least {CI_FAULTS} faults of {CI_KINDS} kinds have to take effect");
        return Ok(9);
    }
    Ok(worst)
}

/// How many faults took effect, and of which kinds: `kill-all` and `kill-leader` are one.
fn totals<'a>(attempts: impl Iterator<Item = &'a Attempt>) -> (u64, Vec<String>) {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for (nemesis, Count { effective, .. }) in attempts.flat_map(|attempt| &attempt.faults) {
        if *effective > 0 {
            let kind = nemesis.split('-').next().unwrap_or(nemesis);
            *kinds.entry(kind).or_default() += effective;
        }
    }
    (kinds.values().sum(), kinds.keys().map(|kind| (*kind).to_owned()).collect())
}

/// A violation is worse than a failure of the harness, this worse than what is open; what was skipped is open.
fn worst(codes: &[Option<u8>]) -> u8 {
    let any = |wanted: fn(&Option<u8>) -> bool| codes.iter().any(wanted);
    match () {
        () if any(|code| *code == Some(8)) => 8,
        () if any(|code| !matches!(code, None | Some(0 | 8 | 9))) => 1,
        () if codes.is_empty() || any(|code| matches!(code, None | Some(9))) => 9,
        () => 0,
    }
}

/// A seed for the n-th attempt at a run of this name.
fn derive(seed: u64, name: &str, attempt: usize) -> u64 {
    xxh3_64(format!("{seed} {name} {attempt}").as_bytes()) % 1_000_000
}

/// Writes a file of the matrix.
fn write(path: &Path, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_runs_that_all_passed_are_a_pass() {
        assert_eq!(worst(&[Some(0), Some(0)]), 0);
        assert_eq!(worst(&[Some(0), Some(9)]), 9);
        assert_eq!(worst(&[Some(0), None]), 9);
        assert_eq!(worst(&[]), 9);
        assert_eq!(worst(&[Some(9), Some(1)]), 1);
        assert_eq!(worst(&[Some(1), Some(8), Some(9)]), 8);
    }

    #[test]
    fn each_attempt_has_a_seed_of_its_own() {
        let seeds = [derive(1, "a", 0), derive(1, "a", 1), derive(1, "b", 0), derive(2, "a", 0)];
        let distinct: std::collections::BTreeSet<u64> = seeds.into_iter().collect();
        assert_eq!(distinct.len(), seeds.len());
        assert_eq!(derive(1, "a", 0), seeds[0]);
    }
}
