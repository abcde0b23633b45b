//! The live table: what it shows, as lines of text.

use super::nodes::{Node, State};
use super::status::{Comparison, NodeStatus, leader};
use std::time::Duration;

/// All that one frame shows.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Cluster id.
    pub cluster_id: &'a str,
    /// Since the playground started.
    pub up: Duration,
    /// Processes.
    pub nodes: &'a [Node],
    /// What they say, in the same order.
    pub status: &'a [NodeStatus],
    /// Node that keys act on.
    pub selected: u16,
    /// The background stream.
    pub orders: Orders,
    /// Compared digests.
    pub comparison: &'a Comparison,
    /// Lines to try.
    pub try_it: &'a [String],
    /// Columns of the terminal.
    pub width: usize,
}

/// The background stream in figures.
#[derive(Debug, Default)]
pub struct Orders {
    /// It is on.
    pub on: bool,
    /// Orders placed by it.
    pub placed: u64,
    /// Orders placed in the cluster a second, by whomever.
    pub per_second: f64,
    /// Refused by the shop.
    pub refused: u64,
    /// Without an order placed, where it should have been.
    pub silent: Option<Duration>,
    /// What the last round ran into.
    pub trouble: Option<String>,
}

/// The frame as lines.
pub fn render(frame: &Frame<'_>) -> Vec<String> {
    let seconds = frame.up.as_secs();
    let mut lines = vec![
        format!(
            "Stockroom playground   cluster {}   up {:02}:{:02}",
            frame.cluster_id,
            seconds / 60,
            seconds % 60
        ),
        String::new(),
        format!(
            "  {:<5}{:<9}{:<17}{:<9}{:<10}{:>5}{:>10}  {:<10}{}",
            "node", "pid", "http", "process", "role", "term", "applied", "digest", "ready"
        ),
    ];
    let lead = leader(frame.status);
    for (node, status) in frame.nodes.iter().zip(frame.status) {
        lines.push(node_line(node, status, lead, node.id == frame.selected));
    }
    lines.push(String::new());
    lines.push(match lead {
        Some((leader, term)) => format!("leader  node {leader}, term {term}"),
        None => "leader  none".into(),
    });
    lines.push(orders_line(&frame.orders));
    lines.push(match &frame.comparison.difference {
        Some(difference) => format!("checks  DIFFERENT: {difference}"),
        None => {
            format!("checks  digests and state hashes equal, compared {} times", frame.comparison.compared)
        }
    });
    lines.extend(["".into(), "Try in another terminal:".into()]);
    lines.extend(frame.try_it.iter().flat_map(|line| continued(line, frame.width)));
    lines.extend([
        "".into(),
        "keys  1-9 select a node   k kill -9   p pause   r resume   s restart   o orders on/off   q quit"
            .into(),
    ]);
    lines
}

fn node_line(node: &Node, status: &NodeStatus, lead: Option<(u64, u64)>, selected: bool) -> String {
    let role = match (status.answers, status.voter) {
        (false, _) => "no answer",
        _ if lead.is_some_and(|(leader, _)| leader == u64::from(node.id)) => "leader",
        (_, true) => "follower",
        (_, false) => "learner",
    };
    let shown = |text: String| if status.answers { text } else { "-".into() };
    format!(
        "{} {:<5}{:<9}{:<17}{:<9}{:<10}{:>5}{:>10}  {:<10}{}",
        if selected { ">" } else { " " },
        node.id,
        node.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
        node.http,
        word(node.state),
        role,
        shown(status.term.to_string()),
        shown(status.applied.to_string()),
        shown(status.digest.chars().take(8).collect()),
        if status.ready { "yes" } else { "no" },
    )
}

/// A command line as the shell takes it over several lines, where it is wider than the terminal.
fn continued(command: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::from(" ")];
    for (at, part) in command.split(" -").enumerate() {
        let part = if at == 0 { format!(" {part}") } else { format!(" -{part}") };
        let line = lines.last_mut().expect("starts with one line");
        if line.len() + part.len() + 2 > width && line.len() > 1 {
            line.push_str(" \\");
            lines.push(format!("    {part}"));
        } else {
            line.push_str(&part);
        }
    }
    lines
}

/// A process's state in a word.
pub fn word(state: State) -> &'static str {
    match state {
        State::Down => "down",
        State::Up => "up",
        State::Paused => "paused",
        State::Killed => "killed",
        State::Died => "died",
    }
}

fn orders_line(orders: &Orders) -> String {
    if !orders.on {
        return format!("orders  {:.0}/s, the playground places none", orders.per_second);
    }
    let mut line = format!("orders  {:.0}/s, {} placed by the playground", orders.per_second, orders.placed);
    if orders.refused > 0 {
        line.push_str(&format!(", {} refused", orders.refused));
    }
    if let Some(silent) = orders.silent.filter(|silent| *silent >= Duration::from_secs(1)) {
        line.push_str(&format!(", none for {:.1} s", silent.as_secs_f64()));
    }
    if let Some(trouble) = &orders.trouble {
        line.push_str(&format!("; {trouble}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u16, state: State) -> Node {
        Node {
            id,
            pid: (state == State::Up).then_some(4000 + u32::from(id)),
            state,
            http: format!("127.0.0.1:808{id}"),
            peer: String::new(),
            data_dir: "".into(),
            log: "".into(),
            starts: 1,
        }
    }

    #[test]
    fn a_frame_shows_leader_states_and_checks() {
        let up = NodeStatus {
            answers: true,
            ready: true,
            leader: Some(2),
            term: 4,
            voter: true,
            applied: 1234,
            digest: "0123456789abcdef".into(),
            state_hash: "ff".into(),
            orders_placed: Some(3_120),
        };
        let mut comparison = Comparison::default();
        for _ in 0..7 {
            comparison.add(&[up.clone(), up.clone()]);
        }
        let frame = Frame {
            cluster_id: "c0ffee",
            up: Duration::from_secs(83),
            nodes: &[node(1, State::Up), node(2, State::Up), node(3, State::Killed)],
            status: &[up.clone(), up, NodeStatus::default()],
            selected: 2,
            orders: Orders {
                on: true,
                placed: 120,
                per_second: 39.6,
                refused: 0,
                silent: Some(Duration::from_millis(1300)),
                trouble: None,
            },
            comparison: &comparison,
            try_it: &[
                "curl -s http://127.0.0.1:8081/v1/orders -H 'Content-Type: application/json' -d '{}'".into()
            ],
            width: 80,
        };
        assert_eq!(render(&frame).join("\n"), EXPECTED.trim_matches('\n'));
    }

    const EXPECTED: &str = r"
Stockroom playground   cluster c0ffee   up 01:23

  node pid      http             process  role       term   applied  digest    ready
  1    4001     127.0.0.1:8081   up       follower      4      1234  01234567  yes
> 2    4002     127.0.0.1:8082   up       leader        4      1234  01234567  yes
  3    -        127.0.0.1:8083   killed   no answer     -         -  -         no

leader  node 2, term 4
orders  40/s, 120 placed by the playground, none for 1.3 s
checks  digests and state hashes equal, compared 7 times

Try in another terminal:
  curl -s http://127.0.0.1:8081/v1/orders -H 'Content-Type: application/json' \
     -d '{}'

keys  1-9 select a node   k kill -9   p pause   r resume   s restart   o orders on/off   q quit
";
}
