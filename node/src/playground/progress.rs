//! A progress bar on a terminal, a line for each fifth elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// How far something is.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    total: usize,
    done: AtomicUsize,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins at none of `total`.
    pub fn new(what: &'static str, total: usize) -> Self {
        let bar = std::io::stdout().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg:>8} {wide_bar} {human_pos}/{human_len} {per_sec}")
                .expect("the template is constant");
            let bar =
                ProgressBar::with_draw_target(Some(total as u64), indicatif::ProgressDrawTarget::stdout());
            bar.with_style(style).with_message(what)
        });
        Progress { what, total, done: AtomicUsize::new(0), started: Instant::now(), bar }
    }

    /// Some more are done.
    pub fn add(&self, more: usize) {
        let before = self.done.fetch_add(more, Ordering::Relaxed);
        match &self.bar {
            Some(bar) => bar.inc(more as u64),
            None => {
                let now = before + more;
                let fifth = |done: usize| done * 5 / self.total.max(1);
                if fifth(now) > fifth(before) {
                    println!("{:>8} {now}/{}", self.what, self.total);
                }
            }
        }
    }

    /// All are done: says how fast.
    pub fn finish(&self) {
        let seconds = self.started.elapsed().as_secs_f64();
        let done = self.done.load(Ordering::Relaxed);
        let line = format!(
            "{done} {} in {seconds:.1} s, {:.0} a second",
            self.what,
            done as f64 / seconds.max(0.001)
        );
        match &self.bar {
            Some(bar) => {
                bar.finish_and_clear();
                println!("{line}");
            }
            None => println!("{line}"),
        }
    }
}
