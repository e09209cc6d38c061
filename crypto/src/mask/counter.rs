//! AES-256 in counter mode (SP 800-38A, section 6.5), added to ring elements as many blocks at a time as the processor
//! encrypts together.
//!
//! The library's own counter mode makes each counter block from a 128-bit number and copies the stream twice; here one
//! word of each block changes, and the stream is added from where it was encrypted.
#![expect(
    clippy::inline_always,
    reason = "what runs under the wide instructions must be compiled into the function that has them"
)]

use aes::Aes256;
use aes::cipher::array::Array;
use aes::cipher::consts::U16;
use aes::cipher::inout::InOut;
use aes::cipher::{
    BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt as _, BlockSizeUser,
    KeyInit as _, ParBlocks,
};

use super::Sign;

/// Bytes of a block.
const BLOCK: usize = 16;

/// A key stream whose block counter is the last word of the block, big-endian, and never overflows it.
pub(super) struct CounterAes {
    cipher: Aes256,
    first: [u8; BLOCK],
    /// The next block.
    next: u32,
}

impl CounterAes {
    /// The stream from its beginning; the last four bytes of `nonce` are the counter's place.
    pub(super) fn new(key: &[u8; 32], nonce: [u8; BLOCK]) -> Self {
        Self {
            cipher: Aes256::new(key.into()),
            first: nonce,
            next: 0,
        }
    }

    /// Adds the next of the stream to `elements`, or subtracts it. What is left of the last block is skipped.
    /// `buffer` has room for what is encrypted together: 64 blocks.
    pub(super) fn add_to(&mut self, elements: &mut [u32], sign: Sign, buffer: &mut [u8]) {
        let blocks = elements.len().div_ceil(BLOCK / 4);
        match sign {
            Sign::Plus => self.encrypt(elements, buffer, u32::wrapping_add),
            Sign::Minus => self.encrypt(elements, buffer, u32::wrapping_sub),
        }
        let blocks = u32::try_from(blocks).expect("a chunk has 65,536 blocks");
        self.next = self.next.wrapping_add(blocks);
    }

    fn encrypt(&self, elements: &mut [u32], buffer: &mut [u8], combine: impl Fn(u32, u32) -> u32) {
        self.cipher.encrypt_with_backend(Addition {
            first: self.first,
            next: self.next,
            elements,
            buffer,
            combine,
        });
    }
}

/// What is done with each stretch of the stream.
struct Addition<'a, F> {
    first: [u8; BLOCK],
    next: u32,
    elements: &'a mut [u32],
    buffer: &'a mut [u8],
    combine: F,
}

impl<F> BlockSizeUser for Addition<'_, F> {
    type BlockSize = U16;
}

impl<F: Fn(u32, u32) -> u32> BlockCipherEncClosure for Addition<'_, F> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let (mut places, mut counters) = (ParBlocks::<B>::default(), ParBlocks::<B>::default());
        let together = counters.len();
        let places = Array::cast_slice_to_core_mut(&mut places);
        places.fill(self.first);
        for (place, number) in places.iter_mut().zip(0_u32..) {
            set(place, number);
        }
        let (blocks, _) = self.buffer.as_chunks_mut::<BLOCK>();
        let blocks = blocks
            .get_mut(..together)
            .map(Array::cast_slice_from_core_mut);
        let stream: &mut ParBlocks<B> = blocks
            .and_then(|blocks| blocks.try_into().ok())
            .expect("the buffer holds the blocks that are encrypted together");
        let mut next = self.next;
        for elements in self.elements.chunks_mut(together.saturating_mul(BLOCK / 4)) {
            count(places, next, Array::cast_slice_to_core_mut(&mut counters));
            next = next.wrapping_add(u32::try_from(together).unwrap_or(0));
            backend.encrypt_par_blocks(InOut::from((&counters, &mut *stream)));
            let bytes = Array::cast_slice_to_core(stream).as_flattened();
            for (value, word) in elements.iter_mut().zip(bytes.as_chunks().0) {
                *value = (self.combine)(*value, u32::from_le_bytes(*word));
            }
        }
    }
}

/// The counter blocks from `next` on, given those from 0 on.
#[inline(always)]
fn count(places: &[[u8; BLOCK]], next: u32, counters: &mut [[u8; BLOCK]]) {
    /// Blocks in a register.
    const WIDE: usize = 4;
    let together = u32::try_from(places.len()).unwrap_or(0);
    if !together.is_power_of_two() || !next.is_multiple_of(together) || together < 4 {
        for (counter, (place, number)) in counters.iter_mut().zip(places.iter().zip(next..)) {
            *counter = *place;
            set(counter, number);
        }
        return;
    }
    // The numbers from 0 on are below `together`, of which `next` is a multiple: no bit is in both.
    let mut step = [[0; BLOCK]; WIDE];
    for block in &mut step {
        set(block, next);
    }
    let (places, counters) = (places.as_flattened(), counters.as_flattened_mut());
    let places = places.as_chunks::<{ WIDE * BLOCK }>().0;
    for (counters, places) in counters
        .as_chunks_mut::<{ WIDE * BLOCK }>()
        .0
        .iter_mut()
        .zip(places)
    {
        let bytes = places.iter().zip(step.as_flattened());
        for (counter, (place, step)) in counters.iter_mut().zip(bytes) {
            *counter = place ^ step;
        }
    }
}

#[inline(always)]
fn set(block: &mut [u8; BLOCK], number: u32) {
    if let Some(word) = block.last_chunk_mut() {
        *word = number.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use ctr::Ctr128BE;
    use ctr::cipher::{KeyIvInit as _, StreamCipher as _};

    use super::*;

    /// Against the library's counter mode, in pieces, with every length of the last one.
    #[test]
    fn it_is_the_same_stream() {
        let (key, mut nonce) = ([3; 32], [7; BLOCK]);
        nonce[12..].fill(0);
        for length in (1..300).chain([2048, 5000]) {
            let words = (0..u32::MAX).map(|at| at.wrapping_mul(0x9e37_79b9));
            let start: Vec<u32> = words.take(length).collect();
            let (mut more, mut less) = (start.clone(), start.clone());
            let mut buffer = [0; 8192];
            let mut stream = CounterAes::new(&key, nonce);
            let (head, tail) = more.split_at_mut(length / 8 * 4);
            stream.add_to(head, Sign::Plus, &mut buffer);
            stream.add_to(tail, Sign::Plus, &mut buffer);
            CounterAes::new(&key, nonce).add_to(&mut less, Sign::Minus, &mut buffer);
            let mut bytes = vec![0; length * 4];
            Ctr128BE::<Aes256>::new(&key.into(), &nonce.into()).write_keystream(&mut bytes);
            for (at, word) in bytes.as_chunks::<4>().0.iter().enumerate() {
                let mask = u32::from_le_bytes(*word);
                assert_eq!(more[at], start[at].wrapping_add(mask), "{at} of {length}");
                assert_eq!(less[at], start[at].wrapping_sub(mask), "{at} of {length}");
            }
        }
    }
}
