//! What each SKU's list was, by all who read it.

use crate::checker::Findings;
use crate::checker::writes::{Fate, Read, Write};
use crate::history::{Answer, Call, MovementSeen};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// One element of a SKU's list: what was done, and by whose name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Element<'a> {
    /// Kind of the movement.
    pub kind: &'a str,
    /// Id of the order, the reservation, or the key.
    pub cause: &'a str,
}

impl std::fmt::Display for Element<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            "allocated" | "received" => write!(f, "{}", self.cause),
            kind => write!(f, "{kind} {}", self.cause),
        }
    }
}

/// What a write appends to which SKU, if it takes place, as far as its cause is known.
pub fn appends<'a>(write: &Write<'a>) -> Vec<(&'a str, Element<'a>)> {
    let answered = match write.done() {
        Some((Answer::Order(order), _)) => Some(order),
        _ => None,
    };
    let per_sku = |lines: &'a [crate::history::Line], kind: &'a str, cause: &'a str| {
        let skus: BTreeSet<&'a str> = lines.iter().map(|line| line.sku.as_str()).collect();
        skus.into_iter().map(|sku| (sku, Element { kind, cause })).collect::<Vec<_>>()
    };
    match write.call {
        Call::Receive { lines } => write.key.map_or_else(Vec::new, |key| per_sku(lines, "received", key)),
        Call::PlaceOrder { id, lines, .. } => {
            let name = id.as_deref().or(answered.map(|order| order.id.as_str()));
            let lines = answered.map_or(lines.as_slice(), |order| order.lines.as_slice());
            name.map_or_else(Vec::new, |name| per_sku(lines, "allocated", name))
        }
        Call::CancelOrder { id } => {
            answered.map_or_else(Vec::new, |order| per_sku(&order.lines, "deallocated", id))
        }
        Call::Transfer { sku, .. } => write
            .key
            .map_or_else(Vec::new, |cause| vec![(sku.as_str(), Element { kind: "transferred_out", cause })]),
        _ => Vec::new(),
    }
}

/// One SKU's list, as one read saw it.
#[derive(Debug)]
pub struct Seen {
    /// Number of the read.
    pub read: usize,
    /// How many elements of the SKU's order.
    pub length: usize,
}

/// The lists of all SKUs.
#[derive(Debug, Default)]
pub struct Lists<'a> {
    /// How many lists were read.
    pub count: usize,
    /// Of each SKU: the longest list that was read, oldest first. Any other is a beginning of it.
    pub order: BTreeMap<&'a str, Vec<Element<'a>>>,
    /// Of each SKU: who saw how much of it.
    pub seen: BTreeMap<&'a str, Vec<Seen>>,
    /// Which write appends an element.
    pub writer: HashMap<(&'a str, Element<'a>), usize>,
    /// Which call saw the longest list.
    witness: HashMap<&'a str, usize>,
    reads: Vec<u64>,
}

impl<'a> Lists<'a> {
    /// Collects the lists and says what is wrong with them by themselves.
    pub fn of(writes: &[Write<'a>], reads: &[Read<'a>], found: &mut Findings) -> Self {
        let mut lists = Lists { reads: reads.iter().map(|read| read.op.id).collect(), ..Lists::default() };
        let mut never: HashMap<(&str, Element<'_>), u64> = HashMap::new();
        for (number, write) in writes.iter().enumerate() {
            for (sku, element) in appends(write) {
                if write.possible() {
                    // Several writes may ask for one order: the first answered is the one that made it.
                    lists.writer.entry((sku, element)).or_insert(number);
                } else {
                    never.insert((sku, element), write.op());
                }
            }
        }
        let lines = lines(writes);
        let mut all: BTreeMap<&'a str, Vec<(usize, Vec<Element<'a>>)>> = BTreeMap::new();
        for (number, read) in reads.iter().enumerate() {
            let (Call::ReadMovements { skus, .. }, Answer::Movements { items }) =
                (&read.op.call, read.answer)
            else {
                continue;
            };
            lists.count += skus.len();
            let mut by_sku: BTreeMap<&str, Vec<&MovementSeen>> =
                skus.iter().map(|sku| (sku.as_str(), Vec::new())).collect();
            for movement in items.iter().rev() {
                by_sku.entry(movement.sku.as_str()).or_default().push(movement);
            }
            for (sku, movements) in by_sku {
                counters(read.op.id, sku, &movements, found);
                all.entry(sku)
                    .or_default()
                    .push((number, elements(read.op.id, sku, &movements, &lines, found)));
            }
        }
        for (sku, seen) in all {
            lists.settle(sku, &seen, found);
        }
        lists.phantoms(&never, writes, found);
        lists
    }

    /// The longest list is the order; every other must be a beginning of it.
    fn settle(&mut self, sku: &'a str, seen: &[(usize, Vec<Element<'a>>)], found: &mut Findings) {
        let longest = seen.iter().enumerate().max_by_key(|(_, (_, list))| list.len()).map_or(0, |(at, _)| at);
        let (witness, order) = &seen[longest];
        let mut lengths = Vec::with_capacity(seen.len());
        for (read, list) in seen {
            let same = order.iter().zip(list).take_while(|(a, b)| a == b).count();
            if let (Some(a), Some(b)) = (order.get(same), list.get(same)) {
                found.add(
                    format!(
                        "incompatible-order: {sku} was read with {a} and with {b} as element {} of its history",
                        same + 1
                    ),
                    [sku.to_owned()],
                    [self.reads[*witness], self.reads[*read]],
                );
            }
            lengths.push(Seen { read: *read, length: same });
        }
        self.witness.insert(sku, *witness);
        self.order.insert(sku, order.clone());
        self.seen.insert(sku, lengths);
    }

    /// Elements that nobody appended, or whose write was refused or abandoned (G1a).
    fn phantoms(
        &self,
        never: &HashMap<(&'a str, Element<'a>), u64>,
        writes: &[Write<'a>],
        found: &mut Findings,
    ) {
        // Without an id of its own, an order's name is known from its answer only.
        let anonymous = writes.iter().any(|write| {
            write.fate == Fate::Unknown && matches!(write.call, Call::PlaceOrder { id: None, .. })
        });
        for (sku, order) in &self.order {
            let read = self.reads[self.witness[sku]];
            let mut known = BTreeSet::new();
            for element in order {
                if !known.insert(*element) {
                    let what = format!("duplicate-elements: {element} stands twice in the history of {sku}");
                    found.add(what, [(*sku).to_owned()], [read]);
                }
                if self.writer.contains_key(&(*sku, *element)) {
                    continue;
                }
                if let Some(op) = never.get(&(*sku, *element)) {
                    let what =
                        format!("G1a: {sku} shows {element}, which was refused, abandoned or never proposed");
                    found.add(what, [(*sku).to_owned()], [*op, read]);
                } else if !anonymous && matches!(element.kind, "allocated" | "received") {
                    let what = format!("{sku} shows {element}, which nobody wrote");
                    found.add(what, [(*sku).to_owned()], [read]);
                }
            }
        }
    }

    /// How many elements all orders have.
    pub fn elements(&self) -> usize {
        self.order.values().map(Vec::len).sum()
    }

    /// Every read shows an order in the lists of all of its SKUs that were asked for, or in none.
    pub fn whole_or_not_at_all(&self, writes: &[Write<'a>], found: &mut Findings) {
        let pairs = self.pairs(writes);
        // Of each read: how much of which SKU it saw.
        let mut shown: BTreeMap<usize, Vec<(&str, usize)>> = BTreeMap::new();
        for (sku, seen) in &self.seen {
            for one in seen {
                shown.entry(one.read).or_default().push((sku, one.length));
            }
        }
        for (read, skus) in &shown {
            for (sku, length) in skus {
                for (other, most) in skus {
                    let Some(shared) = pairs.get(&(*sku, *other)) else { continue };
                    let visible = shared.partition_point(|one| one.at < *length);
                    let Some(last) = visible.checked_sub(1).map(|last| &shared[last]) else { continue };
                    if last.latest >= *most {
                        let what = format!(
                            "{} is seen in the history of {sku} and not in that of {other}, read at one index",
                            last.element
                        );
                        let skus = [(*sku).to_owned(), (*other).to_owned()];
                        found.add(what, skus, [last.op, self.reads[*read]]);
                    }
                }
            }
        }
    }

    /// Of each two SKUs, the writes that append to both, as they stand in the first; and of all up to each
    /// of them, that which stands last in the second.
    fn pairs(&self, writes: &[Write<'a>]) -> HashMap<(&'a str, &'a str), Vec<Shared<'a>>> {
        let mut place: HashMap<(&str, Element<'_>), usize> = HashMap::new();
        for (sku, order) in &self.order {
            for (at, element) in order.iter().enumerate() {
                place.insert((sku, *element), at);
            }
        }
        let mut pairs: HashMap<(&str, &str), Vec<Shared<'_>>> = HashMap::new();
        for write in writes.iter().filter(|write| write.possible()) {
            let appends = appends(write);
            for (sku, element) in &appends {
                let Some(at) = place.get(&(*sku, *element)).copied() else { continue };
                for (other, element) in appends.iter().filter(|(other, _)| other != sku) {
                    // In no list of the other SKU: it stands behind all that anybody saw.
                    let latest = place.get(&(*other, *element)).copied().unwrap_or(usize::MAX);
                    let shared = Shared { at, latest, op: write.op(), element: *element };
                    pairs.entry((sku, other)).or_default().push(shared);
                }
            }
        }
        for shared in pairs.values_mut() {
            shared.sort_by_key(|one| one.at);
            for next in 1..shared.len() {
                let before = &shared[next - 1];
                if before.latest > shared[next].latest {
                    let (latest, op, element) = (before.latest, before.op, before.element);
                    shared[next] = Shared { latest, op, element, at: shared[next].at };
                }
            }
        }
        pairs
    }
}

/// A write to two SKUs, by where it stands in the first.
struct Shared<'a> {
    at: usize,
    /// Of all writes up to this one, the last place in the second SKU; and whose that is.
    latest: usize,
    op: u64,
    element: Element<'a>,
}

/// Oldest first: counters of each location follow from the movement before, and indexes do not go back.
fn counters(read: u64, sku: &str, movements: &[&MovementSeen], found: &mut Findings) {
    let mut last: HashMap<&str, (u64, u64, u64)> = HashMap::new();
    let mut index = 0;
    for movement in movements {
        let after = (movement.on_hand_after, movement.reserved_after, movement.allocated_after);
        let before = last.insert(&movement.location, after).unwrap_or((0, 0, 0));
        let wrong = if movement.log_index < index {
            Some(format!("index {} stands after index {index}", movement.log_index))
        } else if moved(before, movement) != Some(after) {
            Some(format!(
                "{} {} of {} units at index {} goes from {before:?} to {after:?} (on hand, reserved, allocated)",
                movement.kind, movement.cause, movement.quantity, movement.log_index
            ))
        } else {
            None
        };
        index = movement.log_index;
        if let Some(wrong) = wrong {
            found.add(format!("internal: in the history of {sku}, {wrong}"), [sku.to_owned()], [read]);
            return;
        }
    }
}

/// What a movement makes of counters.
fn moved(
    (on_hand, reserved, allocated): (u64, u64, u64),
    movement: &MovementSeen,
) -> Option<(u64, u64, u64)> {
    let q = movement.quantity;
    let up = |value: u64| value.checked_add_signed(q);
    let down = |value: u64| value.checked_add_signed(q.checked_neg()?);
    Some(match movement.kind.as_str() {
        "received" | "adjusted" | "transferred_in" | "restocked" => (up(on_hand)?, reserved, allocated),
        "transferred_out" => (down(on_hand)?, reserved, allocated),
        "reserved" => (on_hand, up(reserved)?, allocated),
        "released" | "expired" => (on_hand, down(reserved)?, allocated),
        "consumed" => (down(on_hand)?, down(reserved)?, allocated),
        "allocated" => (on_hand, reserved, up(allocated)?),
        "deallocated" => (on_hand, reserved, down(allocated)?),
        "shipped" => (down(on_hand)?, reserved, down(allocated)?),
        _ => return None,
    })
}

/// One element for each write: several lines of one SKU are one append, of which all must be there.
fn elements<'a>(
    read: u64,
    sku: &'a str,
    movements: &[&'a MovementSeen],
    lines: &HashMap<(&'a str, Element<'a>), usize>,
    found: &mut Findings,
) -> Vec<Element<'a>> {
    let mut list: Vec<(Element<'a>, u64, usize)> = Vec::new();
    // The other half of a transfer is no append of its own.
    for movement in movements.iter().filter(|movement| movement.kind != "transferred_in") {
        let element = Element { kind: &movement.kind, cause: &movement.cause };
        match list.last_mut() {
            Some((last, index, count)) if *last == element && *index == movement.log_index => *count += 1,
            _ => list.push((element, movement.log_index, 1)),
        }
    }
    for (element, index, count) in &list {
        if let Some(lines) = lines.get(&(sku, *element))
            && count != lines
        {
            let what = format!(
                "G1b: {sku} shows {count} movements of {element} at index {index}, which has {lines} lines of it"
            );
            found.add(what, [sku.to_owned()], [read]);
        }
    }
    list.into_iter().map(|(element, ..)| element).collect()
}

/// How many lines of each SKU a write has, and so how many movements it makes.
fn lines<'a>(writes: &[Write<'a>]) -> HashMap<(&'a str, Element<'a>), usize> {
    let mut lines = HashMap::new();
    for write in writes.iter().filter(|write| write.possible()) {
        let (Call::Receive { lines: asked } | Call::PlaceOrder { lines: asked, .. }) = write.call else {
            continue;
        };
        for (sku, element) in appends(write) {
            let count = asked.iter().filter(|line| line.sku == sku).count();
            if count > 0 {
                lines.insert((sku, element), count);
            }
        }
    }
    lines
}
