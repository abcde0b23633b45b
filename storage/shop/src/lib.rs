//! The shop itself: rules, states and limits, as one pure function.
//!
//! No IO, clock, randomness, floats, async, sled or openraft. [`state::step`] takes the rows of
//! one replica and one entry of the log, and says what comes out.
//!
//! | file | what |
//! |---|---|
//! | [`command`] | all that can be asked for; a batch of it is one entry |
//! | `apply` | `step()`, and `apply()`: one line per command |
//! | [`item`], [`stock`], [`reservation`], [`order`] | each type beside its own rules |
//! | `release`, `receipt` | what ends when its time is over; what is kept under idempotency keys |
//! | `draft`, `lookup` | what one entry has changed so far, over the rows it found; where in it a name is |
//! | [`check`] | the laws, for every step and for the audit |
//! | [`effect`], [`state`] | what comes out, what is remembered |
//! | [`ids`], [`text`] | how it is named |
//! | [`memory`] | rows in memory, for tests and simulation |
//! | [`version`] | which commands and rules are in force in a cluster whose nodes run different programs |
//! | [`rehearsal`] | the next version of them, for tests of upgrades; nothing of it without its feature |
//! | [`planted`] | known mistakes for the harness to catch; nothing of it without its feature |

#[cfg(all(feature = "planted", not(planted_profile)))]
compile_error!(
    "the feature `planted` puts known mistakes into the server: it can only be built with `cargo build --profile \
     planted -p stockroom --features planted`"
);

#[cfg(all(feature = "next-version", not(any(debug_assertions, planted_profile))))]
compile_error!(
    "the feature `next-version` claims a cluster version that does not exist: it can only be built with debug assertions, \
     or in the profile `planted`"
);

mod apply;
pub mod check;
pub mod command;
mod draft;
pub mod effect;
pub mod ids;
pub mod item;
mod lookup;
pub mod memory;
pub mod order;
pub mod planted;
mod receipt;
pub mod rehearsal;
mod release;
pub mod reservation;
pub mod state;
pub mod stock;
pub mod text;
pub mod version;
