//! The time axis that all charts of a run share, and the calls of a run counted along it.

use crate::history::{History, Micros, Op, Outcome};

/// Width of every chart, in units of its view box.
pub(super) const WIDTH: f64 = 1160.0;
/// Where the plot begins: names of lanes and numbers stand left of it.
pub(super) const LEFT: f64 = 132.0;
/// Where it ends.
pub(super) const RIGHT: f64 = WIDTH - 14.0;

const STEPS_S: [f64; 20] = [
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0,
    3600.0, 7200.0, 14400.0,
];
/// Buckets of time: as many as can be told apart on 1,000 pixels.
const MOST_BUCKETS: f64 = 250.0;

/// Time from left to right.
pub(super) struct Axis {
    /// When the last thing happened that the history knows of.
    pub(super) end: Micros,
}

fn step_s(end: Micros, most: f64) -> f64 {
    let wanted = end as f64 / 1e6 / most;
    STEPS_S.into_iter().find(|step| *step >= wanted).unwrap_or(wanted)
}

impl Axis {
    pub(super) fn new(end: Micros) -> Self {
        Axis { end: end.max(1000) }
    }

    pub(super) fn x(&self, at: Micros) -> f64 {
        LEFT + (RIGHT - LEFT) * (at.min(self.end) as f64 / self.end as f64)
    }

    /// Where to draw a line, and what to write there.
    pub(super) fn ticks(&self) -> Vec<(Micros, String)> {
        let step = step_s(self.end, 13.0);
        let label = |seconds: f64| match () {
            () if step >= 60.0 && self.end >= 600_000_000 => {
                let minutes = (seconds / 60.0).round() as u64;
                format!("{}:{:02} h", minutes / 60, minutes % 60)
            }
            () if step >= 1.0 => format!("{seconds:.0} s"),
            () => format!("{seconds:.2} s"),
        };
        let last = (self.end as f64 / 1e6 / step).floor() as u64;
        (0..=last).map(|at| at as f64 * step).map(|s| ((s * 1e6) as Micros, label(s))).collect()
    }
}

/// When the last thing of a history happened.
pub(super) fn end(history: &History) -> Micros {
    let ops = history.ops.iter().map(|op| op.completed.unwrap_or(op.invoked).max(op.invoked));
    let faults = history.faults.iter().map(|fault| fault.until.unwrap_or(fault.from));
    let samples = history.samples.iter().map(|sample| sample.at);
    let exits = history.exits.iter().map(|exit| exit.at);
    ops.chain(faults).chain(samples).chain(exits).max().unwrap_or(0)
}

/// The three ends of a call. A call that the run did not wait for counts as [`Kind::Info`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ok,
    Fail,
    Info,
}

impl Kind {
    pub(super) const ALL: [Kind; 3] = [Kind::Ok, Kind::Fail, Kind::Info];

    pub(super) fn of(op: &Op) -> Kind {
        match &op.outcome {
            Some(Outcome::Ok { .. }) => Kind::Ok,
            Some(Outcome::Fail { .. }) => Kind::Fail,
            Some(Outcome::Info { .. }) | None => Kind::Info,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Ok => "ok",
            Kind::Fail => "fail",
            Kind::Info => "info",
        }
    }
}

/// Calls that ended within one bucket of time.
#[derive(Default)]
pub(super) struct Bucket {
    /// How many, by [`Kind`].
    pub(super) ended: [u64; 3],
    /// Of the ok ones, how long each took; sorted.
    pub(super) latencies: Vec<Micros>,
}

impl Bucket {
    pub(super) fn quantile(&self, of: f64) -> Option<Micros> {
        let last = self.latencies.len().checked_sub(1)?;
        self.latencies.get((last as f64 * of).round() as usize).copied()
    }
}

/// The calls of a run by the time they ended at.
pub(super) struct Buckets {
    pub(super) width: Micros,
    pub(super) all: Vec<Bucket>,
}

impl Buckets {
    pub(super) fn new(ops: &[Op], axis: &Axis) -> Self {
        let width = ((step_s(axis.end, MOST_BUCKETS) * 1e6) as Micros).max(1);
        let mut all = Vec::new();
        all.resize_with((axis.end / width + 1) as usize, Bucket::default);
        for op in ops {
            let at = op.completed.unwrap_or(axis.end).min(axis.end);
            let bucket: &mut Bucket = &mut all[(at / width) as usize];
            let kind = Kind::of(op);
            bucket.ended[kind as usize] += 1;
            if kind == Kind::Ok {
                bucket.latencies.extend(op.completed.map(|end| end.saturating_sub(op.invoked)));
            }
        }
        for bucket in &mut all {
            bucket.latencies.sort_unstable();
        }
        Buckets { width, all }
    }

    /// Calls in a bucket as calls per second.
    pub(super) fn per_second(&self, calls: u64) -> f64 {
        calls as f64 * 1e6 / self.width as f64
    }
}
