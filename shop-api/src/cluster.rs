//! `/v1/cluster` and `/v1/audit`

use crate::answer::{Answer, Body};
use crate::codes::Code;
use crate::consistency::Level;
use crate::door::Asked;
use crate::json::{self, Number};
use crate::problem::Problem;
use crate::query::Query;
use crate::{headers, render, values};
use bytes::Bytes;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stockroom_raft::{MemberStatus, Report, Role, TurnedAway};
use stockroom_storage::audit::{AuditProgress, AuditReport};
use stockroom_storage::reader::Fingerprint;
use stockroom_storage::shop::version::Versions;
use tokio::sync::mpsc;

pub(crate) const NDJSON: &str = "application/x-ndjson";
/// How often an audit says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// Lines that wait for a slow reader; progress beyond it is dropped, the verdict is not.
const WAITING_LINES: usize = 64;
/// How many fingerprints of entries before its own an audit shows, for comparing nodes.
const RECENT_FINGERPRINTS: usize = 1_000;

/// 128 bits as JSON carries them without loss: 32 hexadecimal digits.
fn hex<S: Serializer>(bits: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{bits:032x}"))
}

#[derive(Serialize)]
struct ClusterBody<'a> {
    #[serde(serialize_with = "hex")]
    cluster_id: u128,
    node_id: u64,
    leader: Option<u64>,
    term: u64,
    committed: u64,
    cluster_version: u32,
    members: Vec<MemberBody<'a>>,
    turned_away: Vec<TurnedAwayBody<'a>>,
}

/// The cluster versions that a program serves.
#[derive(Serialize)]
pub(crate) struct VersionsBody {
    oldest: u32,
    newest: u32,
}

impl From<Versions> for VersionsBody {
    fn from(Versions { oldest, newest }: Versions) -> Self {
        VersionsBody { oldest: oldest.0, newest: newest.0 }
    }
}

#[derive(Serialize)]
struct TurnedAwayBody<'a> {
    id: u64,
    peer_address: &'a str,
    why: &'a str,
    ms_ago: u64,
}

impl<'a> From<&'a TurnedAway> for TurnedAwayBody<'a> {
    fn from(TurnedAway { node_id, peer_address, why, ago }: &'a TurnedAway) -> Self {
        let ms_ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        TurnedAwayBody { id: *node_id, peer_address, why, ms_ago }
    }
}

#[derive(Serialize)]
struct MemberBody<'a> {
    id: u64,
    http_address: &'a str,
    peer_address: &'a str,
    role: &'static str,
    report: Option<ReportBody<'a>>,
}

#[derive(Serialize)]
struct ReportBody<'a> {
    applied_index: u64,
    #[serde(serialize_with = "hex")]
    digest: u128,
    #[serde(serialize_with = "hex")]
    state_hash: u128,
    lag: u64,
    version: &'a str,
    heard_ms_ago: u64,
    clock_offset_ms: i64,
    sync_us: Option<u64>,
    stopping: bool,
    serves: VersionsBody,
    cluster_version: u32,
}

impl<'a> From<&'a Report> for ReportBody<'a> {
    fn from(report: &'a Report) -> Self {
        ReportBody {
            applied_index: report.fingerprint.log_index,
            digest: report.fingerprint.digest,
            state_hash: report.fingerprint.state_hash,
            lag: report.lag,
            version: &report.version,
            heard_ms_ago: report.heard_ms_ago,
            clock_offset_ms: report.clock_offset_ms,
            sync_us: report.sync.map(|sync| u64::try_from(sync.as_micros()).unwrap_or(u64::MAX)),
            stopping: report.stopping,
            serves: report.versions.into(),
            cluster_version: report.cluster_version.0,
        }
    }
}

impl<'a> From<&'a MemberStatus> for MemberBody<'a> {
    fn from(member: &'a MemberStatus) -> Self {
        MemberBody {
            id: member.node_id,
            http_address: &member.http_address,
            peer_address: &member.peer_address,
            role: match member.role {
                Role::Voter => "voter",
                Role::Learner => "learner",
            },
            report: member.report.as_ref().map(ReportBody::from),
        }
    }
}

/// The cluster as this node sees it now; of no level, and of no one index.
pub(crate) fn get(asked: &Asked<'_>) -> Result<Answer, Problem> {
    Query::parse(asked.query, &[])?;
    let status = asked.cluster.status();
    let body = ClusterBody {
        cluster_id: status.cluster_id,
        node_id: status.node_id,
        leader: status.leader,
        term: status.term,
        committed: status.committed,
        cluster_version: status.cluster_version.0,
        members: status.members.iter().map(MemberBody::from).collect(),
        turned_away: status.turned_away.iter().map(TurnedAwayBody::from).collect(),
    };
    Ok(Answer::json(render::json(&body, 1024)))
}

#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Progress { progress: ProgressBody },
    Verdict(VerdictBody<'a>),
}

#[derive(Serialize)]
struct ProgressBody {
    done: u64,
    total: u64,
    what: &'static str,
}

#[derive(Serialize)]
struct FingerprintBody {
    log_index: u64,
    #[serde(serialize_with = "hex")]
    digest: u128,
    #[serde(serialize_with = "hex")]
    state_hash: u128,
}

impl From<Fingerprint> for FingerprintBody {
    fn from(fingerprint: Fingerprint) -> Self {
        let Fingerprint { log_index, digest, state_hash } = fingerprint;
        FingerprintBody { log_index, digest, state_hash }
    }
}

#[derive(Serialize)]
struct CheckedBody {
    items: u64,
    stocks: u64,
    movements: u64,
    orders: u64,
    reservations: u64,
    receipts: u64,
}

#[derive(Serialize)]
struct VerdictBody<'a> {
    verdict: &'static str,
    findings: &'a [String],
    #[serde(flatten)]
    fingerprint: FingerprintBody,
    checked: CheckedBody,
    fingerprints: Vec<FingerprintBody>,
}

fn line(line: &Line<'_>) -> Bytes {
    let mut bytes = render::json(line, 128);
    bytes.push(b'\n');
    bytes.into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditBody {
    at_index: Option<Number>,
}

/// Waits until the node has applied the index that the body names, if any, so that nodes can be
/// compared at it.
async fn reach(asked: &Asked<'_>, body: &[u8]) -> Result<Option<u64>, Problem> {
    if body.is_empty() {
        return Ok(None);
    }
    headers::content_is_json(asked.headers)?;
    let body: AuditBody = json::parse(body, asked.limits().json_depth)?;
    let Some(number) = body.at_index else { return Ok(None) };
    let index = values::amount(number, 0, || "at_index".into())?;
    Level::Session(index).reach(asked.cluster, asked.deadline).await?;
    Ok(Some(index))
}

/// Starts an audit and streams how it goes. It reads this node only and changes nothing.
pub(crate) async fn audit(asked: &Asked<'_>, body: &[u8]) -> Result<Answer, Problem> {
    Query::parse(asked.query, &[])?;
    let at_index = reach(asked, body).await?;
    let Ok(permit) = asked.api.audits().clone().try_acquire_owned() else {
        return Err(Problem::new(Code::AuditRunning, "one audit of a node runs at a time"));
    };
    // Held by whoever ends last: the audit itself, or the answer that is still being read.
    let permit = Arc::new(permit);
    let held = permit.clone();
    let reader = asked.cluster.reader().clone();
    let (lines, receive) = mpsc::channel::<Bytes>(WAITING_LINES);
    let request_id = asked.request_id.to_owned();
    tokio::spawn(async move {
        let _permit = permit;
        tracing::info!(request_id, "audit started");
        let progress = throttled(lines.clone());
        // Whoever asked may go away: then there is no one to audit for.
        let result = tokio::select! {
            result = reader.audit(progress) => result,
            () = lines.closed() => return tracing::info!(request_id, "audit given up by its caller"),
        };
        let last = match result {
            Ok(report) => {
                let mut recent = reader.recent_fingerprints(RECENT_FINGERPRINTS);
                let wanted = at_index.filter(|index| recent.iter().all(|seen| seen.log_index != *index));
                recent.extend(wanted.and_then(|index| reader.fingerprint_at(index)));
                verdict(&report, recent, &request_id)
            }
            // The answer has begun, so the problem comes as its last line.
            Err(error) => {
                let mut problem = Problem::from(error).body(&request_id);
                problem.push(b'\n');
                problem.into()
            }
        };
        // An error means that the caller has gone.
        let _ = lines.send(last).await;
    });
    let stream = futures::stream::unfold((receive, held), |(mut receive, held)| async {
        let line = receive.recv().await?;
        Some((Ok::<_, Infallible>(line), (receive, held)))
    });
    Ok(Answer::new(200, NDJSON, Body::Stream(axum::body::Body::from_stream(stream))))
}

fn throttled(lines: mpsc::Sender<Bytes>) -> impl FnMut(AuditProgress) + Send + 'static {
    let mut last: Option<(Instant, &'static str)> = None;
    move |AuditProgress { done, total, what }| {
        let due = last.is_none_or(|(at, of)| of != what || at.elapsed() >= PROGRESS_EVERY || done >= total);
        if due {
            last = Some((Instant::now(), what));
            // Full: the reader is slow, and newer progress will come. Closed: noticed elsewhere.
            let _ = lines.try_send(line(&Line::Progress { progress: ProgressBody { done, total, what } }));
        }
    }
}

fn verdict(report: &AuditReport, recent: Vec<Fingerprint>, request_id: &str) -> Bytes {
    let verdict = if report.findings.is_empty() { "clean" } else { "findings" };
    let log_index = report.fingerprint.log_index;
    if report.findings.is_empty() {
        tracing::info!(request_id, verdict, log_index, "audit ended");
    } else {
        tracing::error!(request_id, verdict, log_index, findings = ?report.findings, "audit ended");
    }
    line(&Line::Verdict(VerdictBody {
        verdict,
        findings: &report.findings,
        fingerprint: report.fingerprint.into(),
        checked: CheckedBody {
            items: report.items,
            stocks: report.stocks,
            movements: report.movements,
            orders: report.orders,
            reservations: report.reservations,
            receipts: report.receipts,
        },
        fingerprints: recent.into_iter().map(FingerprintBody::from).collect(),
    }))
}
