//! The cluster version: which commands, rules and formats are in force.
//!
//! Nodes of one cluster run different programs while it is upgraded, and must compute the same. So what a program can
//! do more than the one before lies dormant until every node has that program, and an operator says so: then the
//! cluster version is raised, by an entry of the log like any other. Never back: a program that does not know what is in
//! force must not take part.
//!
//! A new version goes to the end of [`CHANGES`]. What it brings asks the draft's head for its version:
//!
//! - a new command is a new variant of [`crate::command::Command`], whose [`since`] says from when on it counts;
//! - a rule that changes keeps both ways, and chooses by the version;
//! - what is kept or sent in another format is written so from that version on, and read for ever.
//!
//! [`since`]: crate::command::Command::since

use bincode::{Decode, Encode};
use std::fmt;

/// Counts up from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ClusterVersion(pub u32);

impl ClusterVersion {
    /// Of every cluster that was never raised.
    pub const FIRST: ClusterVersion = ClusterVersion(1);
}

impl Default for ClusterVersion {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for ClusterVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The versions that a program can serve: all from the oldest to the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// It does not know any more what came before.
    pub oldest: ClusterVersion,
    /// It does not know yet what comes after.
    pub newest: ClusterVersion,
}

impl Versions {
    /// Whether it can take part in a cluster of this version.
    #[must_use]
    pub fn serve(&self, version: ClusterVersion) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            self.oldest.fmt(f)
        } else {
            write!(f, "{} to {}", self.oldest, self.newest)
        }
    }
}

/// Every version that this program knows, oldest first, and what it switches on, as it reads behind "switches on".
pub const CHANGES: &[(ClusterVersion, &str)] = &[
    (ClusterVersion(1), "all of Stockroom 0.1"),
    #[cfg(feature = "next-version")]
    (crate::rehearsal::VERSION, crate::rehearsal::BRINGS),
];

/// The versions that this program serves.
pub const SERVED: Versions = Versions { oldest: CHANGES[0].0, newest: CHANGES[CHANGES.len() - 1].0 };

/// What comes into force when a cluster goes from one version to another, as far as this program knows.
pub fn switched_on(
    from: ClusterVersion,
    to: ClusterVersion,
) -> impl Iterator<Item = (ClusterVersion, &'static str)> {
    CHANGES.iter().copied().filter(move |(version, _)| *version > from && *version <= to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_count_up_without_a_gap_and_each_says_what_it_brings() {
        for (number, (version, what)) in (SERVED.oldest.0..).zip(CHANGES) {
            assert_eq!((version.0, what.is_empty()), (number, false));
        }
        assert!(SERVED.serve(SERVED.newest) && !SERVED.serve(ClusterVersion(SERVED.newest.0 + 1)));
        let first = ClusterVersion::FIRST;
        assert_eq!(switched_on(first, SERVED.newest).count(), CHANGES.len() - 1);
        assert_eq!(switched_on(SERVED.newest, SERVED.newest).count(), 0);
    }
}
