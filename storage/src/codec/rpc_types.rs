//! What nodes send each other for openraft: appends, votes, transfers, snapshot meta.

use crate::{error::StorageError, type_config::TypeConfig};
use bytes::Bytes;
use openraft::alias::{SnapshotMetaOf, VoteOf};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::{Serialize, de::DeserializeOwned};

/// The first byte of everything this module writes.
const FORMAT: u8 = 1;
/// Above every limit on what travels in one message; damaged bytes must not make us allocate more.
const DECODE_LIMIT: usize = 64 << 20;

/// A message that nodes send each other for openraft.
pub trait RpcMessage: Serialize + DeserializeOwned {
    /// As it reads in errors.
    const NAME: &'static str;
}

macro_rules! rpc_messages {
    ($($message:ty => $name:literal),* $(,)?) => {
        $(impl RpcMessage for $message { const NAME: &'static str = $name; })*
    };
}

rpc_messages! {
    AppendEntriesRequest<TypeConfig> => "append request",
    AppendEntriesResponse<TypeConfig> => "append response",
    StreamAppendResult<TypeConfig> => "append result",
    VoteRequest<TypeConfig> => "vote request",
    VoteResponse<TypeConfig> => "vote response",
    TransferLeaderRequest<TypeConfig> => "transfer request",
    TransferLeaderResponse<TypeConfig> => "transfer response",
    SnapshotMetaOf<TypeConfig> => "snapshot meta",
    VoteOf<TypeConfig> => "vote",
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODE_LIMIT>()
}

/// A message as bytes.
pub fn encode_rpc<M: RpcMessage>(message: &M) -> Bytes {
    let mut bytes = vec![FORMAT];
    bincode::serde::encode_into_std_write(message, &mut bytes, config())
        .expect("plain data, written to memory");
    bytes.into()
}

/// A message from bytes.
///
/// # Errors
/// [`StorageError::Format`] where they are not one.
pub fn decode_rpc<M: RpcMessage>(bytes: &[u8]) -> Result<M, StorageError> {
    let Some((&FORMAT, body)) = bytes.split_first() else {
        return Err(StorageError::Format(format!("{}: unknown format {:?}", M::NAME, bytes.first())));
    };
    let (message, used) = bincode::serde::decode_from_slice(body, config())
        .map_err(|error| StorageError::Format(format!("{}: {error}", M::NAME)))?;
    if used != body.len() {
        return Err(StorageError::Format(format!("{}: {} bytes too many", M::NAME, body.len() - used)));
    }
    Ok(message)
}
