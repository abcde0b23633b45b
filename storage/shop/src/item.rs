//! Items: what can be stocked and sold.

use crate::apply::Ruling;
use crate::command::PutItem;
use crate::draft::Draft;
use crate::effect::{Rejection, Reply};
use crate::ids::{Currency, Place, Sku, TimestampMs};
use crate::rehearsal;
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
    /// Retired items take no new orders and reservations; what is on the way goes on, reads stay.
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

/// What a line asks of its item: small, so that it is kept apart from the rest and copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// As [`Item::price`].
    pub price: Option<Price>,
    /// As [`Item::retired`].
    pub retired: bool,
}

impl Item {
    /// What a line asks of it.
    pub fn terms(&self) -> Terms {
        Terms { price: self.price, retired: self.retired }
    }
}

/// Makes or replaces an item: what is absent is gone.
pub(crate) fn put(draft: &mut Draft<'_>, c: &PutItem) -> Ruling {
    let old = draft.item(&c.sku)?.map(|item| (item.version, item.created, item.created_at));
    let actual = old.map_or(0, |(version, ..)| version);
    if let Some(expected) = c.expected_version.filter(|expected| *expected != actual) {
        return Err(Rejection::VersionDiffers { expected, actual }.into());
    }
    let (created, created_at) = match old {
        Some((_, created, created_at)) => (created, created_at),
        None => (draft.next_made(), draft.now),
    };
    let item = Item {
        sku: c.sku.clone(),
        name: c.name.clone().unwrap_or_else(|| default_name(draft, &c.sku)),
        price: c.price,
        attributes: c.attributes.clone(),
        // Putting a retired item brings it back: the shop says anew what it sells.
        retired: false,
        version: actual + 1,
        created,
        created_at,
        updated_at: draft.now,
        log_index: draft.log_index,
    };
    draft.save_item(item.clone())?;
    Ok(Reply::Item { item, created: actual == 0 })
}

/// What an item without a name is called.
fn default_name(draft: &Draft<'_>, sku: &Sku) -> Arc<str> {
    rehearsal::name_of(sku, draft.head.cluster_version).unwrap_or_else(|| sku.as_str().into())
}

/// Ends the sale of an item; a second time changes nothing more.
pub(crate) fn retire(draft: &mut Draft<'_>, sku: &Sku) -> Ruling {
    let mut item = match draft.item(sku)? {
        Some(item) => Item::clone(&item),
        None => return Err(Rejection::ItemNotFound(sku.clone()).into()),
    };
    if !item.retired {
        item.retired = true;
        item.version += 1;
        item.updated_at = draft.now;
        item.log_index = draft.log_index;
        draft.save_item(item.clone())?;
    }
    Ok(Reply::Item { item, created: false })
}
