//! openraft's types, and ours that hold them, by way of serde.

use crate::error::StorageError;
use serde::{Serialize, de::DeserializeOwned};

/// The first byte of everything this module writes.
const FORMAT: u8 = 1;

/// A value as bytes.
pub(crate) fn encode_serde<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    bincode::serde::encode_into_std_write(value, &mut bytes, bincode::config::standard())
        .expect("plain data, written to memory");
    bytes
}

/// A value from bytes, of which no part may be longer than `LIMIT` bytes: damaged ones must not make
/// us allocate more.
///
/// # Errors
/// [`StorageError::Format`] where they are not one, or not all of them are.
pub(crate) fn decode_serde<T: DeserializeOwned, const LIMIT: usize>(
    what: &str,
    bytes: &[u8],
) -> Result<T, StorageError> {
    let Some((&FORMAT, body)) = bytes.split_first() else {
        return Err(StorageError::Format(format!("{what}: unknown format {:?}", bytes.first())));
    };
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let (value, used) = bincode::serde::decode_from_slice(body, config)
        .map_err(|error| StorageError::Format(format!("{what}: {error}")))?;
    if used != body.len() {
        return Err(StorageError::Format(format!("{what}: {} bytes too many", body.len() - used)));
    }
    Ok(value)
}
