//! Reads that may be old: as old as was promised, and no older.

use super::effects::{Effect, Effects};
use super::totals::reads_in_range;
use super::writes::{self, Fate, Read};
use super::{Findings, Verdict};
use crate::history::{Answer, Consistency, History, Micros, NodeId};
use std::collections::HashMap;

/// How many reads of each kind were judged.
#[derive(Default)]
struct Counts {
    session: u64,
    tokens: u64,
    bounded: u64,
    stale: u64,
    /// Bounded reads of nodes whose clock was being bent.
    bent: u64,
}

/// Read your writes with tokens, monotonic along a token and on a node; bounded reads not older than
/// promised, and staleness as the header says; nothing shows what comes after it; and what is read is the
/// state at the index that the answer names.
pub fn check(history: &History) -> Verdict {
    let (mut found, mut counts) = (Findings::default(), Counts::default());
    tokens(history, &mut found, &mut counts);
    nodes(history, &mut found);
    let decided = Decided::of(history);
    for read in writes::reads(history) {
        promised(history, &read, &decided, &mut found, &mut counts);
    }
    let effects = Effects::of(history);
    future(history, &effects, &mut found);
    let tally = reads_in_range(history, &effects, &mut found);

    let Counts { session, tokens, bounded, stale, bent } = counts;
    let undecided = if tokens == 0 {
        Some("no session read with a token was answered".to_owned())
    } else if bounded == 0 {
        Some("no bounded read was answered".to_owned())
    } else {
        (tally.stocks == 0).then(|| "no stock was read".to_owned())
    };
    let checked = format!(
        "{session} session reads ({tokens} with a token), {bounded} bounded ({bent} on a node with a bent \
         clock, judged by their index alone), {stale} stale; {}",
        tally.checked()
    );
    found.verdict_unless("session", checked, undecided)
}

/// A token stands for what its holder has seen: the highest index among the answers that gave it.
fn tokens(history: &History, found: &mut Findings, counts: &mut Counts) {
    let mut given: HashMap<&str, (u64, u64)> = HashMap::new();
    for op in &history.ops {
        if let Some(meta) = op.meta()
            && let (Some(token), Some(index)) = (&meta.session, meta.applied_index)
        {
            // A token that is sent along comes back at least as high, so one token may come with several
            // indexes: it stands for the highest.
            let known = given.entry(token).or_default();
            *known = (*known).max((index, op.id));
        }
    }
    for read in writes::reads(history) {
        let Consistency::Session(token) = read.consistency else { continue };
        counts.session += 1;
        let Some((needed, from)) = token.as_deref().and_then(|token| given.get(token)) else { continue };
        counts.tokens += 1;
        match read.meta.applied_index {
            Some(at) if at < *needed => found.add(
                format!(
                    "a session read showed index {at}, although its token (of call {from}) stood for {needed}"
                ),
                [],
                [*from, read.op.id],
            ),
            Some(_) => {}
            None => found.add("a read does not say at which index it is", [], [read.op.id]),
        }
    }
}

/// On one node, as long as its process lives, later reads do not show less. A new process may.
fn nodes(history: &History, found: &mut Findings) {
    let mut lives: HashMap<(NodeId, usize), Vec<(Read<'_>, u64)>> = HashMap::new();
    for read in writes::reads(history) {
        let (Some(node), Some(index)) = (read.meta.served_by, read.meta.applied_index) else { continue };
        let ends = |until: Micros| history.exits.iter().filter(|e| e.node == node && e.at <= until).count();
        let life = ends(read.completed);
        if ends(read.op.invoked) == life {
            lives.entry((node, life)).or_default().push((read, index));
        }
    }
    for ((node, _), reads) in lives {
        let mut by_end: Vec<_> = reads.iter().collect();
        by_end.sort_by_key(|(read, _)| read.completed);
        let mut ended = by_end.into_iter().peekable();
        let mut highest: Option<&(Read<'_>, u64)> = None;
        for (read, index) in &reads {
            while let Some(done) = ended.next_if(|(done, _)| done.completed < read.op.invoked) {
                highest =
                    Some(highest.map_or(done, |highest| if done.1 > highest.1 { done } else { highest }));
            }
            let Some((before, seen)) = highest else { continue };
            if index < seen {
                found.add(
                    format!("node {node} showed index {index} after it had shown index {seen}"),
                    [],
                    [before.op.id, read.op.id],
                );
            }
        }
    }
}

/// Writes in the order in which their answers were known: the highest index known by a time.
struct Decided {
    /// (answered at, highest index so far, its call), in order of time.
    steps: Vec<(Micros, u64, u64)>,
}

impl Decided {
    fn of(history: &History) -> Self {
        let mut steps: Vec<_> = writes::all(history)
            .iter()
            .filter_map(|write| match (write.fate, write.decided_at()) {
                (Fate::Decided(_, by), Some(index)) => Some((by, index, write.op())),
                _ => None,
            })
            .collect();
        steps.sort_unstable();
        let mut highest = (0, 0);
        for step in &mut steps {
            highest = highest.max((step.1, step.2));
            (step.1, step.2) = highest;
        }
        Decided { steps }
    }

    /// The highest index that was answered before this time, and by which call.
    fn before(&self, time: Micros) -> Option<(u64, u64)> {
        let count = self.steps.partition_point(|(at, ..)| *at < time);
        count.checked_sub(1).map(|last| (self.steps[last].1, self.steps[last].2))
    }
}

/// What a read was promised, and what its answer says of its own age.
fn promised(
    history: &History,
    read: &Read<'_>,
    decided: &Decided,
    found: &mut Findings,
    counts: &mut Counts,
) {
    let says = read.meta.staleness_ms;
    let bound = match read.consistency {
        Consistency::Linearizable => return,
        Consistency::Bounded(bound) => {
            counts.bounded += 1;
            match says {
                None => found.add("a bounded read does not say how old it is", [], [read.op.id]),
                Some(age) if age > *bound => found.add(
                    format!("a read bounded to {bound} ms says that it is {age} ms old"),
                    [],
                    [read.op.id],
                ),
                Some(_) => {}
            }
            Some(*bound)
        }
        Consistency::Session(_) => None,
        Consistency::Stale => {
            counts.stale += 1;
            None
        }
    };
    // The header is what the node found, which may be less than what was asked for. It is in whole
    // milliseconds, rounded down.
    let age = says.map(|age| age + 1).into_iter().chain(bound).min();
    let (Some(age), Some(at)) = (age, read.meta.applied_index) else { return };
    if bent(history, read) {
        counts.bent += u64::from(bound.is_some());
        return;
    }
    let Some(since) = read.op.invoked.checked_sub(age.saturating_mul(1_000)) else { return };
    if let Some((index, op)) = decided.before(since)
        && at < index
    {
        found.add(
            format!(
                "a read that promised to be at most {age} ms old showed index {at}, although call {op} had \
                 been answered with index {index} more than {age} ms before"
            ),
            [],
            [op, read.op.id],
        );
    }
}

/// Whether the clock by which the node measured the age may have run wrong.
fn bent(history: &History, read: &Read<'_>) -> bool {
    history.faults.iter().any(|fault| {
        fault.kind == "clock"
            && read.meta.served_by.is_none_or(|node| fault.nodes.contains(&node))
            && fault.from <= read.completed
    })
}

/// No answer shows an index at which something was decided that was sent only after it.
fn future(history: &History, effects: &Effects, found: &mut Findings) {
    let mut placed: Vec<&Effect> = effects.all.iter().filter(|effect| effect.index.is_some()).collect();
    placed.sort_by_key(|effect| effect.index);
    let mut latest: Vec<(u64, Micros, u64)> = Vec::with_capacity(placed.len());
    for effect in placed {
        let before = latest.last().map_or((0, 0), |(_, sent, op)| (*sent, *op));
        let (sent, op) = before.max((effect.from, effect.op));
        latest.push((effect.index.unwrap_or(0), sent, op));
    }
    for read in writes::reads(history) {
        let (Some(at), false) = (read.meta.applied_index, matches!(read.answer, Answer::Orders { .. }))
        else {
            continue;
        };
        let count = latest.partition_point(|(index, ..)| *index <= at);
        let Some((_, sent, op)) = count.checked_sub(1).map(|last| latest[last]) else { continue };
        if sent > read.completed {
            found.add(
                format!("a read showed index {at}, which holds what call {op} asked for only after it"),
                [],
                [op, read.op.id],
            );
        }
    }
}
