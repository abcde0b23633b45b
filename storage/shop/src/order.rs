//! Orders: placed, paid, shipped in parts, completed; cancelled, returned, refunded.

use crate::ids::{Currency, CustomerId, Location, OrderId, OrderName, Quantity, Sku, TimestampMs};
use bincode::{Decode, Encode};
use std::{collections::BTreeMap, sync::Arc};

/// Where an order stands.
///
/// Encoded by position: new ones go at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum OrderStatus {
    /// Stock is allocated, payment is due.
    Placed,
    /// All is paid.
    Paid,
    /// Some units are shipped.
    PartlyShipped,
    /// All units are shipped (or the rest cancelled).
    Shipped,
    /// Closed by the shop.
    Completed,
    /// Its stock was freed.
    Cancelled,
}

/// One line of an order as stored.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct OrderLine {
    /// Which.
    pub sku: Sku,
    /// From where.
    pub location: Location,
    /// How many were ordered.
    pub quantity: Quantity,
    /// For the whole line, in minor units of the order's currency.
    pub amount_minor: u64,
    /// Units shipped so far.
    pub shipped: u32,
    /// Units returned so far; never above `shipped`.
    pub returned: u32,
    /// Units freed by a cancellation; `shipped + cancelled <= quantity`.
    pub cancelled: u32,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Order {
    /// Where it was placed.
    pub id: OrderId,
    /// The id its caller chose, unique for ever.
    pub name: Option<OrderName>,
    /// Where it stands.
    pub status: OrderStatus,
    /// Who bought.
    pub customer_id: Option<CustomerId>,
    /// Of all its amounts; `None` where neither the order nor an item's price named one.
    pub currency: Option<Currency>,
    /// At least one.
    pub lines: Vec<OrderLine>,
    /// Sum of the lines' amounts, in minor units; less what a cancellation took away.
    pub due_minor: u64,
    /// Paid so far.
    pub paid_minor: u64,
    /// Owed back, in all: `refunded_minor <= refund_owed_total_minor <= paid_minor`.
    pub refund_owed_total_minor: u64,
    /// Paid back so far.
    pub refunded_minor: u64,
    /// Cancelled as `unpaid` at this time of the replicated clock, where still placed.
    pub pay_by: Option<TimestampMs>,
    /// The caller's own notes.
    pub metadata: BTreeMap<Arc<str>, Arc<str>>,
    /// References of payments and refunds, in order.
    pub references: Vec<Arc<str>>,
    /// Why it was cancelled.
    pub cancel_reason: Option<Arc<str>>,
    /// The command's fingerprint: the same chosen id with another body is refused.
    pub fingerprint: u128,
    /// When it was placed.
    pub created_at: TimestampMs,
    /// When it last changed.
    pub updated_at: TimestampMs,
    /// Raft log index of the last change.
    pub log_index: u64,
}

impl Order {
    /// What is owed back and not yet paid back, in minor units: the contract's `refund_owed_minor`.
    pub fn refund_owed_minor(&self) -> u64 {
        self.refund_owed_total_minor.saturating_sub(self.refunded_minor)
    }

    /// The id that callers see: the chosen one, else the made one.
    pub fn shown_id(&self) -> String {
        self.name.as_ref().map_or_else(|| self.id.to_string(), |name| name.as_str().to_owned())
    }
}
