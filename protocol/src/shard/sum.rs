//! Sums of masked shards as integers, not in the ring: the check tags are linear over the integers only.
//!
//! At most 200 vectors of elements below 2^32 sum to less than 2^40: five bytes, little-endian.

use conclave_crypto::check;

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
        let fits = shard.len() == self.0.len().saturating_mul(4);
        if fits {
            check::add_ring(&mut self.0, shard);
        }
        fits
    }

    /// R74. The encoding that travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        check::encode_sum(&self.0)
    }
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
        assert_eq!(bytes.len(), 2 * check::SUM_BYTES);
        assert_eq!(bytes[..5], (u64::from(u32::MAX) * 200).to_le_bytes()[..5]);
        assert_eq!(bytes[5..], 200_u64.to_le_bytes()[..5]);
        let mut ring = [0; 2];
        check::ring_of_sum(&bytes, &mut ring);
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
