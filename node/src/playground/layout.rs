//! Where a playground keeps what: ports, directories, and the two small files that describe it.

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Ports and directory of one playground.
#[derive(Debug)]
pub struct Layout {
    /// Directory of everything.
    pub dir: PathBuf,
    /// Nodes.
    pub nodes: u16,
    /// HTTP port of node 1.
    pub port: u16,
    /// What is known from an earlier run, and is kept for the next.
    pub memory: Memory,
    /// Held for as long as this playground runs.
    _lock: File,
}

/// `playground.json`: what a later run in the same directory has to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Number of nodes; addresses are part of the cluster, so neither may change.
    pub nodes: u16,
    /// HTTP port of node 1.
    pub port: u16,
    /// The cluster's id, once formed.
    pub cluster_id: Option<String>,
    /// How far the sample is.
    pub sample: SampleState,
}

/// How far the sample is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleState {
    /// Nothing was sent.
    #[default]
    Absent,
    /// Some of it may be there.
    Begun,
    /// All of it was acknowledged.
    Loaded,
}

impl Layout {
    /// Takes hold of `dir`, new or used before.
    ///
    /// # Errors
    /// Where another playground runs in it, or it was made with other nodes or ports.
    pub fn open(dir: PathBuf, nodes: Option<u16>, port: Option<u16>) -> anyhow::Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // Children are given paths; one that is relative would follow the shell's directory, not ours.
        let dir = dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
        let lock = File::create(dir.join("playground.lock")).context("cannot make the lock file")?;
        ensure!(lock.try_lock().is_ok(), "another playground runs in {}", dir.display());
        let memory = match fs::read(dir.join("playground.json")) {
            Ok(bytes) => {
                Some(serde_json::from_slice::<Memory>(&bytes).context("playground.json is damaged")?)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).context("cannot read playground.json"),
        };
        let memory = match memory {
            Some(memory) => agree(memory, nodes, port, &dir)?,
            None => Memory { nodes: nodes.unwrap_or(3), port: port.unwrap_or(8081), ..Memory::default() },
        };
        let (nodes, port) = (memory.nodes, memory.port);
        ensure!((1..=9).contains(&nodes), "--nodes must be 1 to 9, not {nodes}");
        ensure!(port >= 1 && port.checked_add(2 * nodes).is_some(), "--port {port} leaves no room above it");
        let layout = Layout { dir, nodes, port, memory, _lock: lock };
        layout.save()?;
        Ok(layout)
    }

    /// Ids, 1 and up.
    pub fn ids(&self) -> std::ops::RangeInclusive<u16> {
        1..=self.nodes
    }

    /// Where a node serves HTTP.
    pub fn http(&self, id: u16) -> String {
        format!("127.0.0.1:{}", self.port + id - 1)
    }

    /// Where a node serves its peers: above the HTTP ports of all.
    pub fn peer(&self, id: u16) -> String {
        format!("127.0.0.1:{}", self.port + self.nodes + id - 1)
    }

    /// A node's data directory.
    pub fn data_dir(&self, id: u16) -> PathBuf {
        self.dir.join(format!("node-{id}"))
    }

    /// A node's log file.
    pub fn log_file(&self, id: u16) -> PathBuf {
        self.dir.join(format!("node-{id}.log"))
    }

    /// Writes what a later run has to know.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn save(&self) -> anyhow::Result<()> {
        write_atomically(&self.dir.join("playground.json"), &self.memory)
    }

    /// Checks that every port can be had, before anything is started. Waits a little: the nodes of a playground
    /// that was killed need a moment to notice.
    ///
    /// # Errors
    /// Names the port that is in use.
    pub fn check_ports(&self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        for id in self.ids() {
            for address in [self.http(id), self.peer(id)] {
                while let Err(error) = TcpListener::bind(&address) {
                    if Instant::now() > deadline {
                        bail!("cannot listen on {address} ({error}); choose other ports with --port");
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
        Ok(())
    }
}

fn agree(memory: Memory, nodes: Option<u16>, port: Option<u16>, dir: &Path) -> anyhow::Result<Memory> {
    let same = nodes.is_none_or(|n| n == memory.nodes) && port.is_none_or(|p| p == memory.port);
    ensure!(
        same,
        "{} holds a cluster of {} nodes from port {} on, and addresses are part of a cluster: leave out --nodes and \
         --port, or choose another --dir",
        dir.display(),
        memory.nodes,
        memory.port
    );
    Ok(memory)
}

/// Writes JSON so that a reader sees the old or the new file, never a part.
///
/// # Errors
/// As the operating system says.
pub fn write_atomically(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let temporary = path.with_extension("json.new");
    let mut file =
        File::create(&temporary).with_context(|| format!("cannot write {}", temporary.display()))?;
    serde_json::to_writer_pretty(&mut file, value)?;
    file.write_all(b"\n")?;
    fs::rename(&temporary, path).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_listen_above_the_http_ports() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::open(dir.path().into(), Some(3), Some(9000)).expect("a new directory");
        let http: Vec<_> = layout.ids().map(|id| layout.http(id)).collect();
        let peers: Vec<_> = layout.ids().map(|id| layout.peer(id)).collect();
        assert_eq!(http, ["127.0.0.1:9000", "127.0.0.1:9001", "127.0.0.1:9002"]);
        assert_eq!(peers, ["127.0.0.1:9003", "127.0.0.1:9004", "127.0.0.1:9005"]);
    }

    #[test]
    fn a_directory_keeps_its_nodes_and_ports() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut layout = Layout::open(dir.path().into(), Some(5), Some(9100)).expect("a new directory");
        layout.memory.sample = SampleState::Loaded;
        layout.save().expect("room");
        let told = Layout::open(dir.path().into(), None, None).expect_err("in use").to_string();
        assert!(told.contains("another playground"), "{told}");
        drop(layout);
        let again = Layout::open(dir.path().into(), None, None).expect("the same directory");
        assert_eq!((again.nodes, again.port, again.memory.sample), (5, 9100, SampleState::Loaded));
        drop(again);
        let told = Layout::open(dir.path().into(), None, Some(9200)).expect_err("other ports").to_string();
        assert!(told.contains("5 nodes from port 9100"), "{told}");
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("bound");
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::open(dir.path().into(), Some(1), Some(address.port())).expect("a new directory");
        let told = layout.check_ports(Duration::ZERO).expect_err("taken").to_string();
        assert!(told.contains(&address.to_string()) && told.contains("--port"), "{told}");
    }
}
