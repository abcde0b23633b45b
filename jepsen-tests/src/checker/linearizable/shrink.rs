//! The smallest part of a SKU's calls that still cannot be explained.

use super::project::Step;
use super::{Projection, search};
use crate::history::Micros;
use porcupine_rs::CheckResult;
use std::time::{Duration, Instant};

/// How long shrinking one SKU's calls may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long one try may take; one that takes longer is taken for a failure to shrink.
const A_TRY: Duration = Duration::from_secs(2);

/// A few steps that have no order.
///
/// First the shortest prefix: what a prefix of a linearizable history sees is linearizable. Then calls one
/// by one, in two ways that cannot make a wrong history out of a right one. A read or a refusal is left out:
/// it changed nothing, so the rest must have an order without it. The answer of a write is forgotten, as if
/// it might have happened at any time or never: if even then there is no order, that write is not what the
/// rest lacks, and it is not shown.
pub(super) fn shrink(projection: &Projection) -> Vec<Step> {
    let began = Instant::now();
    let illegal = |steps: &[Step]| {
        let left = PATIENCE.saturating_sub(began.elapsed()).min(A_TRY);
        !left.is_zero() && search(projection.item, steps, left) == CheckResult::Illegal
    };
    let steps = prefix(&projection.steps, &illegal);
    let mut shown = vec![true; steps.len()];
    // In large pieces first: most calls have nothing to do with it.
    let mut piece = steps.len().div_ceil(2).max(1);
    loop {
        for from in (0..steps.len()).step_by(piece) {
            let piece = from..(from + piece).min(steps.len());
            let before = shown.clone();
            shown[piece].fill(false);
            if before != shown && !illegal(&without(&steps, &shown)) {
                shown = before;
            }
        }
        if piece == 1 {
            break;
        }
        piece = piece.div_ceil(2);
    }
    steps.into_iter().zip(shown).filter(|(_, shown)| *shown).map(|(step, _)| step).collect()
}

/// Steps, where those that are not shown are left out or forgotten.
fn without(steps: &[Step], shown: &[bool]) -> Vec<Step> {
    steps
        .iter()
        .zip(shown)
        .filter_map(|(step, shown)| if *shown { Some(step.clone()) } else { forgotten(step) })
        .collect()
}

/// A write that may have happened at any time or never. Nothing, of what changes nothing.
fn forgotten(step: &Step) -> Option<Step> {
    step.changes.then(|| Step { said: None, by: None, ..step.clone() })
}

/// The shortest beginning that has no order: all that had been answered by some time, and of the rest what
/// had been asked for by then.
fn prefix(steps: &[Step], illegal: &impl Fn(&[Step]) -> bool) -> Vec<Step> {
    let mut ends: Vec<Micros> = steps.iter().filter_map(|step| step.by).collect();
    ends.sort_unstable();
    ends.dedup();
    let until = |end: Micros| -> Vec<Step> {
        let begun = steps.iter().filter(|step| step.invoked <= end);
        let known = begun.filter_map(|step| match step.by {
            Some(by) if by <= end => Some(step.clone()),
            _ => forgotten(step),
        });
        let mut known: Vec<Step> = known.collect();
        known.sort_by_key(|step| (step.invoked, step.op));
        known
    };
    let shortest = ends.partition_point(|end| !illegal(&until(*end)));
    ends.get(shortest).map_or_else(|| steps.to_vec(), |end| until(*end))
}
