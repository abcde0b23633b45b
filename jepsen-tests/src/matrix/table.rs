//! Which runs there are.

use crate::run::plan::NetworkKind::{self, Loopback, Netns};

/// One run of a matrix.
#[derive(Debug)]
pub struct Row {
    /// What clients ask for.
    pub workload: &'static str,
    /// What is done meanwhile.
    pub nemeses: &'static [&'static str],
    /// How many nodes.
    pub nodes: u64,
    /// How long, in seconds.
    pub time_s: u64,
    /// What lies between the nodes.
    pub network: NetworkKind,
}

const fn row(workload: &'static str, nemeses: &'static [&'static str], nodes: u64, time_s: u64) -> Row {
    Row { workload, nemeses, nodes, time_s, network: Loopback }
}

/// The runs of a matrix.
pub fn of(which: &str) -> &'static [Row] {
    match which {
        "ci" => CI,
        "full" => FULL,
        _ => QUICK,
    }
}

pub const CONTROL: &[Row] = &[row("stock", &["partition", "kill"], 3, 30)];
const CI: &[Row] = &[];
const QUICK: &[Row] = &[];
const FULL: &[Row] = &[Row { network: Netns, ..row("stock", &["partition"], 5, 60) }];
pub fn against(_bug: &str) -> &'static [Row] {
    &[]
}
