//! Where workers run that read and write files or decide entries: a seam, so that a simulation can run
//! them as tasks.

use crate::error::StorageError;
use futures::future::BoxFuture;
use std::{fmt::Debug, future::Future, io};
use tokio::sync::oneshot;

/// Starts workers. A worker may block while it reads or writes files.
pub trait Spawn: Debug + Send + Sync + 'static {
    /// Starts `worker`, which ends by itself, under a name that shows in process lists.
    ///
    /// # Errors
    /// As the operating system says.
    fn spawn(&self, name: &str, worker: BoxFuture<'static, ()>) -> io::Result<()>;
}

/// Each worker on a thread of its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThreadSpawn;

impl Spawn for ThreadSpawn {
    fn spawn(&self, name: &str, worker: BoxFuture<'static, ()>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(worker))?;
        Ok(())
    }
}

/// Has a worker of its own do something that may block, and waits for what it gives.
pub(crate) async fn on_worker<T: Send + 'static>(
    spawn: &dyn Spawn,
    name: &'static str,
    work: impl Future<Output = Result<T, StorageError>> + Send + 'static,
) -> Result<T, StorageError> {
    let (answer, outcome) = oneshot::channel();
    let worker = async move {
        // Nobody waits any more where the node is being stopped.
        let _ = answer.send(work.await);
    };
    spawn
        .spawn(name, Box::pin(worker))
        .map_err(|error| StorageError::io(format!("starting the worker {name}"), &error))?;
    outcome.await.unwrap_or_else(|_| Err(StorageError::Stopped(format!("the worker {name} panicked"))))
}
