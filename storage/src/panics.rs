//! Panics that are caught: those of sled, which may panic over a damaged file. A program that ends at every panic
//! asks here first, from its panic hook, which runs before anything can be caught.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread now will be caught, and what it was about thrown away.
#[must_use]
pub fn are_caught() -> bool {
    CATCHING.get()
}

/// Does something that may panic over bytes from disk; answers the panic's message.
///
/// # Errors
/// The message of the panic.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let before = CATCHING.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(before);
    done.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        text.or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
    })
}
