//! The report as one HTML page: plots as inline SVG, nothing from elsewhere.

use super::report::{Measured, Report, Run, figure, table};
use std::fmt::Write as _;

const WIDTH: f64 = 620.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;
/// Ours and the bare server's; told apart by people who see no red or green, too.
const COLOURS: [&str; 2] = ["#0b62a4", "#c4570a"];
const TO_TEXT: &str = "a String takes all that is written";

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1300px;padding:0 1rem;color:#222}\
    pre{overflow-x:auto;background:#f5f5f3;padding:1rem;font-size:13px}h2{margin:2.2rem 0 .3rem}p{margin:.2rem 0 1rem;color:#555}\
    .wrong{color:#b00020;font-weight:600}svg{max-width:100%;height:auto;margin-right:12px}\
    text{font:12px system-ui,sans-serif;fill:#444}text.title{font-weight:600;fill:#222}\
    .grid{stroke:#e2e2de;stroke-width:1}.axis{stroke:#888;stroke-width:1}.line{fill:none;stroke-width:2;stroke-linejoin:round}";

/// The page.
pub fn page(report: &Report) -> String {
    let mut out = String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    write!(
        out,
        "<title>stockctl bench</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>stockctl bench</h1>\n"
    )
    .expect(TO_TEXT);
    write!(
        out,
        "<p>stockctl {}, {} cores</p>\n<pre>{}</pre>\n",
        escape(&report.version),
        report.cores,
        // Its headings are bold on a terminal.
        escape(&anstream::adapter::strip_str(&table(report)).to_string())
    )
    .expect(TO_TEXT);
    report.runs.iter().for_each(|run| out.push_str(&section(run)));
    out.push_str("</body>\n</html>\n");
    out
}

fn section(run: &Run) -> String {
    let pace = run.rate.map_or_else(
        || "closed loop".into(),
        |rate| format!("open loop, {} calls due per second", figure(rate)),
    );
    let mut out = format!(
        "<h2>{}</h2>\n<p>{} connections, {pace}, {} {} per second</p>\n",
        escape(&run.name),
        run.connections,
        figure(run.measured.per_s),
        escape(&run.unit)
    );
    for finding in &run.check.findings {
        writeln!(out, "<p class=\"wrong\">{}</p>", escape(finding)).expect(TO_TEXT);
    }
    let sides: Vec<(&str, &Measured)> = std::iter::once(("cluster", &run.measured))
        .chain(run.bare.iter().map(|bare| ("bare server", bare)))
        .collect();
    out.push_str(&latency_plot(&sides));
    out.push_str(&course_plot(&sides, &format!("{} per second over time", run.unit)));
    out
}

/// Where a value lies along an axis of the plot.
struct Scale {
    from: f64,
    to: f64,
    low: f64,
    high: f64,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        self.low + (value - self.from) / (self.to - self.from) * (self.high - self.low)
    }
}

fn across(from: f64, to: f64) -> Scale {
    Scale { from, to, low: LEFT, high: WIDTH - RIGHT }
}

fn upwards(from: f64, to: f64) -> Scale {
    Scale { from, to, low: HEIGHT - BOTTOM, high: TOP }
}

/// How rare a latency is, in powers of ten: 0 at the median's side, 2 at p99, 3 at p99.9.
fn rarity(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

fn latency_plot(sides: &[(&str, &Measured)]) -> String {
    let points: Vec<Vec<(f64, f64)>> = sides
        .iter()
        .map(|(_, m)| {
            m.latency_ms
                .curve
                .iter()
                .filter(|p| p.0 < 1.0)
                .map(|p| (rarity(p.0), p.1.max(0.001).log10()))
                .collect()
        })
        .collect();
    let all = || points.iter().flatten();
    let rarest = all().map(|p| p.0).fold(2.0, f64::max);
    let low = all().map(|p| p.1).fold(f64::INFINITY, f64::min).min(0.0).floor();
    let high = all().map(|p| p.1).fold(0.0, f64::max).ceil().max(low + 1.0);
    let (x, y) = (across(0.0, rarest), upwards(low, high));
    let mut out = open("Latency by percentile, milliseconds");
    for power in low as i32..=high as i32 {
        let label = 10f64.powi(power);
        grid_line(&mut out, y.at(f64::from(power)), &label.to_string());
    }
    let marks = [
        (0.0, "0"),
        (1.0, "90"),
        (2.0, "99"),
        (3.0, "99.9"),
        (4.0, "99.99"),
        (5.0, "99.999"),
        (6.0, "99.9999"),
    ];
    for (at, label) in marks.into_iter().filter(|(at, _)| *at <= rarest) {
        tick(&mut out, x.at(at), label);
    }
    caption(&mut out, "percentile");
    for (side, points) in points.iter().enumerate() {
        line(&mut out, side, points.iter().map(|p| (x.at(p.0), y.at(p.1))));
    }
    close(out, sides)
}

fn course_plot(sides: &[(&str, &Measured)], title: &str) -> String {
    let most = sides.iter().flat_map(|(_, m)| &m.course.per_s).copied().fold(1.0, f64::max);
    let step = nice_step(most / 4.0);
    let top = (most / step).ceil() * step;
    let length = |m: &Measured| m.course.per_s.len() as f64 * m.course.slot_ms / 1000.0;
    let seconds = sides.iter().map(|(_, m)| length(m)).fold(0.001, f64::max);
    let (x, y) = (across(0.0, seconds), upwards(0.0, top));
    let mut out = open(title);
    for i in 0..=(top / step).round() as u32 {
        let value = f64::from(i) * step;
        grid_line(&mut out, y.at(value), &figure_of_axis(value));
    }
    let step = nice_step(seconds / 6.0);
    for i in 0..=(seconds / step).floor() as u32 {
        let value = f64::from(i) * step;
        tick(&mut out, x.at(value), &figure_of_axis(value));
    }
    caption(&mut out, "seconds since the end of the warm-up");
    for (side, (_, measured)) in sides.iter().enumerate() {
        let slot_s = measured.course.slot_ms / 1000.0;
        let middles = measured.course.per_s.iter().enumerate();
        line(&mut out, side, middles.map(|(i, per_s)| (x.at((i as f64 + 0.5) * slot_s), y.at(*per_s))));
    }
    close(out, sides)
}

/// 1, 2 or 5 times a power of ten, not below this.
fn nice_step(at_least: f64) -> f64 {
    let power = 10f64.powf(at_least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|digit| digit * power)
        .find(|step| *step >= at_least)
        .unwrap_or(10.0 * power)
}

fn figure_of_axis(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{}k", value / 1000.0)
    } else {
        format!("{}", (value * 1000.0).round() / 1000.0)
    }
}

fn open(title: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{0}\">\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"16\">{0}</text>\n",
        escape(title)
    )
}

fn grid_line(out: &mut String, y: f64, label: &str) {
    let (end, label_x, label_y) = (WIDTH - RIGHT, LEFT - 8.0, y + 4.0);
    writeln!(
        out,
        "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
         <text x=\"{label_x}\" y=\"{label_y:.1}\" text-anchor=\"end\">{label}</text>"
    )
    .expect(TO_TEXT);
}

fn tick(out: &mut String, x: f64, label: &str) {
    let (axis, end, label_y) = (HEIGHT - BOTTOM, HEIGHT - BOTTOM + 5.0, HEIGHT - BOTTOM + 18.0);
    writeln!(
        out,
        "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{axis}\" y2=\"{end}\"/>\
         <text x=\"{x:.1}\" y=\"{label_y}\" text-anchor=\"middle\">{label}</text>"
    )
    .expect(TO_TEXT);
}

fn caption(out: &mut String, text: &str) {
    let (x, y, axis, end) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0, HEIGHT - BOTTOM, WIDTH - RIGHT);
    writeln!(
        out,
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{axis}\" y2=\"{axis}\"/>\
         <text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{text}</text>"
    )
    .expect(TO_TEXT);
}

fn line(out: &mut String, side: usize, points: impl Iterator<Item = (f64, f64)>) {
    let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let colour = COLOURS[side % COLOURS.len()];
    writeln!(out, "<polyline class=\"line\" stroke=\"{colour}\" points=\"{}\"/>", points.join(" "))
        .expect(TO_TEXT);
}

/// Ends the plot, with the names of the lines at the right where there are several.
fn close(mut out: String, sides: &[(&str, &Measured)]) -> String {
    for (side, (name, _)) in sides.iter().enumerate().filter(|_| sides.len() > 1) {
        let (x, colour) =
            (WIDTH - RIGHT - 100.0 * (sides.len() - side) as f64, COLOURS[side % COLOURS.len()]);
        writeln!(
            out,
            "<rect x=\"{x}\" y=\"8\" width=\"12\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"17\">{name}</text>",
            x + 17.0
        )
        .expect(TO_TEXT);
    }
    out.push_str("</svg>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::report, *};

    #[test]
    fn the_page_stands_alone_and_shows_each_side() {
        let mut report = report();
        report.runs[0].bare = Some(report.runs[0].measured.clone());
        report.runs[0].check.find("<b>lost</b>".into());
        let page = page(&report);
        assert_eq!((page.matches("<svg ").count(), page.matches("<polyline ").count()), (2, 4));
        assert!(page.contains("&lt;b&gt;lost") && !page.contains("<b>lost"));
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<script"));
        assert!(!page.contains("NaN") && !page.contains("inf"), "every point has a place");
        assert!(
            page.contains("<pre>WORKLOAD") && !page.contains('\x1b'),
            "a page has no colours of a terminal"
        );
    }

    #[test]
    fn a_run_without_a_single_answer_still_makes_a_page() {
        let mut report = report();
        let measured = &mut report.runs[0].measured;
        measured.latency_ms.curve.clear();
        measured.course.per_s = vec![0.0; 3];
        let page = page(&report);
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }

    #[test]
    fn axes_go_in_round_steps() {
        assert_eq!([0.3, 1.0, 1.1, 2_300.0].map(nice_step), [0.5, 1.0, 2.0, 5_000.0]);
    }
}
