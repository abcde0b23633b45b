//! What came of each run of a matrix, in a file, so that it goes on where it stopped.

use crate::run::judge::{Calls, Count};
use crate::run::plan::Usage;
use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Name of the file.
const STATE: &str = "matrix.json";

/// A matrix, so far.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// `quick`, `full`, `ci` or `planted`.
    pub which: String,
    /// All seeds come from it.
    pub seed: u64,
    /// Version of the server.
    pub version: String,
    /// Attempts by the name of the run, in the order in which they were made.
    pub runs: BTreeMap<String, Vec<Attempt>>,
    /// Names in the order in which they were first tried.
    pub order: Vec<String>,
    /// Where it lies.
    #[serde(skip)]
    pub dir: PathBuf,
}

/// One attempt at a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Exit code; `None` where it was skipped.
    pub code: Option<u8>,
    /// The name of the run; that of a planted bug is the name under which it is kept.
    pub run: String,
    /// What clients asked for.
    pub workload: String,
    /// What was done meanwhile.
    pub nemeses: Vec<String>,
    /// Its seed.
    pub seed: u64,
    /// Its directory, below that of the matrix.
    pub dir: String,
    /// How long it took.
    pub seconds: f64,
    /// How many calls ended how.
    pub calls: Calls,
    /// Faults by nemesis.
    pub faults: BTreeMap<String, Count>,
    /// What did not hold or was not decided, or why it was skipped.
    pub wrong: Vec<String>,
}

impl Attempt {
    /// One that this machine cannot make.
    pub fn skipped(run: &str, why: String) -> Self {
        Attempt { run: run.to_owned(), wrong: vec![why], ..Attempt::default() }
    }
}

impl State {
    /// Opens the matrix of a directory, or begins one there.
    ///
    /// # Errors
    /// [`Usage`] where the directory holds another matrix or something else.
    pub fn open(dir: &Path, which: &str, seed: u64, version: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
        let path = dir.join(STATE);
        if path.exists() {
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let mut state: State = serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is no state of a matrix", path.display()))?;
            if state.which != which {
                bail!(Usage(format!("{} holds the matrix {}, not {which}", dir.display(), state.which)));
            }
            if state.version != version {
                bail!(Usage(format!(
                    "{} was begun with {}, and this is {version}: take a new directory",
                    dir.display(),
                    state.version
                )));
            }
            state.dir = dir;
            return Ok(state);
        }
        if std::fs::read_dir(&dir)?.next().is_some() {
            bail!(Usage(format!("{} is not empty and holds no matrix", dir.display())));
        }
        let (which, version) = (which.to_owned(), version.to_owned());
        Ok(State { which, seed, version, runs: BTreeMap::new(), order: Vec::new(), dir })
    }

    /// How long the attempt took that passed, if one did.
    pub fn passed(&self, name: &str) -> Option<f64> {
        let last = self.last(name)?;
        (last.code == Some(0)).then_some(last.seconds)
    }

    /// The last attempt at a run.
    pub fn last(&self, name: &str) -> Option<&Attempt> {
        self.runs.get(name)?.last()
    }

    fn attempts(&self, name: &str) -> usize {
        self.runs.get(name).map_or(0, Vec::len)
    }

    /// A fresh seed for the next attempt at a run.
    pub fn seed_of(&self, name: &str) -> u64 {
        super::derive(self.seed, name, self.attempts(name))
    }

    /// A directory for the next attempt at a run; there is nothing at that place.
    pub fn new_dir(&self, name: &str) -> PathBuf {
        /// Names of files have an end.
        const NAME_MAX: usize = 120;
        let short: String = name.chars().take(NAME_MAX).collect();
        (self.attempts(name) + 1..)
            .map(|number| self.dir.join(format!("{short}-{number}")))
            .find(|dir| !dir.exists())
            .expect("numbers do not end")
    }

    /// Keeps what came of an attempt.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn add(&mut self, name: &str, attempt: Attempt) -> anyhow::Result<()> {
        if !self.order.iter().any(|known| known == name) {
            self.order.push(name.to_owned());
        }
        self.runs.entry(name.to_owned()).or_default().push(attempt);
        let path = self.dir.join(STATE);
        let new = path.with_extension("new");
        super::write(&new, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&new, &path).with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: u8) -> Attempt {
        Attempt { code: Some(code), seconds: 5.0, ..Attempt::default() }
    }

    #[test]
    fn it_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut state = State::open(dir.path(), "full", 7, "v1").expect("new");
        let first = state.seed_of("b");
        state.add("b", ended(8)).expect("writable");
        state.add("a", ended(0)).expect("writable");
        let again = State::open(dir.path(), "full", 99, "v1").expect("the same");
        assert_eq!(again.seed, 7, "its seed stays");
        assert_eq!(again.order, ["b", "a"]);
        assert_eq!(again.passed("a"), Some(5.0));
        assert_eq!(again.passed("b"), None);
        assert_ne!(again.seed_of("b"), first, "a new attempt has a fresh seed");
    }

    #[test]
    fn a_pass_that_was_followed_by_a_failure_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut state = State::open(dir.path(), "full", 7, "v1").expect("new");
        state.add("a", ended(0)).expect("writable");
        state.add("a", ended(9)).expect("writable");
        assert_eq!(state.passed("a"), None);
    }

    #[test]
    fn another_matrix_and_another_server_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut state = State::open(dir.path(), "full", 7, "v1").expect("new");
        state.add("a", ended(0)).expect("writable");
        for (which, version) in [("quick", "v1"), ("full", "v2")] {
            let error = State::open(dir.path(), which, 7, version).expect_err("it holds another");
            assert!(error.is::<Usage>(), "{error:#}");
        }
        let other = tempfile::tempdir().expect("a directory");
        std::fs::write(other.path().join("x"), "").expect("writable");
        assert!(State::open(other.path(), "full", 7, "v1").is_err(), "it holds something else");
    }
}
