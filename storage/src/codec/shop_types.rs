//! What the shop is asked, answers and remembers, as bytes.

use crate::error::StorageError;
use crate::shop::command::{Batch, Command, Proposal};
use crate::shop::effect::Answer;
use crate::shop::ids::{IdempotencyKey, TimestampMs};
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_128;

/// The first byte of everything this module writes.
const FORMAT: u8 = 1;
/// No value comes near it, in bytes; damaged ones must not make us allocate more.
pub(crate) const VALUE_LIMIT: usize = 16 << 20;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<VALUE_LIMIT>()
}

/// What can be written; names bincode's trait for the rest of the crate.
pub(crate) trait Encodable: bincode::Encode {}
impl<T: bincode::Encode> Encodable for T {}

/// What can be read back.
pub(crate) trait Decodable: bincode::Decode<()> {}
impl<T: bincode::Decode<()>> Decodable for T {}

/// Any of our types as bytes.
pub(crate) fn encode<T: Encodable>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    encode_onto(value, &mut bytes);
    bytes
}

/// The same in memory of its exact size, by way of a buffer that is used again.
pub(crate) fn encode_exact<T: Encodable>(value: &T, buffer: &mut Vec<u8>) -> Bytes {
    buffer.clear();
    encode_onto(value, buffer);
    Bytes::copy_from_slice(buffer)
}

/// The same, behind what is there already.
pub(crate) fn encode_onto<T: Encodable>(value: &T, bytes: &mut Vec<u8>) {
    bytes.push(FORMAT);
    bincode::encode_into_writer(value, Onto(bytes), bincode::config::standard())
        .expect("plain data, written to memory");
}

/// Memory as bincode writes to it: without the errors and counts that `std::io::Write` has for each piece.
struct Onto<'a>(&'a mut Vec<u8>);

impl Writer for Onto<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Any of our types from bytes.
///
/// # Errors
/// [`StorageError::Format`] where they are not one.
pub(crate) fn decode<T: Decodable>(what: &str, bytes: &[u8]) -> Result<T, StorageError> {
    let Some((&FORMAT, body)) = bytes.split_first() else {
        return Err(StorageError::Format(format!("{what}: unknown format {:?}", bytes.first())));
    };
    let (value, used) = bincode::decode_from_slice(body, config())
        .map_err(|error| StorageError::Format(format!("{what}: {error}")))?;
    if used != body.len() {
        return Err(StorageError::Format(format!("{what}: {} bytes too many", body.len() - used)));
    }
    Ok(value)
}

/// One encoded [`Proposal`], made once where it entered the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposalBytes(pub Bytes);

/// Names the command by its fingerprint and encodes it, once.
pub fn encode_proposal(key: Option<IdempotencyKey>, command: Command) -> ProposalBytes {
    let fingerprint = fingerprint(&command);
    ProposalBytes(encode(&Proposal { idempotency_key: key, fingerprint, command }).into())
}

/// Hash of the command's versioned canonical bytes: as they would lie in the log.
pub fn fingerprint(command: &Command) -> u128 {
    xxh3_128(&encode(command))
}

/// A proposal from bytes.
///
/// # Errors
/// [`StorageError::Format`] where they are not one.
pub fn decode_proposal(bytes: &[u8]) -> Result<Proposal, StorageError> {
    decode("proposal", bytes)
}

/// A batch from a stamp and encoded proposals, without decoding them: format byte, stamp, count,
/// then each proposal behind its length. All numbers little-endian.
pub fn encode_batch(stamped_at_ms: u64, proposals: &[ProposalBytes]) -> Bytes {
    let size = 13 + proposals.iter().map(|p| 4 + p.0.len()).sum::<usize>();
    let mut bytes = BytesMut::with_capacity(size);
    bytes.put_u8(FORMAT);
    bytes.put_u64_le(stamped_at_ms);
    bytes.put_u32_le(u32::try_from(proposals.len()).expect("an entry is at most a mebibyte"));
    for proposal in proposals {
        bytes.put_u32_le(u32::try_from(proposal.0.len()).expect("an entry is at most a mebibyte"));
        bytes.put_slice(&proposal.0);
    }
    bytes.freeze()
}

/// One whose command a later program brought is [`Command::Unknown`]: it is not in force, else this program would not run
/// (`crate::version`). Whatever else cannot be read is damage.
fn proposal_in_a_batch(bytes: &[u8]) -> Result<Proposal, StorageError> {
    if let Some((&FORMAT, body)) = bytes.split_first() {
        match bincode::decode_from_slice(body, config()) {
            Ok((proposal, used)) if used == body.len() => return Ok(proposal),
            Err(DecodeError::UnexpectedVariant { type_name: "Command", .. }) => {
                return Ok(Proposal { idempotency_key: None, fingerprint: 0, command: Command::Unknown });
            }
            _ => {}
        }
    }
    decode_proposal(bytes)
}

/// A batch from bytes.
///
/// # Errors
/// [`StorageError::Format`] where they are not one.
pub(crate) fn decode_batch(bytes: &[u8]) -> Result<Batch, StorageError> {
    let short = || StorageError::Format("batch: ends too soon".to_owned());
    let (head, mut rest) = bytes.split_at_checked(13).ok_or_else(short)?;
    if head[0] != FORMAT {
        return Err(StorageError::Format(format!("batch: unknown format {}", head[0])));
    }
    let stamped_at = TimestampMs(u64::from_le_bytes(head[1..9].try_into().map_err(|_| short())?));
    let count = u32::from_le_bytes(head[9..13].try_into().map_err(|_| short())?);
    // The count is not trusted with memory: each proposal takes at least five bytes.
    let mut proposals = Vec::with_capacity((count as usize).min(rest.len() / 5));
    for _ in 0..count {
        let (length, behind) = rest.split_at_checked(4).ok_or_else(short)?;
        let length = u32::from_le_bytes(length.try_into().map_err(|_| short())?);
        let (proposal, behind) = behind.split_at_checked(length as usize).ok_or_else(short)?;
        proposals.push(proposal_in_a_batch(proposal)?);
        rest = behind;
    }
    if !rest.is_empty() {
        return Err(StorageError::Format(format!("batch: {} bytes too many", rest.len())));
    }
    Ok(Batch { stamped_at, proposals })
}

/// An answer as bytes.
pub fn encode_answer(answer: &Answer) -> Vec<u8> {
    encode(answer)
}

/// An answer from bytes.
///
/// # Errors
/// [`StorageError::Format`] where they are not one.
pub fn decode_answer(bytes: &[u8]) -> Result<Answer, StorageError> {
    decode("answer", bytes)
}
