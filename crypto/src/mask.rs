//! Masks: key streams over the ring Z_2^32, one seed for each pair of sharers and one of a member's own.
//!
//! `pair seed = HKDF-SHA256(salt = sid ‖ min(pk_m) ‖ max(pk_m), ikm = X25519(sk_m, pk_m), info = "conclave/v1/mask" ‖
//! lower id ‖ higher id)`; `own seed = HKDF-SHA256(salt = none, ikm = b_i, info = "conclave/v1/self" ‖ sid)`.
//! The stream is ChaCha20 (RFC 8439) or AES-256-CTR (SP 800-38A), one nonce for each chunk of 1 MiB ("MSK" ‖ chunk),
//! so that chunks grow in parallel and no shard needs seeking.

mod counter;
#[cfg(target_arch = "x86_64")]
mod wide;

use core::fmt;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};
use hkdf::Hkdf;
use rayon::prelude::*;
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

use crate::agree::{ExchangePublic, Shared};
use crate::dealing::SelfSecret;
use crate::digest::Digest;
use crate::lanes;

use self::counter::CounterAes;
#[cfg(target_arch = "x86_64")]
use self::wide::WideChaCha20;

/// The cipher whose key stream makes the mask: the charter's `prg`.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    bincode::Encode,
    bincode::Decode,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Prg {
    /// ChaCha20: for members whose processors have no AES instructions.
    ChaCha20,
    /// AES-256 in counter mode, the default: by the processor's instructions, or bit-sliced where there are none; in
    /// constant time either way.
    Aes256Ctr,
}

/// Whether a mask is added or subtracted: plus for the lower member id of a pair, and for the own mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Add.
    Plus,
    /// Subtract.
    Minus,
}

/// The seed of one mask. It has no `Clone`, is silent in `Debug` and wiped when dropped.
///
/// ```compile_fail
/// fn twice(seed: conclave_crypto::mask::MaskSeed) -> [conclave_crypto::mask::MaskSeed; 2] {
///     [seed.clone(), seed]
/// }
/// ```
pub struct MaskSeed(Zeroizing<[u8; 32]>);

/// Ring elements in a chunk of the stream: 1 MiB.
pub const CHUNK_ELEMENTS: usize = 1 << 18;

/// Ring elements that all streams are added to before the next ones are looked at: 32 KiB, so that they stay in a
/// near cache, and that taking up the next stream costs little beside adding it.
const PIECE_ELEMENTS: usize = 8192;

/// Bytes of key stream that stand in memory before they are added.
const BUFFER: usize = 4096;

impl MaskSeed {
    /// The seed that two sharers have in common. `one` and `other` are their mask keys, in any order;
    /// `lower` and `higher` their member ids.
    pub fn pair(
        shared: &Shared,
        sid: &Digest,
        one: &ExchangePublic,
        other: &ExchangePublic,
        lower: u32,
        higher: u32,
    ) -> Self {
        let (least, greatest) = if one <= other {
            (one, other)
        } else {
            (other, one)
        };
        let salt = [sid.as_bytes().as_slice(), &least.0, &greatest.0].concat();
        let mut seed = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(&salt), shared.as_bytes())
            .expand_multi_info(
                &[
                    b"conclave/v1/mask",
                    &lower.to_le_bytes(),
                    &higher.to_le_bytes(),
                ],
                seed.as_mut(),
            )
            .expect("32 bytes are within HKDF's limit");
        Self(seed)
    }

    /// The seed of a member's own mask.
    pub fn own(secret: &SelfSecret, sid: &Digest) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, secret.0.as_ref())
            .expand_multi_info(&[b"conclave/v1/self", sid.as_bytes()], seed.as_mut())
            .expect("32 bytes are within HKDF's limit");
        Self(seed)
    }
}

/// Grows every mask and adds it to (or subtracts it from) `vector`, wrapping, in one pass over the vector.
///
/// The result is the same at any number of threads.
pub fn grow_into(masks: &[(MaskSeed, Sign)], prg: Prg, vector: &mut [u32]) {
    sum_into(&[], masks, prg, vector);
}

/// Adds vectors of little-endian bytes and grown masks to `sum`, wrapping, in one pass: chunks in parallel, and within
/// a chunk a piece that fits a near cache gets everything that is added to it before the next one is touched.
///
/// # Panics
/// If a vector has not four bytes for each element of `sum`.
pub fn sum_into(vectors: &[&[u8]], masks: &[(MaskSeed, Sign)], prg: Prg, sum: &mut [u32]) {
    let length = sum.len().saturating_mul(4);
    assert!(
        vectors.iter().all(|vector| vector.len() == length),
        "a vector has four bytes for each element"
    );
    sum.par_chunks_mut(CHUNK_ELEMENTS)
        .enumerate()
        .for_each(|(index, chunk)| {
            let mut streams: Vec<_> = masks
                .iter()
                .map(|(seed, sign)| (Stream::of_chunk(seed, prg, index), *sign))
                .collect();
            let start = index.saturating_mul(CHUNK_ELEMENTS);
            let mut buffer = [0_u8; BUFFER];
            for (piece, elements) in chunk.chunks_mut(PIECE_ELEMENTS).enumerate() {
                let from = start
                    .saturating_add(piece.saturating_mul(PIECE_ELEMENTS))
                    .saturating_mul(4);
                let until = from.saturating_add(elements.len().saturating_mul(4));
                for vector in vectors.iter().filter_map(|vector| vector.get(from..until)) {
                    add(elements, vector, Sign::Plus);
                }
                for (stream, sign) in &mut streams {
                    stream.add_to(elements, *sign, &mut buffer);
                }
            }
            buffer.zeroize();
        });
}

/// The key stream of one mask within one chunk.
enum Stream {
    #[cfg(target_arch = "x86_64")]
    WideChaCha20(WideChaCha20),
    ChaCha20(ChaCha20),
    Aes256Ctr(Box<CounterAes>),
}

impl Stream {
    fn of_chunk(seed: &MaskSeed, prg: Prg, index: usize) -> Self {
        let index = u64::try_from(index).expect("a chunk index fits 64 bits");
        match prg {
            Prg::ChaCha20 => {
                let mut nonce = [0; 12];
                let (tag, counter) = nonce.split_at_mut(4);
                tag.copy_from_slice(b"MSK\0");
                counter.copy_from_slice(&index.to_le_bytes());
                #[cfg(target_arch = "x86_64")]
                if let Some(stream) = WideChaCha20::new(&seed.0, &nonce) {
                    return Self::WideChaCha20(stream);
                }
                Self::ChaCha20(ChaCha20::new((&*seed.0).into(), &nonce.into()))
            }
            Prg::Aes256Ctr => {
                let mut nonce = [0; 16];
                let (tag, rest) = nonce.split_at_mut(4);
                tag.copy_from_slice(b"MSK\0");
                let (number, _) = rest.split_at_mut(8);
                number.copy_from_slice(&index.to_le_bytes());
                Self::Aes256Ctr(Box::new(CounterAes::new(&seed.0, nonce)))
            }
        }
    }

    /// Adds the next of the stream to `elements`, or subtracts it. `buffer` has [`BUFFER`] bytes.
    fn add_to(&mut self, elements: &mut [u32], sign: Sign, buffer: &mut [u8]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::WideChaCha20(stream) => stream.add_to(elements, sign),
            Self::ChaCha20(cipher) => {
                for elements in elements.chunks_mut(BUFFER / 4) {
                    let (bytes, _) = buffer.split_at_mut(elements.len().saturating_mul(4));
                    cipher.write_keystream(bytes);
                    add(elements, bytes, sign);
                }
            }
            Self::Aes256Ctr(stream) => stream.add_to(elements, sign, buffer),
        }
    }
}

/// Adds little-endian bytes to elements, or subtracts them.
fn add(elements: &mut [u32], bytes: &[u8], sign: Sign) {
    let (words, _) = bytes.as_chunks::<4>();
    lanes::widest(|| match sign {
        Sign::Plus => {
            for (value, word) in elements.iter_mut().zip(words) {
                *value = value.wrapping_add(u32::from_le_bytes(*word));
            }
        }
        Sign::Minus => {
            for (value, word) in elements.iter_mut().zip(words) {
                *value = value.wrapping_sub(u32::from_le_bytes(*word));
            }
        }
    });
}

impl fmt::Debug for MaskSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskSeed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(byte: u8) -> MaskSeed {
        MaskSeed(Zeroizing::new([byte; 32]))
    }

    #[test]
    fn plus_and_minus_cancel_over_chunks() {
        for prg in [Prg::ChaCha20, Prg::Aes256Ctr] {
            let start: Vec<u32> = (0..CHUNK_ELEMENTS + 5000)
                .map(|i| u32::try_from(i).expect("small"))
                .collect();
            let mut vector = start.clone();
            grow_into(&[(seed(3), Sign::Plus)], prg, &mut vector);
            assert_ne!(vector, start);
            grow_into(&[(seed(3), Sign::Minus)], prg, &mut vector);
            assert_eq!(vector, start);
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bytes() {
        let grow = |threads, prg| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a pool");
            let mut vector = vec![0; 3 * CHUNK_ELEMENTS + 17];
            pool.install(|| grow_into(&[(seed(9), Sign::Plus)], prg, &mut vector));
            vector
        };
        for prg in [Prg::ChaCha20, Prg::Aes256Ctr] {
            assert_eq!(grow(1, prg), grow(2, prg));
        }
    }

    #[test]
    fn the_stream_is_the_cipher_of_the_chunk() {
        let mut vector = vec![0; CHUNK_ELEMENTS + 16];
        grow_into(&[(seed(1), Sign::Plus)], Prg::ChaCha20, &mut vector);
        for (chunk, at) in [(0_u64, 0), (1, CHUNK_ELEMENTS)] {
            let mut nonce = *b"MSK\0________";
            nonce[4..].copy_from_slice(&chunk.to_le_bytes());
            let mut expected = [0; 64];
            ChaCha20::new(&[1; 32].into(), &nonce.into()).apply_keystream(&mut expected);
            let got: Vec<u8> = vector[at..at + 16]
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect();
            assert_eq!(got, expected);
        }
    }
}
