//! Which snapshots are being put in place. Naming one removes older ones, and giving one up removes the files that belong
//! to none: sealed files that came before the snapshot they belong to must not go with either.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Names of snapshots of which sealed files may be there before their own file is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Underway(Arc<Names>);

#[derive(Debug, Default)]
struct Names {
    names: Mutex<BTreeSet<PathBuf>>,
    fewer: Condvar,
}

/// One of them, until it is dropped.
pub(super) struct Begun {
    names: Arc<Names>,
    name: PathBuf,
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Underway {
    /// Begins one. Two of the same name take turns; blocks until then.
    pub(super) fn begin(&self, name: &Path) -> Begun {
        let taken = |names: &mut BTreeSet<PathBuf>| names.contains(name);
        let waited = self.0.fewer.wait_while(self.0.lock(), taken);
        waited.unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Begun { names: self.0.clone(), name: name.to_owned() }
    }

    /// All of them. None begins before this is dropped.
    pub(super) fn names(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.0.lock()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.names.lock().remove(&self.name);
        self.names.fewer.notify_all();
    }
}
