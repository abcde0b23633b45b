//! `/v1/admin`: what operators take out of a node as a whole.

use crate::answer::Answer;
use crate::codes::Code;
use crate::consistency::Shown;
use crate::door::Asked;
use crate::problem::Problem;
use crate::query::Query;
use axum::body::{Body, Bytes};
use stockroom_storage::backup::{Backup, Origin};
use stockroom_storage::error::StorageError;
use stockroom_storage::snapshot::SnapshotFile;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// The media type of a backup.
pub(crate) const BACKUP: &str = "application/vnd.stockroom.backup";
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

/// Streams pieces that are made on a thread that may block. An error ends the answer without its end, which every
/// client notices.
fn streamed(
    permit: OwnedSemaphorePermit,
    pieces: impl Iterator<Item = Result<Bytes, StorageError>> + Send + 'static,
) -> Body {
    let (send, receive) = mpsc::channel(WAITING_PIECES);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        for piece in pieces {
            if let Err(error) = &piece {
                tracing::error!(%error, "what was being sent breaks off");
            }
            // An error means that the caller has gone.
            if send.blocking_send(piece).is_err() {
                return;
            }
        }
    });
    Body::from_stream(futures::stream::unfold(receive, |mut receive| async {
        let piece = receive.recv().await?;
        Some((piece, receive))
    }))
}

/// `GET /v1/admin/backup`
pub(crate) async fn backup(asked: &Asked<'_>) -> Result<Answer, Problem> {
    Query::parse(asked.query, &[])?;
    let permit = permit(asked)?;
    let (file, shown) = snapshot(asked).await?;
    let origin = Origin {
        node_id: asked.api.node_id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created_at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    };
    let backup = Backup::new(file, origin)?;
    let about = backup.about();
    tracing::info!(
        request_id = asked.request_id,
        log_index = about.log_index,
        snapshot_bytes = about.snapshot_bytes,
        "a backup is taken"
    );
    Ok(Answer::new(200, BACKUP, streamed(permit, backup.pieces())).shown(shown))
}
