//! A network on 127.0.0.1, without root: proxies of the harness between every pair.
//!
//! Each node has two proxies. Its peer proxy is what it advertises to the others: its address has to be
//! the same for the whole cluster, so the proxy finds out from the kernel which node a connection comes
//! from (`attribute`). Its client proxy is where clients reach it. The node's own listeners stand
//! behind; only the harness itself looks at them directly.
//!
//! A connection that no node's process holds is a client's, also at a peer proxy: `stockroom bootstrap`
//! is a tool outside the cluster. A connection whose opener is gone already is dropped, as nobody waits
//! for its answer, and as it might come from a node behind a cut.

mod attribute;
mod carry;

use super::link::Links;
use super::{Addresses, End, Network, Trouble};
use crate::history::NodeId;
use anyhow::{Context as _, bail};
use async_trait::async_trait;
use attribute::Origin;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Ports of one node: its own two listeners and the two proxies before them.
const PORTS_PER_NODE: u16 = 4;
/// Below the range from which Linux picks ports for outgoing connections (32768 on), so that none is
/// taken while a node is down.
const FIRST_PORT: u16 = 12_000;
const PORTS: u16 = 18_000;
/// After an accept that failed (no file descriptors left): others may close some.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// The network.
pub struct Loopback {
    state: Arc<State>,
    runtime: Handle,
    /// Held by every task as a receiver: a new value ends connections, its end ends all.
    epoch: watch::Sender<Epoch>,
    nodes: Mutex<BTreeMap<NodeId, Addresses>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Epoch {
    Number(u64),
    Closed,
}

#[derive(Default)]
struct State {
    links: Links,
    pids: Mutex<HashMap<NodeId, u32>>,
    /// Why a connection could not be attributed: a fault would not act on it, so the run must not go on.
    blind: Mutex<Option<String>>,
}

/// What a proxy stands before.
#[derive(Debug, Clone, Copy)]
enum Gate {
    Peers,
    Clients,
}

impl Loopback {
    /// Builds the proxies of `nodes` nodes. Replacements get theirs when they are first asked for.
    ///
    /// # Errors
    /// Where this is not Linux, or no ports are free.
    #[allow(clippy::new_ret_no_self, reason = "a run knows networks only by their trait")]
    pub async fn new(nodes: u64) -> anyhow::Result<Arc<dyn Network>> {
        tokio::fs::read("/proc/net/tcp").await.context(
            "the loopback network needs Linux: it finds out in /proc/net/tcp whose a connection is",
        )?;
        let loopback = Loopback {
            state: Arc::default(),
            runtime: Handle::current(),
            epoch: watch::Sender::new(Epoch::Number(0)),
            nodes: Mutex::default(),
        };
        for node in 1..=nodes {
            loopback.place(node)?;
        }
        Ok(Arc::new(loopback))
    }

    /// A node's addresses. The first time they are chosen, and its proxies begin.
    fn place(&self, node: NodeId) -> anyhow::Result<Addresses> {
        let mut nodes = self.nodes.lock().expect("no panic while held");
        if let Some(addresses) = nodes.get(&node) {
            return Ok(addresses.clone());
        }
        let (first, [clients, peers]) = free_ports()?;
        let at = |offset| SocketAddr::from((Ipv4Addr::LOCALHOST, first + offset));
        let addresses = Addresses {
            http_clients: at(0).to_string(),
            peer_advertise: at(1).to_string(),
            http_listen: at(2).to_string(),
            peer_listen: at(3).to_string(),
        };
        let _context = self.runtime.enter();
        for (listener, gate, behind) in [(clients, Gate::Clients, at(2)), (peers, Gate::Peers, at(3))] {
            listener.set_nonblocking(true)?;
            let proxy =
                Proxy { state: self.state.clone(), node, gate, behind, epoch: self.epoch.subscribe() };
            tokio::spawn(proxy.serve(TcpListener::from_std(listener)?));
        }
        nodes.insert(node, addresses.clone());
        Ok(addresses)
    }
}

/// The first of four free ports in a row; the two for proxies are listened on at once.
fn free_ports() -> anyhow::Result<(u16, [std::net::TcpListener; 2])> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let bind = |port| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    // Harnesses that run at the same time start at different places.
    let offset = u16::try_from(std::process::id() % 900).expect("below 900") * 20;
    for _ in 0..PORTS / PORTS_PER_NODE {
        let next = offset.wrapping_add(NEXT.fetch_add(PORTS_PER_NODE, Ordering::Relaxed));
        let first = FIRST_PORT + next % PORTS;
        if let (Ok(one), Ok(two), Ok(_), Ok(_)) =
            (bind(first), bind(first + 1), bind(first + 2), bind(first + 3))
        {
            return Ok((first, [one, two]));
        }
    }
    bail!(
        "no {PORTS_PER_NODE} free ports in a row on 127.0.0.1 between {FIRST_PORT} and {}; end what holds them",
        FIRST_PORT + PORTS
    );
}

impl State {
    /// # Errors
    /// Where connections were seen that no fault acts on.
    fn ensure_sees(&self) -> anyhow::Result<()> {
        match &*self.blind.lock().expect("no panic while held") {
            Some(why) => bail!("a connection escaped the faults: {why}"),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Network for Loopback {
    fn name(&self) -> &'static str {
        "loopback"
    }

    /// # Panics
    /// Where no ports are free for a node beyond the first.
    fn addresses(&self, node: NodeId) -> Addresses {
        self.place(node).unwrap_or_else(|error| panic!("no place for node {node}: {error:#}"))
    }

    fn admin_source(&self) -> Option<IpAddr> {
        None
    }

    fn enter(&self, _node: NodeId) -> Vec<OsString> {
        Vec::new()
    }

    fn started(&self, node: NodeId, pid: u32) {
        let mut pids = self.state.pids.lock().expect("no panic while held");
        // The number may have belonged to an earlier life of another node.
        pids.retain(|_, known| *known != pid);
        pids.insert(node, pid);
    }

    async fn impose(&self, layer: &str, links: &[(End, End, Trouble)]) -> anyhow::Result<()> {
        self.state.ensure_sees()?;
        self.state.links.change(|layers| layers.impose(layer, links));
        Ok(())
    }

    async fn lift(&self, layer: &str) -> anyhow::Result<()> {
        self.state.links.change(|layers| layers.lift(layer));
        self.state.ensure_sees()
    }

    async fn harmed(&self, from: End, to: End) -> anyhow::Result<u64> {
        Ok(self.state.links.link(from, to).harmed())
    }

    async fn reset(&self) {
        self.epoch.send_modify(|epoch| {
            if let Epoch::Number(number) = epoch {
                *number += 1;
            }
        });
    }

    async fn close(&self) {
        self.epoch.send_replace(Epoch::Closed);
        // Every task holds a receiver.
        self.epoch.closed().await;
    }
}

/// Takes connections to one node.
struct Proxy {
    state: Arc<State>,
    node: NodeId,
    gate: Gate,
    /// The node's own listener.
    behind: SocketAddr,
    epoch: watch::Receiver<Epoch>,
}

impl Proxy {
    async fn serve(mut self, listener: TcpListener) {
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => self.take(stream, from),
                    Err(error) => {
                        eprintln!("a proxy of node {} cannot take a connection: {error}", self.node);
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                },
                changed = self.epoch.changed() => {
                    if changed.is_err() || *self.epoch.borrow() == Epoch::Closed {
                        return;
                    }
                }
            }
        }
    }

    fn take(&self, stream: TcpStream, from: SocketAddr) {
        let (state, node, gate, behind) = (self.state.clone(), self.node, self.gate, self.behind);
        let mut epoch = self.epoch.clone();
        tokio::spawn(async move {
            let ended = tokio::select! {
                () = carry(&state, &stream, from, node, gate, behind) => false,
                _ = epoch.changed() => true,
            };
            if ended {
                carry::break_off(&stream);
            }
        });
    }
}

async fn carry(
    state: &State,
    near: &TcpStream,
    from: SocketAddr,
    node: NodeId,
    gate: Gate,
    behind: SocketAddr,
) {
    let from = match gate {
        Gate::Clients => End::Clients,
        Gate::Peers => {
            let Ok(here) = near.local_addr() else { return };
            let pids = || state.pids.lock().expect("no panic while held").clone();
            match attribute::origin(from, here, pids).await {
                Ok(Origin::Node(node)) => End::Node(node),
                Ok(Origin::Stranger) => End::Clients,
                Ok(Origin::Gone) => return carry::break_off(near),
                Err(error) => {
                    *state.blind.lock().expect("no panic while held") = Some(format!("{error:#}"));
                    return carry::break_off(near);
                }
            }
        }
    };
    let (there, back) = (state.links.link(from, End::Node(node)), state.links.link(End::Node(node), from));
    if !carry::open(near, &there, &back).await {
        return;
    }
    match TcpStream::connect(behind).await {
        Ok(far) => carry::carry(near, far, there, back).await,
        // The node is down: as its machine would answer.
        Err(_) => carry::break_off(near),
    }
}
