//! The mark that says that the state on this disk is damaged: a file, since who finds the damage ends the process, and
//! the next start has to know of it.

use crate::fs::FileSystem;
use std::path::Path;

/// Beside the directories of the state: says that a start has to read everything.
const DAMAGED: &str = "DAMAGED";

/// Damage was found in the shelf at `shelf`.
pub(super) fn mark_of(fs: &dyn FileSystem, shelf: &Path) {
    if let Some(dir) = shelf.parent() {
        mark(fs, dir);
    }
}

/// Damage was found in the state below `dir`.
pub(crate) fn mark(fs: &dyn FileSystem, dir: &Path) {
    // Where not even this can be written, the scrub after the next start finds it again.
    let _ = fs.create_new(&dir.join(DAMAGED)).and_then(|_| fs.sync_dir(dir));
}

/// Whether damage was found since the state below `dir` was last proved or built anew.
pub(crate) fn is_marked(fs: &dyn FileSystem, dir: &Path) -> bool {
    fs.open(&dir.join(DAMAGED)).is_ok()
}

/// Everything was read, or built anew.
pub(crate) fn unmark(fs: &dyn FileSystem, dir: &Path) {
    let _ = fs.remove(&dir.join(DAMAGED));
}
