//! Snapshot files on their way between nodes: streamed in parts, taken up again where they broke
//! off, with a time-out for silence rather than for the whole.

use crate::core::Core;
use crate::network::{Dialer, Lane};
use crate::peers::Acknowledged;
use crate::proto::hello_response::State;
use crate::proto::peer_client::PeerClient;
use crate::proto::snapshot_part::Part;
use crate::proto::{
    HelloRequest, Route, SnapshotBegin, SnapshotChunk, SnapshotPart, SnapshotProgress, SnapshotRequest,
};
use crate::{maintenance, wire};
use bytes::Bytes;
use openraft::alias::{SnapshotMetaOf, SnapshotOf, VoteOf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use stockroom_storage::Storage;
use stockroom_storage::codec::rpc_types::{decode_rpc, encode_rpc};
use stockroom_storage::error::StorageError;
use stockroom_storage::identity::Identity;
use stockroom_storage::snapshot::{SnapshotFile, SnapshotReceiver};
use stockroom_storage::type_config::TypeConfig;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// Bytes of a file in one part.
const CHUNK_BYTES: usize = 1 << 20;
/// Parts on their way.
const PARTS_AHEAD: usize = 4;
/// A side that says nothing for so long is gone.
const IDLE: Duration = Duration::from_secs(30);
/// A node sends so much of a file each second: a gigabyte in half a minute, and orders go on meanwhile.
const BYTES_PER_SECOND: f64 = (32 << 20) as f64;
/// While a snapshot is proved and installed the receiver says so often that it is still there.
const INSTALLING: Duration = Duration::from_secs(1);

type Vote = VoteOf<TypeConfig>;
type Meta = SnapshotMetaOf<TypeConfig>;

fn storage_failed(error: &StorageError) -> Status {
    Status::internal(error.to_string())
}

/// Runs what reads or writes files where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| storage_failed(&error)),
        Err(error) => Err(Status::internal(error.to_string())),
    }
}

async fn read_chunk(file: &SnapshotFile, offset: u64) -> Result<SnapshotChunk, Status> {
    let file = file.clone();
    let data = blocking(move || file.read_at(offset, CHUNK_BYTES)).await?;
    Ok(SnapshotChunk { offset, data })
}

fn begin(file: &SnapshotFile, meta: &Meta, vote: Option<&Vote>) -> SnapshotBegin {
    SnapshotBegin {
        id: file.id(),
        meta: encode_rpc(meta),
        vote: vote.map_or_else(Bytes::new, encode_rpc),
        total_bytes: file.bytes(),
        acknowledged: None,
    }
}

/// Keeps a transfer from taking the machine from the orders.
struct Pace(Instant);

impl Pace {
    fn new() -> Self {
        Pace(Instant::now())
    }

    /// Does something once the next part is due.
    async fn until<T>(&self, next: impl Future<Output = T>) -> T {
        tokio::time::sleep_until(self.0).await;
        next.await
    }

    /// A transfer that was held up does not make up for it.
    fn sent(&mut self, bytes: usize) {
        self.0 = self.0.max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND);
    }
}

/// Sends a snapshot and waits until the peer has installed it; returns the peer's vote.
pub(crate) async fn send(
    mut client: PeerClient<Channel>,
    route: &Route,
    vote: &Vote,
    acknowledged: Option<Acknowledged>,
    snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
) -> Result<Vote, Status> {
    let file = snapshot.snapshot;
    let (parts, outbound) = mpsc::channel(PARTS_AHEAD);
    let part = |part| SnapshotPart { route: Some(route.clone()), part: Some(part) };
    let gone = |_| Status::unavailable("the peer closed the stream");
    let first = SnapshotBegin {
        acknowledged: acknowledged.map(Into::into),
        ..begin(&file, &snapshot.meta, Some(vote))
    };
    parts.send(part(Part::Begin(first))).await.map_err(gone)?;
    let call = client.send_snapshot(ReceiverStream::new(outbound));
    let silent = |_| Status::deadline_exceeded("the peer is silent");
    let mut answers = tokio::time::timeout(IDLE, call).await.map_err(silent)??.into_inner();
    let first = tokio::time::timeout(IDLE, answers.message()).await.map_err(silent)??;
    let first = first.ok_or_else(|| Status::unavailable("the peer closed the stream"))?;
    let (mut offset, mut heard) = (first.received_bytes, Instant::now());
    let mut pace = Pace::new();
    tracing::info!(to = route.to_node, bytes = file.bytes(), from = offset, "sending a snapshot");
    if !first.vote.is_empty() {
        return decode_rpc(&first.vote).map_err(|error| storage_failed(&error));
    }
    loop {
        tokio::select! {
            progress = tokio::time::timeout_at(heard + IDLE, answers.message()) => {
                let progress = progress.map_err(silent)??;
                let progress = progress.ok_or_else(|| Status::unavailable("the peer closed the stream"))?;
                heard = Instant::now();
                if !progress.vote.is_empty() {
                    return decode_rpc(&progress.vote).map_err(|error| storage_failed(&error));
                }
            }
            permit = pace.until(parts.reserve()), if offset < file.bytes() => {
                let permit = permit.map_err(|_| Status::unavailable("the peer closed the stream"))?;
                let chunk = read_chunk(&file, offset).await?;
                offset += chunk.data.len() as u64;
                pace.sent(chunk.data.len());
                permit.send(part(Part::Chunk(chunk)));
            }
        }
    }
}

type Progress = Pin<Box<dyn futures::Stream<Item = Result<SnapshotProgress, Status>> + Send>>;

/// Receives a snapshot from the leader and installs it.
pub(crate) fn receive(core: Arc<Core>, first: SnapshotPart, parts: Streaming<SnapshotPart>) -> Progress {
    let (progress, outbound) = mpsc::channel(PARTS_AHEAD);
    tokio::spawn(async move {
        let ending = core.ending.clone();
        let receiving = receive_all(&core, first, parts, &progress);
        tokio::select! {
            received = receiving => if let Err(status) = received {
                tracing::info!(%status, "a snapshot did not arrive; the leader will go on with it");
                let _ = progress.send(Err(status)).await;
            },
            () = ending.cancelled() => {}
        }
    });
    Box::pin(ReceiverStream::new(outbound))
}

async fn receive_all(
    core: &Arc<Core>,
    first: SnapshotPart,
    parts: Streaming<SnapshotPart>,
    progress: &mpsc::Sender<Result<SnapshotProgress, Status>>,
) -> Result<(), Status> {
    let asked = first.route.unwrap_or_default();
    let Some(Part::Begin(begin)) = first.part else {
        return Err(Status::invalid_argument("a snapshot must begin with what it is"));
    };
    let vote: Vote = decode_rpc(&begin.vote).map_err(|error| storage_failed(&error))?;
    let meta: Meta = decode_rpc(&begin.meta).map_err(|error| storage_failed(&error))?;
    let route = core.route(asked.from_node, asked.from_incarnation);
    let teller = Teller { route, progress: Some(progress), member: Some(core) };
    let receiver = core
        .storage
        .state_machine
        .receive_snapshot(&begin.id, begin.total_bytes)
        .map_err(|error| storage_failed(&error))?;
    teller.tell(receiver.offset(), Bytes::new()).await?;
    let file = write_parts(receiver, &begin, parts, &core.identity, &teller).await?;
    // openraft ends a node that cannot install: so it is asked only where there is room.
    let room = core.storage.state_machine.room_to_install(&file);
    room.inspect_err(|error| maintenance::no_room(core, error)).map_err(|error| storage_failed(&error))?;
    maintenance::had_room(core);
    let snapshot = SnapshotOf::<TypeConfig, SnapshotFile> { meta: meta.clone(), snapshot: file };
    let mut installing = std::pin::pin!(core.raft.install_full_snapshot(vote, snapshot));
    let response = loop {
        match tokio::time::timeout(INSTALLING, &mut installing).await {
            Ok(response) => break response.map_err(|fatal| Status::unavailable(fatal.to_string()))?,
            Err(_) => teller.tell(begin.total_bytes, Bytes::new()).await?,
        }
    };
    if let Some(last) = meta.last_log_id
        && response.vote == vote
        && core.storage.snapshot_index() < Some(last.index)
    {
        // It was not needed: the log has all of it. The answer says that it is durable, too.
        core.storage.log.wait_durable(last.index).await.map_err(|error| storage_failed(&error))?;
    }
    tracing::info!(bytes = begin.total_bytes, "installed a snapshot");
    teller.tell(begin.total_bytes, encode_rpc(&response.vote)).await
}

/// Tells the sender how far the receiver is, where it wants to know.
struct Teller<'a> {
    route: Route,
    progress: Option<&'a mpsc::Sender<Result<SnapshotProgress, Status>>>,
    /// Raises an alarm where there is no room; `None` before it is a member.
    member: Option<&'a Core>,
}

impl Teller<'_> {
    async fn tell(&self, received_bytes: u64, vote: Bytes) -> Result<(), Status> {
        let Some(progress) = self.progress else { return Ok(()) };
        let told = SnapshotProgress { route: Some(self.route.clone()), received_bytes, vote };
        progress.send(Ok(told)).await.map_err(|_| Status::cancelled("the sender is gone"))
    }
}

/// Writes the parts that follow until the file is whole.
async fn write_parts(
    mut receiver: SnapshotReceiver,
    begin: &SnapshotBegin,
    mut parts: Streaming<SnapshotPart>,
    own: &Identity,
    teller: &Teller<'_>,
) -> Result<SnapshotFile, Status> {
    while receiver.offset() < begin.total_bytes {
        let silent = |_| Status::deadline_exceeded("the sender is silent");
        let part = tokio::time::timeout(IDLE, parts.message()).await.map_err(silent)??;
        let part = part.ok_or_else(|| Status::cancelled("the sender broke off"))?;
        wire::check(part.route.as_ref(), own)?;
        let Some(Part::Chunk(chunk)) = part.part else {
            return Err(Status::invalid_argument("a part of a snapshot without bytes"));
        };
        receiver = blocking(move || {
            receiver.write(chunk.offset, &chunk.data)?;
            Ok(receiver)
        })
        .await?;
        teller.tell(receiver.offset(), Bytes::new()).await?;
    }
    let mut finishing = std::pin::pin!(tokio::task::spawn_blocking(move || receiver.finish()));
    loop {
        match tokio::time::timeout(INSTALLING, &mut finishing).await {
            Ok(finished) => {
                let finished = finished.map_err(|error| Status::internal(error.to_string()))?;
                if let (Err(error), Some(core)) = (&finished, teller.member)
                    && error.is_no_room()
                {
                    maintenance::no_room(core, error);
                }
                return finished.map_err(|error| storage_failed(&error));
            }
            Err(_) => teller.tell(begin.total_bytes, Bytes::new()).await?,
        }
    }
}

type Parts = Pin<Box<dyn futures::Stream<Item = Result<SnapshotPart, Status>> + Send>>;

/// Serves this node's newest snapshot file to a peer that lost its own.
pub(crate) fn serve(core: &Arc<Core>, request: &SnapshotRequest) -> Result<Parts, Status> {
    // Not asked of openraft, which answers once all that is committed is applied.
    let newest = core.storage.state_machine.newest_snapshot();
    let Some(file) = newest.filter(|file| file.log_index() >= request.at_least_index) else {
        let (applied, at_least) = (core.reader.applied().fingerprint.log_index, request.at_least_index);
        if applied < at_least {
            return Err(Status::out_of_range(format!("applied {applied}, not yet {at_least}")));
        }
        // The next attempt finds one: this node's own may be long in coming.
        let core = Arc::clone(core);
        tokio::spawn(async move { maintenance::write_snapshot(&core, at_least).await });
        return Err(Status::not_found(format!("no snapshot that reaches index {at_least}")));
    };
    let asked = request.route.clone().unwrap_or_default();
    let route = core.route(asked.from_node, asked.from_incarnation);
    let (parts, outbound) = mpsc::channel(PARTS_AHEAD);
    tokio::spawn(async move {
        let part = |part| SnapshotPart { route: Some(route.clone()), part: Some(part) };
        let mut next = Ok(part(Part::Begin(begin(&file, &file.meta(), None))));
        let (mut offset, mut pace) = (0, Pace::new());
        loop {
            let failed = next.is_err();
            if pace.until(parts.send(next)).await.is_err() || failed || offset >= file.bytes() {
                return;
            }
            next = read_chunk(&file, offset).await.map(|chunk| {
                offset += chunk.data.len() as u64;
                pace.sent(chunk.data.len());
                part(Part::Chunk(chunk))
            });
        }
    });
    Ok(Box::pin(ReceiverStream::new(outbound)))
}

/// Fetches a snapshot that reaches `at_least_index` from one of the peers, trying them in turn until one
/// has it. For a node whose snapshot file and state are gone while its log begins later.
pub(crate) async fn fetch(
    dialer: &Dialer,
    own: &Identity,
    storage: &Storage,
    peers: &[String],
    at_least_index: u64,
) -> SnapshotFile {
    loop {
        for address in peers {
            match fetch_from(dialer, own, storage, address, at_least_index).await {
                Ok(file) => return file,
                Err(status) => tracing::warn!(address, %status, at_least_index, "no snapshot from this peer"),
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// A new node begins with a snapshot that reaches so far, of one of these peers.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) snapshot_index: u64,
    pub(crate) peers: Vec<String>,
}

/// How long a peer may take to write a snapshot for a new node.
const WRITTEN_WITHIN: Duration = Duration::from_secs(60);
/// How long a peer may take to apply what the snapshot should have, while there is another one to ask.
const APPLIED_WITHIN: Duration = Duration::from_secs(3);
/// A member says at once what it is. A node that is being started, or begins with a snapshot itself, has none to give.
const HELLO_WITHIN: Duration = Duration::from_secs(3);
/// Before it is asked for it again: a peer does not say when it has written one.
const WRITTEN_YET: Duration = Duration::from_millis(100);

/// Fetches the snapshot with which a new node begins, from the first peer that gives one: others need not write one
/// too. `None` where none does: then the leader sends the log, or a snapshot of its own.
pub(crate) async fn fetch_to_begin(
    dialer: &Dialer,
    own: &Identity,
    storage: &Storage,
    beginning: &Beginning,
) -> Option<SnapshotFile> {
    let index = beginning.snapshot_index;
    let last = beginning.peers.last();
    for address in &beginning.peers {
        let asked = Instant::now();
        let patience = |code| match code {
            Code::NotFound => WRITTEN_WITHIN,
            Code::OutOfRange if last == Some(address) => WRITTEN_WITHIN,
            Code::OutOfRange => APPLIED_WITHIN,
            _ => Duration::ZERO,
        };
        loop {
            match fetch_from(dialer, own, storage, address, index).await {
                Ok(file) => return Some(file),
                Err(status) if asked.elapsed() < patience(status.code()) => {
                    tokio::time::sleep(WRITTEN_YET).await;
                }
                Err(status) => {
                    tracing::warn!(address, %status, index, "no snapshot to begin with from this peer");
                    break;
                }
            }
        }
    }
    None
}

async fn fetch_from(
    dialer: &Dialer,
    own: &Identity,
    storage: &Storage,
    address: &str,
    at_least_index: u64,
) -> Result<SnapshotFile, Status> {
    let silent = |_| Status::deadline_exceeded("the peer is silent");
    let mut client = dialer.client(address, Lane::Bulk)?;
    let hello = tokio::time::timeout(HELLO_WITHIN, client.hello(HelloRequest {}));
    let hello = hello.await.map_err(silent)??.into_inner();
    if hello.state() != State::Member || hello.node_id == own.node_id {
        return Err(Status::unavailable("it is no other member"));
    }
    let route = wire::route(own, hello.node_id, hello.incarnation);
    let call = client.fetch_snapshot(SnapshotRequest { route: Some(route), at_least_index });
    let mut parts = tokio::time::timeout(IDLE, call).await.map_err(silent)??.into_inner();
    let first = tokio::time::timeout(IDLE, parts.message()).await.map_err(silent)??;
    let Some(SnapshotPart { part: Some(Part::Begin(mut begin)), .. }) = first else {
        return Err(Status::invalid_argument("a snapshot must begin with what it is"));
    };
    begin.id = fetched_id(&begin.id);
    let receiver = storage
        .state_machine
        .receive_snapshot(&begin.id, begin.total_bytes)
        .map_err(|error| storage_failed(&error))?;
    write_parts(
        receiver,
        &begin,
        parts,
        own,
        &Teller { route: Route::default(), progress: None, member: None },
    )
    .await
}

/// Always sent from the start here: an id of its own, so that it never goes on with half a file, also not with one that
/// this node left behind when it was killed.
fn fetched_id(id: &str) -> String {
    format!("{id}-fetched-{:016x}", rand::random::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetched_file_never_goes_on_with_one_of_before() {
        // The ids of this life and of the next one: neither counts from the same number.
        let ids: Vec<String> = (0..100).map(|_| fetched_id("1-2-3")).collect();
        let counted = |id: &&String| id.trim_start_matches("1-2-3-fetched-").len() < 16;
        assert_eq!(ids.iter().find(counted), None);
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len());
    }
}
