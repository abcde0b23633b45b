//! What a person sees of a run on the terminal.

use super::judge::{Count, Summary, faults};
use super::plan::Plan;
use super::recorder::Recorder;
use crate::checker::{Verdict, Verdicts};
use crate::cluster;
use crate::history::Sample;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// What will be done, and what will not.
pub fn header(plan: &Plan, binary: &Path, version: &str, dir: &Path) {
    let names: Vec<&str> = plan.nemeses.iter().map(|entry| entry.name).collect();
    let nemeses = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    println!("{}", plan.command);
    println!("  workload  {}: {} clients, {} calls/s each", plan.workload.name, plan.clients, plan.rate);
    println!("  nemeses   {nemeses}");
    for (name, why) in &plan.skipped {
        println!("  SKIPPED   {name}: {why}");
    }
    println!("  cluster   {} nodes, {}, {version} ({})", plan.nodes, plan.network.name(), binary.display());
    for (flag, value) in &plan.needs.settings {
        println!("            {flag} {value}");
    }
    for name in cluster::settings_not_passed_on() {
        println!("  NOT SET   {name}: nodes get nothing of this shell; `--env {name}=...` gives it to them");
    }
    println!("  time      {} s", plan.time_s);
    println!("  seed      {}", plan.seed);
    println!("  results   {}", dir.display());
}

/// One line on how it goes. `answered` is how many calls were answered since the line before, in `since`.
pub fn live(recorder: &Recorder, answered: u64, since: Duration) {
    let tally = recorder.tally();
    let (faults, leader) = recorder.look(|history| (faults(history), leader(&history.samples)));
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let rate = answered as f64 / since.as_secs_f64();
    println!(
        "{:5.0} s  {rate:5.0} ok/s  ok {} fail {} info {}  faults {}  {leader}",
        Duration::from_micros(recorder.now()).as_secs_f64(),
        tally.ok,
        tally.fail,
        tally.info,
        counts(&faults),
    );
}

/// `partition 2/3, kill 1/1`: effective of all.
pub fn counts(faults: &BTreeMap<String, Count>) -> String {
    let counts: Vec<String> =
        faults.iter().map(|(name, count)| format!("{name} {}/{}", count.effective, count.total)).collect();
    if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
}

fn leader(samples: &[Sample]) -> String {
    let newest: BTreeMap<_, _> = samples.iter().map(|sample| (sample.node, sample)).collect();
    let leading = newest.values().filter(|sample| sample.leader == Some(sample.node));
    match leading.max_by_key(|sample| sample.term) {
        Some(sample) => format!("leader {} (term {})", sample.node, sample.term),
        None => "no leader".to_owned(),
    }
}

/// The verdicts, where they are explained, and how to see them again.
pub fn verdicts(summary: &Summary, report: Option<&Path>) {
    println!();
    for line in table(&summary.verdicts) {
        println!("{line}");
    }
    println!();
    let calls = summary.calls;
    println!("calls     {} ok, {} fail, {} info", calls.ok, calls.fail, calls.info);
    println!("faults    {} (effective of all)", counts(&summary.faults));
    for (name, why) in &summary.skipped {
        println!("SKIPPED   {name}: {why}");
    }
    if let Some(report) = report {
        println!("report    {}", report.display());
    }
    println!("again     {}", summary.run.command);
    println!("result    {} after {:.0} s", word(summary.result), summary.seconds);
}

/// As a table, violations in full.
pub fn table(verdicts: &[Verdict]) -> Vec<String> {
    /// Of many violations the first tell the most; all are in the report.
    const SHOWN: usize = 5;
    let width = verdicts.iter().map(|verdict| verdict.checker.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for verdict in verdicts {
        let result = word(verdict.result);
        lines.push(format!("{result:<12}  {:<width$}  {}", verdict.checker, verdict.summary));
        for violation in verdict.violations.iter().take(SHOWN) {
            lines.push(format!("{:<14}- {} (calls {:?})", "", violation.what, violation.ops));
        }
        if verdict.violations.len() > SHOWN {
            lines.push(format!("{:<14}- and {} more", "", verdict.violations.len() - SHOWN));
        }
    }
    lines
}

/// A verdict in one word or two; what is no pass is loud.
pub fn word(result: Verdicts) -> &'static str {
    match result {
        Verdicts::Holds => "holds",
        Verdicts::Violated => "VIOLATED",
        Verdicts::NotDecided => "NOT DECIDED",
    }
}
