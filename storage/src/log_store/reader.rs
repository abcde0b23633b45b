//! Entries of the log for openraft, beside the writer: for peers in frames that fit, for applying piece by piece.

use crate::codec::{Vote, decode_entry_payload};
use crate::log::table::Piece;
use crate::log::wal::Shared;
use crate::type_config::TypeConfig;
use futures::{Stream, stream};
use openraft::alias::EntryOf;
use openraft::storage::RaftLogReader;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

/// Payload bytes that one append to a peer carries at most. An entry has at most 1 MiB, so that with
/// headers and framing no frame reaches 4 MiB.
pub const MAX_APPEND_BYTES: usize = 3 << 20;

/// Entries are read for applying in pieces of this much.
const APPLY_READ_BYTES: usize = 4 << 20;

/// Reads the log beside its writer.
#[derive(Debug, Clone)]
pub struct LogReader {
    pub(super) shared: Arc<Shared>,
}

impl LogReader {
    /// Reads without a lock; what is not in memory comes from disk, mostly from the page cache.
    pub(super) fn read(
        &self,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<EntryOf<TypeConfig>>, io::Error> {
        let pieces = self.shared.table().plan(from, to, max_bytes);
        let mut entries = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let (log_id, payload) = match piece {
                Piece::Recent(log_id, payload) => (log_id, payload),
                Piece::OnDisk { log_id, segment, offset, length } => {
                    let bytes = segment.read_entry(offset, length, log_id.index)?;
                    (log_id, decode_entry_payload(&bytes)?)
                }
            };
            entries.push(EntryOf::<TypeConfig> { log_id, payload });
        }
        Ok(entries)
    }
}

/// The range as from and before.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<EntryOf<TypeConfig>>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (from, to) = bounds(&range);
        self.read(from, to, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.table().points.vote)
    }

    /// At least one entry, and no more than [`MAX_APPEND_BYTES`] of payload. openraft sends the answer
    /// on as what follows the entry before `start`, unchecked: where `start` is purged, an answer would
    /// leave a hole in the follower's log. None is an answer then, which openraft takes for a heartbeat: an error
    /// would end this node, the leader, for the sake of a stream that reads late.
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<EntryOf<TypeConfig>>, io::Error> {
        let entries = self.read(start, end, MAX_APPEND_BYTES)?;
        match entries.first().map(|entry| entry.log_id.index) {
            Some(first) if first != start => {
                tracing::warn!(start, first, "entries to replicate are purged");
                Ok(Vec::new())
            }
            _ => Ok(entries),
        }
    }

    /// Piece by piece, so that a long range to apply is never in memory as a whole.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<EntryOf<TypeConfig>, io::Error>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (from, to) = bounds(&range);
        let reader = self.clone();
        let pieces = stream::unfold(Some((from, false)), move |state| {
            let reader = reader.clone();
            async move {
                let (from, begun) = state.filter(|(from, _)| *from < to)?;
                let entries = reader.read(from, to, APPLY_READ_BYTES).and_then(|entries| {
                    match entries.first().map(|entry| entry.log_id.index) {
                        Some(first) if begun && first != from => {
                            Err(io::Error::other(format!("entry {from} was purged while it was read")))
                        }
                        _ => Ok(entries),
                    }
                });
                match entries {
                    Ok(entries) => {
                        let next = entries.last().map(|entry| (entry.log_id.index + 1, true));
                        Some((stream::iter(entries.into_iter().map(Ok).collect::<Vec<_>>()), next))
                    }
                    Err(error) => Some((stream::iter(vec![Err(error)]), None)),
                }
            }
        });
        Box::pin(futures::StreamExt::flatten(pieces))
    }
}
