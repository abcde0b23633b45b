//! One node, from its settings to its exit code.

use crate::config::{Config, ConfigError};
use crate::{http, options, shutdown, telemetry};
use anyhow::Context as _;
use std::process::ExitCode;
use std::time::Duration;
use stockroom_raft::{Phase, RaftOptions, Running, Seams, StartError};
use stockroom_shop_api::Api;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How long a stopping node answers before it closes connections: clients that are busy send something in that time.
const NOTICE: Duration = Duration::from_millis(300);

/// Exit code of a node that stopped itself.
const STOPPED_ITSELF: u8 = 3;

/// Runs a node until a signal, or until it stops itself.
///
/// # Errors
/// Where it cannot start: settings, addresses in use, a data directory that is damaged or of another node.
pub fn run(config: Config, stop_with_parent: bool) -> anyhow::Result<ExitCode> {
    telemetry::start_logging(&config)?;
    #[cfg(feature = "planted")]
    crate::planted::plant()?;
    #[cfg(feature = "next-version")]
    warn!("a build for tests of upgrades: it claims a cluster version that does not exist");
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if config.worker_threads > 0 {
        builder.worker_threads(config.worker_threads.try_into()?);
    }
    let runtime = builder.enable_all().thread_name("stockroom").build()?;
    let code = runtime.block_on(serve(&config, stop_with_parent));
    if code.is_err() {
        // `main` says why; what still runs must not be heard after it.
        telemetry::last_line();
    }
    // What is left are tasks that wait for the network; the log is sealed or its error was told.
    runtime.shutdown_background();
    code
}

async fn serve(config: &Config, stop_with_parent: bool) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signal()?;
    if stop_with_parent {
        shutdown::when_parent_ends(stop.clone());
    }
    let (node_id, raft_options) = identified(config)?;
    // Both addresses first: a node that cannot be reached must not touch its data.
    let http_listener = bind("http_listen", config.http_listen.as_str()).await?;
    let peer_listener = bind("peer_listen", config.peer_listen.as_str()).await?;

    let metrics = telemetry::start_metrics()?;
    let running = stockroom_raft::start(raft_options, peer_listener, Seams::default())
        .await
        .map_err(with_advice)
        .with_context(|| format!("cannot start from {}", config.data_dir.display()))?;
    let api = Api::new(options::limits(config)?, node_id);
    let (phase, data_dir) = (running.phase.clone(), config.data_dir.clone());
    api.metrics(move || {
        telemetry::observe_machine(&data_dir);
        if let Phase::Member(cluster) = &*phase.borrow() {
            telemetry::observe(&cluster.reader().stats());
        }
        metrics.render()
    });
    info!(
        node_id,
        http = config.http_address().as_str(),
        peer = config.peer_address().as_str(),
        data_dir = %config.data_dir.display(),
        version = crate::VERSION,
        "listening"
    );
    let forms = !config.initial_cluster.is_empty();
    let membership = tokio::spawn(follow_phase(running.phase.clone(), api.clone(), forms));
    let stop_http = CancellationToken::new();
    let options = http::Options {
        connections_max: usize::try_from(config.http_connections_max)?,
        idle_timeout: Duration::from_millis(config.http_idle_timeout_ms),
    };
    let served = tokio::spawn(http::serve(http_listener, api.clone(), options, stop_http.clone()));

    tokio::select! {
        reason = running.stopped() => {
            telemetry::last_line();
            error!(%reason, "this node stopped itself");
            return Ok(ExitCode::from(STOPPED_ITSELF));
        }
        () = stop.cancelled() => {}
    }
    let patience = Duration::from_millis(config.shutdown_drain_ms);
    let deadline = Instant::now() + patience;
    give_notice(&api, patience).await;
    stop_http.cancel();
    membership.abort();
    let _ = membership.await;
    // Whoever holds the API holds the data directory open; from here on that are requests in flight only.
    drop(api);
    Ok(drain(served, running, deadline).await)
}

/// Under which id the node runs, and with what. One that was rebuilt is another member than its settings say.
fn identified(config: &Config) -> anyhow::Result<(u64, RaftOptions)> {
    let configured = config.node_id.ok_or(ConfigError::Missing { name: "node_id" })?;
    let rebuilt = stockroom_raft::rebuilt(&config.data_dir)?;
    let rebuilt = rebuilt.filter(|rebuilt| [rebuilt.configured, rebuilt.node_id].contains(&configured));
    let node_id = rebuilt.as_ref().map_or(configured, |rebuilt| rebuilt.node_id);
    let options = options::raft_options(config, node_id)?;
    Ok((node_id, rebuilt.into_iter().fold(options, options::as_rebuilt)))
}

/// What to do, behind why the node cannot start.
fn with_advice(error: StartError) -> anyhow::Error {
    let advice = match &error {
        StartError::Storage(error) => error.advice(),
        _ => "",
    };
    anyhow::anyhow!("{error}{advice}")
}

async fn bind(setting: &str, address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {setting} {address}"))
}

/// Says what the node waits for, and lets the API serve once it is a member.
async fn follow_phase(mut phase: watch::Receiver<Phase>, api: Api, forms: bool) {
    loop {
        let now = phase.borrow_and_update().clone();
        let waiting = match now {
            Phase::WaitingForBootstrap if forms => {
                "forming the initial cluster: waiting until all nodes of `initial_cluster` answer"
            }
            Phase::WaitingForBootstrap => {
                "this node is empty: form a cluster with `stockroom bootstrap`, or start it with `initial_cluster` or `join`"
            }
            Phase::Joining => "asking the cluster to take this node in as a learner",
            Phase::Member(cluster) => {
                info!("member of the cluster");
                return api.serve(cluster);
            }
        };
        info!("{waiting}");
        api.waiting_for(waiting);
        if phase.changed().await.is_err() {
            return;
        }
    }
}

/// A connection that is closed while its next request is on the way is reset, and its client cannot know whether that
/// was done. So each is told first: what comes in is refused as definitely not done, and the connection ends with that
/// answer.
async fn give_notice(api: &Api, patience: Duration) {
    api.set_draining();
    tokio::time::sleep(NOTICE.min(patience / 4)).await;
}

/// Requests in flight end, then leadership is handed over and the log sealed.
async fn drain(served: JoinHandle<()>, running: Running, deadline: Instant) -> ExitCode {
    // A part of the time is kept for the log, even where a client never ends its request.
    let half = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
    let mut drained = true;
    if timeout_at(half, served).await.is_err() {
        warn!("requests were still in flight at half of shutdown_drain_ms");
        drained = false;
    }
    match timeout_at(deadline, running.shutdown()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            warn!(%error, "the log was not sealed; the next start checks its tail");
            drained = false;
        }
        Err(_) => {
            warn!("replication did not end within shutdown_drain_ms; the next start checks the log's tail");
            drained = false;
        }
    }
    info!(drained, "stopped");
    if drained { ExitCode::SUCCESS } else { ExitCode::from(shutdown::NOT_DRAINED) }
}
