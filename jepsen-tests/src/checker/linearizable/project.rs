//! From a history to what happened to each SKU.
//!
//! A call over several SKUs is projected onto each of them. If the whole is linearizable, so is every
//! projection: what is done is done to all lines at one moment, a read shows all of one moment, and a
//! refusal for want of stock names every short line, so that it also says which SKUs had enough. A
//! projection says less than the whole, which is what the `orders` workload is for. A call whose answer
//! nobody heard may have been refused for another SKU's sake; it may also have happened never, and the
//! search may put it at the end, where nobody looks.

use super::model::{Ask, Body, Lines, Said, Status, Units};
use crate::checker::writes::{self, Fate, Write, location, plain};
use crate::history::{Answer, Call, History, Line, Micros, MovementSeen, Shortage};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Clocks that jump bring the end of any hold near that is shorter than this.
const ONE_DAY: Micros = 24 * 3_600 * 1_000_000;

/// One call, as one SKU sees it.
#[derive(Debug, Clone)]
pub struct Step {
    /// The call of the history; of the end of a reservation's time, that which made it.
    pub op: u64,
    /// Not before.
    pub invoked: Micros,
    /// Not after, where that is known.
    pub by: Option<Micros>,
    /// What was asked.
    pub ask: Ask,
    /// What was answered; `None` where nobody heard it.
    pub said: Option<Said>,
    /// Whether it may change anything.
    pub changes: bool,
}

/// All that happened to one SKU.
#[derive(Debug, Clone, Default)]
pub struct Projection {
    /// Which.
    pub sku: String,
    /// Whether it is an item from the beginning: nobody in the history makes it one.
    pub item: bool,
    /// In no order.
    pub steps: Vec<Step>,
}

/// Names to numbers.
#[derive(Default)]
struct Numbers<K>(RefCell<HashMap<K, usize>>);

impl<K: std::hash::Hash + Eq> Numbers<K> {
    fn of(&self, name: K) -> usize {
        let mut known = self.0.borrow_mut();
        let next = known.len();
        *known.entry(name).or_insert(next)
    }
}

/// What all projections share.
#[derive(Default)]
struct Names<'a> {
    locations: Numbers<&'a str>,
    orders: Numbers<String>,
    holds: Numbers<&'a str>,
    bodies: Numbers<BodyKey<'a>>,
    /// Of each call that places an order: the order's name.
    order_names: HashMap<u64, String>,
    /// SKUs of each order and reservation, by all that was ever asked under its id.
    order_skus: HashMap<String, BTreeSet<&'a str>>,
    hold_skus: HashMap<&'a str, BTreeSet<&'a str>>,
}

/// A body as it is compared: lines, and the time of a hold or the reservation of an order.
type BodyKey<'a> = (Vec<(&'a str, &'a str, u64)>, Option<u64>, Option<&'a str>);

impl<'a> Names<'a> {
    fn lines(&self, sku: &str, lines: &'a [Line]) -> Lines {
        let mine = lines.iter().filter(|line| line.sku == sku);
        mine.map(|line| (self.locations.of(location(line)), line.quantity)).collect()
    }

    fn body(&self, sku: &str, lines: &'a [Line], ttl_ms: Option<u64>, from: Option<&'a str>) -> Body {
        Body { number: self.bodies.of((plain(lines), ttl_ms, from)), lines: self.lines(sku, lines) }
    }
}

/// The histories of all SKUs. Reads that may be old are no part of them.
pub fn project(history: &History) -> Vec<Projection> {
    let writes = writes::all(history);
    let names = names(&writes);
    let mut steps: Vec<(&str, Step)> = Vec::new();
    let mut items: BTreeSet<&str> = BTreeSet::new();
    for write in writes.iter().filter(|write| write.fate != Fate::Never) {
        if let Call::PutItem { sku } = write.call {
            items.insert(sku);
        }
        let by = Some(write.by()).filter(|by| *by != Micros::MAX);
        let answer = match write.fate {
            Fate::Decided(answer, _) => Some(answer),
            Fate::Never | Fate::Unknown => None,
        };
        add(&mut steps, &names, (write.op(), write.invoked, by), write.call, answer);
    }
    for read in writes::reads(history).filter(writes::Read::is_linearizable) {
        let span = (read.op.id, read.op.invoked, Some(read.completed));
        add(&mut steps, &names, span, &read.op.call, Some(read.answer));
    }
    expiries(history, &names, &writes, &mut steps);
    let mut all: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
    for (sku, step) in steps {
        all.entry(sku).or_default().push(step);
    }
    let project =
        |(sku, steps): (&str, _)| Projection { sku: sku.to_owned(), item: !items.contains(sku), steps };
    all.into_iter().map(project).collect()
}

fn names<'a>(writes: &[Write<'a>]) -> Names<'a> {
    let mut names = Names::default();
    for write in writes {
        if let Call::Reserve { id, lines, .. } = write.call {
            names.hold_skus.entry(id).or_default().extend(lines.iter().map(|line| line.sku.as_str()));
        }
    }
    for write in writes {
        let Call::PlaceOrder { id, lines, reservation_id } = write.call else { continue };
        let answered = match write.done() {
            Some((Answer::Order(order), _)) => Some(order),
            _ => None,
        };
        // A name of the server's own is known from its answer; without one nobody can ask for it.
        let name = id.clone().or_else(|| answered.map(|order| order.id.clone()));
        let name = name.unwrap_or_else(|| format!("call {}", write.op()));
        names.order_names.insert(write.op(), name.clone());
        let skus = names.order_skus.entry(name).or_default();
        let taken = reservation_id.as_deref().and_then(|hold| names.hold_skus.get(hold));
        skus.extend(taken.into_iter().flatten());
        let answered = answered.iter().flat_map(|order| &order.lines);
        skus.extend(lines.iter().chain(answered).map(|line| line.sku.as_str()));
    }
    names
}

/// One call for each SKU that it is about.
fn add<'a>(
    steps: &mut Vec<(&'a str, Step)>,
    names: &Names<'a>,
    (op, invoked, by): (u64, Micros, Option<Micros>),
    call: &'a Call,
    answer: Option<&'a Answer>,
) {
    let skus = skus(names, call, op);
    let several = skus.len() > 1;
    for sku in skus {
        let Some(ask) = ask(names, sku, call, op) else { continue };
        let said = answer.map(|answer| said(names, sku, answer));
        // The answer does not say which of several SKUs is unknown.
        if several && said == Some(Said::Refused("unknown_sku")) {
            continue;
        }
        let refused = matches!(said, Some(Said::Refused(_) | Said::Short(_)));
        let changes = call.is_write() && !refused;
        steps.push((sku, Step { op, invoked, by, ask, said, changes }));
    }
}

fn skus<'a>(names: &Names<'a>, call: &'a Call, op: u64) -> Vec<&'a str> {
    let of = |skus: Option<&BTreeSet<&'a str>>| skus.into_iter().flatten().copied().collect::<BTreeSet<_>>();
    let skus: BTreeSet<&'a str> = match call {
        Call::PutItem { sku } | Call::Transfer { sku, .. } => BTreeSet::from([sku.as_str()]),
        Call::Receive { lines } => lines.iter().map(|line| line.sku.as_str()).collect(),
        Call::ReadStock { skus, .. } | Call::ReadMovements { skus, .. } => {
            skus.iter().map(String::as_str).collect()
        }
        Call::PlaceOrder { .. } => of(names.order_names.get(&op).and_then(|name| names.order_skus.get(name))),
        Call::CancelOrder { id } | Call::ReadOrder { id, .. } => of(names.order_skus.get(id)),
        Call::Reserve { id, .. }
        | Call::Confirm { id }
        | Call::CancelReservation { id }
        | Call::Extend { id, .. }
        | Call::ReadReservation { id, .. } => of(names.hold_skus.get(id.as_str())),
        _ => BTreeSet::new(),
    };
    skus.into_iter().collect()
}

fn ask<'a>(names: &Names<'a>, sku: &str, call: &'a Call, op: u64) -> Option<Ask> {
    let hold = |id: &'a String| names.holds.of(id);
    let order = |id: &String| names.orders.of(id.clone());
    Some(match call {
        Call::PutItem { .. } => Ask::PutItem,
        Call::Receive { lines } => Ask::Receive { lines: names.lines(sku, lines) },
        Call::Transfer { from, to, quantity, .. } => {
            let (from, to) = (names.locations.of(from), names.locations.of(to));
            Ask::Transfer { from, to, quantity: *quantity }
        }
        Call::PlaceOrder { lines, reservation_id, .. } => Ask::PlaceOrder {
            order: order(names.order_names.get(&op)?),
            body: names.body(sku, lines, None, reservation_id.as_deref()),
            reservation: reservation_id.as_ref().map(hold),
        },
        Call::CancelOrder { id } => Ask::CancelOrder { order: order(id) },
        Call::Reserve { id, ttl_ms, lines } => {
            Ask::Reserve { hold: hold(id), body: names.body(sku, lines, Some(*ttl_ms), None) }
        }
        Call::Confirm { id } => Ask::Confirm { hold: hold(id) },
        Call::CancelReservation { id } => Ask::CancelReservation { hold: hold(id) },
        Call::Extend { id, .. } => Ask::Extend { hold: hold(id) },
        Call::ReadStock { .. } => Ask::ReadStock,
        Call::ReadMovements { .. } => Ask::ReadMovements,
        Call::ReadReservation { id, .. } => Ask::ReadReservation { hold: hold(id) },
        Call::ReadOrder { id, .. } => Ask::ReadOrder { order: order(id) },
        _ => return None,
    })
}

fn said<'a>(names: &Names<'a>, sku: &str, answer: &'a Answer) -> Said {
    let strange = || Said::Strange(format!("{answer:?}"));
    match answer {
        Answer::Done { .. } => Said::Done,
        Answer::Order(order) => match order.status.as_str() {
            "placed" | "paid" => Said::Order { cancelled: false, lines: names.lines(sku, &order.lines) },
            "cancelled" => Said::Order { cancelled: true, lines: names.lines(sku, &order.lines) },
            _ => strange(),
        },
        Answer::Reservation(seen) => match Status::of(&seen.status) {
            Some(status) => Said::Hold { status, lines: names.lines(sku, &seen.lines) },
            None => strange(),
        },
        Answer::Stock { items } => match items.iter().find(|stock| stock.sku == sku) {
            Some(stock) => {
                let at = |(location, seen): (&'a String, &_)| (names.locations.of(location), *seen);
                Said::Stock { locations: stock.locations.iter().map(at).collect(), total: stock.total }
            }
            None => strange(),
        },
        Answer::Movements { items } => newest(names, sku, items),
        Answer::Orders { .. } => strange(),
        Answer::Refused { code, shortages, .. } => match code.as_str() {
            "out_of_stock" => {
                let mine = shortages.iter().filter(|short| short.sku == sku);
                let number = |short: &'a Shortage| {
                    (names.locations.of(short.location.as_str()), short.requested, short.available)
                };
                let mut short: Vec<_> = mine.map(number).collect();
                short.sort_unstable();
                Said::Short(short)
            }
            "unknown_sku" | "item_not_found" => Said::Refused("unknown_sku"),
            "wrong_state" => Said::Refused("wrong_state"),
            "id_taken" => Said::Refused("id_taken"),
            "order_not_found" => Said::Refused("order_not_found"),
            "reservation_not_found" => Said::Refused("reservation_not_found"),
            "same_location" => Said::Refused("same_location"),
            _ => strange(),
        },
    }
}

/// The newest movement of each location says what is there now.
fn newest<'a>(names: &Names<'a>, sku: &str, items: &'a [MovementSeen]) -> Said {
    let mut newest: BTreeMap<usize, Units> = BTreeMap::new();
    for movement in items.iter().filter(|movement| movement.sku == sku) {
        newest.entry(names.locations.of(&movement.location)).or_insert(Units {
            on_hand: movement.on_hand_after,
            reserved: movement.reserved_after,
            allocated: movement.allocated_after,
        });
    }
    Said::Newest(newest.into_iter().collect())
}

/// The end of a reservation's time is a step of its own, that nobody asks for: where somebody saw it, or
/// where its time may have been over before the run was.
fn expiries<'a>(
    history: &'a History,
    names: &Names<'a>,
    writes: &[Write<'a>],
    steps: &mut Vec<(&'a str, Step)>,
) {
    let mut seen: HashMap<&str, Micros> = HashMap::new();
    let decided = writes.iter().filter_map(|write| match write.fate {
        Fate::Decided(answer, by) => Some((answer, by)),
        Fate::Never | Fate::Unknown => None,
    });
    for (answer, by) in decided.chain(writes::reads(history).map(|read| (read.answer, read.completed))) {
        if let Answer::Reservation(reservation) = answer
            && reservation.status == "expired"
        {
            let first = seen.entry(&reservation.id).or_insert(by);
            *first = by.min(*first);
        }
    }
    let mut shortest: HashMap<&str, u64> = HashMap::new();
    for write in writes.iter().filter(|write| write.possible()) {
        if let Call::Reserve { id, ttl_ms, .. } | Call::Extend { id, ttl_ms } = write.call {
            let shortest = shortest.entry(id).or_insert(*ttl_ms);
            *shortest = (*ttl_ms).min(*shortest);
        }
    }
    let end = history.ops.iter().filter_map(|op| op.completed).max().unwrap_or(0);
    let bent = history.faults.iter().any(|fault| fault.kind == "clock");
    for write in writes.iter().filter(|write| write.possible()) {
        let Call::Reserve { id, ttl_ms, .. } = write.call else { continue };
        let ttl = shortest.get(id.as_str()).unwrap_or(ttl_ms).saturating_mul(1_000);
        let in_reach = if bent { ONE_DAY } else { end.saturating_sub(write.invoked).saturating_mul(2) };
        let by = seen.get(id.as_str()).copied();
        if by.is_none() && ttl > in_reach {
            continue;
        }
        let ask = Ask::Expire { hold: names.holds.of(id) };
        for sku in skus(names, write.call, write.op()) {
            let (op, invoked, ask) = (write.op(), write.invoked, ask.clone());
            steps.push((sku, Step { op, invoked, by, ask, said: None, changes: true }));
        }
    }
}
