//! The network: cut, slow, lossy, thin; and requests that arrive twice.

use super::{Effect, Entry, Injected, Nemesis, choice, named};
use crate::cluster::{Cluster, Needs};
use crate::history::NodeId;
use crate::network::{End, Trouble};
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long the network stays as it is between two changes of `flapping`.
const FLAP_MS: std::ops::Range<u64> = 150..900;
/// How often it changes.
const FLAPS: std::ops::RangeInclusive<u64> = 4..=10;

fn of_five() -> Needs {
    Needs { nodes: 5, ..Needs::default() }
}

/// Those of this file.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "partition",
        kind: "network",
        about: "any of the partitions below",
        needs: Needs::default,
        make: || Box::new(Partition::new("partition", None)),
    },
    Entry {
        name: "partition-leader",
        kind: "network",
        about: "the leader alone on one side",
        needs: Needs::default,
        make: || Box::new(Partition::new("partition-leader", Some(Shape::Leader))),
    },
    Entry {
        name: "partition-halves",
        kind: "network",
        about: "a majority and a minority",
        needs: Needs::default,
        make: || Box::new(Partition::new("partition-halves", Some(Shape::Halves))),
    },
    Entry {
        name: "partition-one-way",
        kind: "network",
        about: "the leader, or any node, is heard but hears nothing, or the other way round",
        needs: Needs::default,
        make: || Box::new(Partition::new("partition-one-way", Some(Shape::OneWay))),
    },
    Entry {
        name: "partition-bridge",
        kind: "network",
        about: "two halves that see one another only through one node",
        needs: Needs::default,
        make: || Box::new(Partition::new("partition-bridge", Some(Shape::Bridge))),
    },
    Entry {
        name: "partition-ring",
        kind: "network",
        about: "every node sees a majority, and no two see the same",
        needs: of_five,
        make: || Box::new(Partition::new("partition-ring", Some(Shape::Ring))),
    },
    Entry {
        name: "partition-clients",
        kind: "network",
        about: "clients cannot reach the leader, or are not heard from again",
        needs: Needs::default,
        make: || Box::new(Partition::new("partition-clients", Some(Shape::Clients))),
    },
    Entry {
        name: "flapping",
        kind: "network",
        about: "partitions that come and go faster than elections",
        needs: Needs::default,
        make: || Box::new(Partition::new("flapping", Some(Shape::Flapping))),
    },
    Entry {
        name: "slow-net",
        kind: "network",
        about: "delay and jitter on some links",
        needs: Needs::default,
        make: || Box::new(Partition::new("slow-net", Some(Shape::Slow))),
    },
    Entry {
        name: "lossy-net",
        kind: "network",
        about: "loss and reordering on all links",
        needs: Needs::default,
        make: || Box::new(Partition::new("lossy-net", Some(Shape::Lossy))),
    },
    Entry {
        name: "thin-net",
        kind: "network",
        about: "little bandwidth between nodes",
        needs: Needs::default,
        make: || Box::new(Partition::new("thin-net", Some(Shape::Thin))),
    },
    Entry {
        name: "duplicates",
        kind: "network",
        about: "requests of clients arrive a second time, at any node, up to seconds later",
        needs: Needs::default,
        make: || Box::new(Duplicates::default()),
    },
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    Leader,
    Halves,
    OneWay,
    Bridge,
    Ring,
    Clients,
    Flapping,
    Slow,
    Lossy,
    Thin,
}

pub(super) type Links = Vec<(End, End, Trouble)>;

/// Trouble on the links between nodes, or between clients and a node.
struct Partition {
    /// The layer of the network that is this one's own.
    layer: &'static str,
    shape: Option<Shape>,
    links: Links,
    harmed_before: u64,
}

impl Partition {
    fn new(layer: &'static str, shape: Option<Shape>) -> Self {
        Partition { layer, shape, links: Vec::new(), harmed_before: 0 }
    }

    async fn harmed(&self, cluster: &Cluster) -> anyhow::Result<u64> {
        let mut sum = 0;
        for (from, to, _) in &self.links {
            sum += cluster.network().harmed(*from, *to).await?;
        }
        Ok(sum)
    }
}

/// Every ordered pair with one end on each side.
pub(super) fn between(one: &[NodeId], other: &[NodeId], trouble: Trouble) -> Links {
    let both = |a: &NodeId, b: &NodeId| {
        [(End::Node(*a), End::Node(*b), trouble), (End::Node(*b), End::Node(*a), trouble)]
    };
    one.iter().flat_map(|a| other.iter().flat_map(move |b| both(a, b))).collect()
}

fn everywhere(ids: &[NodeId], trouble: Trouble) -> Links {
    let pairs = ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b)));
    pairs.filter(|(a, b)| a != b).map(|(a, b)| (End::Node(a), End::Node(b), trouble)).collect()
}

/// What is done, in words, the nodes it is about, and the links.
type Drawn = (String, Vec<NodeId>, Links);

fn draw(shape: Shape, mut ids: Vec<NodeId>, leader: Option<NodeId>, rng: &mut StdRng) -> Option<Drawn> {
    ids.shuffle(rng);
    let one = leader.filter(|_| rng.random_bool(0.7)).or_else(|| ids.first().copied())?;
    let others: Vec<NodeId> = ids.iter().copied().filter(|id| *id != one).collect();
    Some(match shape {
        Shape::Leader | Shape::Flapping => {
            let leader = leader?;
            let others: Vec<NodeId> = ids.iter().copied().filter(|id| *id != leader).collect();
            (
                format!("node {leader}, the leader, is alone"),
                vec![leader],
                between(&[leader], &others, Trouble::CUT),
            )
        }
        Shape::Halves => {
            let (many, few) = ids.split_at(ids.len() / 2 + 1);
            (format!("{} from {}", named(many), named(few)), few.to_vec(), between(many, few, Trouble::CUT))
        }
        Shape::OneWay => {
            let hears = rng.random_bool(0.5);
            let cut = |other: &NodeId| match hears {
                true => (End::Node(one), End::Node(*other), Trouble::CUT),
                false => (End::Node(*other), End::Node(one), Trouble::CUT),
            };
            let way = if hears { "hears the others and is not heard" } else { "is heard and hears nobody" };
            (format!("node {one} {way}"), vec![one], others.iter().map(cut).collect())
        }
        Shape::Bridge => {
            let (left, right) = others.split_at(others.len() / 2);
            let what =
                format!("{} and {} see one another only through node {one}", named(left), named(right));
            (what, others.clone(), between(left, right, Trouble::CUT))
        }
        Shape::Ring => {
            // In the shuffled circle each sees its two neighbours, itself included a majority of five.
            let count = ids.len();
            let apart = |a: usize, b: usize| (a + 1) % count != b && (b + 1) % count != a && a != b;
            let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
            let cut = pairs.filter(|(a, b)| apart(*a, *b));
            let links = cut.map(|(a, b)| (End::Node(ids[a]), End::Node(ids[b]), Trouble::CUT)).collect();
            (format!("the ring {ids:?}: each sees its neighbours only"), ids.clone(), links)
        }
        Shape::Clients => {
            let (to, from) =
                ((End::Clients, End::Node(one), Trouble::CUT), (End::Node(one), End::Clients, Trouble::CUT));
            let (way, links) = match rng.random_range(0..3) {
                0 => ("do not reach", vec![to]),
                1 => ("hear nothing from", vec![from]),
                _ => ("are cut from", vec![to, from]),
            };
            (format!("clients {way} node {one}"), vec![one], links)
        }
        Shape::Slow => {
            let trouble = Trouble {
                delay_ms: rng.random_range(5..200),
                jitter_ms: rng.random_range(0..200),
                ..Trouble::default()
            };
            let what =
                format!("node {one} is {} ms away, give or take {}", trouble.delay_ms, trouble.jitter_ms);
            (what, vec![one], between(&[one], &others, trouble))
        }
        Shape::Lossy => {
            let trouble = Trouble {
                loss: rng.random_range(0.01..0.15),
                reorder: rng.random_range(0.0..0.2),
                ..Trouble::default()
            };
            let what = format!(
                "{:.0} % lost, {:.0} % overtaken on all links",
                trouble.loss * 100.0,
                trouble.reorder * 100.0
            );
            (what, ids.clone(), everywhere(&ids, trouble))
        }
        Shape::Thin => {
            let trouble = Trouble { rate_kbit: rng.random_range(64..1_024), ..Trouble::default() };
            (format!("{} kbit/s between nodes", trouble.rate_kbit), ids.clone(), everywhere(&ids, trouble))
        }
    })
}

#[async_trait]
impl Nemesis for Partition {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let ids = cluster.ids_with_leaving();
        let mut shapes = vec![Shape::Leader, Shape::Halves, Shape::OneWay, Shape::Bridge, Shape::Clients];
        if ids.len() >= 5 {
            shapes.push(Shape::Ring);
        }
        let shape = self.shape.or_else(|| choice(&shapes, rng));
        let leader = cluster.leader().await;
        let drawn = shape.and_then(|shape| draw(shape, ids, leader, rng));
        // Of two nodes, while members come and go, some shapes leave nothing to cut.
        let Some((what, nodes, links)) = drawn.filter(|(_, _, links)| !links.is_empty()) else {
            return Ok(None);
        };
        self.links = links;
        self.harmed_before = self.harmed(cluster).await?;
        cluster.network().impose(self.layer, &self.links).await?;
        if shape != Some(Shape::Flapping) {
            return Ok(Some(Injected { what, nodes, hold_ms: None }));
        }
        for _ in 0..rng.random_range(FLAPS) {
            tokio::time::sleep(Duration::from_millis(rng.random_range(FLAP_MS))).await;
            cluster.network().lift(self.layer).await?;
            tokio::time::sleep(Duration::from_millis(rng.random_range(FLAP_MS))).await;
            cluster.network().impose(self.layer, &self.links).await?;
        }
        Ok(Some(Injected { what: format!("{what}, on and off"), nodes, hold_ms: Some(0) }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let harmed = self.harmed(cluster).await? - self.harmed_before;
        cluster.network().lift(self.layer).await?;
        let evidence = format!("{harmed} packets or pieces of streams were held, lost or made late");
        Ok(Effect { effective: harmed > 0, evidence })
    }
}

#[derive(Default)]
struct Duplicates {
    before: u64,
}

#[async_trait]
impl Nemesis for Duplicates {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let mischief = &cluster.options().mischief;
        let (permille, late_ms) = (rng.random_range(100..500), rng.random_range(0..5_000));
        self.before = mischief.copies.load(Ordering::Relaxed);
        mischief.late_ms.store(late_ms, Ordering::Relaxed);
        mischief.duplicate_permille.store(permille, Ordering::Relaxed);
        let what = format!("{permille} of 1,000 requests are sent twice, up to {late_ms} ms later");
        Ok(Some(Injected { what, nodes: cluster.ids(), hold_ms: None }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let mischief = &cluster.options().mischief;
        mischief.duplicate_permille.store(0, Ordering::Relaxed);
        let copies = mischief.copies.load(Ordering::Relaxed) - self.before;
        Ok(Effect { effective: copies > 0, evidence: format!("{copies} second copies were answered") })
    }
}
