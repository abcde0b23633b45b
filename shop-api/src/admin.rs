//! `/v1/admin`: what operators take out of a node as a whole.

use crate::answer::{Answer, Body};
use crate::api::Api;
use crate::cluster::NDJSON;
use crate::codes::Code;
use crate::consistency::Shown;
use crate::door::Asked;
use crate::problem::{Extra, Problem};
use crate::query::Query;
use crate::writes::NoFields;
use crate::{json, render};
use bytes::Bytes;
use serde::Serialize;
use std::time::Duration;
use stockroom_storage::backup::{Backup, Origin};
use stockroom_storage::error::StorageError;
use stockroom_storage::snapshot::SnapshotFile;
use stockroom_storage::text;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// The media type of a backup.
pub(crate) const BACKUP: &str = "application/vnd.stockroom.backup";
/// The media type of a piece of the log.
pub(crate) const LOG: &str = "application/vnd.stockroom.log";
/// Pieces (of about a mebibyte) that wait for a slow reader.
const WAITING_PIECES: usize = 4;

/// Reading a whole node twice at once would only slow both down, and everybody else.
fn permit(asked: &Asked<'_>) -> Result<OwnedSemaphorePermit, Problem> {
    let one_at_a_time = || Problem::new(Code::BackupRunning, "one backup is taken from a node at a time");
    asked.api.backups().clone().try_acquire_owned().map_err(|_| one_at_a_time())
}

/// A snapshot file of at least what the request's level asks for, and what is shown by it.
async fn snapshot(asked: &Asked<'_>) -> Result<(SnapshotFile, Shown), Problem> {
    let staleness_ms = asked.level.reach(asked.cluster, asked.deadline).await?;
    let applied = asked.cluster.reader().applied().fingerprint.log_index;
    let file = asked.cluster.snapshot_at_least(applied).await?;
    let shown = Shown { log_index: file.log_index(), node_id: asked.api.node_id(), staleness_ms };
    Ok((file, shown))
}

/// Whoever takes nothing for so long is gone, or keeps others from theirs.
const STALLED: Duration = Duration::from_secs(60);

/// Streams what `make` hands to the sink it is given, on a thread that may block; the sink gives false once the caller
/// has gone, or the node stops. Where it breaks off, the answer has no end of its own, which every client notices.
fn streamed(
    api: &Api,
    permit: OwnedSemaphorePermit,
    make: impl FnOnce(&mut dyn FnMut(Bytes) -> bool) -> Result<(), StorageError> + Send + 'static,
) -> Body {
    // `None` is the end: a channel that only closes is no whole answer.
    let (send, receive) = mpsc::channel::<Option<Bytes>>(WAITING_PIECES);
    let (api, runtime) = (api.clone(), tokio::runtime::Handle::current());
    tokio::task::spawn_blocking(move || {
        let hand_out = |piece| {
            let sent = runtime.block_on(tokio::time::timeout(STALLED, send.send(piece)));
            sent.is_ok_and(|sent| sent.is_ok())
        };
        let mut whole = true;
        let made = make(&mut |piece| {
            // Another node can give it; this one is not to wait with its end until all is out.
            whole = whole && !api.is_draining() && hand_out(Some(piece));
            whole
        });
        // Whoever has seen the end may ask for the next.
        drop(permit);
        match made {
            Ok(()) if whole => drop(hand_out(None)),
            Ok(()) => {
                tracing::info!("what was being sent breaks off: the caller has gone, or the node stops")
            }
            Err(error) => tracing::error!(%error, "what was being sent breaks off"),
        }
    });
    Body::Stream(axum::body::Body::from_stream(futures::stream::unfold(Some(receive), |receive| async {
        let mut receive = receive?;
        match receive.recv().await {
            Some(Some(piece)) => Some((Ok(piece), Some(receive))),
            Some(None) => None,
            None => Some((Err(std::io::Error::other("it broke off")), None)),
        }
    })))
}

/// Who writes a file, and when.
fn origin(asked: &Asked<'_>) -> Origin {
    Origin {
        node_id: asked.api.node_id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created_at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }
}

/// `GET /v1/admin/backup`
pub(crate) async fn backup(asked: &Asked<'_>) -> Result<Answer, Problem> {
    Query::parse(asked.query, &[])?;
    let permit = permit(asked)?;
    let (file, shown) = snapshot(asked).await?;
    let backup = Backup::new(file, origin(asked))?;
    let about = backup.about();
    tracing::info!(
        request_id = asked.request_id,
        log_index = about.log_index,
        snapshot_bytes = about.snapshot_bytes,
        "a backup is taken"
    );
    let body = streamed(asked.api, permit, |sink| {
        for piece in backup.pieces() {
            if !sink(piece?) {
                break;
            }
        }
        Ok(())
    });
    Ok(Answer::new(200, BACKUP, body).shown(shown))
}

/// Lines are sent together until there are this many bytes.
const EXPORT_PIECE_BYTES: usize = 256 << 10;

/// `GET /v1/admin/export`: the shop as lines of JSON. A line `{"section":..}` says which file the next ones belong
/// to; the last one is `{"end":..}`.
pub(crate) async fn export(asked: &Asked<'_>) -> Result<Answer, Problem> {
    Query::parse(asked.query, &[])?;
    let permit = permit(asked)?;
    let (file, shown) = snapshot(asked).await?;
    tracing::info!(request_id = asked.request_id, log_index = shown.log_index, "an export is taken");
    let body = streamed(asked.api, permit, move |sink| {
        let mut piece = Vec::with_capacity(EXPORT_PIECE_BYTES + 4096);
        text::export(&file, &mut |section| {
            match section {
                text::Section::Begins(file) => piece.extend(format!("{{\"section\":\"{file}\"}}\n").bytes()),
                text::Section::Line(line) => {
                    piece.extend_from_slice(line);
                    piece.push(b'\n');
                }
                text::Section::Ends(about) => piece.extend(render::json(&EndLine { end: about }, 512)),
            }
            let ends = matches!(section, text::Section::Ends(_));
            if !ends && piece.len() < EXPORT_PIECE_BYTES {
                return true;
            }
            sink(std::mem::take(&mut piece).into())
        })
    });
    Ok(Answer::new(200, NDJSON, body).shown(shown))
}

#[derive(Serialize)]
struct EndLine<'a> {
    end: &'a text::About,
}

/// `GET /v1/admin/log?after=`: the entries behind one, up to what is applied here.
pub(crate) async fn log(asked: &Asked<'_>) -> Result<Answer, Problem> {
    let query = Query::parse(asked.query, &["after"])?;
    let text = query.get("after").ok_or_else(|| {
        Problem::new(Code::MissingParameter, "`after` names the entry behind which to begin").at("after")
    })?;
    let after: u64 = text.parse().map_err(|_| {
        Problem::new(Code::InvalidParameter, "must be a log index, a whole number").at("after")
    })?;
    let permit = permit(asked)?;
    let staleness_ms = asked.level.reach(asked.cluster, asked.deadline).await?;
    let reader = asked.cluster.reader();
    let cluster_id = asked.cluster.status().cluster_id;
    let Some(piece) = reader.archive(after, cluster_id, origin(asked)).await else {
        let (first, applied) = (asked.cluster.purged().map_or(0, |purged| purged + 1), reader.applied());
        let applied = applied.fingerprint.log_index;
        let detail = format!("this node's log has entries {first} to {applied}, none right behind {after}");
        return Err(Problem::new(Code::LogPurged, detail).with("applied_index", Extra::Count(applied)));
    };
    let shown = Shown { log_index: piece.about().log_index, node_id: asked.api.node_id(), staleness_ms };
    // Applied may run ahead of this node's own log, which is what is read.
    if !reader.wait_durable(shown.log_index, asked.deadline).await {
        return Err(Problem::new(Code::Behind, "this node has not synced its log in time"));
    }
    Ok(Answer::new(200, LOG, streamed(asked.api, permit, |sink| piece.write(sink))).shown(shown))
}

/// How the scrub of a node stands.
#[derive(Serialize)]
struct ScrubBody {
    node_id: u64,
    running: bool,
    part: Option<&'static str>,
    read_bytes: u64,
    total_bytes: u64,
    running_for_ms: Option<u64>,
    last_ended_ms_ago: Option<u64>,
    last_took_ms: Option<u64>,
    next_in_ms: Option<u64>,
    clean: u64,
    finding: Option<String>,
}

fn scrub_answer(asked: &Asked<'_>) -> Answer {
    let status = asked.cluster.scrub_status();
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let body = ScrubBody {
        node_id: asked.api.node_id(),
        running: status.running,
        part: Some(status.part).filter(|part| !part.is_empty()),
        read_bytes: status.read_bytes,
        total_bytes: status.total_bytes,
        running_for_ms: status.running_for.map(ms),
        last_ended_ms_ago: status.last.map(|(ago, _)| ms(ago)),
        last_took_ms: status.last.map(|(_, took)| ms(took)),
        next_in_ms: status.next_in.map(ms),
        clean: status.clean,
        finding: status.finding,
    };
    Answer::json(render::json(&body, 256))
}

/// `GET /v1/admin/scrub`
pub(crate) fn scrub(asked: &Asked<'_>) -> Result<Answer, Problem> {
    Query::parse(asked.query, &[])?;
    Ok(scrub_answer(asked))
}

/// `POST /v1/admin/scrub`: begins one, unless one is running.
pub(crate) fn start_scrub(asked: &Asked<'_>, body: &[u8]) -> Result<Answer, Problem> {
    let _: NoFields = json::parse(body, asked.limits().json_depth)?;
    asked.cluster.start_scrub();
    tracing::info!(request_id = asked.request_id, "a scrub was asked for");
    Ok(scrub_answer(asked))
}
