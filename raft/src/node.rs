//! A node's life: waiting or joining, member, stopping.

use crate::alarms::Alarms;
use crate::clock::ReplicatedClock;
use crate::cluster::Cluster;
use crate::core::{Core, Raft};
use crate::disk_space::{self, Disk};
use crate::error::StartError;
use crate::network::{Dialer, Network, PeerIo};
use crate::options::{RaftOptions, Seams};
use crate::peers::Peers;
use crate::proposer::{self, Limits};
use crate::proto::MemberInfo;
use crate::server::Incoming;
use crate::snapshot::Beginning;
use crate::upgrade::Admission;
use crate::{
    Leadership, Stop, arrival, files, formation, forward, leadership, maintenance, reads, rebuild, server,
    snapshot, stop, ticker,
};
use futures::StreamExt;
use openraft::{Config, SnapshotPolicy};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use stockroom_storage::error::StorageError;
use stockroom_storage::fs::FileSystem;
use stockroom_storage::identity::{self, Identity};
use stockroom_storage::shop::planted::{self, Bug};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

/// Where a node stands.
#[derive(Debug, Clone)]
pub enum Phase {
    /// Its data directory is empty; a bootstrap makes it a member.
    WaitingForBootstrap,
    /// Its data directory is empty, and it asks to be taken into a cluster.
    Joining,
    /// It is part of a cluster.
    Member(Cluster),
}

/// A node that runs.
#[derive(Debug)]
pub struct Running {
    /// Where it stands.
    pub phase: watch::Receiver<Phase>,
    node: Arc<Node>,
}

/// What all parts of a node share, also before it is a member.
pub(crate) struct Node {
    pub(crate) options: RaftOptions,
    pub(crate) seams: Seams,
    pub(crate) dialer: Dialer,
    /// Of its data directory.
    pub(crate) incarnation: u64,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) stop: Stop,
    pub(crate) ending: CancellationToken,
    /// Forming and joining: one step at a time.
    pub(crate) forming: tokio::sync::Mutex<()>,
    formation: Mutex<Vec<MemberInfo>>,
    core: OnceLock<Arc<Core>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("node_id", &self.options.node_id).finish_non_exhaustive()
    }
}

/// Starts a node: it serves its peers on `listener`, and takes part in the cluster that its data
/// directory belongs to; with an empty one it waits to be bootstrapped, or joins.
///
/// # Errors
/// See [`StartError`].
pub async fn start(options: RaftOptions, listener: TcpListener, seams: Seams) -> Result<Running, StartError> {
    let incoming = TcpListenerStream::new(listener).map(|connection| {
        let connection = connection?;
        connection.set_nodelay(true)?;
        Ok(Box::new(connection) as Box<dyn PeerIo>)
    });
    start_on(options, Box::pin(incoming), seams).await
}

/// [`start`] on connections of any kind.
///
/// # Errors
/// See [`StartError`].
pub async fn start_on(options: RaftOptions, incoming: Incoming, seams: Seams) -> Result<Running, StartError> {
    options.check()?;
    let (fs, dir) = (Arc::clone(&options.storage.fs), options.dir.clone());
    if let Some(why) = files::load_refusal(fs.as_ref(), &dir)? {
        return Err(StartError::Refused(why));
    }
    let known = identity::load(fs.as_ref(), &dir)?;
    if let Some(known) = known
        && known.node_id != options.node_id
    {
        return Err(StartError::Option(format!(
            "{} belongs to node {}, this one is set to be node {}",
            dir.display(),
            known.node_id,
            options.node_id
        )));
    }
    let incarnation = match known {
        Some(known) => known.incarnation,
        None => files::load_or_mint_incarnation(fs.as_ref(), &dir, || (seams.random)())?,
    };
    let first = if options.join.is_empty() { Phase::WaitingForBootstrap } else { Phase::Joining };
    let (phase, watched) = watch::channel(first);
    let node = Arc::new(Node {
        dialer: Dialer::new(Arc::clone(&seams.connect)),
        incarnation,
        phase,
        stop: Stop::default(),
        ending: CancellationToken::new(),
        forming: tokio::sync::Mutex::default(),
        formation: Mutex::default(),
        core: OnceLock::new(),
        options,
        seams,
    });
    let running = Running { phase: watched, node: Arc::clone(&node) };
    // Peers may call before the data directory is open: a node must not look empty meanwhile.
    let opening = node.forming.lock().await;
    tokio::spawn(server::serve(Arc::clone(&node), incoming));
    if let Some(identity) = known {
        node.set_formation(files::load_formation(fs.as_ref(), &dir)?);
        node.open(identity, None).await?;
    }
    drop(opening);
    if !node.options.initial_cluster.is_empty() {
        let (node, ending) = (Arc::clone(&node), node.ending.clone());
        tokio::spawn(async move { ending.run_until_cancelled(arrival::form(node)).await });
    }
    if known.is_none() && !node.options.join.is_empty() {
        let ending = node.ending.clone();
        tokio::spawn(async move { ending.run_until_cancelled(formation::join(node)).await });
    }
    Ok(running)
}

/// A node that hands leadership over waits so long for followers to end their streams: what one of them sent and has
/// no answer to would else be unknown to its callers. A dead one does not end its stream.
const FAREWELL: Duration = Duration::from_secs(2);
/// Time for the last answers to reach the network. Nothing says when they have: tonic lets go of a stream once its last
/// frame is queued with the connection, whose own task hands it to the socket the next time it runs. Where that task
/// is kept waiting for longer, the follower loses the stream, and tells its callers that the outcome is unknown.
const FLUSH: Duration = Duration::from_millis(20);

impl Running {
    /// Why the node stopped by itself, once it does: the process must end, with this message and
    /// not as a success.
    pub async fn stopped(&self) -> String {
        self.node.stop.reason().await
    }

    /// Stops in order: takes no more, waits for what is in flight, hands leadership over, seals
    /// the log.
    ///
    /// # Errors
    /// [`StorageError`] where the log could not be sealed: nothing acknowledged is lost by that.
    pub async fn shutdown(self) -> Result<(), StorageError> {
        let Some(core) = self.node.core() else {
            self.node.ending.cancel();
            return Ok(());
        };
        core.draining.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + Duration::from_millis(core.options.drain_timeout_ms);
        while !core.is_idle() && !core.lost_its_quorum() && Instant::now() < deadline {
            if !core.leadership.borrow().mine && core.all_stop() {
                core.queue.refuse_all("the whole cluster is being stopped");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let cluster = Cluster { core: Arc::clone(&core) };
        if core.leadership.borrow().mine
            && core.voters().len() > 1
            && let Err(error) = cluster.transfer(None, deadline).await
        {
            tracing::warn!(%error, "nobody took over; the voters that go on will elect a leader");
        }
        let farewell = deadline.min(Instant::now() + FAREWELL);
        while Arc::strong_count(&core.streams) > 1 && Instant::now() < farewell {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // What was answered last is with the transport, not yet with the follower.
        tokio::time::sleep(FLUSH.min(deadline.saturating_duration_since(Instant::now()))).await;
        self.end(&core).await;
        let closed = core.storage.close().await;
        drop((cluster, self));
        release(core).await;
        closed
    }

    /// Stops at once, as a crash would: nothing is drained, handed over or sealed. For simulations,
    /// which must let go of each [`Cluster`] of it before they start it again.
    pub async fn halt(self) {
        match self.node.core() {
            Some(core) => {
                self.end(&core).await;
                drop(self);
                release(core).await;
            }
            None => self.node.ending.cancel(),
        }
    }

    async fn end(&self, core: &Core) {
        self.node.ending.cancel();
        if let Err(error) = core.raft.shutdown().await {
            tracing::warn!(?error, "openraft did not end in order");
        }
    }
}

/// Waits until the tasks of a node that ended have let go of it, and the workers of its storage of its directory.
async fn release(core: Arc<Core>) {
    let holders = core.storage.log.holders();
    drop(core);
    let deadline = Instant::now() + Duration::from_secs(5);
    while holders.strong_count() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.node.ending.cancel();
    }
}

impl Node {
    pub(crate) fn core(&self) -> Option<Arc<Core>> {
        self.core.get().cloned()
    }

    pub(crate) fn fs(&self) -> &dyn FileSystem {
        self.options.storage.fs.as_ref()
    }

    pub(crate) fn identity(&self, cluster_id: u128) -> Identity {
        Identity { cluster_id, node_id: self.options.node_id, incarnation: self.incarnation, group_id: 0 }
    }

    pub(crate) fn formation(&self) -> Vec<MemberInfo> {
        self.formation.lock().expect("no holder of this lock can panic").clone()
    }

    pub(crate) fn set_formation(&self, members: Vec<MemberInfo>) {
        *self.formation.lock().expect("no holder of this lock can panic") = members;
    }

    /// Opens the data directory and takes part in the cluster. A new node may begin with a snapshot.
    pub(crate) async fn open(
        self: &Arc<Self>,
        identity: Identity,
        beginning: Option<Beginning>,
    ) -> Result<(), StartError> {
        let mut storage = stockroom_storage::open(self.options.storage.clone(), &identity).await?;
        if let Some(beginning) = beginning
            && let Some(file) = snapshot::fetch_to_begin(&self.dialer, &identity, &storage, &beginning).await
        {
            storage.install_fetched(file).await?;
        }
        if let Some(at_least) = storage.snapshot_needed {
            let file = snapshot::fetch(&self.dialer, &identity, &storage, &self.peers(), at_least).await;
            storage.install_fetched(file).await?;
        }
        let (log, state_machine) = (storage.log.clone(), storage.state_machine.clone());
        let reader = storage.reader.clone();
        let peers = Peers::default();
        let network =
            Network { identity, dialer: self.dialer.clone(), peers: peers.clone(), reader: reader.clone() };
        let config = Arc::new(config(&self.options, &identity)?);
        let raft = Raft::new(identity.node_id, config, network, log, state_machine)
            .await
            .map_err(|fatal| StartError::Raft(fatal.to_string()))?;
        // A leader that is killed and restarted at once must not go on in its term: its unsynced
        // tail is gone, and it would give other contents the same log ids.
        let restore = Some(planted::is(Bug::LeaderRestore));
        assert_eq!(raft.config().enable_leader_restore, restore, "leaders must not restore themselves");
        // openraft reports its vote a moment later.
        let term = storage.log.vote().map_or(0, |vote| vote.leader_id.term);
        let (leadership_sender, leadership) = watch::channel(Leadership { term, ..Leadership::default() });
        let core = Arc::new(Core {
            limits: Limits::new(self.options.proposals_in_flight, self.options.bytes_in_flight),
            options: self.options.clone(),
            identity,
            raft,
            reader,
            storage,
            dialer: self.dialer.clone(),
            peers,
            time: Arc::clone(&self.seams.clock),
            queue: proposer::Queue::default(),
            reads: reads::Reads::default(),
            leadership,
            entries: AtomicUsize::new(0),
            landed: Notify::new(),
            draining: AtomicBool::new(false),
            stop: self.stop.clone(),
            ending: self.ending.clone(),
            next_stream: AtomicU64::new(1),
            streams: Arc::default(),
            board: Mutex::default(),
            clock: Mutex::new(ReplicatedClock::default()),
            alarms: Alarms::default(),
            disk: Disk::default(),
            snapshots: maintenance::Writing::default(),
            admission: Admission::default(),
        });
        self.spawn_all(&core, leadership_sender);
        let _ = self.core.set(Arc::clone(&core));
        self.phase.send_replace(Phase::Member(Cluster { core }));
        Ok(())
    }

    fn spawn_all(self: &Arc<Self>, core: &Arc<Core>, leadership: watch::Sender<Leadership>) {
        let spawn = |task: futures::future::BoxFuture<'static, ()>| {
            let ending = self.ending.clone();
            tokio::spawn(async move { ending.run_until_cancelled(task).await });
        };
        spawn(Box::pin(leadership::watch(Arc::clone(core), leadership)));
        spawn(Box::pin(stop::watch_openraft(Arc::clone(core))));
        spawn(Box::pin(stop::watch_log(Arc::clone(core))));
        spawn(Box::pin(arrival::announce(Arc::clone(self), Arc::clone(core))));
        spawn(Box::pin(route(Arc::clone(core))));
        spawn(Box::pin(Arc::clone(core).pulse()));
        spawn(Box::pin(ticker::run(Arc::clone(core))));
        #[cfg(feature = "next-version")]
        spawn(Box::pin(crate::upgrade::rehearse(Arc::clone(core))));
        spawn(Box::pin(maintenance::run(Arc::clone(core))));
        spawn(Box::pin(disk_space::watch(Arc::clone(core))));
        spawn(Box::pin(rebuild::finish(Arc::clone(core))));
    }

    /// Peers that may have a snapshot, as far as they are known without the state.
    fn peers(&self) -> Vec<String> {
        let own = self.options.node_id;
        let formed = self.formation().into_iter().filter(|member| member.node_id != own);
        let mut peers: Vec<String> = formed.map(|member| member.peer_address).collect();
        peers.extend(self.options.join.iter().cloned());
        // It would wait for itself.
        peers.retain(|peer| *peer != self.options.peer_address);
        peers
    }
}

/// openraft's configuration; see the design for each.
fn config(options: &RaftOptions, identity: &Identity) -> Result<Config, StartError> {
    let config = Config {
        cluster_name: format!("{:032x}", identity.cluster_id),
        heartbeat_interval: options.heartbeat_interval_ms,
        election_timeout_min: options.election_timeout_min_ms,
        election_timeout_max: options.election_timeout_max_ms,
        enable_leader_restore: Some(planted::is(Bug::LeaderRestore)),
        enable_pre_vote: Some(true),
        // Snapshots by the size of the log, purging behind a verified file: see maintenance.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        max_payload_entries: 1_024,
        purge_batch_size: 4_096,
        install_snapshot_timeout: 60_000,
        // A follower takes entries as long as the leader still has them.
        replication_lag_threshold: u64::MAX,
        ..Config::default()
    };
    config.validate().map_err(|error| StartError::Option(error.to_string()))
}

/// Hands on what is queued: to the log where this node leads, else to the leader.
async fn route(core: Arc<Core>) {
    let mut leadership = core.leadership.clone();
    loop {
        let now = *leadership.borrow_and_update();
        let leader = now.leader.and_then(|leader| Some((leader, core.members().remove(&leader)?.0)));
        if now.mine {
            let mut for_reads = leadership.clone();
            tokio::join!(proposer::lead(&core, &mut leadership), reads::lead(&core, &mut for_reads));
            leadership.mark_changed();
        } else if let Some((leader_id, member)) = leader {
            forward::follow(&core, leader_id, &member, &mut leadership).await;
            leadership.mark_changed();
        } else {
            // What waits is swept now and then: what its caller gave up makes room.
            let _ = tokio::time::timeout(Duration::from_millis(100), leadership.changed()).await;
        }
        core.queue.sweep(false);
        let callers = core.reads.take(false);
        core.reads.push(callers);
    }
}
