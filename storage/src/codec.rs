//! Values <-> bytes: each with a leading format byte, every byte accounted for. The only module
//! that names bincode.

mod shop_types;

pub(crate) use shop_types::{
    Decodable, Encodable, decode, decode_batch, decode_serde, encode, encode_onto, encode_serde,
};
pub use shop_types::{
    ProposalBytes, decode_answer, decode_proposal, encode_answer, encode_batch, encode_proposal, fingerprint,
};
