//! The Merkle root of a byte string over 4 KiB leaves, with leaves and nodes told apart (as RFC 6962, section 2.1).
//!
//! An odd node at the end of a level moves up as it is. The root does not bind the length: a `Commit` states it
//! beside the root, and [`verify`] asks for it.

#[cfg(target_arch = "x86_64")]
mod wide;

use rayon::prelude::*;

use crate::digest::Digest;
#[cfg(target_arch = "x86_64")]
use crate::lanes::avx512::Wide;

/// Bytes in a leaf.
pub const LEAF_BYTES: usize = 4096;

/// Bytes that one thread hashes at a time: 64 leaves.
const BYTES_TOGETHER: usize = 64 * LEAF_BYTES;

const LEAF_DOMAIN: &str = "conclave/v1/chunk";

/// The root over the chunks of `bytes`; an empty string has one empty leaf.
pub fn root(bytes: &[u8]) -> Digest {
    Leaves(leaves(bytes)).root()
}

/// The leaves of a string that comes in pieces, for its root.
#[derive(Debug, Clone, Default)]
pub struct Leaves(Vec<Digest>);

impl Leaves {
    /// The string goes on: by whole leaves, but for its last piece.
    pub fn add(&mut self, piece: &[u8]) {
        if !piece.is_empty() {
            self.0.append(&mut leaves(piece));
        }
    }

    /// The root of the string that has come, as [`root`] makes it.
    pub fn root(self) -> Digest {
        let mut level = self.0;
        if level.is_empty() {
            level.push(leaf(&[]));
        }
        while level.len() > 1 {
            level = parents(&level);
        }
        level.first().copied().expect("a level is never empty")
    }
}

/// The siblings from leaf `index` up to the root; `None` if there is no such leaf.
pub fn prove(bytes: &[u8], index: usize) -> Option<Vec<Digest>> {
    let mut level = leaves(bytes);
    let mut at = (index < level.len()).then_some(index)?;
    let mut proof = Vec::new();
    while level.len() > 1 {
        proof.extend(level.get(at ^ 1).copied());
        level = parents(&level);
        at >>= 1;
    }
    Some(proof)
}

/// Whether `chunk` is leaf `index` of a string of `length` bytes with this root, as `proof` says.
pub fn verify(root: &Digest, length: u64, index: u64, chunk: &[u8], proof: &[Digest]) -> bool {
    if expected_len(length, index) != u64::try_from(chunk.len()).ok() {
        return false;
    }
    let (mut node, mut at, mut width) = (leaf(chunk), index, leaf_count(length));
    let mut siblings = proof.iter();
    while width > 1 {
        let is_left = at & 1 == 0;
        // The odd node at the end moves up alone.
        if !is_left || at.saturating_add(1) < width {
            let Some(sibling) = siblings.next() else {
                return false;
            };
            node = if is_left {
                join(&node, sibling)
            } else {
                join(sibling, &node)
            };
        }
        at >>= 1;
        width = width.div_ceil(2);
    }
    siblings.next().is_none() && node == *root
}

/// Leaves of a string of `length` bytes: at least one.
pub fn leaf_count(length: u64) -> u64 {
    length.div_ceil(LEAF_BYTES as u64).max(1)
}

/// Bytes of leaf `index`; `None` if there is no such leaf.
fn expected_len(length: u64, index: u64) -> Option<u64> {
    let start = index.checked_mul(LEAF_BYTES as u64)?;
    let rest = length.checked_sub(start)?;
    (rest > 0 || index == 0).then_some(rest.min(LEAF_BYTES as u64))
}

fn leaves(bytes: &[u8]) -> Vec<Digest> {
    if bytes.is_empty() {
        return vec![leaf(&[])];
    }
    let mut digests = vec![Digest::ZERO; bytes.len().div_ceil(LEAF_BYTES)];
    digests
        .par_chunks_mut(BYTES_TOGETHER / LEAF_BYTES)
        .zip(bytes.par_chunks(BYTES_TOGETHER))
        .for_each(|(digests, bytes)| hash_leaves(bytes, digests));
    digests
}

/// The digest of each leaf of `bytes`: sixteen at a time where the machine can, then one by one.
fn hash_leaves(bytes: &[u8], digests: &mut [Digest]) {
    let (mut bytes, mut digests) = (bytes, digests);
    #[cfg(target_arch = "x86_64")]
    if let Some(wide) = Wide::detect() {
        let (groups, rest) = bytes.as_chunks();
        let (sixteens, others) = digests.split_at_mut(groups.len().saturating_mul(wide::LEAVES));
        for (group, sixteen) in groups.iter().zip(sixteens.as_chunks_mut().0) {
            *sixteen = wide::leaves(wide, group);
        }
        (bytes, digests) = (rest, others);
    }
    for (chunk, digest) in bytes.chunks(LEAF_BYTES).zip(digests) {
        *digest = leaf(chunk);
    }
}

fn parents(level: &[Digest]) -> Vec<Digest> {
    let (pairs, rest) = level.as_chunks::<2>();
    pairs
        .iter()
        .map(|[left, right]| join(left, right))
        .chain(rest.iter().copied())
        .collect()
}

fn leaf(chunk: &[u8]) -> Digest {
    Digest::of(LEAF_DOMAIN, &[chunk])
}

fn join(left: &Digest, right: &Digest) -> Digest {
    Digest::of("conclave/v1/node", &[left.as_bytes(), right.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [usize; 9] = [
        0,
        1,
        LEAF_BYTES - 1,
        LEAF_BYTES,
        LEAF_BYTES + 1,
        3 * LEAF_BYTES,
        5 * LEAF_BYTES + 7,
        11 * LEAF_BYTES,
        300 * LEAF_BYTES + 1,
    ];

    fn string(length: usize) -> Vec<u8> {
        (0..length)
            .map(|i| u8::try_from(i % 251).expect("small"))
            .collect()
    }

    #[test]
    fn every_byte_counts() {
        for length in LENGTHS {
            let bytes = string(length);
            let base = root(&bytes);
            for at in [0, length / 2, length.saturating_sub(1)] {
                let mut other = bytes.clone();
                if let Some(byte) = other.get_mut(at) {
                    *byte ^= 1;
                    assert_ne!(root(&other), base, "byte {at} of {length}");
                }
            }
        }
    }

    #[test]
    fn a_string_in_pieces_has_the_same_root() {
        for length in LENGTHS {
            let bytes = string(length);
            for piece in [1, 3, 64, 301] {
                let mut leaves = Leaves::default();
                for piece in bytes.chunks(piece * LEAF_BYTES) {
                    leaves.add(piece);
                }
                leaves.add(&[]);
                assert_eq!(leaves.root(), root(&bytes), "{length} by {piece} leaves");
            }
        }
    }

    #[test]
    fn every_leaf_opens_at_its_place_only() {
        for length in LENGTHS {
            let bytes = string(length);
            let (base, long) = (root(&bytes), length as u64);
            let chunks: Vec<&[u8]> = if length == 0 {
                vec![&[]]
            } else {
                bytes.chunks(LEAF_BYTES).collect()
            };
            assert_eq!(leaf_count(long), chunks.len() as u64);
            for (index, chunk) in chunks.iter().enumerate() {
                let proof = prove(&bytes, index).expect("a leaf");
                let at = index as u64;
                assert!(
                    verify(&base, long, at, chunk, &proof),
                    "leaf {at} of {length}"
                );
                assert!(!verify(&base, long, at + 1, chunk, &proof));
                assert!(!verify(&Digest::ZERO, long, at, chunk, &proof));
                assert!(!verify(
                    &base,
                    long,
                    at,
                    chunk,
                    &[proof.clone(), vec![base]].concat()
                ));
                if let Some((_, fewer)) = proof.split_last() {
                    assert!(!verify(&base, long, at, chunk, fewer));
                }
                if let Some((_, shorter)) = chunk.split_last() {
                    assert!(!verify(&base, long, at, shorter, &proof));
                }
            }
            assert_eq!(prove(&bytes, chunks.len()), None);
        }
    }

    #[test]
    fn a_node_is_no_leaf() {
        let two = root(&[7; 2 * LEAF_BYTES]);
        let inner = [leaf(&[7; LEAF_BYTES]).0, leaf(&[7; LEAF_BYTES]).0].concat();
        assert_ne!(root(&inner), two);
    }
}
