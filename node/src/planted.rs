//! Chooses the mistake that this node makes on purpose. Only in a build with the feature `planted`.

use crate::config::ConfigError;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};
use stockroom_storage::shop::planted;

/// Names the mistake; without it the node makes none.
pub const VARIABLE: &str = "STOCKROOM_PLANTED";

/// Plants what the environment names, and says so.
///
/// # Errors
/// Where there is no mistake of that name.
pub fn plant() -> Result<(), ConfigError> {
    let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) else {
        tracing::warn!("a build for tests of the harness: mistakes can be planted in it, none is");
        return Ok(());
    };
    let Some((bug, name, how)) = planted::ALL.iter().find(|(_, known, _)| *name == **known) else {
        let why = format!("{VARIABLE}: there is no {name:?} to plant; `stockroom planted` lists the names");
        return Err(ConfigError::Contradiction(why));
    };
    tracing::warn!(
        bug = name,
        how,
        "A MISTAKE IS PLANTED IN THIS NODE: it loses or falsifies data on purpose"
    );
    planted::plant(*bug, wall_ms);
    Ok(())
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// One a line: the name, and behind spaces how it shows.
pub fn list() -> String {
    let mut text = String::new();
    for (_, name, how) in planted::ALL {
        writeln!(text, "{name:<30} {how}").expect("a string takes all");
    }
    text
}
