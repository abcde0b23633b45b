//! One replica's rows: layers over the base, the indexes, and how far they have come.

use crate::base::Base;
use crate::blocks;
use crate::cache::RowCache;
use crate::codec;
use crate::error::StorageError;
use crate::keys::{self, BlockKind, RowKey};
use crate::memtable::{Layer, Layers, Value};
use crate::runs::{Derived, Runs};
use crate::shop::effect::{Answer, Receipt, Step};
use crate::shop::ids::{Place, TimestampMs};
use crate::shop::order::Order;
use crate::shop::state::{Entry, Head, Index, Key, Row, Rows, Unreadable};
use crate::shop::stock::Movement;
use crate::shop::text::Text;
use crate::shop::version::ClusterVersion;
use crate::type_config::TypeConfig;
use bytes::Bytes;
use openraft::alias::{LogIdOf, StoredMembershipOf};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// What two nodes at one applied index must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fingerprint {
    /// The applied entry.
    pub log_index: u64,
    /// Rolling digest over all changes: same history.
    pub digest: u128,
    /// Order-free sum over all live rows: same state.
    pub state_hash: u128,
}

/// Fingerprints of so many entries are remembered, so that nodes at different indexes can be
/// compared at one they both know.
const REMEMBERED: usize = 10_000;

/// How far a copy of the state has come. Stored with each checkpoint, whole or not at all with the
/// rows it speaks of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Newest applied entry.
    pub log_id: Option<LogIdOf<TypeConfig>>,
    /// Newest applied membership.
    pub membership: StoredMembershipOf<TypeConfig>,
    /// Rolling digest over all changes.
    pub digest: u128,
    /// Order-free sum over all live rows.
    pub state_hash: u128,
    /// The same over derived rows, which may differ between nodes.
    pub derived_hash: u128,
    /// Of the head, for who cannot read it.
    pub cluster_version: u32,
}

impl Progress {
    pub fn log_index(&self) -> u64 {
        self.log_id.as_ref().map_or(0, |log_id| log_id.index)
    }

    pub fn cluster_version(&self) -> ClusterVersion {
        // 0 before the first entry.
        ClusterVersion(self.cluster_version).max(ClusterVersion::FIRST)
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { log_index: self.log_index(), digest: self.digest, state_hash: self.state_hash }
    }
}

/// Hash of one live row, for the order-free sum.
pub(crate) fn row_hash(key: &[u8], value: &[u8]) -> u128 {
    let length = (key.len() as u32).to_le_bytes();
    let size = length.len() + key.len() + value.len();
    // Most rows are small: then one piece is faster than a stream.
    let mut small = [0; 512];
    if size <= small.len() {
        small[..4].copy_from_slice(&length);
        small[4..4 + key.len()].copy_from_slice(key);
        small[4 + key.len()..size].copy_from_slice(value);
        return xxh3_128(&small[..size]);
    }
    let mut hash = Xxh3::new();
    [&length[..], key, value].into_iter().for_each(|part| hash.update(part));
    hash.digest128()
}

/// Whether a row counts in the state hash.
fn is_hashed(key: &[u8]) -> bool {
    key.first().is_some_and(|tag| *tag < keys::DERIVED)
}

/// One replica's rows. Readers hold it locked for reading, for one applied index.
#[derive(Debug)]
pub(crate) struct Tables {
    /// No two tables of this process have the same.
    pub id: u64,
    pub active: Layer,
    pub frozen: Option<Arc<Layer>>,
    pub base: Arc<dyn Base>,
    pub runs: Runs,
    pub progress: Progress,
    /// The head row, decoded.
    pub head: Head,
    recent: VecDeque<Fingerprint>,
}

/// What one entry changes, made ready without holding readers up.
pub(crate) struct Prepared {
    log_id: LogIdOf<TypeConfig>,
    pub changes: Vec<(RowKey, Value)>,
    listed: Vec<(Index, Text, Place)>,
    digest: u128,
    state_hash: u128,
    head: Head,
    placed: usize,
    receipts: usize,
    answers: Vec<Answer>,
}

/// Carries digest and state hash on over the changes of one entry.
struct Summing {
    changes: Vec<(RowKey, Value)>,
    state_hash: u128,
    digest: Xxh3,
}

impl Summing {
    fn new(tables: &Tables, log_index: u64, rows: usize) -> Self {
        let mut digest = Xxh3::new();
        digest.update(&tables.progress.digest.to_le_bytes());
        digest.update(&log_index.to_le_bytes());
        Summing { changes: Vec::with_capacity(rows), state_hash: tables.progress.state_hash, digest }
    }

    /// Adds a change of a row whose part in the state hash `was` this and is `hash` now.
    fn change(&mut self, was: u128, hash: u128, key: RowKey, value: Value) {
        match &value {
            Value::Short { .. } | Value::Long(_) => self.digest.update(&hash.to_le_bytes()),
            Value::Removed => {
                self.digest.update(b"removed");
                self.digest.update(&key);
            }
        }
        self.state_hash = self.state_hash.wrapping_sub(was).wrapping_add(hash);
        self.changes.push((key, value));
    }
}

impl Prepared {
    /// In force behind the entry.
    pub fn cluster_version(&self) -> ClusterVersion {
        self.head.cluster_version
    }
}

impl Tables {
    /// Over a base that is complete, or empty.
    pub fn open(base: Arc<dyn Base>) -> Result<Self, StorageError> {
        Self::open_with(base, Runs::default())
    }

    fn open_with(base: Arc<dyn Base>, runs: Runs) -> Result<Self, StorageError> {
        let none = Layer::default();
        let layers = Layers { newest: &none, frozen: None, base: &*base };
        let progress = match layers.get(keys::PROGRESS)? {
            Some(bytes) => codec::decode_serde::<_, { codec::VALUE_LIMIT }>("progress", &bytes)?,
            None => Progress::default(),
        };
        let mut runs = runs.load(&layers)?;
        list_unsealed(&layers, &mut runs)?;
        let head = match layers.get(&keys::encode(&Key::Head))? {
            Some(bytes) => match codec::decode("head", &bytes)? {
                Row::Head(head) => head,
                _ => return Err(StorageError::Format("the head row is of another kind".to_owned())),
            },
            None => Head::default(),
        };
        let recent = VecDeque::from([progress.fingerprint()]);
        static TABLES: AtomicU64 = AtomicU64::new(1);
        let id = TABLES.fetch_add(1, Ordering::Relaxed);
        Ok(Tables { id, active: Layer::default(), frozen: None, base, runs, progress, head, recent })
    }

    pub fn layers(&self) -> Layers<'_> {
        Layers { newest: &self.active, frozen: self.frozen.as_ref(), base: &*self.base }
    }

    /// Memory that is not in the base yet.
    pub fn memtable_bytes(&self) -> usize {
        self.active.bytes() + self.frozen.as_ref().map_or(0, |frozen| frozen.bytes())
    }

    pub fn fingerprint_at(&self, log_index: u64) -> Option<Fingerprint> {
        let at = self.recent.binary_search_by_key(&log_index, |f| f.log_index).ok()?;
        self.recent.get(at).copied()
    }

    pub fn recent_fingerprints(&self, limit: usize) -> Vec<Fingerprint> {
        self.recent.iter().rev().take(limit).copied().collect()
    }

    /// Encodes and sums up what an entry did.
    pub fn prepare(
        &self,
        log_id: LogIdOf<TypeConfig>,
        step: Step,
        cache: &mut RowCache,
    ) -> Result<Prepared, StorageError> {
        let blocks = 3 + step.dropped_receipts.len();
        let mut sum = Summing::new(self, log_id.index, step.rows.len() + blocks);
        let mut head = self.head.clone();
        let mut buffer = Vec::with_capacity(512);
        for (key, row) in step.rows {
            let raw = keys::encode(&key);
            let value = row.as_ref().map_or(Value::Removed, |row| {
                buffer.clear();
                codec::encode_onto(row, &mut buffer);
                Value::of(&buffer)
            });
            let hash = value.as_slice().map_or(0, |value| row_hash(&raw, value));
            if let Some(Row::Head(new)) = &row {
                head = new.clone();
            }
            let was = match cache.change(&key, row.map(|row| (row, hash))) {
                Some(was) => was,
                None => self.hash_of(&raw)?,
            };
            sum.change(was, hash, raw, value);
        }
        let entry = (head.epoch, log_id.index);
        // Blocks of this entry replace nothing.
        let mut add = |kind, block: Vec<u8>| {
            let key = keys::block(kind, entry);
            sum.change(0, row_hash(&key, &block), key[..].into(), Some(Bytes::from(block)).into());
        };
        if !step.placed.is_empty() {
            add(BlockKind::Placed, blocks::pack(&step.placed));
        }
        if !step.movements.is_empty() {
            add(BlockKind::Movements, blocks::pack(&step.movements));
        }
        if !step.receipts.is_empty() {
            add(BlockKind::Receipts, blocks::pack(&step.receipts));
        }
        for entry in step.dropped_receipts {
            let key = keys::block(BlockKind::Receipts, entry);
            sum.change(self.hash_of(&key)?, 0, key[..].into(), Value::Removed);
        }
        let Summing { changes, state_hash, digest } = sum;
        let (placed, receipts) = (step.placed.len(), step.receipts.len());
        let Step { listed, answers, .. } = step;
        let digest = digest.digest128();
        Ok(Prepared { log_id, changes, listed, digest, state_hash, head, placed, receipts, answers })
    }

    /// The part of a row in the state hash; 0 where there is none.
    fn hash_of(&self, key: &[u8]) -> Result<u128, StorageError> {
        Ok(self.layers().get(key)?.map_or(0, |value| row_hash(key, &value)))
    }

    /// Makes an entry's changes visible, all at once.
    pub fn absorb(&mut self, prepared: Prepared) -> Vec<Answer> {
        for (key, value) in prepared.changes {
            self.active.put(key, value);
        }
        for (index, name, place) in prepared.listed {
            self.runs.list(index, name.as_str(), place);
        }
        self.runs.pass(Index::Receipt, prepared.receipts);
        self.runs.pass(Index::OrderName, prepared.placed);
        self.runs.pass(Index::Customer, prepared.placed);
        let sealed = self.runs.seal((prepared.head.epoch, prepared.log_id.index));
        self.absorb_derived(sealed);
        if prepared.head.receipts_from != self.head.receipts_from {
            let dropped = self.runs.drop_receipts(prepared.head.receipts_from);
            self.absorb_derived(dropped);
        }
        self.progress.cluster_version = prepared.head.cluster_version.0;
        self.head = prepared.head;
        self.progress.digest = prepared.digest;
        self.progress.state_hash = prepared.state_hash;
        self.advance(prepared.log_id);
        prepared.answers
    }

    fn absorb_derived(&mut self, derived: Derived) {
        derived.rows.into_iter().for_each(|(key, value)| self.active.put(key.into(), value.into()));
        self.progress.derived_hash = self.progress.derived_hash.wrapping_add(derived.sum);
    }

    /// Moves on over an entry that changes no row.
    pub fn advance(&mut self, log_id: LogIdOf<TypeConfig>) {
        self.progress.log_id = Some(log_id);
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(self.progress.fingerprint());
    }

    fn row_of_block<T: codec::Decodable>(
        &self,
        kind: BlockKind,
        place: Place,
    ) -> Result<Option<T>, StorageError> {
        match self.layers().get(&keys::block(kind, (place.epoch, place.index)))? {
            Some(block) => blocks::slot(&block, place.slot),
            None => Ok(None),
        }
    }

    /// Whether a place is listed under a name.
    pub fn lists(&self, index: Index, name: &str, place: Place) -> Result<bool, StorageError> {
        self.runs.has(&self.layers(), index, name, place)
    }

    /// The first places from `from` on that may be listed under a name, oldest first, and no more than `enough`.
    pub fn find_from(
        &self,
        index: Index,
        name: &str,
        from: Place,
        enough: usize,
    ) -> Result<Vec<Place>, StorageError> {
        self.runs.find_from(&self.layers(), index, name, from, enough)
    }

    /// One movement.
    pub fn movement(&self, place: Place) -> Result<Option<Movement>, StorageError> {
        self.row_of_block(BlockKind::Movements, place)
    }
}

/// Lists again what was placed and kept since the newest runs were sealed.
fn list_unsealed(layers: &Layers<'_>, runs: &mut Runs) -> Result<(), StorageError> {
    let blocks_after = |kind: BlockKind, entry: Option<Entry>| {
        let from = entry.map_or((0, 0), |(epoch, index)| (epoch, index + 1));
        layers.range(&keys::block(kind, from), &keys::after_prefix(&[kind as u8]))
    };
    for row in blocks_after(BlockKind::Receipts, runs.sealed_until(Index::Receipt)) {
        let receipts = blocks::unpack::<Receipt>(&row?.1)?;
        runs.pass(Index::Receipt, receipts.len());
        for receipt in receipts {
            runs.list(Index::Receipt, receipt.key.as_str(), receipt.place);
        }
    }
    let until = [Index::OrderName, Index::Customer].map(|index| runs.sealed_until(index));
    for row in blocks_after(BlockKind::Placed, until[0].min(until[1])) {
        let (key, block) = row?;
        let entry = keys::block_entry(&key);
        let orders = blocks::unpack::<Order>(&block)?;
        let names = |order: &Order| order.name.as_ref().map(|name| name.as_str().to_owned());
        let customers = |order: &Order| order.customer_id.as_ref().map(|id| id.as_str().to_owned());
        if entry > until[0] {
            runs.list_again(Index::OrderName, &orders, names);
        }
        if entry > until[1] {
            runs.list_again(Index::Customer, &orders, customers);
        }
    }
    Ok(())
}

pub(crate) fn unreadable(error: StorageError) -> Unreadable {
    Unreadable(error.to_string())
}

impl Rows for Tables {
    fn get(&self, key: &Key) -> Result<Option<Row>, Unreadable> {
        if *key == Key::Head {
            return Ok(Some(Row::Head(self.head.clone())));
        }
        match self.layers().get(&keys::encode(key)).map_err(unreadable)? {
            Some(bytes) => codec::decode("row", &bytes).map(Some).map_err(unreadable),
            None => Ok(None),
        }
    }

    fn keys(&self, from: &Key, until: &Key, limit: usize) -> Result<Vec<Key>, Unreadable> {
        let rows = self.layers().range(&keys::encode(from), &keys::encode(until));
        rows.take(limit)
            .map(|row| {
                let (key, _) = row.map_err(unreadable)?;
                keys::decode(&key).ok_or_else(|| Unreadable(format!("not a key: {key:?}")))
            })
            .collect()
    }

    fn placed(&self, place: Place) -> Result<Option<Order>, Unreadable> {
        self.row_of_block(BlockKind::Placed, place).map_err(unreadable)
    }

    fn receipt(&self, place: Place) -> Result<Option<Receipt>, Unreadable> {
        self.row_of_block(BlockKind::Receipts, place).map_err(unreadable)
    }

    fn receipt_entries(&self, from: Entry, limit: usize) -> Result<Vec<(Entry, TimestampMs)>, Unreadable> {
        let kind = BlockKind::Receipts;
        let rows = self.layers().range(&keys::block(kind, from), &keys::after_prefix(&[kind as u8]));
        rows.take(limit)
            .map(|row| {
                let (key, block) = row.map_err(unreadable)?;
                let first: Option<Receipt> = blocks::slot(&block, 0).map_err(unreadable)?;
                match (keys::block_entry(&key), first) {
                    (Some(entry), Some(receipt)) => Ok((entry, receipt.at)),
                    _ => Err(Unreadable(format!("not a block of receipts: {key:?}"))),
                }
            })
            .collect()
    }

    fn find(&self, index: Index, name: &str) -> Result<Vec<Place>, Unreadable> {
        self.runs.find(&self.layers(), index, name).map_err(unreadable)
    }
}

/// Rows of a copy that nothing changes any more, while applies go on elsewhere.
pub(crate) struct Frozen {
    pub layer: Arc<Layer>,
    pub base: Arc<dyn Base>,
    pub progress: Progress,
    pub head: Head,
}

impl Frozen {
    pub fn layers<'a>(&'a self, none: &'a Layer) -> Layers<'a> {
        Layers { newest: none, frozen: Some(&self.layer), base: &*self.base }
    }
}

/// Sums over rows that were read one by one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    live: u128,
    derived: u128,
}

impl Sums {
    /// Adds a row.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        let sum = if is_hashed(key) { &mut self.live } else { &mut self.derived };
        *sum = sum.wrapping_add(row_hash(key, value));
    }

    /// Adds what many rows whose keys begin with `prefix` add up to.
    pub fn add_sum(&mut self, prefix: &[u8], sum: u128) {
        let total = if is_hashed(prefix) { &mut self.live } else { &mut self.derived };
        *total = total.wrapping_add(sum);
    }

    /// Makes `progress` speak of these rows.
    pub fn give(&self, progress: &mut Progress) {
        (progress.state_hash, progress.derived_hash) = (self.live, self.derived);
    }

    /// Whether these were the rows that `progress` speaks of.
    pub fn are_those_of(&self, progress: &Progress) -> bool {
        (self.live, self.derived) == (progress.state_hash, progress.derived_hash)
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
