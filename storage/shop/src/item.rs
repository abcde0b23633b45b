//! Items: what can be stocked and sold.

use crate::ids::{Currency, Place, Sku, TimestampMs};
use bincode::{Decode, Encode};
use std::sync::Arc;

/// Money for one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Price {
    /// In minor units of `currency`.
    pub amount_minor: u64,
    /// ISO 4217.
    pub currency: Currency,
}

/// One SKU and what the shop says of it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Item {
    /// The caller's name of it.
    pub sku: Sku,
    /// For people; the SKU where none was given.
    pub name: Arc<str>,
    /// What one unit costs where an order line does not say.
    pub price: Option<Price>,
    /// A JSON object in canonical form (sorted keys, no white space), or `None` for none.
    pub attributes: Option<Arc<str>>,
    /// Retired items take no new orders, reservations or receipts of stock; reads stay.
    pub retired: bool,
    /// Counts replacements from 1; the `ETag`.
    pub version: u64,
    /// Where it was first put: its position in lists.
    pub created: Place,
    /// When it was first put.
    pub created_at: TimestampMs,
    /// When it was last changed.
    pub updated_at: TimestampMs,
    /// Raft log index of the last change.
    pub log_index: u64,
}
