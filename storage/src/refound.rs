//! A new cluster out of a snapshot file: what a restore from a backup and a recovery from a lost quorum have in
//! common.
//!
//! The new cluster has an id of its own, so that nothing of the old one (a member that comes back, a session token)
//! is taken for part of it; and the next epoch, so that an id that it makes is never one that the old cluster may
//! have made after the snapshot. Rows, indexes of the log and receipts stay as they are. The log starts empty behind
//! the snapshot; terms begin anew.

use crate::backup::head_of;
use crate::codec::{self, LogId};
use crate::error::StorageError;
use crate::fs::RealFileSystem;
use crate::keys;
use crate::shop::state::{Key, Row};
use crate::shop::version::SERVED;
use crate::snapshot::{SnapshotFile, Snapshots, Underway};
use crate::tables::{Fingerprint, Progress, row_hash};
use crate::type_config::{Member, TypeConfig};
use bytes::Bytes;
use openraft::alias::StoredMembershipOf;
use openraft::vote::leader_id_std::CommittedLeaderId;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// One voter of the new cluster, and the directory that becomes its own.
#[derive(Debug, Clone)]
pub struct Founder {
    /// Empty, or not there yet.
    pub dir: PathBuf,
    /// Its id.
    pub node_id: u64,
    /// Its addresses and its incarnation.
    pub member: Member,
}

/// What the new cluster starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refounded {
    /// Minted for it.
    pub cluster_id: u128,
    /// How often this history was begun anew.
    pub epoch: u16,
    /// Where its state stands.
    pub fingerprint: Fingerprint,
}

/// Whether a directory may become a new node's: it is not there, or has nothing in it (but what a file system of its
/// own begins with).
///
/// # Errors
/// [`StorageError::Foreign`] where something is in it; [`StorageError::Io`].
pub fn must_be_empty(dir: &Path) -> Result<(), StorageError> {
    let io = |error: &std::io::Error| StorageError::io(format!("looking into {}", dir.display()), error);
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(&error)),
    };
    for entry in entries {
        let name = entry.map_err(|error| io(&error))?.file_name();
        if name != "lost+found" {
            return Err(StorageError::Foreign(format!("{} is not empty: it has {:?}", dir.display(), name)));
        }
    }
    Ok(())
}

/// Writes the snapshot file of a new cluster into the directory of each founder. They are not nodes before they
/// have an identity, which the caller gives them last.
///
/// # Errors
/// [`StorageError`] where a directory is not empty, the source does not verify, or the disk refuses.
pub fn write_snapshots(
    source: &SnapshotFile,
    cluster_id: u128,
    founders: &[Founder],
) -> Result<Refounded, StorageError> {
    let mut head = head_of(source)?;
    head.epoch = head.epoch.checked_add(1).ok_or_else(|| {
        StorageError::Format("this history was begun anew 65,535 times already: no epoch is left".to_owned())
    })?;
    let epoch = head.epoch;
    let head_key = keys::encode(&Key::Head).into_vec();
    let head_row: (Vec<u8>, Bytes) =
        (head_key.clone(), codec::encode_exact(&Row::Head(head), &mut Vec::new()));
    let progress = progress_of(source, cluster_id, epoch, founders, &head_row)?;
    let fingerprint = progress.fingerprint();
    for founder in founders {
        let snapshots = Snapshots {
            fs: Arc::new(RealFileSystem),
            dir: founder.dir.join("snapshot"),
            cluster_id,
            group_id: source.header().group_id,
            served: SERVED,
            underway: Underway::default(),
        };
        let mut rows = source.rows()?;
        let blocks = std::iter::from_fn(|| rows.next_block().transpose());
        let old_rows = blocks.flat_map(|block| match block {
            Ok(rows) => rows.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        });
        let others = old_rows.filter(|row| !matches!(row, Ok((key, _)) if *key == head_key));
        snapshots.write(progress.clone(), std::iter::once(Ok(head_row.clone())).chain(others))?;
    }
    Ok(Refounded { cluster_id, epoch, fingerprint })
}

fn progress_of(
    source: &SnapshotFile,
    cluster_id: u128,
    epoch: u16,
    founders: &[Founder],
    head_row: &(Vec<u8>, Bytes),
) -> Result<Progress, StorageError> {
    let old = &source.header().progress;
    let first = source.rows()?.next_block()?.unwrap_or_default().into_iter().next();
    let old_head = first.filter(|(key, _)| *key == head_row.0);
    let old_hash = old_head.map_or(0, |(key, value)| row_hash(&key, &value));
    let mut digest = Xxh3::new();
    digest.update(b"a new cluster");
    digest.update(&old.digest.to_le_bytes());
    digest.update(&cluster_id.to_le_bytes());
    digest.update(&epoch.to_le_bytes());
    // Term 0 is below the first term in which anyone can lead.
    let log_id = LogId::new(CommittedLeaderId::new(0), old.log_index());
    let voters: BTreeSet<u64> = founders.iter().map(|founder| founder.node_id).collect();
    let nodes: BTreeMap<u64, Member> =
        founders.iter().map(|founder| (founder.node_id, founder.member.clone())).collect();
    let membership = codec::Membership::new(vec![voters], nodes)
        .map_err(|error| StorageError::Format(format!("no cluster can have these members: {error}")))?;
    Ok(Progress {
        log_id: Some(log_id),
        membership: StoredMembershipOf::<TypeConfig>::new(Some(log_id), membership),
        digest: digest.digest128(),
        state_hash: old.state_hash.wrapping_sub(old_hash).wrapping_add(row_hash(&head_row.0, &head_row.1)),
        derived_hash: old.derived_hash,
        cluster_version: old.cluster_version,
    })
}

/// Opens a snapshot file that lies anywhere, and verifies it.
///
/// # Errors
/// [`StorageError`] where it does not verify or is of another cluster.
pub fn open_snapshot(path: &Path, cluster_id: u128) -> Result<SnapshotFile, StorageError> {
    let dir = path.parent().unwrap_or(Path::new(".")).to_owned();
    Snapshots {
        fs: Arc::new(RealFileSystem),
        dir,
        cluster_id,
        group_id: 0,
        served: SERVED,
        underway: Underway::default(),
    }
    .open(path)
}
