//! Sixteen lanes of 32 bits in registers of AVX-512: what ChaCha20 needs to work at sixteen blocks at once.
#![expect(
    clippy::inline_always,
    reason = "what runs under the wide instructions must be compiled into the function that has them"
)]

use core::arch::x86_64::__m512i;

use pulp::bytemuck::cast;
use pulp::x86::V4;

/// Sixteen words, the first in the lowest bits.
pub(crate) type Lanes = __m512i;

/// The proof that this machine has AVX-512, with the operations on lanes. All of them run in constant time.
#[derive(Clone, Copy)]
pub(crate) struct Wide(V4);

impl Wide {
    /// None on a machine without it.
    pub(crate) fn detect() -> Option<Self> {
        V4::try_new().map(Self)
    }

    /// Runs `work` compiled for AVX-512; all that it calls must be inlined.
    #[inline(always)]
    pub(crate) fn run<R>(self, work: impl FnOnce() -> R) -> R {
        self.0.vectorize(work)
    }

    #[inline(always)]
    pub(crate) fn splat(self, word: u32) -> Lanes {
        self.0.avx512f._mm512_set1_epi32(word.cast_signed())
    }

    #[inline(always)]
    pub(crate) fn load(words: [u32; 16]) -> Lanes {
        cast(words)
    }

    #[inline(always)]
    pub(crate) fn store(lanes: Lanes) -> [u32; 16] {
        cast(lanes)
    }

    #[inline(always)]
    pub(crate) fn add(self, a: Lanes, b: Lanes) -> Lanes {
        self.0.avx512f._mm512_add_epi32(a, b)
    }

    #[inline(always)]
    pub(crate) fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        self.0.avx512f._mm512_sub_epi32(a, b)
    }

    #[inline(always)]
    pub(crate) fn xor(self, a: Lanes, b: Lanes) -> Lanes {
        self.0.avx512f._mm512_xor_si512(a, b)
    }

    #[inline(always)]
    pub(crate) fn rotate_left<const BITS: i32>(self, a: Lanes) -> Lanes {
        self.0.avx512f._mm512_rol_epi32::<BITS>(a)
    }

    /// Row i of the result holds lane i of every row.
    #[inline(always)]
    pub(crate) fn transpose(self, rows: &[Lanes; 16]) -> [Lanes; 16] {
        let [
            r0,
            r1,
            r2,
            r3,
            r4,
            r5,
            r6,
            r7,
            r8,
            r9,
            ra,
            rb,
            rc,
            rd,
            re,
            rf,
        ] = *rows;
        let [p0, p1, p2, p3] = self.transpose_words([r0, r1, r2, r3]);
        let [q0, q1, q2, q3] = self.transpose_words([r4, r5, r6, r7]);
        let [s0, s1, s2, s3] = self.transpose_words([r8, r9, ra, rb]);
        let [t0, t1, t2, t3] = self.transpose_words([rc, rd, re, rf]);
        let [c0, c4, c8, cc] = self.transpose_quarters([p0, q0, s0, t0]);
        let [c1, c5, c9, cd] = self.transpose_quarters([p1, q1, s1, t1]);
        let [c2, c6, ca, ce] = self.transpose_quarters([p2, q2, s2, t2]);
        let [c3, c7, cb, cf] = self.transpose_quarters([p3, q3, s3, t3]);
        [
            c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, ca, cb, cc, cd, ce, cf,
        ]
    }

    /// Four words by four rows, in each quarter of the register.
    #[inline(always)]
    fn transpose_words(self, [a, b, c, d]: [Lanes; 4]) -> [Lanes; 4] {
        let wide = self.0.avx512f;
        let (ab, ab_high) = (
            wide._mm512_unpacklo_epi32(a, b),
            wide._mm512_unpackhi_epi32(a, b),
        );
        let (cd, cd_high) = (
            wide._mm512_unpacklo_epi32(c, d),
            wide._mm512_unpackhi_epi32(c, d),
        );
        [
            wide._mm512_unpacklo_epi64(ab, cd),
            wide._mm512_unpackhi_epi64(ab, cd),
            wide._mm512_unpacklo_epi64(ab_high, cd_high),
            wide._mm512_unpackhi_epi64(ab_high, cd_high),
        ]
    }

    /// Four quarters by four rows.
    #[inline(always)]
    fn transpose_quarters(self, [a, b, c, d]: [Lanes; 4]) -> [Lanes; 4] {
        let wide = self.0.avx512f;
        let (ab, ab_high) = (
            wide._mm512_shuffle_i32x4::<0x44>(a, b),
            wide._mm512_shuffle_i32x4::<0xee>(a, b),
        );
        let (cd, cd_high) = (
            wide._mm512_shuffle_i32x4::<0x44>(c, d),
            wide._mm512_shuffle_i32x4::<0xee>(c, d),
        );
        [
            wide._mm512_shuffle_i32x4::<0x88>(ab, cd),
            wide._mm512_shuffle_i32x4::<0xdd>(ab, cd),
            wide._mm512_shuffle_i32x4::<0x88>(ab_high, cd_high),
            wide._mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transpose_swaps_rows_and_lanes() {
        let Some(wide) = Wide::detect() else {
            return;
        };
        let word = |row: usize, lane: usize| u32::try_from(row * 100 + lane).expect("small");
        let rows: [_; 16] =
            core::array::from_fn(|row| Wide::load(core::array::from_fn(|lane| word(row, lane))));
        let columns = wide.run(|| wide.transpose(&rows));
        for (at, column) in columns.into_iter().enumerate() {
            let expected: [_; 16] = core::array::from_fn(|row| word(row, at));
            assert_eq!(Wide::store(column), expected);
        }
    }
}
