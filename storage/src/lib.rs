//! State and its durability: write-ahead log, memtable over sled, snapshot file.

pub mod codec;
pub mod error;
pub mod fs;
pub mod reader;
pub mod type_config;

pub use stockroom_shop as shop;
