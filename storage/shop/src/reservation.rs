//! Reservations: try, confirm, cancel.

use crate::ids::{Location, Place, Quantity, ReservationId, Sku, TimestampMs};
use bincode::{Decode, Encode};

/// Units of one SKU at one location.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StockLine {
    /// Which.
    pub sku: Sku,
    /// Where.
    pub location: Location,
    /// How many.
    pub quantity: Quantity,
}

/// Where a reservation stands. Only `Held` can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum ReservationStatus {
    /// Its units are reserved until `expires_at`.
    Held,
    /// Its units left the room, or became an order's.
    Confirmed,
    /// Released, or cancelled before it was tried.
    Cancelled,
    /// Its time was over.
    Expired,
}

/// A hold on stock for a while.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Reservation {
    /// Chosen by the caller or made.
    pub id: ReservationId,
    /// Where it stands.
    pub status: ReservationStatus,
    /// Frees its units at this time of the replicated clock.
    pub expires_at: TimestampMs,
    /// As tried: the same body again gets the same answer. 0 for one cancelled before its try.
    pub ttl_ms: u64,
    /// Held units; empty for one cancelled before its try.
    pub lines: Vec<StockLine>,
    /// Where it was made: its position in lists.
    pub created: Place,
    /// When it was made.
    pub created_at: TimestampMs,
    /// When it last changed.
    pub updated_at: TimestampMs,
    /// Raft log index of the last change.
    pub log_index: u64,
}
