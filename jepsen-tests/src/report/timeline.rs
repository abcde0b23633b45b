//! Calls as bars, one row a client, on a time axis that is stretched where much happens.

use super::axis::Kind;
use super::html::{Esc, Html, cut, moment};
use super::{put, words};
use crate::history::{Micros, Op};
use std::collections::{BTreeMap, BTreeSet};

const LEFT: f64 = 92.0;
const ROW: f64 = 24.0;
const BAR: f64 = 17.0;
/// Width of a character of a label.
const CHARACTER: f64 = 6.1;
/// Widest picture; beyond it bars only get narrower.
const WIDEST: f64 = 5000.0;
const NARROWEST: f64 = 1040.0;

/// What a timeline shows.
pub(super) struct Timeline<'a> {
    pub(super) ops: Vec<&'a Op>,
    /// Calls that stand out.
    pub(super) marked: &'a BTreeSet<u64>,
    /// The SKU that labels speak of.
    pub(super) sku: Option<&'a str>,
    /// Room for each call.
    pub(super) per_op: f64,
}

/// Time on which order and overlap are exact and lengths are not: calls of 2 ms and pauses of 10 s are
/// both to be seen.
struct Stretched {
    points: BTreeMap<Micros, f64>,
}

impl Stretched {
    fn new(ops: &[&Op], width: f64) -> Self {
        let moments: BTreeSet<Micros> =
            ops.iter().flat_map(|op| [Some(op.invoked), op.completed]).flatten().collect();
        let mut points = BTreeMap::new();
        let (mut at, mut before) = (0.0, None);
        for moment in moments {
            if let Some(before) = before {
                at += (1.0 + (moment - before) as f64 / 300.0).ln().max(0.6);
            }
            before = Some(moment);
            points.insert(moment, at);
        }
        let scale = if at > 0.0 { width / at } else { 0.0 };
        points.values_mut().for_each(|point| *point = LEFT + *point * scale);
        Stretched { points }
    }

    fn x(&self, at: Micros) -> f64 {
        self.points.get(&at).copied().unwrap_or(LEFT)
    }
}

/// A bar and what may be written on it.
struct Bar<'a> {
    op: &'a Op,
    from: f64,
    to: f64,
}

impl Timeline<'_> {
    /// Draws it.
    pub(super) fn draw(&self, out: &mut Html) {
        let width = (self.ops.len() as f64 * self.per_op).clamp(NARROWEST, WIDEST);
        // Room on the right: unknown calls run on into it.
        let scale = Stretched::new(&self.ops, width - LEFT - 150.0);
        let mut clients: Vec<(u64, Vec<Bar<'_>>)> = Vec::new();
        let mut ops = self.ops.clone();
        ops.sort_by_key(|op| (op.invoked, op.id));
        for op in ops {
            let from = scale.x(op.invoked);
            let to = op.completed.map_or(width - 10.0, |end| scale.x(end)).max(from + 3.0);
            let bar = Bar { op, from, to };
            match clients.iter_mut().find(|(client, _)| *client == op.client) {
                Some((_, bars)) => bars.push(bar),
                None => clients.push((op.client, vec![bar])),
            }
        }
        let height = clients.len() as f64 * ROW + 34.0;
        put!(
            out,
            "<div class=\"wide\"><svg class=\"timeline\" style=\"min-width:{width:.0}px\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"Calls by client and time\">\n"
        );
        self.ticks(out, &scale, height);
        // Drawn last, on a ground of their own, so that they can stay in sight while the rest is scrolled.
        let mut names = Html::default();
        put!(names, "<g class=\"names\"><rect width=\"{}\" height=\"{:.0}\"/>", LEFT - 4.0, height - 24.0);
        for (row, (client, bars)) in clients.iter().enumerate() {
            let y = 4.0 + row as f64 * ROW;
            let (x, base) = (LEFT - 10.0, y + 13.0);
            put!(names, "<text class=\"name\" x=\"{x}\" y=\"{base:.1}\">client {client}</text>");
            put!(
                out,
                "<line class=\"lane\" x1=\"{LEFT}\" x2=\"{width:.0}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>\n",
                y + 8.5
            );
            for (at, bar) in bars.iter().enumerate() {
                let free_from = at.checked_sub(1).map_or(LEFT, |before| bars[before].to);
                let free_to = bars.get(at + 1).map_or(width - 4.0, |next| next.from);
                self.bar(out, bar, y, free_from, free_to, width);
            }
        }
        put!(out, "{names}</g></svg></div>\n");
    }

    fn ticks(&self, out: &mut Html, scale: &Stretched, height: f64) {
        let mut last = f64::MIN;
        for (at, x) in &scale.points {
            if x - last >= 96.0 {
                last = *x;
                put!(
                    out,
                    "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{:.1}\"/>",
                    height - 22.0
                );
                let y = height - 8.0;
                put!(
                    out,
                    "<text class=\"tick\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>\n",
                    moment(*at)
                );
            }
        }
    }

    fn bar(&self, out: &mut Html, bar: &Bar<'_>, y: f64, free_from: f64, free_to: f64, width: f64) {
        let Bar { op, from, to } = *bar;
        let kind = Kind::of(op);
        let marked = if self.marked.contains(&op.id) { " marked" } else { "" };
        put!(out, "<g class=\"op {}{marked}\"><title>{}</title>", kind.name(), Esc(words::tip(op)));
        if kind == Kind::Info {
            // It may take place at any later time: a dashed line to the end of the picture.
            let end = width - 6.0;
            let y = y + BAR / 2.0;
            put!(out, "<path class=\"open\" d=\"M{to:.1} {y:.1}H{end:.1}m-5-4l5 4l-5 4\"/>");
        }
        put!(
            out,
            "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>",
            to - from
        );
        let text = format!("{} → {}", words::brief(&op.call, self.sku), words::brief_end(op, self.sku));
        self.label(out, &text, bar, y + 12.5, free_from, free_to);
        put!(out, "</g>\n");
    }

    /// Inside the bar where it fits, else behind it, else before it, else as much of it as fits inside.
    fn label(&self, out: &mut Html, text: &str, bar: &Bar<'_>, y: f64, free_from: f64, free_to: f64) {
        let Bar { from, to, .. } = *bar;
        let needs = text.chars().count() as f64 * CHARACTER + 8.0;
        if needs <= to - from {
            put!(out, "<text class=\"in\" x=\"{:.1}\" y=\"{y:.1}\">{}</text>", from + 5.0, Esc(text));
        } else if to + needs <= free_to {
            put!(out, "<text x=\"{:.1}\" y=\"{y:.1}\">{}</text>", to + 5.0, Esc(text));
        } else if from - needs >= free_from {
            put!(out, "<text text-anchor=\"end\" x=\"{:.1}\" y=\"{y:.1}\">{}</text>", from - 5.0, Esc(text));
        } else if to - from > 40.0 {
            let fits = ((to - from - 8.0) / CHARACTER) as usize;
            put!(
                out,
                "<text class=\"in\" x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
                from + 5.0,
                Esc(cut(text, fits))
            );
        }
    }
}
