//! State and its durability: write-ahead log, memtable over sled, snapshot file.

pub mod error;
pub mod fs;
pub mod type_config;

pub use stockroom_shop as shop;
