//! The harness that tries to break Stockroom.
//!
//! A black box in the shape of Jepsen: it sees HTTP, processes, files and the network, and depends on no
//! other crate of this repository.
//!
//! - [`cluster`]: real processes, their disks and clocks; [`network`]: what lies between them.
//! - [`nemesis`]: what is done to them. [`workload`]: what clients ask for. [`client`]: one call and its outcome.
//! - [`history`]: all that was seen, as a file. [`checker`]: history in, verdict and reason out.
//! - [`run`]: one run from start to verdict. [`matrix`]: many of them. [`report`]: a page for people.

pub mod checker;
pub mod client;
pub mod cluster;
pub mod history;
pub mod matrix;
pub mod nemesis;
pub mod network;
pub mod report;
pub mod run;
pub mod workload;
