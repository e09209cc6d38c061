//! What was seen of late: looking at it again would bring nothing.

use std::collections::BTreeSet;

use conclave_crypto::digest::Digest;

/// Letters, by digest, of this generation and of the one before: what is older goes, and is looked at once more if it
/// ever comes again.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    young: BTreeSet<Digest>,
    old: BTreeSet<Digest>,
}

/// Letters of a generation: more than 200 members say in one height.
pub(super) const KEPT: usize = 65_536;

impl Seen {
    /// Whether a letter was not seen of late; from now on it was.
    pub(super) fn is_new(&mut self, letter: Digest) -> bool {
        if self.old.contains(&letter) || !self.young.insert(letter) {
            return false;
        }
        if self.young.len() >= KEPT {
            self.old = core::mem::take(&mut self.young);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_known_and_the_oldest_forgotten() {
        let mut seen = Seen::default();
        let letter = |n: usize| Digest::of("seen", &[&n.to_le_bytes()]);
        for n in 0..=2 * KEPT {
            assert!(seen.is_new(letter(n)), "{n}");
        }
        assert!(!seen.is_new(letter(2 * KEPT)), "of this generation");
        assert!(!seen.is_new(letter(KEPT)), "of the one before");
        assert!(seen.is_new(letter(KEPT - 1)), "forgotten");
    }
}
