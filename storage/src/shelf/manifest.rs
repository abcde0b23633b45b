//! Which files make up a shelf, and how far each of them counts.

use crate::tables::Sums;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// All files of a shelf. Stored with each checkpoint, whole or not at all with the rows it speaks of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest(pub Vec<SeriesState>);

/// Rows whose keys begin alike.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeriesState {
    /// What their keys begin with.
    pub prefix: Vec<u8>,
    /// Rows before this key were removed.
    pub dropped_until: Vec<u8>,
    /// Sum over removed rows that are still in one of the files; wraps.
    pub dropped_sum: u128,
    /// In order of their keys. Only the last may be unsealed.
    pub files: Vec<FileState>,
}

/// One file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileState {
    /// Part of its name.
    pub number: u64,
    /// Bytes that count; what comes after them never happened.
    pub length: u64,
    pub rows: u64,
    /// Over all its rows; wraps.
    pub sum: u128,
    /// Synced, read back, and never changed again.
    pub sealed: bool,
}

impl SeriesState {
    /// Name of one of its files.
    pub fn file_name(&self, file: &FileState) -> String {
        file_name(&self.prefix, file.number)
    }
}

/// Suffix of files of a shelf.
pub(crate) const SUFFIX: &str = "rows";

pub(super) fn file_name(prefix: &[u8], number: u64) -> String {
    let prefix: String = prefix.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}-{number:010}.{SUFFIX}")
}

impl Manifest {
    /// What every sealed file is called, with its state, in order.
    pub fn files(&self) -> impl Iterator<Item = (String, &FileState)> {
        self.0.iter().flat_map(|series| series.files.iter().map(|file| (series.file_name(file), file)))
    }

    /// Without files that are not sealed.
    pub fn sealed(mut self) -> Self {
        for series in &mut self.0 {
            series.files.retain(|file| file.sealed);
            if series.files.is_empty() {
                // Rows go oldest first: what was removed was in the others.
                series.dropped_sum = 0;
            }
        }
        self
    }

    /// Adds up all rows that are not removed.
    pub fn add_to(&self, sums: &mut Sums) {
        for series in &self.0 {
            let all = series.files.iter().fold(0u128, |sum, file| sum.wrapping_add(file.sum));
            sums.add_sum(&series.prefix, all.wrapping_sub(series.dropped_sum));
        }
    }
}

/// The sealed files of a shelf, where they lie.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sealed {
    pub manifest: Manifest,
    pub dir: PathBuf,
    /// What comes before each name.
    pub stem: String,
}

impl Sealed {
    /// Where a file lies.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{}{name}", self.stem))
    }
}
