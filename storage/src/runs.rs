//! Indexes from names to places: time-ordered immutable runs.
//!
//! A random key per order would cost sled more than the order itself. So the names listed since the
//! last run are kept in memory by fingerprint, and sealed together: sorted, packed into pages of one
//! row each, behind a Bloom filter that stays in memory. Runs are derived from the blocks: no part
//! of the state hash, but of a sum of their own, because a name that is not found is used twice.

mod filter;
mod run;

use crate::base::RawChange;
use crate::error::StorageError;
use crate::keys;
use crate::memtable::Layers;
use crate::shop::ids::Place;
use crate::shop::order::Order;
use crate::shop::state::{Entry, Index};
use run::Run;
use std::collections::{HashMap, VecDeque, hash_map};
use std::hash::{BuildHasherDefault, Hasher};
use xxhash_rust::xxh3::xxh3_64;

/// Entries of one run. More means fewer filters to ask per look-up, and a longer pause at sealing
/// (a quarter of a million take about 30 ms).
const RUN_ENTRIES: usize = 200_000;
/// A run is sealed at the end of the entry that fills it, which lists some thousands more. Together they are as many as
/// fit into a table of 2^18 slots: it never grows, which would keep readers waiting for milliseconds.
const OPEN_ENTRIES: usize = (1 << 18) / 8 * 7;
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

/// Rows to store or to remove, and what that adds to the sum over all derived rows.
#[derive(Debug, Default)]
pub(crate) struct Derived {
    pub rows: Vec<RawChange>,
    /// Wraps.
    pub sum: u128,
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
            // Memory that is never listed in is never touched.
            open: HashMap::with_capacity_and_hasher(
                OPEN_ENTRIES.min(run_entries * 2),
                BuildHasherDefault::default(),
            ),
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
            // Where every run was dropped no row has the last number, and the shelf takes no key twice.
            for prefix in [prefix, keys::pages(index)] {
                if let Some(dropped) = keys::run_number(&layers.base.dropped_until(&prefix)) {
                    let index = runs.of(index);
                    index.next_run = index.next_run.max(dropped + 1);
                }
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
            derived.rows.extend(run.keys(Index::Receipt).map(|key| (key, None)));
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

    /// The first places from `from` on that may be listed under a name, oldest first: `enough`, or all there are. Costs no
    /// more than those, however many came before and come after.
    pub fn find_from(
        &self,
        layers: &Layers<'_>,
        index: Index,
        name: &str,
        from: Place,
        enough: usize,
    ) -> Result<Vec<Place>, StorageError> {
        let fingerprint = fingerprint(name);
        let runs = &self.indexes[index as usize];
        let mut places = Vec::new();
        let over = runs.sealed.partition_point(|run| run.until < (from.epoch, from.index));
        for run in runs.sealed.range(over..).filter(|run| run.filter.may_have(fingerprint)) {
            if places.len() == enough {
                return Ok(places);
            }
            run.find_from(layers, index, (fingerprint, from), enough, &mut places)?;
        }
        let first = runs.open.get(&fingerprint).into_iter();
        let open = first.chain(runs.more.get(&fingerprint).into_iter().flatten());
        places.extend(open.filter(|place| **place >= from).take(enough - places.len()));
        Ok(places)
    }

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
        let run = Run::pack(self.index, number, until, &entries, &mut derived.rows);
        derived.sum = derived.sum.wrapping_add(run.sum);
        self.sealed.push_back(run);
    }
}

fn broken(how: &str) -> StorageError {
    StorageError::Format(format!("index: {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Base, MemoryBase, RawRow};
    use crate::memtable::Layer;
    use crate::tables::row_hash;
    use bytes::Bytes;
    use std::sync::atomic::{AtomicUsize, Ordering};

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

    /// Counts the rows that are asked for.
    #[derive(Debug, Default)]
    struct Counting(MemoryBase, AtomicUsize);

    impl Base for Counting {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.get(key)
        }
        fn range<'a>(
            &'a self,
            from: &[u8],
            until: &[u8],
        ) -> Box<dyn Iterator<Item = Result<RawRow, StorageError>> + 'a> {
            self.0.range(from, until)
        }
        fn last(&self, from: &[u8], until: &[u8]) -> Result<Option<RawRow>, StorageError> {
            self.0.last(from, until)
        }
        fn write(&self, changes: &mut dyn Iterator<Item = RawChange>) -> Result<(), StorageError> {
            self.0.write(changes)
        }
        fn fill(&self, rows: &mut dyn Iterator<Item = RawRow>) -> Result<(), StorageError> {
            self.0.fill(rows)
        }
        fn flush(&self) -> Result<(), StorageError> {
            self.0.flush()
        }
    }

    /// A page of a list does not pay for the whole list.
    #[test]
    fn the_first_places_under_a_name_cost_no_more_than_they_are() {
        let (base, none) = (Counting::default(), Layer::default());
        let layers = Layers { newest: &none, frozen: None, base: &base };
        let mut runs = Runs::with_run_entries(10_000);
        let place = |n: u64| Place { epoch: 0, index: n / 10, slot: (n % 10) as u32 };
        for n in 0..64_000u64 {
            // One customer has half of all orders, so that many pages of each run have no other.
            let customer = if n % 2 == 0 { "c".to_owned() } else { format!("c{}", n % 50) };
            runs.list(Index::Customer, &customer, place(n));
            if n % 10 == 9 {
                base.write(&mut runs.seal((0, n / 10)).rows.into_iter()).unwrap();
            }
        }
        for customer in ["c", "c7", "nobody"] {
            let mut all = runs.find(&layers, Index::Customer, customer).unwrap();
            all.reverse();
            for from in (0..64_100).step_by(5_003) {
                for enough in [1, 2, 600, 40_000] {
                    let before = base.1.load(Ordering::Relaxed);
                    let found =
                        runs.find_from(&layers, Index::Customer, customer, place(from), enough).unwrap();
                    let expected = all.iter().filter(|found| **found >= place(from)).take(enough);
                    assert!(found.iter().eq(expected), "{enough} of {customer} from {from}");
                    let read = base.1.load(Ordering::Relaxed) - before;
                    if enough <= 2 && customer == "c" {
                        // To find the page in its run, that page and the next, and once more where a run ends.
                        assert!(read <= 16, "{read} pages for {enough} places from {from}");
                    }
                }
            }
        }
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
