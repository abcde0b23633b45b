//! One node, through all its lives: its number, addresses and files, and what its server is started with.

use super::Options;
use super::clock::{self, Clock};
use super::disk::Disk;
use super::process::Process;
use super::shim::Faults;
use crate::history::NodeId;
use crate::network::Addresses;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One node, through all its lives.
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Where it listens and is reached.
    pub addresses: Addresses,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// All that it ever printed.
    pub log: PathBuf,
    /// Orders to its fault shim, where it has one.
    pub faults: Option<Arc<Faults>>,
    /// Its clock, where it can be set.
    pub clock: Option<Arc<Clock>>,
    /// Its disk, where it has one of its own.
    pub disk: Option<Arc<Disk>>,
    pub(super) arguments: Vec<String>,
    pub(super) process: tokio::sync::Mutex<Process>,
}

impl Drop for Node {
    /// Where a run breaks off, its processes are killed as they are dropped, and cannot clean up.
    fn drop(&mut self) {
        if let (Some(pid), true) = (self.process.get_mut().pid, self.clock.is_some()) {
            clock::clean_up_after(pid);
        }
    }
}

impl Node {
    pub(super) async fn new(id: NodeId, options: &Options, join: Option<&str>) -> anyhow::Result<Self> {
        let addresses = options.network.addresses(id);
        let mut arguments: Vec<String> = [
            ("--node-id", id.to_string()),
            ("--http-listen", addresses.http_listen.clone()),
            ("--http-advertise", addresses.http_clients.clone()),
            ("--peer-listen", addresses.peer_listen.clone()),
            ("--peer-advertise", addresses.peer_advertise.clone()),
            ("--log-format", "text".to_owned()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        for (flag, value) in &options.needs.settings {
            arguments.extend([(*flag).to_owned(), value.clone()]);
        }
        if let Some(peer) = join {
            arguments.extend(["--join".to_owned(), peer.to_owned()]);
        }
        let (dir, needs) = (&options.dir, &options.needs);
        let own = dir.join(format!("node-{id}"));
        let disk = match needs.own_disks {
            true => Some(Arc::new(Disk::create(&dir.join(format!("disks/node-{id}.ext4")), &own).await?)),
            false => None,
        };
        let data_dir = disk.as_ref().map_or(own, |disk| disk.data());
        let control = |what: &str| dir.join(format!("node-{id}.{what}"));
        Ok(Node {
            id,
            addresses,
            log: control("log"),
            faults: needs
                .shim
                .then(|| Faults::create(&control("faults"), &data_dir))
                .transpose()?
                .map(Arc::new),
            clock: needs.faketime.then(|| Clock::create(&control("clock"))).transpose()?.map(Arc::new),
            disk,
            data_dir,
            arguments,
            process: tokio::sync::Mutex::default(),
        })
    }

    /// What its preloaded libraries have to know.
    pub(super) fn equipment(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let faults = self.faults.iter().flat_map(|faults| faults.environment());
        faults.chain(self.clock.iter().flat_map(|clock| clock.environment()))
    }

    /// The last line that is not empty, of what it printed.
    pub(super) fn last_line(&self) -> String {
        const TAIL_BYTES: u64 = 64 * 1024;
        let read = || -> std::io::Result<String> {
            let mut file = std::fs::File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
    }
}
