//! `stockroom`: one node of the cluster, and the tools that come with it.

mod bootstrap;
mod config;
mod http;
mod offline;
mod options;
#[cfg(feature = "planted")]
mod planted;
mod playground;
mod serve;
mod shutdown;
mod telemetry;

use clap::{Parser, Subcommand};
use config::ConfigArgs;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Of this program, as it says of itself.
const VERSION: &str = match (cfg!(feature = "planted"), cfg!(feature = "next-version")) {
    (false, false) => env!("CARGO_PKG_VERSION"),
    (true, false) => concat!(env!("CARGO_PKG_VERSION"), "+planted"),
    (false, true) => concat!(env!("CARGO_PKG_VERSION"), "+next"),
    (true, true) => concat!(env!("CARGO_PKG_VERSION"), "+planted.next"),
};

/// A shop's inventory and orders, kept on several machines at once.
#[derive(Debug, Parser)]
#[command(name = "stockroom", version = VERSION, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node until SIGTERM or SIGINT.
    ///
    /// Exit codes: 0 stopped cleanly, 1 could not start, 2 wrong usage or settings, 3 the node stopped
    /// itself (the last line says why), 4 stopped before all was drained, 134 panic.
    Serve {
        #[command(flatten)]
        settings: Box<ConfigArgs>,
        /// Stop when standard input ends: a child that outlives its playground serves nobody.
        #[arg(long, hide = true)]
        stop_with_parent: bool,
    },
    /// Form a new cluster, exactly once, of the nodes given as `--member id=peer-address`.
    Bootstrap(Box<ConfigArgs>),
    /// Try it: a whole cluster on this machine, with real orders and a live view.
    Playground(playground::Options),
    /// Make a new cluster out of a backup, in empty directories; needs no server
    Restore(offline::restore::Options),
    /// Make a new cluster out of an export (`stockctl export`), in empty directories; needs no server
    Import(offline::import::Options),
    /// Found a new cluster out of what is left, where a majority is lost for good; needs no server
    Recover(offline::recover::Options),
    /// Bring a damaged or lost node back from its peers: sets its data directory aside, makes a new member of it
    Rebuild(Box<offline::rebuild::Options>),
    /// Prove a backup: restore it into a scratch store and recompute every sum; needs no server
    Verify(offline::verify::Options),
    /// Print the settings in force and where each came from.
    Config {
        #[command(flatten)]
        settings: Box<ConfigArgs>,
        /// Print a commented file of all settings instead.
        #[arg(long)]
        template: bool,
    },
    /// Print the version.
    Version,
    /// List the mistakes that can be planted by `STOCKROOM_PLANTED=name`, and how each shows.
    #[cfg(feature = "planted")]
    Planted,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            if let Some(refusal) = error.downcast_ref::<offline::Refusal>() {
                eprintln!("{refusal}");
                return ExitCode::from(refusal.exit as u8);
            }
            eprintln!("stockroom: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// The numbers of [`offline::Exit`] and of `stockctl`.
fn exit_code(error: &anyhow::Error) -> u8 {
    use stockroom_raft::BootstrapError;
    if error.downcast_ref::<config::ConfigError>().is_some() {
        return 2;
    }
    match error.downcast_ref::<BootstrapError>() {
        Some(BootstrapError::List(_)) => 2,
        Some(BootstrapError::Unreachable { .. }) => 3,
        Some(BootstrapError::Refused { .. }) => 4,
        None => 1,
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve { settings, stop_with_parent } => serve::run(settings.resolve()?.0, stop_with_parent),
        Command::Bootstrap(settings) => bootstrap::run(&settings.resolve()?.0),
        Command::Playground(options) => playground::run(options),
        Command::Restore(options) => offline::restore::run(&options),
        Command::Import(options) => offline::import::run(&options),
        Command::Recover(options) => offline::recover::run(&options),
        Command::Rebuild(options) => offline::rebuild::run(&options),
        Command::Verify(options) => offline::verify::run(&options),
        Command::Config { settings, template } => {
            let text =
                if template { config::template() } else { config::print_effective(&settings.resolve()?.1) };
            print!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Version => {
            println!("stockroom {VERSION}");
            Ok(ExitCode::SUCCESS)
        }
        #[cfg(feature = "planted")]
        Command::Planted => {
            print!("{}", planted::list());
            Ok(ExitCode::SUCCESS)
        }
    }
}
