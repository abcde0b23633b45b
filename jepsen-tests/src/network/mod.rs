//! The network between the nodes, and between clients and nodes, with its faults.
//!
//! Two kinds stand behind one trait: [`loopback`] needs no root and puts the harness's own TCP proxies
//! between every pair; [`netns`] gives every node a network namespace on a bridge, and breaks packets.

mod link;
pub mod loopback;
pub mod netns;
pub mod places;
mod trouble;

use crate::history::NodeId;
use async_trait::async_trait;
use std::ffi::OsString;

/// One end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// A node.
    Node(NodeId),
    /// All clients of the harness.
    Clients,
}

/// What is wrong with what travels in one direction. The default is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Trouble {
    /// Nothing passes.
    pub cut: bool,
    /// Everything is late by this much, in milliseconds.
    pub delay_ms: u32,
    /// And by a random part of this much, in milliseconds.
    pub jitter_ms: u32,
    /// Part of the packets that are lost, 0 to 1. TCP sends them again: what is seen is lateness.
    pub loss: f64,
    /// Part of the packets that are overtaken by later ones, 0 to 1.
    pub reorder: f64,
    /// At most this many kilobits a second, where not 0.
    pub rate_kbit: u32,
}

impl Trouble {
    /// Nothing passes.
    pub const CUT: Trouble =
        Trouble { cut: true, delay_ms: 0, jitter_ms: 0, loss: 0.0, reorder: 0.0, rate_kbit: 0 };

    /// Both at once: the worse of each.
    #[must_use]
    pub fn and(self, other: Trouble) -> Trouble {
        let slower = match (self.rate_kbit, other.rate_kbit) {
            (0, rate) | (rate, 0) => rate,
            (a, b) => a.min(b),
        };
        Trouble {
            cut: self.cut || other.cut,
            delay_ms: self.delay_ms.max(other.delay_ms),
            jitter_ms: self.jitter_ms.max(other.jitter_ms),
            loss: self.loss.max(other.loss),
            reorder: self.reorder.max(other.reorder),
            rate_kbit: slower,
        }
    }
}

/// Where a node listens and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// The node's own HTTP listener. The harness looks at nodes here, past all faults.
    pub http_listen: String,
    /// Where clients reach it, through the faults.
    pub http_clients: String,
    /// The node's own peer listener.
    pub peer_listen: String,
    /// Where the other nodes reach it, through the faults.
    pub peer_advertise: String,
}

/// A network with faults. Faults are imposed in layers, one a nemesis, so that several nemeses can act at
/// the same time and each lifts only its own; where layers meet, the worse of each holds.
#[async_trait]
pub trait Network: Send + Sync {
    /// `loopback` or `netns`.
    fn name(&self) -> &'static str;

    /// Where a node listens and is reached. Known for ids beyond the first nodes too: replacements.
    fn addresses(&self, node: NodeId) -> Addresses;

    /// The local address from which the harness asks nodes past all faults, where it matters.
    fn admin_source(&self) -> Option<std::net::IpAddr>;

    /// Words to put before a node's command line, so that it runs in its place in the network.
    fn enter(&self, node: NodeId) -> Vec<OsString>;

    /// Tells that a node's process was started: a proxy has to know whose connection it carries.
    fn started(&self, node: NodeId, pid: u32);

    /// Puts trouble on links, each in the direction (from, to), in addition to other layers; replaces
    /// what this layer held before. Connections are not closed by it: bytes wait as they would for TCP's
    /// retransmission.
    ///
    /// # Errors
    /// Where the machine refuses.
    async fn impose(&self, layer: &str, links: &[(End, End, Trouble)]) -> anyhow::Result<()>;

    /// Takes a layer's trouble away.
    ///
    /// # Errors
    /// Where the machine refuses.
    async fn lift(&self, layer: &str) -> anyhow::Result<()>;

    /// How many packets (or pieces of a stream) from one end to the other were held, lost or made late
    /// since the beginning. Grows only where a fault met something.
    ///
    /// # Errors
    /// Where the machine refuses.
    async fn harmed(&self, from: End, to: End) -> anyhow::Result<u64>;

    /// Ends all connections through the faults, as a rebooted router would.
    async fn reset(&self);

    /// Takes down what was built. Called once, after all nodes have ended.
    async fn close(&self);
}
