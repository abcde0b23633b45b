//! A cluster in one process: real storage, real sockets on loopback.

use futures::future::BoxFuture;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;
use stockroom_raft::{
    Clock, Cluster, Connect, Formed, Phase, RaftOptions, Role, Running, Seams, Served, StartError,
    SystemClock, bootstrap, start,
};
use stockroom_storage::StorageOptions;
use stockroom_storage::codec::{ProposalBytes, encode_proposal};
use stockroom_storage::fs::FileSystem;
use stockroom_storage::shop::command::{Command, PlaceOrder, PutItem, Reserve};
use stockroom_storage::shop::command::{NewOrderLine, OrderSource};
use stockroom_storage::shop::effect::Reply;
use stockroom_storage::shop::ids::{IdempotencyKey, Location, OrderName, Quantity, ReservationId, Sku};
use stockroom_storage::shop::reservation::{Reservation, ReservationStatus, StockLine};
use stockroom_storage::spawn::{Spawn, ThreadSpawn};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// Everything that is waited for comes within this, or the test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// Waits for a condition, and says which one did not come.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = soon();
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A wall clock that a test can turn.
#[derive(Debug, Default)]
pub struct TurnedClock {
    system: SystemClock,
    offset_ms: AtomicI64,
}

impl TurnedClock {
    pub fn turn_ms(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }
}

impl Clock for TurnedClock {
    fn wall_ms(&self) -> u64 {
        self.system.wall_ms().saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic()
    }
}

/// Workers on threads; the one of this name stands still while it is held.
#[derive(Debug, Clone)]
pub struct HeldWorker {
    name: &'static str,
    state: Arc<Mutex<(bool, Option<Waker>)>>,
}

impl HeldWorker {
    pub fn new(name: &'static str) -> Self {
        HeldWorker { name, state: Arc::default() }
    }

    pub fn hold(&self, held: bool) {
        let mut state = self.state.lock().expect("no panic");
        state.0 = held;
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }
}

impl Spawn for HeldWorker {
    fn spawn(&self, name: &str, mut worker: BoxFuture<'static, ()>) -> io::Result<()> {
        if name != self.name {
            return ThreadSpawn.spawn(name, worker);
        }
        let state = Arc::clone(&self.state);
        let held = poll_fn(move |cx| {
            // Until it has done what it is at: who holds it waits for that, and then it does nothing more.
            let mut state = state.lock().expect("no panic");
            if state.0 {
                state.1 = Some(cx.waker().clone());
                return Poll::Pending;
            }
            worker.as_mut().poll(cx)
        });
        ThreadSpawn.spawn(name, Box::pin(held))
    }
}

pub struct Node {
    pub id: u64,
    pub dir: PathBuf,
    pub address: SocketAddr,
    pub clock: Arc<TurnedClock>,
    pub running: Option<Running>,
    pub configure: fn(&mut RaftOptions),
    /// Instead of the real one.
    pub fs: Option<Arc<dyn FileSystem>>,
    /// Instead of threads.
    pub spawn: Option<Arc<dyn Spawn>>,
    /// To its peers, instead of TCP.
    pub connect: Option<Arc<dyn Connect>>,
    _temporary: TempDir,
}

impl Node {
    /// A node with an empty directory, started and waiting, or joining the cluster at `join`.
    pub async fn start(id: u64, join: Vec<String>, configure: fn(&mut RaftOptions)) -> Node {
        Node::start_on(id, join, configure, None).await
    }

    /// The same, on another file system than the real one.
    pub async fn start_on(
        id: u64,
        join: Vec<String>,
        configure: fn(&mut RaftOptions),
        fs: Option<Arc<dyn FileSystem>>,
    ) -> Node {
        let (mut node, listener) = Node::prepare(id, configure).await;
        node.fs = fs;
        node.run(listener, join).await;
        node
    }

    /// Waiting, with its workers where `spawn` puts them.
    pub async fn start_with(id: u64, spawn: Arc<dyn Spawn>) -> Node {
        Node::start_prepared(id, unchanged, |node| {
            node.spawn = Some(spawn);
            Vec::new()
        })
        .await
    }

    /// A node with an empty directory, once it was made ready: joining what comes of that.
    pub async fn start_prepared(
        id: u64,
        configure: fn(&mut RaftOptions),
        ready: impl FnOnce(&mut Node) -> Vec<String>,
    ) -> Node {
        let (mut node, listener) = Node::prepare(id, configure).await;
        let join = ready(&mut node);
        node.run(listener, join).await;
        node
    }

    /// Waiting, with its connections by way of `connect`.
    pub async fn start_connecting(id: u64, connect: Arc<dyn Connect>) -> Node {
        let (mut node, listener) = Node::prepare(id, unchanged).await;
        node.connect = Some(connect);
        node.run(listener, Vec::new()).await;
        node
    }

    /// Not started yet.
    pub async fn prepare(id: u64, configure: fn(&mut RaftOptions)) -> (Node, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let node = Node {
            id,
            dir: temporary.path().join("data"),
            address: listener.local_addr().expect("it is bound"),
            clock: Arc::default(),
            running: None,
            configure,
            fs: None,
            spawn: None,
            connect: None,
            _temporary: temporary,
        };
        (node, listener)
    }

    pub async fn run(&mut self, listener: TcpListener, join: Vec<String>) {
        self.running = Some(self.try_run(listener, join).await.expect("it starts"));
    }

    async fn try_run(&self, listener: TcpListener, join: Vec<String>) -> Result<Running, StartError> {
        let mut options = RaftOptions::new(self.id, self.dir.clone(), StorageOptions::new(&self.dir));
        options.peer_address = self.address.to_string();
        options.http_address = format!("127.0.0.1:{}", self.id);
        options.version = "test".into();
        options.join = join;
        // sled has one lock for all stores of a process, and closes one that is dropped without a
        // flush under it: nodes that crash beside others in one process can stop them all. The
        // real disk has a test of its own; here state is built from snapshot file and log.
        options.storage.memory_base = true;
        (self.configure)(&mut options);
        if let Some(fs) = &self.fs {
            options.storage.fs = Arc::clone(fs);
        }
        if let Some(spawn) = &self.spawn {
            options.storage.spawn = Arc::clone(spawn);
        }
        let mut seams = Seams { clock: Arc::clone(&self.clock) as Arc<dyn Clock>, ..Seams::default() };
        if let Some(connect) = &self.connect {
            seams.connect = Arc::clone(connect);
        }
        start(options, listener, seams).await
    }

    /// Starts it again on its directory, at its address.
    pub async fn restart(&mut self) {
        self.restart_joining(Vec::new()).await;
    }

    /// The same where it may refuse.
    pub async fn try_restart(&mut self) -> Result<(), StartError> {
        let listener = TcpListener::bind(self.address).await.expect("its port is free");
        self.running = Some(self.try_run(listener, Vec::new()).await?);
        Ok(())
    }

    pub async fn restart_joining(&mut self, join: Vec<String>) {
        assert!(self.running.is_none(), "node {} runs", self.id);
        let deadline = soon();
        loop {
            // Port and directory are free once the last task of its former life has ended.
            let why = match TcpListener::bind(self.address).await {
                Ok(listener) => match self.try_run(listener, join.clone()).await {
                    Ok(running) => {
                        self.running = Some(running);
                        return;
                    }
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            assert!(Instant::now() < deadline, "node {} does not start: {why}", self.id);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops it in order.
    pub async fn shut_down(&mut self) {
        self.running.take().expect("it runs").shutdown().await.expect("it seals its log");
    }

    /// Stops it as a crash would.
    pub async fn halt(&mut self) {
        self.running.take().expect("it runs").halt().await;
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }

    /// Its part in the cluster, once it is a member.
    pub async fn member(&self) -> Cluster {
        let mut phase = self.running().phase.clone();
        let phase =
            tokio::time::timeout(PATIENCE, phase.wait_for(|phase| matches!(phase, Phase::Member(_)))).await;
        match phase.expect("a member in time").expect("it runs").clone() {
            Phase::Member(cluster) => cluster,
            other => unreachable!("{other:?}"),
        }
    }

    pub fn cluster(&self) -> Cluster {
        match &*self.running().phase.borrow() {
            Phase::Member(cluster) => cluster.clone(),
            other => panic!("node {} is no member: {other:?}", self.id),
        }
    }

    /// Why it stopped by itself.
    pub async fn stopped(&self) -> String {
        tokio::time::timeout(PATIENCE, self.running().stopped()).await.expect("it stops by itself")
    }
}

pub fn unchanged(_: &mut RaftOptions) {}

pub struct TestCluster {
    pub nodes: Vec<Node>,
    pub formed: Formed,
}

impl TestCluster {
    /// Nodes 1 to `count`, formed and led.
    pub async fn form(count: u64, configure: fn(&mut RaftOptions)) -> TestCluster {
        let mut nodes = Vec::new();
        for id in 1..=count {
            nodes.push(Node::start(id, Vec::new(), configure).await);
        }
        TestCluster::form_of(nodes).await
    }

    /// Forms a cluster of waiting nodes.
    pub async fn form_of(nodes: Vec<Node>) -> TestCluster {
        let formed = bootstrap(&listed(&nodes), soon()).await.expect("it forms");
        let cluster = TestCluster { nodes, formed };
        cluster.leader().await;
        cluster
    }

    pub fn node(&self, id: u64) -> &Node {
        self.nodes.iter().find(|node| node.id == id).expect("a node of this id")
    }

    pub fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).expect("a node of this id")
    }

    pub fn on(&self, id: u64) -> Cluster {
        self.node(id).cluster()
    }

    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.running.is_some())
    }

    /// The id of the leader that all running nodes follow.
    pub async fn leader(&self) -> u64 {
        let deadline = soon();
        loop {
            let mut seen = Vec::new();
            for node in self.running() {
                let status = node.member().await.status();
                seen.push((status.leader, status.term));
            }
            if let Some((Some(leader), _)) = seen.first()
                && seen.iter().all(|other| *other == seen[0])
                && self.running().any(|node| node.id == *leader)
            {
                return *leader;
            }
            assert!(Instant::now() < deadline, "no leader for all: {seen:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A running node that does not lead.
    pub async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        self.running().map(|node| node.id).find(|id| *id != leader).expect("more than one node")
    }

    /// Waits until all running nodes have applied the same index, and says that they agree there.
    pub async fn agree(&self) {
        until("all have applied the same index", || async {
            let mut applied = Vec::new();
            for node in self.running() {
                applied.push(node.member().await.reader().applied().fingerprint);
            }
            let same_index = applied.iter().all(|one| one.log_index == applied[0].log_index);
            assert!(!same_index || applied.iter().all(|one| *one == applied[0]), "{applied:?}");
            same_index
        })
        .await;
    }

    pub async fn role_of(&self, on: u64, id: u64) -> Option<Role> {
        let members = self.on(on).status().members;
        members.into_iter().find(|member| member.node_id == id).map(|member| member.role)
    }
}

pub fn listed(nodes: &[Node]) -> Vec<(u64, String)> {
    nodes.iter().map(|node| (node.id, node.address.to_string())).collect()
}

pub fn sku(name: &str) -> Sku {
    Sku::new(name).expect("a SKU")
}

fn quantity(units: u64) -> Quantity {
    Quantity::new(units).expect("a quantity")
}

static KEYS: AtomicU64 = AtomicU64::new(0);

/// A proposal under a key of its own.
pub fn proposal(command: Command) -> ProposalBytes {
    let key = format!("key-{}", KEYS.fetch_add(1, Ordering::Relaxed));
    encode_proposal(Some(IdempotencyKey::new(&key).expect("a key")), command)
}

pub fn item(name: &str) -> Command {
    put_item(name, None)
}

/// With an attribute of this text.
pub fn item_with(name: &str, text: &str) -> Command {
    put_item(name, Some(format!(r#"{{"text":"{text}"}}"#).into()))
}

fn put_item(name: &str, attributes: Option<Arc<str>>) -> Command {
    Command::PutItem(PutItem { sku: sku(name), name: None, price: None, attributes, expected_version: None })
}

fn stock_line(name: &str, units: u64) -> StockLine {
    StockLine { sku: sku(name), location: Location::main(), quantity: quantity(units) }
}

pub fn receive(name: &str, units: u64) -> Command {
    Command::Receive(vec![stock_line(name, units)])
}

pub fn reserve(id: &str, name: &str, units: u64, ttl_ms: u64) -> Command {
    let id = Some(ReservationId::chosen(id).expect("an id"));
    Command::Reserve(Reserve { id, ttl_ms, lines: vec![stock_line(name, units)] })
}

pub fn order(id: &str, name: &str, units: u64) -> Command {
    let line = NewOrderLine {
        sku: sku(name),
        location: Location::main(),
        quantity: quantity(units),
        amount_minor: Some(100),
    };
    Command::PlaceOrder(PlaceOrder {
        name: Some(OrderName::chosen(id).expect("an id")),
        customer_id: None,
        currency: None,
        pay_by: None,
        metadata: std::collections::BTreeMap::new(),
        source: OrderSource::Lines(vec![line]),
    })
}

/// Proposes on a node; the outcome must be known, and the shop must agree.
pub async fn done(cluster: &Cluster, command: Command) -> Served {
    let served = cluster.propose(proposal(command), soon()).await.expect("an answer");
    assert!(served.answer.outcome.is_ok(), "{:?}", served.answer.outcome);
    served
}

/// Proposes the same command under the same key until its outcome is known.
pub async fn insist(cluster: impl Fn() -> Cluster, command: Command) -> Result<Reply, String> {
    insist_on(cluster, proposal(command)).await
}

/// Proposes the same until its outcome is known.
pub async fn insist_on(cluster: impl Fn() -> Cluster, proposal: ProposalBytes) -> Result<Reply, String> {
    let deadline = soon();
    loop {
        let attempt = Instant::now() + Duration::from_secs(2);
        match cluster().propose(proposal.clone(), attempt).await {
            Ok(served) => return served.answer.outcome.map_err(|rejection| rejection.to_string()),
            Err(error) => assert!(Instant::now() < deadline, "no answer: {error}"),
        }
    }
}

pub fn order_name(id: &str) -> OrderName {
    OrderName::chosen(id).expect("an id")
}

/// Where a reservation stands in a node's state.
pub fn reservation(cluster: &Cluster, id: &str) -> Option<ReservationStatus> {
    find_reservation(cluster, id).map(|reservation| reservation.status)
}

/// When a hold ends, in ms on the replicated clock.
pub fn expires_at(cluster: &Cluster, id: &str) -> u64 {
    find_reservation(cluster, id).expect("it is there").expires_at.0
}

fn find_reservation(cluster: &Cluster, id: &str) -> Option<Reservation> {
    let id = ReservationId::chosen(id).expect("an id");
    cluster.reader().view().expect("a view").reservation(&id).expect("readable")
}
