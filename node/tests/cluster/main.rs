//! Three real processes: what the cluster promises when they are killed, and what the programs promise.
#![allow(clippy::expect_used, missing_docs)]

mod backup;
mod failures;
mod harness;
mod load;
mod members;
mod mixed;
mod playground;
mod programs;
mod recover;
mod rolling;
mod text;
