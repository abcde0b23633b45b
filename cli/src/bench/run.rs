//! One run: prepare, windows of load, settle, count.

use super::{
    BenchArgs, UNITS,
    bare::Bare,
    books::{Books, Check},
    load::{self, Job},
    nodes::{self, Look, Node, Spent},
    pace::{Gate, Pace, Window},
    report::{Measured, Run, WindowSeen},
    stock,
    tally::{Fairness, Tally},
    workload::{Shape, Workload},
};
use crate::{client::Client, import::Progress, output::count, problem::Failure};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::sleep_until;

/// Slots of a window that is long enough: points of a plot.
const SLOTS: usize = 60;
/// A slot is not shorter than this; below it the counts are too small to be looked at.
const SHORTEST_SLOT_MS: f64 = 100.0;
/// A sellout that lasts longer ends unfinished.
const LONGEST_SELLOUT: Duration = Duration::from_secs(60);
/// How often progress is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// The server's own deadline: where it is asked for, it need not be told.
const SERVER_DEADLINE: Duration = Duration::from_secs(5);
/// What a client waits beyond the deadline, so that the server's "outcome unknown" still arrives.
const GRACE: Duration = Duration::from_secs(1);

/// What all runs of one call have in common.
pub struct Bench<'a> {
    /// For all but the load itself.
    pub client: &'a Client,
    /// The command line.
    pub args: &'a BenchArgs,
    /// Deadline of a call.
    pub timeout: Duration,
    /// `host:port` of the nodes to ask.
    pub hosts: &'a [String],
    /// Nodes to look at.
    pub nodes: &'a [Node],
    /// The ceiling, where it is wanted.
    pub bare: Option<&'a Bare>,
}

/// A window, and what the nodes spent in it.
struct Round {
    seen: WindowSeen,
    before: Vec<Look>,
    after: Vec<Look>,
    done_between: u64,
}

impl Bench<'_> {
    /// Measures one workload.
    ///
    /// # Errors
    /// Its stock could not be prepared or counted.
    pub async fn run(&self, shape: Shape) -> Result<Run, Failure> {
        let prefix = stock::new_prefix();
        let seed = self.args.seed.unwrap_or_else(rand::random);
        let units = match shape.workload {
            Workload::Sellout => i64::from(self.args.stock),
            _ => UNITS,
        };
        stock::prepare(self.client, &prefix, shape.skus, units).await?;
        let books = Arc::new(Books::new(shape.skus, units));
        let (mut ours, mut ceiling, mut spent) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..self.args.rounds.into() {
            let job = self.job(&shape, &prefix, seed, number, units);
            let round =
                self.window(&Arc::new(Job { books: Some(books.clone()), ..job }), &shape.name(), true).await;
            spent.push(nodes::spent(&round.before, &round.after, round.done_between));
            ours.push(round.seen);
            if let Some(bare) = self.bare {
                let job = self.job(&shape, &prefix, seed, number, UNITS);
                let job = Arc::new(Job { hosts: vec![bare.host.clone()], ..job });
                ceiling.push(self.window(&job, "bare", false).await.seen);
            }
        }
        let (measured, mut tally) = Measured::of(ours);
        let check = self.check(&shape, &prefix, &books, &mut tally).await?;
        Ok(Run {
            name: shape.name(),
            unit: shape.unit().into(),
            rate: self.args.rate.map(f64::from),
            connections: self.args.connections as usize,
            endpoints: self.hosts.to_vec(),
            skus: shape.skus,
            prefix,
            seed,
            measured,
            nodes: mean(spent),
            check,
            bare: (!ceiling.is_empty()).then(|| Measured::of(ceiling).0),
        })
    }

    fn job(&self, shape: &Shape, prefix: &str, seed: u64, number: usize, units: i64) -> Job {
        let sellout = shape.workload == Workload::Sellout;
        let counted = sellout || self.args.orders.is_some();
        let warmup = if counted { Duration::ZERO } else { Duration::from_secs_f64(self.args.warmup) };
        let time = if sellout { LONGEST_SELLOUT } else { Duration::from_secs_f64(self.args.time) };
        let slots = (time.as_secs_f64() * 1000.0 / SHORTEST_SLOT_MS) as usize;
        Job {
            shape: shape.clone(),
            hosts: self.hosts.to_vec(),
            prefix: prefix.to_owned(),
            window_number: number,
            seed,
            timeout: self.timeout + GRACE,
            deadline_ms: (self.timeout != SERVER_DEADLINE).then_some(self.timeout.as_millis() as u64),
            window: Window::new(warmup, time, slots.clamp(1, if sellout { slots } else { SLOTS })),
            books: None,
            received: units,
            live: AtomicU64::new(0),
        }
    }

    fn pace(&self, shape: &Shape) -> Pace {
        match (shape.workload, self.args.rate, self.args.orders) {
            (Workload::Sellout, _, _) => Pace::Attempts(self.args.attempts.into()),
            (_, Some(rate), _) => Pace::Open(rate.into()),
            (_, None, Some(orders)) => Pace::Attempts(orders.div_ceil(shape.orders_per_call())),
            (_, None, None) => Pace::Closed,
        }
    }

    /// One window of load; looks at the nodes at its begin and its end.
    async fn window(&self, job: &Arc<Job>, name: &str, look: bool) -> Round {
        let nodes = if look { self.nodes } else { &[] };
        let clients = load::connect(job, self.args.connections as usize).await;
        // Without a warm-up all counts from the gate's opening: a look that comes after it misses what is done meanwhile.
        let at_rest = if job.window.begin_us == 0 { Some(self.look(job, nodes).await) } else { None };
        let (gate, mut clients) = load::run(job, self.pace(&job.shape), clients);
        let progress = tokio::spawn(progress(job.clone(), gate.clone(), name.to_owned()));
        let (before, cpu, from) = match at_rest {
            Some(at_rest) => at_rest,
            None => {
                sleep_until(gate.at(job.window.begin_us).into()).await;
                self.look(job, nodes).await
            }
        };
        let mut tallies: Vec<Tally> = Vec::new();
        let end = gate.at(job.window.end_us);
        // Attempts may be used up before the end.
        while let Ok(Some(tally)) = tokio::time::timeout_at(end.into(), clients.join_next()).await {
            tallies.push(tally.expect("a client does not panic"));
        }
        // Of a window whose calls are counted, which has no warm-up.
        let taken = (gate.now_us() as f64 / 1e6).min(job.window.seconds());
        let client_cpu_s = own_cpu() - cpu;
        let done_between = job.live.load(Ordering::Relaxed) - from;
        let after = nodes::look(self.client, nodes).await;
        tallies.extend(clients.join_all().await);
        progress.abort();
        // Where the calls are counted, the window is as long as they took.
        let timed = !matches!(self.pace(&job.shape), Pace::Attempts(_));
        let seconds = if timed { job.window.seconds() } else { taken };
        Round { seen: seen(job, &gate, tallies, seconds, client_cpu_s), before, after, done_between }
    }

    /// The nodes, the CPU seconds of this process, and the orders done so far.
    async fn look(&self, job: &Job, nodes: &[Node]) -> (Vec<Look>, f64, u64) {
        (nodes::look(self.client, nodes).await, own_cpu(), job.live.load(Ordering::Relaxed))
    }

    /// Settles what is unknown, and counts the stock.
    async fn check(
        &self,
        shape: &Shape,
        prefix: &str,
        books: &Books,
        tally: &mut Tally,
    ) -> Result<Check, Failure> {
        let mut check = Check::default();
        stock::settle(self.client, books, std::mem::take(&mut tally.unsettled), &mut check).await;
        stock::count(self.client, prefix, shape.skus, books, &mut check).await?;
        for wrong in &tally.wrong {
            check.find(wrong.clone());
        }
        check.findings_count += tally.wrong_answers - tally.wrong.len() as u64;
        if shape.workload == Workload::Sellout {
            sold_out(&mut check, tally, self.args.stock.into(), self.args.attempts.into());
        }
        Ok(check)
    }
}

/// Exactly what was there is sold, where enough was asked for and every answer is known.
fn sold_out(check: &mut Check, tally: &Tally, stock: i64, attempts: i64) {
    let sold = check.units_in_stock;
    if sold > stock {
        check.find(format!("oversold: {sold} units sold of {stock}"));
    }
    // An attempt that never reached the shop, or was abandoned, may be the one that was missing.
    let refused = |code: &str| tally.refused.get(code).copied().unwrap_or_default();
    let all_refused: u64 = tally.refused.values().sum();
    let lost: u64 = all_refused - refused("out_of_stock") + tally.unknown.values().sum::<u64>();
    let wanted = attempts - lost as i64;
    let answered = tally.done + all_refused + tally.unknown.values().sum::<u64>();
    if answered < attempts as u64 {
        check.find(format!("only {answered} of {attempts} attempts were made"));
    } else if sold < stock.min(wanted) {
        check.find(format!("{sold} units sold of {stock}, though {wanted} were asked for"));
    }
}

fn seen(job: &Job, gate: &Gate, tallies: Vec<Tally>, seconds: f64, client_cpu_s: f64) -> WindowSeen {
    let fairness = Fairness::of(tallies.iter().map(|tally| tally.calls).collect());
    let mut all = Tally::new(job.window.slots());
    tallies.into_iter().for_each(|tally| all.merge(tally));
    let mut never_sent = 0;
    // They have waited this long already, and would go on waiting: leaving them out would flatter.
    let now_us = gate.now_us();
    for due_us in gate.never_sent().filter(|due_us| job.window.holds(*due_us)) {
        never_sent += 1;
        all.record(now_us - due_us);
    }
    WindowSeen { tally: all, seconds, window: job.window, never_sent, fairness, client_cpu_s }
}

/// CPU seconds of this process; 0 where the system does not tell.
fn own_cpu() -> f64 {
    nodes::cpu_seconds("self").unwrap_or_default()
}

async fn progress(job: Arc<Job>, gate: Arc<Gate>, name: String) {
    let mut bar = Progress::new("bench", Some(job.window.end_us / 1000));
    let mut last = (gate.now_us(), 0);
    loop {
        tokio::time::sleep(PROGRESS_EVERY).await;
        let now = (gate.now_us(), job.live.load(Ordering::Relaxed));
        let per_s = (now.1 - last.1) as f64 * 1e6 / (now.0 - last.0).max(1) as f64;
        last = now;
        let what = if now.0 < job.window.begin_us { "warm-up, " } else { "" };
        bar.show((now.0 / 1000).min(job.window.end_us / 1000), || {
            format!("{name}: {what}{} {}/s", count(per_s as u64), job.shape.unit())
        });
    }
}

/// The mean over windows of what each node spent; a figure that some window lacks is left out.
fn mean(rounds: Vec<Vec<Spent>>) -> Vec<Spent> {
    let nodes = rounds.first().map_or(0, Vec::len);
    (0..nodes)
        .map(|node| {
            let mean = |figure: fn(&Spent) -> Option<f64>| {
                let all: Option<Vec<f64>> = rounds.iter().map(|round| figure(&round[node])).collect();
                all.map(|all| all.iter().sum::<f64>() / all.len() as f64)
            };
            Spent {
                node: rounds[0][node].node,
                cpu_s_per_1000: mean(|s| s.cpu_s_per_1000),
                cores: mean(|s| s.cores),
                log_syncs_per_s: mean(|s| s.log_syncs_per_s),
                orders_per_entry: mean(|s| s.orders_per_entry),
                log_bytes_per_order: mean(|s| s.log_bytes_per_order),
                table_bytes_per_order: mean(|s| s.table_bytes_per_order),
                snapshot_bytes_per_order: mean(|s| s.snapshot_bytes_per_order),
                zeroed_bytes_per_order: mean(|s| s.zeroed_bytes_per_order),
                disk_bytes_per_order: mean(|s| s.disk_bytes_per_order),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sellout(sold: i64, done: u64, refused: &[(&str, u64)]) -> Check {
        let mut tally = Tally::new(1);
        tally.done = done;
        tally.refused = refused.iter().map(|(code, n)| ((*code).to_owned(), *n)).collect();
        let mut check = Check { units_in_stock: sold, ..Check::default() };
        sold_out(&mut check, &tally, 500, 5000);
        check
    }

    #[test]
    fn a_sellout_sells_exactly_what_is_there() {
        assert!(sellout(500, 500, &[("out_of_stock", 4500)]).clean());
        assert!(sellout(501, 501, &[("out_of_stock", 4499)]).findings[0].contains("oversold"));
        assert!(!sellout(499, 499, &[("out_of_stock", 4501)]).clean(), "a unit stayed behind");
        assert!(!sellout(500, 500, &[("out_of_stock", 3500)]).clean(), "attempts are missing");
    }

    #[test]
    fn a_cluster_that_refuses_nearly_all_need_not_sell_out() {
        assert!(sellout(300, 300, &[("overloaded", 4700)]).clean());
        assert!(!sellout(299, 299, &[("overloaded", 4700), ("out_of_stock", 1)]).clean());
    }
}
