//! A network of namespaces, with root: real packets on virtual wires.
//!
//! Every node has a namespace of its own on a bridge. A cut is a rule of nftables, which drops and counts;
//! delay, jitter, reordering, loss and rate are the work of a netfilter queue that the harness reads
//! (`queue`). The harness asks nodes from one address as their clients, and looks at them from another,
//! so that a cut between clients and a node does not make the harness blind.
//!
//! Connections under a cut behave as TCP does: after a long cut a packet may be sent again only seconds
//! after the cut was lifted.

mod build;
mod queue;
mod rules;

use super::link::Links;
use super::{Addresses, End, Network, Trouble};
use crate::history::NodeId;
use anyhow::Context as _;
use async_trait::async_trait;
use build::Plan;
use queue::Reader;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock};
use tokio::task::spawn_blocking;

/// Every node has all ports to itself.
const HTTP_PORT: u16 = 8080;
const PEER_PORT: u16 = 7070;
const PROGRAMS: [(&str, &str); 3] = [("ip", "iproute2"), ("nft", "nftables"), ("nsenter", "util-linux")];

/// What this machine lacks for it, in words; nothing where it can be used. Tried once, by building a
/// namespace with all that is needed and taking it down.
pub fn missing() -> Option<String> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    FOUND.get_or_init(look).clone()
}

fn look() -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some("network namespaces need Linux".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for (program, package) in PROGRAMS {
        if !std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
            return Some(format!("network namespaces need `{program}` (Debian package {package})"));
        }
    }
    let error = Inner::new(1).and_then(|inner| inner.remove()).err()?;
    Some(format!(
        "network namespaces with nftables and a netfilter queue (kernel: NF_TABLES, NFT_COMPAT, \
         NETFILTER_XT_TARGET_NFQUEUE, VETH, BRIDGE) cannot be built: {error:#}"
    ))
}

/// The network.
pub struct Netns(Arc<Inner>);

struct Inner {
    plan: Plan,
    links: Arc<Links>,
    /// One change of rules at a time.
    readers: Mutex<BTreeMap<NodeId, Reader>>,
}

impl Netns {
    /// Removes what dead harnesses left behind, and builds the places of `nodes` nodes. Replacements get
    /// theirs when they are first asked for.
    ///
    /// # Errors
    /// Where the machine refuses.
    #[allow(clippy::new_ret_no_self, reason = "a run knows networks only by their trait")]
    pub async fn new(nodes: u64) -> anyhow::Result<Arc<dyn Network>> {
        let inner = spawn_blocking(move || Inner::new(nodes)).await??;
        Ok(Arc::new(Netns(Arc::new(inner))))
    }

    /// Changes what is imposed, and then the rules of every node.
    async fn change(&self, change: impl FnOnce(&Inner) + Send + 'static) -> anyhow::Result<()> {
        let inner = self.0.clone();
        spawn_blocking(move || {
            let readers = inner.readers.lock().expect("no panic while held");
            change(&inner);
            inner.apply(&readers)
        })
        .await?
    }
}

impl Inner {
    fn new(nodes: u64) -> anyhow::Result<Self> {
        build::remove_leftovers()?;
        let inner = Inner { plan: Plan::new()?, links: Arc::default(), readers: Mutex::default() };
        inner.plan.build_switch()?;
        for node in 1..=nodes {
            inner.place(node)?;
        }
        Ok(inner)
    }

    /// Makes a node's namespace, where there is none yet.
    fn place(&self, node: NodeId) -> anyhow::Result<()> {
        let mut readers = self.readers.lock().expect("no panic while held");
        if readers.contains_key(&node) {
            return Ok(());
        }
        self.plan.build_node(node)?;
        rules::prepare(&self.plan, node)?;
        let reader = Reader::start(&self.plan, node, self.links.clone())?;
        readers.insert(node, reader);
        // It may be named in a layer that was imposed before.
        self.apply(&readers)
    }

    /// Puts in force what holds now. A reader is woken before rules send it packets, and may sleep only
    /// after they have ceased to.
    fn apply(&self, readers: &BTreeMap<NodeId, Reader>) -> anyhow::Result<()> {
        let troubled = self.links.troubled();
        for (node, reader) in readers {
            reader.ensure_alive().with_context(|| format!("the faults of node {node} ended"))?;
            let late = |(from, to, trouble): &(End, End, Trouble)| {
                rules::place(*from, *to) == Some(*node) && !trouble.cut
            };
            let active = troubled.iter().any(late);
            if active {
                reader.set_active(true);
            }
            rules::apply(&self.plan, *node, &troubled)?;
            reader.set_active(active);
        }
        Ok(())
    }

    fn remove(&self) -> anyhow::Result<()> {
        let readers = std::mem::take(&mut *self.readers.lock().expect("no panic while held"));
        for reader in readers.values() {
            reader.stop();
        }
        self.plan.remove()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("the network of namespaces could not be taken down: {error:#}");
        }
    }
}

#[async_trait]
impl Network for Netns {
    fn name(&self) -> &'static str {
        "netns"
    }

    fn addresses(&self, node: NodeId) -> Addresses {
        let (http, peer) = (self.0.plan.node(node), self.0.plan.node(node));
        let (http, peer) = (format!("{http}:{HTTP_PORT}"), format!("{peer}:{PEER_PORT}"));
        Addresses {
            http_listen: http.clone(),
            http_clients: http,
            peer_listen: peer.clone(),
            peer_advertise: peer,
        }
    }

    fn admin_source(&self) -> Option<IpAddr> {
        Some(self.0.plan.admin().into())
    }

    /// # Panics
    /// Where a place for a node beyond the first cannot be built.
    fn enter(&self, node: NodeId) -> Vec<OsString> {
        self.0.place(node).unwrap_or_else(|error| panic!("no place for node {node}: {error:#}"));
        rules::enter(&self.0.plan, node)
    }

    fn started(&self, _node: NodeId, _pid: u32) {}

    async fn impose(&self, layer: &str, links: &[(End, End, Trouble)]) -> anyhow::Result<()> {
        let (layer, links) = (layer.to_owned(), links.to_vec());
        self.change(move |inner| inner.links.change(|layers| layers.impose(&layer, &links))).await
    }

    async fn lift(&self, layer: &str) -> anyhow::Result<()> {
        let layer = layer.to_owned();
        self.change(move |inner| inner.links.change(|layers| layers.lift(&layer))).await
    }

    async fn harmed(&self, from: End, to: End) -> anyhow::Result<u64> {
        let inner = self.0.clone();
        let dropped = spawn_blocking(move || {
            let readers = inner.readers.lock().expect("no panic while held");
            let reader = rules::place(from, to).and_then(|node| readers.get(&node));
            let Some(reader) = reader else { return Ok(0) };
            reader.ensure_alive()?;
            rules::dropped(&inner.plan, from, to)
        });
        Ok(dropped.await?? + self.0.links.link(from, to).harmed())
    }

    async fn reset(&self) {
        let inner = self.0.clone();
        let reset = spawn_blocking(move || {
            let readers = inner.readers.lock().expect("no panic while held");
            readers.keys().try_for_each(|node| rules::reset(&inner.plan, *node))
        });
        if let Ok(Err(error)) = reset.await {
            eprintln!("connections could not be reset: {error:#}");
        }
    }

    async fn close(&self) {
        let inner = self.0.clone();
        match spawn_blocking(move || inner.remove()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("the network of namespaces could not be taken down: {error:#}"),
            Err(error) => eprintln!("the network of namespaces could not be taken down: {error}"),
        }
    }
}
