//! Where in a list the value of a name is. It finds and cannot be listed, so that the order of its table,
//! which differs between nodes, shows nowhere.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::{BuildHasher, Hash};

/// From names to positions.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    /// A name's hash, and its position.
    positions: HashTable<(u64, u32)>,
    hasher: DefaultHashBuilder,
}

impl Lookup {
    pub(crate) fn with_capacity(names: usize) -> Self {
        Lookup { positions: HashTable::with_capacity(names), hasher: DefaultHashBuilder::default() }
    }

    /// The position of a name; `is_it` says whether it is that name's.
    pub(crate) fn find(&self, name: &impl Hash, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        let hash = self.hasher.hash_one(name);
        let found = self.positions.find(hash, |(its, at)| *its == hash && is_it(*at as usize));
        found.map(|(_, at)| *at as usize)
    }

    /// A name that is not there yet.
    pub(crate) fn add(&mut self, name: &impl Hash, at: usize) {
        let hash = self.hasher.hash_one(name);
        // An entry is at most a mebibyte: it names fewer than four billion things.
        self.positions.insert_unique(hash, (hash, at as u32), |(hash, _)| *hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_where_it_was_put() {
        let names: Vec<String> = (0..1_000).map(|n| format!("name-{n}")).collect();
        let mut lookup = Lookup::with_capacity(1);
        for (at, name) in names.iter().enumerate() {
            assert_eq!(lookup.find(name, |at| names[at] == *name), None);
            lookup.add(name, at);
        }
        for (at, name) in names.iter().enumerate() {
            assert_eq!(lookup.find(name, |at| names[at] == *name), Some(at));
        }
    }
}
