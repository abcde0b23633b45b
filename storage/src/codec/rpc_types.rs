//! What nodes send each other for openraft: appends, votes, transfers, snapshot meta.

use super::serde_types::{decode_serde, encode_serde};
use crate::{error::StorageError, type_config::TypeConfig};
use bytes::Bytes;
use openraft::alias::{SnapshotMetaOf, VoteOf};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::{Serialize, de::DeserializeOwned};

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

/// A message as bytes.
pub fn encode_rpc<M: RpcMessage>(message: &M) -> Bytes {
    encode_serde(message).into()
}

/// A message from bytes.
///
/// # Errors
/// [`StorageError::Format`] where they are not one.
pub fn decode_rpc<M: RpcMessage>(bytes: &[u8]) -> Result<M, StorageError> {
    decode_serde::<M, DECODE_LIMIT>(M::NAME, bytes)
}
