//! A shop as text: everything but receipts as lines of JSON, exact to the last field, and a snapshot file out of such
//! lines.
//!
//! | file | a line is |
//! |---|---|
//! | `about.json` | what it is of, and how many lines there are: see [`About`] |
//! | `items.ndjson` | an item, in order of SKU |
//! | `stock.ndjson` | the stock of a SKU at a location, with the sums of all its movements |
//! | `reservations.ndjson` | a reservation, in order of id |
//! | `orders.ndjson` | an order as it is now, in order of creation |
//! | `movements.ndjson` | a movement, oldest first |
//!
//! Receipts (answers kept under idempotency keys) are not text: whoever needs them takes a backup.

mod export;
mod import;
mod lines;
mod orders;
mod stock;
mod values;

pub use export::{Section, export};
pub use import::import;
pub use lines::{About, SettingsLine};

/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;
/// The files with lines, in the order in which they are written and read.
pub const FILES: [&str; 5] = ["items", "stock", "reservations", "orders", "movements"];
