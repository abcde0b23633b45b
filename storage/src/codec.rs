//! Values <-> bytes: each with a leading format byte, every byte accounted for. The only module
//! that names bincode.

mod openraft_types;
pub mod rpc_types;
mod serde_types;
mod shop_types;

pub use openraft_types::{
    LogId, Membership, Payload, Vote, decode_entry_payload, decode_log_id, decode_membership, decode_vote,
    encode_entry_payload, encode_log_id, encode_membership, encode_vote,
};
pub(crate) use openraft_types::{LogPoints, decode_log_points, encode_log_points, entry_payload_parts};
pub(crate) use serde_types::{decode_serde, encode_serde};
pub(crate) use shop_types::{
    Decodable, Encodable, VALUE_LIMIT, decode, decode_batch, encode_exact, encode_onto,
};
pub use shop_types::{
    ProposalBytes, decode_answer, decode_proposal, encode_answer, encode_batch, encode_proposal, fingerprint,
};
