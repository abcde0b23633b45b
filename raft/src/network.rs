//! Peer RPC, the calling side: connections, and openraft's network on them.

use crate::peers::{Peer, Peers};
use crate::proto::peer_client::PeerClient;
use crate::proto::{RaftFrame, Route};
use crate::snapshot;
use crate::wire;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt, stream};
use openraft::OptionalSend;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::base::{BoxFuture as RaftFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stockroom_storage::codec::LogId;
use stockroom_storage::codec::rpc_types::RpcMessage;
use stockroom_storage::identity::Identity;
use stockroom_storage::reader::Reader;
use stockroom_storage::snapshot::SnapshotFile;
use stockroom_storage::type_config::{Member, TypeConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

/// A connection, either way.
pub trait PeerIo: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> PeerIo for T {}

/// Makes connections to peers: a seam, so that a simulation can use its own network.
pub trait Connect: Debug + Send + Sync + 'static {
    /// Connects to `host:port`.
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn PeerIo>>>;
}

/// Over TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpConnect;

impl Connect for TcpConnect {
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn PeerIo>>> {
        Box::pin(async move {
            let connection = tokio::net::TcpStream::connect(address).await?;
            // Small frames must not wait for the answer to the one before.
            connection.set_nodelay(true)?;
            Ok(Box::new(connection) as Box<dyn PeerIo>)
        })
    }
}

/// What a connection is used for: each use has its own, so that none delays another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Votes, heartbeats, transfers, forming a cluster: small and urgent.
    Control,
    /// Replication.
    Append,
    /// Proposals and reads of followers.
    Forward,
    /// Snapshot files.
    Bulk,
}

/// A connection attempt takes at most so long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer that acknowledges nothing for so long is gone, also where nobody closed the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes on their way before the receiver took them: two appends of the largest size.
pub(crate) const WINDOW_BYTES: u32 = 8 << 20;

/// Connections to peers, made when first used and kept.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    connect: Arc<dyn Connect>,
    channels: Arc<Mutex<HashMap<(String, Lane), Channel>>>,
}

impl Dialer {
    pub(crate) fn new(connect: Arc<dyn Connect>) -> Self {
        Dialer { connect, channels: Arc::default() }
    }

    /// A client of the peer at `host:port`. Connects when it is used.
    pub(crate) fn client(&self, address: &str, lane: Lane) -> Result<PeerClient<Channel>, Status> {
        let mut channels = self.channels.lock().expect("no holder of this lock can panic");
        let channel = match channels.get(&(address.to_owned(), lane)) {
            Some(channel) => channel.clone(),
            None => {
                let channel = self.channel(address)?;
                channels.insert((address.to_owned(), lane), channel.clone());
                channel
            }
        };
        Ok(PeerClient::new(channel)
            .max_decoding_message_size(wire::MESSAGE_LIMIT_BYTES)
            .max_encoding_message_size(wire::MESSAGE_LIMIT_BYTES))
    }

    fn channel(&self, address: &str) -> Result<Channel, Status> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Status::invalid_argument(format!("{address}: {error}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(2 * WINDOW_BYTES);
        let (connect, address) = (Arc::clone(&self.connect), address.to_owned());
        Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let connection = connect.connect(address.clone());
            async move { connection.await.map(hyper_util::rt::TokioIo::new) }
        })))
    }
}

/// Makes openraft's clients.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) identity: Identity,
    pub(crate) dialer: Dialer,
    pub(crate) peers: Peers,
    pub(crate) reader: Reader,
}

impl Network {
    fn client(&self, target: u64, member: &Member, lane: Lane) -> PeerNetwork {
        PeerNetwork {
            route: wire::route(&self.identity, target, member.incarnation),
            address: member.peer_address.clone(),
            dialer: self.dialer.clone(),
            peer: self.peers.of(target, member.incarnation),
            reader: self.reader.clone(),
            lane,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, node: &Member) -> PeerNetwork {
        self.client(target, node, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> PeerNetwork {
        self.client(target, node, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Member) -> PeerNetwork {
        self.client(target, node, Lane::Bulk)
    }
}

/// openraft's way to one peer.
#[derive(Debug)]
pub(crate) struct PeerNetwork {
    route: Route,
    address: String,
    dialer: Dialer,
    peer: Arc<Peer>,
    reader: Reader,
    lane: Lane,
}

/// The same requests, until what is returned beside them is dropped. The transport keeps asking for requests until
/// it hears that the peer has closed the stream; openraft reads them from one place, and would hand this stream
/// what is meant for the next one, or read entries that are purged since it gave this one up.
fn until_dropped<S: Stream + Unpin>(requests: S) -> (impl Stream<Item = S::Item> + Unpin, DropGuard) {
    let end = CancellationToken::new();
    let ended = Box::pin(end.clone().cancelled_owned());
    (requests.take_until(ended), end.drop_guard())
}

/// How often the executor's other tasks go first, see [`commits_last`].
const TURNS: usize = 3;

/// Holds back for a moment a request without entries, which only tells the peer how far the log is committed: those
/// who wait for what was committed are answered first, and a request with entries that comes meanwhile tells the
/// peer the same. Peers on the same machine would even take the core from the callers' answers.
fn commits_last<S>(requests: S) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
{
    let next = async |mut requests: stream::Fuse<S>| {
        let mut request = requests.next().await?;
        while request.entries.is_empty() {
            let others_first = async {
                for _ in 0..TURNS {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                next = requests.next() => match next {
                    Some(next) => request = next,
                    None => break,
                },
                () = others_first => break,
            }
        }
        Some((request, requests))
    };
    Box::pin(stream::unfold(requests.fuse(), next))
}

/// An append that is not answered for so long has lost its way; a disk may take a while to sync.
const APPEND_IDLE: Duration = Duration::from_secs(5);

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

impl PeerNetwork {
    /// The route of what is sent now.
    fn route(&self) -> Route {
        Route { cluster_version: self.reader.applied().cluster_version.0, ..self.route.clone() }
    }

    fn address(&self) -> String {
        self.peer.address().unwrap_or_else(|| self.address.clone())
    }

    fn client(&self, lane: Lane) -> Rpc<PeerClient<Channel>> {
        self.dialer.client(&self.address(), lane).map_err(|status| self.failed(&status))
    }

    /// openraft waits before it calls again after `Unreachable`, and calls at once after `Network`.
    fn failed(&self, status: &Status) -> RPCError<TypeConfig> {
        if status.code() == Code::DataLoss {
            self.peer.has_reverted(self.route.to_node, status.message());
        }
        let what = format!("node {} at {}: {}", self.route.to_node, self.address(), status.message());
        match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => NetworkError::from_string(what).into(),
            _ => Unreachable::from_string(what).into(),
        }
    }

    /// A conflict at what the peer had acknowledged. openraft must not hear of it: it takes for granted that no log
    /// goes back, and would end this node, the leader, or ask the peer for ever.
    fn reverted(&self, conflict: LogId) -> RPCError<TypeConfig> {
        let what = format!("its log has no entry {conflict} any more");
        self.failed(&Status::data_loss(what))
    }

    /// One call and its answer, both openraft's.
    async fn call<Q, A, C, F>(&self, question: &Q, timeout: Duration, call: C) -> Rpc<A>
    where
        Q: RpcMessage,
        A: RpcMessage,
        C: FnOnce(PeerClient<Channel>, RaftFrame) -> F,
        F: Future<Output = Result<tonic::Response<RaftFrame>, Status>>,
    {
        self.call_frame(wire::frame(&self.route(), question), timeout, call).await
    }

    async fn call_frame<A, C, F>(&self, frame: RaftFrame, timeout: Duration, call: C) -> Rpc<A>
    where
        A: RpcMessage,
        C: FnOnce(PeerClient<Channel>, RaftFrame) -> F,
        F: Future<Output = Result<tonic::Response<RaftFrame>, Status>>,
    {
        let client = self.client(Lane::Control)?;
        let answer = tokio::time::timeout(timeout, call(client, frame))
            .await
            .map_err(|_| self.failed(&Status::deadline_exceeded("no answer in time")))?
            .map_err(|status| self.failed(&status))?;
        self.read(&answer.into_inner()).map_err(|status| self.failed(&status))
    }

    fn read<A: RpcMessage>(&self, frame: &RaftFrame) -> Result<A, Status> {
        let from =
            frame.route.as_ref().ok_or_else(|| Status::invalid_argument("an answer without a sender"))?;
        if from.cluster_id != self.route.cluster_id || from.from_node != self.route.to_node {
            return Err(Status::failed_precondition(format!("node {} answered", from.from_node)));
        }
        wire::message(frame)
    }

    /// The answers of an append stream, in order. Fails where a request goes unanswered for long. The requests end
    /// with the answers, or with whoever waits for them.
    fn append_answers<'s>(
        &'s self,
        answers: tonic::Streaming<RaftFrame>,
        sent: Arc<AtomicU64>,
        term: u64,
        requests: DropGuard,
    ) -> BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>> {
        let next = move |state: Option<(tonic::Streaming<RaftFrame>, u64, DropGuard)>| {
            let sent = Arc::clone(&sent);
            async move {
                let (mut answers, received, requests) = state?;
                loop {
                    // Sampled before the wait: only what was out for all of it is overdue.
                    let overdue = sent.load(Ordering::Acquire) > received;
                    let Ok(answer) = tokio::time::timeout(APPEND_IDLE, answers.message()).await else {
                        if overdue {
                            let late = Status::deadline_exceeded("an append was not answered");
                            return Some((Err(self.failed(&late)), None));
                        }
                        continue;
                    };
                    let result = match answer {
                        Ok(None) => return None,
                        Ok(Some(frame)) => self.read::<StreamAppendResult<TypeConfig>>(&frame),
                        Err(status) => Err(status),
                    };
                    return Some(match result {
                        Ok(Ok(matching)) => {
                            if let Some(log_id) = matching {
                                self.peer.acknowledge(term, log_id);
                            }
                            (Ok(Ok(matching)), Some((answers, received + 1, requests)))
                        }
                        // A conflict or a higher vote ends the stream.
                        Ok(Err(StreamAppendError::Conflict(log_id))) if self.peer.had(term, log_id.index) => {
                            (Err(self.reverted(log_id)), None)
                        }
                        Ok(Err(refused)) => (Ok(Err(refused)), None),
                        Err(status) => (Err(self.failed(&status)), None),
                    });
                }
            }
        };
        Box::pin(stream::unfold(Some((answers, 0, requests)), next))
    }
}

impl RaftNetworkV2<TypeConfig> for PeerNetwork {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let term = rpc.vote.leader_id.term;
        let mut frame = wire::frame(&self.route(), &rpc);
        frame.acknowledged = self.peer.acknowledged(term).map(Into::into);
        let answer = self
            .call_frame(frame, option.hard_ttl(), |mut client, frame| async move {
                client.append_one(frame).await
            })
            .await?;
        match (&answer, rpc.prev_log_id) {
            (AppendEntriesResponse::Conflict, Some(log_id)) if self.peer.had(term, log_id.index) => {
                Err(self.reverted(log_id))
            }
            _ => Ok(answer),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> RaftFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.lane == Lane::Control {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            let mut client = self.client(self.lane)?;
            // openraft waits before it tries an unreachable peer again, but in this stream: to connect before asking
            // it for a request would try again at once, for ever, and fill a core.
            let mut input = input;
            let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
            let sent = Arc::new(AtomicU64::new(0));
            let (route, counter) = (self.route(), Arc::clone(&sent));
            let term = first.vote.leader_id.term;
            let mut acknowledged = self.peer.acknowledged(term).map(Into::into);
            let (input, requests) = until_dropped(stream::iter([first]).chain(commits_last(input)));
            let frames = input.map(move |request| {
                counter.fetch_add(1, Ordering::AcqRel);
                RaftFrame { acknowledged: acknowledged.take(), ..wire::frame(&route, &request) }
            });
            let answers = tokio::time::timeout(CONNECT_TIMEOUT + option.soft_ttl(), client.append(frames))
                .await
                .map_err(|_| self.failed(&Status::unavailable("not connected in time")))?
                .map_err(|status| self.failed(&status))?;
            Ok(self.append_answers(answers.into_inner(), sent, term, requests))
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        self.call(&rpc, option.hard_ttl(), |mut client, frame| async move { client.vote(frame).await }).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        // An error where the peer cannot be reached: openraft's default would grant.
        self.call(&rpc, option.hard_ttl(), |mut client, frame| async move { client.pre_vote(frame).await })
            .await
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let answer: Rpc<TransferLeaderResponse<TypeConfig>> =
            self.call(&req, option.hard_ttl(), |mut client, frame| async move {
                client.transfer_leader(frame).await
            })
            .await;
        if !matches!(answer, Ok(Ok(()))) {
            self.peer.declined.send_modify(|times| *times += 1);
        }
        answer
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let client = self.client(Lane::Bulk)?;
        let (term, last) = (vote.leader_id.term, snapshot.meta.last_log_id);
        let acknowledged = self.peer.acknowledged(term);
        let route = self.route();
        let sending = snapshot::send(client, &route, &vote, acknowledged, snapshot);
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = sending => match sent {
                Ok(theirs) => {
                    if let Some(last) = last && theirs.leader_id.term == term {
                        self.peer.acknowledge(term, last);
                    }
                    Ok(SnapshotResponse::new(theirs))
                }
                Err(status) => Err(self.failed(&status).into()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(index: u64, committed: u64, entries: usize) -> AppendEntriesRequest<TypeConfig> {
        let id = |index| LogId::new(openraft::vote::leader_id_std::CommittedLeaderId::new(1), index);
        let entry = |n| openraft::entry::RaftEntry::new_blank(id(index + 1 + n as u64));
        AppendEntriesRequest {
            vote: openraft::Vote::new_committed(1, 1),
            prev_log_id: Some(id(index)),
            leader_commit: Some(id(committed)),
            entries: (0..entries).map(entry).collect(),
        }
    }

    #[tokio::test]
    async fn what_is_committed_is_told_with_the_next_entries_or_once_nothing_else_is_to_do() {
        let (send, requests) = futures::channel::mpsc::unbounded();
        let mut told = commits_last(requests);
        let tell = |request| send.unbounded_send(request).expect("open");
        tell(request(1, 1, 0));
        assert!(futures::poll!(told.next()).is_pending(), "others go first");
        tell(request(1, 1, 2));
        let next = told.next().await.expect("open");
        assert_eq!((next.entries.len(), next.leader_commit.map(|id| id.index)), (2, Some(1)));
        tell(request(3, 2, 0));
        tell(request(3, 3, 0));
        let next = told.next().await.expect("open");
        assert_eq!(
            (next.entries.len(), next.leader_commit.map(|id| id.index)),
            (0, Some(3)),
            "the newest of two"
        );
        tell(request(3, 4, 0));
        drop(send);
        assert_eq!(told.next().await.and_then(|last| last.leader_commit).map(|id| id.index), Some(4));
        assert!(told.next().await.is_none());
    }

    #[tokio::test]
    async fn a_stream_that_was_given_up_asks_for_no_more_requests() {
        let (mut requests, guard) = until_dropped(stream::iter(1..));
        assert_eq!(requests.next().await, Some(1));
        drop(guard);
        assert_eq!(requests.next().await, None);
    }
}
