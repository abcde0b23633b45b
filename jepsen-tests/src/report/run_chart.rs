//! What a run looked like: faults, latency, throughput and nodes, one above the other on one time axis.

use super::axis::{Axis, Buckets, Kind, LEFT, RIGHT, WIDTH};
use super::html::{Esc, Html, count, cut, list, moment, span};
use super::{nodes, put};
use crate::history::{Fault, History, Micros, Op};
use std::collections::{BTreeMap, BTreeSet};

const LANE: f64 = 22.0;
const LATENCY_HEIGHT: f64 = 230.0;
const RATE_HEIGHT: f64 = 130.0;
/// Points of one kind that fall into one cell this large are drawn once: a page of 100,000 calls stays small.
const CELL: f64 = 4.0;
/// Room for the title of a panel.
const TITLE: f64 = 36.0;

/// Kinds of faults that have a colour of their own.
const FAULT_KINDS: [&str; 6] = ["process", "network", "clock", "disk", "cluster", "resources"];

/// The class that colours a kind of fault.
pub(super) fn fault_class(kind: &str) -> &'static str {
    FAULT_KINDS.into_iter().find(|known| *known == kind).unwrap_or("other")
}

/// Draws it, with its legend.
pub(super) fn draw(out: &mut Html, history: &History, axis: &Axis) {
    let buckets = Buckets::new(&history.ops, axis);
    legend(out, history);
    let mut svg = Html::default();
    let mut y = lanes(&mut svg, &history.faults, axis, TITLE);
    let bands_from = y + 8.0;
    let mut marks = Html::default();
    y = latency(&mut marks, history, &buckets, axis, y + TITLE + 8.0);
    y = throughput(&mut marks, &buckets, axis, y + TITLE + 6.0);
    y = nodes::strips(&mut marks, history, axis, y + TITLE + 6.0);
    let bottom = y + 4.0;
    bands(&mut svg, &history.faults, axis, bands_from, bottom);
    time_axis(&mut svg, axis, bands_from, bottom);
    put!(
        out,
        "<svg class=\"run\" viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"Faults, latency, throughput and nodes over time\" \
         data-left=\"{LEFT}\" data-right=\"{RIGHT}\" data-end=\"{}\" data-bucket=\"{}\">\n{svg}{marks}\
         <line class=\"cursor\" visibility=\"hidden\" y1=\"{TITLE}\" y2=\"{bottom:.0}\"/></svg>\n",
        bottom + 24.0,
        axis.end,
        buckets.width,
    );
    readout(out, &buckets);
}

fn legend(out: &mut Html, history: &History) {
    put!(out, "<div class=\"legend\"><span class=\"group\">");
    for kind in Kind::ALL {
        put!(out, "<span><i class=\"swatch {0}\"></i>{0}</span>", kind.name());
    }
    put!(out, "</span><span class=\"group\"><span><i class=\"line p50\"></i>p50</span>");
    put!(out, "<span><i class=\"line p95\"></i>p95</span><span><i class=\"line p99\"></i>p99</span>");
    put!(out, "<span><i class=\"line max\"></i>max</span></span>");
    let kinds: BTreeSet<&str> = history.faults.iter().map(|fault| fault_class(&fault.kind)).collect();
    if !kinds.is_empty() {
        put!(out, "<span class=\"group\">");
        for kind in kinds {
            put!(out, "<span><i class=\"swatch f-{kind}\"></i>{kind} fault</span>");
        }
        if history.faults.iter().any(|fault| !fault.effective) {
            put!(out, "<span><i class=\"swatch hollow\"></i>took no effect</span>");
        }
        put!(out, "</span>");
    }
    put!(out, "<output id=\"readout\" aria-live=\"off\"></output></div>\n");
}

fn title(out: &mut Html, y: f64, text: &str, more: &str) {
    put!(
        out,
        "<text class=\"panel\" x=\"0\" y=\"{:.1}\">{text}<tspan class=\"more\" dx=\"8\">{more}</tspan></text>",
        y - 10.0
    );
}

fn lanes(out: &mut Html, faults: &[Fault], axis: &Axis, top: f64) -> f64 {
    title(
        out,
        top,
        "Faults",
        if faults.is_empty() { "none were injected" } else { "a lane for each nemesis" },
    );
    let mut lanes: BTreeMap<(&str, &str), Vec<&Fault>> = BTreeMap::new();
    for fault in faults {
        lanes.entry((fault_class(&fault.kind), &fault.nemesis)).or_default().push(fault);
    }
    let mut y = top;
    for ((kind, nemesis), faults) in lanes {
        put!(
            out,
            "<text class=\"name\" x=\"{:.0}\" y=\"{:.1}\">{}</text><line class=\"lane\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{1:.1}\" y2=\"{1:.1}\" transform=\"translate(0 6)\"/>\n",
            LEFT - 8.0,
            y + 14.0,
            Esc(cut(nemesis, 20)),
        );
        for (at, fault) in faults.iter().enumerate() {
            let free_to = faults.get(at + 1).map_or(RIGHT, |next| axis.x(next.from));
            lane_bar(out, fault, kind, axis, y + 2.0, free_to);
        }
        y += LANE;
    }
    y
}

fn lane_bar(out: &mut Html, fault: &Fault, kind: &str, axis: &Axis, y: f64, free_to: f64) {
    let from = axis.x(fault.from);
    let width = (axis.x(fault.until.unwrap_or(axis.end)) - from).max(2.0);
    let hollow = if fault.effective { "" } else { " hollow" };
    let until = fault.until.map_or("to the end".to_owned(), |until| format!("to {}", moment(until)));
    let effect = if fault.effective { "took effect" } else { "TOOK NO EFFECT" };
    put!(
        out,
        "<g class=\"fault f-{kind}{hollow}\"><title>{}: {}\nnodes {} · {} {until}\n{effect}: {}</title>\
         <rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"17\" rx=\"2\"/>",
        Esc(&fault.nemesis),
        Esc(&fault.what),
        list(&fault.nodes),
        moment(fault.from),
        Esc(&fault.evidence),
    );
    // In the bar or, where there is more room, behind it; 6 units a character at the size of these labels.
    let (inside, behind) = (width - 8.0, free_to - from - width - 8.0);
    let needs = fault.what.chars().count() as f64 * 6.0;
    let (x, room) =
        if inside >= needs || inside >= behind { (from + 4.0, inside) } else { (from + width + 4.0, behind) };
    let fits = (room / 6.0) as usize;
    if fits >= 4 {
        put!(out, "<text x=\"{x:.1}\" y=\"{:.1}\">{}</text>", y + 12.5, Esc(cut(&fault.what, fits)));
    }
    put!(out, "</g>\n");
}

/// The faults as shades behind everything below their lanes.
fn bands(out: &mut Html, faults: &[Fault], axis: &Axis, top: f64, bottom: f64) {
    for fault in faults {
        let from = axis.x(fault.from);
        let width = (axis.x(fault.until.unwrap_or(axis.end)) - from).max(1.0);
        let kind = fault_class(&fault.kind);
        let hollow = if fault.effective { "" } else { " hollow" };
        put!(
            out,
            "<rect class=\"band f-{kind}{hollow}\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>\n",
            bottom - top
        );
    }
}

fn time_axis(out: &mut Html, axis: &Axis, top: f64, bottom: f64) {
    for (at, label) in axis.ticks() {
        let x = axis.x(at);
        put!(out, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"/>");
        let anchor = if x > RIGHT - 16.0 { "end" } else { "middle" };
        let y = bottom + 15.0;
        put!(out, "<text class=\"tick\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{label}</text>\n");
    }
}

/// Latency from bottom to top, in decades.
struct Log {
    low: i32,
    high: i32,
    bottom: f64,
}

impl Log {
    fn y(&self, latency: Micros) -> f64 {
        let decades = f64::from(self.high - self.low);
        let at = ((latency.max(1) as f64).log10() - f64::from(self.low)) / decades;
        self.bottom - LATENCY_HEIGHT * at.clamp(0.0, 1.0)
    }
}

fn took(op: &Op) -> Option<Micros> {
    op.completed.map(|end| end.saturating_sub(op.invoked).max(1))
}

fn latency(out: &mut Html, history: &History, buckets: &Buckets, axis: &Axis, top: f64) -> f64 {
    title(out, top, "Latency", "each call by the time it ended; lines are quantiles of the ok ones");
    let all = || history.ops.iter().filter_map(took);
    let decade = |latency: Option<Micros>, or: f64| latency.map_or(or, |micros| (micros as f64).log10());
    let low = decade(all().min(), 3.0).floor().max(1.0) as i32;
    let high = (decade(all().max(), 5.0).ceil() as i32).max(low + 1);
    let log = Log { low, high, bottom: top + LATENCY_HEIGHT };
    for power in low..=high {
        let micros = 10u64.pow(power.unsigned_abs());
        let y = log.y(micros);
        put!(out, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let label = match micros {
            0..1000 => format!("{micros} µs"),
            1000..1_000_000 => format!("{} ms", micros / 1000),
            _ => format!("{} s", micros / 1_000_000),
        };
        put!(out, "<text class=\"name\" x=\"{:.0}\" y=\"{:.1}\">{label}</text>\n", LEFT - 8.0, y + 4.0);
    }
    points(out, &history.ops, axis, &log);
    for (class, quantile) in [("max", 1.0), ("p99", 0.99), ("p95", 0.95), ("p50", 0.5)] {
        let line = quantile_line(buckets, quantile, axis, &log);
        put!(out, "<path class=\"q {class}\" d=\"{line}\"/>\n");
    }
    log.bottom
}

/// A line through the middles of the buckets, broken where nothing was ok.
fn quantile_line(buckets: &Buckets, quantile: f64, axis: &Axis, log: &Log) -> Html {
    let mut line = Html::default();
    let mut pen = 'M';
    for (at, bucket) in buckets.all.iter().enumerate() {
        let Some(latency) = bucket.quantile(quantile) else {
            pen = 'M';
            continue;
        };
        let x = axis.x(at as Micros * buckets.width + buckets.width / 2);
        put!(line, "{pen}{x:.1} {:.1}", log.y(latency));
        if pen == 'M' {
            // A bucket alone between empty ones is still to be seen.
            put!(line, "h.1");
        }
        pen = 'L';
    }
    line
}

fn points(out: &mut Html, ops: &[Op], axis: &Axis, log: &Log) {
    let mut cells: [BTreeMap<(i32, i32), (f64, f64)>; 3] = Default::default();
    for op in ops {
        if let (Some(end), Some(latency)) = (op.completed, took(op)) {
            let (x, y) = (axis.x(end), log.y(latency));
            let cell = ((x / CELL) as i32, (y / CELL) as i32);
            cells[Kind::of(op) as usize].entry(cell).or_insert((x, y));
        }
    }
    for kind in Kind::ALL {
        // Told apart by shape as well: dots, squares, crosses.
        let mark = if kind == Kind::Info { "m-2-2l4 4m-4 0l4-4" } else { "h0" };
        put!(out, "<path class=\"dots {}\" d=\"", kind.name());
        for (x, y) in cells[kind as usize].values() {
            put!(out, "M{x:.1} {y:.1}{mark}");
        }
        put!(out, "\"/>\n");
    }
}

/// The next of 1, 2, 4, 6, 8, 10, 20, 40... at or above: its half is a round number too.
fn round_up(number: f64) -> f64 {
    let decade = 10f64.powf(number.max(1.0).log10().floor());
    [1.0, 2.0, 4.0, 6.0, 8.0, 10.0]
        .into_iter()
        .map(|step| step * decade)
        .find(|top| *top >= number)
        .unwrap_or(number)
}

fn throughput(out: &mut Html, buckets: &Buckets, axis: &Axis, top: f64) -> f64 {
    title(out, top, "Throughput", "calls that ended, per second");
    let bottom = top + RATE_HEIGHT;
    let most = buckets.all.iter().map(|bucket| bucket.ended.iter().sum()).max().unwrap_or(0);
    let scale = round_up(buckets.per_second(most));
    for part in [0.0, 0.5, 1.0] {
        let y = bottom - RATE_HEIGHT * part;
        put!(out, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let label =
            if scale < 2.0 { format!("{}/s", scale * part) } else { count((scale * part) as u64) + "/s" };
        put!(out, "<text class=\"name\" x=\"{:.0}\" y=\"{:.1}\">{label}</text>\n", LEFT - 8.0, y + 4.0);
    }
    for (kind, below) in
        [(Kind::Ok, vec![]), (Kind::Fail, vec![Kind::Ok]), (Kind::Info, vec![Kind::Ok, Kind::Fail])]
    {
        put!(out, "<path class=\"area {}\" d=\"", kind.name());
        for (at, bucket) in buckets.all.iter().enumerate().filter(|(_, b)| b.ended[kind as usize] > 0) {
            let height = |calls: u64| RATE_HEIGHT * buckets.per_second(calls) / scale;
            let under: u64 = below.iter().map(|kind| bucket.ended[*kind as usize]).sum();
            let (from, to) = (at as Micros * buckets.width, (at as Micros + 1) * buckets.width);
            let (x, width) = (axis.x(from), axis.x(to) - axis.x(from));
            let tall = height(bucket.ended[kind as usize]);
            put!(out, "M{x:.1} {:.1}h{width:.1}v-{tall:.1}h-{width:.1}z", bottom - height(under));
        }
        put!(out, "\"/>\n");
    }
    bottom
}

/// Numbers of each bucket for the line under the cursor.
fn readout(out: &mut Html, buckets: &Buckets) {
    put!(out, "<script type=\"application/json\" id=\"buckets\">[");
    for (at, bucket) in buckets.all.iter().enumerate() {
        let [ok, fail, info] = bucket.ended.map(|calls| buckets.per_second(calls));
        let comma = if at == 0 { "" } else { "," };
        put!(out, "{comma}[{ok:.1},{fail:.1},{info:.1}");
        for quantile in [0.5, 0.95, 0.99, 1.0] {
            put!(out, ",\"{}\"", bucket.quantile(quantile).map_or("–".to_owned(), span));
        }
        put!(out, "]");
    }
    put!(out, "]</script>\n");
}
