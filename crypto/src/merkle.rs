//! The Merkle root of a byte string: BLAKE3 (O'Connor et al., version 20211102171233), whose tree stands on chunks of
//! 1 KiB and so is hashed on all lanes and threads of a machine.
//!
//! The mode is `derive_key` (section 2.3): the domain is the context. Leaves, nodes and the root are told apart by the
//! flags of the compression function, and the form of the tree follows from the length, so a root binds the string's
//! length too.

use crate::digest::Digest;

/// The domain of vectors, their shards and sums.
const VECTOR: &str = "conclave/v1/vector";

/// Bytes from which on threads share the work.
const SHARED_BYTES: usize = 256 << 10;

/// The root of a vector's bytes: its name.
pub fn root(bytes: &[u8]) -> Digest {
    let mut tree = Tree::of_vector();
    tree.add(bytes);
    tree.root()
}

/// The tree over a string that comes in pieces, for its root.
#[derive(Debug, Clone)]
pub struct Tree(blake3::Hasher);

impl Tree {
    /// That of an empty string under a domain.
    pub(crate) fn under(domain: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(domain))
    }

    /// That of a vector none of whose bytes has come.
    pub fn of_vector() -> Self {
        Self::under(VECTOR)
    }

    /// The string goes on. Pieces of some ten KiB and more are hashed fastest.
    pub fn add(&mut self, piece: &[u8]) {
        if piece.len() < SHARED_BYTES {
            self.0.update(piece);
        } else {
            self.0.update_rayon(piece);
        }
    }

    /// The root of the string that has come.
    pub fn root(&self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [usize; 9] = [
        0,
        1,
        1023,
        1024,
        1025,
        16 << 10,
        (17 << 10) + 7,
        SHARED_BYTES,
        5 * SHARED_BYTES + 1,
    ];

    fn string(length: usize) -> Vec<u8> {
        (0..length)
            .map(|i| u8::try_from(i % 251).expect("small"))
            .collect()
    }

    #[test]
    fn every_byte_and_the_length_count() {
        for length in LENGTHS {
            let mut bytes = string(length);
            let base = root(&bytes);
            for at in [0, length / 2, length.saturating_sub(1)] {
                let mut other = bytes.clone();
                if let Some(byte) = other.get_mut(at) {
                    *byte ^= 1;
                    assert_ne!(root(&other), base, "byte {at} of {length}");
                }
            }
            bytes.push(0);
            assert_ne!(root(&bytes), base, "{length} and a zero");
        }
    }

    #[test]
    fn a_string_in_pieces_has_the_same_root() {
        for length in LENGTHS {
            let bytes = string(length);
            for piece in [1000, 4096, SHARED_BYTES - 1, 2 * SHARED_BYTES] {
                let mut tree = Tree::of_vector();
                for piece in bytes.chunks(piece) {
                    tree.add(piece);
                }
                tree.add(&[]);
                assert_eq!(tree.root(), root(&bytes), "{length} by {piece}");
            }
        }
    }

    #[test]
    fn domains_are_told_apart() {
        assert_ne!(Tree::under("one").root(), Tree::under("other").root());
    }
}
