//! What can be wrong with this disk or these bytes. The node stops; it must not guess.

use std::{io, path::PathBuf};

/// This disk or these bytes are bad.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused.
    #[error("{what}: {message}")]
    Io {
        /// What was being done, with the file's name.
        what: String,
        /// What kind of refusal.
        kind: io::ErrorKind,
        /// Its own words.
        message: String,
    },
    /// Bytes that were durable have changed.
    #[error("{} is damaged at byte {offset}: {why}", file.display())]
    Corrupt {
        /// Which file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// How it shows, and what to do next.
        why: String,
    },
    /// A file of another cluster, node or group.
    #[error("{0}")]
    Foreign(String),
    /// Bytes of a format that this version does not know, or that break it.
    #[error("{0}")]
    Format(String),
    /// Bytes that were durable are gone, and nothing but what depends on them says so.
    #[error("{0}")]
    Lost(String),
    /// The cluster version is none that this program serves; the message says what to do.
    #[error("{0}")]
    Version(String),
    /// An earlier write or sync failed; nothing is written any more.
    #[error("the log is poisoned by an earlier error: {0}")]
    Poisoned(String),
    /// The state machine stopped: an invariant does not hold or state cannot be read.
    #[error("{0}")]
    Stopped(String),
}

impl StorageError {
    /// Wraps what the operating system said while doing `what`.
    pub fn io(what: impl Into<String>, error: &io::Error) -> Self {
        StorageError::Io { what: what.into(), kind: error.kind(), message: error.to_string() }
    }
}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        let kind = match &error {
            StorageError::Io { kind, .. } => *kind,
            StorageError::Corrupt { .. }
            | StorageError::Format(_)
            | StorageError::Foreign(_)
            | StorageError::Lost(_)
            | StorageError::Version(_) => io::ErrorKind::InvalidData,
            StorageError::Poisoned(_) | StorageError::Stopped(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl From<crate::shop::state::Unreadable> for StorageError {
    fn from(error: crate::shop::state::Unreadable) -> Self {
        StorageError::Stopped(error.to_string())
    }
}
