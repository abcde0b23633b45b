//! State and its durability: write-ahead log, memtable over sled, snapshot file.

pub mod codec;
pub mod error;
pub mod fs;
pub mod identity;
mod log;
pub mod log_store;
pub mod memory_fs;
pub mod spawn;
pub mod type_config;

pub use stockroom_shop as shop;
