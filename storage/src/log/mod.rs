//! The write-ahead log: what each file does.
//!
//! - [`record`]: one change of the log as bytes, and back
//! - [`segment`]: a file of records: its header, its making, its recycling
//! - [`recover`]: what a start finds on the disk, told apart into good, torn and damaged
//! - [`wal`]: the writer: one write and one sync for everything that waits
//! - [`housekeeper`]: makes the next segment in advance, recycles the purged ones
//! - [`points`]: what each change does to where the log stands
//! - [`table`]: where each entry lies, and the recent ones themselves
//!
//! How a start tells a torn tail from damage. Changes are written in groups, numbered one by one. A
//! group is written only when the synced ones before it are known to be on the disk, and says so
//! ([`record::Header::durable`]). Bytes that do not validate are a torn tail, unless a later record
//! claims that their group was durable. Two more claims close the gaps: a segment's first record says
//! up to which group the segments before it count, and a seal, written when nothing else is to do
//! and on a clean stop, claims the groups before it.

pub(crate) mod housekeeper;
pub(crate) mod pace;
pub(crate) mod points;
pub(crate) mod record;
pub(crate) mod recover;
pub(crate) mod segment;
pub(crate) mod table;
pub(crate) mod wal;
