//! State and its durability: the write-ahead log, the memtable over sled, the snapshot file.
//!
//! | module | what |
//! |---|---|
//! | [`log`](log_store) | the write-ahead log and openraft's trait over it; syncs before it acknowledges |
//! | [`state_machine`] | committed entries -> shop -> memtable, on the apply thread |
//! | `tables`, `memtable`, `base`, `runs`, `blocks` | rows in layers, over sled; indexes; packed values |
//! | `shelf` | rows that are written once, in files that snapshots share |
//! | `disk_base`, `redo` | sled and the shelf as one map; a checkpoint on its way into sled |
//! | [`scrub`] | everything on the disk is read, at a bounded rate, now and then |
//! | `cache` | hot rows, decoded, for the apply thread |
//! | `store` | the lock around them, and who may freeze, checkpoint, exchange them when |
//! | [`snapshot`] | the snapshot file: write, verify, stream, install |
//! | [`backup`], [`refound`], [`remains`] | a snapshot file on its way out and back; a new cluster out of one; what a stopped node has |
//! | [`archive`] | pieces of the log beside a backup: any point in time |
//! | [`text`] | a shop as lines of JSON, and back |
//! | [`reader`], [`audit`] | consistent views at one applied index; everything recomputed |
//! | [`codec`], `keys` | values and keys <-> bytes |
//! | [`version`], [`small_file`] | whether this program may touch a data directory; small files that are written whole |
//! | [`panics`] | those of sled, caught |
//! | [`fs`], [`memory_fs`], [`spawn`] | seams for simulation |
//!
//! Everything is a function of snapshot file + log. sled is a cache of the two: [`open`] proves it
//! by its state hash, or builds it anew.

pub mod archive;
pub mod audit;
pub mod backup;
mod base;
mod blocks;
mod cache;
pub mod codec;
mod disk_base;
pub mod entries;
pub mod error;
#[cfg(test)]
#[path = "../tests/fixtures/mod.rs"]
mod fixtures;
pub mod frames;
pub mod fs;
pub mod identity;
mod keys;
mod log;
pub mod log_store;
pub mod memory_fs;
mod memtable;
mod open;
pub mod panics;
pub mod reader;
mod redo;
pub mod refound;
pub mod remains;
mod runs;
pub mod scrub;
mod shelf;
pub mod small_file;
pub mod snapshot;
pub mod spawn;
pub mod state_machine;
mod store;
mod tables;
pub mod text;
pub mod type_config;
pub mod version;

pub use open::{Storage, StorageOptions, open};
pub use stockroom_shop as shop;
