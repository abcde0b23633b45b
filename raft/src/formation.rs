//! Forming a cluster, exactly once, and joining one.
//!
//! A bootstrap asks all listed nodes first. Each must be empty and waiting, or have stored its part
//! of this very formation before. Then each stores its part, the one with the lowest id first, so
//! that of two bootstraps at once one is refused before it has touched another node; and the one
//! with the lowest id initializes Raft. Only it ever does, and only once: its log says so.

use crate::cluster::{Members, lost_disk};
use crate::core::Core;
use crate::network::{Connect, Dialer, Lane, TcpConnect};
use crate::node::{Node, Phase};
use crate::proto::hello_response::State;
use crate::proto::join_response::Result as JoinResult;
use crate::proto::{
    HelloRequest, HelloResponse, InitializeRequest, JoinRequest, JoinResponse, MemberInfo, PrepareRequest,
};
use crate::snapshot::Beginning;
use crate::{Cluster, arrival, files, upgrade, wire};
use openraft::errors::{InitializeError, RaftError};
use std::sync::Arc;
use std::time::Duration;
use stockroom_storage::identity;
use stockroom_storage::shop::version::ClusterVersion;
use stockroom_storage::type_config::Member;
use tokio::time::Instant;
use tonic::Status;

/// One call while forming a cluster takes at most so long; opening a new data directory is part of one.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(200);

/// A cluster that was formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formed {
    /// Random, minted once.
    pub cluster_id: u128,
    /// It was formed of these very nodes before.
    pub already: bool,
}

/// The cluster was not formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// The list itself cannot be.
    #[error("{0}")]
    List(String),
    /// A node did not answer in time. Run it again once it does.
    #[error("node {node_id} at {address} does not answer: {why}")]
    Unreachable {
        /// As listed.
        node_id: u64,
        /// As listed.
        address: String,
        /// As far as is known.
        why: String,
    },
    /// A node is not what it would have to be; nothing was done to it.
    #[error("node {node_id} at {address} refuses: {why}")]
    Refused {
        /// As listed.
        node_id: u64,
        /// As listed.
        address: String,
        /// And what to do.
        why: String,
    },
}

/// Forms a cluster of the listed nodes, exactly once. Safe to run again, also after it was
/// interrupted.
///
/// # Errors
/// See [`BootstrapError`].
pub async fn bootstrap(members: &[(u64, String)], deadline: Instant) -> Result<Formed, BootstrapError> {
    bootstrap_with(Arc::new(TcpConnect), members, deadline, rand::random()).await
}

/// [`bootstrap`] over another network, with the cluster id to use where none was minted before.
///
/// # Errors
/// See [`BootstrapError`].
pub async fn bootstrap_with(
    connect: Arc<dyn Connect>,
    members: &[(u64, String)],
    deadline: Instant,
    minted: u128,
) -> Result<Formed, BootstrapError> {
    let mut listed = members.to_vec();
    listed.sort();
    let twice = |by: fn(&(u64, String), &(u64, String)) -> bool| {
        listed.iter().enumerate().any(|(at, one)| listed[at + 1..].iter().any(|other| by(one, other)))
    };
    if listed.is_empty() || twice(|one, other| one.0 == other.0) || twice(|one, other| one.1 == other.1) {
        return Err(BootstrapError::List("list each node once, as id and peer address".into()));
    }
    let caller = Caller { dialer: Dialer::new(connect), deadline };
    loop {
        match caller.form(&listed, minted).await? {
            Some(formed) => return Ok(formed),
            // Another bootstrap was faster at the first node: take part in its formation.
            None => tokio::time::sleep(RETRY).await,
        }
    }
}

struct Caller {
    dialer: Dialer,
    deadline: Instant,
}

impl Caller {
    /// `None`: the first node was prepared by somebody else since it was asked.
    async fn form(&self, listed: &[(u64, String)], minted: u128) -> Result<Option<Formed>, BootstrapError> {
        let mut hellos = Vec::with_capacity(listed.len());
        for hello in futures::future::join_all(listed.iter().map(|node| self.hello(node))).await {
            hellos.push(hello?);
        }
        let formation: Vec<MemberInfo> =
            listed.iter().zip(&hellos).map(|(node, hello)| member_of(node, hello)).collect();
        let mut cluster_id = None;
        for (node, hello) in listed.iter().zip(&hellos) {
            let theirs = may_form(hello, node.0, &formation).map_err(|why| refused(node, why))?;
            if let (Some(one), Some(other)) = (cluster_id, theirs)
                && one != other
            {
                return Err(refused(
                    node,
                    format!("it belongs to cluster {other:032x}, others to {one:032x}"),
                ));
            }
            cluster_id = cluster_id.or(theirs);
        }
        let complete = hellos.iter().all(|hello| hello.state() == State::Member);
        let cluster_id = cluster_id.unwrap_or(minted);
        if !complete {
            // One after the other, the lowest id first: it decides between two at once.
            for (at, node) in listed.iter().enumerate() {
                match self.prepare(node, cluster_id, &formation).await {
                    Err(BootstrapError::Refused { .. })
                        if at == 0
                            && hellos[0].state() == State::Waiting
                            && Instant::now() < self.deadline =>
                    {
                        return Ok(None);
                    }
                    prepared => prepared?,
                }
            }
        }
        let already = self.initialize(&listed[0], cluster_id, in_common(listed, &hellos)?).await?;
        Ok(Some(Formed { cluster_id, already: complete || already }))
    }

    /// One call, tried again until the deadline where the node cannot be reached.
    async fn call<T, F>(
        &self,
        node: &(u64, String),
        mut call: impl FnMut(crate::proto::peer_client::PeerClient<tonic::transport::Channel>) -> F,
    ) -> Result<T, BootstrapError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        loop {
            let attempt = async {
                let client = self.dialer.client(&node.1, Lane::Control)?;
                call(client).await
            };
            let status = match tokio::time::timeout_at(
                self.deadline.min(Instant::now() + CALL_TIMEOUT),
                attempt,
            )
            .await
            {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => {
                    return Err(refused(node, status.message().to_owned()));
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            if Instant::now() + RETRY >= self.deadline {
                let why = status.message().to_owned();
                return Err(BootstrapError::Unreachable { node_id: node.0, address: node.1.clone(), why });
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn hello(&self, node: &(u64, String)) -> Result<HelloResponse, BootstrapError> {
        self.call(node, |mut client| async move { client.hello(HelloRequest {}).await }).await
    }

    async fn prepare(
        &self,
        node: &(u64, String),
        cluster_id: u128,
        formation: &[MemberInfo],
    ) -> Result<(), BootstrapError> {
        let request =
            PrepareRequest { cluster_id: wire::cluster_id_bytes(cluster_id), members: formation.to_vec() };
        let call = |mut client: crate::proto::peer_client::PeerClient<_>| {
            let request = request.clone();
            async move { client.prepare(request).await }
        };
        self.call(node, call).await.map(|_| ())
    }

    async fn initialize(
        &self,
        node: &(u64, String),
        cluster_id: u128,
        version: ClusterVersion,
    ) -> Result<bool, BootstrapError> {
        let cluster_id = wire::cluster_id_bytes(cluster_id);
        let request = InitializeRequest { cluster_id, cluster_version: version.0 };
        let call = |mut client: crate::proto::peer_client::PeerClient<_>| {
            let request = request.clone();
            async move { client.initialize(request).await }
        };
        self.call(node, call).await.map(|answer| answer.already)
    }
}

fn refused(node: &(u64, String), why: String) -> BootstrapError {
    BootstrapError::Refused { node_id: node.0, address: node.1.clone(), why }
}

fn member_of(node: &(u64, String), hello: &HelloResponse) -> MemberInfo {
    MemberInfo {
        node_id: node.0,
        incarnation: hello.incarnation,
        peer_address: hello.peer_address.clone(),
        http_address: hello.http_address.clone(),
        voter: true,
    }
}

/// The newest cluster version that all founders serve; with it the cluster begins.
fn in_common(listed: &[(u64, String)], hellos: &[HelloResponse]) -> Result<ClusterVersion, BootstrapError> {
    let served = |hello: &HelloResponse| wire::versions(hello.versions);
    let newest = hellos.iter().map(|hello| served(hello).newest).min().unwrap_or_default();
    match listed.iter().zip(hellos).find(|(_, hello)| served(hello).oldest > newest) {
        None => Ok(newest),
        Some((node, hello)) => Err(refused(
            node,
            format!(
                "its program serves cluster versions {}, that of another node at most {newest}: start all with the same program",
                served(hello)
            ),
        )),
    }
}

/// Whether formations are of the same nodes on the same disks. Addresses may have changed since.
fn same_nodes(one: &[MemberInfo], other: &[MemberInfo]) -> bool {
    let nodes = |members: &[MemberInfo]| {
        let mut nodes: Vec<(u64, u64)> =
            members.iter().map(|member| (member.node_id, member.incarnation)).collect();
        nodes.sort_unstable();
        nodes
    };
    nodes(one) == nodes(other)
}

/// Whether a node may take part, with the cluster id it has already; or why not.
fn may_form(hello: &HelloResponse, listed_id: u64, formation: &[MemberInfo]) -> Result<Option<u128>, String> {
    if hello.node_id != listed_id {
        return Err(format!("the node at this address has id {}", hello.node_id));
    }
    let theirs = wire::cluster_id(&hello.cluster_id);
    match hello.state() {
        State::Waiting => Ok(None),
        State::Joining => Err("it is set to join a cluster; start it without that to bootstrap one".into()),
        State::Prepared | State::Member if same_nodes(&hello.formation, formation) => Ok(theirs),
        State::Prepared => Err(format!(
            "it has stored its part of another formation, cluster {:032x}; bootstrap that one, or start it with an \
             empty data directory",
            theirs.unwrap_or_default()
        )),
        State::Member => Err(format!("it is a member of cluster {:032x}", theirs.unwrap_or_default())),
        State::Unspecified => Err("it does not say what it is".into()),
    }
}

/// What this node is.
pub(crate) async fn hello(node: &Node) -> HelloResponse {
    // One that is being started, or stores its part just now, knows in a moment.
    let settled = node.forming.lock().await;
    drop(settled);
    let mut hello = HelloResponse {
        node_id: node.options.node_id,
        incarnation: node.incarnation,
        peer_address: node.options.peer_address.clone(),
        http_address: node.options.http_address.clone(),
        versions: Some(wire::versions_info(node.options.storage.served)),
        ..HelloResponse::default()
    };
    let Some(core) = node.core() else {
        let state = if node.options.join.is_empty() { State::Waiting } else { State::Joining };
        hello.set_state(state);
        return hello;
    };
    hello.cluster_id = wire::cluster_id_bytes(core.identity.cluster_id);
    hello.formation = node.formation();
    let members = core.members();
    let formed = core.raft.is_initialized().await.unwrap_or(true);
    hello.set_state(if formed { State::Member } else { State::Prepared });
    hello.members =
        members.iter().map(|(id, (member, votes))| wire::member_info(*id, member, *votes)).collect();
    hello.leader = core.leadership.borrow().leader.unwrap_or_default();
    hello
}

/// Stores this node's part of a formation, and starts it.
pub(crate) async fn prepare(node: &Arc<Node>, request: PrepareRequest) -> Result<(), Status> {
    let cluster_id =
        wire::cluster_id(&request.cluster_id).ok_or_else(|| Status::invalid_argument("no cluster id"))?;
    let _one_at_a_time = node.forming.lock().await;
    if let Some(core) = node.core() {
        return if core.identity.cluster_id == cluster_id && same_nodes(&node.formation(), &request.members) {
            Ok(())
        } else {
            let theirs = core.identity.cluster_id;
            Err(Status::failed_precondition(format!(
                "it belongs to another formation, cluster {theirs:032x}"
            )))
        };
    }
    if !matches!(*node.phase.borrow(), Phase::WaitingForBootstrap) {
        return Err(Status::failed_precondition("it does not wait to be bootstrapped"));
    }
    let own = request.members.iter().find(|member| member.node_id == node.options.node_id);
    if own.is_none_or(|own| own.incarnation != node.incarnation) {
        return Err(Status::failed_precondition(
            "the formation does not have this node with this data directory",
        ));
    }
    let identity = node.identity(cluster_id);
    let stored = files::store_formation(node.fs(), &node.options.dir, &request)
        .and_then(|()| identity::store(node.fs(), &node.options.dir, &identity));
    if let Err(error) = stored {
        // Whether it is stored is unknown: only a restart can tell.
        node.stop.because(error.to_string());
        return Err(Status::internal(error.to_string()));
    }
    node.set_formation(request.members);
    if let Err(error) = node.open(identity, None).await {
        node.stop.because(error.to_string());
        return Err(Status::internal(error.to_string()));
    }
    Ok(())
}

/// Initializes Raft, on the node with the lowest id. True where it had been done before.
pub(crate) async fn initialize(node: &Arc<Node>, request: &InitializeRequest) -> Result<bool, Status> {
    let core = node.core().ok_or_else(|| Status::unavailable("not prepared"))?;
    if wire::cluster_id(&request.cluster_id) != Some(core.identity.cluster_id) {
        return Err(Status::failed_precondition("it belongs to another cluster"));
    }
    let formation = node.formation();
    if formation.iter().map(|member| member.node_id).min() != Some(core.node_id()) {
        return Err(Status::failed_precondition(
            "only the node with the lowest id of a formation initializes it",
        ));
    }
    let member = |info: MemberInfo| {
        let member = Member {
            peer_address: info.peer_address,
            http_address: info.http_address,
            incarnation: info.incarnation,
            promote: false,
        };
        (info.node_id, member)
    };
    let members: Members = formation.into_iter().map(member).collect();
    match core.raft.initialize(members).await {
        Ok(()) => {
            tracing::info!(cluster_id = format!("{:032x}", core.identity.cluster_id), "formed a cluster");
            // Only of the one who formed it: to form it again must not finalise an upgrade.
            upgrade::begin_at(core, ClusterVersion(request.cluster_version));
            Ok(false)
        }
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(true),
        Err(error) => Err(Status::unavailable(error.to_string())),
    }
}

/// Lets a node join, where this one leads.
pub(crate) async fn admit(node: &Arc<Node>, request: JoinRequest) -> Result<JoinResponse, Status> {
    let info = request.member.ok_or_else(|| Status::invalid_argument("a join without a member"))?;
    let theirs = wire::cluster_id(&request.cluster_id);
    let Some(core) = node.core() else {
        return Ok(join_response(JoinResult::NotLeader, "no member itself yet"));
    };
    let member = Member {
        peer_address: info.peer_address,
        http_address: info.http_address,
        incarnation: info.incarnation,
        promote: true,
    };
    let served = wire::versions(request.versions);
    if let Some(theirs) = theirs
        && let Some(why) = cannot_come_back(&core, theirs, info.node_id, &member)
    {
        return Ok(join_response(JoinResult::Refused, &why));
    }
    let _one_at_a_time = core.admission.gate.lock().await;
    if let Some(why) = upgrade::cannot_serve(&core, info.node_id, served) {
        core.admission.turn_away(info.node_id, &member.peer_address, &why);
        return Ok(join_response(JoinResult::Refused, &why));
    }
    let cluster = Cluster { core: Arc::clone(&core) };
    let has_another_disk = || {
        let members = core.members();
        members.get(&info.node_id).is_some_and(|(known, _)| known.incarnation != info.incarnation)
    };
    let known = core.members().contains_key(&info.node_id);
    if theirs.is_some() && !known {
        // Whether it was removed this node cannot say; it must not come in again as if it were new.
        return Ok(referral(&core, "not sure whether it is a member"));
    }
    let mut response = match cluster.add_learner(info.node_id, member).await {
        Ok(()) => JoinResponse {
            snapshot_index: core.storage.snapshot_for_a_new_node().unwrap_or_default(),
            ..join_response(JoinResult::Added, "")
        },
        // For good only where the id is another disk's: a change of members under way ends.
        Err(crate::ChangeError::Refused(why)) if has_another_disk() => {
            join_response(JoinResult::Refused, &why)
        }
        // Another change of members is under way, or nobody leads: ask again.
        Err(error) => join_response(JoinResult::NotLeader, &error.to_string()),
    };
    response.leader_address = referral(&core, "").leader_address;
    response.cluster_id = wire::cluster_id_bytes(core.identity.cluster_id);
    Ok(response)
}

/// Why a node that belongs to cluster `theirs` already is not taken in. One that is a member, and says where it is now,
/// is heard of.
fn cannot_come_back(core: &Core, theirs: u128, node_id: u64, member: &Member) -> Option<String> {
    let ours = core.identity.cluster_id;
    if theirs != ours {
        return Some(format!("node {node_id} belongs to cluster {theirs:032x}, this is cluster {ours:032x}"));
    }
    if let Some((known, _)) = core.members().get(&node_id)
        && known.incarnation == member.incarnation
    {
        // Also where this node does not lead: if many have moved, they must find each other to elect a leader.
        core.peers.of(node_id, member.incarnation).is_at(&member.peer_address);
    }
    arrival::removed(core, node_id)
}

/// Ask the leader, where another one is known.
fn referral(core: &Core, message: &str) -> JoinResponse {
    let mut response = join_response(JoinResult::NotLeader, message);
    let leader = core.leadership.borrow().leader.filter(|leader| *leader != core.node_id());
    if let Some((leader, _)) = leader.and_then(|leader| core.members().remove(&leader)) {
        response.leader_address = leader.peer_address;
    }
    response
}

fn join_response(result: JoinResult, message: &str) -> JoinResponse {
    JoinResponse { result: result.into(), message: message.to_owned(), ..JoinResponse::default() }
}

/// Joins the cluster of the configured peers: asks until it is taken in, or refused for good.
pub(crate) async fn join(node: Arc<Node>) {
    let mut ask: Vec<String> = node.options.join.clone();
    for attempt in 0.. {
        let address = ask[attempt % ask.len()].clone();
        match ask_to_join(&node, &address, None).await {
            Ok(response) => match response.result() {
                JoinResult::Added => return joined(&node, &response, &address).await,
                JoinResult::Refused => return node.stop.because(response.message),
                JoinResult::NotLeader | JoinResult::Unspecified => {
                    tracing::debug!(address, message = response.message, "not taken in yet");
                    if !response.leader_address.is_empty() && !ask.contains(&response.leader_address) {
                        ask.push(response.leader_address);
                    }
                }
            },
            Err(status) => tracing::debug!(address, %status, "a peer to join does not answer"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// `cluster_id`: of the cluster that this node is a member of already.
pub(crate) async fn ask_to_join(
    node: &Node,
    address: &str,
    cluster_id: Option<u128>,
) -> Result<JoinResponse, Status> {
    let mut client = node.dialer.client(address, Lane::Control)?;
    let member = MemberInfo {
        node_id: node.options.node_id,
        incarnation: node.incarnation,
        peer_address: node.options.peer_address.clone(),
        http_address: node.options.http_address.clone(),
        voter: false,
    };
    let call = client.join(JoinRequest {
        member: Some(member),
        cluster_id: cluster_id.map(wire::cluster_id_bytes).unwrap_or_default(),
        versions: Some(wire::versions_info(node.options.storage.served)),
    });
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(response) => response.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// `leader`: where the one is that took it in.
async fn joined(node: &Arc<Node>, response: &JoinResponse, leader: &str) {
    let Some(cluster_id) = wire::cluster_id(&response.cluster_id) else {
        return node.stop.because("the cluster to join did not say its id".into());
    };
    let _one_at_a_time = node.forming.lock().await;
    if let Some(core) = node.core() {
        if core.identity.cluster_id != cluster_id {
            node.stop.because(format!(
                "this data directory belongs to another cluster: {}",
                lost_disk(core.node_id())
            ));
        }
        return;
    }
    let identity = node.identity(cluster_id);
    let beginning = (response.snapshot_index > 0).then(|| {
        // A follower has the time: no write waits for a majority that can do without it. This node itself says nothing
        // until it has its snapshot.
        let others = |peer: &&String| **peer != leader && **peer != node.options.peer_address;
        let mut peers: Vec<String> = node.options.join.iter().filter(others).cloned().collect();
        peers.push(leader.to_owned());
        Beginning { snapshot_index: response.snapshot_index, peers }
    });
    let opened = match identity::store(node.fs(), &node.options.dir, &identity) {
        Ok(()) => node.open(identity, beginning).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(why) = opened {
        node.stop.because(why);
    }
}
