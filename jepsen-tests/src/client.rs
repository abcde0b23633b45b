//! One call over HTTP, and what its answer means.

use std::sync::atomic::{AtomicU32, AtomicU64};

/// What goes wrong between a client and its node above TCP: a middlebox or an impatient library that sends
/// a request twice. Set by a nemesis, obeyed by every client.
#[derive(Debug, Default)]
pub struct Mischief {
    /// How many of 1,000 writes are sent a second time.
    pub duplicate_permille: AtomicU32,
    /// The second copy goes to a random node up to this many milliseconds later; its answer is dropped.
    pub late_ms: AtomicU32,
    /// Copies sent so far.
    pub copies: AtomicU64,
}
