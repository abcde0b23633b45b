//! What the nodes say of themselves, asked twice a second.

use super::client::Client;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What one node says; empty where it does not answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// It answered at all.
    pub answers: bool,
    /// `/readyz` passes.
    pub ready: bool,
    /// Whom it takes for the leader.
    pub leader: Option<u64>,
    /// Its term.
    pub term: u64,
    /// It counts in quorums.
    pub voter: bool,
    /// Newest entry in its state.
    pub applied: u64,
    /// Rolling digest of its history there.
    pub digest: String,
    /// Order-free hash of its state there.
    pub state_hash: String,
    /// Orders placed in entries that it applied since its process started.
    pub orders_placed: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct ClusterBody {
    node_id: u64,
    leader: Option<u64>,
    term: u64,
    members: Vec<MemberBody>,
}

#[derive(Debug, Deserialize)]
struct MemberBody {
    id: u64,
    role: String,
    report: Option<ReportBody>,
}

#[derive(Debug, Deserialize)]
struct ReportBody {
    applied_index: u64,
    digest: String,
    state_hash: String,
}

/// Asks all nodes at once.
pub async fn ask(client: &Client) -> Vec<NodeStatus> {
    futures::future::join_all((0..client.nodes()).map(|node| ask_one(client, node))).await
}

async fn ask_one(client: &Client, node: usize) -> NodeStatus {
    let (cluster, ready, orders_placed) = tokio::join!(
        client.look(node, "/v1/cluster"),
        client.is_ok(node, "/readyz"),
        client.counter(node, "stockroom_orders_placed_total")
    );
    let Some(body) = cluster.ok().and_then(|body| serde_json::from_value::<ClusterBody>(body).ok()) else {
        return NodeStatus::default();
    };
    let me = body.members.into_iter().find(|member| member.id == body.node_id);
    let voter = me.as_ref().is_some_and(|me| me.role == "voter");
    let mut status = NodeStatus {
        answers: true,
        ready,
        leader: body.leader,
        term: body.term,
        voter,
        orders_placed,
        ..NodeStatus::default()
    };
    if let Some(report) = me.and_then(|me| me.report) {
        (status.applied, status.digest, status.state_hash) =
            (report.applied_index, report.digest, report.state_hash);
    }
    status
}

/// The leader that most nodes of the newest term name.
pub fn leader(nodes: &[NodeStatus]) -> Option<(u64, u64)> {
    let newest = nodes.iter().filter(|node| node.answers).map(|node| node.term).max()?;
    let named =
        nodes.iter().filter(|node| node.answers && node.term == newest).filter_map(|node| node.leader);
    let mut votes = BTreeMap::<u64, usize>::new();
    for leader in named {
        *votes.entry(leader).or_default() += 1;
    }
    votes.into_iter().max_by_key(|(_, count)| *count).map(|(leader, _)| (leader, newest))
}

/// Compares digests and state hashes of nodes that were seen at the same applied index, at whatever time.
#[derive(Debug, Default)]
pub struct Comparison {
    seen: BTreeMap<u64, (usize, (String, String))>,
    /// How often two nodes could be compared.
    pub compared: u64,
    /// The first difference, in words.
    pub difference: Option<String>,
}

/// How many indexes are remembered: some minutes.
const REMEMBERED: usize = 1_000;

impl Comparison {
    /// Takes in what the nodes say now.
    pub fn add(&mut self, nodes: &[NodeStatus]) {
        for (at, node) in nodes.iter().enumerate().filter(|(_, node)| !node.digest.is_empty()) {
            let said = (node.digest.clone(), node.state_hash.clone());
            match self.seen.get(&node.applied) {
                None => {
                    self.seen.insert(node.applied, (at, said));
                }
                Some((other, before)) => {
                    self.compared += u64::from(*other != at);
                    if *before != said && self.difference.is_none() {
                        self.difference = Some(format!("nodes differ at index {}", node.applied));
                    }
                }
            }
        }
        while self.seen.len() > REMEMBERED {
            self.seen.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(term: u64, leader: Option<u64>, applied: u64, digest: &str) -> NodeStatus {
        NodeStatus { answers: true, term, leader, applied, digest: digest.into(), ..NodeStatus::default() }
    }

    #[test]
    fn a_node_of_an_old_term_does_not_name_the_leader() {
        let nodes = [node(3, Some(1), 9, "a"), node(4, Some(2), 9, "a"), NodeStatus::default()];
        assert_eq!(leader(&nodes), Some((2, 4)));
        assert_eq!(leader(&[NodeStatus::default()]), None);
    }

    #[test]
    fn nodes_are_compared_at_one_index_only() {
        let mut comparison = Comparison::default();
        comparison.add(&[node(1, None, 7, "a"), node(1, None, 8, "b")]);
        assert_eq!((comparison.compared, &comparison.difference), (0, &None));
        comparison.add(&[node(1, None, 8, "b"), node(1, None, 8, "b")]);
        assert_eq!((comparison.compared, &comparison.difference), (1, &None));
        comparison.add(&[NodeStatus::default(), node(1, None, 7, "x")]);
        assert_eq!(comparison.difference.as_deref(), Some("nodes differ at index 7"));
    }
}
