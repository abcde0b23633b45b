//! One record: a header with a checksum of its own, and a payload with another.
//!
//! Both sums are seeded with the segment's salt, which mixes the identity and the generation of the
//! segment: bytes of a recycled segment, or of another node's, never validate, and a payload cannot
//! be made to look like a record.

use super::points::Change;
use crate::codec::{
    self, LogId, decode_entry_payload, decode_log_id, decode_log_points, decode_vote, encode_log_id,
    encode_log_points, encode_vote, entry_payload_parts,
};
use crate::error::StorageError;
use bytes::Bytes;
use openraft::vote::leader_id_std::CommittedLeaderId;

/// Bytes of a record's header.
pub(crate) const HEADER_BYTES: usize = 64;
/// Records begin at multiples of this.
pub(crate) const ALIGNMENT: usize = 8;
/// Opens each record; the last byte is the format.
pub(crate) const MAGIC: [u8; 4] = *b"SRL\x01";

const KIND_SEGMENT_START: u8 = 1;
const KIND_VOTE: u8 = 2;
const KIND_ENTRY: u8 = 3;
const KIND_TRUNCATE: u8 = 4;
const KIND_PURGE: u8 = 5;
const KIND_COMMITTED: u8 = 6;
const KIND_SEAL: u8 = 7;

/// What a record says before its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    /// The last one of its group.
    pub(crate) closes_group: bool,
    /// Bytes of the payload.
    pub(crate) length: u32,
    /// Of the segment.
    pub(crate) generation: u64,
    pub(crate) group: u64,
    /// The last group that was known to be durable when this one was written.
    pub(crate) durable: u64,
    /// Place in the group, from 0.
    pub(crate) slot: u32,
    pub(crate) payload_sum: u32,
    /// Of an entry; in a segment's start, the group after which it continues.
    pub(crate) index: u64,
    /// Of an entry.
    pub(crate) term: u64,
}

impl Header {
    pub(crate) fn encode(&self, salt: u32) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC);
        put(8, &[self.kind, u8::from(self.closes_group)]);
        put(12, &self.length.to_le_bytes());
        put(16, &self.generation.to_le_bytes());
        put(24, &self.group.to_le_bytes());
        put(32, &self.durable.to_le_bytes());
        put(40, &self.slot.to_le_bytes());
        put(44, &self.payload_sum.to_le_bytes());
        put(48, &self.index.to_le_bytes());
        put(56, &self.term.to_le_bytes());
        let sum = crc32c::crc32c_append(salt, &bytes[8..]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`; `None` where there is none of this segment.
    pub(crate) fn decode(bytes: &[u8], salt: u32, generation: u64) -> Option<Header> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let u32_at = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("within the header"));
        let u64_at = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("within the header"));
        if bytes[..4] != MAGIC || u64_at(16) != generation {
            return None;
        }
        if u32_at(4) != crc32c::crc32c_append(salt, &bytes[8..]) {
            return None;
        }
        Some(Header {
            kind: bytes[8],
            closes_group: bytes[9] == 1,
            length: u32_at(12),
            generation,
            group: u64_at(24),
            durable: u64_at(32),
            slot: u32_at(40),
            payload_sum: u32_at(44),
            index: u64_at(48),
            term: u64_at(56),
        })
    }

    /// Marks the record at the start of `bytes`, whose header this is, as the last one of its group.
    pub(crate) fn close_group(&mut self, bytes: &mut [u8], salt: u32) {
        self.closes_group = true;
        bytes[..HEADER_BYTES].copy_from_slice(&self.encode(salt));
    }

    /// The entry's log id.
    pub(crate) fn log_id(&self) -> LogId {
        LogId::new(CommittedLeaderId::new(self.term), self.index)
    }

    /// Bytes of the whole record, padding included.
    pub(crate) fn record_bytes(&self) -> usize {
        record_bytes(self.length as usize)
    }
}

/// Bytes that a record with a payload of `payload` bytes takes.
pub(crate) fn record_bytes(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(ALIGNMENT)
}

/// A change laid out but for its place.
#[derive(Debug)]
pub(crate) struct Draft {
    kind: u8,
    log_id: Option<LogId>,
    continues_after: u64,
    prefix: ([u8; 2], usize),
    body: Bytes,
}

impl Draft {
    pub(crate) fn new(change: &Change) -> Draft {
        let optional = |id: &Option<LogId>| id.as_ref().map(encode_log_id).unwrap_or_default();
        let (kind, body) = match change {
            Change::Entry { log_id, payload } => {
                let (prefix, body) = entry_payload_parts(payload);
                let log_id = Some(*log_id);
                return Draft { kind: KIND_ENTRY, log_id, continues_after: 0, prefix: (prefix, 2), body };
            }
            Change::SegmentStart { points, .. } => (KIND_SEGMENT_START, encode_log_points(points)),
            Change::Vote(vote) => (KIND_VOTE, encode_vote(vote)),
            Change::Truncate(after) => (KIND_TRUNCATE, optional(after)),
            Change::Purge(upto) => (KIND_PURGE, encode_log_id(upto)),
            Change::Committed(committed) => (KIND_COMMITTED, optional(committed)),
            Change::Seal => (KIND_SEAL, Vec::new()),
        };
        let continues_after = match change {
            Change::SegmentStart { continues_after, .. } => *continues_after,
            _ => 0,
        };
        Draft { kind, log_id: None, continues_after, prefix: ([0; 2], 0), body: body.into() }
    }

    /// An entry again, from its payload as it was written.
    pub(crate) fn of_entry(log_id: LogId, payload: Bytes) -> Draft {
        Draft {
            kind: KIND_ENTRY,
            log_id: Some(log_id),
            continues_after: 0,
            prefix: ([0; 2], 0),
            body: payload,
        }
    }

    /// Bytes of the payload.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.prefix.1 + self.body.len()
    }

    /// Bytes of the whole record, padding included.
    pub(crate) fn record_bytes(&self) -> usize {
        record_bytes(self.payload_bytes())
    }

    /// Appends the record to `buffer`.
    pub(crate) fn write(&self, buffer: &mut Vec<u8>, place: Place, salt: u32) -> Header {
        let prefix = &self.prefix.0[..self.prefix.1];
        let log_id = self.log_id.as_ref();
        let header = Header {
            kind: self.kind,
            closes_group: false,
            length: u32::try_from(self.payload_bytes()).expect("payloads are limited where they come in"),
            generation: place.generation,
            group: place.group,
            durable: place.durable,
            slot: place.slot,
            payload_sum: crc32c::crc32c_append(crc32c::crc32c_append(salt, prefix), &self.body),
            index: log_id.map_or(self.continues_after, |id| id.index),
            term: log_id.map_or(0, |id| id.committed_leader_id().term),
        };
        buffer.extend(header.encode(salt));
        buffer.extend(prefix);
        buffer.extend(&self.body[..]);
        buffer.resize(buffer.len().next_multiple_of(ALIGNMENT), 0);
        header
    }
}

/// Where a record stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) generation: u64,
    pub(crate) group: u64,
    pub(crate) durable: u64,
    pub(crate) slot: u32,
}

/// Whether `payload` is what `header` was written with.
pub(crate) fn payload_matches(header: &Header, payload: &[u8], salt: u32) -> bool {
    crc32c::crc32c_append(salt, payload) == header.payload_sum
}

/// The change that a record holds, whose sums match.
pub(crate) fn decode_change(header: &Header, payload: Bytes) -> Result<Change, StorageError> {
    let optional = || (!payload.is_empty()).then(|| decode_log_id(&payload)).transpose();
    Ok(match header.kind {
        KIND_SEGMENT_START => {
            Change::SegmentStart { points: decode_log_points(&payload)?, continues_after: header.index }
        }
        KIND_VOTE => Change::Vote(decode_vote(&payload)?),
        KIND_ENTRY => Change::Entry { log_id: header.log_id(), payload: decode_entry_payload(&payload)? },
        KIND_TRUNCATE => Change::Truncate(optional()?),
        KIND_PURGE => Change::Purge(codec::decode_log_id(&payload)?),
        KIND_COMMITTED => Change::Committed(optional()?),
        KIND_SEAL => Change::Seal,
        kind => return Err(StorageError::Format(format!("unknown kind of log record: {kind}"))),
    })
}
