//! From writes to changes of stock.

use super::{Delta, Effect};
use crate::checker::writes::{self, Write, location};
use crate::history::{Answer, Call, Fault, History, Line, Micros, ReservationSeen};
use std::collections::BTreeMap;

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

impl Hold {
    /// A try for so long: of several, the shortest counts.
    fn lasts(&mut self, ttl_ms: u64) {
        self.ttl_ms = Some(self.ttl_ms.map_or(ttl_ms, |before| before.min(ttl_ms)));
    }
}

#[derive(Default)]
struct Collector<'a> {
    effects: Vec<Effect>,
    orders: BTreeMap<String, Order>,
    holds: BTreeMap<&'a str, Hold>,
    taken_over: Vec<(&'a str, String)>,
}

/// All changes that the writes of a history make or may make.
pub(super) fn collect(history: &History) -> Vec<Effect> {
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
    let lasted = |fault: &Fault| fault.until.unwrap_or(Micros::MAX).saturating_sub(fault.from);
    Some(history.faults.iter().map(lasted).fold(0, Micros::saturating_add))
}

impl<'a> Collector<'a> {
    fn write(&mut self, write: &Write<'a>) {
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
            Call::PlaceOrder { .. } => self.place(write),
            Call::CancelOrder { id } => self.cancel(id, write),
            Call::Reserve { .. }
            | Call::Confirm { .. }
            | Call::Extend { .. }
            | Call::CancelReservation { .. } => {
                self.hold(write);
            }
            _ => {}
        }
    }

    fn place(&mut self, write: &Write<'a>) {
        let Call::PlaceOrder { id, lines, reservation_id } = write.call else { return };
        let (op, from, done) = (write.op(), write.invoked, write.done());
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

    fn cancel(&mut self, id: &str, write: &Write<'a>) {
        let (op, from, done) = (write.op(), write.invoked, write.done());
        let order = self.orders.entry(id.to_owned()).or_default();
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

    fn hold(&mut self, write: &Write<'a>) {
        let (Call::Reserve { id, .. }
        | Call::Confirm { id }
        | Call::Extend { id, .. }
        | Call::CancelReservation { id }) = write.call
        else {
            return;
        };
        let (op, from) = (write.op(), write.invoked);
        let hold = self.holds.entry(id).or_default();
        match write.call {
            Call::Reserve { ttl_ms, lines, .. } => {
                hold.lasts(*ttl_ms);
                hold.lines.clone_from(lines);
                hold.held.may(from, op);
            }
            Call::Extend { ttl_ms, .. } => hold.lasts(*ttl_ms),
            Call::Confirm { .. } => {
                hold.consumed.may(from, op);
                hold.asked_to_end = true;
            }
            _ => hold.asked_to_end = true,
        }
        if let Some((Answer::Reservation(seen), by)) = write.done() {
            self.status(id, seen, by);
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
