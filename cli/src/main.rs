//! `stockctl`: looks after a Stockroom cluster, over HTTP and nothing else.
//!
//! Thin by intent: it parses, calls, and prints. No rule about stock lives here; what the server
//! refuses is shown in the server's words. `client` decides which node to ask and when to ask
//! again, `problem` what an error looks like and how the process ends, `import` fills a shop,
//! `show` prints stock and orders, `status` and `audit` look at the cluster, `members` changes it, `backup` and `export` take it home,
//! `bench` measures it.

mod audit;
mod backup;
mod bench;
mod client;
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

use clap::{Parser, Subcommand};
use client::Client;
use output::{Color, Format};
use problem::{Exit, Failure};
use std::{process::ExitCode, time::Duration};

const HELP: &str = "\
Exit codes:
  0 ok                 3 no leader, or unreachable     6 denied
  1 error              4 conflict, or out of stock     7 refused as unsafe
  2 usage              5 not found                     8 findings (status, doctor, audit, backup, bench)
                                                       9 outcome of a write unknown: run it again

Examples:
  stockctl status
  stockctl doctor
  stockctl member remove 3 --plan
  stockctl member replace 3
  stockctl leader transfer --to 2
  stockctl import items products.ndjson.gz
  stockctl import orders --receive-stock orders.ndjson.gz
  stockctl stock P25671 --movements
  stockctl -o json order B31198570044
  stockctl audit verify
  stockctl backup create --to /backups/";

/// How long a command that asks one thing asks again, where nobody can answer now.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// The admin CLI of Stockroom
#[derive(Debug, Parser)]
#[command(name = "stockctl", version, about, after_help = HELP)]
struct Cli {
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    output: Format,
    /// Colours in what people read
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto")]
    color: Color,
    /// The nodes' HTTP addresses, separated by commas
    #[arg(
        long,
        global = true,
        env = "STOCKROOM_ENDPOINTS",
        value_delimiter = ',',
        value_name = "URLS",
        default_value = "http://127.0.0.1:8081,http://127.0.0.1:8082,http://127.0.0.1:8083"
    )]
    endpoints: Vec<String>,
    /// Deadline of one call in milliseconds; the server is told
    #[arg(long, global = true, value_name = "MS", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    timeout_ms: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every node: role, term, applied index, digest, readiness; and where they disagree
    Status,
    /// Members: list, add, promote, demote, remove, replace a dead one
    #[command(subcommand)]
    Member(members::MemberCommand),
    /// Same as `member list`
    Members,
    /// What is not as it should be on any node, and what to do: clocks, disks, limits, versions, digests, who is silent
    Doctor,
    /// Leadership: who has it, and to hand it over
    #[command(subcommand)]
    Leader(leader::LeaderCommand),
    /// What lies in a node's log, entry by entry
    Log(log::LogArgs),
    /// The snapshot file of each node: see it, have one written
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Fill the shop from files
    #[command(subcommand)]
    Import(import::Import),
    /// The whole shop as lines of JSON, at one log index
    Export(export::ExportArgs),
    /// Stock of items, per location
    Stock(show::StockArgs),
    /// One order: its lines and its money
    Order(show::OrderArgs),
    /// Check the books of the nodes
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Backups: take one of the running cluster, and prove it
    #[command(subcommand)]
    Backup(backup::Backup),
    /// How fast the cluster is, and whether it loses anything: load of many kinds, latencies, what the nodes spend
    Bench(Box<bench::BenchArgs>),
    /// The ceiling that `bench --against-bare` starts; ends when its stdin does
    #[command(hide = true)]
    BenchBareServer,
}

impl Cli {
    async fn run(&self) -> Result<Exit, Failure> {
        let give_up_after = match &self.command {
            Command::Import(import) => import.give_up_after(),
            _ => GIVE_UP_AFTER.max(Duration::from_millis(self.timeout_ms)),
        };
        let client = Client::new(&self.endpoints, Duration::from_millis(self.timeout_ms), give_up_after)?;
        match &self.command {
            Command::Status => status::run(&client, self.output).await,
            Command::Member(command) => members::run(&client, command, self.output).await,
            Command::Members => members::list(&client, self.output).await,
            Command::Doctor => doctor::run(&client, self.output).await,
            Command::Leader(command) => leader::run(&client, command, self.output).await,
            Command::Log(args) => log::run(&client, args, self.output).await,
            Command::Snapshot(command) => snapshot::run(&client, command, self.output).await,
            Command::Import(import) => import::run(client, import, self.output).await,
            Command::Export(args) => export::run(&client, args, self.output).await,
            Command::Stock(args) => show::stock(&client, args, self.output).await,
            Command::Order(args) => show::order(&client, args, self.output).await,
            Command::Audit(audit::Audit::Verify(args)) => audit::verify(&client, args, self.output).await,
            Command::Backup(args) => backup::run(&client, args, self.output).await,
            Command::Bench(args) => {
                bench::run(client, args, Duration::from_millis(self.timeout_ms), self.output).await
            }
            Command::BenchBareServer => bench::bare::serve().await,
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
            let ended = runtime.block_on(cli.run());
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
