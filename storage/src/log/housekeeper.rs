//! Makes the next segment before it is needed and clears away the purged ones, beside the writer.

use super::segment::Segment;
use crate::error::StorageError;
use crate::fs::{FileSystem, Lock};
use crate::identity::Identity;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Purged segments kept for reuse; zeroing a new one costs a write of its length.
const MAX_SPARES: usize = 2;

/// What the writer asks for.
#[derive(Debug)]
pub(crate) enum Chore {
    /// A segment of this generation.
    Make { generation: u64, answer: oneshot::Sender<Result<Segment, StorageError>> },
    /// Nobody needs this segment any more, and the disk knows it.
    Retire(Arc<Segment>),
    /// Answer when all before is done.
    Finish(oneshot::Sender<()>),
}

/// The directory and the spare segments in it.
#[derive(Debug)]
pub(crate) struct Housekeeper {
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) dir: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) segment_bytes: u64,
    pub(crate) spares: Vec<PathBuf>,
    /// Nobody else opens the directory while chores are left.
    pub(crate) _lock: Lock,
}

impl Housekeeper {
    /// Works until the writer is gone.
    pub(crate) async fn run(mut self, mut chores: mpsc::UnboundedReceiver<Chore>) {
        while let Some(chore) = chores.recv().await {
            match chore {
                Chore::Make { generation, answer } => {
                    // The writer may be gone: then nobody needs it.
                    let _ = answer.send(self.make(generation, self.segment_bytes));
                }
                Chore::Retire(segment) => self.retire(segment),
                Chore::Finish(answer) => {
                    let _ = answer.send(());
                }
            }
        }
    }

    /// Makes a segment of `bytes`, from a spare one if that has the length.
    pub(crate) fn make(&mut self, generation: u64, bytes: u64) -> Result<Segment, StorageError> {
        let spare = if bytes == self.segment_bytes { self.spares.pop() } else { None };
        Segment::make(&*self.fs, &self.dir, &self.identity, generation, bytes, spare.as_deref())
    }

    /// Recycles or removes a segment. A failure costs space, and no promise: it is told and left.
    pub(crate) fn retire(&mut self, segment: Arc<Segment>) {
        let path = segment.path.clone();
        // A reader that still holds the file must go on finding in it what it looked up.
        let reusable = Arc::try_unwrap(segment).is_ok_and(|segment| segment.bytes == self.segment_bytes);
        let result = if reusable && self.spares.len() < MAX_SPARES {
            self.keep(&path)
        } else {
            self.fs.remove(&path).and_then(|()| self.fs.sync_dir(&self.dir))
        };
        if let Err(error) = result {
            tracing::warn!(file = %path.display(), %error, "a purged segment of the log stays behind");
        }
    }

    /// The spare name must be durable before the contents change: no name of a segment may ever
    /// lead to the bytes of another.
    fn keep(&mut self, path: &Path) -> std::io::Result<()> {
        let spare = path.with_extension("spare");
        self.fs.rename(path, &spare)?;
        self.fs.sync_dir(&self.dir)?;
        self.spares.push(spare);
        Ok(())
    }
}
