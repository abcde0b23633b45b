//! What writes do to the counters of stock, and the range in which a read's counters must lie.
//!
//! Each write that may have taken place moves counters once, at some time between its invocation and its
//! answer. So a read sees all that was answered before it was sent, nothing that was sent after it was
//! answered, and any part of the rest. The same holds along the log: at an applied index everything at or
//! below it is there and nothing above. Neither needs a search, so long histories cost little.

use super::writes::{self, Write, location};
use crate::history::{Answer, Call, Counters, History, Line, Micros, ReservationSeen};
use std::collections::{BTreeMap, HashMap};

/// The three counters that are stored; available follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the fields are those of the HTTP contract")]
pub struct Delta {
    pub on_hand: i64,
    pub reserved: i64,
    pub allocated: i64,
}

/// One change of one stock, which takes place once or, where `by` is [`Micros::MAX`], once or never.
#[derive(Debug, Clone)]
pub struct Effect {
    /// Whose.
    pub sku: String,
    /// Where.
    pub location: String,
    /// What changes.
    pub delta: Delta,
    /// Not before this.
    pub from: Micros,
    /// Not after this.
    pub by: Micros,
    /// Where in the log, where an answer says so.
    pub index: Option<u64>,
    /// The call that did it.
    pub op: u64,
    /// Nobody has to ask for it: the time of a hold is over, now or in a month.
    pub of_itself: bool,
}

/// The range in which a counter must lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "both ends are in the range")]
pub struct Range {
    pub low: i64,
    pub high: i64,
}

impl Range {
    fn holds(self, value: u64) -> bool {
        i64::try_from(value).is_ok_and(|value| (self.low..=self.high).contains(&value))
    }

    /// Whether only one value will do.
    pub fn is_exact(self) -> bool {
        self.low == self.high
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_exact() { write!(f, "{}", self.low) } else { write!(f, "{} to {}", self.low, self.high) }
    }
}

/// The ranges of all three counters.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the fields are those of the HTTP contract")]
pub struct Ranges {
    pub on_hand: Range,
    pub reserved: Range,
    pub allocated: Range,
}

impl Ranges {
    /// What is wrong with counters, in words.
    pub fn wrong(&self, seen: &Counters) -> Option<String> {
        let all = [
            ("on hand", seen.on_hand, self.on_hand),
            ("reserved", seen.reserved, self.reserved),
            ("allocated", seen.allocated, self.allocated),
        ];
        let (what, value, range) = all.into_iter().find(|(_, value, range)| !range.holds(*value))?;
        Some(format!("{what} is {value}, must be {range}"))
    }

    /// Whether all that matters is known.
    pub fn is_exact(&self) -> bool {
        self.on_hand.is_exact() && self.reserved.is_exact() && self.allocated.is_exact()
    }
}

/// Rising and falling sums of one counter, along time or along the log.
#[derive(Debug, Default)]
struct Sums {
    /// (from where on, sum of all rises up to here, sum of all falls), in order.
    steps: Vec<(u64, i64, i64)>,
}

impl Sums {
    fn new(mut changes: Vec<(u64, i64)>) -> Self {
        changes.sort_unstable();
        let (mut up, mut down) = (0i64, 0i64);
        let steps = changes.into_iter().map(|(at, change)| {
            if change > 0 {
                up = up.saturating_add(change);
            } else {
                down = down.saturating_add(change);
            }
            (at, up, down)
        });
        Sums { steps: steps.collect() }
    }

    /// Sums of all rises and of all falls at `end` or before.
    fn to(&self, end: u64) -> (i64, i64) {
        match self.steps.partition_point(|(at, ..)| *at <= end) {
            0 => (0, 0),
            count => (self.steps[count - 1].1, self.steps[count - 1].2),
        }
    }
}

/// One counter of one stock: what must have happened by an end, and what may have.
#[derive(Debug, Default)]
struct Course {
    must: Sums,
    may: Sums,
}

impl Course {
    fn range(&self, must_to: Option<u64>, may_to: u64) -> Range {
        let (must_up, must_down) = must_to.map_or((0, 0), |end| self.must.to(end));
        let (may_up, may_down) = self.may.to(may_to);
        Range { low: must_up.saturating_add(may_down), high: may_up.saturating_add(must_down) }
    }
}

/// The counters of one stock along time or along the log.
#[derive(Debug, Default)]
struct Courses([Course; 3]);

impl Courses {
    /// `span` says from when an effect may, and from when it must be there.
    fn new<'e>(effects: impl Iterator<Item = &'e Effect>, span: fn(&Effect) -> (u64, u64)) -> Self {
        let mut changes: [(Vec<_>, Vec<_>); 3] = Default::default();
        for effect in effects {
            let (from, by) = span(effect);
            let Delta { on_hand, reserved, allocated } = effect.delta;
            for (change, (must, may)) in [on_hand, reserved, allocated].into_iter().zip(&mut changes) {
                if change != 0 {
                    may.push((from, change));
                    if by != u64::MAX {
                        must.push((by, change));
                    }
                }
            }
        }
        Courses(changes.map(|(must, may)| Course { must: Sums::new(must), may: Sums::new(may) }))
    }

    fn ranges(&self, must_to: Option<u64>, may_to: u64) -> Ranges {
        let [on_hand, reserved, allocated] =
            [0, 1, 2].map(|counter: usize| self.0[counter].range(must_to, may_to));
        Ranges { on_hand, reserved, allocated }
    }
}

/// All changes of a history, ready to be asked.
#[derive(Debug, Default)]
pub struct Effects {
    /// All of them.
    pub all: Vec<Effect>,
    stocks: HashMap<String, Stock>,
}

#[derive(Debug, Default)]
struct Stock {
    settled_by: Micros,
    total: [Courses; 2],
    locations: BTreeMap<String, [Courses; 2]>,
}

/// By time: from invocation to answer.
fn by_time(effect: &Effect) -> (u64, u64) {
    (effect.from, effect.by)
}

/// Along the log: exactly there; where that is not known, anywhere or nowhere.
fn by_index(effect: &Effect) -> (u64, u64) {
    effect.index.map_or((0, u64::MAX), |index| (index, index))
}

impl Effects {
    /// What the writes of a history do.
    pub fn of(history: &History) -> Self {
        let all = collect(history);
        let mut by_sku: BTreeMap<&str, Vec<&Effect>> = BTreeMap::new();
        for effect in &all {
            by_sku.entry(&effect.sku).or_default().push(effect);
        }
        let stocks =
            by_sku.into_iter().map(|(sku, effects)| (sku.to_owned(), Stock::new(&effects))).collect();
        Effects { all, stocks }
    }

    /// What a read of a SKU must show that was sent and answered at these times: all locations together,
    /// or one. A read that may be old must show nothing, but may still not show what came after it.
    pub fn at_time(&self, sku: &str, location: Option<&str>, read: (Micros, Micros), old: bool) -> Ranges {
        let must_to = if old { None } else { read.0.checked_sub(1) };
        self.courses(sku, location, 0, |courses| courses.ranges(must_to, read.1))
    }

    /// What a read of a SKU must show at this applied index.
    pub fn at_index(&self, sku: &str, location: Option<&str>, index: u64) -> Ranges {
        self.courses(sku, location, 1, |courses| courses.ranges(Some(index), index))
    }

    fn courses(
        &self,
        sku: &str,
        location: Option<&str>,
        which: usize,
        ask: impl FnOnce(&Courses) -> Ranges,
    ) -> Ranges {
        let nothing = Courses::default();
        let found = self.stocks.get(sku).and_then(|stock| match location {
            None => Some(&stock.total),
            Some(location) => stock.locations.get(location),
        });
        ask(found.map_or(&nothing, |courses| &courses[which]))
    }

    /// The time by which all that was asked of a SKU was decided; `None` where nobody knows of something.
    pub fn settled_by(&self, sku: &str) -> Option<Micros> {
        let last = self.stocks.get(sku).map_or(0, |stock| stock.settled_by);
        Some(last).filter(|last| *last != Micros::MAX)
    }
}

impl Stock {
    fn new(effects: &[&Effect]) -> Self {
        let both = |effects: &[&Effect]| {
            [by_time as fn(&Effect) -> (u64, u64), by_index]
                .map(|span| Courses::new(effects.iter().copied(), span))
        };
        let mut locations: BTreeMap<String, Vec<&Effect>> = BTreeMap::new();
        for effect in effects {
            locations.entry(effect.location.clone()).or_default().push(effect);
        }
        let locations = locations.into_iter().map(|(location, effects)| (location, both(&effects))).collect();
        let open = |effect: &&&Effect| !(effect.of_itself && effect.by == Micros::MAX);
        let settled_by = effects.iter().filter(open).map(|effect| effect.by).max().unwrap_or(0);
        Stock { settled_by, total: both(effects), locations }
    }
}

/// One change of an order or a reservation, of which there is one however many writes ask for it.
#[derive(Debug, Default, Clone)]
struct Once {
    from: Option<Micros>,
    by: Option<Micros>,
    index: Option<u64>,
    op: u64,
    of_itself: bool,
}

impl Once {
    fn may(&mut self, from: Micros, op: u64) {
        if self.from.is_none_or(|before| from < before) {
            self.from = Some(from);
            self.op = op;
        }
    }

    fn must(&mut self, by: Micros, index: Option<u64>) {
        self.by = Some(self.by.map_or(by, |before| before.min(by)));
        self.index = match (self.index, index) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    fn effects<'l>(
        &'l self,
        lines: &'l [Line],
        delta: impl Fn(i64) -> Delta + 'l,
    ) -> impl Iterator<Item = Effect> + 'l {
        let from = self.from.into_iter();
        from.flat_map(move |from| lines.iter().map(move |line| (from, line))).map(move |(from, line)| {
            Effect {
                sku: line.sku.clone(),
                location: location(line).to_owned(),
                delta: delta(i64::try_from(line.quantity).unwrap_or(i64::MAX)),
                from,
                by: self.by.unwrap_or(Micros::MAX),
                // One that nobody answered for has no place, even if another answer names one.
                index: self.by.and(self.index),
                op: self.op,
                of_itself: self.of_itself,
            }
        })
    }
}

/// An order's changes.
#[derive(Debug, Default)]
struct Order {
    lines: Vec<Line>,
    placed: Once,
    cancelled: Once,
}

/// A reservation's changes.
#[derive(Debug, Default)]
struct Hold {
    lines: Vec<Line>,
    /// How long it holds at least, on the replicated clock; where several tries differ, the shortest.
    ttl_ms: Option<u64>,
    /// It was still held at this time.
    held_at: Micros,
    held: Once,
    /// Its end, whichever: the units are not reserved any more.
    ended: Once,
    /// They left the room with it.
    consumed: Once,
    /// Whether an order may have taken it over, so that its units need not have left the room.
    may_become_order: bool,
    /// Whether a cancel, a confirm or an order may have ended it before its time.
    asked_to_end: bool,
    /// How it ended, where known.
    end: Option<&'static str>,
}

#[derive(Default)]
struct Collector<'a> {
    effects: Vec<Effect>,
    orders: BTreeMap<String, Order>,
    holds: BTreeMap<&'a str, Hold>,
    taken_over: Vec<(&'a str, String)>,
}

fn collect(history: &History) -> Vec<Effect> {
    let mut collector = Collector::default();
    let writes = writes::all(history);
    for write in writes.iter().filter(|write| write.possible()) {
        collector.write(write);
    }
    for read in writes::reads(history) {
        if let Answer::Reservation(seen) = read.answer
            && let Call::ReadReservation { id, .. } = &read.op.call
        {
            collector.status(id, seen, read.completed);
            if seen.status == "held" && read.is_linearizable() {
                let hold = collector.holds.entry(id).or_default();
                hold.held_at = hold.held_at.max(read.op.invoked);
            }
        }
    }
    collector.finish(slack(history))
}

/// By how much more the replicated clock may have moved than real time: it stands while there is no leader,
/// and catches up afterwards. `None` where clocks were bent: then by any.
fn slack(history: &History) -> Option<Micros> {
    if history.faults.iter().any(|fault| fault.kind == "clock") {
        return None;
    }
    let lasted =
        |fault: &crate::history::Fault| fault.until.unwrap_or(Micros::MAX).saturating_sub(fault.from);
    Some(history.faults.iter().map(lasted).fold(0, Micros::saturating_add))
}

impl<'a> Collector<'a> {
    fn write(&mut self, write: &Write<'a>) {
        let (op, from) = (write.op(), write.invoked);
        let done = write.done();
        match write.call {
            Call::Receive { lines } => {
                let once = plain_once(write);
                self.effects.extend(once.effects(lines, |q| Delta { on_hand: q, ..Delta::default() }));
            }
            Call::Transfer { sku, from, to, quantity } => {
                let once = plain_once(write);
                let line =
                    |at: &String| Line { sku: sku.clone(), location: Some(at.clone()), quantity: *quantity };
                let (out, into) = ([line(from)], [line(to)]);
                self.effects.extend(once.effects(&out, |q| Delta { on_hand: -q, ..Delta::default() }));
                self.effects.extend(once.effects(&into, |q| Delta { on_hand: q, ..Delta::default() }));
            }
            Call::PlaceOrder { id, lines, reservation_id } => {
                let answered = done.and_then(|(answer, _)| match answer {
                    Answer::Order(seen) => Some(seen),
                    _ => None,
                });
                let made = answered.map(|seen| seen.id.clone());
                // An order without a name that nobody heard of is one of its own.
                let name = id.clone().or(made).unwrap_or_else(|| format!("call {op}"));
                let order = self.orders.entry(name.clone()).or_default();
                order.placed.may(from, op);
                if order.lines.is_empty() || answered.is_some() {
                    order.lines = answered.map_or_else(|| lines.clone(), |seen| seen.lines.clone());
                }
                if let (Some(seen), Some((_, by))) = (answered, done) {
                    // An order that has changed since names the index of the change.
                    let fresh = seen.status != "cancelled";
                    order.placed.must(by, Some(seen.log_index).filter(|_| fresh));
                }
                if let Some(reservation) = reservation_id {
                    self.taken_over.push((reservation, name));
                }
            }
            Call::CancelOrder { id } => {
                let order = self.orders.entry(id.clone()).or_default();
                order.cancelled.may(from, op);
                if let Some((answer, by)) = done {
                    let index = match answer {
                        Answer::Order(seen) => Some(seen.log_index),
                        _ => None,
                    };
                    order.cancelled.must(by, index);
                    // What was cancelled had been placed.
                    order.placed.must(by, None);
                }
            }
            Call::Reserve { id, ttl_ms, lines } => {
                let hold = self.holds.entry(id).or_default();
                hold.ttl_ms = Some(hold.ttl_ms.map_or(*ttl_ms, |before| before.min(*ttl_ms)));
                hold.lines.clone_from(lines);
                hold.held.may(from, op);
                if let Some((Answer::Reservation(seen), by)) = done {
                    self.status(id, seen, by);
                }
            }
            Call::Confirm { id } => {
                let hold = self.holds.entry(id).or_default();
                hold.consumed.may(from, op);
                hold.asked_to_end = true;
                if let Some((Answer::Reservation(seen), by)) = done {
                    self.status(id, seen, by);
                }
            }
            Call::CancelReservation { id } => {
                self.holds.entry(id).or_default().asked_to_end = true;
                if let Some((Answer::Reservation(seen), by)) = done {
                    self.status(id, seen, by);
                }
            }
            _ => {}
        }
    }

    /// An answer showed a reservation.
    fn status(&mut self, id: &'a str, seen: &ReservationSeen, by: Micros) {
        let hold = self.holds.entry(id).or_default();
        if !seen.lines.is_empty() {
            let fresh = seen.status == "held";
            hold.held.must(by, Some(seen.log_index).filter(|_| fresh));
        }
        let end = match seen.status.as_str() {
            "confirmed" => "confirmed",
            "cancelled" => "cancelled",
            "expired" => "expired",
            _ => return,
        };
        hold.end = Some(end);
        hold.ended.must(by, Some(seen.log_index));
        if end == "confirmed" {
            hold.consumed.must(by, Some(seen.log_index));
        }
    }

    fn finish(mut self, slack: Option<Micros>) -> Vec<Effect> {
        for (reservation, order) in &self.taken_over {
            let hold = self.holds.entry(reservation).or_default();
            hold.may_become_order = true;
            hold.asked_to_end = true;
            let order = self.orders.entry(order.clone()).or_default();
            if order.lines.is_empty() {
                order.lines.clone_from(&hold.lines);
            }
            // Placed: then the hold has ended with it, and its units stay in the room.
            if order.placed.by.is_some() {
                let (by, index) = (order.placed.by.unwrap_or(Micros::MAX), order.placed.index);
                hold.ended.must(by, index);
                hold.end = Some("ordered");
            }
        }
        for order in self.orders.values() {
            let allocated = |q| Delta { allocated: q, ..Delta::default() };
            self.effects.extend(order.placed.effects(&order.lines, allocated));
            self.effects.extend(order.cancelled.effects(&order.lines, |q| allocated(-q)));
        }
        for hold in self.holds.values_mut() {
            hold.end_of_hold(slack);
            let reserved = |q| Delta { reserved: q, ..Delta::default() };
            self.effects.extend(hold.held.effects(&hold.lines, reserved));
            if hold.held.from.is_some() {
                self.effects.extend(hold.ended.effects(&hold.lines, |q| reserved(-q)));
                let on_hand = |q: i64| Delta { on_hand: -q, ..Delta::default() };
                self.effects.extend(hold.consumed.effects(&hold.lines, on_hand));
            }
        }
        self.effects
    }
}

impl Hold {
    /// A hold may end at any time after it was made, if only because its time is over; what it is known
    /// to have ended as says whether its units left the room.
    fn end_of_hold(&mut self, slack: Option<Micros>) {
        let Some(from) = self.held.from else { return };
        self.ended.op = self.held.op;
        self.ended.of_itself = true;
        // By cancel or confirm at once; by its time only when that is over.
        let ttl = self.ttl_ms.unwrap_or(0).saturating_mul(1_000) / 10 * 9;
        let over = slack.map_or(from, |slack| from.saturating_add(ttl.saturating_sub(slack)));
        let earliest =
            if self.asked_to_end || self.end.is_some_and(|end| end != "expired") { from } else { over };
        self.ended.from = Some(earliest.max(self.held_at));
        let known = self.end.filter(|end| *end != "confirmed" || !self.may_become_order);
        match known {
            // Somebody confirmed it, whoever that was.
            Some("confirmed") if self.consumed.from.is_none() => self.consumed.may(from, self.held.op),
            Some("confirmed") => {}
            // Another end: no confirm had an effect.
            Some(_) => self.consumed = Once::default(),
            // It may have become an order's, which says nothing of the room.
            None if self.may_become_order => {
                self.consumed.by = None;
                self.consumed.index = None;
            }
            None => {}
        }
    }
}

fn plain_once(write: &Write<'_>) -> Once {
    let mut once = Once::default();
    once.may(write.invoked, write.op());
    if let Some((answer, by)) = write.done() {
        let index = match answer {
            Answer::Done { log_index } => *log_index,
            _ => None,
        };
        once.must(by, index.or(write.decided_at()));
    }
    once
}
