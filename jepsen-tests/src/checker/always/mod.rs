//! What judges every run, whatever its workload.

mod backups;
mod log_order;

pub use backups::backups;
pub use log_order::log_order;

use super::writes;
use super::{Findings, Verdict};
use crate::history::{Answer, Counters, Exit, History, Op, Outcome, Sample, Settled, StockSeen};
use std::collections::{BTreeMap, HashMap};

/// Exit code of a node that stopped itself by a rule.
const STOPPED_ITSELF: i32 = 3;
/// Exit code of a node that refused to start.
const REFUSED_TO_START: i32 = 1;
/// What a node says that found itself wrong. No fault of a disk or of a file makes that right: such damage
/// has to be found before it gets into the state.
const NEVER_EXCUSED: &[&str] =
    &["invariant broken", "differs from that of a majority", "was to be applied after", "panicked"];
/// Kinds of calls that were made at least this often have to succeed at least once.
const OFTEN: u64 = 20;

/// In every answer: reserved + allocated <= on hand, and available is the difference.
pub fn bounds(history: &History) -> Verdict {
    let (mut found, mut seen) = (Findings::default(), 0u64);
    for op in &history.ops {
        let answers = [
            match &op.outcome {
                Some(Outcome::Ok { answer, .. }) => Some(answer),
                _ => None,
            },
            match &op.settled {
                Some((_, Settled::Happened { answer })) => Some(answer),
                _ => None,
            },
        ];
        for answer in answers.into_iter().flatten() {
            seen += bounds_of(op, answer, &mut found);
        }
    }
    let undecided = (seen == 0).then(|| "no answer showed any counters".to_owned());
    found.verdict_unless("bounds", format!("{seen} sets of counters seen, all within bounds"), undecided)
}

/// Checks one answer, and says how many sets of counters it had.
fn bounds_of(op: &Op, answer: &Answer, found: &mut Findings) -> u64 {
    let mut add = |sku: &str, wrong: String| found.add(format!("{sku}: {wrong}"), [sku.to_owned()], [op.id]);
    match answer {
        Answer::Stock { items } => {
            for stock in items {
                if let Some(wrong) = wrong_stock(stock) {
                    add(&stock.sku, wrong);
                }
            }
            items.iter().map(|stock| 1 + stock.locations.len() as u64).sum()
        }
        Answer::Movements { items } => {
            for movement in items {
                let (on_hand, reserved, allocated) =
                    (movement.on_hand_after, movement.reserved_after, movement.allocated_after);
                if reserved.saturating_add(allocated) > on_hand {
                    let index = movement.log_index;
                    add(
                        &movement.sku,
                        format!(
                            "after the movement at index {index}, reserved {reserved} + allocated \
                             {allocated} is more than on hand {on_hand}"
                        ),
                    );
                }
            }
            items.len() as u64
        }
        Answer::Refused { shortages, .. } => {
            for short in shortages.iter().filter(|short| short.requested <= short.available) {
                add(
                    &short.sku,
                    format!("refused {} as out of stock with {} available", short.requested, short.available),
                );
            }
            0
        }
        _ => 0,
    }
}

fn wrong_stock(stock: &StockSeen) -> Option<String> {
    // A sum below zero comes as a huge one; it is for us to say so, not to stumble over it.
    let mut sum = Counters::default();
    for (location, at) in &stock.locations {
        if let Some(wrong) = wrong_counters(at) {
            return Some(format!("at {location}, {wrong}"));
        }
        sum.on_hand = sum.on_hand.wrapping_add(at.on_hand);
        sum.reserved = sum.reserved.wrapping_add(at.reserved);
        sum.allocated = sum.allocated.wrapping_add(at.allocated);
        sum.available = sum.available.wrapping_add(at.available);
    }
    if !stock.locations.is_empty() && sum != stock.total {
        return Some(format!("the total is {:?}, its locations sum up to {sum:?}", stock.total));
    }
    wrong_counters(&stock.total)
}

fn wrong_counters(c: &Counters) -> Option<String> {
    let promised = c.reserved.checked_add(c.allocated);
    match promised.and_then(|promised| c.on_hand.checked_sub(promised)) {
        None => Some(format!(
            "reserved {} + allocated {} is more than on hand {}",
            c.reserved, c.allocated, c.on_hand
        )),
        Some(left) if left != c.available => Some(format!(
            "available {} is not on hand {} - reserved {} - allocated {}",
            c.available, c.on_hand, c.reserved, c.allocated
        )),
        Some(_) => None,
    }
}

/// At most one leader a term, whoever names it, and no node goes back to an older term: one that does has
/// forgotten its vote.
pub fn one_leader_per_term(history: &History) -> Verdict {
    let mut found = Findings::default();
    // A node that has just started says term 0 until it has read its vote: it says nothing.
    let mut samples: Vec<&Sample> = history.samples.iter().filter(|sample| sample.term > 0).collect();
    samples.sort_by_key(|sample| sample.at);

    let mut last: HashMap<u64, u64> = HashMap::new();
    // Of each term: the leader that was named first, by whom, and when.
    let mut leaders: BTreeMap<u64, (u64, &Sample)> = BTreeMap::new();
    for sample in samples {
        let Sample { at, node, term, leader, .. } = *sample;
        let before = last.insert(node, term).unwrap_or(0);
        if term < before {
            found.add(format!("node {node} went back from term {before} to term {term} at {at} us"), [], []);
        }
        let Some(leader) = leader else {
            continue;
        };
        let (first, by) = *leaders.entry(term).or_insert((leader, sample));
        if first != leader {
            found.add(
                format!(
                    "two leaders in term {term}: node {first}, as node {} said at {} us, and node {leader}, as \
                     node {node} said at {at} us",
                    by.node, by.at
                ),
                [],
                [],
            );
        }
    }
    let count = history.samples.len();
    let undecided = (count == 0).then(|| "no node was ever asked who leads".to_owned());
    found.verdict_unless(
        "one_leader_per_term",
        format!(
            "{count} samples, {} terms with a leader, none with two, and no node went back",
            leaders.len()
        ),
        undecided,
    )
}

/// Equal applied index, equal digest and state hash.
pub fn digests(history: &History) -> Verdict {
    let mut found = Findings::default();
    let mut at: BTreeMap<u64, Vec<&Sample>> = BTreeMap::new();
    for sample in history.samples.iter().filter(|s| s.applied_index > 0) {
        at.entry(sample.applied_index).or_default().push(sample);
    }
    let mut compared = 0;
    for (index, samples) in &at {
        let first = samples[0];
        compared += usize::from(samples.iter().any(|sample| sample.node != first.node));
        let differs = |a: &str, b: &str| !a.is_empty() && !b.is_empty() && a != b;
        for other in &samples[1..] {
            for (what, a, b) in [
                ("digest", &first.digest, &other.digest),
                ("state hash", &first.state_hash, &other.state_hash),
            ] {
                if differs(a, b) {
                    let (x, y) = (first.node, other.node);
                    found.add(
                        format!("at index {index}, {what} is {a} on node {x} and {b} on node {y}"),
                        [],
                        [],
                    );
                }
            }
        }
    }
    let undecided = (compared == 0).then(|| "no two nodes were seen at one applied index".to_owned());
    found.verdict_unless(
        "digests",
        format!("{compared} applied indexes seen on two nodes or more, equal digests and state hashes"),
        undecided,
    )
}

/// What was probed while the cluster was still up held.
pub fn probes(history: &History) -> Verdict {
    let mut found = Findings::default();
    for probe in history.probes.iter().filter(|probe| !probe.holds) {
        found.add(format!("{}: {}", probe.name, probe.detail), [], []);
    }
    let missing: Vec<&str> = ["digests", "audit", "available"]
        .into_iter()
        .filter(|name| history.probes.iter().all(|probe| probe.name != *name))
        .collect();
    let undecided =
        (!missing.is_empty()).then(|| format!("not probed at the end of the run: {}", missing.join(", ")));
    found.verdict_unless("probes", format!("{} probes held", history.probes.len()), undecided)
}

/// No process ended but by a rule that it named in its last line, with a fault in force that excuses it.
pub fn deaths(history: &History) -> Verdict {
    let mut found = Findings::default();
    for exit in &history.exits {
        if let Some(wrong) = wrong_death(exit) {
            found.add(format!("node {} ended at {} us ({}): {wrong}", exit.node, exit.at, exit.how), [], []);
        }
    }
    let by_themselves = history.exits.iter().filter(|exit| !exit.expected).count();
    found.verdict(
        "deaths",
        format!("{} ends of processes, {by_themselves} of them by a rule of their own", history.exits.len()),
    )
}

fn wrong_death(exit: &Exit) -> Option<String> {
    let line = exit.last_line.trim();
    let crashed = matches!(exit.code, Some(101 | 134))
        || ["SIGABRT", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE"]
            .iter()
            .any(|signal| exit.how.contains(signal))
        || line.contains("panicked at");
    // A node may crash in the very moment in which the harness ends it.
    if crashed {
        return Some(format!("it crashed; its last line: {line}"));
    }
    if exit.expected {
        return None;
    }
    if let Some(rule) = NEVER_EXCUSED.iter().find(|rule| line.contains(**rule)) {
        return Some(format!("no fault excuses \"{rule}\"; its last line: {line}"));
    }
    let named = match exit.code {
        Some(STOPPED_ITSELF) => line.contains("stopped itself"),
        Some(REFUSED_TO_START) => line.starts_with("stockroom: "),
        _ => return Some(format!("nobody ended it; its last line: {line}")),
    };
    match (named, &exit.excuse) {
        (false, _) => Some(format!("its last line names no rule: {line}")),
        (true, None) => Some(format!("no fault was in force that excuses it; its last line: {line}")),
        (true, Some(_)) => None,
    }
}

/// Nothing in an answer was against the HTTP contract.
pub fn contract(history: &History) -> Verdict {
    let mut found = Findings::default();
    for op in &history.ops {
        if let Some(Outcome::Info { reason }) = &op.outcome
            && let Some(wrong) = reason.strip_prefix("contract:")
        {
            found.add(format!("{}: {}", op.call.name(), wrong.trim()), [], [op.id]);
        }
    }
    found.verdict("contract", format!("{} answers as the contract has them", history.ops.len()))
}

/// Enough happened for the other verdicts to mean something. Never a violation, only not a pass.
pub fn enough(history: &History) -> Verdict {
    let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for op in &history.ops {
        let done = match &op.outcome {
            Some(Outcome::Ok { answer: Answer::Refused { .. }, .. }) => false,
            Some(Outcome::Ok { .. }) => true,
            _ => false,
        };
        let count = counts.entry(op.call.name()).or_default();
        count.0 += 1;
        count.1 += u64::from(done);
    }
    let done: u64 = counts.values().map(|(_, done)| done).sum();
    let reads = writes::reads(history).count();
    let mut lacks = Vec::new();
    if reads == 0 {
        lacks.push("no read was answered".to_owned());
    }
    if writes::all(history).iter().all(|write| write.done().is_none()) {
        lacks.push("no write succeeded".to_owned());
    }
    for (name, (made, _)) in counts.iter().filter(|(_, (made, done))| *made >= OFTEN && *done == 0) {
        lacks.push(format!("none of {made} calls of {name} succeeded"));
    }
    for nemesis in &history.run.nemeses {
        if !history.faults.iter().any(|fault| fault.nemesis == *nemesis && fault.effective) {
            lacks.push(format!("no fault of {nemesis} took effect"));
        }
    }
    if lacks.is_empty() {
        let effective = history.faults.iter().filter(|fault| fault.effective).count();
        let calls = history.ops.len();
        Verdict::holds("enough", format!("{done} of {calls} calls succeeded, {effective} faults took effect"))
    } else {
        Verdict::not_decided("enough", lacks.join("; "))
    }
}
