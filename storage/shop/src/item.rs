//! Items: what can be stocked and sold.

use crate::apply::Halt;
use crate::command::PutItem;
use crate::draft::Draft;
use crate::effect::{Rejection, Reply};
use crate::ids::{Currency, Place, Sku, TimestampMs};
use crate::state::{Key, Row, Rows};
use bincode::{Decode, Encode};
use std::{collections::BTreeMap, sync::Arc};

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

/// Makes or replaces an item.
pub(crate) fn put<R: Rows>(draft: &mut Draft<'_, R>, c: &PutItem) -> Result<Reply, Halt> {
    let found = draft.item(&c.sku)?;
    let version = found.as_ref().map_or(0, |item| item.version);
    if let Some(expected) = c.expected_version
        && expected != version
    {
        return Err(Rejection::VersionDiffers { expected, actual: version }.into());
    }
    let created = found.is_none();
    let (made, created_at) = match found {
        Some(item) => (item.created, item.created_at),
        None => {
            let made = draft.next_made();
            draft.put(Key::ItemMade(made), Some(Row::Sku(c.sku.clone())));
            (made, draft.now)
        }
    };
    let item = Item {
        sku: c.sku.clone(),
        name: c.name.clone().unwrap_or_else(|| c.sku.as_str().into()),
        price: c.price,
        attributes: c.attributes.clone(),
        // Putting a retired item brings it back: the shop says anew what it sells.
        retired: false,
        version: version + 1,
        created: made,
        created_at,
        updated_at: draft.now,
        log_index: draft.log_index,
    };
    draft.put(Key::Item(c.sku.clone()), Some(Row::Item(item.clone())));
    Ok(Reply::Item { item, created })
}

/// Ends the sale of an item. Once more changes nothing.
pub(crate) fn retire<R: Rows>(draft: &mut Draft<'_, R>, sku: &Sku) -> Result<Reply, Halt> {
    let mut item = draft.item(sku)?.ok_or_else(|| Rejection::ItemNotFound(sku.clone()))?;
    if !item.retired {
        item.retired = true;
        item.version += 1;
        item.updated_at = draft.now;
        item.log_index = draft.log_index;
        draft.put(Key::Item(sku.clone()), Some(Row::Item(item.clone())));
    }
    Ok(Reply::Item { item, created: false })
}

/// Looks items up; refuses SKUs that no item has, and retired ones where they may not be used,
/// naming all of them.
pub(crate) fn known<'s, R: Rows>(
    draft: &Draft<'_, R>,
    skus: impl Iterator<Item = &'s Sku>,
    retired_too: bool,
) -> Result<BTreeMap<&'s Sku, Item>, Halt> {
    let mut items = BTreeMap::new();
    let (mut unknown, mut retired) = (Vec::new(), Vec::new());
    for sku in skus {
        if items.contains_key(sku) || unknown.contains(sku) {
            continue;
        }
        match draft.item(sku)? {
            None => unknown.push(sku.clone()),
            Some(item) => {
                if item.retired && !retired_too {
                    retired.push(sku.clone());
                }
                items.insert(sku, item);
            }
        }
    }
    if !unknown.is_empty() {
        return Err(Rejection::UnknownSku(unknown).into());
    }
    if !retired.is_empty() {
        return Err(Rejection::Retired(retired).into());
    }
    Ok(items)
}
