//! Three nodes in one process, on real storage and real sockets: each promise of replication, one
//! test each.

mod changes;
mod crash;
mod disk;
mod formation;
mod members;
mod paused;
mod reverted;
mod support;
mod time;
mod upgrade;
mod writes;
