//! `/v1/admin/snapshot`: the snapshot file that this node has, and to have a new one written.

use crate::answer::Answer;
use crate::door::Asked;
use crate::entries::LogBody;
use crate::json;
use crate::problem::Problem;
use crate::query::Query;
use crate::render;
use crate::writes::NoFields;
use serde::Serialize;
use std::time::SystemTime;
use stockroom_storage::snapshot::SnapshotFile;

#[derive(Serialize)]
struct SnapshotsBody {
    node_id: u64,
    snapshot: Option<SnapshotBody>,
    writing_index: Option<u64>,
    log: LogBody,
}

#[derive(Serialize)]
struct SnapshotBody {
    log_index: u64,
    digest: String,
    state_hash: String,
    bytes: u64,
    own_bytes: u64,
    written_at: Option<String>,
    age_ms: Option<u64>,
}

impl From<&SnapshotFile> for SnapshotBody {
    fn from(file: &SnapshotFile) -> Self {
        let fingerprint = file.fingerprint();
        let written_at = file.written_at();
        let age = |at| SystemTime::now().duration_since(at).unwrap_or_default().as_millis();
        SnapshotBody {
            log_index: file.log_index(),
            digest: format!("{:032x}", fingerprint.digest),
            state_hash: format!("{:032x}", fingerprint.state_hash),
            bytes: file.bytes(),
            own_bytes: file.own_bytes(),
            written_at: written_at
                .and_then(|at| jiff::Timestamp::try_from(at).ok())
                .map(|at| format!("{at:.3}")),
            age_ms: written_at.map(|at| u64::try_from(age(at)).unwrap_or(u64::MAX)),
        }
    }
}

fn answer(asked: &Asked<'_>) -> Answer {
    let reader = asked.cluster.reader();
    let body = SnapshotsBody {
        node_id: asked.api.node_id(),
        // Read first: one that ends in between shows as the newest one, or as still being written.
        writing_index: asked.api.snapshot_wanted().get(),
        snapshot: reader.snapshot().as_ref().map(SnapshotBody::from),
        log: LogBody::of(asked, reader.log_extent()),
    };
    Answer::json(render::json(&body, 512))
}

/// The newest one that is finished. Of this node, and of no level.
pub(crate) fn get(asked: &Asked<'_>) -> Result<Answer, Problem> {
    Query::parse(asked.query, &[])?;
    Ok(answer(asked))
}

/// Begins to write one of what is applied now, and does not wait for it: that may take longer than any deadline.
pub(crate) fn create(asked: &Asked<'_>, body: &[u8]) -> Result<Answer, Problem> {
    let NoFields {} = json::parse(body, asked.limits().json_depth)?;
    let applied = asked.cluster.reader().applied().fingerprint.log_index;
    if asked.cluster.reader().snapshot().is_some_and(|file| file.log_index() >= applied) {
        return Ok(answer(asked));
    }
    let Some(wanted) = asked.api.snapshot_wanted().begin(applied) else { return Ok(answer(asked)) };
    let (cluster, request_id) = (asked.cluster.clone(), asked.request_id.to_owned());
    tracing::info!(request_id, index = applied, "a snapshot is asked for");
    tokio::spawn(async move {
        // Until it is there, others that ask are told of this one.
        let _wanted = wanted;
        if let Err(error) = cluster.snapshot_at_least(applied).await {
            tracing::error!(request_id, %error, "the snapshot that was asked for was not written");
        }
    });
    Ok(answer(asked))
}
