//! Who came before whom.

use super::lists::{Lists, appends};
use crate::checker::writes::{Read, Write};
use crate::history::Micros;
use std::collections::HashMap;

/// Why one came before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Because {
    /// Its element stands before the other's.
    WriteWrite,
    /// The other saw its element.
    WriteRead,
    /// It did not see the other's element.
    ReadWrite,
    /// It was answered before the other was sent.
    RealTime,
}

/// A node of the graph.
#[derive(Debug, Clone)]
pub enum Node {
    /// A call.
    Call {
        /// Its id.
        op: u64,
        /// SKUs it touches.
        skus: Vec<String>,
    },
    /// Not a call: what keeps the graph small.
    Between,
}

/// The graph of all calls that took place.
#[derive(Debug, Default)]
pub struct Graph {
    /// Calls, and nodes between them.
    pub nodes: Vec<Node>,
    /// Of each node: who came after it, and why.
    pub after: Vec<Vec<(usize, Because)>>,
}

impl Graph {
    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.after.push(Vec::new());
        self.nodes.len() - 1
    }

    fn edge(&mut self, from: usize, to: usize, because: Because) {
        if from != to {
            self.after[from].push((to, because));
        }
    }

    /// How many edges there are.
    pub fn edges(&self) -> usize {
        self.after.iter().map(Vec::len).sum()
    }
}

/// Everything that took place, and its order as far as it is known. Writes that nobody saw and nobody
/// answered are no part of it.
pub fn build(writes: &[Write<'_>], reads: &[Read<'_>], lists: &Lists<'_>) -> Graph {
    let mut graph = Graph::default();
    let mut spans: Vec<(usize, Micros, Micros)> = Vec::new();
    let mut of_write: HashMap<usize, usize> = HashMap::new();
    let seen: std::collections::HashSet<usize> = lists
        .order
        .iter()
        .flat_map(|(sku, order)| {
            order.iter().filter_map(|element| lists.writer.get(&(*sku, *element)).copied())
        })
        .collect();
    for (number, write) in writes.iter().enumerate() {
        let appends = appends(write);
        if appends.is_empty() || !(write.done().is_some() || seen.contains(&number)) {
            continue;
        }
        let skus = appends.iter().map(|(sku, _)| (*sku).to_owned()).collect();
        let node = graph.add(Node::Call { op: write.op(), skus });
        of_write.insert(number, node);
        spans.push((node, write.invoked, write.by()));
    }
    let mut of_read: HashMap<usize, usize> = HashMap::new();
    for (sku, seen) in &lists.seen {
        for one in seen {
            let read = &reads[one.read];
            let node = *of_read.entry(one.read).or_insert_with(|| {
                let node = graph.add(Node::Call { op: read.op.id, skus: Vec::new() });
                // A read that may be old is in order with what it saw, not with real time.
                if read.is_linearizable() {
                    spans.push((node, read.op.invoked, read.completed));
                }
                node
            });
            if let Node::Call { skus, .. } = &mut graph.nodes[node] {
                skus.push((*sku).to_owned());
            }
        }
    }
    for sku in lists.order.keys() {
        dependencies(&mut graph, sku, writes, lists, &of_write, &of_read);
    }
    real_time(&mut graph, spans);
    graph
}

/// The edges that one SKU's list tells of.
fn dependencies(
    graph: &mut Graph,
    sku: &str,
    writes: &[Write<'_>],
    lists: &Lists<'_>,
    of_write: &HashMap<usize, usize>,
    of_read: &HashMap<usize, usize>,
) {
    let order = &lists.order[sku];
    let writers: Vec<Option<usize>> =
        order.iter().map(|element| of_write.get(lists.writer.get(&(sku, *element))?).copied()).collect();
    // Behind all that anybody saw: those that took place and stand in no list.
    let end = graph.add(Node::Between);
    let unseen = writes.iter().enumerate().filter(|(number, write)| {
        write.done().is_some()
            && appends(write).iter().any(|(other, element)| {
                *other == sku
                    && lists.writer.get(&(sku, *element)) == Some(number)
                    && !order.contains(element)
            })
    });
    for (number, _) in unseen {
        if let Some(node) = of_write.get(&number) {
            graph.edge(end, *node, Because::WriteWrite);
        }
    }
    // Who comes next from each place on: expired holds and the like have no writer.
    let mut next = end;
    let mut next_writer = vec![end; order.len() + 1];
    for at in (0..order.len()).rev() {
        if let Some(writer) = writers[at] {
            graph.edge(writer, next, Because::WriteWrite);
            next = writer;
        }
        next_writer[at] = next;
    }
    for seen in &lists.seen[sku] {
        let read = of_read[&seen.read];
        if let Some(last) = writers[..seen.length].iter().rev().find_map(|writer| *writer) {
            graph.edge(last, read, Because::WriteRead);
        }
        graph.edge(read, next_writer[seen.length], Because::ReadWrite);
    }
}

/// Answered before the other was sent. Not an edge for each two, but one line of moments that each call
/// joins when it is answered and leaves when it is sent.
fn real_time(graph: &mut Graph, spans: Vec<(usize, Micros, Micros)>) {
    let mut ends: Vec<(Micros, usize)> =
        spans.iter().filter(|(.., by)| *by != Micros::MAX).map(|(node, _, by)| (*by, *node)).collect();
    ends.sort_unstable();
    let moments: Vec<usize> = ends.iter().map(|_| graph.add(Node::Between)).collect();
    for (at, (_, node)) in ends.iter().enumerate() {
        graph.edge(*node, moments[at], Because::RealTime);
        if at > 0 {
            graph.edge(moments[at - 1], moments[at], Because::RealTime);
        }
    }
    for (node, invoked, _) in spans {
        let before = ends.partition_point(|(by, _)| *by < invoked);
        if before > 0 {
            graph.edge(moments[before - 1], node, Because::RealTime);
        }
    }
}
