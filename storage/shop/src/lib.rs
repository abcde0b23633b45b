//! The shop itself: rules, states and limits, as one pure function.
//!
//! No IO, clock, randomness, floats, async, sled or openraft. [`state::step`] takes the rows of
//! one replica and one entry of the log, and says what comes out.

pub mod command;
pub mod effect;
pub mod ids;
pub mod item;
pub mod order;
pub mod reservation;
pub mod state;
pub mod stock;
