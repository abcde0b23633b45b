//! Values <-> bytes, with a leading format byte; the only module that names bincode.
#![allow(missing_docs, unused_variables, clippy::todo)]

use crate::error::StorageError;
use crate::shop::command::{Command, Proposal};
use crate::shop::effect::Answer;
use crate::shop::ids::IdempotencyKey;
use bytes::Bytes;

/// One encoded [`Proposal`], made once where it entered the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposalBytes(pub Bytes);

/// Names the command by its fingerprint and encodes it, once.
pub fn encode_proposal(key: Option<IdempotencyKey>, command: Command) -> ProposalBytes {
    todo!()
}
/// Hash of the command's versioned canonical bytes.
pub fn fingerprint(command: &Command) -> u128 {
    todo!()
}
pub fn decode_proposal(bytes: &[u8]) -> Result<Proposal, StorageError> {
    todo!()
}
/// A batch from a stamp and encoded proposals, without decoding them.
pub fn encode_batch(stamped_at_ms: u64, proposals: &[ProposalBytes]) -> Bytes {
    todo!()
}
pub fn encode_answer(answer: &Answer) -> Vec<u8> {
    todo!()
}
pub fn decode_answer(bytes: &[u8]) -> Result<Answer, StorageError> {
    todo!()
}
