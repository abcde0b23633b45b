//! What a run answers from memory: whether it may have a name. A Bloom filter over fingerprints.

/// Bits of filter per entry, of which a look-up reads so many, all in one cache line: what is asked for is in
/// none of the runs, mostly, so this is what a million more orders cost. One false page read in about 700.
const BITS: usize = 16;
const HASHES: u32 = 6;
const LINE_WORDS: usize = 8;

/// Bloom filter over fingerprints, which are hashes already, in lines of a cache line each.
#[derive(Debug)]
pub(super) struct Filter(Vec<u64>);

impl Filter {
    pub fn sized_for(entries: usize) -> Self {
        let lines = (entries * BITS).div_ceil(LINE_WORDS * 64).max(1);
        Filter(vec![0; lines * LINE_WORDS])
    }

    /// The line of a fingerprint, by its upper bits, and its bits there.
    fn bits(&self, fingerprint: u64) -> (usize, impl Iterator<Item = (usize, u64)> + use<>) {
        let lines = self.0.len() / LINE_WORDS;
        let line = (u128::from(fingerprint) * lines as u128) >> 64;
        let mixed = fingerprint.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bits = (0..HASHES).map(move |n| {
            let bit = (mixed >> (n * 9)) % (LINE_WORDS as u64 * 64);
            ((bit / 64) as usize, 1 << (bit % 64))
        });
        (line as usize * LINE_WORDS, bits)
    }

    pub fn add(&mut self, fingerprint: u64) {
        let (line, bits) = self.bits(fingerprint);
        for (word, bit) in bits {
            self.0[line + word] |= bit;
        }
    }

    pub fn may_have(&self, fingerprint: u64) -> bool {
        let (line, mut bits) = self.bits(fingerprint);
        bits.all(|(word, bit)| self.0[line + word] & bit != 0)
    }

    /// Its bits, as they are stored.
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    /// Of what was stored; `None` where that is no filter.
    pub fn of_words(words: Vec<u64>) -> Option<Self> {
        (!words.is_empty() && words.len().is_multiple_of(LINE_WORDS)).then_some(Filter(words))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fingerprint;
    use super::*;

    #[test]
    fn a_filter_knows_what_was_added_and_hardly_anything_else() {
        let mut filter = Filter::sized_for(100_000);
        (0..100_000u64).for_each(|n| filter.add(fingerprint(&format!("key-{n}"))));
        assert!((0..100_000u64).all(|n| filter.may_have(fingerprint(&format!("key-{n}")))));
        let wrong = (0..100_000u64).filter(|n| filter.may_have(fingerprint(&format!("other-{n}")))).count();
        assert!(wrong < 250, "{wrong} of 100000 others");
    }
}
