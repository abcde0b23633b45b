//! `stockctl`: looks after a Stockroom cluster, over HTTP and nothing else.
//!
//! Thin by intent: it parses, calls, and prints. No rule about stock lives here; what the server
//! refuses is shown in the server's words. `client` decides which node to ask and when to ask
//! again, `problem` what an error looks like and how the process ends, `output` how everything is printed, `context`
//! which cluster is meant. `status`, `doctor`, `watch`, `log`, `snapshot` and `audit` look at the cluster (`view` is what
//! its nodes say of it), `members` and `leader` change it, `import` fills a shop, `show` prints stock and orders, `backup`
//! and `export` take it home, `bench` measures it. `cli` is the command line, `docs` makes man pages of it.

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
mod show;
mod snapshot;
mod status;
mod view;
mod watch;

use clap::{CommandFactory as _, Parser as _};
use cli::{Cli, Command};
use client::Client;
use context::{Environment, Settings};
use problem::{Exit, Failure};
use std::{process::ExitCode, time::Duration};

/// How long a command that asks one thing asks again, where nobody can answer now.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

async fn run(cli: &Cli) -> Result<Exit, Failure> {
    let (flags, environment, format) = (cli.flags(), Environment::read(), cli.output);
    match &cli.command {
        Command::Context(command) => return context::run(command, &flags, &environment, format),
        Command::Completions { shell } => return Ok(docs::completions(Cli::command(), *shell)),
        Command::Man { dir } => return docs::man(Cli::command(), dir.as_deref()),
        Command::BenchBareServer => return bench::bare::serve().await,
        // A file says no more than it does, whatever cluster there is.
        Command::Backup(backup::Backup::Verify(args)) => return backup::verify(args, format),
        _ => {}
    }
    let settings = Settings::resolve(&flags, &environment)?;
    let give_up_after = match &cli.command {
        Command::Import(import) => import.give_up_after(),
        _ => GIVE_UP_AFTER.max(settings.timeout()),
    };
    let client = Client::new(&settings.endpoints, settings.timeout(), give_up_after)?;
    match &cli.command {
        Command::Status => status::run(&client, format).await,
        Command::Member(command) => members::run(&client, command, format).await,
        Command::Members => members::list(&client, format).await,
        Command::Doctor => doctor::run(&client, format).await,
        Command::Watch(args) => watch::run(&client, args, format).await,
        Command::Leader(command) => leader::run(&client, command, format).await,
        Command::Log(args) => log::run(&client, args, format).await,
        Command::Snapshot(command) => snapshot::run(&client, command, format).await,
        Command::Import(import) => import::run(client, import, format).await,
        Command::Export(args) => export::run(&client, args, format).await,
        Command::Stock(args) => show::stock(&client, args, format).await,
        Command::Order(args) => show::order(&client, args, format).await,
        Command::Audit(audit::Audit::Verify(args)) => audit::verify(&client, args, format).await,
        Command::Backup(args) => backup::run(&client, args, format).await,
        Command::Bench(args) => bench::run(client, args, settings.timeout(), format).await,
        Command::Context(_)
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::BenchBareServer => {
            unreachable!("they need no cluster, and ended above")
        }
    }
}

/// As many threads as cores, unless the command says.
fn runtime(command: &Command) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Command::Bench(args) = command {
        builder.worker_threads(args.threads.into());
    }
    builder.enable_all().build()
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.color.set();
    let ended = match runtime(&cli.command) {
        Ok(runtime) => {
            let ended = runtime.block_on(run(&cli));
            // A blocking read of stdin would keep the process.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(Failure::local(Exit::Error, "runtime", "No threads", error.to_string())),
    };
    let exit = ended.unwrap_or_else(|failure| {
        cli.output.fail(&failure.problem, || failure.text());
        failure.exit
    });
    ExitCode::from(exit as u8)
}
