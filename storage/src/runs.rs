//! Indexes from names to places: time-ordered immutable runs.
//!
//! A random key per order would cost sled more than the order itself. So the names listed since the
//! last run are kept in memory by fingerprint, and sealed together: sorted, packed into pages of one
//! row each, behind a Bloom filter that stays in memory. Runs are derived from the blocks: no part
//! of the state hash, but of a sum of their own, because a name that is not found is used twice.

use crate::base::RawChange;
use crate::error::StorageError;
use crate::keys;
use crate::memtable::Layers;
use crate::shop::ids::Place;
use crate::shop::order::Order;
use crate::shop::state::{Entry, Index};
use crate::tables::row_hash;
use bytes::{Buf, BufMut, Bytes};
use std::collections::{HashMap, VecDeque, hash_map};
use std::hash::{BuildHasherDefault, Hasher};
use xxhash_rust::xxh3::xxh3_64;

/// Entries of one run. More means fewer filters to ask per look-up, and a longer pause at sealing
/// (a quarter of a million take about 30 ms).
const RUN_ENTRIES: usize = 1 << 18;
/// Entries of one page: what a look-up reads from the base.
const PAGE_ENTRIES: usize = 512;
/// Bits of filter per entry, of which a look-up reads so many, all in one cache line: what is asked for is in
/// none of the runs, mostly, so this is what a million more orders cost. One false page read in about 700.
const FILTER_BITS: usize = 16;
const FILTER_HASHES: u32 = 6;
const FILTER_LINE_WORDS: usize = 8;
const RUN_FORMAT: u8 = 2;
const PAGE_FORMAT: u8 = 1;
const FIRST: Place = Place { epoch: 0, index: 0, slot: 0 };
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
    /// First place listed since the newest run, by fingerprint ...
    open: HashMap<u64, Place, BuildHasherDefault<Fingerprinted>>,
    /// ... and the further ones: most names have none.
    more: HashMap<u64, Vec<Place>, BuildHasherDefault<Fingerprinted>>,
    open_entries: usize,
    /// Values since the newest run, with a name or without.
    passed: usize,
    /// Oldest first.
    sealed: VecDeque<Run>,
    next_run: u32,
}

/// What stays in memory of a run.
#[derive(Debug)]
struct Run {
    number: u32,
    /// The entry at whose end it was sealed.
    until: Entry,
    /// First fingerprint of each page.
    fences: Vec<u64>,
    filter: Filter,
    /// Over the rows of its pages.
    pages_sum: u128,
    /// The same with its own row.
    sum: u128,
}

/// Rows to store or to remove, and what that adds to the sum over all derived rows.
#[derive(Debug, Default)]
pub(crate) struct Derived {
    pub rows: Vec<RawChange>,
    /// Wraps.
    pub sum: u128,
}

/// Bloom filter over fingerprints, which are hashes already, in lines of a cache line each.
#[derive(Debug)]
struct Filter(Vec<u64>);

impl Filter {
    fn sized_for(entries: usize) -> Self {
        let lines = (entries * FILTER_BITS).div_ceil(FILTER_LINE_WORDS * 64).max(1);
        Filter(vec![0; lines * FILTER_LINE_WORDS])
    }

    /// The line of a fingerprint, by its upper bits, and its bits there.
    fn bits(&self, fingerprint: u64) -> (usize, impl Iterator<Item = (usize, u64)> + use<>) {
        let lines = self.0.len() / FILTER_LINE_WORDS;
        let line = (u128::from(fingerprint) * lines as u128) >> 64;
        let mixed = fingerprint.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bits = (0..FILTER_HASHES).map(move |n| {
            let bit = (mixed >> (n * 9)) % (FILTER_LINE_WORDS as u64 * 64);
            ((bit / 64) as usize, 1 << (bit % 64))
        });
        (line as usize * FILTER_LINE_WORDS, bits)
    }

    fn add(&mut self, fingerprint: u64) {
        let (line, bits) = self.bits(fingerprint);
        for (word, bit) in bits {
            self.0[line + word] |= bit;
        }
    }

    fn may_have(&self, fingerprint: u64) -> bool {
        let (line, mut bits) = self.bits(fingerprint);
        bits.all(|(word, bit)| self.0[line + word] & bit != 0)
    }
}

/// Fingerprints are hashes already.
#[derive(Debug, Default)]
struct Fingerprinted(u64);

impl Hasher for Fingerprinted {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }
}

fn fingerprint(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

impl Default for Runs {
    fn default() -> Self {
        Runs::with_run_entries(RUN_ENTRIES)
    }
}

impl Runs {
    /// With shorter runs, for tests.
    pub fn with_run_entries(run_entries: usize) -> Self {
        let empty = |index| IndexRuns {
            index,
            open: HashMap::default(),
            more: HashMap::default(),
            open_entries: 0,
            passed: 0,
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
    pub fn load(self, layers: &Layers<'_>) -> Result<Self, StorageError> {
        let mut runs = self;
        for index in [Index::Receipt, Index::OrderName, Index::Customer] {
            let prefix = keys::runs(index);
            for row in layers.range(&prefix, &keys::after_prefix(&prefix)) {
                let (key, value) = row?;
                let number = keys::run_number(&key).ok_or_else(|| broken("a run without a number"))?;
                let index = runs.of(index);
                index.next_run = number + 1;
                index.sealed.push_back(Run::from_row(number, &key, value)?);
            }
        }
        Ok(runs)
    }

    /// The newest entry whose names are sealed.
    pub fn sealed_until(&self, index: Index) -> Option<Entry> {
        self.indexes[index as usize].sealed.back().map(|run| run.until)
    }

    /// Lists a name. Places come in order.
    pub fn list(&mut self, index: Index, name: &str, place: Place) {
        let index = self.of(index);
        match index.open.entry(fingerprint(name)) {
            hash_map::Entry::Vacant(entry) => drop(entry.insert(place)),
            hash_map::Entry::Occupied(entry) => index.more.entry(*entry.key()).or_default().push(place),
        }
        index.open_entries += 1;
    }

    /// So many values went by that an index could have listed.
    pub fn pass(&mut self, index: Index, values: usize) {
        self.of(index).passed += values;
    }

    /// At a start: lists orders by what `name` gives for each, as when they were placed.
    pub fn list_again(&mut self, index: Index, orders: &[Order], name: impl Fn(&Order) -> Option<String>) {
        self.pass(index, orders.len());
        for order in orders {
            if let Some(name) = name(order) {
                self.list(index, &name, order.id.0);
            }
        }
    }

    /// At the end of an entry: seals what is full.
    pub fn seal(&mut self, until: Entry) -> Derived {
        let full = self.run_entries;
        let mut derived = Derived::default();
        let is_due = |index: &&mut IndexRuns| {
            // However few values have a name: a start lists again what came since, and has to read all of it.
            index.open_entries >= full || index.passed >= full
        };
        self.indexes.iter_mut().filter(is_due).for_each(|index| index.seal(until, &mut derived));
        derived
    }

    /// Drops runs of receipts that lie wholly before `from`.
    pub fn drop_receipts(&mut self, from: Entry) -> Derived {
        let index = self.of(Index::Receipt);
        let mut derived = Derived::default();
        while index.sealed.front().is_some_and(|run| run.until < from)
            && let Some(run) = index.sealed.pop_front()
        {
            let pages = (0..run.fences.len() as u32).map(|page| keys::page(Index::Receipt, run.number, page));
            derived.rows.push((keys::run(Index::Receipt, run.number), None));
            derived.rows.extend(pages.map(|key| (key, None)));
            derived.sum = derived.sum.wrapping_sub(run.sum);
        }
        derived
    }

    /// Places that may be listed under a name, newest first; another name may have the same
    /// fingerprint.
    pub fn find(&self, layers: &Layers<'_>, index: Index, name: &str) -> Result<Vec<Place>, StorageError> {
        let fingerprint = fingerprint(name);
        let index = &self.indexes[index as usize];
        let mut places = Vec::from_iter(index.open.get(&fingerprint).copied());
        if !places.is_empty() {
            places.extend(index.more.get(&fingerprint).into_iter().flatten());
        }
        for run in index.sealed.iter().filter(|run| run.filter.may_have(fingerprint)) {
            run.find(layers, index.index, fingerprint, &mut places)?;
        }
        places.sort_unstable_by(|a, b| b.cmp(a));
        Ok(places)
    }
}

impl Runs {
    /// Whether a place is listed under a name, or under one with the same fingerprint. Costs the same
    /// however many there are.
    pub fn has(
        &self,
        layers: &Layers<'_>,
        index: Index,
        name: &str,
        place: Place,
    ) -> Result<bool, StorageError> {
        let fingerprint = fingerprint(name);
        let runs = &self.indexes[index as usize];
        let of_entry = runs.sealed.partition_point(|run| run.until < (place.epoch, place.index));
        match runs.sealed.get(of_entry) {
            Some(run) => Ok(run.filter.may_have(fingerprint) && run.has(layers, index, fingerprint, place)?),
            None => {
                let more = runs.more.get(&fingerprint);
                Ok(runs.open.get(&fingerprint) == Some(&place)
                    || more.is_some_and(|more| more.binary_search(&place).is_ok()))
            }
        }
    }
}

impl IndexRuns {
    fn seal(&mut self, until: Entry, derived: &mut Derived) {
        let mut entries: Vec<(u64, Place)> = self.open.drain().collect();
        let more = std::mem::take(&mut self.more).into_iter();
        entries.extend(more.flat_map(|(name, places)| places.into_iter().map(move |place| (name, place))));
        (self.open_entries, self.passed) = (0, 0);
        entries.sort_unstable();
        let number = self.next_run;
        self.next_run += 1;
        let filter = Filter::sized_for(entries.len());
        let mut run = Run { number, until, fences: Vec::new(), filter, pages_sum: 0, sum: 0 };
        entries.iter().for_each(|(fingerprint, _)| run.filter.add(*fingerprint));
        for (page, entries) in entries.chunks(PAGE_ENTRIES).enumerate() {
            run.fences.push(entries[0].0);
            let (key, value) = (keys::page(self.index, number, page as u32), pack_page(entries));
            run.pages_sum = run.pages_sum.wrapping_add(row_hash(&key, &value));
            derived.rows.push((key, Some(value)));
        }
        let (key, value) = (keys::run(self.index, number), run.to_bytes());
        run.sum = run.pages_sum.wrapping_add(row_hash(&key, &value));
        derived.sum = derived.sum.wrapping_add(run.sum);
        derived.rows.push((key, Some(value)));
        self.sealed.push_back(run);
    }
}

fn pack_page(entries: &[(u64, Place)]) -> Bytes {
    let mut bytes = Vec::with_capacity(1 + entries.len() * ENTRY_BYTES);
    bytes.push(PAGE_FORMAT);
    for (fingerprint, place) in entries {
        bytes.put_u64(*fingerprint);
        bytes.put_u16(place.epoch);
        bytes.put_u64(place.index);
        bytes.put_u32(place.slot);
    }
    bytes.into()
}

/// A page as it lies on disk: entries of one size, in order.
struct Page(Bytes);

impl Page {
    fn open(mut bytes: Bytes) -> Result<Self, StorageError> {
        if bytes.is_empty() || bytes.get_u8() != PAGE_FORMAT || !bytes.len().is_multiple_of(ENTRY_BYTES) {
            return Err(broken("a page of an unknown format"));
        }
        Ok(Page(bytes))
    }

    fn at(&self, number: usize) -> Option<(u64, Place)> {
        let mut bytes = self.0.get(number * ENTRY_BYTES..(number + 1) * ENTRY_BYTES)?;
        let fingerprint = bytes.get_u64();
        let place = Place { epoch: bytes.get_u16(), index: bytes.get_u64(), slot: bytes.get_u32() };
        Some((fingerprint, place))
    }

    /// Entries from the first one on that is not before `least`.
    fn from(&self, least: (u64, Place)) -> impl Iterator<Item = (u64, Place)> {
        let (mut from, mut until) = (0, self.0.len() / ENTRY_BYTES);
        while from < until {
            let middle = from + (until - from) / 2;
            if self.at(middle).is_some_and(|entry| entry < least) {
                from = middle + 1;
            } else {
                until = middle;
            }
        }
        (from..).map_while(|number| self.at(number))
    }
}

impl Run {
    fn page(&self, layers: &Layers<'_>, index: Index, page: usize) -> Result<Page, StorageError> {
        let key = keys::page(index, self.number, page as u32);
        Page::open(layers.get(&key)?.ok_or_else(|| broken("a page is missing"))?)
    }

    /// The pages that may have a fingerprint. Equal ones may go over several: from the last page that
    /// begins before.
    fn pages(&self, fingerprint: u64) -> std::ops::Range<usize> {
        let first = self.fences.partition_point(|fence| *fence < fingerprint).saturating_sub(1);
        first..self.fences.partition_point(|fence| *fence <= fingerprint)
    }

    fn find(
        &self,
        layers: &Layers<'_>,
        index: Index,
        fingerprint: u64,
        places: &mut Vec<Place>,
    ) -> Result<(), StorageError> {
        for page in self.pages(fingerprint) {
            let page = self.page(layers, index, page)?;
            let same = page.from((fingerprint, FIRST)).take_while(|(found, _)| *found == fingerprint);
            places.extend(same.map(|(_, place)| place));
        }
        Ok(())
    }

    fn has(
        &self,
        layers: &Layers<'_>,
        index: Index,
        fingerprint: u64,
        place: Place,
    ) -> Result<bool, StorageError> {
        let wanted = (fingerprint, place);
        let mut pages = self.pages(fingerprint);
        // The last page that does not begin behind it has it, or none.
        while pages.len() > 1 {
            let middle = pages.start + pages.len() / 2;
            if self.page(layers, index, middle)?.at(0).is_some_and(|first| first <= wanted) {
                pages.start = middle;
            } else {
                pages.end = middle;
            }
        }
        match pages.next() {
            Some(page) => Ok(self.page(layers, index, page)?.from(wanted).next() == Some(wanted)),
            None => Ok(false),
        }
    }

    fn to_bytes(&self) -> Bytes {
        let mut bytes = vec![RUN_FORMAT];
        bytes.put_u16(self.until.0);
        bytes.put_u64(self.until.1);
        bytes.put_u128(self.pages_sum);
        for words in [&self.fences, &self.filter.0] {
            bytes.put_u32(words.len() as u32);
            words.iter().for_each(|word| bytes.put_u64(*word));
        }
        bytes.into()
    }

    fn from_row(number: u32, key: &[u8], mut bytes: Bytes) -> Result<Self, StorageError> {
        let own = row_hash(key, &bytes);
        if bytes.len() < 27 || bytes.get_u8() != RUN_FORMAT {
            return Err(broken("a run of an unknown format"));
        }
        let until = (bytes.get_u16(), bytes.get_u64());
        let pages_sum = bytes.get_u128();
        let mut words = || {
            let count = bytes.try_get_u32().map_err(|_| broken("a run ends too soon"))? as usize;
            if bytes.len() / 8 < count {
                return Err(broken("a run ends too soon"));
            }
            Ok((0..count).map(|_| bytes.get_u64()).collect::<Vec<_>>())
        };
        let (fences, filter) = (words()?, Filter(words()?));
        if filter.0.is_empty() || filter.0.len() % FILTER_LINE_WORDS != 0 || bytes.has_remaining() {
            return Err(broken("a run with a filter of a wrong length"));
        }
        Ok(Run { number, until, fences, filter, pages_sum, sum: pages_sum.wrapping_add(own) })
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
                base.write(&mut runs.seal((0, n / 10)).rows.into_iter()).unwrap();
            }
        }
        let reloaded = Runs::default().load(&layers).unwrap();
        assert_eq!(reloaded.sealed_until(Index::OrderName), Some((0, 499)));
        for n in (0..5_500).step_by(7) {
            assert_eq!(runs.find(&layers, Index::OrderName, &format!("order-{n}")).unwrap(), [place(n)]);
        }
        assert_eq!(reloaded.find(&layers, Index::OrderName, "order-4999").unwrap(), [place(4_999)]);
        assert_eq!(runs.find(&layers, Index::OrderName, "order-5500").unwrap(), []);
        for n in 0..5_500 {
            let has = |index, name: &str, n| runs.has(&layers, index, name, place(n)).unwrap();
            assert!(has(Index::OrderName, &format!("order-{n}"), n));
            assert!(!has(Index::OrderName, &format!("order-{n}"), n + 1));
            assert_eq!(has(Index::Customer, "c", n), n % 10 == 0);
        }
        let of_c: Vec<_> = (0..550).rev().map(|n| place(n * 10)).collect();
        assert_eq!(runs.find(&layers, Index::Customer, "c").unwrap(), of_c);
    }

    /// The sum over all derived rows, recomputed.
    fn sum(base: &MemoryBase) -> u128 {
        let rows = base.range(&[], &[255]).map(Result::unwrap);
        rows.fold(0, |sum: u128, (key, value)| sum.wrapping_add(row_hash(&key, &value)))
    }

    #[test]
    fn runs_of_dropped_receipts_go_and_leave_no_row() {
        let (base, none) = (MemoryBase::default(), Layer::default());
        let mut runs = Runs::with_run_entries(100);
        let mut kept = 0u128;
        let mut store = |derived: Derived| {
            kept = kept.wrapping_add(derived.sum);
            base.write(&mut derived.rows.into_iter()).unwrap();
            assert_eq!(sum(&base), kept);
        };
        for n in 0..300u64 {
            runs.list(Index::Receipt, &format!("key-{n}"), Place { epoch: 0, index: n, slot: 0 });
            store(runs.seal((0, n)));
        }
        let layers = Layers { newest: &none, frozen: None, base: &base };
        // As after a start.
        let mut runs = Runs::default().load(&layers).unwrap();
        store(runs.drop_receipts((0, 200)));
        assert_eq!(runs.find(&layers, Index::Receipt, "key-199").unwrap(), []);
        assert_eq!(runs.find(&layers, Index::Receipt, "key-200").unwrap().len(), 1);
        store(runs.drop_receipts((0, 300)));
        assert_eq!(layers.range(&[], &[255]).count(), 0);
    }

    #[test]
    fn an_index_that_few_values_use_is_sealed_too() {
        let (base, none) = (MemoryBase::default(), Layer::default());
        let mut runs = Runs::with_run_entries(10);
        for n in 0..105u64 {
            runs.pass(Index::OrderName, 1);
            if n % 30 == 0 {
                runs.list(Index::OrderName, &format!("order-{n}"), Place { epoch: 0, index: n, slot: 0 });
            }
            base.write(&mut runs.seal((0, n)).rows.into_iter()).unwrap();
        }
        let layers = Layers { newest: &none, frozen: None, base: &base };
        let reloaded = Runs::default().load(&layers).unwrap();
        assert_eq!(reloaded.sealed_until(Index::OrderName), Some((0, 99)));
        assert_eq!(reloaded.sealed_until(Index::Customer), None);
        assert_eq!(reloaded.find(&layers, Index::OrderName, "order-60").unwrap().len(), 1);
        assert_eq!(reloaded.find(&layers, Index::OrderName, "order-100").unwrap(), []);
    }

    #[test]
    fn a_filter_knows_what_was_added_and_hardly_anything_else() {
        let mut filter = Filter::sized_for(100_000);
        (0..100_000u64).for_each(|n| filter.add(fingerprint(&format!("key-{n}"))));
        assert!((0..100_000u64).all(|n| filter.may_have(fingerprint(&format!("key-{n}")))));
        let wrong = (0..100_000u64).filter(|n| filter.may_have(fingerprint(&format!("other-{n}")))).count();
        assert!(wrong < 250, "{wrong} of 100000 others");
    }

    /// Bytes that outlive a process: a change needs a new format byte, not a new expectation.
    #[test]
    fn runs_and_pages_stay_readable() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut runs = Runs::with_run_entries(2);
        for n in 1..=2 {
            runs.list(Index::Receipt, &format!("key-{n}"), Place { epoch: 1, index: 7, slot: n });
        }
        let rows = runs.seal((1, 7)).rows;
        let rows = rows.iter().map(|(key, value)| format!("{} {}", hex(key), hex(value.as_deref().unwrap())));
        let page = "21000000000000000000 \
                    012d29f1336b0229f9000100000000000000070000000159d506bf6d9c95240001000000000000000700000002";
        let run = "200000000000 02000100000000000000073f203e503d2a3a217d88f98f4dcf1655000000012d29f1336b0229f\
                   9000000080000000000008040000000000000000000080000000000000021000000200000000000008000000000002000000\
                   0000000000000800000800210000000000000";
        assert_eq!(rows.collect::<Vec<_>>(), [page, run]);
    }
}
