//! Who this data directory belongs to. Kept in the file `identity`, and in each segment of the log.

use crate::{error::StorageError, fs::FileSystem};
use std::path::Path;

/// The cluster, node, disk and group that a data directory belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Random, minted once when the cluster is bootstrapped.
    pub cluster_id: u128,
    /// The node's id in the cluster.
    pub node_id: u64,
    /// Random, minted when the data directory was made: another one under the same node id is
    /// another disk, which forgot its votes.
    pub incarnation: u64,
    /// The Raft group; 0 for now.
    pub group_id: u32,
}

const FILE: &str = "identity";
const MAGIC: [u8; 8] = *b"SRIDENT\x01";
/// Bytes of an identity as [`Identity::to_bytes`] lays them out.
pub(crate) const IDENTITY_BYTES: usize = 36;
const FILE_BYTES: usize = 8 + IDENTITY_BYTES + 4;

impl Identity {
    /// What to do with a node that lost what it had acknowledged, as the end of a message.
    #[must_use]
    pub fn must_be_replaced(&self) -> String {
        let own = self.node_id;
        format!(
            "Others may have counted on it, so it must not count under this id any more. Keep the data directory for \
             study, start a new node with a new id and an empty data directory, set to join the cluster, and remove the \
             old id {own}: `stockroom rebuild` does that in one step"
        )
    }

    pub(crate) fn to_bytes(self) -> [u8; IDENTITY_BYTES] {
        let mut bytes = [0; IDENTITY_BYTES];
        bytes[..16].copy_from_slice(&self.cluster_id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.node_id.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[32..].copy_from_slice(&self.group_id.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; IDENTITY_BYTES]) -> Self {
        let (cluster_id, rest) = bytes.split_first_chunk().expect("36 bytes");
        let (node_id, rest) = rest.split_first_chunk().expect("20 bytes are left");
        let (incarnation, rest) = rest.split_first_chunk().expect("12 bytes are left");
        let group_id = rest.first_chunk().expect("4 bytes are left");
        Identity {
            cluster_id: u128::from_le_bytes(*cluster_id),
            node_id: u64::from_le_bytes(*node_id),
            incarnation: u64::from_le_bytes(*incarnation),
            group_id: u32::from_le_bytes(*group_id),
        }
    }
}

/// Reads the identity of the data directory `dir`; `None` where it has none yet.
///
/// # Errors
/// [`StorageError::Io`]; [`StorageError::Corrupt`] where the file was changed.
pub fn load(fs: &dyn FileSystem, dir: &Path) -> Result<Option<Identity>, StorageError> {
    let path = dir.join(FILE);
    let io = |error: std::io::Error| StorageError::io(format!("reading {}", path.display()), &error);
    let file = match fs.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let corrupt = |why: &str| StorageError::Corrupt {
        file: path.clone(),
        offset: 0,
        why: format!("{why}; restore this one file from a copy, or replace the node by a new one"),
    };
    if file.len().map_err(io)? != FILE_BYTES as u64 {
        return Err(corrupt("the identity has a wrong length"));
    }
    let mut bytes = [0; FILE_BYTES];
    file.read_exact_at(&mut bytes, 0).map_err(io)?;
    let (body, sum) = bytes.split_at(FILE_BYTES - 4);
    if sum != crc32c::crc32c(body).to_le_bytes() {
        return Err(corrupt("the identity does not match its checksum"));
    }
    if body[..8] != MAGIC {
        return Err(StorageError::Format(format!("{}: unknown format of an identity", path.display())));
    }
    Ok(body[8..].first_chunk().map(Identity::from_bytes))
}

/// Gives the data directory `dir` its identity. After a crash the file is whole or as it was before.
///
/// # Errors
/// [`StorageError::Io`].
pub fn store(fs: &dyn FileSystem, dir: &Path, identity: &Identity) -> Result<(), StorageError> {
    let (path, temporary) = (dir.join(FILE), dir.join("identity.tmp"));
    let io = |error: std::io::Error| StorageError::io(format!("writing {}", path.display()), &error);
    let mut bytes = MAGIC.to_vec();
    bytes.extend(identity.to_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    fs.create_dir_all(dir).map_err(io)?;
    match fs.remove(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let file = fs.create_new(&temporary).map_err(io)?;
    file.write_all_at(&bytes, 0).map_err(io)?;
    file.sync_data().map_err(io)?;
    fs.rename(&temporary, &path).map_err(io)?;
    fs.sync_dir(dir).map_err(io)
}
