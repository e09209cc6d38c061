//! Check tags: whether a sum is the sum of the vectors behind it, for eight bytes a vector and shard.
//!
//! `r_m` is a vector over F_p, p = 2^61 − 1, that nobody could know when the sums were announced. Tags are linear:
//! `Σ_i ⟨r_m, y_i⟩ = ⟨r_m, Σ_i y_i⟩`, and for another sum the two sides agree with a chance of about 2^−61 (Carter and
//! Wegman 1979; Freivalds 1977). The element of the key stream with the low 61 bits all set counts as 0.

use conclave_crypto::dealing::Secret;
use conclave_crypto::digest::Digest;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

use crate::names::{MemberId, SessId};

/// The field's prime, 2^61 − 1.
pub const PRIME: u64 = (1 << 61) - 1;

/// Elements of `r_m` that are drawn at a time.
const DRAWN: usize = 512;

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

    /// R76. `⟨r_m, values⟩` in F_p. `r_m` is the ChaCha20 key stream (RFC 8439, nonce 0, from its first word) of
    /// `SHA-256("conclave/v1/check" ‖ challenge ‖ m u32)`, the low 61 bits of eight bytes little-endian an element.
    ///
    /// Values are below 2^40 and at most 2^20 of them: the products fit 128 bits without a reduction between.
    pub fn product(&self, shard: usize, values: impl Iterator<Item = u64>) -> u64 {
        let shard = u32::try_from(shard).unwrap_or(u32::MAX).to_le_bytes();
        let key = Digest::of("conclave/v1/check", &[self.0.as_bytes(), &shard]);
        let mut stream = ChaCha20Rng::from_seed(key.0);
        let mut drawn = [0_u8; DRAWN.saturating_mul(8)];
        let mut values = values.peekable();
        let mut total: u128 = 0;
        while values.peek().is_some() {
            stream.fill_bytes(&mut drawn);
            let (words, _) = drawn.as_chunks::<8>();
            for (word, value) in words.iter().zip(values.by_ref()) {
                let weight = u64::from_le_bytes(*word) & PRIME;
                let weight = if weight == PRIME { 0 } else { weight };
                let product = u128::from(weight).wrapping_mul(u128::from(value));
                total = total.wrapping_add(product);
            }
        }
        reduce(total)
    }
}

/// `a + b` in F_p.
pub fn add(a: u64, b: u64) -> u64 {
    reduce(u128::from(a).wrapping_add(u128::from(b)))
}

/// A number modulo p: 2^61 = 1 there, so the digits to the base 2^61 add up.
fn reduce(value: u128) -> u64 {
    let mut value = value;
    while value >> 61 != 0 {
        value = (value & u128::from(PRIME)).wrapping_add(value >> 61);
    }
    let value = u64::try_from(value).unwrap_or(0);
    if value == PRIME { 0 } else { value }
}

/// The elements of a vector's shard, u32 little-endian.
pub fn elements(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|word| u32::from_le_bytes(*word).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sum::{self, Tally};
    use super::*;

    const CHALLENGE: Challenge = Challenge(Digest([9; 32]));

    #[test]
    fn a_product_is_the_one_of_an_independent_computation() {
        // A ChaCha20 of RFC 8439 and big integers, in Python: challenge of 32 bytes of 9, values (k·2654435761 + 12345)
        // mod 2^40 for k in 0..700, shards 0 and 5.
        let values = || (0_u64..700).map(|k| (k * 2_654_435_761 + 12_345) % (1 << 40));
        assert_eq!(CHALLENGE.product(0, values()), PRODUCT_0);
        assert_eq!(CHALLENGE.product(5, values()), PRODUCT_5);
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

    #[test]
    fn the_field_is_reduced() {
        assert_eq!(reduce(u128::from(PRIME)), 0);
        assert_eq!(
            reduce(u128::MAX),
            u64::try_from(u128::MAX % u128::from(PRIME)).unwrap()
        );
        assert_eq!(add(PRIME - 1, 1), 0);
        assert_eq!(add(PRIME - 1, 2), 1);
    }

    proptest! {
        /// R76  Tags add up to the product of the sum, and to that of no other sum.
        #[test]
        fn tags_of_vectors_check_their_sum(
            vectors in prop::collection::vec(prop::collection::vec(any::<u32>(), 33), 1..20),
            at in 0..33_usize, off in 1..u64::from(u32::MAX),
        ) {
            let mut tally = Tally::new(33);
            let mut tags = 0;
            for vector in &vectors {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                prop_assert!(tally.add(&bytes));
                tags = add(tags, CHALLENGE.product(2, elements(&bytes)));
            }
            let bytes = tally.to_bytes();
            prop_assert_eq!(CHALLENGE.product(2, sum::elements(&bytes)), tags);
            let mut other: Vec<u64> = sum::elements(&bytes).collect();
            other[at] = (other[at] + off) % (1 << 40);
            prop_assert_ne!(CHALLENGE.product(2, other.into_iter()), tags);
        }
    }

    const PRODUCT_0: u64 = 1_719_425_721_232_142_141;
    const PRODUCT_5: u64 = 254_102_483_519_278_492;
    const CHALLENGE_OF_TWO: &str =
        "f44ae549be5ba2967f06d8105d7912498bc7fb05bb359d12842b669cc252897e";
}
