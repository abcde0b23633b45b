//! What all requests of one node share.

use crate::counters::Counters;
use crate::limits::Limits;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use stockroom_raft::Cluster;
use tokio::sync::Semaphore;

/// The commerce API of one node. Cheap to clone.
///
/// Made before the node is a member of a cluster: until [`Api::serve`] is called, `/livez` passes,
/// `/readyz` says why not yet, and everything else is refused as `not_a_member`.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    limits: Limits,
    node_id: u64,
    serving: OnceLock<Serving>,
    waiting_for: Mutex<String>,
    metrics: OnceLock<Box<dyn Fn() -> String + Send + Sync>>,
    draining: AtomicBool,
    audits: Arc<Semaphore>,
    backups: Arc<Semaphore>,
    snapshot_wanted: Wanted,
    counters: Counters,
}

/// The index of a snapshot that is being written because somebody asked for it; 0: none is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted(Arc<AtomicU64>);

/// As long as it lives, no other one is begun.
pub(crate) struct Writing(Wanted);

impl Wanted {
    pub fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Acquire)).filter(|index| *index > 0)
    }

    /// `None` where one is being written.
    pub fn begin(&self, index: u64) -> Option<Writing> {
        let begun = self.0.compare_exchange(0, index.max(1), Ordering::AcqRel, Ordering::Acquire);
        begun.is_ok().then(|| Writing(self.clone()))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Release);
    }
}

/// The cluster once there is one.
pub(crate) struct Serving {
    pub cluster: Cluster,
    /// Never changes, so it is not asked for again with every request.
    pub cluster_id: u128,
}

impl Api {
    /// The API of the node `node_id`, which is not a member of a cluster yet.
    pub fn new(limits: Limits, node_id: u64) -> Self {
        Api(Arc::new(Inner {
            limits,
            node_id,
            serving: OnceLock::new(),
            waiting_for: Mutex::new("this node is not a member of a cluster yet".into()),
            metrics: OnceLock::new(),
            draining: AtomicBool::new(false),
            // Reading everything twice at once would only slow both down.
            audits: Arc::new(Semaphore::new(1)),
            backups: Arc::new(Semaphore::new(1)),
            snapshot_wanted: Wanted::default(),
            counters: Counters::default(),
        }))
    }

    /// Starts to serve: the node is a member. Only the first call counts.
    pub fn serve(&self, cluster: Cluster) {
        let cluster_id = cluster.status().cluster_id;
        if self.0.serving.set(Serving { cluster, cluster_id }).is_err() {
            tracing::warn!("a second cluster was handed to the API; it keeps the first");
        }
    }

    /// What `/readyz` gives as the reason until [`Api::serve`] is called.
    pub fn waiting_for(&self, reason: impl Into<String>) {
        *self.0.waiting_for.lock().unwrap_or_else(PoisonError::into_inner) = reason.into();
    }

    /// Who renders `/metrics`. Only the first call counts; without one, the body is empty.
    pub fn metrics(&self, render: impl Fn() -> String + Send + Sync + 'static) {
        if self.0.metrics.set(Box::new(render)).is_err() {
            tracing::warn!("a second source of metrics was handed to the API; it keeps the first");
        }
    }

    /// Begins to stop: `/readyz` fails, connections are closed after their answer, new writes are
    /// refused as `shutting_down`. What is in flight goes on.
    pub fn set_draining(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// Whether [`Api::set_draining`] was called.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(crate) fn node_id(&self) -> u64 {
        self.0.node_id
    }

    pub(crate) fn serving(&self) -> Option<&Serving> {
        self.0.serving.get()
    }

    pub(crate) fn reason(&self) -> String {
        self.0.waiting_for.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn render_metrics(&self) -> String {
        self.0.metrics.get().map_or_else(String::new, |render| render())
    }

    pub(crate) fn audits(&self) -> &Arc<Semaphore> {
        &self.0.audits
    }

    /// Of whatever goes out as a whole: a backup, an export, an archive of the log.
    pub(crate) fn backups(&self) -> &Arc<Semaphore> {
        &self.0.backups
    }

    /// The snapshot that somebody asked for.
    pub(crate) fn snapshot_wanted(&self) -> &Wanted {
        &self.0.snapshot_wanted
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.0.counters
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("node_id", &self.0.node_id)
            .field("serving", &self.0.serving.get().is_some())
            .field("draining", &self.is_draining())
            .finish_non_exhaustive()
    }
}
