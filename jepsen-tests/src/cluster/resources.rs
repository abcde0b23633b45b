//! Control groups: how much CPU and memory a node may use.

use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// Period of the CPU quota, in microseconds.
const PERIOD_US: u64 = 100_000;

/// The two generations of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy a controller.
    One,
    /// One hierarchy for all.
    Two,
}

/// Which generation this machine has, where groups can be made in it.
pub fn place() -> Option<Version> {
    let root = Path::new("/sys/fs/cgroup");
    let is_writable = |path: &Path| {
        let probe = path.join(format!("stockroom-probe-{}", std::process::id()));
        std::fs::create_dir(&probe).and_then(|()| std::fs::remove_dir(&probe)).is_ok()
    };
    if root.join("cgroup.controllers").exists() {
        let controllers = std::fs::read_to_string(root.join("cgroup.subtree_control")).unwrap_or_default();
        let has = |name| controllers.split_whitespace().any(|controller| controller == name);
        return (has("cpu") && has("memory") && is_writable(root)).then_some(Version::Two);
    }
    let both = ["cpu", "memory"].iter().all(|controller| is_writable(&root.join(controller)));
    both.then_some(Version::One)
}

/// The groups of one node, for as long as it is limited.
#[derive(Debug)]
pub struct Limited {
    version: Version,
    folders: Vec<PathBuf>,
}

impl Limited {
    /// Makes the groups, under a name of their own, and puts a process with all its threads into them.
    ///
    /// # Errors
    /// Where the machine refuses.
    pub fn new(name: &str, pid: u32) -> anyhow::Result<Self> {
        let version = place().context("no control groups")?;
        let name = format!("stockroom-{}-{name}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        let folders: Vec<PathBuf> = match version {
            Version::One => {
                ["cpu", "memory"].iter().map(|controller| root.join(controller).join(&name)).collect()
            }
            Version::Two => vec![root.join(&name)],
        };
        let limited = Limited { version, folders };
        for folder in &limited.folders {
            std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
            write(&folder.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(limited)
    }

    /// At most this much of one core, in percent.
    ///
    /// # Errors
    /// Where the machine refuses.
    pub fn cpu(&self, percent: u64) -> anyhow::Result<()> {
        let quota = PERIOD_US * percent / 100;
        match self.version {
            Version::One => {
                write(&self.folders[0].join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
                write(&self.folders[0].join("cpu.cfs_quota_us"), &quota.to_string())
            }
            Version::Two => write(&self.folders[0].join("cpu.max"), &format!("{quota} {PERIOD_US}")),
        }
    }

    /// How often the process had to wait for its quota.
    pub fn throttled(&self) -> u64 {
        let text = std::fs::read_to_string(self.folders[0].join("cpu.stat")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// At most this much memory, in bytes, with the page cache that it fills.
    ///
    /// # Errors
    /// Where the machine refuses.
    pub fn memory(&self, bytes: u64) -> anyhow::Result<()> {
        match self.version {
            Version::One => write(&self.folders[1].join("memory.limit_in_bytes"), &bytes.to_string()),
            Version::Two => write(&self.folders[0].join("memory.max"), &bytes.to_string()),
        }
    }

    /// How often the limit was met.
    pub fn squeezed(&self) -> u64 {
        let (file, prefix) = match self.version {
            Version::One => (self.folders[1].join("memory.failcnt"), ""),
            Version::Two => (self.folders[0].join("memory.events"), "max "),
        };
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(prefix));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Limited {
    /// Puts the process back where it was and takes the groups away.
    fn drop(&mut self) {
        for folder in &self.folders {
            let root = folder.parent().expect("it was made below one").join("cgroup.procs");
            let members = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            for pid in members.lines() {
                // One that ended meanwhile needs no place.
                let _ = std::fs::write(&root, pid);
            }
            if let Err(error) = std::fs::remove_dir(folder) {
                eprintln!("{} stays behind: {error}", folder.display());
            }
        }
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {text} to {}", path.display()))
}
