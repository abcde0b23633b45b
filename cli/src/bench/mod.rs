//! `stockctl bench`: how fast a cluster is, and whether it lost anything on the way.
//!
//! [`workload`] says what is asked for and [`request`] writes it as bytes; [`load`] has the clients, [`pace`]
//! says when they send, [`wire`] is their connection, [`tally`] what they see. [`stock`] makes the run's own
//! items before and counts them after, against [`books`]; [`nodes`] looks at what the nodes spend, [`bare`] is the
//! ceiling. [`report`], [`html`] and [`compare`] show it. Timing never fails a run; a lost order always does.

pub mod bare;
mod books;
mod compare;
mod html;
mod load;
mod nodes;
mod pace;
mod real;
mod report;
mod request;
mod run;
mod stock;
mod tally;
mod wire;
mod workload;

use crate::{
    client::{Client, base_url},
    output::Format,
    problem::{Exit, Failure},
};
use report::Report;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use workload::{Level, Shape, Workload};

/// Units of each SKU where a workload is not meant to sell out: the most that one line may receive.
const UNITS: i64 = 1_000_000_000;

const HELP: &str = "\
Every run makes items and stock of its own, under names that no other run has, and touches nothing else. In the
end it counts them: exit code 8 says that an acknowledged order is missing or that sums are wrong, whatever the speed.
A call that is refused (503, 429) or has no certain answer is counted as that, never sent again.

Examples:
  stockctl bench --connections 256 --nodes-json playground/nodes.json
  stockctl bench --workload uniform,hot --connections 256 --against-bare --html bench.html
  stockctl bench --rate 5000 --connections 256 --time 30
  stockctl bench --workload read --consistency linearizable,stale
  stockctl -o json bench > a.json; stockctl bench --compare a.json b.json";

/// What `bench` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct BenchArgs {
    /// What to do; several run one after another
    #[arg(long, value_enum, value_delimiter = ',', default_value = "uniform")]
    workload: Vec<Workload>,
    /// Clients, each with one connection, spread over the endpoints
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,
    /// Open loop: so many calls due per second, latency from when each was due [default: closed loop]
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Seconds before measuring
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    warmup: f64,
    /// Seconds of measuring
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = some_seconds)]
    time: f64,
    /// End a window after so many orders, however long it takes: how a cluster is filled before it is measured. A
    /// closed loop only; --time still bounds it
    #[arg(long, value_name = "N", conflicts_with = "rate", value_parser = clap::value_parser!(u64).range(1..))]
    orders: Option<u64>,
    /// SKUs over which orders are spread [default: 10000; 57454 for real; 1 for hot and sellout]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    skus: Option<u32>,
    /// Orders in one call of `batch`; several run one after another
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch_size: Vec<u32>,
    /// Levels of `read`; several run one after another
    #[arg(long, value_enum, value_delimiter = ',', default_value = "linearizable")]
    consistency: Vec<Level>,
    /// Bound of `read` at level bounded
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    max_staleness_ms: u64,
    /// Units that `sellout` has
    #[arg(long, value_name = "UNITS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
    stock: u32,
    /// Orders that `sellout` tries
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    attempts: u32,
    /// Threads of the load
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    /// Draws the same SKUs and quantities again [default: random, and reported]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Processes of the nodes on this machine, to count their CPU and disk writes
    #[arg(long, value_name = "ID=PID", value_delimiter = ',')]
    pids: Vec<nodes::Pid>,
    /// `nodes.json` of a playground, in place of --pids
    #[arg(long, value_name = "FILE")]
    nodes_json: Option<String>,
    /// Measure a bare axum handler of the same request and answer too, in alternating windows
    #[arg(long)]
    against_bare: bool,
    /// Windows of measuring, each of --time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Write the report as a page with plots too
    #[arg(long, value_name = "FILE")]
    html: Option<String>,
    /// Compare two reports (files of `stockctl -o json bench`), and run nothing
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    compare: Option<Vec<String>>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let parsed = text.parse::<f64>().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    parsed.ok_or_else(|| "not a number of seconds from 0 to 86400".into())
}

fn some_seconds(text: &str) -> Result<f64, String> {
    seconds(text)
        .ok()
        .filter(|seconds| *seconds >= 0.1)
        .ok_or_else(|| "not a number of seconds from 0.1 to 86400".into())
}

impl BenchArgs {
    /// One shape for each run.
    fn shapes(&self) -> Result<Vec<Shape>, Failure> {
        let mut shapes = Vec::new();
        for workload in self.workload.iter().copied() {
            let skus = match workload {
                Workload::Hot | Workload::Sellout => 1,
                _ => self.skus.unwrap_or(Shape::default_skus(workload)),
            };
            let fewest = Shape::fewest_skus(workload);
            if skus < fewest {
                return Err(usage(format!("this workload needs --skus of {fewest} at least")));
            }
            if workload == Workload::Sellout && (self.against_bare || self.rate.is_some() || self.rounds > 1)
            {
                return Err(usage(
                    "sellout runs once and as fast as it can: no --against-bare, --rate or --rounds".into(),
                ));
            }
            let shape = |batch_size, level| Shape {
                workload,
                skus,
                batch_size,
                level,
                max_staleness_ms: self.max_staleness_ms,
            };
            match workload {
                Workload::Batch => {
                    shapes.extend(self.batch_size.iter().map(|size| shape(*size, Level::Linearizable)))
                }
                Workload::Read => shapes.extend(self.consistency.iter().map(|level| shape(1, *level))),
                _ => shapes.push(shape(1, Level::Linearizable)),
            }
        }
        Ok(shapes)
    }
}

fn usage(why: String) -> Failure {
    Failure::local(Exit::Usage, "usage", "These do not go together", why)
}

/// Runs it.
///
/// # Errors
/// The run could not be made: nobody answers, or the command line makes no sense.
pub async fn run(
    client: Client,
    args: &BenchArgs,
    timeout: Duration,
    format: Format,
) -> Result<Exit, Failure> {
    if let Some([a, b]) = args.compare.as_deref() {
        return compare::run(a, b, format);
    }
    let shapes = args.shapes()?;
    more_files();
    let nodes = nodes::find(&client, args.nodes_json.as_deref(), &args.pids).await?;
    let bare = if args.against_bare { Some(bare::Bare::start().await?) } else { None };
    let hosts = client.endpoints().map(host).collect::<Result<Vec<_>, _>>()?;
    let mut report = Report {
        format: report::FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        started_unix_ms: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        runs: Vec::new(),
    };
    for shape in shapes {
        let bench =
            run::Bench { client: &client, args, timeout, hosts: &hosts, nodes: &nodes, bare: bare.as_ref() };
        report.runs.push(bench.run(shape).await?);
    }
    show(&report, args.html.as_deref(), format)?;
    Ok(if report.clean() { Exit::Ok } else { Exit::Findings })
}

fn show(report: &Report, html: Option<&str>, format: Format) -> Result<(), Failure> {
    let value = serde_json::to_value(report).expect("strings and finite numbers always print");
    format.print(&value, "runs", || report::table(report));
    match html {
        Some(path) => std::fs::write(path, html::page(report)).map_err(|error| Failure::file(path, &error)),
        None => Ok(()),
    }
}

fn host(endpoint: &str) -> Result<String, Failure> {
    Ok(base_url(endpoint)?.trim_start_matches("http://").to_owned())
}

/// A connection is a file; the usual limit of 1,024 is soon reached.
fn more_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where this is refused, connecting will say so.
    let _ = setrlimit(Resource::Nofile, limit);
}
