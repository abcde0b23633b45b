//! `bench --compare A B`: two reports side by side.

use super::report::{Report, Run, figure, share};
use crate::{
    output::{Format, Table},
    problem::{Exit, Failure},
};
use serde_json::json;

/// Prints B as a multiple of A, for each run that both have.
///
/// # Errors
/// A file is no report, or they have nothing in common.
pub fn run(a: &str, b: &str, format: Format) -> Result<Exit, Failure> {
    let (first, second) = (read(a)?, read(b)?);
    let pairs = pairs(&first, &second);
    if pairs.is_empty() {
        let why = format!("{a} and {b} have no run of the same workload, connections and rate");
        return Err(Failure::local(Exit::Usage, "usage", "Nothing to compare", why));
    }
    let rows: Vec<_> = pairs.iter().map(|(a, b)| as_json(a, b)).collect();
    format.print(&json!({ "ratios": rows }), "ratios", || table(&pairs));
    Ok(Exit::Ok)
}

fn read(path: &str) -> Result<Report, Failure> {
    let bytes = std::fs::read(path).map_err(|error| Failure::file(path, &error))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::local(
            Exit::Usage,
            "usage",
            "Not a report of `stockctl -o json bench`",
            format!("{path}: {error}"),
        )
    })
}

/// Runs of the same work, each used once.
fn pairs<'a>(first: &'a Report, second: &'a Report) -> Vec<(&'a Run, &'a Run)> {
    let mut left: Vec<&Run> = second.runs.iter().collect();
    let same = |a: &Run, b: &Run| a.name == b.name && a.connections == b.connections && a.rate == b.rate;
    let pair = |a| left.iter().position(|b| same(a, b)).map(|at| (a, left.remove(at)));
    first.runs.iter().filter_map(pair).collect()
}

/// Throughput, p50, p99 and server CPU of `b`, each as a multiple of `a`'s.
fn ratios(a: &Run, b: &Run) -> [f64; 4] {
    let cpu = |run: &Run| run.nodes.iter().filter_map(|node| node.cpu_s_per_1000).sum::<f64>();
    [
        share(b.measured.per_s, a.measured.per_s),
        share(b.measured.latency_ms.p50, a.measured.latency_ms.p50),
        share(b.measured.latency_ms.p99, a.measured.latency_ms.p99),
        share(cpu(b), cpu(a)),
    ]
}

fn as_json(a: &Run, b: &Run) -> serde_json::Value {
    let [per_s, p50, p99, cpu] = ratios(a, b);
    json!({"name": a.name, "connections": a.connections, "rate": a.rate, "per_s": per_s, "p50": p50, "p99": p99,
        "node_cpu": (cpu > 0.0).then_some(cpu)})
}

fn table(pairs: &[(&Run, &Run)]) -> String {
    let mut table = Table::new(&[
        "WORKLOAD",
        ">CONNS",
        ">A PER SECOND",
        ">B PER SECOND",
        ">B/A",
        ">P50 B/A",
        ">P99 B/A",
        ">NODE CPU B/A",
    ]);
    for (a, b) in pairs {
        let [per_s, p50, p99, cpu] = ratios(a, b);
        table.row(vec![
            a.name.clone(),
            a.connections.to_string(),
            figure(a.measured.per_s),
            figure(b.measured.per_s),
            format!("{per_s:.2}"),
            format!("{p50:.2}"),
            format!("{p99:.2}"),
            if cpu > 0.0 { format!("{cpu:.2}") } else { "-".into() },
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::report, *};

    #[test]
    fn only_the_same_work_is_compared() {
        let (a, mut b) = (report(), report());
        b.runs[0].measured.per_s *= 2.0;
        b.runs[0].measured.latency_ms.p99 /= 4.0;
        assert_eq!(ratios(&a.runs[0], &b.runs[0]), [2.0, 1.0, 0.25, 1.0]);
        assert!(table(&pairs(&a, &b)).contains("2.00"));
        b.runs[0].connections = 5;
        assert!(pairs(&a, &b).is_empty());
    }
}
