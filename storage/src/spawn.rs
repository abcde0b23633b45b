//! Where the log's workers run: a seam, so that a simulation can run them as tasks.

use futures::future::BoxFuture;
use std::{fmt::Debug, io};

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
