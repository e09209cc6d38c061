//! Check tags: whether a sum is the sum of the vectors behind it, for eight bytes a vector and shard.
//!
//! `r_m` is a vector over F_p, p = 2^61 − 1, that nobody could know when the sums were announced. Tags are linear:
//! `Σ_i ⟨r_m, y_i⟩ = ⟨r_m, Σ_i y_i⟩`, and for another sum the two sides agree with a chance of at most 2^−59 (Carter
//! and Wegman 1979; Freivalds 1977). The arithmetic stands in [`conclave_crypto::check`].

pub use conclave_crypto::check::{PRIME, add};
use conclave_crypto::check::{SUM_BYTES, Weights};
use conclave_crypto::dealing::Secret;
use conclave_crypto::digest::Digest;

use crate::names::{MemberId, SessId};

/// R76. What the checks of a session are drawn from; known to nobody before the secrets are revealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge(pub Digest);

impl Challenge {
    /// R76. `SHA-256("conclave/v1/challenge" ‖ sess ‖ record ‖ (dealer u32 ‖ 0 or 1 ‖ secret)…)`: 0 with a self seed, 1
    /// with a pair key, the secrets ascending by dealer. The record and its recorded dealings fix them all.
    pub fn new<'a>(
        sess: &SessId,
        record: &Digest,
        opened: impl Iterator<Item = (MemberId, Secret, &'a [u8; 32])>,
    ) -> Self {
        let mut secrets = Vec::new();
        for (dealer, which, secret) in opened {
            secrets.extend_from_slice(&dealer.0.to_le_bytes());
            secrets.push(match which {
                Secret::SelfSeed => 0,
                Secret::PairKey => 1,
            });
            secrets.extend_from_slice(secret);
        }
        let parts = [sess.0.as_bytes().as_slice(), record.as_bytes(), &secrets];
        Self(Digest::of("conclave/v1/challenge", &parts))
    }

    /// R76. The tag `⟨r_m, y_m⟩` of a vector's shard, ring elements u32 little-endian.
    pub fn of_vector(&self, shard: usize, bytes: &[u8]) -> u64 {
        self.weights(shard, bytes.len() / 4).of_ring(bytes)
    }

    /// R76. `⟨r_m, sum_m⟩` of an encoded sum. Its elements in the ring Z_2^32, what the masks come off, are written to
    /// `ring`, which has a place for each.
    pub fn of_sum(&self, shard: usize, bytes: &[u8], ring: &mut [u32]) -> u64 {
        let weights = self.weights(shard, bytes.len() / SUM_BYTES);
        weights.of_sum(bytes, ring)
    }

    /// R76. `r_m`: drawn from `SHA-256("conclave/v1/check" ‖ challenge ‖ m u32)`.
    fn weights(&self, shard: usize, elements: usize) -> Weights {
        let shard = u32::try_from(shard).unwrap_or(u32::MAX).to_le_bytes();
        let key = Digest::of("conclave/v1/check", &[self.0.as_bytes(), &shard]);
        Weights::draw(&key, elements)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sum::Tally;
    use super::*;

    const CHALLENGE: Challenge = Challenge(Digest([9; 32]));

    #[test]
    fn a_product_is_the_one_of_an_independent_computation() {
        // A ChaCha20 of RFC 8439 and big integers, in Python: challenge of 32 bytes of 9, values (k·2654435761 + 12345)
        // mod 2^40 for sums and mod 2^32 for vectors, for k in 0..2500, shards 0 and 5.
        let values = || (0_u64..2500).map(|k| k * 2_654_435_761 + 12_345);
        let mut ring = vec![0; 2500];
        let bytes = |value: u64| value.to_le_bytes()[..5].to_vec();
        let sum: Vec<u8> = values().flat_map(bytes).collect();
        assert_eq!(CHALLENGE.of_sum(0, &sum, &mut ring), SUM_0);
        assert_eq!(CHALLENGE.of_sum(5, &sum, &mut ring), SUM_5);
        let bytes = |value: u64| value.to_le_bytes()[..4].to_vec();
        let vector: Vec<u8> = values().flat_map(bytes).collect();
        assert_eq!(CHALLENGE.of_vector(0, &vector), VECTOR_0);
        assert_eq!(CHALLENGE.of_vector(5, &vector), VECTOR_5);
    }

    #[test]
    fn a_challenge_is_the_one_of_an_independent_computation() {
        let (own, pair) = ([1; 32], [2; 32]);
        let opened = [
            (MemberId(3), Secret::SelfSeed, &own),
            (MemberId(4), Secret::PairKey, &pair),
        ];
        let challenge = Challenge::new(
            &SessId(Digest([5; 32])),
            &Digest([6; 32]),
            opened.into_iter(),
        );
        assert_eq!(challenge.0.to_string(), CHALLENGE_OF_TWO);
    }

    proptest! {
        /// R76  Tags add up to the product of the sum, and to that of no other sum.
        #[test]
        fn tags_of_vectors_check_their_sum(
            vectors in prop::collection::vec(prop::collection::vec(any::<u32>(), 33), 1..20),
            at in 0..33_usize, off in 1..u32::MAX,
        ) {
            let mut tally = Tally::new(33);
            let mut tags = 0;
            for vector in &vectors {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                prop_assert!(tally.add(&bytes));
                tags = add(tags, CHALLENGE.of_vector(2, &bytes));
            }
            let (mut bytes, mut ring) = (tally.to_bytes(), [0; 33]);
            prop_assert_eq!(CHALLENGE.of_sum(2, &bytes, &mut ring), tags);
            let place = bytes[5 * at..].first_chunk_mut::<4>().expect("an element");
            *place = u32::from_le_bytes(*place).wrapping_add(off).to_le_bytes();
            prop_assert_ne!(CHALLENGE.of_sum(2, &bytes, &mut ring), tags);
        }
    }

    const SUM_0: u64 = 798_058_915_833_563_325;
    const SUM_5: u64 = 2_252_140_045_200_893_523;
    const VECTOR_0: u64 = 1_252_362_173_632_122_823;
    const VECTOR_5: u64 = 2_249_702_886_957_762_703;
    const CHALLENGE_OF_TWO: &str =
        "f44ae549be5ba2967f06d8105d7912498bc7fb05bb359d12842b669cc252897e";
}
