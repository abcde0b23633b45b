//! What a node that does not run left on its disk: how far its state and its log go.
//!
//! The node's own files are only read. Its snapshot file and its log, of which everything else is a function, are
//! copied into a scratch directory, and there the log is applied to its end: first what this node knew to be
//! committed, then what it had in its log beyond that. That last part may or may not have been acknowledged; a
//! recovery keeps it, because what was acknowledged by a majority that this node was part of is in it.

use crate::codec::LogId;
use crate::error::StorageError;
use crate::fs::{FileSystem, Lock, RealFileSystem};
use crate::identity::{self, Identity};
use crate::open::{Storage, StorageOptions, open};
use crate::snapshot::SnapshotFile;
use crate::tables::Fingerprint;
use crate::type_config::{Member, TypeConfig};
use crate::version;
use futures::StreamExt;
use openraft::alias::EntryOf;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// The remains of one node, opened in a scratch directory.
#[derive(Debug)]
pub struct Remains {
    /// Whose they are.
    pub identity: Identity,
    /// Where its state stands at the last entry that it knew to be committed.
    pub committed: Fingerprint,
    /// Where its state stands at the end of its log.
    pub last: Fingerprint,
    /// Term of the last entry of its log.
    pub last_term: u64,
    /// The members as of the end of its log, each with whether it votes.
    pub members: BTreeMap<u64, (Member, bool)>,
    /// Groups of voters; nothing is decided without a majority of each. More than one in the midst of a change.
    pub voters: Vec<BTreeSet<u64>>,
    storage: Storage,
    // The node must not be started meanwhile.
    _lock: Lock,
}

/// Looks at the data directory of a node that does not run.
///
/// # Errors
/// [`StorageError::Foreign`] where the node runs or the directory is no node's, [`StorageError::Corrupt`] where its
/// log is damaged, [`StorageError::Format`] where snapshot file and log do not meet.
pub async fn examine(dir: &Path, scratch: &Path) -> Result<Remains, StorageError> {
    let fs = RealFileSystem;
    let identity = identity::load(&fs, dir)?.ok_or_else(|| {
        StorageError::Foreign(format!("{} is not the data directory of a member", dir.display()))
    })?;
    version::must_be_served(dir)?;
    let lock = lock(&dir.join("log"))?;
    copy_files(&dir.join("log"), &scratch.join("log"), false)?;
    copy_files(&dir.join("snapshot"), &scratch.join("snapshot"), true)?;
    let mut storage = open(StorageOptions::new(scratch), &identity).await?;
    if let Some(needed) = storage.snapshot_needed {
        return Err(StorageError::Format(format!(
            "{}: its snapshot file is gone or damaged, and its log begins only after entry {needed}",
            dir.display()
        )));
    }
    let applying = |error: io::Error| StorageError::Stopped(format!("{}: {error}", dir.display()));
    let known = storage.log.read_committed().await.map_err(applying)?.map_or(0, |log_id| log_id.index);
    apply(&mut storage, known).await.map_err(applying)?;
    let committed = storage.reader.applied().fingerprint;
    apply(&mut storage, u64::MAX - 1).await.map_err(applying)?;
    let (last, membership) = storage.state_machine.applied_state().await.map_err(applying)?;
    let voters: Vec<u64> = membership.membership().voter_ids().collect();
    let nodes = membership.membership().nodes();
    let members = nodes.map(|(id, member)| (*id, (member.clone(), voters.contains(id)))).collect();
    let term = |last: LogId| last.committed_leader_id().term;
    Ok(Remains {
        identity,
        committed,
        last: storage.reader.applied().fingerprint,
        last_term: last.map_or(0, term),
        members,
        voters: membership.membership().get_joint_config().clone(),
        storage,
        _lock: lock,
    })
}

/// Applies the log up to `until`, or to its end.
async fn apply(storage: &mut Storage, until: u64) -> Result<(), io::Error> {
    // The first entry of a log has index 0.
    let from = storage.state_machine.applied_state().await?.0.map_or(0, |applied| applied.index + 1);
    if from > until {
        return Ok(());
    }
    let mut reader = storage.log.get_log_reader().await;
    let entries = reader.entries_stream(from..until + 1).await;
    let entries =
        entries.map(|entry: Result<EntryOf<TypeConfig>, io::Error>| entry.map(|entry| (entry, None)));
    storage.state_machine.apply(Box::pin(entries)).await
}

fn lock(log: &Path) -> Result<Lock, StorageError> {
    RealFileSystem.lock(log).map_err(|error| {
        if error.kind() == io::ErrorKind::WouldBlock {
            let node = log.parent().unwrap_or(log).display();
            return StorageError::Foreign(format!("{node} is in use: its node runs. Stop it first"));
        }
        StorageError::io(format!("locking {}", log.display()), &error)
    })
}

/// Copies the files of a directory; with links where that is possible, for those that are never changed.
fn copy_files(from: &Path, to: &Path, link: bool) -> Result<(), StorageError> {
    let io = |error: io::Error| StorageError::io(format!("copying {}", from.display()), &error);
    std::fs::create_dir_all(to).map_err(io)?;
    let entries = match std::fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    for entry in entries {
        let entry = entry.map_err(io)?;
        let target = to.join(entry.file_name());
        let linked = link && std::fs::hard_link(entry.path(), &target).is_ok();
        if !linked && entry.file_type().map_err(io)?.is_file() {
            std::fs::copy(entry.path(), target).map_err(io)?;
        }
    }
    Ok(())
}

impl Remains {
    /// Where its state stood at a recent entry, where that is still known.
    pub fn fingerprint_at(&self, log_index: u64) -> Option<Fingerprint> {
        self.storage.reader.fingerprint_at(log_index)
    }

    /// A snapshot file of the state at the end of its log, in the scratch directory.
    ///
    /// # Errors
    /// [`StorageError`] where the disk refuses.
    pub async fn snapshot(&mut self) -> Result<SnapshotFile, StorageError> {
        let built = self.storage.state_machine.build_snapshot().await;
        Ok(built.map_err(|error| StorageError::io("writing the snapshot file", &error))?.snapshot)
    }
}
