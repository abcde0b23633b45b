//! The fault shim: a small library, compiled here and preloaded into every node, that makes calls on its
//! files fail as the harness orders. `shim/faults.c` says how.

use anyhow::{Context as _, ensure};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use tokio::process::Command;

const SOURCE: &str = include_str!("../../shim/faults.c");
/// Words of the control file.
const WORDS: u64 = 64;

/// An order to the shim of one node. The numbers are those of `enum word` in `shim/faults.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Order {
    /// Which files: see [`Scope`].
    Scope = 0,
    /// Errors go on until they are taken away; else the next call works again.
    Repeats = 1,
    /// Every sync takes so many microseconds longer.
    SyncDelayUs = 2,
    /// The n-th sync from now fails with EIO.
    SyncError = 3,
    /// The n-th write from now fails with EIO.
    WriteError = 4,
    /// The n-th write from now finds the disk full.
    Full = 5,
    /// A full disk takes writes that do not make a file longer.
    FullGrowth = 6,
    /// The n-th write from now writes only a part.
    Short = 7,
    /// And the one after it finds the disk full.
    ShortThenFull = 8,
    /// Of the n-th write from now some sectors are written, and then nothing ever again.
    Tear = 9,
    /// Of what the shim draws.
    Seed = 10,
}

/// What the shim has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Done {
    /// Times it was loaded.
    Works = 16,
    /// Syncs that took longer.
    Slowed = 17,
    /// Syncs that failed.
    SyncErrors = 18,
    /// Writes that failed with EIO.
    WriteErrors = 19,
    /// Writes that found the disk full.
    Fulls = 20,
    /// Writes of which only a part was written.
    Shorts = 21,
    /// Writes that were torn.
    Torn = 22,
}

/// Which files of a node an order is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Scope {
    /// All below its data directory.
    All = 0,
    /// The log.
    Log = 1,
    /// All but the log.
    NotLog = 2,
}

/// Compiles the shim into a directory.
///
/// # Errors
/// Where the compiler fails; with what it said.
pub async fn build(dir: &Path) -> anyhow::Result<PathBuf> {
    let (source, library) = (dir.join("faults.c"), dir.join("faults.so"));
    std::fs::write(&source, SOURCE).with_context(|| format!("writing {}", source.display()))?;
    let output = Command::new("cc")
        .args(["-O2", "-Wall", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .kill_on_drop(true)
        .output()
        .await
        .context("the fault shim needs a C compiler, cc")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the fault shim does not compile: {}", said.trim());
    std::path::absolute(library).context("where the fault shim is")
}

/// The orders to one node's shim. They outlive its process: the next one obeys them too.
#[derive(Debug)]
pub struct Faults {
    control: File,
    path: PathBuf,
    below: PathBuf,
}

impl Faults {
    /// Makes the control file of a node whose data lies at `below`.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn create(path: &Path, below: &Path) -> anyhow::Result<Self> {
        let open = || -> std::io::Result<File> {
            let control = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path)?;
            control.set_len(WORDS * 8)?;
            Ok(control)
        };
        let control = open().with_context(|| format!("making {}", path.display()))?;
        Ok(Faults { control, path: std::path::absolute(path)?, below: std::path::absolute(below)? })
    }

    /// What the shim has to know when it is loaded.
    pub(super) fn environment(&self) -> [(&'static str, &Path); 2] {
        [("JEPSEN_FAULTS_CONTROL", &self.path), ("JEPSEN_FAULTS_DIR", &self.below)]
    }

    /// Gives an order; the shim sees it with the next call.
    ///
    /// # Errors
    /// Where the control file cannot be written.
    pub fn order(&self, order: Order, value: u64) -> anyhow::Result<()> {
        self.control.write_all_at(&value.to_ne_bytes(), order as u64 * 8).context("ordering a fault")
    }

    /// Takes all orders away.
    ///
    /// # Errors
    /// Where the control file cannot be written.
    pub fn calm(&self) -> anyhow::Result<()> {
        // The errors first: between two of these writes the process goes on.
        [Order::SyncDelayUs, Order::SyncError, Order::WriteError, Order::Short, Order::Tear, Order::Full]
            .into_iter()
            .chain([Order::Repeats, Order::FullGrowth, Order::ShortThenFull, Order::Scope])
            .try_for_each(|order| self.order(order, 0))
    }

    /// How often something was done since the cluster began.
    ///
    /// # Errors
    /// Where the control file cannot be read.
    pub fn done(&self, what: Done) -> anyhow::Result<u64> {
        let mut word = [0; 8];
        self.control.read_exact_at(&mut word, what as u64 * 8).context("counting faults")?;
        Ok(u64::from_ne_bytes(word))
    }
}
