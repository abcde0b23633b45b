//! Indexes from names to places: time-ordered immutable runs.
//!
//! A random key per order would cost sled more than the order itself. So the names listed since the
//! last run are kept in memory by fingerprint, and sealed together: sorted, packed into pages of one
//! row each, behind a Bloom filter that stays in memory. Runs are derived from the blocks: no part
//! of the state hash, rebuilt with the rest when the state is.

use crate::base::RawChange;
use crate::error::StorageError;
use crate::keys;
use crate::memtable::Layers;
use crate::shop::ids::Place;
use crate::shop::state::{Entry, Index};
use bytes::{Buf, BufMut, Bytes};
use std::collections::{HashMap, VecDeque};
use xxhash_rust::xxh3::xxh3_64;

/// Entries of one run. More means fewer filters to ask per look-up, and a longer pause at sealing
/// (a quarter of a million take about 30 ms).
const RUN_ENTRIES: usize = 1 << 18;
/// Entries of one page: what a look-up reads from the base.
const PAGE_ENTRIES: usize = 512;
/// Bits of filter per entry, and hashes per look-up: one false page read in about 120.
const FILTER_BITS: usize = 10;
const FILTER_HASHES: u64 = 7;
const FORMAT: u8 = 1;
/// Fingerprint, epoch, index, slot.
const ENTRY_BYTES: usize = 8 + 2 + 8 + 4;

/// All indexes.
#[derive(Debug)]
pub(crate) struct Runs {
    indexes: [IndexRuns; 3],
    run_entries: usize,
}

/// One index.
#[derive(Debug)]
struct IndexRuns {
    index: Index,
    /// Listed since the newest run, by fingerprint.
    open: HashMap<u64, Vec<Place>>,
    open_entries: usize,
    /// Oldest first.
    sealed: VecDeque<Run>,
    next_run: u32,
}

/// What stays in memory of a run.
#[derive(Debug)]
struct Run {
    number: u32,
    oldest: Entry,
    newest: Entry,
    /// First fingerprint of each page.
    fences: Vec<u64>,
    filter: Filter,
}

/// Bloom filter over fingerprints, which are hashes already.
#[derive(Debug)]
struct Filter(Vec<u64>);

impl Filter {
    fn sized_for(entries: usize) -> Self {
        Filter(vec![0; (entries * FILTER_BITS).div_ceil(64).max(1)])
    }

    /// The bits of a fingerprint: the well-known double hashing of Kirsch and Mitzenmacher.
    fn bits(&self, fingerprint: u64) -> impl Iterator<Item = (usize, u64)> + use<> {
        let bits = self.0.len() as u64 * 64;
        let step = fingerprint.rotate_left(32) | 1;
        (0..FILTER_HASHES).map(move |n| {
            let bit = fingerprint.wrapping_add(n.wrapping_mul(step)) % bits;
            ((bit / 64) as usize, 1 << (bit % 64))
        })
    }

    fn add(&mut self, fingerprint: u64) {
        for (word, bit) in self.bits(fingerprint) {
            self.0[word] |= bit;
        }
    }

    fn may_have(&self, fingerprint: u64) -> bool {
        self.bits(fingerprint).all(|(word, bit)| self.0[word] & bit != 0)
    }
}

fn fingerprint(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

fn entry(place: Place) -> Entry {
    (place.epoch, place.index)
}

impl Default for Runs {
    fn default() -> Self {
        Runs::with_run_entries(RUN_ENTRIES)
    }
}

impl Runs {
    fn with_run_entries(run_entries: usize) -> Self {
        let empty = |index| IndexRuns {
            index,
            open: HashMap::new(),
            open_entries: 0,
            sealed: VecDeque::new(),
            next_run: 0,
        };
        Runs { indexes: [Index::Receipt, Index::OrderName, Index::Customer].map(empty), run_entries }
    }

    fn of(&mut self, index: Index) -> &mut IndexRuns {
        &mut self.indexes[index as usize]
    }

    /// Loads what stays in memory of the sealed runs. What was listed since then is listed again
    /// by the caller, from the blocks after [`Runs::sealed_until`].
    pub fn load(layers: &Layers<'_>) -> Result<Self, StorageError> {
        let mut runs = Runs::default();
        for index in [Index::Receipt, Index::OrderName, Index::Customer] {
            let prefix = keys::runs(index);
            for row in layers.range(&prefix, &keys::after_prefix(&prefix)) {
                let (key, value) = row?;
                let number = keys::run_number(&key).ok_or_else(|| broken("a run without a number"))?;
                let index = runs.of(index);
                index.next_run = number + 1;
                index.sealed.push_back(Run::from_bytes(number, value)?);
            }
        }
        Ok(runs)
    }

    /// The newest entry whose names are sealed.
    pub fn sealed_until(&self, index: Index) -> Option<Entry> {
        self.indexes[index as usize].sealed.back().map(|run| run.newest)
    }

    /// Lists a name.
    pub fn list(&mut self, index: Index, name: &str, place: Place) {
        let index = self.of(index);
        index.open.entry(fingerprint(name)).or_default().push(place);
        index.open_entries += 1;
    }

    /// At the end of an entry: seals what is full. Gives the rows to store.
    pub fn seal(&mut self) -> Vec<RawChange> {
        let full = self.run_entries;
        self.indexes.iter_mut().filter(|index| index.open_entries >= full).flat_map(IndexRuns::seal).collect()
    }

    /// Drops runs of receipts that lie wholly before `from`. Gives the rows to remove.
    pub fn drop_receipts(&mut self, from: Entry) -> Vec<RawChange> {
        let index = self.of(Index::Receipt);
        let mut removed = Vec::new();
        while let Some(run) = index.sealed.front().filter(|run| run.newest < from) {
            let pages = (0..run.fences.len() as u32).map(|page| keys::page(Index::Receipt, run.number, page));
            removed.push((keys::run(Index::Receipt, run.number), None));
            removed.extend(pages.map(|key| (key, None)));
            index.sealed.pop_front();
        }
        removed
    }

    /// Places that may be listed under a name, newest first; another name may have the same
    /// fingerprint.
    pub fn find(&self, layers: &Layers<'_>, index: Index, name: &str) -> Result<Vec<Place>, StorageError> {
        let fingerprint = fingerprint(name);
        let index = &self.indexes[index as usize];
        let mut places = index.open.get(&fingerprint).cloned().unwrap_or_default();
        for run in index.sealed.iter().filter(|run| run.filter.may_have(fingerprint)) {
            run.find(layers, index.index, fingerprint, &mut places)?;
        }
        places.sort_unstable_by(|a, b| b.cmp(a));
        Ok(places)
    }
}

impl IndexRuns {
    fn seal(&mut self) -> Vec<RawChange> {
        let mut entries: Vec<(u64, Place)> = std::mem::take(&mut self.open)
            .into_iter()
            .flat_map(|(fingerprint, places)| places.into_iter().map(move |place| (fingerprint, place)))
            .collect();
        self.open_entries = 0;
        entries.sort_unstable();
        let mut filter = Filter::sized_for(entries.len());
        entries.iter().for_each(|(fingerprint, _)| filter.add(*fingerprint));
        let listed = || entries.iter().map(|(_, place)| entry(*place));
        let (Some(oldest), Some(newest)) = (listed().min(), listed().max()) else { return Vec::new() };
        let number = self.next_run;
        self.next_run += 1;
        let mut rows = Vec::new();
        let mut fences = Vec::new();
        for (page, entries) in entries.chunks(PAGE_ENTRIES).enumerate() {
            fences.push(entries[0].0);
            rows.push((keys::page(self.index, number, page as u32), Some(pack_page(entries))));
        }
        let run = Run { number, oldest, newest, fences, filter };
        rows.push((keys::run(self.index, number), Some(run.to_bytes())));
        self.sealed.push_back(run);
        rows
    }
}

fn pack_page(entries: &[(u64, Place)]) -> Bytes {
    let mut bytes = Vec::with_capacity(1 + entries.len() * ENTRY_BYTES);
    bytes.push(FORMAT);
    for (fingerprint, place) in entries {
        bytes.put_u64(*fingerprint);
        bytes.put_u16(place.epoch);
        bytes.put_u64(place.index);
        bytes.put_u32(place.slot);
    }
    bytes.into()
}

fn unpack_page(mut bytes: Bytes) -> Result<Vec<(u64, Place)>, StorageError> {
    if bytes.is_empty() || bytes.get_u8() != FORMAT || !bytes.len().is_multiple_of(ENTRY_BYTES) {
        return Err(broken("a page of an unknown format"));
    }
    let mut entries = Vec::with_capacity(bytes.len() / ENTRY_BYTES);
    while bytes.has_remaining() {
        let fingerprint = bytes.get_u64();
        let place = Place { epoch: bytes.get_u16(), index: bytes.get_u64(), slot: bytes.get_u32() };
        entries.push((fingerprint, place));
    }
    Ok(entries)
}

impl Run {
    fn find(
        &self,
        layers: &Layers<'_>,
        index: Index,
        fingerprint: u64,
        places: &mut Vec<Place>,
    ) -> Result<(), StorageError> {
        // Equal fingerprints may go over several pages: from the last page that begins before.
        let first = self.fences.partition_point(|fence| *fence < fingerprint).saturating_sub(1);
        for page in first..self.fences.len() {
            if self.fences[page] > fingerprint {
                break;
            }
            let key = keys::page(index, self.number, page as u32);
            let bytes = layers.get(&key)?.ok_or_else(|| broken("a page is missing"))?;
            let same = unpack_page(bytes)?.into_iter().filter(|(found, _)| *found == fingerprint);
            places.extend(same.map(|(_, place)| place));
        }
        Ok(())
    }

    fn to_bytes(&self) -> Bytes {
        let mut bytes = vec![FORMAT];
        for (epoch, index) in [self.oldest, self.newest] {
            bytes.put_u16(epoch);
            bytes.put_u64(index);
        }
        for words in [&self.fences, &self.filter.0] {
            bytes.put_u32(words.len() as u32);
            words.iter().for_each(|word| bytes.put_u64(*word));
        }
        bytes.into()
    }

    fn from_bytes(number: u32, mut bytes: Bytes) -> Result<Self, StorageError> {
        if bytes.len() < 21 || bytes.get_u8() != FORMAT {
            return Err(broken("a run of an unknown format"));
        }
        let oldest = (bytes.get_u16(), bytes.get_u64());
        let newest = (bytes.get_u16(), bytes.get_u64());
        let mut words = || {
            let count = bytes.try_get_u32().map_err(|_| broken("a run ends too soon"))? as usize;
            if bytes.len() < count * 8 {
                return Err(broken("a run ends too soon"));
            }
            Ok((0..count).map(|_| bytes.get_u64()).collect::<Vec<_>>())
        };
        let (fences, filter) = (words()?, Filter(words()?));
        if filter.0.is_empty() {
            return Err(broken("a run without a filter"));
        }
        Ok(Run { number, oldest, newest, fences, filter })
    }
}

fn broken(how: &str) -> StorageError {
    StorageError::Format(format!("index: {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Base, MemoryBase};
    use crate::memtable::Layer;

    #[test]
    fn every_name_is_found_where_it_was_listed_newest_first() {
        let (base, none) = (MemoryBase::default(), Layer::default());
        let layers = Layers { newest: &none, frozen: None, base: &base };
        let mut runs = Runs::with_run_entries(1_000);
        let place = |n: u64| Place { epoch: 0, index: n / 10, slot: (n % 10) as u32 };
        for n in 0..5_500u64 {
            // One customer has a tenth of all orders: more than a page of each run.
            let customer = if n % 10 == 0 { "c".to_owned() } else { format!("c{}", n % 70) };
            runs.list(Index::Customer, &customer, place(n));
            runs.list(Index::OrderName, &format!("order-{n}"), place(n));
            if n % 10 == 9 {
                base.write(&mut runs.seal().into_iter()).unwrap();
            }
        }
        let reloaded = Runs::load(&layers).unwrap();
        assert_eq!(reloaded.sealed_until(Index::OrderName), Some((0, 499)));
        for n in (0..5_500).step_by(7) {
            assert_eq!(runs.find(&layers, Index::OrderName, &format!("order-{n}")).unwrap(), [place(n)]);
        }
        assert_eq!(reloaded.find(&layers, Index::OrderName, "order-4999").unwrap(), [place(4_999)]);
        assert_eq!(runs.find(&layers, Index::OrderName, "order-5500").unwrap(), []);
        let of_c: Vec<_> = (0..550).rev().map(|n| place(n * 10)).collect();
        assert_eq!(runs.find(&layers, Index::Customer, "c").unwrap(), of_c);
    }

    #[test]
    fn runs_of_dropped_receipts_go_and_leave_no_row() {
        let (base, none) = (MemoryBase::default(), Layer::default());
        let mut runs = Runs::with_run_entries(100);
        for n in 0..300u64 {
            runs.list(Index::Receipt, &format!("key-{n}"), Place { epoch: 0, index: n, slot: 0 });
            base.write(&mut runs.seal().into_iter()).unwrap();
        }
        base.write(&mut runs.drop_receipts((0, 200)).into_iter()).unwrap();
        let layers = Layers { newest: &none, frozen: None, base: &base };
        assert_eq!(runs.find(&layers, Index::Receipt, "key-199").unwrap(), []);
        assert_eq!(runs.find(&layers, Index::Receipt, "key-200").unwrap().len(), 1);
        base.write(&mut runs.drop_receipts((0, 300)).into_iter()).unwrap();
        assert_eq!(layers.range(&[], &[255]).count(), 0);
    }
}
