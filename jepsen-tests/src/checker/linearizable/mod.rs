//! Each SKU's stock is linearizable: there is an order of all calls, between their invocations and their
//! answers, in which every answer is what the HTTP contract says.
//!
//! The search is Wing and Gong's with Lowe's cache, by the crate `porcupine-rs`; the [`model`] is ours.

pub mod model;
pub mod project;
mod shrink;

use super::{Findings, Verdict};
use crate::history::{Call, History};
use model::{Ask, Said, State};
use porcupine_rs::{CheckResult, Model, Operation};
use project::{Projection, Step};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long one SKU may be searched.
const PER_SKU: Duration = Duration::from_secs(30);
/// How long all may be searched together.
const ALL_SKUS: Duration = Duration::from_secs(300);
/// How many searches run at a time. porcupine would start one thread a partition.
const AT_ONCE: usize = 2;

/// One SKU's stock, as porcupine asks for it.
#[derive(Debug, Clone)]
struct OneSku;

/// What was asked, and what was heard.
#[derive(Debug, Clone)]
struct Event {
    ask: Ask,
    said: Option<Said>,
    /// The first event says whether the item is there from the beginning.
    item: bool,
}

impl Model for OneSku {
    type State = Arc<State>;
    type Op = Event;
    type Metadata = ();

    fn init() -> Self::State {
        Arc::default()
    }

    fn step(state: &Self::State, event: &Event) -> (bool, Self::State) {
        if event.item && !state.item {
            let mut known = State::clone(state);
            known.item = true;
            return Self::step(&Arc::new(known), event);
        }
        match state.step(&event.ask, event.said.as_ref()) {
            None => (false, state.clone()),
            Some(None) => (true, state.clone()),
            Some(Some(next)) => (true, Arc::new(next)),
        }
    }
}

/// Whether there is such an order of these steps.
pub fn search(item: bool, steps: &[Step], patience: Duration) -> CheckResult {
    let operations: Vec<Operation<OneSku>> = steps
        .iter()
        .map(|step| Operation {
            client_id: None,
            call_time: i64::try_from(step.invoked).unwrap_or(i64::MAX - 1),
            // One that nobody heard of may happen at any time; at the end, where nobody looks, is never.
            return_time: step.by.and_then(|by| i64::try_from(by).ok()).unwrap_or(i64::MAX),
            op: Event { ask: step.ask.clone(), said: step.said.clone(), item },
            metadata: None,
        })
        .collect();
    porcupine_rs::check_operations_timeout(&operations, patience)
}

/// Every SKU's calls are linearizable.
pub fn check(history: &History) -> Verdict {
    let projections = project::project(history);
    let began = Instant::now();
    let results: Vec<Mutex<CheckResult>> =
        projections.iter().map(|_| Mutex::new(CheckResult::Unknown)).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(projection) = projections.get(at) else { break };
                    let left = ALL_SKUS.saturating_sub(began.elapsed()).min(PER_SKU);
                    let result = search(projection.item, &projection.steps, left);
                    *results[at].lock().expect("no panic while held") = result;
                }
            });
        }
    });
    let results: Vec<CheckResult> =
        results.into_iter().map(|r| r.into_inner().expect("no panic while held")).collect();
    verdict(history, &projections, &results)
}

fn verdict(history: &History, projections: &[Projection], results: &[CheckResult]) -> Verdict {
    let mut found = Findings::default();
    let (mut steps, mut open) = (0, Vec::new());
    for (projection, result) in projections.iter().zip(results) {
        steps += projection.steps.len();
        match result {
            CheckResult::Ok => {}
            CheckResult::Unknown => open.push(projection.sku.as_str()),
            CheckResult::Illegal if found.is_full() => found.add("", [], []),
            CheckResult::Illegal => {
                let few = shrink::shrink(projection);
                found.add(
                    explain(history, projection, &few),
                    [projection.sku.clone()],
                    few.iter().map(|step| step.op),
                );
            }
        }
    }
    let undecided = if projections.is_empty() {
        Some("no SKU was asked about".to_owned())
    } else {
        let named = open.iter().take(5).copied().collect::<Vec<_>>().join(", ");
        (!open.is_empty())
            .then(|| format!("the search ran out of time for {} SKUs, such as {named}", open.len()))
    };
    found.verdict_unless(
        "linearizable",
        format!("{steps} calls of {} SKUs have an order", projections.len() - open.len()),
        undecided,
    )
}

/// The call that cannot be explained: the one of the few that ended last.
fn explain(history: &History, projection: &Projection, few: &[Step]) -> String {
    let last = few.iter().filter(|step| step.by.is_some()).max_by_key(|step| step.by);
    let Some(last) = last else { return format!("{}: not linearizable", projection.sku) };
    let call = history.ops.iter().find(|op| op.id == last.op).map_or("?", |op| Call::name(&op.call));
    let said = last.said.as_ref().map(ToString::to_string).unwrap_or_default();
    format!(
        "{}: call {} ({call}) was answered {said}, which no order of the {} calls shown explains",
        projection.sku,
        last.op,
        few.len()
    )
}
