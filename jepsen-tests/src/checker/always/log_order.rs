//! The log's order is the order of real time, and one index is one state.

use crate::checker::writes::{self, Fate, Read};
use crate::checker::{Findings, Verdict};
use crate::history::{Answer, Call, History, Micros, OrderSeen, ReservationSeen, StockSeen};
use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash, Hasher};

/// A point of the log that a call named, and when.
struct Point {
    op: u64,
    what: Kind,
    invoked: Micros,
    /// When its answer was known.
    completed: Micros,
    index: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It was decided there: above everything answered before it was sent.
    Write,
    /// It shows everything up to there, and had to show everything answered before it was sent.
    Linearizable,
    /// It shows everything up to there.
    Weaker,
}

/// `log_index` goes with real time: whatever was answered before a write was sent lies below it, and
/// below or at a linearizable read. Equal index, equal contents.
pub fn log_order(history: &History) -> Verdict {
    let mut found = Findings::default();
    let points = points(history);
    real_time(&points, &mut found);
    let compared = equal_contents(history, &mut found);
    let undecided = points.is_empty().then(|| "no answer named an index".to_owned());
    found.verdict_unless(
        "log_order",
        format!(
            "{} indexes in the order of real time, {compared} contents equal at equal index",
            points.len()
        ),
        undecided,
    )
}

fn points(history: &History) -> Vec<Point> {
    let mut points = Vec::new();
    for write in writes::all(history) {
        if let (Fate::Decided(_, by), Some(index)) = (write.fate, write.decided_at()) {
            // What was settled is known by a later call, whose time says nothing against it.
            let (op, what) = (write.op(), Kind::Write);
            points.push(Point { op, what, invoked: write.invoked, completed: by, index });
        }
    }
    for read in writes::reads(history) {
        let Some(index) = read.meta.applied_index else { continue };
        let what = if read.is_linearizable() { Kind::Linearizable } else { Kind::Weaker };
        points.push(Point {
            op: read.op.id,
            what,
            invoked: read.op.invoked,
            completed: read.completed,
            index,
        });
    }
    points
}

/// One sweep over time: the highest index answered so far against each call that is invoked.
fn real_time(points: &[Point], found: &mut Findings) {
    let mut by_end: Vec<&Point> = points.iter().collect();
    by_end.sort_by_key(|point| point.completed);
    let mut by_start: Vec<&Point> = points.iter().collect();
    by_start.sort_by_key(|point| point.invoked);

    let mut ended = by_end.into_iter().peekable();
    let mut highest: Option<&Point> = None;
    for point in by_start {
        while let Some(done) = ended.next_if(|done| done.completed < point.invoked) {
            if highest.is_none_or(|highest| done.index > highest.index) {
                highest = Some(done);
            }
        }
        let Some(highest) = highest else { continue };
        let (above, at) = (highest.index, point.index);
        let wrong = match point.what {
            Kind::Write if at <= above => "a write was decided",
            Kind::Linearizable if at < above => "a linearizable read showed the state",
            _ => continue,
        };
        found.add(
            format!(
                "{wrong} at index {at}, although call {} had been answered with index {above} before it \
                 was sent",
                highest.op
            ),
            [],
            [highest.op, point.op],
        );
    }
}

#[derive(PartialEq, Eq, Hash)]
enum Subject<'a> {
    Stock(&'a str),
    Reservation(&'a str),
    Order(&'a str),
    Movements(&'a str),
}

#[derive(PartialEq, Eq)]
enum Content<'a> {
    Stock(&'a StockSeen),
    Reservation(&'a ReservationSeen),
    Order(&'a OrderSeen),
    /// How many, and a hash of them: lists are long, and only compared.
    Movements(usize, u64),
    Nothing,
}

fn equal_contents(history: &History, found: &mut Findings) -> usize {
    let mut seen: HashMap<(u64, Subject<'_>), (Content<'_>, u64)> = HashMap::new();
    let mut compared = 0;
    for read in writes::reads(history) {
        let Some(index) = read.meta.applied_index else { continue };
        for (subject, content) in contents(&read) {
            match seen.entry((index, subject)) {
                Entry::Vacant(place) => {
                    place.insert((content, read.op.id));
                }
                Entry::Occupied(place) => {
                    compared += 1;
                    let (before, op) = place.get();
                    if *before != content {
                        let (what, skus) = named(&place.key().1);
                        let ops = [*op, read.op.id];
                        found.add(format!("{what} differs between two reads at index {index}"), skus, ops);
                    }
                }
            }
        }
    }
    compared
}

fn contents<'a>(read: &Read<'a>) -> Vec<(Subject<'a>, Content<'a>)> {
    match (&read.op.call, read.answer) {
        (_, Answer::Stock { items }) => {
            items.iter().map(|stock| (Subject::Stock(&stock.sku), Content::Stock(stock))).collect()
        }
        (Call::ReadMovements { skus, .. }, Answer::Movements { items }) => {
            let of = |sku: &'a String| {
                let mut hasher = DefaultHasher::new();
                let mut count = 0;
                for movement in items.iter().filter(|movement| movement.sku == *sku) {
                    movement.hash(&mut hasher);
                    count += 1;
                }
                (Subject::Movements(sku), Content::Movements(count, hasher.finish()))
            };
            skus.iter().map(of).collect()
        }
        (Call::ReadReservation { id, .. }, Answer::Reservation(seen)) => {
            vec![(Subject::Reservation(id), Content::Reservation(seen))]
        }
        (Call::ReadReservation { id, .. }, Answer::Refused { .. }) => {
            vec![(Subject::Reservation(id), Content::Nothing)]
        }
        (Call::ReadOrder { id, .. }, Answer::Order(seen)) => vec![(Subject::Order(id), Content::Order(seen))],
        (Call::ReadOrder { id, .. }, Answer::Refused { .. }) => vec![(Subject::Order(id), Content::Nothing)],
        // A list of orders is several pages, each of an index of its own.
        _ => Vec::new(),
    }
}

/// A subject in words, and its SKU.
fn named(subject: &Subject<'_>) -> (String, Vec<String>) {
    match subject {
        Subject::Stock(sku) => (format!("stock of {sku}"), vec![(*sku).to_owned()]),
        Subject::Movements(sku) => (format!("the movements of {sku}"), vec![(*sku).to_owned()]),
        Subject::Reservation(id) => (format!("reservation {id}"), Vec::new()),
        Subject::Order(id) => (format!("order {id}"), Vec::new()),
    }
}
