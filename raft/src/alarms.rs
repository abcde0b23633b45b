//! What is wrong with a node while it goes on: told in its reports, its metrics, its probes and once in its log.

use crate::proto::AlarmInfo;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Something that somebody should look after, while the node goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// What kind, for programs; `deploy/RUNBOOK.md` has an entry for each.
    pub code: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub next: String,
}

impl From<&AlarmInfo> for Alarm {
    fn from(info: &AlarmInfo) -> Self {
        let AlarmInfo { code, what, next } = info.clone();
        Alarm { code, what, next }
    }
}

/// The alarms of this node that hold now, by code.
#[derive(Debug, Default)]
pub(crate) struct Alarms(Mutex<BTreeMap<&'static str, Alarm>>);

impl Alarms {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Alarm>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds from now on. Logged when it begins, not each time its figures change.
    pub(crate) fn raise(&self, code: &'static str, what: String, next: &str) {
        let alarm = Alarm { code: code.to_owned(), what, next: next.to_owned() };
        if self.lock().insert(code, alarm.clone()).is_none() {
            tracing::error!(code, what = alarm.what, next, "alarm");
        }
        metrics::gauge!("stockroom_alarm", "code" => code).set(1.0);
    }

    /// Holds no more.
    pub(crate) fn clear(&self, code: &'static str) {
        if self.lock().remove(code).is_some() {
            tracing::info!(code, "the alarm is over");
        }
        metrics::gauge!("stockroom_alarm", "code" => code).set(0.0);
    }

    pub(crate) fn all(&self) -> Vec<Alarm> {
        self.lock().values().cloned().collect()
    }

    /// As reports have them.
    pub(crate) fn as_reported(&self) -> Vec<AlarmInfo> {
        let info = |Alarm { code, what, next }| AlarmInfo { code, what, next };
        self.all().into_iter().map(info).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_holds_with_its_newest_words_until_it_is_cleared() {
        let alarms = Alarms::default();
        alarms.raise("disk_low", "9 bytes".into(), "make room");
        alarms.raise("disk_low", "8 bytes".into(), "make room");
        alarms.raise("disk_full", "none".into(), "make room");
        let texts: Vec<_> = alarms.all().into_iter().map(|alarm| alarm.what).collect();
        assert_eq!(texts, ["none", "8 bytes"]);
        alarms.clear("disk_full");
        alarms.clear("never_raised");
        assert_eq!(alarms.as_reported().len(), 1);
    }
}
