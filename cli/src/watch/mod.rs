//! `watch`: the cluster as it goes on: on a terminal a screen that is drawn again and again, elsewhere a line of JSON at
//! each interval.

mod frame;
mod sample;
mod screen;

use crate::{
    client::Client,
    doctor,
    output::Format,
    problem::{Exit, Failure},
};
use sample::{Sample, Watcher};
use serde_json::json;
use std::{
    io::IsTerminal as _,
    time::{Duration, Instant, SystemTime},
};

/// What `watch` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct WatchArgs {
    /// Between two looks, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    interval_ms: u64,
    /// End after so many looks; else with q, or Ctrl-C
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

const HELP: &str = "\
On a terminal: leader, terms, lag, rates, syncs, clocks, disks and what is not as it should be, in 80x24 or more; q quits.
Off a terminal, or with -o ndjson (json, yaml): one value at each interval.

Examples:
  stockctl watch
  stockctl watch --interval-ms 5000
  stockctl watch -o ndjson --count 60 > an-hour.ndjson";

/// A node that stands still holds a look up for so long, and no longer: the others are to be seen.
const PATIENCE: Duration = Duration::from_millis(800);

impl WatchArgs {
    /// The deadline of a call, of which a person who looks on has less than a script.
    pub fn timeout(timeout: Duration) -> Duration {
        timeout.min(PATIENCE)
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }
}

/// Watches.
///
/// # Errors
/// The terminal cannot be used. A cluster that does not answer is what is shown.
pub async fn run(client: &Client, args: &WatchArgs, format: Format) -> Result<Exit, Failure> {
    let on_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if format.is_table() && on_terminal {
        return screen::run(client, args).await;
    }
    let format = if format.is_table() { Format::Ndjson } else { format };
    lines(client, args, format).await
}

/// What one look found; why where nobody answers.
async fn look(client: &Client, watcher: &mut Watcher) -> Result<Sample, Failure> {
    let seen = doctor::look(client).await?;
    let sample = watcher.sample(&seen, Instant::now(), now());
    Ok(sample.expect("somebody answered"))
}

/// This machine's clock, to the second.
fn now() -> String {
    let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn lines(client: &Client, args: &WatchArgs, format: Format) -> Result<Exit, Failure> {
    let mut ticks = tokio::time::interval(args.interval());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut watcher, mut looks) = (Watcher::default(), 0);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Ok),
        }
        let value = match look(client, &mut watcher).await {
            Ok(sample) => serde_json::to_value(sample).expect("strings and finite numbers always print"),
            Err(failure) => json!({ "at": now(), "problem": failure.problem }),
        };
        format.print(&value, "", String::new);
        looks += 1;
        if args.count.is_some_and(|count| looks >= count) {
            return Ok(Exit::Ok);
        }
    }
}
