//! Backups: what was taken while faults went on has to be what there was.

use super::super::{Findings, Verdict};
use crate::history::{Answer, Backup, Call, Fingerprint, History, Known, Micros};
use std::collections::BTreeMap;

/// Every backup restores to what it says; holds all that was acknowledged before it was asked for; is the same history and
/// state as every node's at its index; and has exactly the orders that were placed up to it.
pub fn backups(history: &History) -> Verdict {
    let mut found = Findings::default();
    let orders = Orders::of(history);
    let mut compared = 0;
    for backup in &history.backups {
        let (name, index) = (named(backup), backup.at.log_index);
        for finding in &backup.findings {
            found.add(format!("{name}: {finding}"), [], []);
        }
        if let Some((op, acknowledged)) = newest_before(history, backup.from).filter(|_| backup.fresh)
            && acknowledged > index
        {
            found.add(
                format!("{name} ends before index {acknowledged}, which was answered before"),
                [],
                [op],
            );
        }
        for (node, other) in others(history, backup) {
            compared += 1;
            if other != backup.at {
                let Fingerprint { digest, state_hash, .. } = &backup.at;
                let (theirs, hash) = (&other.digest, &other.state_hash);
                found.add(
                    format!(
                        "{name} has digest {digest} and state hash {state_hash}, node {node} has {theirs} and {hash} there"
                    ),
                    [],
                    [],
                );
            }
        }
        let (fewest, most) = orders.up_to(index);
        if !(fewest..=most).contains(&backup.orders) {
            found.add(format!("{name} has {} orders, not {fewest} to {most}", backup.orders), [], []);
        }
    }
    let count = history.backups.len();
    found.verdict(
        "backups",
        format!("{count} backups restored and added up, compared with nodes {compared} times at their index"),
    )
}

fn named(backup: &Backup) -> String {
    format!("the backup of node {} at index {}", backup.node, backup.at.log_index)
}

/// The highest index that an answer showed before a time, and the call that it was shown to.
fn newest_before(history: &History, time: Micros) -> Option<(u64, u64)> {
    let answered = history.ops.iter().filter(|op| op.completed.is_some_and(|completed| completed < time));
    let shown = answered.filter_map(|op| {
        let by_headers = op.meta().and_then(|meta| meta.applied_index);
        let by_body = match op.known() {
            Known::Answered(answer, _) => log_index(answer),
            _ => None,
        };
        Some((op.id, by_headers.max(by_body)?))
    });
    shown.max_by_key(|(_, index)| *index)
}

fn log_index(answer: &Answer) -> Option<u64> {
    match answer {
        Answer::Done { log_index } => *log_index,
        Answer::Order(order) => Some(order.log_index),
        Answer::Reservation(reservation) => Some(reservation.log_index),
        _ => None,
    }
}

/// What nodes said of the index of a backup: right after it was taken, or whenever they were asked.
fn others(history: &History, backup: &Backup) -> Vec<(u64, Fingerprint)> {
    let index = backup.at.log_index;
    let samples = history.samples.iter().filter(|sample| sample.applied_index == index);
    let samples =
        samples.filter(|sample| !sample.digest.is_empty() && !sample.state_hash.is_empty()).map(|sample| {
            let (digest, state_hash) = (sample.digest.clone(), sample.state_hash.clone());
            (sample.node, Fingerprint { log_index: index, digest, state_hash })
        });
    samples.chain(backup.peers.iter().cloned()).collect()
}

/// Orders by the index at which they were placed.
struct Orders {
    placed: Vec<u64>,
    /// Of which nobody knows whether, or where.
    unknown: u64,
}

impl Orders {
    fn of(history: &History) -> Self {
        // One key is one order, however often it was sent.
        let mut by_key: BTreeMap<&str, Option<u64>> = BTreeMap::new();
        for op in history.ops.iter().filter(|op| matches!(op.call, Call::PlaceOrder { .. })) {
            let Some(key) = op.key.as_deref() else { continue };
            match op.known() {
                Known::Answered(Answer::Order(order), _) => drop(by_key.insert(key, Some(order.log_index))),
                // Refused, with this body: another one may stand behind the key.
                Known::Answered(..) | Known::Never => {}
                Known::Unknown => drop(by_key.entry(key).or_insert(None)),
            }
        }
        let unknown = by_key.values().filter(|placed| placed.is_none()).count() as u64;
        Orders { placed: by_key.into_values().flatten().collect(), unknown }
    }

    /// The fewest and the most that there may have been.
    fn up_to(&self, index: u64) -> (u64, u64) {
        let placed = self.placed.iter().filter(|placed| **placed <= index).count() as u64;
        (placed, placed + self.unknown)
    }
}
