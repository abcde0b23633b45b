//! Logs and metrics: what they look like and where they go.

use crate::config::{Config, LogFormat};
use anyhow::Context as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal as _;
use std::panic;
use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tracing::error;
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
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
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

/// A node that lost one of its tasks looks alive and is not. Dead, it is noticed and started again; all that it
/// acknowledged is on disk.
fn abort_on_panic() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let message = text.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            error!(%backtrace, "backtrace of the panic that follows");
        }
        // Last, because the last line is where one looks for the reason.
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

fn describe() {
    metrics::describe_gauge!("stockroom_build_info", "Always 1; the version is a label");
    metrics::gauge!("stockroom_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    metrics::describe_gauge!(
        "process_start_time_seconds",
        metrics::Unit::Seconds,
        "Start of the process, since the Unix epoch"
    );
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    metrics::gauge!("process_start_time_seconds").set(since_epoch.as_secs_f64());
}
