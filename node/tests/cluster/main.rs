//! Three real processes: what the cluster promises when they are killed, and what the programs promise.
#![allow(clippy::expect_used, missing_docs)]

mod backup;
mod disk;
mod failures;
mod harness;
mod load;
mod members;
mod mixed;
mod playground;
mod programs;
mod rebuild;
mod recover;
mod rolling;
mod scrub;
mod text;
