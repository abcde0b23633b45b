//! Orders of several SKUs, judged as Elle judges lists that are appended to.
//!
//! The movements of a SKU are a list: each write appends what it did, under the name of its cause. So every
//! read of movements shows the whole history of its SKUs up to then, from which the order of all writes,
//! and who saw whose, can be told. A cycle in "came before" is an anomaly, named as Elle and Adya name it.
//! The log's indexes are not used for that: only what readers see, and real time.

mod cycles;
mod edn;
mod graph;
mod lists;

pub use edn::edn;

use super::writes::{self, Read, Write};
use super::{Findings, Verdict};
use crate::history::{Call, History};
use lists::Lists;

/// A multi-SKU order is seen whole or not at all; every SKU's lists are prefixes of one another; nothing is
/// seen that was refused or abandoned; and there is no cycle, real time included: strict serializability.
pub fn check(history: &History) -> Verdict {
    let mut found = Findings::default();
    let writes = writes::all(history);
    let reads: Vec<Read<'_>> = writes::reads(history).collect();
    let lists = Lists::of(&writes, &reads, &mut found);
    lists.whole_or_not_at_all(&writes, &mut found);
    let graph = graph::build(&writes, &reads, &lists);
    cycles::find(&graph, &mut found);

    let several = writes.iter().filter(|write| write.done().is_some() && is_multi(write)).count();
    let undecided = if lists.count == 0 {
        Some("no movements were read".to_owned())
    } else {
        (several == 0).then(|| "no order of several SKUs succeeded".to_owned())
    };
    let checked = format!(
        "{} lists of {} SKUs with {} elements, {several} orders of several SKUs, {} dependencies without a cycle",
        lists.count,
        lists.order.len(),
        lists.elements(),
        graph.edges()
    );
    found.verdict_unless("list_append", checked, undecided)
}

fn is_multi(write: &Write<'_>) -> bool {
    matches!(write.call, Call::PlaceOrder { lines, .. } if lines.iter().any(|line| line.sku != lines[0].sku))
}
