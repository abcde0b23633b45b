//! The door: every request comes in here, and every answer goes out here.

use crate::answer::Answer;
use crate::api::{Api, Serving};
use crate::codes::Code;
use crate::consistency::{self, Level};
use crate::headers::{self, Headers, Name, RequestId};
use crate::limits::Limits;
use crate::problem::Problem;
use crate::response::Response;
use crate::routes::{self, Kind, Target};
use crate::{
    Call, admin, batch, cluster, docs, entries, items, members, orders, outcomes, probes, reservations,
    settings, snapshots, stock, upgrade, writes,
};
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use std::borrow::Cow;
use stockroom_raft::Cluster;
use tokio::time::Instant;
use tracing::Instrument;

/// A request at the door, whoever read it from the wire.
pub(crate) struct Arrived<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub target: Result<Target<'a>, Problem>,
    pub headers: Headers<'a>,
    pub body: Incoming<'a>,
}

/// A body that is here, or on its way.
pub(crate) enum Incoming<'a> {
    Whole(&'a [u8]),
    Stream(Body),
}

/// A request past the door.
pub(crate) struct Asked<'a> {
    pub api: &'a Api,
    pub cluster: &'a Cluster,
    pub headers: &'a Headers<'a>,
    pub query: Option<&'a str>,
    pub target: Target<'a>,
    pub level: Level,
    pub deadline: Instant,
    pub request_id: &'a str,
}

impl Asked<'_> {
    pub fn limits(&self) -> &Limits {
        self.api.limits()
    }
}

/// Answers a request that hyper read.
pub(crate) async fn serve(State(api): State<Api>, request: Request) -> axum::response::Response {
    let (parts, body) = request.into_parts();
    let arrived = Arrived {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        target: routes::resolve(parts.method.as_str(), parts.uri.path()),
        query: parts.uri.query(),
        headers: Headers::from(&parts.headers),
        body: Incoming::Stream(body),
    };
    respond(&api, arrived).await.into_http()
}

/// Answers one request.
pub(crate) async fn respond<'a>(api: &Api, arrived: Arrived<'a>) -> Response<'a> {
    let started = Instant::now();
    let Arrived { method, path, query, target, headers, body } = arrived;
    let request_id = RequestId::of(&headers);
    let id = request_id.as_str();
    let call = target.as_ref().ok().map(|target| target.call);
    let span = tracing::debug_span!("request", id, method, path);

    let session = session(api, &headers);
    let seen = session.as_ref().ok().copied().flatten();
    let asking = async {
        let target = target?;
        answer(api, &headers, query, body, target, session, started, id).await
    };
    let result = if span.is_disabled() { asking.await } else { asking.instrument(span).await };
    if let Err(problem) = &result {
        api.counters().refused(problem.code());
        note(problem, id, call);
    }
    let response = Response::new(result, request_id, api, seen);
    let (status, took) = (response.status(), started.elapsed());
    api.counters().answered(call, status, took);
    tracing::debug!(request_id = response.request_id(), call = name_of(call), status, ?took, "answered");
    response
}

/// The log index of the session token that came along.
fn session(api: &Api, headers: &Headers<'_>) -> Result<Option<u64>, Problem> {
    let Some(serving) = api.serving() else { return Ok(None) };
    match headers::text(headers, Name::Session) {
        Ok(Some(token)) => consistency::parse_session(token, serving.cluster_id).map(Some),
        Ok(None) => Ok(None),
        Err(problem) => {
            Err(Problem::new(Code::InvalidSession, problem.detail().to_owned()).at("Stockroom-Session"))
        }
    }
}

fn name_of(call: Option<Call>) -> &'static str {
    call.map_or("unrouted", |call| call.route().name)
}

/// Failures that an operator should hear of are warnings; what callers got wrong is not.
pub(crate) fn note(problem: &Problem, request_id: &str, call: Option<Call>) {
    let (code, call) = (problem.code().spec().slug, name_of(call));
    match problem.status() {
        500 | 504 => tracing::warn!(request_id, call, code, detail = problem.detail(), "request failed"),
        _ => tracing::debug!(request_id, call, code, detail = problem.detail(), "request refused"),
    }
}

#[allow(clippy::too_many_arguments, reason = "each is one part of one request")]
async fn answer(
    api: &Api,
    headers: &Headers<'_>,
    query: Option<&str>,
    body: Incoming<'_>,
    target: Target<'_>,
    session: Result<Option<u64>, Problem>,
    started: Instant,
    request_id: &str,
) -> Result<Answer, Problem> {
    let call = target.call;
    let kind = call.route().kind;
    if kind == Kind::Root {
        return root(api, headers, query, &target);
    }
    let produced = match call {
        Call::Audit | Call::Export => cluster::NDJSON,
        Call::Backup => admin::BACKUP,
        Call::ReadLog => admin::LOG,
        _ => crate::answer::JSON,
    };
    // Lines of JSON are JSON enough for whoever asks for that.
    if !headers::accepts(headers, produced) && !headers::accepts(headers, crate::answer::JSON) {
        return Err(Problem::new(Code::NotAcceptable, format!("this call answers {produced}")).at("Accept"));
    }
    let Some(Serving { cluster, .. }) = api.serving() else {
        return Err(Problem::new(Code::NotAMember, api.reason()));
    };
    let deadline = started + headers::timeout(headers, api.limits())?;
    let level = Level::asked(headers, session?)?;
    let asked = Asked { api, cluster, headers, query, target, level, deadline, request_id };
    match kind {
        Kind::Write | Kind::Batch | Kind::Settle | Kind::Admin => write(asked, kind, body).await,
        Kind::Read | Kind::Local | Kind::Root => read(asked, body).await,
    }
}

async fn write(asked: Asked<'_>, kind: Kind, body: Incoming<'_>) -> Result<Answer, Problem> {
    if asked.api.is_draining() {
        return Err(Problem::new(Code::ShuttingDown, "this node is stopping and takes no new writes"));
    }
    no_query(&asked)?;
    let limits = asked.limits();
    match kind {
        Kind::Batch => {
            headers::content_is_json(asked.headers)?;
            let body = collect(body, limits.batch_body_bytes, asked.deadline).await?;
            batch::submit(&asked, &body).await
        }
        Kind::Settle => outcomes::abandon(&asked).await,
        Kind::Admin => {
            headers::content_is_json(asked.headers)?;
            let body = collect(body, limits.body_bytes, asked.deadline).await?;
            admin(&asked, &body).await
        }
        _ => {
            let key = headers::idempotency_key(asked.headers, limits)?;
            headers::content_is_json(asked.headers)?;
            let body = collect(body, limits.body_bytes, asked.deadline).await?;
            writes::submit(&asked, key, &body).await
        }
    }
}

async fn admin(asked: &Asked<'_>, body: &[u8]) -> Result<Answer, Problem> {
    match asked.target.call {
        Call::PlanMember => members::plan(asked, body).await,
        Call::TransferLeadership => members::transfer(asked, body).await,
        Call::StartScrub => admin::start_scrub(asked, body),
        Call::CreateSnapshot => snapshots::create(asked, body),
        Call::FinalizeUpgrade => upgrade::finalize(asked, body).await,
        _ => members::change(asked, body).await,
    }
}

fn no_query(asked: &Asked<'_>) -> Result<(), Problem> {
    crate::query::Query::parse(asked.query, &[]).map(|_| ())
}

async fn read(asked: Asked<'_>, body: Incoming<'_>) -> Result<Answer, Problem> {
    match asked.target.call {
        Call::GetItem => items::get(&asked).await,
        Call::ListItems => items::list(&asked).await,
        Call::GetStock => stock::get(&asked).await,
        Call::ReadStocks => stock::read_several(&asked).await,
        Call::StockMovements => stock::movements_of_one(&asked).await,
        Call::Movements => stock::movements(&asked).await,
        Call::GetReservation => reservations::get(&asked).await,
        Call::ListReservations => reservations::list(&asked).await,
        Call::GetOrder => orders::get(&asked).await,
        Call::ListOrders => orders::list(&asked).await,
        Call::GetOutcome => outcomes::get(&asked).await,
        Call::GetCluster => cluster::get(&asked),
        Call::GetSettings => settings::get(&asked).await,
        Call::CheckUpgrade => upgrade::check(&asked).await,
        Call::Audit => {
            let body = collect(body, asked.limits().body_bytes, asked.deadline).await?;
            cluster::audit(&asked, &body).await
        }
        Call::Backup => admin::backup(&asked).await,
        Call::Export => admin::export(&asked).await,
        Call::GetScrub => admin::scrub(&asked),
        Call::ReadLog => admin::log(&asked).await,
        Call::LogEntries => entries::list(&asked).await,
        Call::GetSnapshot => snapshots::get(&asked),
        call => unreachable!("{call:?} is not a read"),
    }
}

fn root(
    api: &Api,
    headers: &Headers<'_>,
    query: Option<&str>,
    target: &Target<'_>,
) -> Result<Answer, Problem> {
    match target.call {
        Call::Live => Ok(probes::live()),
        Call::Ready => Ok(probes::ready(api, headers, query)),
        Call::Metrics => Ok(probes::metrics(api)),
        Call::OpenApi => Ok(docs::openapi()),
        Call::Docs => Ok(docs::page()),
        Call::DocsFile => docs::file(&target.parameter, headers),
        call => unreachable!("{call:?} does not stand at the root"),
    }
}

/// The whole body, unless it is larger than `most` or does not arrive in time.
async fn collect<'a>(body: Incoming<'a>, most: usize, deadline: Instant) -> Result<Cow<'a, [u8]>, Problem> {
    let too_large = || {
        Problem::new(Code::BodyTooLarge, format!("the body may have {most} bytes"))
            .with("most", crate::problem::Extra::Count(most as u64))
    };
    let body = match body {
        Incoming::Whole(body) if body.len() > most => return Err(too_large()),
        Incoming::Whole(body) => return Ok(body.into()),
        Incoming::Stream(body) => body,
    };
    // Said before it is sent: no need to read it.
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout_at(deadline, axum::body::to_bytes(body, most)).await {
        Ok(Ok(bytes)) => Ok(Vec::from(bytes).into()),
        Ok(Err(error)) => {
            let limited = std::error::Error::source(&error)
                .is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
            Err(if limited { too_large() } else { Problem::new(Code::BodyIncomplete, "the body broke off") })
        }
        Err(_) => Err(Problem::new(Code::BodyIncomplete, "the body did not arrive within the deadline")),
    }
}
