//! Lines of orders.

use super::lines::{Line, Wrong};
use super::values::{
    currency, invalid, location, order_status, place, quantity, read_order_status, read_place, read_time,
    sku, time,
};
use crate::error::StorageError;
use crate::shop::ids::{CustomerId, OrderId, OrderName, Place};
use crate::shop::order::{Order, OrderLine};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SoldLine {
    sku: String,
    location: String,
    quantity: u64,
    amount_minor: u64,
    shipped: u32,
    returned: u32,
    cancelled: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SaleLine {
    id: String,
    /// The caller chose the id.
    chosen: bool,
    status: String,
    customer_id: Option<String>,
    currency: Option<String>,
    lines: Vec<SoldLine>,
    due_minor: u64,
    paid_minor: u64,
    refund_owed_total_minor: u64,
    refunded_minor: u64,
    pay_by: Option<String>,
    metadata: BTreeMap<Arc<str>, Arc<str>>,
    references: Vec<Arc<str>>,
    cancel_reason: Option<Arc<str>>,
    /// Of the command that placed it: the same id with another is refused.
    fingerprint: String,
    created_at: String,
    updated_at: String,
    log_index: u64,
    place: String,
}

impl Line for SaleLine {
    type Row = Order;

    fn of(o: &Order, _: Place) -> Result<Self, StorageError> {
        let line = |line: &OrderLine| SoldLine {
            sku: line.sku.to_string(),
            location: line.location.to_string(),
            quantity: line.quantity.units(),
            amount_minor: line.amount_minor,
            shipped: line.shipped,
            returned: line.returned,
            cancelled: line.cancelled,
        };
        Ok(SaleLine {
            id: o.shown_id(),
            chosen: o.name.is_some(),
            status: order_status(o.status).into(),
            customer_id: o.customer_id.as_ref().map(ToString::to_string),
            currency: o.currency.as_ref().map(ToString::to_string),
            lines: o.lines.iter().map(line).collect(),
            due_minor: o.due_minor,
            paid_minor: o.paid_minor,
            refund_owed_total_minor: o.refund_owed_total_minor,
            refunded_minor: o.refunded_minor,
            pay_by: o.pay_by.map(time).transpose()?,
            metadata: o.metadata.clone(),
            references: o.references.clone(),
            cancel_reason: o.cancel_reason.clone(),
            fingerprint: format!("{:032x}", o.fingerprint),
            created_at: time(o.created_at)?,
            updated_at: time(o.updated_at)?,
            log_index: o.log_index,
            place: place(o.id.0),
        })
    }

    fn row(self) -> Result<(Place, Order), Wrong> {
        let placed = read_place(&self.place)?;
        let id = OrderId(placed);
        if !self.chosen && self.id != id.to_string() {
            return Err(format!("an order made at {} has the id {id}, not {:?}", self.place, self.id));
        }
        let line = |line: &SoldLine| {
            Ok::<_, Wrong>(OrderLine {
                sku: sku(&line.sku)?,
                location: location(&line.location)?,
                quantity: quantity(line.quantity)?,
                amount_minor: line.amount_minor,
                shipped: line.shipped,
                returned: line.returned,
                cancelled: line.cancelled,
            })
        };
        let name = || OrderName::chosen(&self.id).map_err(invalid("id", &self.id));
        let customer = |text: &String| CustomerId::new(text).map_err(invalid("customer_id", text));
        let order = Order {
            id,
            name: self.chosen.then(name).transpose()?,
            status: read_order_status(&self.status)?,
            customer_id: self.customer_id.as_ref().map(customer).transpose()?,
            currency: self.currency.as_deref().map(currency).transpose()?,
            lines: self.lines.iter().map(line).collect::<Result<_, _>>()?,
            due_minor: self.due_minor,
            paid_minor: self.paid_minor,
            refund_owed_total_minor: self.refund_owed_total_minor,
            refunded_minor: self.refunded_minor,
            pay_by: self.pay_by.as_deref().map(read_time).transpose()?,
            metadata: self.metadata,
            references: self.references,
            cancel_reason: self.cancel_reason,
            fingerprint: u128::from_str_radix(&self.fingerprint, 16)
                .map_err(|_| format!("{:?} is no fingerprint", self.fingerprint))?,
            created_at: read_time(&self.created_at)?,
            updated_at: read_time(&self.updated_at)?,
            log_index: self.log_index,
        };
        Ok((placed, order))
    }
}
