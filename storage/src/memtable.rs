//! What is applied and not yet in the base; shadows it for readers.

use crate::base::{Base, RawChange, RawRow};
use crate::error::StorageError;
use bytes::Bytes;
use hashbrown::HashMap;
use std::collections::BTreeSet;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

/// Rough cost of one row beyond its bytes: table slot, tree node, handles, allocator.
const ROW_OVERHEAD: usize = 150;

/// Newest values of changed rows; `None` stands for a removed one.
///
/// Most changes are of a row that is here already (the stock of what sells): they find it by its hash, which
/// touches a fraction of the memory that a way down a tree does. The tree knows the order of keys, and
/// changes only where a row is new.
#[derive(Debug, Default, Clone)]
pub(crate) struct Layer {
    rows: HashMap<Arc<[u8]>, Option<Bytes>>,
    keys: BTreeSet<Arc<[u8]>>,
    bytes: usize,
}

impl Layer {
    /// Sets or removes a row.
    pub fn put(&mut self, key: Vec<u8>, value: Option<Bytes>) {
        let new = value.as_ref().map_or(0, Bytes::len);
        if let Some(slot) = self.rows.get_mut(&key[..]) {
            let old = std::mem::replace(slot, value);
            self.bytes = self.bytes + new - old.map_or(0, |old| old.len());
            return;
        }
        self.bytes += key.len() + new + ROW_OVERHEAD;
        let key: Arc<[u8]> = key.into();
        self.keys.insert(Arc::clone(&key));
        self.rows.insert(key, value);
    }

    /// `None` where the layer says nothing of the row.
    pub fn get(&self, key: &[u8]) -> Option<Option<&Bytes>> {
        self.rows.get(key).map(Option::as_ref)
    }

    /// Memory it takes, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All changes, for the base, in the order of keys.
    pub fn changes(&self) -> impl Iterator<Item = RawChange> + '_ {
        self.keys.iter().map(|key| self.change(key))
    }

    fn change(&self, key: &Arc<[u8]>) -> RawChange {
        (key.to_vec(), self.rows.get(key).cloned().flatten())
    }

    fn range(&self, from: &[u8], until: &[u8]) -> impl DoubleEndedIterator<Item = RawChange> + '_ {
        let keys = self.keys.range::<[u8], _>((Bound::Included(from), Bound::Excluded(until)));
        keys.map(|key| self.change(key))
    }

    fn last(&self, from: &[u8], until: &[u8]) -> Option<RawChange> {
        self.range(from, until).next_back()
    }
}

/// Layers over a base, newest first: what readers see.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layers<'a> {
    pub newest: &'a Layer,
    pub frozen: Option<&'a Arc<Layer>>,
    pub base: &'a dyn Base,
}

type Source<'a> = Box<dyn Iterator<Item = Result<RawChange, StorageError>> + 'a>;

impl<'a> Layers<'a> {
    /// One value.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        if let Some(value) = self.newest.get(key) {
            return Ok(value.cloned());
        }
        if let Some(value) = self.frozen.and_then(|frozen| frozen.get(key)) {
            return Ok(value.cloned());
        }
        self.base.get(key)
    }

    /// Rows from `from` (included) to `until` (excluded), in order.
    pub fn range(&self, from: &[u8], until: &[u8]) -> Merged<'a> {
        let mut sources: Vec<Source<'a>> = vec![Box::new(self.newest.range(from, until).map(Ok))];
        if let Some(frozen) = self.frozen {
            sources.push(Box::new(frozen.range(from, until).map(Ok)));
        }
        sources.push(Box::new(self.base.range(from, until).map(|row| row.map(|(k, v)| (k, Some(v))))));
        Merged::new(sources)
    }

    /// The last row from `from` (included) to `until` (excluded).
    pub fn last(&self, from: &[u8], until: &[u8]) -> Result<Option<RawRow>, StorageError> {
        let mut until = until.to_vec();
        loop {
            let of_base = self.base.last(from, &until)?.map(|(key, value)| (key, Some(value)));
            let of_frozen = self.frozen.and_then(|frozen| frozen.last(from, &until));
            let of_newest = self.newest.last(from, &until);
            let mut last: Option<RawChange> = None;
            // An earlier source shadows the later ones.
            for found in [of_newest, of_frozen, of_base].into_iter().flatten() {
                if last.as_ref().is_none_or(|(key, _)| found.0 > *key) {
                    last = Some(found);
                }
            }
            match last {
                None => return Ok(None),
                Some((key, Some(value))) => return Ok(Some((key, value))),
                Some((key, None)) => until = key,
            }
        }
    }
}

/// Merges sorted sources, of which an earlier one shadows the later ones.
pub(crate) struct Merged<'a> {
    sources: Vec<Peekable<Source<'a>>>,
}

impl<'a> Merged<'a> {
    fn new(sources: Vec<Source<'a>>) -> Self {
        Merged { sources: sources.into_iter().map(Iterator::peekable).collect() }
    }

    /// The source with the next key; the earliest of those that have it.
    fn next_source(&mut self) -> Option<usize> {
        let mut best: Option<(usize, Vec<u8>)> = None;
        for number in 0..self.sources.len() {
            let key = match self.sources[number].peek() {
                None => continue,
                // An error goes out at once.
                Some(Err(_)) => return Some(number),
                Some(Ok((key, _))) => key,
            };
            if best.as_ref().is_none_or(|(_, best)| key < best) {
                best = Some((number, key.clone()));
            }
        }
        best.map(|(number, _)| number)
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<RawRow, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let number = self.next_source()?;
            let (key, value) = match self.sources[number].next()? {
                Err(error) => return Some(Err(error)),
                Ok(row) => row,
            };
            for older in &mut self.sources[number + 1..] {
                older.next_if(|row| matches!(row, Ok((older, _)) if *older == key));
            }
            if let Some(value) = value {
                return Some(Ok((key, value)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::MemoryBase;

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn collect(rows: Merged<'_>) -> Vec<String> {
        rows.map(|row| row.map(|(k, v)| format!("{}={}", text(&k), text(&v))).unwrap()).collect()
    }

    #[test]
    fn newer_layers_shadow_older_ones() {
        let base = MemoryBase::default();
        let put = |key: &str, value: &'static str| (key.as_bytes().to_vec(), Some(Bytes::from(value)));
        base.write(&mut [put("a", "0"), put("b", "0"), put("d", "0"), put("e", "0")].into_iter()).unwrap();
        let mut frozen = Layer::default();
        frozen.put(b"b".to_vec(), Some("1".into()));
        frozen.put(b"c".to_vec(), Some("1".into()));
        frozen.put(b"d".to_vec(), None);
        let mut newest = Layer::default();
        newest.put(b"c".to_vec(), None);
        newest.put(b"d".to_vec(), Some("2".into()));
        let frozen = Arc::new(frozen);
        let layers = Layers { newest: &newest, frozen: Some(&frozen), base: &base };
        assert_eq!(collect(layers.range(b"a", b"e")), ["a=0", "b=1", "d=2"]);
        let last = |from: &[u8], until: &[u8]| layers.last(from, until).unwrap().map(|(key, _)| text(&key));
        assert_eq!(last(b"a", b"z").as_deref(), Some("e"));
        assert_eq!(last(b"a", b"e").as_deref(), Some("d"));
        assert_eq!(last(b"a", b"d").as_deref(), Some("b"), "c was made and removed again");
        assert_eq!(last(b"c", b"d"), None);
        assert_eq!(layers.get(b"c").unwrap(), None);
        assert_eq!(layers.get(b"b").unwrap().as_deref(), Some(&b"1"[..]));
    }
}
