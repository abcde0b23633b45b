//! What works without a server: proving a backup, restoring it, founding a new cluster out of what a lost quorum
//! left behind, and text in and out.
//!
//! None of them changes a file that it did not make: each reads what it is given, works in a scratch directory,
//! and writes into directories that are empty.

pub mod import;
pub mod rebuild;
pub mod recover;
pub mod restore;
pub mod verify;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt::{self, Display, Write as _};
use std::io::{ErrorKind, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use stockroom_storage::StorageOptions;
use stockroom_storage::error::StorageError;
use stockroom_storage::log_store::LogOptions;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

/// How the process ends; the same numbers as those of `stockctl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Anything that has no code of its own.
    Error = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Something is there already, or in use.
    Conflict = 4,
    /// No such thing.
    NotFound = 5,
    /// Refused because it could lose data.
    Unsafe = 7,
    /// A check found something.
    Findings = 8,
}

/// Why a command did not do what it was asked: nothing was changed.
#[derive(Debug)]
pub struct Refusal {
    /// How the process ends.
    pub exit: Exit,
    code: &'static str,
    title: &'static str,
    detail: String,
    next: Vec<String>,
}

impl Refusal {
    /// What kind of error it is, for programs and for people, and what happened this time.
    pub fn new(exit: Exit, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Refusal { exit, code, title, detail: detail.into(), next: Vec::new() }
    }

    /// Adds one thing to do now.
    #[must_use]
    pub fn step(mut self, text: impl Into<String>) -> Self {
        self.next.push(text.into());
        self
    }
}

impl Display for Refusal {
    /// As `stockctl` prints its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("error: {} ({})\n  {}", self.title, self.code, self.detail);
        for step in &self.next {
            write!(text, "\n  next: {step}")?;
        }
        f.write_str(&text)
    }
}

impl std::error::Error for Refusal {}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        let detail = error.to_string();
        match &error {
            StorageError::Corrupt { .. } => {
                Refusal::new(Exit::Findings, "damaged", "A file is damaged", detail).step(
                    "use another copy of it; of a backup, an older one: stockroom verify FILE proves it",
                )
            }
            StorageError::Foreign(_) => {
                Refusal::new(Exit::Conflict, "not_free", "A directory cannot be used", detail)
                    .step("name a directory that is empty or not there yet; nothing in this one was touched")
            }
            StorageError::Io { kind: ErrorKind::NotFound, .. } => {
                Refusal::new(Exit::NotFound, "not_found", "There is no such file", detail)
            }
            StorageError::Io { kind: ErrorKind::StorageFull, .. } => {
                Refusal::new(Exit::Error, "disk_full", "The disk is full", detail)
                    .step("make room, or choose another place for intermediate files with --scratch DIR")
            }
            StorageError::Format(_) => Refusal::new(Exit::Error, "format", "A file cannot be read", detail),
            _ => Refusal::new(Exit::Error, "storage", "A file cannot be used", detail),
        }
    }
}

/// A directory for intermediate files, gone when this is dropped.
///
/// # Errors
/// Where it cannot be made.
pub fn scratch(chosen: Option<&Path>, default: &Path) -> Result<TempDir, Refusal> {
    let parent: PathBuf = chosen.unwrap_or(default).to_owned();
    let parent = if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent };
    let made = std::fs::create_dir_all(&parent)
        .and_then(|()| tempfile::Builder::new().prefix(".stockroom-scratch-").tempdir_in(&parent));
    made.inspect(|scratch| remove_when_interrupted(scratch.path().to_owned())).map_err(|error| {
        let detail = format!("{}: {error}", parent.display());
        Refusal::new(Exit::Error, "scratch", "There is no place for intermediate files", detail)
            .step("name a directory with room with --scratch DIR")
    })
}

/// Intermediate files are as large as the state or several times that, and nothing else would remove them.
fn remove_when_interrupted(scratch: PathBuf) {
    let interrupted = async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        std::io::Result::Ok(())
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        if runtime.and_then(|runtime| runtime.block_on(interrupted)).is_err() {
            // A signal ends the process as it does any other.
            return;
        }
        // Whatever still writes there may make another file meanwhile.
        for _ in 0..100 {
            if std::fs::remove_dir_all(&scratch).is_ok() {
                break;
            }
        }
        eprintln!(
            "stockroom: interrupted. Intermediate files are removed; what is in a directory given by --dir is not whole: \
             empty it before you try again"
        );
        std::process::exit(Exit::Error as i32);
    });
}

/// Storage that is opened for a look, and thrown away.
pub fn scratch_options(dir: &Path) -> StorageOptions {
    StorageOptions {
        // Nothing is appended to the log; what is there may have longer files.
        log: LogOptions { segment_bytes: 2 << 20, cache_bytes: 0 },
        ..StorageOptions::new(dir)
    }
}

/// Between two lines where nobody watches a bar.
const PLAIN_EVERY: Duration = Duration::from_secs(2);

/// How far something is, on stderr: a bar on a terminal, a line now and then elsewhere.
pub struct Progress {
    what: &'static str,
    total: u64,
    bytes: bool,
    bar: Option<ProgressBar>,
    last: Instant,
}

impl Progress {
    /// Of this many bytes.
    pub fn bytes(what: &'static str, total: u64) -> Self {
        Progress::new(what, total, true)
    }

    /// Of this many of anything.
    pub fn count(what: &'static str, total: u64) -> Self {
        Progress::new(what, total, false)
    }

    fn new(what: &'static str, total: u64, bytes: bool) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let unit = if bytes { "{bytes}/{total_bytes}" } else { "{human_pos}/{human_len}" };
            let style = ProgressStyle::with_template(&format!("{{msg:>10}} {{wide_bar}} {unit}"))
                .expect("the template is constant");
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
                .with_style(style)
                .with_message(what)
        });
        Progress { what, total, bytes, bar, last: Instant::now() }
    }

    /// So much is done.
    pub fn show(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.last.elapsed() >= PLAIN_EVERY {
            self.last = Instant::now();
            let figure = |n: u64| if self.bytes { HumanBytes(n).to_string() } else { n.to_string() };
            eprintln!("{}: {} of {}", self.what, figure(done), figure(self.total));
        }
    }

    /// There is more, or less, than was thought.
    pub fn set_total(&mut self, total: u64) {
        self.total = total;
        self.bar.iter().for_each(|bar| bar.set_length(total));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}
