//! SHA-256 (FIPS 180-4, section 6.2) of sixteen leaves at a time.
#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::many_single_char_names,
    reason = "the names are the standard's; all places follow from constants, and the compiler unrolls"
)]
#![expect(
    clippy::inline_always,
    reason = "what runs under the wide instructions must be compiled into the function that has them"
)]

use crate::digest::Digest;
use crate::lanes::avx512::{Lanes, Wide};

use super::{LEAF_BYTES, LEAF_DOMAIN};

/// Leaves that are hashed together.
pub(super) const LEAVES: usize = 16;

const BLOCK: usize = 64;
/// Bytes of the first block that the domain leaves to the leaf.
const FIRST: usize = BLOCK - LEAF_DOMAIN.len();
/// Bytes of the leaf in the last block.
const LAST: usize = (LEAF_BYTES - FIRST) % BLOCK;
const _: () = assert!(LAST + 9 <= BLOCK, "the padding fits the last block");

/// The digests of sixteen whole leaves that lie one behind the other.
pub(super) fn leaves(wide: Wide, bytes: &[u8; LEAVES * LEAF_BYTES]) -> [Digest; LEAVES] {
    wide.run(
        #[inline(always)]
        || hash(wide, bytes),
    )
}

#[inline(always)]
fn hash(wide: Wide, bytes: &[u8; LEAVES * LEAF_BYTES]) -> [Digest; LEAVES] {
    let leaves = bytes.as_chunks::<LEAF_BYTES>().0;
    let mut state = START.map(
        #[inline(always)]
        |word| wide.splat(word),
    );
    let mut rows = [wide.splat(0); LEAVES];
    let mut block = [0; BLOCK];
    block[..LEAF_DOMAIN.len()].copy_from_slice(LEAF_DOMAIN.as_bytes());
    for (row, leaf) in rows.iter_mut().zip(leaves) {
        block[LEAF_DOMAIN.len()..].copy_from_slice(&leaf[..FIRST]);
        *row = wide.load_big_endian(block);
    }
    compress(wide, &mut state, &rows);
    let mut from = FIRST;
    while from < LEAF_BYTES - LAST {
        for (row, leaf) in rows.iter_mut().zip(leaves) {
            let block = leaf[from..].first_chunk().expect("a block within the leaf");
            *row = wide.load_big_endian(*block);
        }
        compress(wide, &mut state, &rows);
        from = from.wrapping_add(BLOCK);
    }
    block = [0; BLOCK];
    block[LAST] = 0x80;
    let bits = (LEAF_DOMAIN.len() + LEAF_BYTES) as u64 * 8;
    block[BLOCK - 8..].copy_from_slice(&bits.to_be_bytes());
    for (row, leaf) in rows.iter_mut().zip(leaves) {
        block[..LAST].copy_from_slice(&leaf[LEAF_BYTES - LAST..]);
        *row = wide.load_big_endian(block);
    }
    compress(wide, &mut state, &rows);
    let words = state.map(Wide::store);
    core::array::from_fn(|leaf| {
        let mut digest = [0; 32];
        for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word[leaf].to_be_bytes();
        }
        Digest(digest)
    })
}

/// The compression function on one block of each leaf.
#[inline(always)]
fn compress(wide: Wide, state: &mut [Lanes; 8], blocks: &[Lanes; LEAVES]) {
    let mut w = wide.transpose(blocks);
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (group, constants) in ROUND.as_chunks::<16>().0.iter().enumerate() {
        for t in 0..16 {
            let choice = wide.ternary::<0xca>(e, f, g);
            let input = wide.add(w[t], wide.splat(constants[t]));
            let one = wide.add(wide.add(h, big_sigma_1(wide, e)), wide.add(choice, input));
            let majority = wide.ternary::<0xe8>(a, b, c);
            let two = wide.add(big_sigma_0(wide, a), majority);
            (h, g, f, e) = (g, f, e, wide.add(d, one));
            (d, c, b, a) = (c, b, a, wide.add(one, two));
            if group < 3 {
                let near = wide.add(w[t], small_sigma_0(wide, w[(t + 1) % 16]));
                let far = wide.add(w[(t + 9) % 16], small_sigma_1(wide, w[(t + 14) % 16]));
                w[t] = wide.add(near, far);
            }
        }
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = wide.add(*word, add);
    }
}

#[inline(always)]
fn xor3(wide: Wide, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
    wide.ternary::<0x96>(a, b, c)
}

#[inline(always)]
fn big_sigma_0(wide: Wide, x: Lanes) -> Lanes {
    let (a, b) = (wide.rotate_right::<2>(x), wide.rotate_right::<13>(x));
    xor3(wide, a, b, wide.rotate_right::<22>(x))
}

#[inline(always)]
fn big_sigma_1(wide: Wide, x: Lanes) -> Lanes {
    let (a, b) = (wide.rotate_right::<6>(x), wide.rotate_right::<11>(x));
    xor3(wide, a, b, wide.rotate_right::<25>(x))
}

#[inline(always)]
fn small_sigma_0(wide: Wide, x: Lanes) -> Lanes {
    let (a, b) = (wide.rotate_right::<7>(x), wide.rotate_right::<18>(x));
    xor3(wide, a, b, wide.shift_right::<3>(x))
}

#[inline(always)]
fn small_sigma_1(wide: Wide, x: Lanes) -> Lanes {
    let (a, b) = (wide.rotate_right::<17>(x), wide.rotate_right::<19>(x));
    xor3(wide, a, b, wide.shift_right::<10>(x))
}

/// The initial hash value (FIPS 180-4, section 5.3.3).
const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// The round constants (FIPS 180-4, section 4.2.2).
const ROUND: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_leaves_hash_as_each_does_alone() {
        let Some(wide) = Wide::detect() else {
            return;
        };
        let byte = |at: usize| u8::try_from(at * 7 % 253).expect("small");
        let bytes: Vec<_> = (0..LEAVES * LEAF_BYTES).map(byte).collect();
        let digests = leaves(wide, bytes.first_chunk().expect("sixteen leaves"));
        for (leaf, digest) in bytes.chunks(LEAF_BYTES).zip(digests) {
            assert_eq!(digest, Digest::of(LEAF_DOMAIN, &[leaf]));
        }
    }
}
