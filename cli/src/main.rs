//! `stockctl`: looks after a Stockroom cluster, over HTTP and nothing else.
//!
//! Thin by intent: it parses, calls, and prints. No rule about stock lives here; what the server
//! refuses is shown in the server's words. `client` decides which node to ask and when to ask
//! again, `problem` what an error looks like and how the process ends, `output` how everything is printed, `context`
//! which cluster is meant. `status`, `doctor`, `watch`, `log`, `snapshot` and `audit` look at the cluster (`view` is what
//! its nodes say of it), `scrub` has them read their disks, `members` and `leader` change it, `upgrade` its version, `settings` what holds on all nodes, `import`
//! fills a shop, `show` prints stock and orders, `backup` and `export` take it home, `bench` measures it. `cli` is the command line, `docs` makes man pages of it.

mod audit;
mod backup;
mod bench;
mod cli;
mod client;
mod context;
mod docs;
mod doctor;
mod export;
mod import;
mod leader;
mod log;
mod members;
mod output;
mod problem;
mod scrub;
mod settings;
mod show;
mod snapshot;
mod status;
mod upgrade;
mod view;
mod watch;

use clap::{CommandFactory as _, Parser as _};
use cli::{Cli, Command};
use client::Client;
use context::{Environment, Settings};
use output::Format;
use problem::{Exit, Failure};
use std::{process::ExitCode, time::Duration};

/// How long a command that asks one thing asks again, where nobody can answer now.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

async fn run(cli: &Cli) -> Result<Exit, Failure> {
    let (flags, environment, format) = (cli.flags(), Environment::read(), cli.output);
    match &cli.command {
        Command::Context(command) => return context::run(command, &flags, &environment, format),
        Command::Completions { shell } => return docs::completions(Cli::command(), *shell),
        Command::Man { dir } => return docs::man(Cli::command(), dir.as_deref()),
        // A file says no more than it does, whatever cluster there is.
        Command::Backup(backup::Backup::Verify(args)) => return backup::verify(args, format),
        _ => {}
    }
    let settings = Settings::resolve(&flags, &environment)?;
    let give_up_after = match &cli.command {
        Command::Import(import) => import.give_up_after(),
        _ => GIVE_UP_AFTER.max(settings.timeout()),
    };
    let timeout = match &cli.command {
        Command::Watch(_) => watch::WatchArgs::timeout(settings.timeout()),
        _ => settings.timeout(),
    };
    let client = Client::new(&settings.endpoints, timeout, give_up_after)?;
    match &cli.command {
        Command::Status => status::run(&client, format).await,
        Command::Member(command) => members::run(&client, command, format).await,
        Command::Members => members::list(&client, format).await,
        Command::Doctor => doctor::run(&client, format).await,
        Command::Watch(args) => watch::run(&client, args, format).await,
        Command::Leader(command) => leader::run(&client, command, format).await,
        Command::Upgrade(command) => upgrade::run(&client, command, format).await,
        Command::Settings(command) => settings::run(&client, command, format).await,
        Command::Log(args) => log::run(&client, args, format).await,
        Command::Snapshot(command) => snapshot::run(&client, command, format).await,
        Command::Import(import) => import::run(client, import, format).await,
        Command::Export(args) => export::run(&client, args, format).await,
        Command::Stock(args) => show::stock(&client, args, format).await,
        Command::Order(args) => show::order(&client, args, format).await,
        Command::Audit(audit::Audit::Verify(args)) => audit::verify(&client, args, format).await,
        Command::Backup(args) => backup::run(&client, args, format).await,
        Command::Scrub(command) => scrub::run(&client, *command, format).await,
        Command::Bench(args) => bench::run(client, args, settings.timeout(), format).await,
        Command::Context(_) | Command::Completions { .. } | Command::Man { .. } => {
            unreachable!("they need no cluster, and ended above")
        }
    }
}

/// As many threads as cores, unless the command says.
fn threads(command: &Command) -> Option<usize> {
    match command {
        Command::Bench(args) => Some(args.threads.into()),
        _ => None,
    }
}

fn block_on(
    threads: Option<usize>,
    work: impl Future<Output = Result<Exit, Failure>>,
) -> Result<Exit, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::local(Exit::Error, "runtime", "No threads", error.to_string()))?;
    let ended = runtime.block_on(work);
    // A blocking read of stdin would keep the process.
    runtime.shutdown_background();
    ended
}

fn end(ended: Result<Exit, Failure>, format: Format) -> ExitCode {
    let exit = ended.unwrap_or_else(|failure| {
        format.fail(&failure.problem, || failure.text());
        failure.exit
    });
    ExitCode::from(exit as u8)
}

fn main() -> ExitCode {
    // No command of anybody's, so no shell completes it and no page describes it.
    if std::env::args().nth(1).as_deref() == Some(bench::bare::ARGUMENT) {
        return end(block_on(None, bench::bare::serve()), Format::Table);
    }
    let cli = Cli::parse();
    cli.color.set();
    end(block_on(threads(&cli.command), run(&cli)), cli.output)
}
