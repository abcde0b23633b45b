//! What is seen, in memory for the checkers and in the file at once.

use crate::history::{
    Backup, Call, Exit, Fault, History, Micros, NodeId, Op, Outcome, Probe, Record, RunInfo,
};
use crate::history::{Sample, Settled, Writer};
use crate::nemesis::Effect;
use anyhow::bail;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// Takes down everything, from all tasks of a run.
pub struct Recorder {
    epoch: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    writer: Writer,
    history: History,
    tally: Tally,
    next_client: u64,
    /// The file could not be written: the run is no test any more.
    broken: Option<String>,
}

/// How many calls ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answered.
    pub ok: u64,
    /// Did not take place.
    pub fail: u64,
    /// Unknown.
    pub info: u64,
}

impl Recorder {
    /// Begins a history in a new file. The numbers of clients from `first_client` on are free.
    ///
    /// # Errors
    /// Where the file cannot be made.
    pub fn create(path: &Path, epoch: Instant, run: RunInfo, first_client: u64) -> anyhow::Result<Self> {
        let mut writer = Writer::create(path)?;
        writer.write(&Record::Run(run.clone()))?;
        let history = History { run, ..History::default() };
        let inner =
            Inner { writer, history, tally: Tally::default(), next_client: first_client, broken: None };
        Ok(Recorder { epoch, inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while held")
    }

    /// The time of the history.
    pub fn now(&self) -> Micros {
        Micros::try_from(self.epoch.elapsed().as_micros()).unwrap_or(Micros::MAX)
    }

    /// A number that no client had.
    pub fn new_client(&self) -> u64 {
        let mut inner = self.lock();
        inner.next_client += 1;
        inner.next_client - 1
    }

    /// A call is about to be sent. A write without a key gets one of its own.
    pub fn invoke(&self, client: u64, node: NodeId, key: Option<String>, call: Call) -> Op {
        let mut inner = self.lock();
        let id = inner.history.ops.len() as u64;
        let key = call.is_write().then(|| key.unwrap_or_else(|| format!("op-{id}")));
        // Taken under the lock: the order of ids is the order of times.
        let invoked = self.now();
        let op = Op { id, client, node, key, call, invoked, completed: None, outcome: None, settled: None };
        inner.history.ops.push(op.clone());
        inner.write(Record::Op(Box::new(op.clone())));
        op
    }

    /// It ended.
    pub fn complete(&self, id: u64, outcome: Outcome) -> Op {
        let mut inner = self.lock();
        let completed = self.now();
        match &outcome {
            Outcome::Ok { .. } => inner.tally.ok += 1,
            Outcome::Fail { .. } => inner.tally.fail += 1,
            Outcome::Info { .. } => inner.tally.info += 1,
        }
        inner.change(id, |op| {
            op.completed = Some(completed);
            op.outcome = Some(outcome);
        })
    }

    /// What became of it is known at last.
    pub fn settle(&self, id: u64, settled: Settled) {
        let mut inner = self.lock();
        let now = self.now();
        inner.change(id, |op| op.settled = Some((now, settled)));
    }

    /// A fault began; gives its place for [`Recorder::fault_ended`].
    pub fn fault_began(&self, fault: Fault) -> usize {
        let mut inner = self.lock();
        inner.history.faults.push(fault.clone());
        inner.write(Record::Fault(fault));
        inner.history.faults.len() - 1
    }

    /// It is healed, and this came of it.
    pub fn fault_ended(&self, place: usize, effect: Effect) {
        let mut inner = self.lock();
        let now = self.now();
        let fault = &mut inner.history.faults[place];
        fault.until = Some(now);
        fault.effective = effect.effective;
        fault.evidence = effect.evidence;
        let fault = fault.clone();
        inner.write(Record::Fault(fault));
    }

    /// A node said this of itself.
    pub fn sample(&self, sample: Sample) {
        let mut inner = self.lock();
        inner.history.samples.push(sample.clone());
        inner.write(Record::Sample(sample));
    }

    /// Takes over what is new of all the exits so far.
    pub fn exits(&self, all: &[Exit]) {
        let mut inner = self.lock();
        for exit in all.iter().skip(inner.history.exits.len()) {
            inner.history.exits.push(exit.clone());
            inner.write(Record::Exit(exit.clone()));
        }
    }

    /// Backups that were taken.
    pub fn backups(&self, all: Vec<Backup>) {
        let mut inner = self.lock();
        for backup in all {
            inner.history.backups.push(backup.clone());
            inner.write(Record::Backup(backup));
        }
    }

    /// Something was probed while the cluster was up.
    pub fn probe(&self, name: &str, seen: Result<String, String>) {
        let holds = seen.is_ok();
        let detail = seen.unwrap_or_else(|wrong| wrong);
        let probe = Probe { name: name.to_owned(), holds, detail };
        let mut inner = self.lock();
        inner.history.probes.push(probe.clone());
        inner.write(Record::Probe(probe));
    }

    /// How many calls ended how, so far.
    pub fn tally(&self) -> Tally {
        self.lock().tally
    }

    /// Looks at what was seen so far.
    pub fn look<T>(&self, at: impl FnOnce(&History) -> T) -> T {
        at(&self.lock().history)
    }

    /// Whether all of it is in the file.
    ///
    /// # Errors
    /// Where something could not be written.
    pub fn check(&self) -> anyhow::Result<()> {
        match &self.lock().broken {
            Some(why) => bail!("the history could not be written, so this run shows nothing: {why}"),
            None => Ok(()),
        }
    }
}

impl Inner {
    fn write(&mut self, record: Record) {
        if self.broken.is_none()
            && let Err(error) = self.writer.write(&record)
        {
            self.broken = Some(format!("{error:#}"));
        }
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Op)) -> Op {
        let place = usize::try_from(id).expect("an id of this run");
        change(&mut self.history.ops[place]);
        let op = self.history.ops[place].clone();
        self.write(Record::Op(Box::new(op.clone())));
        op
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{self, Line};

    fn recorder(dir: &Path) -> Recorder {
        let run = RunInfo { workload: "stock".into(), ..RunInfo::default() };
        Recorder::create(&dir.join("history.jsonl"), Instant::now(), run, 5).expect("a new file")
    }

    #[test]
    fn the_file_says_what_the_checkers_see() {
        let dir = tempfile::tempdir().expect("a directory");
        let recorder = recorder(dir.path());
        let write = recorder.invoke(0, 1, None, Call::Receive { lines: vec![Line::new("mug", 1)] });
        let again = recorder.invoke(1, 2, write.key.clone(), write.call.clone());
        recorder.complete(again.id, Outcome::Info { reason: "time-out".into() });
        recorder.settle(again.id, Settled::Abandoned);
        let fault = Fault {
            nemesis: "kill".into(),
            kind: "process".into(),
            what: "node 1".into(),
            nodes: vec![1],
            from: 1,
            until: None,
            effective: false,
            evidence: String::new(),
        };
        let place = recorder.fault_began(fault);
        recorder.fault_ended(place, Effect { effective: true, evidence: "it was gone".into() });
        recorder.probe("audit", Err("node 2: findings".into()));
        recorder.check().expect("all is written");

        let seen = recorder.look(Clone::clone);
        assert_eq!(history::read(&dir.path().join("history.jsonl")).expect("readable"), seen);
        assert_eq!(seen.ops[0].key, seen.ops[1].key, "one key is one write");
        assert_eq!(seen.ops[1].known(), history::Known::Never);
        assert!(seen.faults[0].effective && seen.faults[0].until.is_some());
        assert!(!seen.probes[0].holds);
        assert_eq!(recorder.tally(), Tally { info: 1, ..Tally::default() });
        assert_eq!((recorder.new_client(), recorder.new_client()), (5, 6));
    }

    #[test]
    fn an_exit_is_taken_down_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let recorder = recorder(dir.path());
        let exit = |node| Exit {
            at: 1,
            node,
            expected: true,
            how: String::new(),
            code: None,
            last_line: String::new(),
            excuse: None,
        };
        recorder.exits(&[exit(1)]);
        recorder.exits(&[exit(1), exit(2)]);
        assert_eq!(recorder.look(|history| history.exits.clone()), [exit(1), exit(2)]);
    }
}
