//! Layout of keys: big-endian, so that the order on disk is the order of [`Key`]s.
//!
//! | first byte | rest | value |
//! |---|---|---|
//! | 1 | | head |
//! | 2 | sku | item |
//! | 3 | place | sku of the item made here |
//! | 4 | sku 0 location | stock |
//! | 5 | id | reservation |
//! | 6 | place | id of the reservation made here |
//! | 7 | place | order as changed since placed |
//! | 8 | time subject | due |
//! | 9 | sku 0 location 0 time subject | due, by stock |
//! | 16, 17, 18 | epoch index | blocks: placed orders, movements, receipts |
//! | 32 | index, run | run of an index: what it spans, its filter |
//! | 33 | index, run, page | one page of it |
//! | 240 | | how far this copy has come |
//! | 241 | | which files of the shelf count, and how far |
//!
//! A place is epoch (2 bytes), log index (8), slot (4). Names are visible ASCII, so that a zero ends
//! them and still sorts first. Rows from 32 on are derived from the others or local to a node, and no
//! part of the state hash.

use crate::shop::ids::{Location, OrderId, Place, ReservationId, Sku, TimestampMs};
use crate::shop::state::{Entry, Index, Key, Subject};
use smallvec::SmallVec;

/// First byte of keys of derived and local rows: they and all above are not hashed.
pub(crate) const DERIVED: u8 = 32;
const RUN: u8 = 32;
const PAGE: u8 = 33;
/// Key of the row that says how far a copy of the state has come.
pub(crate) const PROGRESS: &[u8] = &[240];
/// Key of the row that says which files of the shelf count.
pub(crate) const SHELF: &[u8] = &[241];

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockKind {
    Placed = 16,
    Movements = 17,
    Receipts = 18,
}

fn place(bytes: &mut RowKey, place: Place) {
    bytes.extend_from_slice(&place.epoch.to_be_bytes());
    bytes.extend_from_slice(&place.index.to_be_bytes());
    bytes.extend_from_slice(&place.slot.to_be_bytes());
}

fn subject(bytes: &mut RowKey, subject: &Subject) {
    match subject {
        Subject::Reservation(id) => {
            bytes.push(0);
            bytes.extend_from_slice(id.as_str().as_bytes());
        }
        Subject::Order(id) => {
            bytes.push(1);
            place(bytes, id.0);
        }
    }
}

/// A row's key. Those that change most, of stocks and blocks, lie in place.
pub(crate) type RowKey = SmallVec<[u8; 24]>;

/// A key as bytes.
pub(crate) fn encode(key: &Key) -> RowKey {
    let mut bytes = RowKey::new();
    match key {
        Key::Head => bytes.push(1),
        Key::Item(sku) => {
            bytes.push(2);
            bytes.extend_from_slice(sku.as_str().as_bytes());
        }
        Key::ItemMade(made) => {
            bytes.push(3);
            place(&mut bytes, *made);
        }
        Key::Stock(sku, location) => return stock(sku, location),
        Key::Reservation(id) => {
            bytes.push(5);
            bytes.extend_from_slice(id.as_str().as_bytes());
        }
        Key::ReservationMade(made) => {
            bytes.push(6);
            place(&mut bytes, *made);
        }
        Key::Order(id) => {
            bytes.push(7);
            place(&mut bytes, id.0);
        }
        Key::Due(at, what) => {
            bytes.push(8);
            bytes.extend_from_slice(&at.0.to_be_bytes());
            subject(&mut bytes, what);
        }
        Key::Hold(sku, location, at, what) => {
            stock_prefix(&mut bytes, 9, sku);
            bytes.extend_from_slice(location.as_str().as_bytes());
            bytes.push(0);
            bytes.extend_from_slice(&at.0.to_be_bytes());
            subject(&mut bytes, what);
        }
    }
    bytes
}

fn stock_prefix(bytes: &mut RowKey, tag: u8, sku: &Sku) {
    bytes.push(tag);
    bytes.extend_from_slice(sku.as_str().as_bytes());
    bytes.push(0);
}

/// Key of a stock.
pub(crate) fn stock(sku: &Sku, location: &Location) -> RowKey {
    let mut bytes = stock_of(sku);
    bytes.extend_from_slice(location.as_str().as_bytes());
    bytes
}

/// What all stock rows of a SKU begin with.
pub(crate) fn stock_of(sku: &Sku) -> RowKey {
    let mut bytes = RowKey::new();
    stock_prefix(&mut bytes, 4, sku);
    bytes
}

/// The first bytes after all that begin with `prefix`.
pub(crate) fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX]
}

/// A key from bytes; `None` for blocks, derived and local rows, and what never was a key.
pub(crate) fn decode(bytes: &[u8]) -> Option<Key> {
    let (tag, rest) = bytes.split_first()?;
    Some(match tag {
        1 if rest.is_empty() => Key::Head,
        2 => Key::Item(Sku::new(text(rest)?).ok()?),
        3 => Key::ItemMade(read_place(rest)?),
        4 => {
            let (sku, location) = split_at_zero(rest)?;
            Key::Stock(Sku::new(text(sku)?).ok()?, Location::new(text(location)?).ok()?)
        }
        5 => Key::Reservation(ReservationId::new(text(rest)?).ok()?),
        6 => Key::ReservationMade(read_place(rest)?),
        7 => Key::Order(OrderId(read_place(rest)?)),
        8 => {
            let (at, what) = read_due(rest)?;
            Key::Due(at, what)
        }
        9 => {
            let (sku, rest) = split_at_zero(rest)?;
            let (location, rest) = split_at_zero(rest)?;
            let (at, what) = read_due(rest)?;
            Key::Hold(Sku::new(text(sku)?).ok()?, Location::new(text(location)?).ok()?, at, what)
        }
        _ => return None,
    })
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn split_at_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let zero = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..zero], &bytes[zero + 1..]))
}

fn read_place(bytes: &[u8]) -> Option<Place> {
    let bytes: &[u8; 14] = bytes.try_into().ok()?;
    let (epoch, rest) = bytes.split_first_chunk::<2>()?;
    let (index, slot) = rest.split_first_chunk::<8>()?;
    Some(Place {
        epoch: u16::from_be_bytes(*epoch),
        index: u64::from_be_bytes(*index),
        slot: u32::from_be_bytes(slot.try_into().ok()?),
    })
}

fn read_due(bytes: &[u8]) -> Option<(TimestampMs, Subject)> {
    let (at, rest) = bytes.split_first_chunk::<8>()?;
    let subject = match rest.split_first()? {
        (0, id) => Subject::Reservation(ReservationId::new(text(id)?).ok()?),
        (1, place) => Subject::Order(OrderId(read_place(place)?)),
        _ => return None,
    };
    Some((TimestampMs(u64::from_be_bytes(*at)), subject))
}

/// Key of an entry's block.
pub(crate) fn block(kind: BlockKind, entry: Entry) -> [u8; 11] {
    let mut bytes = [0; 11];
    bytes[0] = kind as u8;
    bytes[1..3].copy_from_slice(&entry.0.to_be_bytes());
    bytes[3..].copy_from_slice(&entry.1.to_be_bytes());
    bytes
}

/// Which entry's block a key names.
pub(crate) fn block_entry(key: &[u8]) -> Option<Entry> {
    let key: &[u8; 11] = key.try_into().ok()?;
    let (epoch, index) = key[1..].split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*epoch), u64::from_be_bytes(index.try_into().ok()?)))
}

fn index_tag(index: Index) -> u8 {
    match index {
        Index::Receipt => 0,
        Index::OrderName => 1,
        Index::Customer => 2,
    }
}

/// Key of a run.
pub(crate) fn run(index: Index, number: u32) -> Vec<u8> {
    let mut key = vec![RUN, index_tag(index)];
    key.extend(number.to_be_bytes());
    key
}

/// What the keys of all runs of an index begin with.
pub(crate) fn runs(index: Index) -> Vec<u8> {
    vec![RUN, index_tag(index)]
}

/// What the keys of all pages of an index begin with.
pub(crate) fn pages(index: Index) -> Vec<u8> {
    vec![PAGE, index_tag(index)]
}

/// Number of the run that a key names, its own or that of one of its pages.
pub(crate) fn run_number(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(key.get(2..6)?.try_into().ok()?))
}

/// Key of one page of a run.
pub(crate) fn page(index: Index, number: u32, page: u32) -> Vec<u8> {
    let mut key = vec![PAGE, index_tag(index)];
    key.extend(number.to_be_bytes());
    key.extend(page.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_sort_on_disk_as_in_memory() {
        let sku = |s: &str| Sku::new(s).unwrap();
        let at = |s: &str| Location::new(s).unwrap();
        let place = |index, slot| Place { epoch: 1, index, slot };
        let hold = |id: &str| Subject::Reservation(ReservationId::new(id).unwrap());
        let order = Subject::Order(OrderId(place(3, 300)));
        let mut keys = vec![
            Key::Head,
            Key::Item(sku("a")),
            Key::Item(sku("ab")),
            Key::Item(sku("b")),
            Key::ItemMade(place(255, 1)),
            Key::ItemMade(place(256, 0)),
            Key::Stock(sku("a"), at("main")),
            Key::Stock(sku("a"), at("z")),
            Key::Stock(sku("a!"), at("main")),
            Key::Stock(sku("ab"), at("annex")),
            Key::Reservation(ReservationId::new("r").unwrap()),
            Key::ReservationMade(place(1, 1)),
            Key::Order(OrderId(place(1, 1))),
            Key::Due(TimestampMs(9), hold("x")),
            Key::Due(TimestampMs(9), order.clone()),
            Key::Due(TimestampMs(300), hold("a")),
            Key::Hold(sku("a"), at("main"), TimestampMs(9), hold("x")),
            Key::Hold(sku("a"), at("main"), TimestampMs(256), order.clone()),
            Key::Hold(sku("a"), at("main2"), TimestampMs(1), order),
        ];
        for key in &keys {
            assert_eq!(decode(&encode(key)).as_ref(), Some(key));
        }
        let mut bytes: Vec<_> = keys.iter().map(encode).collect();
        keys.sort();
        bytes.sort();
        assert_eq!(bytes, keys.iter().map(encode).collect::<Vec<_>>());
    }

    #[test]
    fn a_prefix_ends_where_the_next_begins() {
        assert_eq!(after_prefix(&[4, 97, 0]), [4, 97, 1]);
        assert_eq!(after_prefix(&[4, 255]), [5]);
    }
}
