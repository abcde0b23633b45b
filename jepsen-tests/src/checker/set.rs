//! Orders as a set: what was acknowledged is there, once, and nothing else.

use super::writes::{self, Fate, Read, Write, plain};
use super::{Findings, Verdict};
use crate::history::{Answer, Call, History, Line, Micros, OrderSeen};
use std::collections::HashMap;

/// What is known of one order id.
struct Placed<'a> {
    op: u64,
    lines: &'a [Line],
    /// From a reservation: then its lines are those.
    reserved: bool,
    invoked: Micros,
    /// When it was acknowledged.
    by: Option<Micros>,
    fate: Fate<'a>,
}

/// Every acknowledged order is in the final list once, with its lines; none is doubled, none is there that
/// nobody asked for, or that was refused or abandoned.
pub fn check(history: &History) -> Verdict {
    let mut found = Findings::default();
    let writes = writes::all(history);
    let (placed, anonymous) = placed(&writes);
    let mut last: Option<Read<'_>> = None;
    let mut lists = 0;
    for read in writes::reads(history).filter(Read::is_linearizable) {
        let Answer::Orders { items } = read.answer else { continue };
        lists += 1;
        one_list(&read, items, &placed, anonymous, &mut found);
        last = Some(read);
    }
    let acknowledged = placed.values().filter(|order| order.by.is_some()).count();
    let open = placed.values().filter(|order| order.fate == Fate::Unknown).count();
    let end = placed.values().filter_map(|order| order.by).max().unwrap_or(0);
    let undecided = match last {
        None => Some("no list of orders was read".to_owned()),
        Some(read) if read.op.invoked <= end => {
            Some("no list of orders was read after the last acknowledged order".to_owned())
        }
        Some(_) if acknowledged == 0 => Some("no order was acknowledged".to_owned()),
        Some(_) => None,
    };
    let checked = format!("{acknowledged} acknowledged orders, {open} never settled, {lists} lists read");
    found.verdict_unless("set", checked, undecided)
}

/// Orders by id, and how many may be there whose id nobody knows.
fn placed<'a>(writes: &[Write<'a>]) -> (HashMap<&'a str, Placed<'a>>, usize) {
    let (mut placed, mut anonymous): (HashMap<&str, Placed<'_>>, _) = (HashMap::new(), 0);
    for write in writes {
        let Call::PlaceOrder { id, lines, reservation_id } = write.call else { continue };
        let answered = match write.done() {
            Some((Answer::Order(order), by)) => Some((order, by)),
            _ => None,
        };
        let name = id.as_deref().or(answered.map(|(order, _)| order.id.as_str()));
        let Some(name) = name else {
            anonymous += usize::from(write.fate == Fate::Unknown);
            continue;
        };
        let order = Placed {
            op: write.op(),
            lines,
            reserved: reservation_id.is_some(),
            invoked: write.invoked,
            by: answered.map(|(_, by)| by),
            fate: write.fate,
        };
        // One id may be asked for several times: what was acknowledged says most, what is unknown more
        // than a refusal.
        let rank = |order: &Placed<'_>| match order.fate {
            Fate::Decided(Answer::Order(_), _) => 2,
            Fate::Unknown => 1,
            _ => 0,
        };
        match placed.get_mut(name) {
            Some(before) if rank(before) >= rank(&order) => {
                before.invoked = before.invoked.min(order.invoked)
            }
            Some(before) => *before = Placed { invoked: before.invoked.min(order.invoked), ..order },
            None => {
                placed.insert(name, order);
            }
        }
    }
    (placed, anonymous)
}

fn one_list(
    read: &Read<'_>,
    items: &[OrderSeen],
    placed: &HashMap<&str, Placed<'_>>,
    anonymous: usize,
    found: &mut Findings,
) {
    let mut seen: HashMap<&str, u64> = HashMap::with_capacity(items.len());
    let mut unknown = Vec::new();
    for order in items {
        let id = order.id.as_str();
        let count = seen.entry(id).or_default();
        *count += 1;
        let skus = || order.lines.iter().map(|line| line.sku.clone());
        if *count == 2 {
            let ops = placed.get(id).map(|order| order.op).into_iter().chain([read.op.id]);
            found.add(format!("order {id} is listed twice"), skus(), ops);
        }
        let Some(asked) = placed.get(id) else {
            unknown.push(order);
            continue;
        };
        let wrong = match asked.fate {
            Fate::Never => Some("is listed, although it was abandoned or never proposed"),
            Fate::Decided(Answer::Refused { .. }, _) => Some("is listed, although it was refused"),
            _ if asked.invoked > read.completed => Some("was listed before anybody asked for it"),
            _ if !asked.reserved && plain(asked.lines) != plain(&order.lines) => {
                Some("is listed with other lines than it was placed with")
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            found.add(format!("order {id} {wrong}"), skus(), [asked.op, read.op.id]);
        }
    }
    if unknown.len() > anonymous {
        let first = unknown[0];
        let skus = first.lines.iter().map(|line| line.sku.clone());
        let (count, id) = (unknown.len() - anonymous, &first.id);
        found.add(format!("{count} orders are listed that nobody placed, such as {id}"), skus, [read.op.id]);
    }
    for (id, order) in placed {
        if order.by.is_some_and(|by| by < read.op.invoked) && !seen.contains_key(id) {
            let skus = order.lines.iter().map(|line| line.sku.clone());
            found.add(format!("order {id} was acknowledged and is not listed"), skus, [order.op, read.op.id]);
        }
    }
}
