//! The shop itself: rules, states and limits, as one pure function.
//!
//! No IO, clock, randomness, floats, async, sled or openraft. [`state::step`] takes the rows of
//! one replica and one entry of the log, and says what comes out.

mod apply;
pub mod check;
pub mod command;
mod draft;
pub mod effect;
pub mod ids;
pub mod item;
pub mod memory;
pub mod order;
mod receipt;
mod release;
pub mod reservation;
pub mod state;
pub mod stock;
