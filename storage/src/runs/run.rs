//! One sealed run: the entries of its pages, in order, and what of it stays in memory.

use super::broken;
use super::filter::Filter;
use crate::base::RawChange;
use crate::error::StorageError;
use crate::keys;
use crate::memtable::Layers;
use crate::shop::ids::Place;
use crate::shop::state::{Entry, Index};
use crate::tables::row_hash;
use bytes::{Buf, BufMut, Bytes};

/// Entries of one page: what a look-up reads from the base.
const PAGE_ENTRIES: usize = 512;
const RUN_FORMAT: u8 = 2;
const PAGE_FORMAT: u8 = 1;
const FIRST: Place = Place { epoch: 0, index: 0, slot: 0 };
/// Fingerprint, epoch, index, slot.
const ENTRY_BYTES: usize = 8 + 2 + 8 + 4;

/// What stays in memory of a run.
#[derive(Debug)]
pub(super) struct Run {
    pub number: u32,
    /// The entry at whose end it was sealed.
    pub until: Entry,
    /// First fingerprint of each page.
    fences: Vec<u64>,
    pub filter: Filter,
    /// Over the rows of its pages.
    pages_sum: u128,
    /// The same with its own row.
    pub sum: u128,
}

impl Run {
    /// Seals entries, which are in order, into pages and a row of its own.
    pub fn pack(
        index: Index,
        number: u32,
        until: Entry,
        entries: &[(u64, Place)],
        rows: &mut Vec<RawChange>,
    ) -> Self {
        let filter = Filter::sized_for(entries.len());
        let mut run = Run { number, until, fences: Vec::new(), filter, pages_sum: 0, sum: 0 };
        entries.iter().for_each(|(fingerprint, _)| run.filter.add(*fingerprint));
        for (page, entries) in entries.chunks(PAGE_ENTRIES).enumerate() {
            run.fences.push(entries[0].0);
            let (key, value) = (keys::page(index, number, page as u32), pack_page(entries));
            run.pages_sum = run.pages_sum.wrapping_add(row_hash(&key, &value));
            rows.push((key, Some(value)));
        }
        let (key, value) = (keys::run(index, number), run.to_bytes());
        run.sum = run.pages_sum.wrapping_add(row_hash(&key, &value));
        rows.push((key, Some(value)));
        run
    }

    /// The keys of its rows: its own first, then those of its pages.
    pub fn keys(&self, index: Index) -> impl Iterator<Item = Vec<u8>> + use<> {
        let number = self.number;
        let pages = (0..self.fences.len() as u32).map(move |page| keys::page(index, number, page));
        std::iter::once(keys::run(index, number)).chain(pages)
    }

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

    pub fn find(
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

    pub fn has(
        &self,
        layers: &Layers<'_>,
        index: Index,
        fingerprint: u64,
        place: Place,
    ) -> Result<bool, StorageError> {
        let wanted = (fingerprint, place);
        match self.page_of(layers, index, wanted)? {
            Some(page) => Ok(self.page(layers, index, page)?.from(wanted).next() == Some(wanted)),
            None => Ok(false),
        }
    }

    /// The page that has an entry, or none has it: the last one that does not begin behind it.
    fn page_of(
        &self,
        layers: &Layers<'_>,
        index: Index,
        wanted: (u64, Place),
    ) -> Result<Option<usize>, StorageError> {
        let mut pages = self.pages(wanted.0);
        while pages.len() > 1 {
            let middle = pages.start + pages.len() / 2;
            if self.page(layers, index, middle)?.at(0).is_some_and(|first| first <= wanted) {
                pages.start = middle;
            } else {
                pages.end = middle;
            }
        }
        Ok(pages.next())
    }

    /// Adds places from the `least` one on, in order, until there are `enough`.
    pub fn find_from(
        &self,
        layers: &Layers<'_>,
        index: Index,
        least: (u64, Place),
        enough: usize,
        places: &mut Vec<Place>,
    ) -> Result<(), StorageError> {
        let Some(first) = self.page_of(layers, index, least)? else { return Ok(()) };
        for page in first..self.pages(least.0).end {
            let page = self.page(layers, index, page)?;
            let same = page.from(least).take_while(|(found, _)| *found == least.0);
            places.extend(same.map(|(_, place)| place).take(enough - places.len()));
            if places.len() == enough {
                break;
            }
        }
        Ok(())
    }

    fn to_bytes(&self) -> Bytes {
        let mut bytes = vec![RUN_FORMAT];
        bytes.put_u16(self.until.0);
        bytes.put_u64(self.until.1);
        bytes.put_u128(self.pages_sum);
        for words in [&self.fences[..], self.filter.words()] {
            bytes.put_u32(words.len() as u32);
            words.iter().for_each(|word| bytes.put_u64(*word));
        }
        bytes.into()
    }

    pub fn from_row(number: u32, key: &[u8], mut bytes: Bytes) -> Result<Self, StorageError> {
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
        let (fences, filter) = (words()?, Filter::of_words(words()?));
        let Some(filter) = filter.filter(|_| !bytes.has_remaining()) else {
            return Err(broken("a run with a filter of a wrong length"));
        };
        Ok(Run { number, until, fences, filter, pages_sum, sum: pages_sum.wrapping_add(own) })
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
