//! The clock of a node: libfaketime, preloaded, reads it from a file whenever the node asks for the time.
//!
//! Only the wall clock is faked. Time-outs run by the monotonic clock, which no time service ever sets.

use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// What a node's wall clock shows.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// A clock that is right, in this file.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn create(file: &Path) -> anyhow::Result<Self> {
        let clock = Clock { file: std::path::absolute(file)? };
        clock.offset(0.0)?;
        Ok(clock)
    }

    /// What libfaketime has to know when it is loaded.
    pub(super) fn environment(&self) -> [(&'static str, &Path); 4] {
        let yes = Path::new("1");
        [
            ("FAKETIME_TIMESTAMP_FILE", &self.file),
            // It would look at the file once in ten seconds.
            ("FAKETIME_NO_CACHE", yes),
            ("FAKETIME_DONT_FAKE_MONOTONIC", yes),
            ("NO_FAKE_STAT", yes),
        ]
    }

    /// From now on it is so many seconds ahead.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn offset(&self, seconds: f64) -> anyhow::Result<()> {
        self.set(&format!("{seconds:+.3}"))
    }

    /// From now on it runs at `rate`, in a process that has been running for `running` seconds: libfaketime
    /// counts from the start of the process, and that part is taken back.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn rate(&self, rate: f64, running: f64) -> anyhow::Result<()> {
        self.set(&format!("{:+.3} x{rate:.3}", running * (1.0 - rate)))
    }

    /// Whole at any moment: a node reads it at any moment.
    fn set(&self, text: &str) -> anyhow::Result<()> {
        let new = self.file.with_extension("new");
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.file));
        written.with_context(|| format!("setting the clock in {}", self.file.display()))
    }
}

/// Removes what libfaketime leaves behind of a process that could not clean up.
pub(super) fn clean_up_after(pid: u32) {
    for name in [format!("faketime_shm_{pid}"), format!("sem.faketime_sem_{pid}")] {
        // A process that ended well has removed them itself.
        let _ = std::fs::remove_file(Path::new("/dev/shm").join(name));
    }
}
