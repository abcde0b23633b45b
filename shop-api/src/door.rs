//! The door: every request comes in here, and every answer goes out here.

use crate::answer::Answer;
use crate::api::{Api, Serving};
use crate::codes::Code;
use crate::consistency::{self, Level, Shown};
use crate::limits::Limits;
use crate::problem::Problem;
use crate::routes::{self, Kind, Target};
use crate::{
    Call, admin, batch, cluster, docs, headers, items, orders, outcomes, probes, reservations, stock, writes,
};
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, ETAG, LOCATION, RETRY_AFTER, VARY,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use stockroom_raft::Cluster;
use tokio::time::Instant;
use tracing::Instrument;

/// A request past the door.
pub(crate) struct Asked<'a> {
    pub api: &'a Api,
    pub cluster: &'a Cluster,
    pub headers: &'a HeaderMap,
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

/// Answers one request.
pub(crate) async fn serve(State(api): State<Api>, request: Request) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let request_id = headers::request_id(&parts.headers);
    let id = request_id.to_str().expect("a request id is visible ASCII, checked or made so").to_owned();
    let path = parts.uri.path();
    let target = routes::resolve(&parts.method, path);
    let call = target.as_ref().ok().map(|target| target.call);
    let span = tracing::debug_span!("request", id, method = %parts.method, path);

    let session = session(&api, &parts.headers);
    let seen = session.as_ref().ok().copied().flatten();
    let result = async {
        let target = target?;
        answer(&api, &parts, body, target, session, started, &id).await
    }
    .instrument(span)
    .await;

    let mut response = match result {
        Ok(answer) => succeed(answer, &api, seen),
        Err(problem) => {
            api.counters().refused(problem.code());
            note(&problem, &id, call);
            fail(&problem, &id, &api, seen)
        }
    };
    let head = response.headers_mut();
    head.insert(headers::REQUEST_ID, request_id);
    if api.is_draining() {
        head.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let (status, took) = (response.status().as_u16(), started.elapsed());
    api.counters().answered(call, status, took);
    tracing::debug!(request_id = id, call = name_of(call), status, ?took, "answered");
    response
}

/// The log index of the session token that came along.
fn session(api: &Api, headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(serving) = api.serving() else { return Ok(None) };
    match headers::text(headers, &headers::SESSION) {
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
fn note(problem: &Problem, request_id: &str, call: Option<Call>) {
    let (code, call) = (problem.code().spec().slug, name_of(call));
    match problem.status() {
        500 | 504 => tracing::warn!(request_id, call, code, detail = problem.detail(), "request failed"),
        _ => tracing::debug!(request_id, call, code, detail = problem.detail(), "request refused"),
    }
}

async fn answer(
    api: &Api,
    parts: &Parts,
    body: Body,
    target: Target<'_>,
    session: Result<Option<u64>, Problem>,
    started: Instant,
    request_id: &str,
) -> Result<Answer, Problem> {
    let call = target.call;
    let kind = call.route().kind;
    if kind == Kind::Root {
        return root(api, &parts.headers, parts.uri.query(), &target);
    }
    let produced = match call {
        Call::Audit | Call::Export => cluster::NDJSON,
        Call::Backup => admin::BACKUP,
        Call::ReadLog => admin::LOG,
        _ => crate::answer::JSON,
    };
    // Lines of JSON are JSON enough for whoever asks for that.
    if !headers::accepts(&parts.headers, produced) && !headers::accepts(&parts.headers, crate::answer::JSON) {
        return Err(Problem::new(Code::NotAcceptable, format!("this call answers {produced}")).at("Accept"));
    }
    let Some(Serving { cluster, .. }) = api.serving() else {
        return Err(Problem::new(Code::NotAMember, api.reason()));
    };
    let deadline = started + headers::timeout(&parts.headers, api.limits())?;
    let level = Level::asked(&parts.headers, session?)?;
    let asked = Asked {
        api,
        cluster,
        headers: &parts.headers,
        query: parts.uri.query(),
        target,
        level,
        deadline,
        request_id,
    };
    match kind {
        Kind::Write | Kind::Batch | Kind::Settle => write(asked, kind, body).await,
        Kind::Read | Kind::Local | Kind::Root => read(asked, body).await,
    }
}

async fn write(asked: Asked<'_>, kind: Kind, body: Body) -> Result<Answer, Problem> {
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
        _ => {
            let key = headers::idempotency_key(asked.headers, limits)?;
            headers::content_is_json(asked.headers)?;
            let body = collect(body, limits.body_bytes, asked.deadline).await?;
            writes::submit(&asked, key, &body).await
        }
    }
}

fn no_query(asked: &Asked<'_>) -> Result<(), Problem> {
    crate::query::Query::parse(asked.query, &[]).map(|_| ())
}

async fn read(asked: Asked<'_>, body: Body) -> Result<Answer, Problem> {
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
        Call::Audit => {
            let body = collect(body, asked.limits().body_bytes, asked.deadline).await?;
            cluster::audit(&asked, &body).await
        }
        Call::Backup => admin::backup(&asked).await,
        Call::Export => admin::export(&asked).await,
        Call::ReadLog => admin::log(&asked).await,
        call => unreachable!("{call:?} is not a read"),
    }
}

fn root(api: &Api, headers: &HeaderMap, query: Option<&str>, target: &Target<'_>) -> Result<Answer, Problem> {
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
async fn collect(body: Body, most: usize, deadline: Instant) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(Code::BodyTooLarge, format!("the body may have {most} bytes"))
            .with("most", crate::problem::Extra::Count(most as u64))
    };
    // Said before it is sent: no need to read it.
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout_at(deadline, axum::body::to_bytes(body, most)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            let limited = std::error::Error::source(&error)
                .is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
            Err(if limited { too_large() } else { Problem::new(Code::BodyIncomplete, "the body broke off") })
        }
        Err(_) => Err(Problem::new(Code::BodyIncomplete, "the body did not arrive within the deadline")),
    }
}

fn succeed(answer: Answer, api: &Api, seen: Option<u64>) -> Response {
    let mut response = Response::new(answer.body);
    *response.status_mut() = StatusCode::from_u16(answer.status).expect("our statuses are valid");
    let head = response.headers_mut();
    if answer.status != 304 {
        head.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    }
    if let Some(version) = answer.etag {
        let tag =
            HeaderValue::try_from(format!("\"{version}\"")).expect("digits in quotes are a header value");
        head.insert(ETAG, tag);
    }
    if let Some(path) = answer.location.and_then(|path| HeaderValue::try_from(path).ok()) {
        head.insert(LOCATION, path);
    }
    if answer.gzip {
        head.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        head.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    stamp(head, api, seen, answer.shown, answer.replayed);
    response
}

fn fail(problem: &Problem, request_id: &str, api: &Api, seen: Option<u64>) -> Response {
    let mut response = Response::new(Body::from(problem.body(request_id)));
    *response.status_mut() = StatusCode::from_u16(problem.status()).expect("our statuses are valid");
    let head = response.headers_mut();
    head.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = problem.retry_after_seconds() {
        head.insert(RETRY_AFTER, seconds.into());
    }
    if let Some(methods) = problem.allowed_methods().and_then(|methods| HeaderValue::from_str(methods).ok()) {
        head.insert(ALLOW, methods);
    }
    stamp(head, api, seen, problem.shows(), problem.is_replayed());
    response
}

/// What every answer of a member says: which entry it shows, who gave it, and what its holder has seen.
fn stamp(head: &mut HeaderMap, api: &Api, seen: Option<u64>, shown: Option<Shown>, replayed: bool) {
    head.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    head.insert(headers::SERVED_BY, shown.map_or(api.node_id(), |shown| shown.node_id).into());
    if replayed {
        head.insert(headers::IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    let Some(serving) = api.serving() else { return };
    let index = match shown {
        Some(shown) => shown.log_index,
        None => serving.cluster.reader().applied().fingerprint.log_index,
    };
    head.insert(headers::APPLIED_INDEX, index.into());
    if let Some(staleness_ms) = shown.and_then(|shown| shown.staleness_ms) {
        head.insert(headers::STALENESS_MS, staleness_ms.into());
    }
    let token = consistency::print_session(serving.cluster_id, index.max(seen.unwrap_or(0)));
    head.insert(headers::SESSION, HeaderValue::from_bytes(&token).expect("base 64 is visible ASCII"));
}
