//! Weighted sums over the field of p = 2^61 − 1: the arithmetic of check tags, over vectors of ring elements (four
//! bytes) and over their sums as integers (five bytes).
//!
//! The weight of element k is the product of a row's and a column's, `a_⌊k/1024⌋ · b_(k mod 1024)`: few are drawn, and
//! another vector has the same weighted sum with a chance of at most 2^−59 (a polynomial that is not zero, of degree 1
//! in each weight, of which none takes a value with a chance above 2^−60; Schwartz 1980, Zippel 1979).

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};

use crate::digest::Digest;
use crate::lanes;

/// The field's prime, 2^61 − 1.
pub const PRIME: u64 = (1 << 61) - 1;

/// Bytes of an element of a sum.
pub const SUM_BYTES: usize = 5;

/// Elements in a row.
pub const WIDTH: usize = 1024;

/// Bits of a column weight that are multiplied at a time: WIDTH products with 32 bits add up within 64.
const LIMB: u32 = 21;

/// The weights of a vector's elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights {
    /// The columns' weights in three limbs, the lowest first.
    columns: [Box<[u32; WIDTH]>; 3],
    rows: Vec<u64>,
}

impl Weights {
    /// Weights for so many elements, from the ChaCha20 key stream (RFC 8439, nonce 0, from its first word) of `key`:
    /// the low 61 bits of eight bytes little-endian each, 2^61 − 1 counts as 0; first the columns, then the rows.
    pub fn draw(key: &Digest, elements: usize) -> Self {
        let rows = elements.div_ceil(WIDTH);
        let mut stream = vec![0; WIDTH.saturating_add(rows).saturating_mul(8)];
        ChaCha20::new(key.as_bytes().into(), &[0; 12].into()).write_keystream(&mut stream);
        let weight = |bytes: &[u8; 8]| {
            let weight = u64::from_le_bytes(*bytes) & PRIME;
            if weight == PRIME { 0 } else { weight }
        };
        let mut drawn = stream.as_chunks().0.iter().map(weight);
        let mut columns: [_; 3] = core::array::from_fn(|_| Box::new([0; WIDTH]));
        for (at, weight) in drawn.by_ref().take(WIDTH).enumerate() {
            let mut rest = weight;
            for limb in &mut columns {
                let low = u32::try_from(rest & ((1 << LIMB) - 1)).unwrap_or(0);
                if let Some(place) = limb.get_mut(at) {
                    *place = low;
                }
                rest >>= LIMB;
            }
        }
        let rows = drawn.collect();
        Self { columns, rows }
    }

    /// The weighted sum of ring elements, u32 little-endian.
    pub fn of_ring(&self, bytes: &[u8]) -> u64 {
        let mut total = 0;
        for (row, weight) in bytes.chunks(WIDTH.saturating_mul(4)).zip(&self.rows) {
            let values = row.as_chunks().0.iter();
            let sum = self.row(&values.map(|word| u32::from_le_bytes(*word)));
            total = add(total, times(sum, *weight));
        }
        total
    }

    /// The weighted sum of the elements of an encoded sum. Their values in the ring are written to `ring`, which has a
    /// place for each.
    pub fn of_sum(&self, bytes: &[u8], ring: &mut [u32]) -> u64 {
        let mut high = [0_u32; WIDTH];
        let mut total = 0;
        let rows = bytes.chunks(WIDTH.saturating_mul(SUM_BYTES));
        for ((row, low), weight) in rows.zip(ring.chunks_mut(WIDTH)).zip(&self.rows) {
            let elements = row.as_chunks::<SUM_BYTES>().0.iter();
            for ((low, high), [a, b, c, d, e]) in low.iter_mut().zip(&mut high).zip(elements) {
                *low = u32::from_le_bytes([*a, *b, *c, *d]);
                *high = (*e).into();
            }
            let (high, _) = high.split_at(low.len());
            let sum = self.row(&low.iter().copied());
            let high = self.row(&high.iter().copied());
            // Below 2^111: the high bytes' part is below 2^79.
            let sum = sum.wrapping_add(high << 32);
            total = add(total, times(sum, *weight));
        }
        total
    }

    /// The columns' weights times the elements of a row, below 2^106.
    fn row(&self, values: &(impl Iterator<Item = u32> + Clone)) -> u128 {
        let [low, middle, high] = &self.columns;
        let mut sums = [0_u64; 3];
        lanes::widest(|| {
            for (((value, low), middle), high) in values
                .clone()
                .zip(low.iter())
                .zip(middle.iter())
                .zip(high.iter())
            {
                let product = |limb: u32| u64::from(value).wrapping_mul(limb.into());
                let [one, two, three] = &mut sums;
                *one = one.wrapping_add(product(*low));
                *two = two.wrapping_add(product(*middle));
                *three = three.wrapping_add(product(*high));
            }
        });
        let [low, middle, high] = sums.map(u128::from);
        low.wrapping_add(middle << LIMB)
            .wrapping_add(high << (2 * LIMB))
    }
}

/// `a + b` in F_p.
pub fn add(a: u64, b: u64) -> u64 {
    reduce(u128::from(a).wrapping_add(u128::from(b)))
}

/// A number times an element of F_p, in F_p.
fn times(a: u128, b: u64) -> u64 {
    reduce(u128::from(reduce(a)).wrapping_mul(b.into()))
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

/// Adds ring elements, u32 little-endian, to the integers that they sum to. At most 200 of them stay below 2^40.
pub fn add_ring(totals: &mut [u64], bytes: &[u8]) {
    let (words, _) = bytes.as_chunks::<4>();
    lanes::widest(|| {
        for (total, word) in totals.iter_mut().zip(words) {
            *total = total.wrapping_add(u32::from_le_bytes(*word).into());
        }
    });
}

/// The encoding of integers below 2^40: five bytes little-endian each.
pub fn encode_sum(totals: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0; totals.len().saturating_mul(SUM_BYTES)];
    for (element, total) in bytes.as_chunks_mut::<SUM_BYTES>().0.iter_mut().zip(totals) {
        if let Some(low) = total.to_le_bytes().first_chunk() {
            *element = *low;
        }
    }
    bytes
}

/// Writes the values in the ring of an encoded sum.
pub fn ring_of_sum(bytes: &[u8], ring: &mut [u32]) {
    let elements = bytes.as_chunks::<SUM_BYTES>().0.iter();
    for (value, [a, b, c, d, _]) in ring.iter_mut().zip(elements) {
        *value = u32::from_le_bytes([*a, *b, *c, *d]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_field_is_reduced() {
        assert_eq!(reduce(u128::from(PRIME)), 0);
        let expected = u64::try_from(u128::MAX % u128::from(PRIME)).expect("61 bits");
        assert_eq!(reduce(u128::MAX), expected);
        assert_eq!(add(PRIME - 1, 1), 0);
        assert_eq!(add(PRIME - 1, 2), 1);
    }

    /// The definition, one element after the other.
    fn plain(weights: &Weights, values: impl Iterator<Item = u64>) -> u64 {
        let column = |at: usize| {
            let limbs = weights.columns.iter().rev();
            limbs.fold(0_u128, |sum, limb| (sum << LIMB) + u128::from(limb[at]))
        };
        values.enumerate().fold(0, |total, (at, value)| {
            let row = u128::from(weights.rows[at / WIDTH]);
            let weight = column(at % WIDTH) * row % u128::from(PRIME);
            let product = weight * u128::from(value) % u128::from(PRIME);
            add(total, u64::try_from(product).expect("61 bits"))
        })
    }

    #[test]
    fn the_extremes_do_not_overflow() {
        let weights = Weights {
            columns: [
                Box::new([(1 << LIMB) - 1; WIDTH]),
                Box::new([(1 << LIMB) - 1; WIDTH]),
                Box::new([(1 << 19) - 1; WIDTH]),
            ],
            rows: vec![PRIME - 1; 2],
        };
        let values = vec![u32::MAX; 2 * WIDTH];
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let expected = plain(&weights, values.iter().map(|value| u64::from(*value)));
        assert_eq!(weights.of_ring(&bytes), expected);
        let sums = vec![(1 << 40) - 1; 2 * WIDTH];
        let mut ring = vec![0; 2 * WIDTH];
        let product = weights.of_sum(&encode_sum(&sums), &mut ring);
        assert_eq!(product, plain(&weights, sums.iter().copied()));
        assert_eq!(ring, values);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Fast and plain agree, for vectors and for their sums; a sum's tag is the sum of the vectors' tags.
        #[test]
        fn rows_and_limbs_are_the_definition(
            key: [u8; 32], len in 1..3000_usize, seeds in prop::collection::vec(any::<u32>(), 1..6),
        ) {
            let weights = Weights::draw(&Digest(key), len);
            let (mut totals, mut tags) = (vec![0; len], 0);
            for seed in seeds {
                let words = (0..u32::MAX).map(|at| at.wrapping_mul(0x9e37_79b9).wrapping_add(seed) ^ (seed << 7));
                let values: Vec<u32> = words.take(len).collect();
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                let tag = weights.of_ring(&bytes);
                prop_assert_eq!(tag, plain(&weights, values.iter().map(|value| u64::from(*value))));
                add_ring(&mut totals, &bytes);
                tags = add(tags, tag);
            }
            let (mut ring, mut again) = (vec![0; len], vec![0; len]);
            let bytes = encode_sum(&totals);
            let product = weights.of_sum(&bytes, &mut ring);
            prop_assert_eq!(product, plain(&weights, totals.iter().copied()));
            prop_assert_eq!(product, tags);
            ring_of_sum(&bytes, &mut again);
            prop_assert_eq!(&ring, &again);
            let low = |total: &u64| u32::try_from(total & 0xffff_ffff).expect("32 bits");
            prop_assert_eq!(ring, totals.iter().map(low).collect::<Vec<_>>());
        }
    }
}
