//! The same write sent again: one effect, one answer.

use super::effects::Effects;
use super::totals::reads_in_range;
use super::writes::{self, Fate};
use super::{Findings, Verdict};
use crate::history::{Answer, Call, History, Known, Op, Outcome, Settled};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What a check went through.
#[derive(Default)]
struct Counts {
    keys: usize,
    repeated: usize,
    replayed: usize,
}

/// One effect, one answer: every answer to a key is the same, at most one of them was not a replay, a key
/// stands for one body, and what is counted in the end is what the keys say.
pub fn check(history: &History) -> Verdict {
    let (mut found, mut counts) = (Findings::default(), Counts::default());
    let mut keys: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in &history.ops {
        if let Some(key) = &op.key {
            keys.entry(key).or_default().push(op);
        }
    }
    for (key, sends) in &keys {
        one_key(key, sends, &mut found, &mut counts);
    }
    let effects = Effects::of(history);
    let tally = reads_in_range(history, &effects, &mut found);
    movements(history, &mut found);
    orders(history, &mut found);

    let undecided = (counts.repeated == 0).then(|| "no write was answered twice".to_owned());
    let Counts { keys, repeated, replayed } = counts;
    let checked = format!(
        "{keys} keys, {repeated} of them answered more than once, {replayed} replays; {}",
        tally.checked()
    );
    found.verdict_unless("idempotency", checked, undecided.or_else(|| tally.open()))
}

fn one_key(key: &str, sends: &[&Op], found: &mut Findings, counts: &mut Counts) {
    counts.keys += 1;
    let first = sends[0];
    let mut bodies: Vec<(&Call, Vec<&Op>)> = vec![(&first.call, Vec::new())];
    for op in sends {
        match bodies.iter_mut().find(|(call, _)| **call == op.call) {
            Some((_, ops)) => ops.push(op),
            None => bodies.push((&op.call, vec![op])),
        }
    }
    // A body that was let through: somebody got its answer, and not that the key is another's.
    let mut owners = Vec::new();
    for (_, ops) in &bodies {
        let (refused, answered): (Vec<&Op>, Vec<&Op>) =
            ops.iter().filter(|op| answer(op).is_some()).partition(|op| says(op, "key_reused"));
        let real = answered.iter().find(|op| !says(op, "abandoned"));
        owners.extend(real.copied());
        if let (Some(refused), Some(answered)) = (refused.first(), real) {
            found.add(
                format!("key {key}: one body was let through once and refused as key_reused another time"),
                skus(&answered.call),
                [refused.id, answered.id],
            );
        }
        if bodies.len() == 1
            && let Some(refused) = refused.first()
        {
            let all = sends.iter().map(|op| op.id);
            let what = format!("key {key}: refused as key_reused, although it was sent with one body only");
            found.add(what, skus(&refused.call), all);
        }
        one_answer(key, &answered, found, counts);
    }
    if let [one, other, ..] = owners[..] {
        found.add(
            format!("key {key}: two different bodies were let through"),
            skus(&one.call),
            [one.id, other.id],
        );
    }
    abandoned(key, sends, found);
}

/// All answers to one body under one key.
fn one_answer(key: &str, answered: &[&Op], found: &mut Findings, counts: &mut Counts) {
    counts.repeated += usize::from(answered.len() > 1);
    let Some(first) = answered.first() else { return };
    for other in &answered[1..] {
        let (a, b) = (answer(first), answer(other));
        let same_bytes = match (first.meta(), other.meta()) {
            (Some(a), Some(b)) => a.status == b.status && a.body_hash == b.body_hash,
            _ => true,
        };
        if a != b || !same_bytes {
            let what = format!("key {key}: two different answers to the same write");
            found.add(what, skus(&first.call), [first.id, other.id]);
        }
    }
    let fresh: Vec<&&Op> =
        answered.iter().filter(|op| op.meta().is_some_and(|meta| !meta.replayed)).collect();
    counts.replayed += answered.len() - fresh.len();
    if fresh.len() > 1 {
        let what = format!("key {key}: decided {} times, by answers that are no replays", fresh.len());
        found.add(what, skus(&first.call), fresh.iter().map(|op| op.id));
    }
}

/// A settled key lets nothing through, before or after.
fn abandoned(key: &str, sends: &[&Op], found: &mut Findings) {
    let settled = sends.iter().find(|op| matches!(op.settled, Some((_, Settled::Abandoned))));
    let through = sends.iter().find(|op| {
        matches!(op.outcome, Some(Outcome::Ok { .. })) && !says(op, "key_reused") && !says(op, "abandoned")
    });
    if let (Some(settled), Some(through)) = (settled, through) {
        let what = format!("key {key}: abandoned, and let through all the same");
        found.add(what, skus(&through.call), [settled.id, through.id]);
    }
    let refused = sends.iter().find(|op| says(op, "abandoned"));
    let never_abandoned = sends.iter().all(|op| !matches!(op.settled, Some((_, Settled::Abandoned))));
    if let (Some(refused), true) = (refused, never_abandoned) {
        let what = format!("key {key}: refused as abandoned, although nobody abandoned it");
        found.add(what, skus(&refused.call), [refused.id]);
    }
}

/// In every list of movements a key, an order or a reservation moves a stock the same way once per line.
fn movements(history: &History, found: &mut Findings) {
    let lines = |sku: &str, call: &Call| match call {
        Call::Receive { lines } | Call::PlaceOrder { lines, .. } | Call::Reserve { lines, .. } => {
            lines.iter().filter(|line| line.sku == sku).count()
        }
        _ => 1,
    };
    let mut most: HashMap<&str, &Call> = HashMap::new();
    for write in writes::all(history) {
        match write.call {
            // Its lines are its reservation's.
            Call::PlaceOrder { reservation_id: Some(_), .. } => None,
            Call::PlaceOrder { id: Some(id), .. } | Call::Reserve { id, .. } => most.insert(id, write.call),
            _ => write.key.and_then(|key| most.insert(key, write.call)),
        };
    }
    for read in writes::reads(history) {
        let Answer::Movements { items } = read.answer else { continue };
        let mut seen: HashMap<(&str, &str, &str, &str), usize> = HashMap::new();
        for m in items {
            *seen.entry((&m.cause, &m.kind, &m.sku, &m.location)).or_default() += 1;
        }
        for ((cause, kind, sku, _), count) in seen {
            let allowed = most.get(cause).map(|call| lines(sku, call).max(1));
            if allowed.is_some_and(|allowed| count > allowed) {
                let what =
                    format!("{sku}: {cause} moved it {count} times ({kind}), one write should do so once");
                found.add(what, [sku.to_owned()], [read.op.id]);
            }
        }
    }
}

/// No list of orders has more orders than keys that placed one.
fn orders(history: &History, found: &mut Findings) {
    let placed: Vec<_> = writes::all(history)
        .into_iter()
        .filter(|write| matches!(write.call, Call::PlaceOrder { .. }) && write.possible())
        .collect();
    let open = placed.iter().filter(|write| write.fate == Fate::Unknown && made_id(write.call)).count();
    let known: HashSet<&str> = placed
        .iter()
        .filter_map(|write| match (write.call, write.done()) {
            (_, Some((Answer::Order(order), _))) => Some(order.id.as_str()),
            (Call::PlaceOrder { id: Some(id), .. }, _) => Some(id.as_str()),
            _ => None,
        })
        .collect();
    for read in writes::reads(history) {
        let Answer::Orders { items } = read.answer else { continue };
        // While writes go on, an order may be listed whose answer is still to come: then it is known by the end.
        let unknown: Vec<_> = items.iter().filter(|order| !known.contains(order.id.as_str())).collect();
        if unknown.len() > open {
            let skus = unknown[0].lines.iter().map(|line| line.sku.clone());
            let what = format!(
                "{} orders are listed that no answer spoke of, such as {}: writes took place twice",
                unknown.len() - open,
                unknown[0].id
            );
            found.add(what, skus, [read.op.id]);
        }
    }
}

fn made_id(call: &Call) -> bool {
    matches!(call, Call::PlaceOrder { id: None, .. })
}

fn answer(op: &Op) -> Option<&Answer> {
    match op.known() {
        Known::Answered(answer, _) => Some(answer),
        Known::Never | Known::Unknown => None,
    }
}

fn says(op: &Op, wanted: &str) -> bool {
    matches!(answer(op), Some(Answer::Refused { code, .. }) if code == wanted)
}

/// The SKUs that a call names.
fn skus(call: &Call) -> Vec<String> {
    match call {
        Call::PutItem { sku } | Call::Transfer { sku, .. } => vec![sku.clone()],
        Call::Receive { lines } | Call::PlaceOrder { lines, .. } | Call::Reserve { lines, .. } => {
            lines.iter().map(|line| line.sku.clone()).collect()
        }
        _ => Vec::new(),
    }
}
