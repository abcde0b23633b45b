//! `jepsen-tests`: tries to break Stockroom, and says what came of it.

mod list;

use clap::{Parser, Subcommand};
use jepsen_tests::history::{self, History};
use jepsen_tests::matrix::{self, MatrixArgs};
use jepsen_tests::report;
use jepsen_tests::run::judge::{Summary, exit_code};
use jepsen_tests::run::plan::{Plan, RunArgs, Usage};
use jepsen_tests::run::{self, say};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

const HELP: &str = "\
Exit codes:
  0 all verdicts hold      2 usage            9 something could not be decided: a failed run too
  1 the harness failed     8 violated

Examples:
  jepsen-tests run --workload orders --nemesis partition,kill --nodes 5 --time 120 --seed 7
  jepsen-tests check jepsen-results/20261121T080000Z-orders-kill/history.jsonl
  jepsen-tests matrix --quick";

/// Tries to break Stockroom: real processes, real faults, checkers
#[derive(Debug, Parser)]
#[command(name = "jepsen-tests", version, about, after_help = HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One run: a cluster, clients, faults, verdicts, a page
    Run(RunArgs),
    /// Workloads and nemeses, and what this machine cannot do
    List,
    /// Judges a history again
    Check {
        /// A `history.jsonl`, or the directory of a run
        history: PathBuf,
    },
    /// Writes the page of a run again
    Report {
        /// The directory of a run
        dir: PathBuf,
    },
    /// Many runs
    Matrix(MatrixArgs),
}

fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.is::<Usage>() => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn execute(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Run(args) => {
            let plan = Plan::new(&args)?;
            Ok(exit_code(wait(run::run(plan))?.result))
        }
        Command::List => {
            list::print();
            Ok(0)
        }
        Command::Check { history } => check(&history),
        Command::Report { dir } => rewrite(&dir),
        Command::Matrix(args) => wait(matrix::run(&args)),
    }
}

fn wait<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

fn read(path: &Path) -> anyhow::Result<Arc<History>> {
    Ok(Arc::new(history::read(&run::history_in(path)?)?))
}

fn check(path: &Path) -> anyhow::Result<u8> {
    let history = read(path)?;
    let summary = Summary::of(&history)?;
    println!("{}: {} calls", history.run.workload, history.ops.len());
    for line in say::table(&summary.verdicts) {
        println!("{line}");
    }
    println!("result  {}", say::word(summary.result));
    Ok(exit_code(summary.result))
}

/// With the verdicts of then, where they are there.
fn rewrite(dir: &Path) -> anyhow::Result<u8> {
    let history = read(dir)?;
    let summary = match Summary::read(dir) {
        Ok(summary) => summary,
        Err(error) => {
            eprintln!("judging again: {error:#}");
            Summary::of(&history)?
        }
    };
    println!("{}", report::write(dir, &history, &summary.verdicts)?.display());
    Ok(0)
}
