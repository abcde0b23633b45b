//! Confirm against cancel against the deadline: one winner, and units come back once.

use super::effects::Effects;
use super::totals::reads_in_range;
use super::writes::{self, Fate, Write};
use super::{Findings, Verdict};
use crate::history::{Answer, Call, History, Micros, Op, ReservationSeen};
use std::collections::{BTreeMap, BTreeSet};

/// How much longer than its time a hold may stand in a quiet cluster: the replicated clock may run 5 % slow,
/// and may have to catch up first.
const GRACE_US: Micros = 30_000_000;

/// One sight of a reservation: an answer that showed it.
struct Sight<'a> {
    op: &'a Op,
    status: &'a str,
    lines: bool,
    invoked: Micros,
    completed: Micros,
    /// Not older than what was answered before it was invoked.
    fresh: bool,
}

/// A time that a hold was given, by the try or by an extension: so long from the moment of its decision.
struct Term {
    ttl: Micros,
    invoked: Micros,
    /// When it was acknowledged.
    by: Option<Micros>,
    extends: bool,
}

/// All that is known of one reservation.
#[derive(Default)]
struct Story<'a> {
    sights: Vec<Sight<'a>>,
    skus: BTreeSet<String>,
    /// A confirm that was refused because of the state, and one that was asked for at all.
    refused_confirm: Vec<&'a Op>,
    refused_cancel: Vec<&'a Op>,
    /// Each says that the hold had ended.
    refused_extend: Vec<&'a Op>,
    /// What may have set the end of its time.
    terms: Vec<Term>,
    asked_confirm: bool,
    asked_cancel: bool,
    asked_order: bool,
}

/// One winner among confirm, cancel and expiry; nobody sees it held after that; its units come back
/// exactly once; the end of every stock is exact.
pub fn check(history: &History) -> Verdict {
    let mut found = Findings::default();
    let stories = stories(history);
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    for (id, story) in &stories {
        if let Some(end) = one_winner(id, story, &mut found) {
            *ends.entry(end).or_default() += 1;
        }
        refused_in_vain(id, story, &mut found);
        in_time(history, id, story, &mut found);
    }
    let effects = Effects::of(history);
    let tally = reads_in_range(history, &effects, &mut found);

    let of = |end: &str| ends.get(end).copied().unwrap_or(0);
    let undecided = if of("expired") == 0 {
        Some("no reservation expired".to_owned())
    } else if of("confirmed") == 0 {
        Some("no reservation was confirmed".to_owned())
    } else {
        tally.open()
    };
    let checked = format!(
        "{} reservations: {} confirmed, {} cancelled, {} expired; {}",
        stories.len(),
        of("confirmed"),
        of("cancelled"),
        of("expired"),
        tally.checked()
    );
    found.verdict_unless("expiry", checked, undecided)
}

fn stories(history: &History) -> BTreeMap<&str, Story<'_>> {
    let mut stories: BTreeMap<&str, Story<'_>> = BTreeMap::new();
    for write in writes::all(history) {
        let story = match write.call {
            Call::Reserve { id, ttl_ms, lines } => {
                let story = stories.entry(id).or_default();
                story.skus.extend(lines.iter().map(|line| line.sku.clone()));
                story.terms.extend(Term::of(&write, *ttl_ms));
                story
            }
            Call::Confirm { id } => {
                let story = stories.entry(id).or_default();
                story.asked_confirm |= write.fate != Fate::Never;
                story
            }
            Call::Extend { id, ttl_ms } => {
                let story = stories.entry(id).or_default();
                story.terms.extend(Term::of(&write, *ttl_ms));
                story
            }
            Call::CancelReservation { id } => {
                let story = stories.entry(id).or_default();
                story.asked_cancel |= write.fate != Fate::Never;
                story
            }
            Call::PlaceOrder { reservation_id: Some(id), .. } => {
                stories.entry(id).or_default().asked_order |= write.possible();
                continue;
            }
            _ => continue,
        };
        let Fate::Decided(answer, by) = write.fate else { continue };
        let Some(op) = write.sends.iter().find(|op| op.id == write.op()).copied() else { continue };
        match answer {
            Answer::Reservation(seen) => {
                // An answer of a write is of the moment of its decision.
                story.sights.push(Sight::new(op, seen, (write.invoked, by), true));
            }
            Answer::Refused { code, .. } if code == "wrong_state" => match write.call {
                Call::Confirm { .. } => story.refused_confirm.push(op),
                Call::CancelReservation { .. } => story.refused_cancel.push(op),
                Call::Extend { .. } => story.refused_extend.push(op),
                _ => {}
            },
            _ => {}
        }
    }
    for read in writes::reads(history) {
        if let (Call::ReadReservation { id, .. }, Answer::Reservation(seen)) = (&read.op.call, read.answer) {
            let span = (read.op.invoked, read.completed);
            let sight = Sight::new(read.op, seen, span, read.is_linearizable());
            stories.entry(id).or_default().sights.push(sight);
        }
    }
    stories
}

impl<'a> Sight<'a> {
    fn new(op: &'a Op, seen: &'a ReservationSeen, span: (Micros, Micros), fresh: bool) -> Self {
        Sight {
            op,
            status: &seen.status,
            lines: !seen.lines.is_empty(),
            invoked: span.0,
            completed: span.1,
            fresh,
        }
    }
}

/// How it ended, where anybody saw it.
fn one_winner<'a>(id: &str, story: &Story<'a>, found: &mut Findings) -> Option<&'a str> {
    let skus = || story.skus.iter().cloned();
    let ended: Vec<&Sight<'a>> = story.sights.iter().filter(|sight| sight.status != "held").collect();
    let first = ended.iter().min_by_key(|sight| sight.completed)?;
    if let Some(other) = ended.iter().find(|sight| sight.status != first.status) {
        found.add(
            format!("reservation {id} was seen {} and {}: two winners", first.status, other.status),
            skus(),
            [first.op.id, other.op.id],
        );
    }
    for held in story.sights.iter().filter(|sight| sight.status == "held" && sight.fresh) {
        if held.invoked > first.completed {
            found.add(
                format!("reservation {id} was seen held after it had been seen {}", first.status),
                skus(),
                [first.op.id, held.op.id],
            );
        }
    }
    let unasked = match first.status {
        "confirmed" => !story.asked_confirm && !story.asked_order,
        "cancelled" => !story.asked_cancel,
        "expired" => false,
        other => {
            found.add(format!("reservation {id} has a status of no kind: {other}"), skus(), [first.op.id]);
            false
        }
    };
    if unasked {
        found.add(
            format!("reservation {id} was seen {}, which nobody asked for", first.status),
            skus(),
            [first.op.id],
        );
    }
    // A refusal names no winner, but says who did not win.
    let lost = match first.status {
        "confirmed" => story.refused_confirm.first(),
        "cancelled" | "expired" => story.refused_cancel.first(),
        _ => None,
    };
    if let Some(op) = lost {
        found.add(
            format!("a {} of reservation {id} was refused, although it was {}", op.call.name(), first.status),
            skus(),
            [first.op.id, op.id],
        );
    }
    Some(first.status)
}

/// An extension is refused only after the end: nobody sees it held any more.
fn refused_in_vain(id: &str, story: &Story<'_>, found: &mut Findings) {
    for op in &story.refused_extend {
        let later = |sight: &&Sight<'_>| op.completed.is_some_and(|completed| sight.invoked > completed);
        let held = story.sights.iter().filter(|sight| sight.status == "held" && sight.fresh).find(later);
        if let Some(held) = held {
            found.add(
                format!("an extension of reservation {id} was refused, and then it was seen held"),
                story.skus.iter().cloned(),
                [op.id, held.op.id],
            );
        }
    }
}

/// Neither long before its time nor long after it. Only where nothing bent the clocks.
fn in_time(history: &History, id: &str, story: &Story<'_>, found: &mut Findings) {
    if history.faults.iter().any(|fault| fault.kind == "clock") {
        return;
    }
    // Without a leader the replicated clock stands, and may have to catch up: more passes on it then.
    let disturbed = history.faults.iter().map(|f| f.until.unwrap_or(f.from).saturating_sub(f.from)).sum();
    let earliest = story.earliest_end().filter(|_| history.faults.is_empty());
    let latest = story.latest_end().map(|end| end.saturating_add(GRACE_US).saturating_add(disturbed));
    let Some(tried) = story.terms.iter().map(|term| term.invoked).min() else { return };
    for sight in &story.sights {
        let early = earliest.is_some_and(|earliest| sight.completed < earliest);
        let late = latest.is_some_and(|latest| sight.invoked > latest);
        let wrong = match sight.status {
            "expired" if sight.lines && early => {
                format!("was expired after {} ms, before its time", (sight.completed - tried) / 1_000)
            }
            "held" if sight.fresh && late => {
                format!("is still held after {} ms, long after its time", (sight.invoked - tried) / 1_000)
            }
            _ => continue,
        };
        found.add(format!("reservation {id} {wrong}"), story.skus.iter().cloned(), [sight.op.id]);
    }
}

impl Term {
    /// `None` where it was refused, or never proposed.
    fn of(write: &Write<'_>, ttl_ms: u64) -> Option<Term> {
        let by = write.done().map(|(_, by)| by);
        let extends = matches!(write.call, Call::Extend { .. });
        let ttl = ttl_ms.saturating_mul(1_000);
        write.possible().then_some(Term { ttl, invoked: write.invoked, by, extends })
    }

    /// Whether it was decided before another was asked for, or is the try, which each extension follows.
    fn is_before(&self, other: &Term) -> bool {
        (other.extends && !self.extends) || self.by.is_some_and(|by| by < other.invoked)
    }
}

impl Story<'_> {
    /// The time is not over before this: by the shortest of those terms that may be the last, and by a
    /// replicated clock that runs a little fast.
    fn earliest_end(&self) -> Option<Micros> {
        let acknowledged = || self.terms.iter().filter(|term| term.by.is_some());
        let may_be_last = self.terms.iter().filter(|term| !acknowledged().any(|other| term.is_before(other)));
        may_be_last.map(|term| term.invoked + term.ttl / 10 * 9).min()
    }

    /// The time is over at this, but for what a cluster without a leader cannot do; unknown where it is not
    /// known when a term was decided.
    fn latest_end(&self) -> Option<Micros> {
        let seen =
            self.sights.iter().filter(|sight| sight.status == "held").map(|sight| sight.completed).min();
        let end = |term: &Term| {
            let decided = term.by.or(seen.filter(|_| !term.extends))?;
            Some(decided.saturating_add(term.ttl / 10 * 12))
        };
        self.terms.iter().map(end).collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}
