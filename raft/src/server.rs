//! Peer RPC, the serving side.

use crate::cluster::{lost_disk, lost_log};
use crate::core::Core;
use crate::files;
use crate::formation;
use crate::forward;
use crate::members;
use crate::network::{PeerIo, WINDOW_BYTES};
use crate::node::Node;
use crate::peers;
use crate::proto::peer_server::{Peer, PeerServer};
use crate::proto::snapshot_part::Part;
use crate::proto::{
    Acknowledged, ChangeRequest, ChangeResponse, ConfirmRequest, ConfirmResponse, ForwardRequest,
    HandOverRequest, HandOverResponse, HelloRequest, HelloResponse, InitializeRequest, InitializeResponse,
    JoinRequest, JoinResponse, PrepareRequest, PrepareResponse, RaftFrame, Route, SnapshotPart,
    SnapshotProgress, SnapshotRequest, UpgradeRequest, UpgradeResponse,
};
use crate::snapshot;
use crate::upgrade;
use crate::wire;
use futures::{Stream, StreamExt, stream};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use stockroom_storage::codec::rpc_types::RpcMessage;
use stockroom_storage::shop::planted;
use stockroom_storage::shop::version::ClusterVersion;
use stockroom_storage::type_config::TypeConfig;
use stockroom_storage::version::must_serve;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Connections of peers as they arrive: a seam, so that a simulation can use its own network.
pub type Incoming = Pin<Box<dyn Stream<Item = io::Result<Box<dyn PeerIo>>> + Send>>;

/// Peers that are silent for so long are gone.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Serves peers until told to stop.
pub(crate) async fn serve(node: Arc<Node>, incoming: Incoming) {
    let (ending, ended) = (node.ending.clone(), node.ending.clone());
    let service = PeerServer::new(Service { node: Arc::clone(&node) })
        .max_decoding_message_size(wire::MESSAGE_LIMIT_BYTES)
        .max_encoding_message_size(wire::MESSAGE_LIMIT_BYTES);
    let served = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .add_service(service)
        .serve_with_incoming(incoming.map(move |connection| {
            let ended = Box::pin(ending.clone().cancelled_owned());
            connection.map(|io| Connection { io, ended })
        }));
    tokio::select! {
        served = served => match served {
            Ok(()) => node.stop.because("peers can no longer connect: the listener is closed".into()),
            Err(error) => node.stop.because(format!("peers can no longer connect: {error}")),
        },
        () = ended.cancelled() => {}
    }
}

/// A peer's connection as tonic wants it. Breaks when this node ends: the tasks that tonic started
/// for it would outlive the node otherwise.
struct Connection {
    io: Box<dyn PeerIo>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

struct Service {
    node: Arc<Node>,
}

impl Service {
    /// The member here, where the frame is meant for it.
    fn member(&self, route: Option<&Route>) -> Result<Arc<Core>, Status> {
        let Some(core) = self.node.core() else {
            return Err(self.no_member(route));
        };
        wire::check(route, &core.identity)?;
        if self.node.stop.is_told() {
            return Err(Status::unavailable(format!("node {} is stopping itself", core.node_id())));
        }
        self.must_serve(&core, route.map_or(0, |route| route.cluster_version))?;
        // A sender that the cluster knows with another disk is not the one it says it is.
        if let Some(route) = route
            && let Some((member, _)) = core.members().get(&route.from_node)
            && member.incarnation != route.from_incarnation
        {
            return Err(Status::failed_precondition(format!(
                "node {} is a member with another data directory",
                route.from_node
            )));
        }
        Ok(core)
    }

    /// A member says which cluster version is in force. A program that does not serve it could not apply what follows, nor
    /// read what it is sent.
    fn must_serve(&self, core: &Core, in_force: u32) -> Result<(), Status> {
        let served = core.options.storage.served;
        if in_force <= served.newest.0 {
            return Ok(());
        }
        let what = format!("the cluster of node {}", core.node_id());
        let Err(refused) = must_serve(served, ClusterVersion(in_force), &what) else { return Ok(()) };
        self.node.stop.because(refused.to_string());
        Err(Status::failed_precondition(refused.to_string()))
    }

    /// A leader says what it had from this node. Where that is not there any more, this node must not count: not
    /// now, nor after a restart, when there may be a leader that knows nothing of it.
    fn has_all(&self, core: &Core, acknowledged: Option<Acknowledged>) -> Result<(), Status> {
        let Some(acknowledged) = acknowledged.map(peers::Acknowledged::from) else { return Ok(()) };
        let Some(missing) = core.storage.log.missing(acknowledged.term, &acknowledged.log_id) else {
            return Ok(());
        };
        // What a snapshot brought is there before the log says that it was purged.
        let covered = core.storage.snapshot_index() >= Some(acknowledged.log_id.index);
        if (covered && missing.voted_in == acknowledged.term) || planted::may_lose_what_it_acknowledged() {
            return Ok(());
        }
        let why = lost_log(&core.identity, &acknowledged, &missing);
        if let Err(error) = files::store_refusal(self.node.fs(), &self.node.options.dir, &why) {
            tracing::error!(%error, "the next start will not know that this node must not be used");
        }
        self.node.stop.because(why.clone());
        Err(Status::data_loss(why))
    }

    /// A frame for a node that belongs to no cluster. Where the cluster knows it with another
    /// disk, it lost its data directory, and must not come back under its id.
    fn no_member(&self, route: Option<&Route>) -> Status {
        let (own, incarnation) = (self.node.options.node_id, self.node.incarnation);
        if let Some(route) = route
            && wire::cluster_id(&route.cluster_id).is_some()
            && route.to_node == own
            && route.to_incarnation != 0
            && route.to_incarnation != incarnation
        {
            self.node.stop.because(lost_disk(own));
        }
        Status::unavailable(format!("node {own} is no member of a cluster yet"))
    }

    /// Where answers to a frame go.
    fn reply<M: RpcMessage>(core: &Core, asked: Option<&Route>, message: &M) -> RaftFrame {
        let (to_node, to_incarnation) =
            asked.map_or((0, 0), |route| (route.from_node, route.from_incarnation));
        wire::frame(&core.route(to_node, to_incarnation), message)
    }
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

#[tonic::async_trait]
impl Peer for Service {
    type AppendStream = Answers<RaftFrame>;
    type SendSnapshotStream = Answers<SnapshotProgress>;
    type FetchSnapshotStream = Answers<SnapshotPart>;
    type ForwardStream = forward::Responses;

    async fn append(
        &self,
        request: Request<Streaming<RaftFrame>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let mut frames = request.into_inner();
        // The first frame says whom it is for; no stream is opened without one.
        let Some(first) = frames.message().await? else {
            return Ok(Response::new(Box::pin(stream::empty())));
        };
        let core = self.member(first.route.as_ref())?;
        self.has_all(&core, first.acknowledged)?;
        let route = first.route.clone();
        let refused: Arc<Mutex<Option<Status>>> = Arc::default();
        let (identity, noted) = (core.identity, Arc::clone(&refused));
        let requests = stream::once(async { Ok(first) }).chain(frames).scan((), move |(), frame| {
            let read = frame.and_then(|frame| {
                wire::check(frame.route.as_ref(), &identity)?;
                wire::message::<AppendEntriesRequest<TypeConfig>>(&frame)
            });
            let request = read.map_err(|status| {
                *noted.lock().expect("no holder of this lock can panic") = Some(status);
            });
            async move { request.ok() }
        });
        let answering = Arc::clone(&core);
        let answers = core.raft.stream_append(requests).map(move |result| match result {
            Ok(result) => Ok(Self::reply(&answering, route.as_ref(), &result)),
            Err(fatal) => Err(failed(fatal)),
        });
        // What ended the requests is told after the answers to those before.
        let end =
            stream::once(async move { refused.lock().expect("no holder of this lock can panic").take() })
                .filter_map(|status| async { status.map(Err) });
        Ok(Response::new(Box::pin(answers.chain(end))))
    }

    async fn append_one(&self, request: Request<RaftFrame>) -> Result<Response<RaftFrame>, Status> {
        let frame = request.into_inner();
        let core = self.member(frame.route.as_ref())?;
        self.has_all(&core, frame.acknowledged)?;
        let request: AppendEntriesRequest<TypeConfig> = wire::message(&frame)?;
        let answer = core.raft.append_entries(request).await.map_err(failed)?;
        Ok(Response::new(Self::reply(&core, frame.route.as_ref(), &answer)))
    }

    async fn vote(&self, request: Request<RaftFrame>) -> Result<Response<RaftFrame>, Status> {
        let frame = request.into_inner();
        let core = self.member(frame.route.as_ref())?;
        let request: VoteRequest<TypeConfig> = wire::message(&frame)?;
        let answer = core.raft.vote(request).await.map_err(failed)?;
        Ok(Response::new(Self::reply(&core, frame.route.as_ref(), &answer)))
    }

    async fn pre_vote(&self, request: Request<RaftFrame>) -> Result<Response<RaftFrame>, Status> {
        let frame = request.into_inner();
        let core = self.member(frame.route.as_ref())?;
        let request: VoteRequest<TypeConfig> = wire::message(&frame)?;
        let answer = core.raft.pre_vote(request).await.map_err(failed)?;
        Ok(Response::new(Self::reply(&core, frame.route.as_ref(), &answer)))
    }

    async fn transfer_leader(&self, request: Request<RaftFrame>) -> Result<Response<RaftFrame>, Status> {
        let frame = request.into_inner();
        let core = self.member(frame.route.as_ref())?;
        if core.draining.load(Ordering::Relaxed) {
            return Err(Status::unavailable("it is being stopped, too"));
        }
        let request: TransferLeaderRequest<TypeConfig> = wire::message(&frame)?;
        let answer = core.raft.handle_transfer_leader(request).await.map_err(failed)?;
        Ok(Response::new(Self::reply(&core, frame.route.as_ref(), &answer)))
    }

    async fn send_snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<Self::SendSnapshotStream>, Status> {
        let mut parts = request.into_inner();
        let first =
            parts.message().await?.ok_or_else(|| Status::invalid_argument("a snapshot without parts"))?;
        let core = self.member(first.route.as_ref())?;
        if let Some(Part::Begin(begin)) = &first.part {
            self.has_all(&core, begin.acknowledged)?;
        }
        Ok(Response::new(snapshot::receive(core, first, parts)))
    }

    async fn fetch_snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        let request = request.into_inner();
        let core = self.member(request.route.as_ref())?;
        Ok(Response::new(snapshot::serve(&core, &request)?))
    }

    async fn confirm(&self, request: Request<ConfirmRequest>) -> Result<Response<ConfirmResponse>, Status> {
        let request = request.into_inner();
        let core = self.member(request.route.as_ref())?;
        let (from, incarnation) =
            request.route.as_ref().map_or((0, 0), |route| (route.from_node, route.from_incarnation));
        // What the log has before the disk has it: no vote is told before it is there.
        let vote = core.storage.log.vote();
        let holds =
            vote.is_some_and(|vote| (vote.leader_id.term, vote.leader_id.voted_for) == (request.term, from));
        Ok(Response::new(ConfirmResponse { route: Some(core.route(from, incarnation)), holds }))
    }

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        // Each frame's route is checked as it comes; the headers go back at once.
        let core = self.node.core().ok_or_else(|| self.no_member(None))?;
        Ok(Response::new(forward::serve(core, request.into_inner())))
    }

    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(formation::hello(&self.node).await))
    }

    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        formation::prepare(&self.node, request.into_inner()).await?;
        Ok(Response::new(PrepareResponse {}))
    }

    async fn initialize(
        &self,
        request: Request<InitializeRequest>,
    ) -> Result<Response<InitializeResponse>, Status> {
        let already = formation::initialize(&self.node, &request.into_inner()).await?;
        Ok(Response::new(InitializeResponse { already }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        formation::admit(&self.node, request.into_inner()).await.map(Response::new)
    }

    async fn change(&self, request: Request<ChangeRequest>) -> Result<Response<ChangeResponse>, Status> {
        let request = request.into_inner();
        let core = self.member(request.route.as_ref())?;
        Ok(Response::new(members::serve_change(&core, request).await))
    }

    async fn upgrade(&self, request: Request<UpgradeRequest>) -> Result<Response<UpgradeResponse>, Status> {
        let request = request.into_inner();
        let core = self.member(request.route.as_ref())?;
        Ok(Response::new(upgrade::serve(&core, &request).await))
    }

    async fn hand_over(
        &self,
        request: Request<HandOverRequest>,
    ) -> Result<Response<HandOverResponse>, Status> {
        let request = request.into_inner();
        let core = self.member(request.route.as_ref())?;
        Ok(Response::new(members::serve_hand_over(&core, request).await))
    }
}
