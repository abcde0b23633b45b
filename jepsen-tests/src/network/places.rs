//! A node that comes back under another number stays where it is.
//!
//! Networks know places; the number of the first node that was put there names it. A node that was rebuilt is a
//! member of its own, on the machine and at the addresses of the one that it stands for.

use super::{Addresses, End, Network, Trouble};
use crate::history::NodeId;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// A network whose nodes may change their numbers.
pub struct Places {
    network: Arc<dyn Network>,
    /// Of those that are where another one was first.
    moved: Mutex<BTreeMap<NodeId, NodeId>>,
}

impl Places {
    /// Each node in a place of its own.
    pub fn of(network: Arc<dyn Network>) -> Self {
        Places { network, moved: Mutex::default() }
    }

    /// From now on `new` is where `old` was.
    pub fn takes_over(&self, new: NodeId, old: NodeId) {
        let place = self.place(old);
        self.moved.lock().expect("no panic while held").insert(new, place);
    }

    fn place(&self, node: NodeId) -> NodeId {
        self.moved.lock().expect("no panic while held").get(&node).copied().unwrap_or(node)
    }

    fn end(&self, end: End) -> End {
        match end {
            End::Node(node) => End::Node(self.place(node)),
            End::Clients => End::Clients,
        }
    }
}

#[async_trait]
impl Network for Places {
    fn name(&self) -> &'static str {
        self.network.name()
    }

    fn addresses(&self, node: NodeId) -> Addresses {
        self.network.addresses(self.place(node))
    }

    fn admin_source(&self) -> Option<IpAddr> {
        self.network.admin_source()
    }

    fn enter(&self, node: NodeId) -> Vec<OsString> {
        self.network.enter(self.place(node))
    }

    fn started(&self, node: NodeId, pid: u32) {
        self.network.started(self.place(node), pid);
    }

    async fn impose(&self, layer: &str, links: &[(End, End, Trouble)]) -> anyhow::Result<()> {
        let links: Vec<_> =
            links.iter().map(|(from, to, trouble)| (self.end(*from), self.end(*to), *trouble)).collect();
        self.network.impose(layer, &links).await
    }

    async fn lift(&self, layer: &str) -> anyhow::Result<()> {
        self.network.lift(layer).await
    }

    async fn harmed(&self, from: End, to: End) -> anyhow::Result<u64> {
        self.network.harmed(self.end(from), self.end(to)).await
    }

    async fn reset(&self) {
        self.network.reset().await;
    }

    async fn close(&self) {
        self.network.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::loopback::Loopback;

    #[tokio::test]
    async fn a_number_that_took_over_has_the_place_and_the_trouble_of_the_first_one() {
        let network = Loopback::new(2).await.expect("ports");
        let places = Places::of(network.clone());
        places.takes_over(5, 2);
        places.takes_over(9, 5);
        assert_eq!(places.addresses(9), network.addresses(2));
        assert_ne!(places.addresses(6), network.addresses(2), "a place of its own");
        assert_eq!(places.end(End::Node(9)), End::Node(2));
        assert_eq!((places.end(End::Node(1)), places.end(End::Clients)), (End::Node(1), End::Clients));
        places.close().await;
    }
}
