//! What writes do to the counters of stock, and the range in which a read's counters must lie.
//!
//! Each write that may have taken place moves counters once, at some time between its invocation and its
//! answer. So a read sees all that was answered before it was sent, nothing that was sent after it was
//! answered, and any part of the rest. The same holds along the log: at an applied index everything at or
//! below it is there and nothing above. Neither needs a search, so long histories cost little.

mod collect;

use crate::history::{Counters, History, Micros};
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
        let all = collect::collect(history);
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
