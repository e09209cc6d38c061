//! ChaCha20 (RFC 8439, section 2.3) sixteen blocks at a time, added to ring elements straight from the registers.
//!
//! The library's own AVX-512 backend needs a compiler flag for the whole build, and writes the stream to memory before
//! it can be added.
#![expect(
    clippy::inline_always,
    reason = "what runs under the wide instructions must be compiled into the function that has them"
)]

use zeroize::Zeroize as _;

use super::Sign;
use crate::lanes::avx512::{Lanes, Wide};

/// Ring elements that sixteen blocks give.
const ELEMENTS: usize = 256;

/// A key stream that stands at a block which is a multiple of sixteen.
pub(super) struct WideChaCha20 {
    wide: Wide,
    /// Constants, key, block counter, nonce.
    state: [u32; 16],
}

impl WideChaCha20 {
    /// The stream from its beginning; none on a machine without AVX-512.
    pub(super) fn new(key: &[u8; 32], nonce: &[u8; 12]) -> Option<Self> {
        let wide = Wide::detect()?;
        let mut state = [0; 16];
        let bytes = [b"expand 32-byte k".as_slice(), key, &[0; 4], nonce];
        let words = bytes.iter().flat_map(|bytes| bytes.as_chunks::<4>().0);
        for (word, bytes) in state.iter_mut().zip(words) {
            *word = u32::from_le_bytes(*bytes);
        }
        Some(Self { wide, state })
    }

    /// Adds the next of the stream to `elements`, or subtracts it. What is left of sixteen blocks is skipped.
    pub(super) fn add_to(&mut self, elements: &mut [u32], sign: Sign) {
        let (wide, state) = (self.wide, &mut self.state);
        wide.run(
            #[inline(always)]
            || match sign {
                Sign::Plus => each(wide, state, elements, |value, mask| wide.add(value, mask)),
                Sign::Minus => each(wide, state, elements, |value, mask| wide.sub(value, mask)),
            },
        );
    }
}

#[inline(always)]
fn each(
    wide: Wide,
    state: &mut [u32; 16],
    elements: &mut [u32],
    combine: impl Fn(Lanes, Lanes) -> Lanes,
) {
    let (whole, rest) = elements.as_chunks_mut::<ELEMENTS>();
    for elements in whole {
        let blocks = sixteen_blocks(wide, state);
        for (words, mask) in elements.as_chunks_mut().0.iter_mut().zip(blocks) {
            *words = Wide::store(combine(Wide::load(*words), mask));
        }
    }
    if !rest.is_empty() {
        let mut last = [0; ELEMENTS];
        for (to, from) in last.iter_mut().zip(rest.iter()) {
            *to = *from;
        }
        let blocks = sixteen_blocks(wide, state);
        for (words, mask) in last.as_chunks_mut().0.iter_mut().zip(blocks) {
            *words = Wide::store(combine(Wide::load(*words), mask));
        }
        for (to, from) in rest.iter_mut().zip(last) {
            *to = from;
        }
    }
}

/// The next sixteen blocks, one a row.
#[inline(always)]
fn sixteen_blocks(wide: Wide, state: &mut [u32; 16]) -> [Lanes; 16] {
    let mut start = state.map(
        #[inline(always)]
        |word| wide.splat(word),
    );
    let counters = Wide::load([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    start[12] = wide.add(start[12], counters);
    state[12] = state[12].wrapping_add(16);
    let [
        mut x0,
        mut x1,
        mut x2,
        mut x3,
        mut x4,
        mut x5,
        mut x6,
        mut x7,
        mut x8,
        mut x9,
        mut xa,
        mut xb,
        mut xc,
        mut xd,
        mut xe,
        mut xf,
    ] = start;
    for _ in 0..10 {
        [x0, x4, x8, xc] = quarter(wide, [x0, x4, x8, xc]);
        [x1, x5, x9, xd] = quarter(wide, [x1, x5, x9, xd]);
        [x2, x6, xa, xe] = quarter(wide, [x2, x6, xa, xe]);
        [x3, x7, xb, xf] = quarter(wide, [x3, x7, xb, xf]);
        [x0, x5, xa, xf] = quarter(wide, [x0, x5, xa, xf]);
        [x1, x6, xb, xc] = quarter(wide, [x1, x6, xb, xc]);
        [x2, x7, x8, xd] = quarter(wide, [x2, x7, x8, xd]);
        [x3, x4, x9, xe] = quarter(wide, [x3, x4, x9, xe]);
    }
    let mut words = [
        x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, xa, xb, xc, xd, xe, xf,
    ];
    for (word, start) in words.iter_mut().zip(start) {
        *word = wide.add(*word, start);
    }
    wide.transpose(&words)
}

/// The quarter round of RFC 8439, section 2.1.
#[inline(always)]
fn quarter(wide: Wide, [mut a, mut b, mut c, mut d]: [Lanes; 4]) -> [Lanes; 4] {
    a = wide.add(a, b);
    d = wide.rotate_left::<16>(wide.xor(d, a));
    c = wide.add(c, d);
    b = wide.rotate_left::<12>(wide.xor(b, c));
    a = wide.add(a, b);
    d = wide.rotate_left::<8>(wide.xor(d, a));
    c = wide.add(c, d);
    b = wide.rotate_left::<7>(wide.xor(b, c));
    [a, b, c, d]
}

impl Drop for WideChaCha20 {
    fn drop(&mut self) {
        self.state.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use chacha20::ChaCha20;
    use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};

    use super::*;

    /// Against the other implementation, in pieces, with every length of the last one.
    #[test]
    fn it_is_the_same_stream() {
        let (key, nonce) = (
            core::array::from_fn(|at| u8::try_from(at).expect("small")),
            [7; 12],
        );
        for length in (1..2 * ELEMENTS).chain([2048, 5000]) {
            let Some(mut stream) = WideChaCha20::new(&key, &nonce) else {
                return;
            };
            let words = (0..u32::MAX).map(|at| at.wrapping_mul(0x9e37_79b9));
            let start: Vec<u32> = words.take(length).collect();
            let (mut more, mut less) = (start.clone(), start.clone());
            let (head, tail) = more.split_at_mut(length / ELEMENTS * ELEMENTS);
            stream.add_to(head, Sign::Plus);
            stream.add_to(tail, Sign::Plus);
            let mut again = WideChaCha20::new(&key, &nonce).expect("it was there before");
            again.add_to(&mut less, Sign::Minus);
            let mut bytes = vec![0; length * 4];
            ChaCha20::new(&key.into(), &nonce.into()).write_keystream(&mut bytes);
            for (at, word) in bytes.as_chunks::<4>().0.iter().enumerate() {
                let mask = u32::from_le_bytes(*word);
                assert_eq!(more[at], start[at].wrapping_add(mask), "{at} of {length}");
                assert_eq!(less[at], start[at].wrapping_sub(mask), "{at} of {length}");
            }
        }
    }
}
