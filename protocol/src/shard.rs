//! Large masked vectors are moved and summed in shards, so that what a member moves does not grow with the federation.
//!
//! ```text
//!   y of a member │ shard 0 │ shard 1 │ … │ shard M−1 │      each named by its Merkle root, listed in the Commit
//!                      │ pulled by the holders of the shard's seats (`seats`), drawn anew each height
//!                      ▼
//!   their sums (`sum`), announced before anything is revealed, pulled by everybody after it
//!                      ▼
//!   checked by everybody against one tag of each vector (`tag`), else summed from the vectors themselves
//! ```
//! Everything here is pure mathematics; the phases stand in `session/`.

pub mod seats;
pub mod sum;
pub mod tag;

use core::ops::Range;

use conclave_crypto::check;
use conclave_crypto::digest::Digest;
use conclave_crypto::merkle;

/// From so many members on, vectors above the inline limit are summed in shards.
pub const MEMBERS_MIN: usize = 8;

/// The most ring elements in a shard: 4 MiB.
pub const ELEMENTS_MAX: usize = 1 << 20;

/// R70. Whether a height of so many members sums vectors of so many bytes in shards.
pub const fn applies(members: usize, bytes: u64, inline_limit: u64) -> bool {
    members >= MEMBERS_MIN && bytes > inline_limit
}

/// How a vector is cut into shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    coordinates: usize,
    shards: usize,
}

impl Cut {
    /// R70. As many shards as sharers, or the least multiple of that which keeps each within [`ELEMENTS_MAX`]; never
    /// more than coordinates. So every sharer gets the same number of seats.
    pub fn new(coordinates: usize, sharers: usize) -> Self {
        let sharers = sharers.max(1);
        let turns = coordinates.div_ceil(sharers.saturating_mul(ELEMENTS_MAX));
        let shards = sharers.saturating_mul(turns).min(coordinates);
        Self {
            coordinates,
            shards,
        }
    }

    /// How many shards.
    pub const fn shards(&self) -> usize {
        self.shards
    }

    /// The coordinates of a shard, `⌊m·d/M⌋ .. ⌊(m+1)·d/M⌋`; none of a shard that is not there.
    pub fn range(&self, shard: usize) -> Range<usize> {
        let bound = |shard: usize| {
            let product = shard.min(self.shards).saturating_mul(self.coordinates);
            product.checked_div(self.shards).unwrap_or(0)
        };
        bound(shard)..bound(shard.saturating_add(1))
    }

    /// Bytes of a shard of a vector.
    pub fn bytes(&self, shard: usize) -> u64 {
        let elements = u64::try_from(self.range(shard).len()).unwrap_or(u64::MAX);
        elements.saturating_mul(4)
    }

    /// Bytes of a shard of a sum.
    pub fn sum_bytes(&self, shard: usize) -> u64 {
        let elements = u64::try_from(self.range(shard).len()).unwrap_or(u64::MAX);
        elements.saturating_mul(check::SUM_BYTES as u64)
    }
}

/// R72. The root of a vector in shards: the Merkle root over the names of its shards.
pub fn root(names: &[Digest]) -> Digest {
    let bytes: Vec<u8> = names.iter().flat_map(|name| name.0).collect();
    merkle::root(&bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn few_members_or_small_vectors_keep_to_whole_vectors() {
        // R70
        assert!(applies(8, 262_145, 262_144));
        assert!(!applies(7, 1 << 30, 262_144));
        assert!(!applies(200, 262_144, 262_144));
    }

    #[test]
    fn a_cut_grows_by_whole_turns() {
        assert_eq!(Cut::new(1_000_000, 10).shards(), 10);
        assert_eq!(Cut::new(8 << 20, 8).shards(), 8);
        assert_eq!(Cut::new((8 << 20) + 1, 8).shards(), 16);
        // 512 MiB among ten: 13 turns of ten shards of nearly 4 MiB.
        assert_eq!(Cut::new(128 << 20, 10).shards(), 130);
        assert_eq!(Cut::new(5, 8).shards(), 5);
    }

    #[test]
    fn a_root_binds_every_name_and_its_place() {
        // R72
        let names = [Digest([1; 32]), Digest([2; 32]), Digest([3; 32])];
        let swapped = [names[1], names[0], names[2]];
        assert_ne!(root(&names), root(&swapped));
        assert_ne!(root(&names), root(&names[..2]));
    }

    proptest! {
        /// R70  Shards follow each other without gap, differ by at most one element, and none is empty or too long.
        #[test]
        fn shards_cover_the_vector(coordinates in 1..40_000_000_usize, sharers in 1..200_usize) {
            let cut = Cut::new(coordinates, sharers);
            let mut next = 0;
            let (mut least, mut most) = (usize::MAX, 0);
            for shard in 0..cut.shards() {
                let range = cut.range(shard);
                prop_assert_eq!(range.start, next);
                next = range.end;
                least = least.min(range.len());
                most = most.max(range.len());
                prop_assert_eq!(cut.bytes(shard), range.len() as u64 * 4);
                prop_assert_eq!(cut.sum_bytes(shard), range.len() as u64 * 5);
            }
            prop_assert_eq!(next, coordinates);
            prop_assert!(least >= 1 && most <= ELEMENTS_MAX && most - least <= 1);
            prop_assert!(cut.range(cut.shards()).is_empty());
        }
    }
}
