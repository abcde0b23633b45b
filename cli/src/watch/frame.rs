//! A sample as lines of text that fit the terminal.

use super::sample::{Node, Sample};
use crate::output::{Table, count};

/// How a line is to catch the eye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Bold,
    Bad,
    Dim,
}

/// One line of the screen.
pub type Line = (Tone, String);

/// The whole screen: at most `height` lines of at most `width` characters. What there is no room for is counted.
pub fn frame(sample: Result<&Sample, &str>, footer: &str, width: usize, height: usize) -> Vec<Line> {
    let mut lines = match sample {
        Ok(sample) => body(sample, width),
        Err(why) => vec![(Tone::Bad, "no node answers".to_owned()), (Tone::Plain, why.to_owned())],
    };
    let room = height.saturating_sub(1);
    if lines.len() > room {
        let hidden = lines.len() + 1 - room.min(lines.len());
        lines.truncate(room.saturating_sub(1));
        lines.push((
            Tone::Dim,
            format!("... {hidden} more lines: make the terminal larger, or see stockctl doctor"),
        ));
    }
    lines.resize(room, (Tone::Plain, String::new()));
    lines.push((Tone::Dim, footer.to_owned()));
    // A terminal of no height shows nothing.
    lines.truncate(height);
    for (_, line) in &mut lines {
        *line = cut(line, width);
    }
    lines
}

/// As much of it as fits.
fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let mut cut: String = line.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        cut.push('…');
    }
    cut
}

/// In as many lines as it takes, cut between words; those after the first are set in.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let begins = text.len() - text.trim_start().len();
    let (mut lines, mut line) = (Vec::new(), text[..begins].to_owned());
    for word in text.split_whitespace() {
        if line.trim().is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.extend([" ", word]);
        } else {
            lines.push(std::mem::replace(&mut line, format!("    {word}")));
        }
    }
    lines.push(line);
    lines
}

fn body(sample: &Sample, width: usize) -> Vec<Line> {
    let cluster = sample.cluster_id.get(..8).unwrap_or(&sample.cluster_id);
    let mut lines = vec![(Tone::Bold, format!("Stockroom {cluster}   {}", sample.at))];
    let (tone, leader) = match sample.leader {
        Some(id) => (Tone::Plain, format!("node {id} leads")),
        None => (Tone::Bad, "NO LEADER".to_owned()),
    };
    let leader = format!("{leader}, term {}; {}", sample.term, sample.quorum.text());
    lines.extend(wrapped(&leader, width).into_iter().map(|line| (tone, line)));
    let rates = format!(
        "{} orders/s, {} entries/s, {} refusals/s; committed {}",
        rate(sample.orders_per_s),
        rate(sample.entries_per_s),
        rate(sample.refusals_per_s),
        count(sample.committed_index),
    );
    lines.extend(wrapped(&rates, width).into_iter().map(|line| (Tone::Plain, line)));
    lines.push((Tone::Plain, String::new()));
    lines.extend(table(&sample.nodes));
    lines.push((Tone::Plain, String::new()));
    if sample.alarms.is_empty() {
        lines.push((Tone::Plain, "no alarms".into()));
    }
    for alarm in &sample.alarms {
        let node = alarm.node.map(|id| format!(" (node {id})")).unwrap_or_default();
        let what = format!("ALARM {}{node}: {}", alarm.check, alarm.what);
        lines.extend(wrapped(&what, width).into_iter().map(|line| (Tone::Bad, line)));
        let next = format!("  next: {}", alarm.next);
        lines.extend(wrapped(&next, width).into_iter().map(|line| (Tone::Plain, line)));
    }
    lines
}

fn table(nodes: &[Node]) -> Vec<Line> {
    let columns =
        [">NODE", "ROLE", ">TERM", ">APPLIED", ">LAG", ">ORDERS/S", ">SYNC MS", ">CLOCK", ">DISK FREE"];
    let mut table = Table::new(&columns);
    for node in nodes {
        let free = node.disk_free_share.zip(node.disk_free_bytes);
        table.row(vec![
            node.id.to_string(),
            if node.answers { node.role.clone() } else { "SILENT".into() },
            node.term.map_or("-".into(), |term| term.to_string()),
            node.applied_index.map_or("-".into(), count),
            node.lag.map_or("-".into(), count),
            rate(node.orders_per_s),
            node.sync_ms.map_or("-".into(), |ms| format!("{ms:.1}")),
            node.clock_offset_ms.map_or("-".into(), |ms| ms.to_string()),
            free.map_or("-".into(), |(share, bytes)| format!("{:.0}% {}", share * 100.0, bytes_short(bytes))),
        ]);
    }
    let mut lines = table.lines().into_iter();
    let heading = lines.next().map(|line| (Tone::Bold, line));
    let rows =
        lines.zip(nodes).map(|(line, node)| (if node.answers { Tone::Plain } else { Tone::Bad }, line));
    heading.into_iter().chain(rows).collect()
}

fn rate(per_s: Option<f64>) -> String {
    match per_s {
        None => "-".into(),
        Some(rate) if rate > 0.0 && rate < 10.0 => format!("{rate:.1}"),
        Some(rate) => count(rate.round() as u64),
    }
}

fn bytes_short(bytes: f64) -> String {
    let units = ["B", "K", "M", "G", "T"];
    let mut at = 0;
    let mut value = bytes;
    while value >= 1024.0 && at + 1 < units.len() {
        value /= 1024.0;
        at += 1;
    }
    format!("{value:.0}{}", units[at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{doctor::Finding, members::Quorum};

    fn sample(nodes: u64, alarms: usize) -> Sample {
        let node = |id: u64| Node {
            id,
            role: if id == 2 { "leader".into() } else { "voter".into() },
            answers: id != 3,
            term: Some(1_234),
            applied_index: Some(123_456_789),
            lag: Some(12_345),
            orders_per_s: Some(12_345.6),
            sync_ms: Some(123.4),
            clock_offset_ms: Some(-1_234),
            disk_free_share: Some(0.45),
            disk_free_bytes: Some(1.2e13),
            heard_ms_ago: Some(99_000),
        };
        let alarm = Finding {
            check: "unreachable",
            node: Some(3),
            what: "node 2 has not heard of it for 99 s".into(),
            next: "start it".into(),
        };
        Sample {
            at: "2026-11-21T11:50:48Z".into(),
            cluster_id: "2e6eff3bce97bae4cb8dd763e41cd750".into(),
            leader: Some(2),
            term: 1_234,
            committed_index: 123_456_789,
            quorum: Quorum::of(nodes, nodes - 1),
            orders_per_s: Some(12_345.6),
            entries_per_s: Some(140.0),
            refusals_per_s: Some(0.5),
            nodes: (1..=nodes).map(node).collect(),
            alarms: (0..alarms).map(|_| alarm.clone()).collect(),
        }
    }

    #[test]
    fn all_of_it_can_be_read_in_80_by_24() {
        let mut sample = sample(5, 3);
        sample.quorum = Quorum::of(5, 2);
        let lines = frame(Ok(&sample), "q quits", 80, 24);
        assert_eq!(lines.len(), 24);
        for (_, line) in &lines {
            assert!(line.chars().count() <= 80 && !line.contains('…'), "{line:?} is too wide");
        }
        let text: String = lines.iter().map(|(_, line)| format!("{line}\n")).collect();
        for part in [
            "node 2 leads",
            "5 voters",
            "12,346 orders/s",
            "SILENT",
            "45% 11T",
            "ALARM unreachable (node 3)",
            "q quits",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }

    #[test]
    fn a_small_terminal_shows_what_fits_and_says_that_there_is_more() {
        let sample = sample(3, 9);
        for (width, height) in [(80, 12), (40, 10), (20, 3), (1, 1), (0, 0), (10, 2)] {
            let lines = frame(Ok(&sample), "q quits", width, height);
            assert_eq!(lines.len(), height, "{width}x{height}");
            assert!(lines.iter().all(|(_, line)| line.chars().count() <= width), "{width}x{height}");
        }
        assert!(frame(Ok(&sample), "q", 80, 12).iter().any(|(_, line)| line.contains("more lines")));
        assert_eq!(wrapped("  next: one two three", 13), ["  next: one", "    two three"]);
        assert_eq!(frame(Err("refused"), "q", 80, 24)[0], (Tone::Bad, "no node answers".into()));
    }
}
