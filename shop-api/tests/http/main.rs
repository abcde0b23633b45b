//! The router called in-process on a one-node cluster: every call and every refusal.
//!
//! Whatever a test sends, its answer is held against the OpenAPI document by `shop.rs`: status,
//! media type, headers and body.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod admin;
mod batch;
mod cluster;
mod document;
mod door;
mod items;
mod log;
mod members;
mod node;
mod orders;
mod outcomes;
mod reads;
mod refusals;
mod reservations;
mod settings;
mod shop;
mod stock;
mod ways;
