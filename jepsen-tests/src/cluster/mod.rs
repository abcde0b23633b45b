//! The cluster under test: real `stockroom serve` processes, their disks and clocks.

pub mod clock;
pub mod disk;
mod holds;
pub mod machine;
pub mod members;
mod needs;
mod node;
mod observe;
mod process;
mod rebuilt;
pub mod resources;
pub mod shim;

pub use needs::Needs;
pub use node::Node;
pub use process::settings_not_passed_on;

use crate::client::Mischief;
use crate::history::{Backup, Exit, Micros, NodeId};
use crate::network::Network;
use crate::network::places::Places;
use anyhow::{Context as _, bail};
use holds::Claims;
use process::without_settings;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long starting, forming and becoming ready may take.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How a cluster is made.
pub struct Options {
    /// The `stockroom` binary.
    pub binary: PathBuf,
    /// Directory of the run: data, logs, control files.
    pub dir: PathBuf,
    /// How many nodes.
    pub nodes: u64,
    /// What the nemeses need.
    pub needs: Needs,
    /// Environment of every node, beside what [`Options::needs`] brings (a planted bug).
    pub environment: Vec<(String, String)>,
    /// The network, already built.
    pub network: Arc<dyn Network>,
    /// When time 0 of the history was.
    pub epoch: Instant,
    /// What clients do wrong; shared with them.
    pub mischief: Arc<Mischief>,
}

/// Real processes. All methods take `&self`: clients, nemeses and the supervisor use it at once.
pub struct Cluster {
    options: Options,
    /// All that there ever were: some nemesis may still know the numbers of those that are gone.
    nodes: Mutex<BTreeMap<NodeId, (Standing, Arc<Node>)>>,
    admin: reqwest::Client,
    exits: Mutex<Vec<Exit>>,
    claims: Mutex<Claims>,
    /// What nemeses saw that must not be.
    findings: Mutex<Vec<String>>,
    /// Backups that were taken and unpacked.
    backups: Mutex<Vec<Backup>>,
    /// Held while a new node gets its number.
    joining: tokio::sync::Mutex<()>,
    /// Libraries that every node has preloaded.
    preload: Vec<PathBuf>,
    /// Where each node is.
    places: Places,
}

/// What a node is to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is meant to be a member: it is compared with the others, and asked at the end.
    Member,
    /// It is to be removed, or was: it runs until it has said so itself, and clients go on asking it.
    Leaving,
    /// Down for good.
    Gone,
}

impl Cluster {
    /// Starts all nodes, forms the cluster, and waits until every node is ready. From then on a node that
    /// ends by itself is started again after two seconds, as a service manager would.
    ///
    /// # Errors
    /// Where it does not come up within a minute; the message has the node's last line.
    pub async fn start(options: Options) -> anyhow::Result<Arc<Self>> {
        let mut admin = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2));
        if let Some(source) = options.network.admin_source() {
            admin = admin.local_address(source);
        }
        let mut preload = Vec::new();
        if options.needs.shim {
            preload.push(shim::build(&options.dir).await?);
        }
        if options.needs.faketime {
            preload.push(machine::libfaketime().context("there is no libfaketime")?);
        }
        let places = Places::of(options.network.clone());
        let mut nodes = BTreeMap::new();
        for id in 1..=options.nodes {
            nodes.insert(id, (Standing::Member, Arc::new(Node::new(id, &options, None).await?)));
        }
        let cluster = Arc::new(Cluster {
            options,
            nodes: Mutex::new(nodes),
            admin: admin.build()?,
            exits: Mutex::default(),
            claims: Mutex::default(),
            findings: Mutex::default(),
            backups: Mutex::default(),
            joining: tokio::sync::Mutex::default(),
            preload,
            places,
        });
        for id in cluster.ids() {
            cluster.start_node(id).await?;
        }
        cluster.bootstrap().await?;
        for id in cluster.ids() {
            cluster.wait_ready(id, PATIENCE).await?;
        }
        let weak = Arc::downgrade(&cluster);
        tokio::spawn(async move {
            while let Some(cluster) = weak.upgrade() {
                cluster.supervise().await;
                drop(cluster);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        Ok(cluster)
    }

    async fn bootstrap(&self) -> anyhow::Result<()> {
        let mut command: Vec<OsString> = self.places.enter(1);
        command.push(self.options.binary.clone().into());
        command.push("bootstrap".into());
        for node in self.that_are(|standing| standing == Standing::Member) {
            command.push("--member".into());
            command.push(format!("{}={}", node.id, node.addresses.peer_advertise).into());
        }
        let output = without_settings(&command).kill_on_drop(true).output();
        let output = tokio::time::timeout(PATIENCE, output).await.context("bootstrap did not end")??;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let nodes = self.that_are(|_| true);
            let lines: Vec<String> =
                nodes.iter().map(|node| format!("\n  node {}: {}", node.id, node.last_line())).collect();
            bail!("the cluster could not be formed: {}; last lines:{}", said.trim(), lines.concat());
        }
        Ok(())
    }

    fn that_are(&self, fit: impl Fn(Standing) -> bool) -> Vec<Arc<Node>> {
        let nodes = self.nodes.lock().expect("no panic while held");
        nodes.values().filter(|(standing, _)| fit(*standing)).map(|(_, node)| node.clone()).collect()
    }

    /// All nodes that are meant to belong to the cluster, running or not.
    pub fn ids(&self) -> Vec<NodeId> {
        self.that_are(|standing| standing == Standing::Member).iter().map(|node| node.id).collect()
    }

    /// The same with those that are being removed: whoever has their addresses goes on asking them.
    pub fn ids_with_leaving(&self) -> Vec<NodeId> {
        self.that_are(|standing| standing != Standing::Gone).iter().map(|node| node.id).collect()
    }

    /// One node, also one that is gone.
    ///
    /// # Panics
    /// Where there never was one of that number.
    pub fn node(&self, id: NodeId) -> Arc<Node> {
        let nodes = self.nodes.lock().expect("no panic while held");
        nodes.get(&id).map(|(_, node)| node.clone()).expect("a node of this cluster")
    }

    /// How it was made.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What lies between the nodes.
    pub fn network(&self) -> &dyn Network {
        &self.places
    }

    /// The time of the history.
    pub fn now(&self) -> Micros {
        Micros::try_from(self.options.epoch.elapsed().as_micros()).unwrap_or(Micros::MAX)
    }

    /// Processes that ended, so far.
    pub fn exits(&self) -> Vec<Exit> {
        self.exits.lock().expect("no panic while held").clone()
    }

    /// A backup was taken and verified.
    pub fn keep_backup(&self, backup: Backup) {
        self.backups.lock().expect("no panic while held").push(backup);
    }

    /// Backups, so far.
    pub fn backups(&self) -> Vec<Backup> {
        self.backups.lock().expect("no panic while held").clone()
    }

    /// Adds a new, empty node that joins the running cluster through any of the others; its number is one that no
    /// node ever had.
    ///
    /// # Errors
    /// Where the process cannot be made.
    pub async fn join(&self) -> anyhow::Result<NodeId> {
        let _one_at_a_time = self.joining.lock().await;
        let id = self.new_number();
        let node = Arc::new(Node::new(id, &self.options, Some(&self.peers())).await?);
        self.nodes.lock().expect("no panic while held").insert(id, (Standing::Member, node));
        self.start_node(id).await?;
        Ok(id)
    }

    /// One that no node ever had.
    fn new_number(&self) -> NodeId {
        let nodes = self.nodes.lock().expect("no panic while held");
        nodes.keys().next_back().map_or(1, |highest| highest + 1)
    }

    /// Where the members are reached by others, as settings have it.
    fn peers(&self) -> String {
        let members = self.that_are(|standing| standing == Standing::Member);
        let peers: Vec<String> = members.iter().map(|node| node.addresses.peer_advertise.clone()).collect();
        peers.join(",")
    }

    /// Stops all nodes cleanly, and then the network; unmounts their disks.
    ///
    /// # Errors
    /// Where a node does not end.
    pub async fn shutdown(&self) -> anyhow::Result<()> {
        let ids = self.ids_with_leaving();
        let ends = futures::future::join_all(ids.into_iter().map(|id| self.terminate(id))).await;
        self.places.close().await;
        for node in self.that_are(|_| true) {
            if let Some(disk) = &node.disk {
                disk.unmount().await?;
            }
        }
        for end in ends {
            end?;
        }
        Ok(())
    }

    /// Directory of the run.
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }
}
