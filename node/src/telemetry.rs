//! Logs and metrics: what they look like and where they go.

use crate::config::{Config, LogFormat};
use anyhow::Context as _;
use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::io::{self, IsTerminal as _};
use std::panic;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use stockroom_storage::reader::Stats;
use tracing::{error, warn};
use tracing_subscriber::EnvFilter;

/// Seconds: from a memory look-up to a request that waited out a failover.
const LATENCY_BUCKETS_SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
/// Bytes: from one order to a full entry and beyond.
const SIZE_BUCKETS_BYTES: &[f64] =
    &[256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];
/// Everything else that is counted per event, such as proposals per entry.
const COUNT_BUCKETS: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];

/// Starts logging to standard error, and makes a panic anywhere end the process.
///
/// # Errors
/// Where `log_filter` cannot be read.
pub fn start_logging(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log_filter)
        .with_context(|| format!("log_filter {:?} is not a filter", config.log_filter))?;
    let terminal = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Output::new);
    let text = match config.log_format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    if text {
        builder.with_ansi(terminal).init();
    } else {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).init();
    }
    abort_on_panic();
    Ok(())
}

/// Whether the last line is being said.
static ENDING: AtomicBool = AtomicBool::new(false);

thread_local! {
    static SAYS_THE_LAST_LINE: Cell<bool> = const { Cell::new(false) };
}

/// From now on only this thread is heard: what it logs next is the last line, where whoever looks after
/// the node finds why it ended, and not under what requests in flight have to say of it.
pub fn last_line() {
    SAYS_THE_LAST_LINE.set(true);
    ENDING.store(true, Ordering::SeqCst);
}

/// Standard error, until the last line.
enum Output {
    Heard(io::Stderr),
    Unheard,
}

impl Output {
    fn new() -> Self {
        let is_heard = !ENDING.load(Ordering::SeqCst) || SAYS_THE_LAST_LINE.get();
        if is_heard { Output::Heard(io::stderr()) } else { Output::Unheard }
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Heard(stderr) => stderr.write(bytes),
            Output::Unheard => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Heard(stderr) => stderr.flush(),
            Output::Unheard => Ok(()),
        }
    }
}

/// A node that lost one of its tasks looks alive and is not. Dead, it is noticed and started again; all that it
/// acknowledged is on disk.
fn abort_on_panic() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let message = text.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        if stockroom_storage::panics::are_caught() {
            return warn!(place, message, "a panic over bytes on disk, which are thrown away for it");
        }
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            error!(%backtrace, "backtrace of the panic that follows");
        }
        last_line();
        error!(place, message, "panic: ending the process");
        process::abort();
    }));
}

/// Starts counting; the handle renders what was counted.
///
/// # Errors
/// Where another recorder is installed.
pub fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), LATENCY_BUCKETS_SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), SIZE_BUCKETS_BYTES)?
        .set_buckets(COUNT_BUCKETS)?
        .install_recorder()
        .context("metrics")?;
    describe();
    let upkeep = handle.clone();
    tokio::spawn(async move {
        // Samples wait in memory until they are put into their buckets, scraped or not.
        let mut ticks = tokio::time::interval(Duration::from_secs(5));
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

/// What is counted below without a description of its own: name, unit, help.
const COUNTERS: &[(&str, &str)] = &[
    (
        "stockroom_checkpoint_written_bytes_total",
        "Bytes of checkpoints: rows that are written once, and what is handed to sled, which writes it again",
    ),
    ("stockroom_log_zeroed_bytes_total", "Bytes of new log segments, zeroed before they are used"),
    ("stockroom_orders_placed_total", "Orders placed in entries that this node has applied since it started"),
    (
        "stockroom_raft_clock_alarms_total",
        "Times that this leader's wall clock was far off the voters' median",
    ),
    (
        "stockroom_raft_entries_proposed_total",
        "Entries with proposals that this node, as leader, handed to the log",
    ),
    ("stockroom_raft_forward_streams_total", "Streams opened to a leader"),
    ("stockroom_raft_forward_streams_lost_total", "Streams to a leader that broke"),
    ("stockroom_raft_leader_changes_total", "Leaders that this node has seen come into office"),
    (
        "stockroom_raft_log_reversions_total",
        "Peers that lost what they had acknowledged to this node, the leader: each must be replaced",
    ),
    ("stockroom_raft_proposal_failures_total", "Proposals whose outcome stayed unknown"),
    ("stockroom_raft_proposal_refusals_total", "Proposals refused before they were handed to the log"),
    (
        "stockroom_raft_slow_disk_alarms_total",
        "Times that this leader's disk was far slower than the others', and it handed leadership over",
    ),
    ("stockroom_raft_state_differences_total", "Times that another node had another state at the same index"),
    ("stockroom_raft_ticks_total", "Entries proposed only to let time pass"),
    (
        "stockroom_snapshot_written_bytes_total",
        "Bytes of snapshots, built or received, without what they share with the state",
    ),
];
const GAUGES: &[(&str, Unit, &str)] = &[
    ("stockroom_build_info", Unit::Count, "Always 1; the version is a label"),
    ("process_start_time_seconds", Unit::Seconds, "Start of the process, since the Unix epoch"),
    ("stockroom_applied_index", Unit::Count, "Newest entry in the state"),
    (
        "stockroom_cluster_version",
        Unit::Count,
        "Which commands, rules and formats are in force in the cluster",
    ),
    ("stockroom_checkpoint_index", Unit::Count, "Newest entry in the tables on disk"),
    ("stockroom_durable_index", Unit::Count, "Newest entry synced to this node's log"),
    ("stockroom_log_purged_index", Unit::Count, "Newest entry that was removed from the log"),
    ("stockroom_memtable_bytes", Unit::Bytes, "Changes that are not in the tables yet"),
    ("stockroom_memtable_limit_bytes", Unit::Bytes, "Changes beyond which no proposals are taken"),
    ("stockroom_snapshot_bytes", Unit::Bytes, "Size of the newest snapshot file"),
    ("stockroom_snapshot_index", Unit::Count, "Newest entry in the newest snapshot file"),
    ("stockroom_units_allocated", Unit::Count, "Units promised to orders"),
    ("stockroom_units_reserved", Unit::Count, "Units held by reservations"),
    ("stockroom_raft_applied_index", Unit::Count, "Newest entry in the state that readers see"),
    ("stockroom_raft_bytes_in_flight", Unit::Bytes, "Bytes of proposals that wait for their answer"),
    (
        "stockroom_raft_clock_offset_ms",
        Unit::Milliseconds,
        "This node's wall clock minus the replicated clock",
    ),
    ("stockroom_raft_committed_index", Unit::Count, "Newest entry known to be on a quorum"),
    ("stockroom_raft_is_leader", Unit::Count, "1 on the leader"),
    ("stockroom_raft_lag_entries", Unit::Count, "Committed entries that are not applied yet"),
    ("stockroom_raft_proposals_in_flight", Unit::Count, "Proposals that wait for their answer"),
    ("stockroom_raft_sync_seconds", Unit::Seconds, "Mean time of a sync of the log, over the last 3 s"),
    ("process_max_fds", Unit::Count, "Files that this process may have open"),
    ("process_open_fds", Unit::Count, "Files that it has open, connections among them"),
    ("stockroom_disk_bytes", Unit::Bytes, "Size of the file system of the data directory"),
    ("stockroom_disk_free_bytes", Unit::Bytes, "What this process may still write to it"),
    ("stockroom_raft_term", Unit::Count, "Term"),
];
const HISTOGRAMS: &[(&str, Unit, &str)] = &[
    ("stockroom_apply_seconds", Unit::Seconds, "Time to apply one entry"),
    ("stockroom_checkpoint_seconds", Unit::Seconds, "Time to write the memtable to the tables"),
    ("stockroom_snapshot_seconds", Unit::Seconds, "Time to write a snapshot file and to read it back"),
    ("stockroom_raft_proposals_per_entry", Unit::Count, "Proposals put into one entry"),
];

fn describe() {
    for (name, help) in COUNTERS {
        metrics::describe_counter!(*name, *help);
    }
    for (name, unit, help) in GAUGES {
        metrics::describe_gauge!(*name, *unit, *help);
    }
    for (name, unit, help) in HISTOGRAMS {
        metrics::describe_histogram!(*name, *unit, *help);
    }
    metrics::gauge!("stockroom_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    metrics::gauge!("process_start_time_seconds").set(since_epoch.as_secs_f64());
}

/// What the machine leaves this process, read when somebody looks.
pub fn observe_machine(data_dir: &Path) {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    metrics::gauge!("process_max_fds").set(most.map_or(f64::INFINITY, |most| most as f64));
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        metrics::gauge!("process_open_fds").set(open.count() as f64);
    }
    if let Ok(disk) = rustix::fs::statvfs(data_dir) {
        metrics::gauge!("stockroom_disk_bytes").set((disk.f_blocks * disk.f_frsize) as f64);
        metrics::gauge!("stockroom_disk_free_bytes").set((disk.f_bavail * disk.f_frsize) as f64);
    }
}

/// What nothing else counts, read when somebody looks.
pub fn observe(stats: &Stats) {
    let gauges = [
        ("stockroom_checkpoint_index", stats.checkpoint_log_index),
        ("stockroom_durable_index", stats.durable_log_index),
        ("stockroom_memtable_bytes", stats.memtable_bytes),
        ("stockroom_memtable_limit_bytes", stats.memtable_limit_bytes),
        ("stockroom_snapshot_bytes", stats.snapshot_bytes),
        ("stockroom_snapshot_index", stats.snapshot_log_index),
    ];
    for (name, value) in gauges {
        metrics::gauge!(name).set(value as f64);
    }
}
