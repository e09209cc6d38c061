//! The Merkle root of a byte string over 4 KiB leaves, with leaves and nodes told apart (as RFC 6962, section 2.1).

use crate::digest::Digest;

/// Bytes in a leaf.
pub const LEAF_BYTES: usize = 4096;

/// The root over the chunks of `bytes`; an empty string has one empty leaf.
///
/// An odd node at the end of a level moves up as it is. The length is not bound: a `Commit` states it beside the root.
pub fn root(bytes: &[u8]) -> Digest {
    let mut level: Vec<Digest> = bytes.chunks(LEAF_BYTES).map(leaf).collect();
    if level.is_empty() {
        level.push(leaf(&[]));
    }
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => {
                    Digest::of("conclave/v1/node", &[left.as_bytes(), right.as_bytes()])
                }
                [single] => *single,
                _ => unreachable!("chunks of two"),
            })
            .collect();
    }
    level.first().copied().expect("a level is never empty")
}

fn leaf(chunk: &[u8]) -> Digest {
    Digest::of("conclave/v1/chunk", &[chunk])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts() {
        for length in [
            0,
            1,
            LEAF_BYTES - 1,
            LEAF_BYTES,
            LEAF_BYTES + 1,
            3 * LEAF_BYTES,
            5 * LEAF_BYTES + 7,
        ] {
            let bytes: Vec<u8> = (0..length)
                .map(|i| u8::try_from(i % 251).expect("small"))
                .collect();
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
    fn a_node_is_no_leaf() {
        let two = root(&[7; 2 * LEAF_BYTES]);
        let inner = [leaf(&[7; LEAF_BYTES]).0, leaf(&[7; LEAF_BYTES]).0].concat();
        assert_ne!(root(&inner), two);
    }
}
