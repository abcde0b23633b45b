//! Known mistakes, one of which a node of a `planted` build makes on purpose, so that the harness can show
//! that its checkers notice.
//!
//! Without the feature [`is`] is `false` at compile time, and nothing of this is in the program. A hook is one
//! line where the mistake would be made. Where a guard inside the node would end it before any caller
//! is told something wrong, the hook's comment says that the guard is blinded too.

#[cfg(feature = "planted")]
pub use chosen::*;
#[cfg(not(feature = "planted"))]
pub use nothing::*;

/// A mistake that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The log says that entries are durable before they are written.
    AckBeforeSync,
    /// Linearizable reads show what this node happens to have applied.
    ReadWithoutReadIndex,
    /// Keys decided under an earlier leader are not known any more.
    ForgetReceiptsOnFailover,
    /// At a restart, what follows the last checkpoint is applied twice.
    ApplyTwiceAfterRestart,
    /// Sales of one millisecond do not see each other.
    OversellWithinAMillisecond,
    /// Holds end by the clock of the machine that applies.
    ExpireByLocalClock,
    /// What is applied while a checkpoint is written is dropped with it.
    LoseMemtableOnCheckpoint,
    /// A vote is answered before it is written.
    VoteNotSynced,
    /// openraft's `enable_leader_restore` is on.
    LeaderRestore,
    /// A snapshot file lacks one row.
    SnapshotMissesARow,
    /// A leader does not ask whether it still leads.
    StaleLeaseRead,
    /// The rows of an entry become visible one after the other.
    HalfOrder,
    /// A forwarded write whose stream broke is sent again as a new one.
    DuplicateOnRetry,
}

#[cfg(not(feature = "planted"))]
#[allow(missing_docs, reason = "as in `chosen`; nothing happens")]
mod nothing {
    use super::Bug;
    use crate::command::Batch;
    use crate::ids::TimestampMs;

    #[inline(always)]
    pub const fn is(_: Bug) -> bool {
        false
    }

    #[inline(always)]
    pub const fn nodes_may_differ() -> bool {
        false
    }

    #[inline(always)]
    pub const fn may_lose_what_it_acknowledged() -> bool {
        false
    }

    #[inline(always)]
    pub fn began_leading(_: u64, _: impl Fn() -> u64) {}

    #[inline(always)]
    pub(crate) const fn receipts_known_from() -> u64 {
        0
    }

    #[inline(always)]
    pub(crate) const fn expiry_clock(replicated: TimestampMs) -> TimestampMs {
        replicated
    }

    #[inline(always)]
    pub const fn log_ends_at(_: Option<u64>) {}

    #[inline(always)]
    pub const fn applied_again(_: u64, _: &mut Batch) {}
}

#[cfg(feature = "planted")]
mod chosen {
    use super::Bug;
    use crate::command::{Batch, Proposal};
    use crate::ids::TimestampMs;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A name, and how its mistake shows.
    pub type Entry = (Bug, &'static str, &'static str);

    /// All that can be planted.
    pub const ALL: &[Entry] = &[
        (
            Bug::AckBeforeSync,
            "ack-before-sync",
            "the log acknowledges entries and writes them up to 100 ms later. Caught by `unique`, \
             `retries`, `stock` with kill of all nodes at once, or power loss of all; no root needed",
        ),
        (
            Bug::ReadWithoutReadIndex,
            "read-without-read-index",
            "linearizable reads show what the asked node has applied. Caught by `stock`, `transfers`, \
             `orders` under load with no fault; sooner with pause and partition",
        ),
        (
            Bug::ForgetReceiptsOnFailover,
            "forget-receipts-on-failover",
            "a leader does not know the keys that were decided before its term. Caught by `retries`, and by \
             settling, with kill or partition of the leader",
        ),
        (
            Bug::ApplyTwiceAfterRestart,
            "apply-twice-after-restart",
            "a node that is killed and started applies what followed its last checkpoint twice. Caught by \
             `stock`, `orders`, `transfers` and the digests, with kill",
        ),
        (
            Bug::OversellWithinAMillisecond,
            "oversell-within-a-millisecond",
            "sales that share a stamp are all checked against the stock before them, and the law on \
             oversold stock is off. Caught by `flash-sale` and `stock` with no fault",
        ),
        (
            Bug::ExpireByLocalClock,
            "expire-by-local-clock",
            "each node ends holds by its own wall clock instead of the stamp of the entry. Caught by \
             `expiry` and the digests, with clock jumps and skew, kill, pause",
        ),
        (
            Bug::LoseMemtableOnCheckpoint,
            "lose-memtable-on-checkpoint",
            "what was applied while a checkpoint was written is dropped with it. Caught by `unique`, \
             `orders`, `stock` and the audit with no fault, after the first checkpoint under load",
        ),
        (
            Bug::VoteNotSynced,
            "vote-not-synced",
            "a vote stays in memory until the next file of the log begins, so that a killed node goes back to an \
             earlier term. Caught by one leader per term, the digests, deaths (openraft panics) and `unique` \
             with kill of a majority or of all under load",
        ),
        (
            Bug::LeaderRestore,
            "leader-restore",
            "openraft enable_leader_restore is on: a leader killed before it wrote what it had sent goes on \
             in its term. Caught by the digests, `unique`, `orders` with kill of the leader and restart at \
             once, with slow syncs",
        ),
        (
            Bug::SnapshotMissesARow,
            "snapshot-misses-a-row",
            "a snapshot file lacks the newest block of placed orders, and its check is blind. Caught by \
             `unique` and the audit with a tiny snapshot threshold and a lagging or replaced node",
        ),
        (
            Bug::StaleLeaseRead,
            "stale-lease-read",
            "a leader answers linearizable reads without asking whether it still leads. Caught by `stock`, \
             `transfers`, `orders` with the leader cut off or paused",
        ),
        (
            Bug::HalfOrder,
            "half-order",
            "the rows of an entry become visible one after the other, not under one lock. Caught by \
             `orders` and `transfers` with no fault: an order of two SKUs is seen in one of them",
        ),
        (
            Bug::DuplicateOnRetry,
            "duplicate-on-retry",
            "a follower that loses its stream to the leader sends the writes under way again, without their \
             keys. Caught by `retries`, `unique`, `stock` with kill, pause or partition of the leader",
        ),
    ];

    static CHOSEN: OnceLock<Bug> = OnceLock::new();
    static LOCAL_CLOCK: OnceLock<fn() -> u64> = OnceLock::new();
    static LEADER: AtomicU64 = AtomicU64::new(0);
    static LED_SINCE: AtomicU64 = AtomicU64::new(0);
    static LOG_ENDED_AT: AtomicU64 = AtomicU64::new(0);

    /// Plants a mistake in this process, once. `local_clock_ms` is the wall clock of this machine, which no
    /// honest rule may look at.
    pub fn plant(bug: Bug, local_clock_ms: fn() -> u64) {
        let _ = CHOSEN.set(bug);
        let _ = LOCAL_CLOCK.set(local_clock_ms);
    }

    /// Whether this mistake is planted in this process.
    pub fn is(bug: Bug) -> bool {
        CHOSEN.get() == Some(&bug)
    }

    /// Whether nodes will differ at one index. Then the comparison among them, which would stop the odd one out
    /// within 100 ms, is blinded, so that callers see the difference.
    pub fn nodes_may_differ() -> bool {
        const DIFFER: [Bug; 5] = [
            Bug::ApplyTwiceAfterRestart,
            Bug::ExpireByLocalClock,
            Bug::LoseMemtableOnCheckpoint,
            Bug::VoteNotSynced,
            Bug::LeaderRestore,
        ];
        DIFFER.into_iter().any(is)
    }

    /// Whether a node will lose what it acknowledged. Then the guards that would stop it when that shows are
    /// blinded, so that callers miss what is lost.
    pub fn may_lose_what_it_acknowledged() -> bool {
        is(Bug::AckBeforeSync) || is(Bug::VoteNotSynced)
    }

    /// An entry of this term is about to be applied; `since` finds the term's first one.
    pub fn began_leading(term: u64, since: impl Fn() -> u64) {
        if is(Bug::ForgetReceiptsOnFailover) && LEADER.swap(term, Ordering::Relaxed) != term {
            LED_SINCE.store(since(), Ordering::Relaxed);
        }
    }

    /// The first index of which receipts are known; 0 for all. As if they lay in the leader's memory.
    pub(crate) fn receipts_known_from() -> u64 {
        LED_SINCE.load(Ordering::Relaxed)
    }

    /// The clock by which holds end.
    pub(crate) fn expiry_clock(replicated: TimestampMs) -> TimestampMs {
        match LOCAL_CLOCK.get() {
            Some(local_clock_ms) if is(Bug::ExpireByLocalClock) => TimestampMs(local_clock_ms()),
            _ => replicated,
        }
    }

    /// How far the log of this node reached when it was opened.
    pub fn log_ends_at(index: Option<u64>) {
        LOG_ENDED_AT.store(index.unwrap_or(0), Ordering::Relaxed);
    }

    /// An entry that was in the log when the node started takes effect twice: as if the rows of the last
    /// checkpoint had it already and the applied index had not. Without keys the second time, for the receipts
    /// would answer it.
    pub fn applied_again(index: u64, batch: &mut Batch) {
        if is(Bug::ApplyTwiceAfterRestart) && index <= LOG_ENDED_AT.load(Ordering::Relaxed) {
            let again = |proposal: &Proposal| Proposal { idempotency_key: None, ..proposal.clone() };
            let twice: Vec<Proposal> = batch.proposals.iter().map(again).collect();
            batch.proposals.extend(twice);
        }
    }
}
