//! A strip for each node: up, down, paused, silent, leading; and how far behind it is.

use super::axis::{Axis, LEFT, RIGHT};
use super::html::{Esc, Html, count, moment};
use super::put;
use crate::history::{History, Micros, NodeId, Sample};
use std::collections::BTreeSet;

const ROW: f64 = 36.0;
const BAR: f64 = 15.0;
const LAG: f64 = 12.0;

/// A stretch of time in which a node was something.
struct Stretch {
    from: Micros,
    to: Micros,
    class: &'static str,
    label: String,
    about: String,
}

/// What the samples of all nodes say of the cluster.
struct Seen<'a> {
    history: &'a History,
    end: Micros,
    /// A node that was not heard of for longer than this said nothing in between.
    silence: Micros,
}

fn all_nodes(history: &History) -> BTreeSet<NodeId> {
    let seen = history.samples.iter().map(|sample| sample.node);
    let ended = history.exits.iter().map(|exit| exit.node);
    let hit = history.faults.iter().flat_map(|fault| fault.nodes.iter().copied());
    (1..=history.run.nodes).chain(seen).chain(ended).chain(hit).collect()
}

/// Draws the strips of all nodes and says where they end.
pub(super) fn strips(out: &mut Html, history: &History, axis: &Axis, top: f64) -> f64 {
    put!(
        out,
        "<text class=\"panel\" x=\"0\" y=\"{:.1}\">Nodes<tspan class=\"more\" dx=\"8\">who led which term; \
         below each, how many entries it was behind the furthest</tspan></text>\n",
        top - 10.0
    );
    let seen = Seen { history, end: axis.end, silence: silence(&history.samples) };
    let lags = lags(history);
    let most = lags.iter().map(|(_, _, lag)| *lag).max().unwrap_or(0);
    let mut y = top;
    for node in all_nodes(history) {
        put!(out, "<text class=\"name\" x=\"{:.0}\" y=\"{:.1}\">node {node}</text>", LEFT - 8.0, y + 12.0);
        put!(
            out,
            "<rect class=\"up\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>\n",
            RIGHT - LEFT
        );
        let states = [seen.silent(node), seen.paused(node), seen.leading(node), seen.down(node)];
        for stretch in states.iter().flatten() {
            draw(out, stretch, axis, y);
        }
        lag_line(out, node, &lags, most, axis, y + BAR + LAG + 3.0);
        y += ROW;
    }
    if most > 0 {
        let x = RIGHT;
        let most = count(most);
        put!(
            out,
            "<text class=\"more\" text-anchor=\"end\" x=\"{x}\" y=\"{:.1}\">most behind: {most} entries</text>\n",
            top - 10.0
        );
    }
    y
}

fn draw(out: &mut Html, stretch: &Stretch, axis: &Axis, y: f64) {
    let from = axis.x(stretch.from);
    let width = (axis.x(stretch.to) - from).max(1.5);
    put!(
        out,
        "<g class=\"{}\"><title>{}</title><rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\"/>",
        stretch.class,
        Esc(&stretch.about)
    );
    if (stretch.label.chars().count() as f64) * 6.2 + 6.0 < width {
        put!(out, "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", from + 4.0, y + 11.5, Esc(&stretch.label));
    }
    put!(out, "</g>\n");
}

/// Three times the usual pause between two samples of a node, and at least a second.
fn silence(samples: &[Sample]) -> Micros {
    let mut last = std::collections::BTreeMap::new();
    let mut pauses: Vec<Micros> = samples
        .iter()
        .filter_map(|sample| {
            last.insert(sample.node, sample.at).map(|before| sample.at.saturating_sub(before))
        })
        .collect();
    pauses.sort_unstable();
    pauses.get(pauses.len() / 2).map_or(1_000_000, |usual| (usual * 3).max(1_000_000))
}

impl Seen<'_> {
    fn of(&self, node: NodeId) -> impl Iterator<Item = &Sample> {
        self.history.samples.iter().filter(move |sample| sample.node == node)
    }

    fn silent(&self, node: NodeId) -> Vec<Stretch> {
        let mut gaps = Vec::new();
        let mut from = 0;
        for at in self.of(node).map(|sample| sample.at).chain([self.end]) {
            if at.saturating_sub(from) > self.silence {
                let about =
                    format!("node {node} did not say how it was from {} to {}", moment(from), moment(at));
                gaps.push(Stretch { from, to: at, class: "silent", label: "no word".to_owned(), about });
            }
            from = at;
        }
        gaps
    }

    fn paused(&self, node: NodeId) -> Vec<Stretch> {
        let pauses =
            self.history.faults.iter().filter(|fault| fault.kind == "process" && fault.nodes.contains(&node));
        let pauses = pauses.filter(|fault| fault.nemesis.contains("pause"));
        pauses
            .map(|fault| Stretch {
                from: fault.from,
                to: fault.until.unwrap_or(self.end),
                class: "paused",
                label: "paused".to_owned(),
                about: format!("{}: {}", fault.nemesis, fault.what),
            })
            .collect()
    }

    /// Down from the exit until it says something again.
    fn down(&self, node: NodeId) -> Vec<Stretch> {
        let exits = self.history.exits.iter().filter(|exit| exit.node == node);
        exits
            .map(|exit| {
                let back = self.of(node).map(|sample| sample.at).find(|at| *at > exit.at).unwrap_or(self.end);
                let why = if exit.expected { "the harness ended it" } else { "it ended by itself" };
                let about = format!(
                    "node {node} down from {} to {}: {why}, {}",
                    moment(exit.at),
                    moment(back),
                    exit.how
                );
                let class = if exit.expected { "down" } else { "down own" };
                Stretch { from: exit.at, to: back, class, label: "down".to_owned(), about }
            })
            .collect()
    }

    /// Terms in which the node said of itself that it leads, as far as it said so.
    fn leading(&self, node: NodeId) -> Vec<Stretch> {
        let mut terms: Vec<(u64, Micros, Micros)> = Vec::new();
        let samples: Vec<&Sample> = self.of(node).collect();
        for (at, sample) in samples.iter().enumerate().filter(|(_, sample)| sample.leader == Some(node)) {
            let next = samples.get(at + 1).map_or(self.end, |next| next.at);
            let to = next.min(sample.at + self.silence);
            match terms.last_mut() {
                Some((term, _, until)) if *term == sample.term && *until == sample.at => *until = to,
                _ => terms.push((sample.term, sample.at, to)),
            }
        }
        let stretch = |(term, from, to)| Stretch {
            from,
            to,
            class: "leads",
            label: format!("leader, term {term}"),
            about: format!("node {node} led term {term} from {} to {}", moment(from), moment(to)),
        };
        terms.into_iter().map(stretch).collect()
    }
}

/// How far each sample was behind the furthest one before it.
fn lags(history: &History) -> Vec<(NodeId, Micros, u64)> {
    let mut samples: Vec<&Sample> = history.samples.iter().collect();
    samples.sort_by_key(|sample| sample.at);
    let mut furthest = 0;
    let mut lags = Vec::with_capacity(samples.len());
    for sample in samples {
        furthest = sample.applied_index.max(furthest);
        lags.push((sample.node, sample.at, furthest - sample.applied_index));
    }
    lags
}

fn lag_line(
    out: &mut Html,
    node: NodeId,
    lags: &[(NodeId, Micros, u64)],
    most: u64,
    axis: &Axis,
    bottom: f64,
) {
    if most == 0 {
        return;
    }
    // One column of two units shows the worst lag in it.
    let mut columns = std::collections::BTreeMap::new();
    for (_, at, lag) in lags.iter().filter(|(of, _, _)| *of == node) {
        let worst = columns.entry((axis.x(*at) / 2.0) as u32).or_insert(0);
        *worst = (*lag).max(*worst);
    }
    put!(out, "<path class=\"lag\" d=\"");
    // An entry or two behind is what following means: too low to be seen beside a real lag.
    let heights = columns.iter().map(|(column, lag)| (column, LAG * *lag as f64 / most as f64));
    for (column, height) in heights.filter(|(_, height)| *height >= 0.3) {
        put!(out, "M{} {bottom:.1}v-{height:.1}", column * 2 + 1);
    }
    put!(out, "\"/>\n");
}
