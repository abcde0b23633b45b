//! Three nodes in one process, on real storage and real sockets: each promise of replication, one
//! test each.

mod changes;
mod crash;
mod formation;
mod members;
mod reverted;
mod support;
mod time;
mod upgrade;
mod writes;
