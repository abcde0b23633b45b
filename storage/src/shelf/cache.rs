//! Frames that were read last, decompressed.

use super::segment::Frame;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Frames that are kept decompressed.
const CACHE_BYTES: usize = 16 << 20;

/// Series, number of the segment, number of the frame in it.
pub(super) type FrameId = (u16, u64, usize);

/// Frames that were read last, oldest out first.
#[derive(Debug, Default)]
pub(super) struct Cache {
    frames: HashMap<FrameId, Arc<Frame>>,
    order: VecDeque<FrameId>,
    bytes: usize,
}

impl Cache {
    pub fn get(&self, id: &FrameId) -> Option<&Arc<Frame>> {
        self.frames.get(id)
    }

    /// Adds one, and drops the oldest beyond the limit.
    pub fn add(&mut self, id: FrameId, frame: Arc<Frame>) {
        self.bytes += frame.bytes;
        if let Some(known) = self.frames.insert(id, frame) {
            self.bytes -= known.bytes;
            return;
        }
        self.order.push_back(id);
        while self.bytes > CACHE_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.frames.remove(&oldest).map_or(0, |frame| frame.bytes);
        }
    }
}
