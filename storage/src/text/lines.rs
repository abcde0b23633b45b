//! What an export says of itself, and lines of items.

use super::values::{currency, place, read_place, read_time, sku, time};
use crate::error::StorageError;
use crate::shop::command::Settings;
use crate::shop::ids::Place;
use crate::shop::item::{Item, Price};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Why a line cannot be a row.
pub(super) type Wrong = String;

/// A line that stands for one row.
pub(super) trait Line: Serialize + for<'de> Deserialize<'de> + Sized {
    /// The row.
    type Row;
    /// The line of a row; `place` is where it lies, for rows that do not say it themselves.
    fn of(row: &Self::Row, place: Place) -> Result<Self, StorageError>;
    /// The row of a line, and where it lies.
    fn row(self) -> Result<(Place, Self::Row), Wrong>;
}

/// The head of an export: `about.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Of the files.
    pub format: u32,
    /// The cluster that it is of.
    pub cluster_id: String,
    /// Everything up to this entry of the log is in it, and nothing after.
    pub log_index: u64,
    /// Rolling digest over all changes up to there.
    pub digest: String,
    /// The replicated clock there.
    pub clock: String,
    /// How often the cluster's history was begun anew from a backup.
    pub epoch: u16,
    /// Which commands, rules and formats were in force.
    pub cluster_version: u32,
    /// In force for the whole cluster.
    pub settings: SettingsLine,
    /// Lines of each file, as a check that all are there.
    pub lines: BTreeMap<String, u64>,
}

/// What holds for the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "as in the shop's own settings")]
pub struct SettingsLine {
    pub receipt_retention_ms: u64,
    pub releases_per_step: u32,
    pub receipt_drops_per_step: u32,
    pub metadata_entries: u32,
}

impl From<&Settings> for SettingsLine {
    fn from(s: &Settings) -> Self {
        SettingsLine {
            receipt_retention_ms: s.receipt_retention_ms,
            releases_per_step: s.releases_per_step,
            receipt_drops_per_step: s.receipt_drops_per_step,
            metadata_entries: s.metadata_entries,
        }
    }
}

impl From<&SettingsLine> for Settings {
    fn from(s: &SettingsLine) -> Self {
        Settings {
            receipt_retention_ms: s.receipt_retention_ms,
            releases_per_step: s.releases_per_step,
            receipt_drops_per_step: s.receipt_drops_per_step,
            metadata_entries: s.metadata_entries,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PriceLine {
    amount_minor: u64,
    currency: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ItemLine {
    sku: String,
    name: String,
    price: Option<PriceLine>,
    attributes: Option<Box<RawValue>>,
    retired: bool,
    version: u64,
    created_at: String,
    updated_at: String,
    log_index: u64,
    place: String,
}

impl Line for ItemLine {
    type Row = Item;

    fn of(item: &Item, _: Place) -> Result<Self, StorageError> {
        let attributes = item.attributes.as_ref().map(|text| RawValue::from_string(text.to_string()));
        let price = item.price.map(|price| PriceLine {
            amount_minor: price.amount_minor,
            currency: price.currency.to_string(),
        });
        Ok(ItemLine {
            sku: item.sku.to_string(),
            name: item.name.to_string(),
            price,
            attributes: attributes
                .transpose()
                .map_err(|error| StorageError::Format(format!("attributes: {error}")))?,
            retired: item.retired,
            version: item.version,
            created_at: time(item.created_at)?,
            updated_at: time(item.updated_at)?,
            log_index: item.log_index,
            place: place(item.created),
        })
    }

    fn row(self) -> Result<(Place, Item), Wrong> {
        let created = read_place(&self.place)?;
        let price = self.price.map(|price| {
            Ok::<_, Wrong>(Price { amount_minor: price.amount_minor, currency: currency(&price.currency)? })
        });
        let item = Item {
            sku: sku(&self.sku)?,
            name: self.name.into(),
            price: price.transpose()?,
            attributes: self.attributes.map(|text| text.get().into()),
            retired: self.retired,
            version: self.version,
            created,
            created_at: read_time(&self.created_at)?,
            updated_at: read_time(&self.updated_at)?,
            log_index: self.log_index,
        };
        Ok((created, item))
    }
}
