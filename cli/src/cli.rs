//! The command line: every command and flag.

use crate::{
    audit, backup, bench, context, docs, export, import, leader, log, members,
    output::{Color, Format},
    scrub, settings, show, snapshot, upgrade, watch,
};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Scripts branch on them: they never change.
const HELP: &str = "\
Exit codes:
  0 ok                 3 no leader, or unreachable     6 denied
  1 error              4 conflict, or out of stock     7 refused as unsafe
  2 usage              5 not found                     8 findings (status, doctor, audit, backup, bench)
                                                       9 outcome of a write unknown: run it again
With -o json, ndjson or yaml, stdout has the data and nothing else; an error is a problem (RFC 9457) on stderr.

Examples:
  stockctl status
  stockctl doctor
  stockctl watch
  stockctl log --tail 5 --commands
  stockctl member remove 3 --plan
  stockctl member replace 3
  stockctl leader transfer --to 2
  stockctl upgrade check
  stockctl settings set metadata_entries=32
  stockctl import items products.ndjson.gz
  stockctl import orders --receive-stock orders.ndjson.gz
  stockctl stock P25671 --movements
  stockctl -o json order B31198570044
  stockctl audit verify
  stockctl backup create --to /backups/";

/// The admin CLI of Stockroom
#[derive(Debug, Parser)]
#[command(name = "stockctl", version, about, after_help = HELP)]
pub struct Cli {
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub output: Format,
    /// Colours in what people read
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
    /// The nodes' HTTP addresses, separated by commas [env: STOCKROOM_ENDPOINTS; default: of the context, or 127.0.0.1:8081, 8082, 8083]
    #[arg(long, global = true, value_delimiter = ',', value_name = "URLS")]
    endpoints: Option<Vec<String>>,
    /// The context (see `stockctl context`) whose nodes are asked [env: STOCKCTL_CONTEXT]
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "endpoints")]
    context: Option<String>,
    /// Deadline of one call in milliseconds; the server is told [default: of the context, or 5000]
    #[arg(long, global = true, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    timeout_ms: Option<u64>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Every node: role, term, applied index, digest, readiness; and where they disagree
    Status,
    /// Members: list, add, promote, demote, remove, replace a dead one
    #[command(subcommand)]
    Member(members::MemberCommand),
    /// Same as `member list`
    Members,
    /// What is not as it should be on any node, and what to do: clocks, disks, limits, versions, digests, who is silent
    Doctor,
    /// The cluster as it goes on: a live view, or a line of JSON at each interval
    Watch(watch::WatchArgs),
    /// Leadership: who has it, and to hand it over
    #[command(subcommand)]
    Leader(leader::LeaderCommand),
    /// Upgrades: what each member runs and what finalising switches on; and to finalise
    #[command(subcommand)]
    Upgrade(upgrade::UpgradeCommand),
    /// What holds for the whole cluster, whichever node is asked: see it, change it
    #[command(subcommand)]
    Settings(settings::SettingsCommand),
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
    /// Read everything on the nodes' disks, so that damage shows before it is needed
    #[command(subcommand)]
    Scrub(scrub::ScrubCommand),
    /// How fast the cluster is, and whether it loses anything: load of many kinds, latencies, what the nodes spend
    Bench(Box<bench::BenchArgs>),
    /// Named clusters, so that nobody types addresses
    #[command(subcommand, after_help = context::HELP)]
    Context(context::ContextCommand),
    /// What completes the commands in a shell
    #[command(after_help = docs::COMPLETIONS_HELP)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Man pages: the first one, or with --dir a page for each command
    Man {
        /// Where the pages go
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

impl Cli {
    /// Whom to ask, as the command line says.
    pub fn flags(&self) -> context::Flags {
        let (endpoints, context) = (self.endpoints.clone(), self.context.clone());
        context::Flags { endpoints, context, timeout_ms: self.timeout_ms }
    }
}
