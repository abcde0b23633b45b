//! A node stops itself once: the first reason counts, and is its last line.

use crate::core::Core;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::Fatal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

/// Why a node has to stop: the first reason counts.
#[derive(Debug, Clone)]
pub(crate) struct Stop(Arc<watch::Sender<Option<String>>>);

impl Default for Stop {
    fn default() -> Self {
        Stop(Arc::new(watch::Sender::new(None)))
    }
}

impl Stop {
    pub(crate) fn because(&self, why: String) {
        self.0.send_if_modified(|reason| {
            if reason.is_some() {
                return false;
            }
            tracing::error!(reason = why, "this node has to stop");
            *reason = Some(why);
            true
        });
    }

    pub(crate) fn is_told(&self) -> bool {
        self.0.borrow().is_some()
    }

    pub(crate) async fn reason(&self) -> String {
        let mut reason = self.0.subscribe();
        let reason = reason.wait_for(Option::is_some).await.expect("the sender is held here");
        reason.clone().expect("waited for one")
    }
}

/// A fatal error of openraft or of the storage under it stops the node.
pub(crate) async fn watch_openraft(core: Arc<Core>) {
    let mut metrics = core.raft.metrics();
    loop {
        let ended = match &metrics.borrow_watched().running_state {
            Ok(()) => None,
            // Asked to, by a stop in order.
            Err(Fatal::Stopped) if core.draining.load(Ordering::Relaxed) => return,
            // openraft says only that the log failed, and not how.
            Err(fatal) => Some(cause(&core).unwrap_or_else(|| format!("openraft stopped: {fatal}"))),
        };
        if let Some(why) = ended {
            return core.stop.because(why);
        }
        if metrics.changed().await.is_err() {
            if !core.draining.load(Ordering::Relaxed) {
                core.stop.because("openraft stopped".into());
            }
            return;
        }
    }
}

/// What openraft stopped for, as far as this node's disk is to blame, with what to do about it.
fn cause(core: &Core) -> Option<String> {
    poisoned(core).or_else(|| core.storage.failure().map(|error| format!("{error}{}", error.advice())))
}

/// Why the log cannot be written any more, where that is so.
fn poisoned(core: &Core) -> Option<String> {
    let poisoned = core.storage.log.poisoned();
    let error = poisoned.borrow();
    error.as_ref().map(|error| format!("its log cannot be written: {error}{}", error.advice()))
}

/// A log that failed stops the node at once, not when somebody wants to write next.
pub(crate) async fn watch_log(core: Arc<Core>) {
    let mut log = core.storage.log.poisoned();
    if log.wait_for(Option::is_some).await.is_ok()
        && let Some(why) = poisoned(&core)
    {
        core.stop.because(why);
    }
}
