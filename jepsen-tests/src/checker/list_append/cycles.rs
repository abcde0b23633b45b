//! Cycles in "came before", and their names.

use super::graph::{Because, Graph, Node};
use crate::checker::Findings;
use std::collections::{HashMap, VecDeque};

/// How many cycles of one strongly connected part are looked for: one is enough to condemn a run.
const TRIES: usize = 200;

/// The anomalies, from the gravest on. Each is a cycle of some kinds of edges, with at most some number of
/// edges from a read to what it did not see. G1c, writes and what was seen of them, takes real time here: our
/// reads write nothing, so nothing else leads on from them but what they did not see.
const ANOMALIES: &[(&str, usize, bool)] = &[
    ("G0", 0, false),
    ("G-single", 1, false),
    ("G2", usize::MAX, false),
    ("G0-realtime", 0, true),
    ("G1c-realtime", 0, true),
    ("G-single-realtime", 1, true),
    ("G2-realtime", usize::MAX, true),
];

/// Finds cycles and names each by the gravest anomaly that it is.
pub fn find(graph: &Graph, found: &mut Findings) {
    for part in strong_parts(graph) {
        let inside: HashMap<usize, ()> = part.iter().map(|node| (*node, ())).collect();
        let named = ANOMALIES.iter().find_map(|(name, reads, real_time)| {
            let writes_only = name.starts_with("G0");
            cycle(graph, &part, &inside, &Kind { writes_only, reads: *reads, real_time: *real_time })
                .map(|cycle| (*name, cycle))
        });
        if let Some((name, cycle)) = named {
            report(graph, name, &cycle, found);
        }
    }
}

/// Which edges a cycle may have.
struct Kind {
    writes_only: bool,
    /// How many edges from a read to what it did not see.
    reads: usize,
    real_time: bool,
}

impl Kind {
    /// Edges that may stand anywhere and any number of times.
    fn free(&self, because: Because) -> bool {
        match because {
            Because::WriteWrite => true,
            Because::WriteRead => !self.writes_only,
            Because::ReadWrite => self.reads == usize::MAX,
            Because::RealTime => self.real_time,
        }
    }
}

/// The shortest cycle of a kind that some tries find.
fn cycle(
    graph: &Graph,
    part: &[usize],
    inside: &HashMap<usize, ()>,
    kind: &Kind,
) -> Option<Vec<(usize, Because)>> {
    let mut best: Option<Vec<(usize, Because)>> = None;
    let begins = |because| if kind.reads == 1 { because == Because::ReadWrite } else { kind.free(because) };
    let firsts = part.iter().flat_map(|node| {
        graph.after[*node]
            .iter()
            .filter(|(to, b)| begins(*b) && inside.contains_key(to))
            .map(|edge| (*node, *edge))
    });
    // Back from each first edge's end to its beginning.
    for (from, (to, because)) in firsts.take(TRIES.max(part.len() / 50)) {
        if let Some(mut path) = path(graph, inside, to, from, kind) {
            path.insert(0, (from, because));
            if best.as_ref().is_none_or(|best| calls(graph, &path) < calls(graph, best)) {
                best = Some(path);
            }
        }
    }
    best
}

fn calls(graph: &Graph, path: &[(usize, Because)]) -> usize {
    path.iter().filter(|(node, _)| matches!(graph.nodes[*node], Node::Call { .. })).count()
}

/// The shortest way along free edges: each node with the edge that leaves it.
fn path(
    graph: &Graph,
    inside: &HashMap<usize, ()>,
    from: usize,
    to: usize,
    kind: &Kind,
) -> Option<Vec<(usize, Because)>> {
    let mut came: HashMap<usize, (usize, Because)> = HashMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        if node == to {
            let mut path = Vec::new();
            let mut at = to;
            while at != from {
                let (before, because) = came[&at];
                path.push((before, because));
                at = before;
            }
            path.reverse();
            return Some(path);
        }
        for (next, because) in &graph.after[node] {
            if kind.free(*because) && inside.contains_key(next) && *next != from && !came.contains_key(next) {
                came.insert(*next, (node, *because));
                // Nodes between calls are no step.
                match graph.nodes[*next] {
                    Node::Between => queue.push_front(*next),
                    Node::Call { .. } => queue.push_back(*next),
                }
            }
        }
    }
    None
}

fn report(graph: &Graph, name: &str, cycle: &[(usize, Because)], found: &mut Findings) {
    let mut words = Vec::new();
    let (mut ops, mut all_skus) = (Vec::new(), Vec::new());
    for (node, because) in cycle {
        if let Node::Call { op, skus } = &graph.nodes[*node] {
            words.push(format!(
                "call {op} {}",
                match because {
                    Because::WriteWrite => "wrote before",
                    Because::WriteRead => "was seen by",
                    Because::ReadWrite => "did not see",
                    Because::RealTime => "was answered before the sending of",
                }
            ));
            ops.push(*op);
            all_skus.extend(skus.iter().cloned());
        }
    }
    all_skus.sort_unstable();
    all_skus.dedup();
    let first = ops.first().copied().unwrap_or(0);
    found.add(format!("{name}: {} call {first}", words.join(", ")), all_skus, ops);
}

/// Strongly connected parts of more than one node (Tarjan's, without recursion).
fn strong_parts(graph: &Graph) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let count = graph.nodes.len();
    let (mut number, mut low, mut on_stack) = (vec![NEW; count], vec![0; count], vec![false; count]);
    let (mut stack, mut parts, mut next) = (Vec::new(), Vec::new(), 0);
    for root in 0..count {
        if number[root] != NEW {
            continue;
        }
        let mut work = vec![(root, 0)];
        while let Some((node, edge)) = work.pop() {
            if edge == 0 {
                number[node] = next;
                low[node] = next;
                next += 1;
                stack.push(node);
                on_stack[node] = true;
            }
            if let Some((to, _)) = graph.after[node].get(edge) {
                work.push((node, edge + 1));
                if number[*to] == NEW {
                    work.push((*to, 0));
                } else if on_stack[*to] {
                    low[node] = low[node].min(number[*to]);
                }
                continue;
            }
            if let Some((parent, _)) = work.last() {
                low[*parent] = low[*parent].min(low[node]);
            }
            if low[node] == number[node] {
                let at = stack.iter().rposition(|other| *other == node).unwrap_or(0);
                let part: Vec<usize> = stack.split_off(at);
                part.iter().for_each(|node| on_stack[*node] = false);
                if part.len() > 1 {
                    parts.push(part);
                }
            }
        }
    }
    parts
}
