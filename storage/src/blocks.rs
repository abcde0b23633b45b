//! Many values of one entry packed into one row: format byte, count, where each ends, then the
//! values. One slot is found without reading the others.

use crate::codec;
use crate::error::StorageError;

const FORMAT: u8 = 1;
const HEAD: usize = 5;

/// Packs values.
pub(crate) fn pack<T: codec::Encodable>(values: &[T]) -> Vec<u8> {
    let body = HEAD + 4 * values.len();
    let mut block = Vec::with_capacity(body + values.len() * 112);
    block.push(FORMAT);
    block.extend(u32::try_from(values.len()).expect("an entry is at most a mebibyte").to_le_bytes());
    block.resize(body, 0);
    for (slot, value) in values.iter().enumerate() {
        codec::encode_onto(value, &mut block);
        let end = u32::try_from(block.len() - body).expect("a block is below four gibibytes");
        block[HEAD + 4 * slot..][..4].copy_from_slice(&end.to_le_bytes());
    }
    block
}

/// How many values a block has.
pub(crate) fn count(block: &[u8]) -> Result<u32, StorageError> {
    match block.get(..HEAD) {
        Some([FORMAT, count @ ..]) => {
            Ok(u32::from_le_bytes(count.try_into().map_err(|_| broken("no count"))?))
        }
        _ => Err(broken("no head")),
    }
}

/// One value; `None` beyond the last.
pub(crate) fn slot<T: codec::Decodable>(block: &[u8], slot: u32) -> Result<Option<T>, StorageError> {
    let count = count(block)?;
    if slot >= count {
        return Ok(None);
    }
    let end_of = |slot: u32| -> Result<usize, StorageError> {
        let at = HEAD + 4 * slot as usize;
        let bytes = block.get(at..at + 4).ok_or_else(|| broken("ends in its table"))?;
        Ok(u32::from_le_bytes(bytes.try_into().map_err(|_| broken("ends in its table"))?) as usize)
    };
    let body = HEAD + 4 * count as usize;
    let start = if slot == 0 { 0 } else { end_of(slot - 1)? };
    let value =
        block.get(body + start..body + end_of(slot)?).ok_or_else(|| broken("ends before its values"))?;
    codec::decode("value of a block", value).map(Some)
}

/// All values, in order.
pub(crate) fn unpack<T: codec::Decodable>(block: &[u8]) -> Result<Vec<T>, StorageError> {
    (0..count(block)?)
        .map(|n| slot(block, n)?.ok_or_else(|| broken("has fewer values than it counts")))
        .collect()
}

fn broken(how: &str) -> StorageError {
    StorageError::Format(format!("block: {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_comes_back_and_none_beyond() {
        let words: Vec<String> = ["", "a", "bcd", "é"].map(str::to_owned).into();
        let block = pack(&words);
        assert_eq!(unpack::<String>(&block).unwrap(), words);
        assert_eq!(slot::<String>(&block, 2).unwrap().as_deref(), Some("bcd"));
        assert_eq!(slot::<String>(&block, 4).unwrap(), None);
        for end in 0..block.len() {
            assert!(unpack::<String>(&block[..end]).is_err(), "cut at {end}");
        }
    }
}
