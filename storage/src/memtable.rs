//! What is applied and not yet in the base; shadows it for readers.

use crate::base::{Base, RawChange, RawRow};
use crate::error::StorageError;
use crate::keys::RowKey;
use bytes::Bytes;
use hashbrown::HashMap;
use std::collections::BTreeSet;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

/// Rough cost of one row beyond its bytes: table slot, tree node.
const ROW_OVERHEAD: usize = 200;
/// Values up to this length lie in the table itself. A stock is about 50 bytes.
const SHORT: usize = 62;

/// The newest value of a row. A short one is written over in place, again and again: no memory is asked for, and none
/// is touched but the row's own.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Bytes),
    Removed,
}

impl Value {
    /// A copy of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Value::short(bytes).unwrap_or_else(|| Value::Long(Bytes::copy_from_slice(bytes)))
    }

    fn short(value: &[u8]) -> Option<Self> {
        let mut bytes = [0; SHORT];
        bytes.get_mut(..value.len())?.copy_from_slice(value);
        Some(Value::Short { length: value.len() as u8, bytes })
    }

    /// `None` stands for a removed row.
    pub fn as_slice(&self) -> Option<&[u8]> {
        match self {
            Value::Short { length, bytes } => Some(&bytes[..usize::from(*length)]),
            Value::Long(bytes) => Some(bytes),
            Value::Removed => None,
        }
    }

    fn to_bytes(&self) -> Option<Bytes> {
        match self {
            Value::Long(bytes) => Some(bytes.clone()),
            other => other.as_slice().map(Bytes::copy_from_slice),
        }
    }

    fn len(&self) -> usize {
        self.as_slice().map_or(0, <[u8]>::len)
    }
}

impl From<Option<Bytes>> for Value {
    fn from(bytes: Option<Bytes>) -> Self {
        match bytes {
            Some(bytes) => Value::short(&bytes).unwrap_or(Value::Long(bytes)),
            None => Value::Removed,
        }
    }
}

/// Newest values of changed rows.
///
/// Most changes are of a row that is here already (the stock of what sells): they find it by its hash, which
/// touches a fraction of the memory that a way down a tree does. The tree knows the order of keys, and
/// changes only where a row is new.
#[derive(Debug, Default, Clone)]
pub(crate) struct Layer {
    rows: HashMap<RowKey, Value>,
    keys: BTreeSet<RowKey>,
    bytes: usize,
}

impl Layer {
    /// Sets or removes a row.
    pub fn put(&mut self, key: RowKey, value: Value) {
        let new = value.len();
        if let Some(slot) = self.rows.get_mut(&key[..]) {
            self.bytes = self.bytes + new - slot.len();
            *slot = value;
            return;
        }
        self.bytes += key.len() + new + ROW_OVERHEAD;
        self.keys.insert(key.clone());
        self.rows.insert(key, value);
    }

    /// `None` where the layer says nothing of the row.
    pub fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.rows.get(key).map(Value::to_bytes)
    }

    /// Memory it takes, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes all changes of a newer one.
    pub fn absorb(&mut self, newer: Layer) {
        newer.rows.into_iter().for_each(|(key, value)| self.put(key, value));
    }

    /// All changes, for the base, in the order of keys.
    pub fn changes(&self) -> impl Iterator<Item = RawChange> + '_ {
        self.keys.iter().map(|key| self.change(key))
    }

    fn change(&self, key: &RowKey) -> RawChange {
        (key.to_vec(), self.rows.get(key).and_then(Value::to_bytes))
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
            return Ok(value);
        }
        if let Some(value) = self.frozen.and_then(|frozen| frozen.get(key)) {
            return Ok(value);
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
        frozen.put(b"b"[..].into(), Value::of(b"1"));
        frozen.put(b"c"[..].into(), Value::of(b"1"));
        frozen.put(b"d"[..].into(), Value::Removed);
        let mut newest = Layer::default();
        newest.put(b"c"[..].into(), Value::Removed);
        newest.put(b"d"[..].into(), Value::of(b"2"));
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

    #[test]
    fn a_value_of_any_length_replaces_another() {
        let mut layer = Layer::default();
        let key = || RowKey::from_slice(b"stock");
        for length in [0, 1, SHORT, SHORT + 1, 4_096, SHORT, 3] {
            let value = vec![length as u8; length];
            layer.put(key(), Value::of(&value));
            assert_eq!(layer.get(b"stock").flatten().as_deref(), Some(&value[..]));
            layer.put(key(), Some(Bytes::from(value.clone())).into());
            assert_eq!(layer.changes().collect::<Vec<_>>(), [(b"stock".to_vec(), Some(value.into()))]);
            assert_eq!(layer.bytes(), b"stock".len() + length + ROW_OVERHEAD);
        }
        layer.put(key(), Value::Removed);
        assert_eq!(layer.get(b"stock"), Some(None), "removed here, whatever the base says");
    }
}
