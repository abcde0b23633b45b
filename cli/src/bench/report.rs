//! What a benchmark found: one JSON document, and the same as a table.

use super::{
    books::Check,
    nodes::Spent,
    pace::Window,
    tally::{Fairness, Tally},
};
use crate::output::{Table, count};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt::Write as _};

/// The shape of the document; it changes when a field changes its meaning or goes.
pub const FORMAT: u32 = 1;
/// Points of a latency curve for each factor of ten in rarity.
const POINTS_PER_DECADE: u32 = 8;

/// All runs of one call of `stockctl bench`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Of `stockctl`.
    pub version: String,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// Cores of the machine that made the load.
    pub cores: usize,
    /// One for each workload, in the order in which they ran.
    pub runs: Vec<Run>,
}

impl Report {
    /// Whether no run found anything wrong.
    pub fn clean(&self) -> bool {
        self.runs.iter().all(|run| run.check.clean())
    }
}

/// One workload, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The workload, with its batch size or read level.
    pub name: String,
    /// What is counted: orders, reads, reservations, orders sold.
    pub unit: String,
    /// Calls due per second; `None` is a closed loop.
    pub rate: Option<f64>,
    /// Clients, each with one connection.
    pub connections: usize,
    /// The nodes' addresses that were asked.
    pub endpoints: Vec<String>,
    /// SKUs over which orders were spread; all begin with `prefix`.
    pub skus: u32,
    /// Of the run's SKUs and idempotency keys.
    pub prefix: String,
    /// The same draws again: `--seed`.
    pub seed: u64,
    /// What was measured of the cluster.
    pub measured: Measured,
    /// What each node spent meanwhile.
    pub nodes: Vec<Spent>,
    /// Whether stock says what was acknowledged.
    pub check: Check,
    /// The bare server in windows of the same run.
    pub bare: Option<Measured>,
}

/// Figures of one side of a run; of several windows together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Length of all windows.
    pub seconds: f64,
    /// Units done within them.
    pub done: u64,
    /// Units done per second.
    pub per_s: f64,
    /// Lines of orders done per second.
    pub lines_per_s: f64,
    /// Units per second of each window.
    pub windows_per_s: Vec<f64>,
    /// Calls answered within the windows; a batch is one call, a reservation with its confirmation too.
    pub calls: u64,
    /// Of a call, with all that it waited since it was due; with or without an answer, but for those refused at once.
    pub latency_ms: Latency,
    /// Refused for certain, by code.
    pub refused: BTreeMap<String, u64>,
    /// Without a certain answer, or any, by code.
    pub unknown: BTreeMap<String, u64>,
    /// Calls of an open loop that were due and for which no client came free.
    pub never_sent: u64,
    /// Of the first window.
    pub fairness: Fairness,
    /// CPU seconds that this program used, per 1,000 calls.
    pub client_cpu_s_per_1000_calls: f64,
    /// Of the first window.
    pub course: Course,
}

/// Latencies in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half are faster.
    pub p50: f64,
    /// 1 of 10 is slower.
    pub p90: f64,
    /// 1 of 100 is slower.
    pub p99: f64,
    /// 1 of 1,000 is slower.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
    /// The whole curve: (quantile, milliseconds).
    pub curve: Vec<(f64, f64)>,
}

/// What happened when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// Length of a slot.
    pub slot_ms: f64,
    /// Units per second in each slot.
    pub per_s: Vec<f64>,
    /// The longest latency of what ended in each slot.
    pub slowest_ms: Vec<f64>,
}

/// One window of one side, as it was run.
pub struct WindowSeen {
    /// What all clients saw.
    pub tally: Tally,
    /// How long was measured; shorter than planned where a number of attempts ended it.
    pub seconds: f64,
    /// Its slots.
    pub window: Window,
    /// Calls that were due and never sent.
    pub never_sent: u64,
    /// How evenly clients were served.
    pub fairness: Fairness,
    /// CPU seconds of this program.
    pub client_cpu_s: f64,
}

impl Measured {
    /// Several windows of one side, taken together. There is at least one.
    pub fn of(windows: Vec<WindowSeen>) -> (Self, Tally) {
        let windows_per_s = windows.iter().map(|w| round(w.tally.done as f64 / w.seconds)).collect();
        let seconds: f64 = windows.iter().map(|w| w.seconds).sum();
        let cpu: f64 = windows.iter().map(|w| w.client_cpu_s).sum();
        let never_sent = windows.iter().map(|w| w.never_sent).sum();
        let (fairness, course) = (windows[0].fairness, Course::of(&windows[0]));
        let slots = windows[0].window.slots();
        let mut all = Tally::new(slots);
        windows.into_iter().for_each(|window| all.merge(window.tally));
        let measured = Measured {
            seconds: round(seconds),
            done: all.done,
            per_s: round(all.done as f64 / seconds),
            lines_per_s: round(all.lines as f64 / seconds),
            windows_per_s,
            calls: all.calls,
            latency_ms: Latency::of(&all.latency),
            refused: all.refused.clone(),
            unknown: all.unknown.clone(),
            never_sent,
            fairness,
            client_cpu_s_per_1000_calls: cpu * 1000.0 / all.calls.max(1) as f64,
            course,
        };
        (measured, all)
    }
}

impl Course {
    fn of(seen: &WindowSeen) -> Self {
        let slot_s = seen.window.slot_us as f64 / 1e6;
        // A number of attempts may be used up long before the window ends.
        let slots = ((seen.seconds / slot_s).ceil() as usize).max(1);
        Course {
            slot_ms: slot_s * 1000.0,
            per_s: seen.tally.done_per_slot.iter().take(slots).map(|n| round(*n as f64 / slot_s)).collect(),
            slowest_ms: seen
                .tally
                .slowest_per_slot
                .iter()
                .take(slots)
                .map(|us| *us as f64 / 1000.0)
                .collect(),
        }
    }
}

impl Latency {
    /// From microseconds.
    pub fn of(histogram: &Histogram<u32>) -> Self {
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let mut curve: Vec<(f64, f64)> = (0..)
            .map(|point| 1.0 - 10f64.powf(-f64::from(point) / f64::from(POINTS_PER_DECADE)))
            // Beyond the last value the curve would only repeat it.
            .take_while(|quantile| (1.0 - quantile) * histogram.len() as f64 >= 1.0)
            .map(|quantile| ((quantile * 1e7).round() / 1e7, at(quantile)))
            .collect();
        if !histogram.is_empty() {
            curve.push((1.0, at(1.0)));
        }
        Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: at(1.0), curve }
    }
}

/// Three digits after the point: more are noise.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// A figure for a table: three digits that matter.
pub fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => count(value.round().max(0.0) as u64),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn perhaps(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), figure)
}

/// The report for people.
pub fn table(report: &Report) -> String {
    let mut out = speed(report);
    out.push_str(&spending(report));
    for run in &report.runs {
        out.push_str(&remarks(run));
    }
    out
}

fn speed(report: &Report) -> String {
    let mut table = Table::new(&[
        "WORKLOAD",
        ">CONNS",
        ">RATE",
        ">PER SECOND",
        ">LINES/S",
        ">P50 MS",
        ">P99 MS",
        ">P99.9 MS",
        ">MAX MS",
        ">SLOWEST CLIENT",
        ">REFUSED",
        ">UNKNOWN",
        "STOCK",
    ]);
    for run in &report.runs {
        let verdict = if run.check.clean() { "right" } else { "WRONG" };
        table.row(cells(&run.name, run, &run.measured, verdict));
        if let Some(bare) = &run.bare {
            table.row(cells("  bare server", run, bare, "-"));
        }
    }
    table.render()
}

fn cells(name: &str, run: &Run, measured: &Measured, verdict: &str) -> Vec<String> {
    let sum = |codes: &BTreeMap<String, u64>| count(codes.values().sum());
    let latency = &measured.latency_ms;
    vec![
        name.to_owned(),
        run.connections.to_string(),
        run.rate.map_or_else(|| "closed".into(), figure),
        figure(measured.per_s),
        figure(measured.lines_per_s),
        figure(latency.p50),
        figure(latency.p99),
        figure(latency.p999),
        figure(latency.max),
        format!("{:.0} %", measured.fairness.slowest_share * 100.0),
        sum(&measured.refused),
        sum(&measured.unknown),
        verdict.to_owned(),
    ]
}

fn spending(report: &Report) -> String {
    let mut table = Table::new(&[
        "WORKLOAD",
        "NODE",
        ">CPU S/1,000",
        ">CORES",
        ">SYNCS/S",
        ">ORDERS/ENTRY",
        ">LOG B/ORDER",
        ">TABLES B/ORDER",
        ">SNAPSHOT B/ORDER",
        ">ZEROED B/ORDER",
        ">DISK B/ORDER",
    ]);
    for run in &report.runs {
        for node in &run.nodes {
            table.row(vec![
                run.name.clone(),
                node.node.to_string(),
                perhaps(node.cpu_s_per_1000),
                perhaps(node.cores),
                perhaps(node.log_syncs_per_s),
                perhaps(node.orders_per_entry),
                perhaps(node.log_bytes_per_order),
                perhaps(node.table_bytes_per_order),
                perhaps(node.snapshot_bytes_per_order),
                perhaps(node.zeroed_bytes_per_order),
                perhaps(node.disk_bytes_per_order),
            ]);
        }
    }
    format!("\n{}", table.render())
}

fn remarks(run: &Run) -> String {
    let mut out = String::new();
    let mut say =
        |text: String| writeln!(out, "{}: {text}", run.name).expect("a String takes all that is written");
    let Measured { windows_per_s, refused, unknown, never_sent, client_cpu_s_per_1000_calls, .. } =
        &run.measured;
    if windows_per_s.len() > 1 {
        let each: Vec<String> = windows_per_s.iter().map(|per_s| figure(*per_s)).collect();
        say(format!("windows, {} per second: {}", run.unit, each.join(", ")));
    }
    for (what, codes) in [("refused", refused), ("unknown", unknown)] {
        for (code, n) in codes {
            say(format!("{what} {code}: {}", count(*n)));
        }
    }
    if *never_sent > 0 {
        say(format!("{} calls were due and no client came free to send them", count(*never_sent)));
    }
    if run.nodes.iter().any(|node| node.cpu_s_per_1000.is_some()) {
        let all: f64 = run.nodes.iter().filter_map(|node| node.cpu_s_per_1000).sum();
        say(format!("CPU seconds per 1,000 {}, nodes together: {}", run.unit, figure(all)));
    }
    say(format!("CPU seconds per 1,000 calls, of the load itself: {}", figure(*client_cpu_s_per_1000_calls)));
    if let Some(bare) = &run.bare {
        say(format!(
            "of the bare server's throughput: {:.1} %; its p99 times {}",
            share(run.measured.per_s, bare.per_s) * 100.0,
            figure(share(run.measured.latency_ms.p99, bare.latency_ms.p99))
        ));
    }
    let check = &run.check;
    if check.settled_done + check.settled_not_done + check.unsettled > 0 {
        say(format!(
            "unknown outcomes: {} had happened, {} had not and never will, {} could not be settled",
            check.settled_done, check.settled_not_done, check.unsettled
        ));
    }
    for finding in &check.findings {
        say(format!("FINDING: {finding}"));
    }
    if check.findings_count > check.findings.len() as u64 {
        say(format!("FINDING: {} more", check.findings_count - check.findings.len() as u64));
    }
    out
}

/// One figure as a share of another; 0 where that is 0.
pub fn share(one: f64, of: f64) -> f64 {
    if of == 0.0 { 0.0 } else { one / of }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::time::Duration;

    /// A run of fixed figures.
    pub fn run() -> Run {
        let window = Window::new(Duration::ZERO, Duration::from_secs(2), 2);
        let mut tally = Tally::new(2);
        for i in 0..1000 {
            tally.answered(&window, i * 2000, i * 2000 + 400 + i, 1, 2);
        }
        tally.refused.insert("overloaded".into(), 3);
        let fairness = Fairness::of(vec![240, 250, 260, 250]);
        let seen = WindowSeen { tally, seconds: 2.0, window, never_sent: 0, fairness, client_cpu_s: 0.01 };
        Run {
            name: "uniform".into(),
            unit: "orders".into(),
            rate: None,
            connections: 4,
            endpoints: vec!["127.0.0.1:8081".into()],
            skus: 10,
            prefix: "b1".into(),
            seed: 7,
            measured: Measured::of(vec![seen]).0,
            nodes: vec![Spent {
                node: 1,
                cpu_s_per_1000: Some(0.015),
                cores: Some(0.4),
                log_syncs_per_s: Some(900.0),
                orders_per_entry: Some(12.0),
                log_bytes_per_order: Some(180.0),
                table_bytes_per_order: None,
                snapshot_bytes_per_order: None,
                zeroed_bytes_per_order: Some(70.0),
                disk_bytes_per_order: Some(400.0),
            }],
            check: Check { units_acknowledged: 1000, units_in_stock: 1000, ..Check::default() },
            bare: None,
        }
    }

    /// A report with that run.
    pub fn report() -> Report {
        Report {
            format: FORMAT,
            version: "0.1.0".into(),
            started_unix_ms: 1_790_000_000_000,
            cores: 2,
            runs: vec![run()],
        }
    }

    /// Scripts read this document: a field that changes its name or place must be seen here first.
    #[test]
    fn the_document_has_this_shape() {
        let golden = include_str!("golden.json");
        let ours = format!("{:#}\n", serde_json::to_value(report()).unwrap());
        assert_eq!(ours, golden, "where this is wanted, write it to cli/src/bench/golden.json");
        assert_eq!(serde_json::from_str::<Report>(golden).unwrap(), report());
    }

    #[test]
    fn the_table_shows_speed_spending_and_findings() {
        let mut report = report();
        let text = table(&report);
        for part in ["uniform", "500", "96 %", "right", "0.015", "refused overloaded: 3"] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        report.runs[0].check.find("SKU 3: 1 units lost".into());
        assert!(!report.clean());
        assert!(table(&report).contains("WRONG") && table(&report).contains("FINDING: SKU 3: 1 units lost"));
    }

    #[test]
    fn a_curve_ends_with_the_slowest() {
        let curve = run().measured.latency_ms.curve;
        assert!(curve.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{curve:?}");
        assert_eq!(curve.last().map(|point| point.0), Some(1.0));
    }
}
