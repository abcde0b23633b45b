//! The small files of a data directory: what it was formed with, which disk it is, why it must not be used.

use crate::proto::{MemberInfo, PrepareRequest};
use prost::Message;
use std::path::Path;
use stockroom_storage::error::StorageError;
use stockroom_storage::fs::FileSystem;
use stockroom_storage::small_file;

const FORMATION_FILE: &str = "formation";
const INCARNATION_FILE: &str = "incarnation";
const REFUSAL_FILE: &str = "refused";

/// The members this node was formed with; empty where it joined, or waits.
pub(crate) fn load_formation(fs: &dyn FileSystem, dir: &Path) -> Result<Vec<MemberInfo>, StorageError> {
    let Some(body) = small_file::read(fs, dir, FORMATION_FILE)? else { return Ok(Vec::new()) };
    let request = PrepareRequest::decode(&body[..])
        .map_err(|error| StorageError::Format(format!("{FORMATION_FILE}: {error}")))?;
    Ok(request.members)
}

pub(crate) fn store_formation(
    fs: &dyn FileSystem,
    dir: &Path,
    formation: &PrepareRequest,
) -> Result<(), StorageError> {
    small_file::write(fs, dir, FORMATION_FILE, &formation.encode_to_vec())
}

/// Why this data directory must not be used any more; `None` where nothing speaks against it.
pub(crate) fn load_refusal(fs: &dyn FileSystem, dir: &Path) -> Result<Option<String>, StorageError> {
    let body = small_file::read(fs, dir, REFUSAL_FILE)?;
    Ok(body.map(|why| String::from_utf8_lossy(&why).into_owned()))
}

/// Says that this data directory must not be used any more.
pub(crate) fn store_refusal(fs: &dyn FileSystem, dir: &Path, why: &str) -> Result<(), StorageError> {
    small_file::write(fs, dir, REFUSAL_FILE, why.as_bytes())
}

/// What makes this data directory another one than the one that was here before under the same
/// node id. Minted when it is first used.
pub(crate) fn load_or_mint_incarnation(
    fs: &dyn FileSystem,
    dir: &Path,
    random: impl Fn() -> u64,
) -> Result<u64, StorageError> {
    if let Some(body) = small_file::read(fs, dir, INCARNATION_FILE)? {
        let bytes: Result<[u8; 8], _> = body.as_slice().try_into();
        return bytes
            .map(u64::from_be_bytes)
            .map_err(|_| StorageError::Format(format!("{INCARNATION_FILE}: a wrong length")));
    }
    // 0 stands for "not known" in frames.
    let minted = random().max(1);
    small_file::write(fs, dir, INCARNATION_FILE, &minted.to_be_bytes())?;
    Ok(minted)
}
