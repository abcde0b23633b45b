//! State and its durability: write-ahead log, memtable over sled, snapshot file.

mod audit;
mod base;
mod blocks;
pub mod codec;
pub mod error;
pub mod fs;
mod keys;
mod memtable;
pub mod reader;
mod runs;
pub mod snapshot;
pub mod state_machine;
mod store;
mod tables;
pub mod type_config;

pub use stockroom_shop as shop;
