//! Units are neither lost nor made: what is counted without a search.

use super::effects::Effects;
use super::writes::{self, Read};
use super::{Findings, Verdict};
use crate::history::{Answer, Call, History, StockSeen};
use std::collections::{BTreeMap, BTreeSet};

/// How many reads and stocks a check went through.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Counters of one SKU in one answer.
    pub stocks: u64,
    /// Of those, how many had to have exactly one value.
    pub exact: u64,
    /// SKUs of which the end is known: read after everything about them had settled.
    pub ended: BTreeSet<String>,
    /// SKUs that were written to.
    pub skus: BTreeSet<String>,
}

impl Tally {
    /// SKUs whose last state nobody read after all was settled.
    pub fn open(&self) -> Option<String> {
        let open: Vec<&str> = self.skus.difference(&self.ended).map(String::as_str).collect();
        let named = open.iter().take(5).copied().collect::<Vec<_>>().join(", ");
        (!open.is_empty()).then(|| {
            format!("{} SKUs were not read after all their writes were settled, such as {named}", open.len())
        })
    }

    /// In words.
    pub fn checked(&self) -> String {
        format!(
            "{} stocks read, {} of them with one possible value; the end of {} SKUs is exact",
            self.stocks,
            self.exact,
            self.ended.len()
        )
    }
}

/// Every read of stock lies in the range that the writes around it allow, and at its applied index.
pub(crate) fn reads_in_range(history: &History, effects: &Effects, found: &mut Findings) -> Tally {
    let mut tally = Tally::default();
    tally.skus.extend(effects.all.iter().map(|effect| effect.sku.clone()));
    for read in writes::reads(history) {
        let Answer::Stock { items } = read.answer else { continue };
        for stock in items {
            tally.stocks += 1;
            let settled = effects.settled_by(&stock.sku);
            if read.is_linearizable() && settled.is_some_and(|settled| settled < read.op.invoked) {
                tally.ended.insert(stock.sku.clone());
            }
            if let Some(wrong) = out_of_range(effects, &read, stock, &mut tally) {
                let nearby = if found.is_full() { Vec::new() } else { suspects(effects, &read, &stock.sku) };
                found.add(format!("{}: {wrong}", stock.sku), [stock.sku.clone()], nearby);
            }
        }
    }
    tally
}

fn out_of_range(effects: &Effects, read: &Read<'_>, stock: &StockSeen, tally: &mut Tally) -> Option<String> {
    let (span, old) = ((read.op.invoked, read.completed), !read.is_linearizable());
    let places = stock.locations.iter().map(|(location, seen)| (Some(location.as_str()), seen));
    for (location, seen) in [(None, &stock.total)].into_iter().chain(places) {
        let at = location.map(|location| format!(" at {location}")).unwrap_or_default();
        let by_time = effects.at_time(&stock.sku, location, span, old);
        if let Some(wrong) = by_time.wrong(seen) {
            return Some(format!("call {} saw that {wrong}{at}, by the writes around it", read.op.id));
        }
        let Some(index) = read.meta.applied_index else { continue };
        let by_index = effects.at_index(&stock.sku, location, index);
        tally.exact += u64::from(by_index.is_exact() && location.is_none());
        if let Some(wrong) = by_index.wrong(seen) {
            return Some(format!("call {} saw that {wrong}{at}, by the log up to index {index}", read.op.id));
        }
    }
    None
}

/// The read, and the writes of its SKU that were answered last before it: where to look first.
fn suspects(effects: &Effects, read: &Read<'_>, sku: &str) -> Vec<u64> {
    const FEW: usize = 8;
    let mut before: Vec<_> = effects
        .all
        .iter()
        .filter(|effect| effect.sku == sku && effect.from <= read.completed)
        .map(|effect| (effect.by.min(read.completed), effect.op))
        .collect();
    before.sort_unstable();
    before.dedup_by_key(|(_, op)| *op);
    before.iter().rev().take(FEW).map(|(_, op)| *op).chain([read.op.id]).collect()
}

/// Far more buyers than units: what is sold is what is gone, never more than there was, and nobody is
/// refused what must have been there.
pub fn flash_sale(history: &History) -> Verdict {
    let mut found = Findings::default();
    let effects = Effects::of(history);
    let tally = reads_in_range(history, &effects, &mut found);

    // Received at most, and what was acknowledged and never given back.
    let mut sales: BTreeMap<&str, (i64, i64, Vec<u64>)> = BTreeMap::new();
    for effect in &effects.all {
        let sale = sales.entry(&effect.sku).or_default();
        let (delta, certain) = (effect.delta, effect.by != u64::MAX);
        sale.0 += delta.on_hand.max(0);
        if delta.allocated < 0 || (delta.allocated > 0 && certain) {
            sale.1 += delta.allocated;
            sale.2.push(effect.op);
        }
    }
    let mut sold = 0;
    for (sku, (units, taken, ops)) in sales {
        sold += taken.max(0);
        if taken > units {
            let shown = ops.into_iter().rev().take(20);
            found.add(format!("{sku}: sold {taken} units of {units}"), [sku.to_owned()], shown);
        }
    }
    let refused = refusals(history, &effects, &mut found);
    let checked = format!("{sold} units sold, {refused} times sold out; {}", tally.checked());
    found.verdict_unless("flash_sale", checked, nothing_or_open(&tally))
}

/// What a refusal names as available must have been possible while it was decided.
fn refusals(history: &History, effects: &Effects, found: &mut Findings) -> u64 {
    let mut count = 0;
    for write in writes::all(history) {
        let writes::Fate::Decided(Answer::Refused { shortages, .. }, by) = write.fate else { continue };
        for short in shortages {
            count += 1;
            let ranges = effects.at_time(&short.sku, Some(&short.location), (write.invoked, by), false);
            let low = ranges.on_hand.low - ranges.reserved.high - ranges.allocated.high;
            let high = ranges.on_hand.high - ranges.reserved.low.max(0) - ranges.allocated.low.max(0);
            if i64::try_from(short.available).is_ok_and(|a| (low..=high).contains(&a)) {
                continue;
            }
            let (sku, available, op) = (&short.sku, short.available, write.op());
            found.add(
                format!(
                    "{sku}: call {op} was refused with {available} available, but there were {low} to {high}"
                ),
                [sku.clone()],
                [op],
            );
        }
    }
    count
}

fn nothing_or_open(tally: &Tally) -> Option<String> {
    if tally.skus.is_empty() || tally.stocks == 0 {
        return Some("no stock was written to and read".to_owned());
    }
    tally.open()
}

/// Goods change rooms: the total is the same in every consistent read, no room is ever oversold, and the
/// end of every room is exact.
pub fn transfers(history: &History) -> Verdict {
    let mut found = Findings::default();
    let effects = Effects::of(history);
    let tally = reads_in_range(history, &effects, &mut found);
    let moved = writes::all(history)
        .iter()
        .filter(|write| matches!(write.call, Call::Transfer { .. }) && write.done().is_some())
        .count();
    let refused = refusals(history, &effects, &mut found);
    let undecided = (moved == 0).then(|| "no transfer succeeded".to_owned());
    let checked = format!("{moved} transfers, {refused} shortages; {}", tally.checked());
    found.verdict_unless("transfers", checked, undecided.or_else(|| nothing_or_open(&tally)))
}
