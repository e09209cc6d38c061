//! Sums of masked shards as integers, not in the ring: the check tags are linear over the integers only.
//!
//! At most 200 vectors of elements below 2^32 sum to less than 2^40: five bytes, little-endian.

/// Bytes of an element of a sum.
pub const ELEMENT_BYTES: usize = 5;

/// A sum that grows by one vector's shard at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally(Vec<u64>);

impl Tally {
    /// Of so many elements, all zero.
    pub fn new(elements: usize) -> Self {
        Self(vec![0; elements])
    }

    /// R74. Adds a shard, ring elements u32 little-endian; false, and nothing added, if its length is another.
    pub fn add(&mut self, shard: &[u8]) -> bool {
        let (words, rest) = shard.as_chunks::<4>();
        if words.len() != self.0.len() || !rest.is_empty() {
            return false;
        }
        for (total, word) in self.0.iter_mut().zip(words) {
            *total = total.saturating_add(u32::from_le_bytes(*word).into());
        }
        true
    }

    /// R74. The encoding that travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = |value: &u64| {
            let bytes = value.to_le_bytes();
            bytes.first_chunk::<ELEMENT_BYTES>().copied()
        };
        self.0.iter().filter_map(bytes).flatten().collect()
    }
}

/// The elements of an encoded sum; a tail that is no element is left out.
pub fn elements(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let (elements, _) = bytes.as_chunks::<ELEMENT_BYTES>();
    elements
        .iter()
        .map(|[a, b, c, d, e]| u64::from_le_bytes([*a, *b, *c, *d, *e, 0, 0, 0]))
}

/// The same in the ring Z_2^32: what the masks come off.
pub fn ring_elements(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let (elements, _) = bytes.as_chunks::<ELEMENT_BYTES>();
    elements
        .iter()
        .map(|[a, b, c, d, _]| u32::from_le_bytes([*a, *b, *c, *d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_of_the_largest_fit() {
        // R74
        let mut tally = Tally::new(2);
        let shard = [u32::MAX.to_le_bytes(), 1_u32.to_le_bytes()].concat();
        for _ in 0..200 {
            assert!(tally.add(&shard));
        }
        let bytes = tally.to_bytes();
        assert_eq!(bytes.len(), 2 * ELEMENT_BYTES);
        let sums: Vec<u64> = elements(&bytes).collect();
        assert_eq!(sums, [u64::from(u32::MAX) * 200, 200]);
        let ring: Vec<u32> = ring_elements(&bytes).collect();
        assert_eq!(ring, [u32::MAX.wrapping_mul(200), 200]);
    }

    #[test]
    fn a_shard_of_another_length_is_not_added() {
        let mut tally = Tally::new(2);
        for length in [0, 4, 7, 9, 12] {
            assert!(!tally.add(&vec![1; length]));
        }
        assert_eq!(tally, Tally::new(2));
    }
}
