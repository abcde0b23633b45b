//! What openraft asks us to keep or to carry: votes, log ids, memberships, payloads of entries.

use super::serde_types::{decode_serde, encode_serde};
use crate::{
    error::StorageError,
    type_config::{BatchBytes, Member, TypeConfig},
};
use bytes::Bytes;
use openraft::alias::{EntryPayloadOf, LogIdOf, VoteOf};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// openraft's vote, with our types filled in.
pub type Vote = VoteOf<TypeConfig>;
/// openraft's log id, with our types filled in.
pub type LogId = LogIdOf<TypeConfig>;
/// openraft's membership, with our types filled in.
pub type Membership = openraft::Membership<u64, Member>;
/// What an entry carries, with our types filled in.
pub type Payload = EntryPayloadOf<TypeConfig>;

/// The first byte of everything this module writes.
const FORMAT: u8 = 1;
/// No vote, log id or membership comes near it; damaged bytes must not make us allocate more.
const DECODE_LIMIT: usize = 1 << 20;

const TAG_BLANK: u8 = 0;
const TAG_NORMAL: u8 = 1;
const TAG_MEMBERSHIP: u8 = 2;

/// Where a log stands, besides its entries. Opens each segment of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogPoints {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    /// The last entry; the purge point where there is none.
    pub(crate) last: Option<LogId>,
    /// Index of the first entry, or of the one that would come first.
    pub(crate) first: u64,
}

fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, StorageError> {
    decode_serde::<T, DECODE_LIMIT>(what, bytes)
}

/// A vote as bytes.
pub fn encode_vote(vote: &Vote) -> Vec<u8> {
    encode_serde(vote)
}

/// A vote from bytes.
///
/// # Errors
/// [`StorageError::Format`] where they are not one.
pub fn decode_vote(bytes: &[u8]) -> Result<Vote, StorageError> {
    decode("vote", bytes)
}

/// A log id as bytes.
pub fn encode_log_id(log_id: &LogId) -> Vec<u8> {
    encode_serde(log_id)
}

/// A log id from bytes.
///
/// # Errors
/// [`StorageError::Format`] where they are not one.
pub fn decode_log_id(bytes: &[u8]) -> Result<LogId, StorageError> {
    decode("log id", bytes)
}

/// A membership as bytes.
pub fn encode_membership(membership: &Membership) -> Vec<u8> {
    encode_serde(membership)
}

/// A membership from bytes.
///
/// # Errors
/// [`StorageError::Format`] where they are not one.
pub fn decode_membership(bytes: &[u8]) -> Result<Membership, StorageError> {
    decode("membership", bytes)
}

pub(crate) fn encode_log_points(points: &LogPoints) -> Vec<u8> {
    encode_serde(points)
}

pub(crate) fn decode_log_points(bytes: &[u8]) -> Result<LogPoints, StorageError> {
    decode("log points", bytes)
}

/// What an entry carries, as a format byte, a tag and a body. A batch's body is the batch itself,
/// shared and not copied.
pub(crate) fn entry_payload_parts(payload: &Payload) -> ([u8; 2], Bytes) {
    match payload {
        Payload::Blank => ([FORMAT, TAG_BLANK], Bytes::new()),
        Payload::Normal(batch) => ([FORMAT, TAG_NORMAL], batch.0.clone()),
        Payload::Membership(membership) => ([FORMAT, TAG_MEMBERSHIP], encode_membership(membership).into()),
    }
}

/// What an entry carries, as bytes.
pub fn encode_entry_payload(payload: &Payload) -> Bytes {
    let (prefix, body) = entry_payload_parts(payload);
    [&prefix[..], &body].concat().into()
}

/// What an entry carries, from bytes; a batch goes on sharing them.
///
/// # Errors
/// [`StorageError::Format`] where they are not such a thing.
pub fn decode_entry_payload(bytes: &Bytes) -> Result<Payload, StorageError> {
    match bytes.get(..2) {
        Some(&[FORMAT, TAG_BLANK]) if bytes.len() == 2 => Ok(Payload::Blank),
        Some(&[FORMAT, TAG_NORMAL]) => Ok(Payload::Normal(BatchBytes(bytes.slice(2..)))),
        Some(&[FORMAT, TAG_MEMBERSHIP]) => Ok(Payload::Membership(decode_membership(&bytes[2..])?)),
        start => Err(StorageError::Format(format!("entry payload: unknown beginning {start:?}"))),
    }
}
