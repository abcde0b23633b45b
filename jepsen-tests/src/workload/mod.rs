//! Workloads: what clients ask for, and the checkers that judge what they saw.

mod expiry;
mod flash_sale;
mod orders;
mod reads;
mod retries;
mod sessions;
mod skus;
mod stock;
mod transfers;
mod unique;

use crate::checker::Checker;
use crate::history::{Call, Op};
use rand::rngs::StdRng;

/// A workload, as `list` shows it.
pub struct Workload {
    /// The name under which it is asked for.
    pub name: &'static str,
    /// What it does and what must hold, in one sentence.
    pub about: &'static str,
    /// How many clients run at a time, where the command does not say.
    pub clients: usize,
    /// Calls per second of each client; it waits for an answer before the next.
    pub rate: f64,
    /// Its generator, made anew for each run.
    pub generator: fn(&Shape) -> Box<dyn Generator>,
    /// What judges it, beside the checkers that always run.
    pub checkers: &'static [Checker],
}

/// What a generator has to know of the run.
#[derive(Debug, Clone)]
pub struct Shape {
    /// How many nodes.
    pub nodes: u64,
    /// How many clients.
    pub clients: usize,
    /// How long clients run, in seconds.
    pub time_s: u64,
    /// Calls per second of each client, at most.
    pub rate: f64,
}

impl Shape {
    /// How many calls there will be, about.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "about")]
    #[allow(clippy::cast_sign_loss, reason = "none of the three is below zero")]
    fn calls(&self) -> u64 {
        (self.time_s as f64 * self.clients as f64 * self.rate) as u64
    }
}

/// A call to be made.
#[derive(Debug, Clone)]
pub struct Next {
    /// What.
    pub call: Call,
    /// Under which key, of writes; a fresh one where `None`. The same key again is the same write.
    pub key: Option<String>,
    /// At which node; the runner chooses one at random where `None`.
    pub node: Option<u64>,
    /// Not before this long from now, in milliseconds, instead of at the workload's rate.
    pub wait_ms: Option<u64>,
}

impl Next {
    /// Whatever node, a fresh key, at the workload's rate.
    pub fn call(call: Call) -> Self {
        Next { call, key: None, node: None, wait_ms: None }
    }
}

/// Chooses what is asked next. One generator serves all clients of a run, behind a lock, so it may
/// remember what any of them saw. Given the same answers it makes the same choices from the same seed.
pub trait Generator: Send {
    /// Calls that must succeed, one after another, before clients start; the runner repeats each with
    /// its key until it has an answer.
    fn setup(&mut self, rng: &mut StdRng) -> Vec<Call>;

    /// What client number `slot` (0 to clients-1, whatever its number in the history) asks for next.
    /// `None`: nothing for now; it is asked again after a moment.
    fn next(&mut self, slot: usize, rng: &mut StdRng) -> Option<Next>;

    /// A call ended, of whichever client.
    fn seen(&mut self, slot: usize, op: &Op) {
        let _ = (slot, op);
    }

    /// Calls after all faults are healed and all unknown outcomes are settled, one after another, each
    /// repeated until it has an answer: the final reads.
    fn finish(&mut self) -> Vec<Call>;
}

/// All of them, as `list` shows them.
pub const ALL: &[Workload] = &[
    stock::WORKLOAD,
    orders::WORKLOAD,
    flash_sale::WORKLOAD,
    retries::WORKLOAD,
    expiry::WORKLOAD,
    transfers::WORKLOAD,
    unique::WORKLOAD,
    sessions::WORKLOAD,
];

#[cfg(test)]
mod tests;
