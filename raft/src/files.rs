//! The small files of a data directory: what it was formed with, which disk it is, why it must not be used.

use crate::proto::{MemberInfo, PrepareRequest, RebuiltInfo};
use prost::Message;
use std::path::Path;
use stockroom_storage::error::StorageError;
use stockroom_storage::fs::FileSystem;

const FORMATION_FILE: &str = "formation";
const INCARNATION_FILE: &str = "incarnation";
const REFUSAL_FILE: &str = "refused";
const REBUILT_FILE: &str = "rebuilt";
/// The format byte of these files.
const FORMAT: u8 = 1;

/// The members this node was formed with; empty where it joined, or waits.
pub(crate) fn load_formation(fs: &dyn FileSystem, dir: &Path) -> Result<Vec<MemberInfo>, StorageError> {
    let Some(body) = read_small(fs, dir, FORMATION_FILE)? else { return Ok(Vec::new()) };
    let request = PrepareRequest::decode(&body[..])
        .map_err(|error| StorageError::Format(format!("{FORMATION_FILE}: {error}")))?;
    Ok(request.members)
}

pub(crate) fn store_formation(
    fs: &dyn FileSystem,
    dir: &Path,
    formation: &PrepareRequest,
) -> Result<(), StorageError> {
    write_small(fs, dir, FORMATION_FILE, &formation.encode_to_vec())
}

/// Why this data directory must not be used any more; `None` where nothing speaks against it.
pub(crate) fn load_refusal(fs: &dyn FileSystem, dir: &Path) -> Result<Option<String>, StorageError> {
    let body = read_small(fs, dir, REFUSAL_FILE)?;
    Ok(body.map(|why| String::from_utf8_lossy(&why).into_owned()))
}

/// Says that this data directory must not be used any more.
pub(crate) fn store_refusal(fs: &dyn FileSystem, dir: &Path, why: &str) -> Result<(), StorageError> {
    write_small(fs, dir, REFUSAL_FILE, why.as_bytes())
}

/// What a rebuilt node knows of itself; `None` where it was never rebuilt.
pub(crate) fn load_rebuilt(fs: &dyn FileSystem, dir: &Path) -> Result<Option<RebuiltInfo>, StorageError> {
    let Some(body) = read_small(fs, dir, REBUILT_FILE)? else { return Ok(None) };
    let info = RebuiltInfo::decode(&body[..])
        .map_err(|error| StorageError::Format(format!("{REBUILT_FILE}: {error}")))?;
    Ok(Some(info))
}

pub(crate) fn store_rebuilt(fs: &dyn FileSystem, dir: &Path, info: &RebuiltInfo) -> Result<(), StorageError> {
    write_small(fs, dir, REBUILT_FILE, &info.encode_to_vec())
}

/// What makes this data directory another one than the one that was here before under the same
/// node id. Minted when it is first used.
pub(crate) fn load_or_mint_incarnation(
    fs: &dyn FileSystem,
    dir: &Path,
    random: impl Fn() -> u64,
) -> Result<u64, StorageError> {
    if let Some(body) = read_small(fs, dir, INCARNATION_FILE)? {
        let bytes: Result<[u8; 8], _> = body.as_slice().try_into();
        return bytes
            .map(u64::from_be_bytes)
            .map_err(|_| StorageError::Format(format!("{INCARNATION_FILE}: a wrong length")));
    }
    // 0 stands for "not known" in frames.
    let minted = random().max(1);
    write_small(fs, dir, INCARNATION_FILE, &minted.to_be_bytes())?;
    Ok(minted)
}

/// The body of a small file that [`write_small`] wrote; `None` where there is none.
fn read_small(fs: &dyn FileSystem, dir: &Path, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
    let path = dir.join(name);
    let io = |error: &std::io::Error| StorageError::io(format!("reading {}", path.display()), error);
    let file = match fs.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(&error)),
    };
    let length = file.len().map_err(|error| io(&error))?;
    let mut bytes = vec![0; usize::try_from(length.min(1 << 20)).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0).map_err(|error| io(&error))?;
    let corrupt = || {
        StorageError::Corrupt {
        file: path.clone(),
        offset: 0,
        why: "it does not match its checksum; restore this one file from a copy, or replace the node by a new one".into(),
    }
    };
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or_else(corrupt)?;
    if crc32c::crc32c(body).to_be_bytes() != *sum {
        return Err(corrupt());
    }
    match body.split_first() {
        Some((&FORMAT, body)) => Ok(Some(body.to_vec())),
        _ => Err(StorageError::Format(format!("{}: unknown format", path.display()))),
    }
}

/// Writes a small file as a whole: after a crash it is there, or is as it was before.
fn write_small(fs: &dyn FileSystem, dir: &Path, name: &str, body: &[u8]) -> Result<(), StorageError> {
    let (path, temporary) = (dir.join(name), dir.join(format!("{name}.tmp")));
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(body);
    bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
    let write = || {
        fs.create_dir_all(dir)?;
        match fs.remove(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = fs.create_new(&temporary)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        fs.rename(&temporary, &path)?;
        fs.sync_dir(dir)
    };
    write().map_err(|error| StorageError::io(format!("writing {}", path.display()), &error))
}
