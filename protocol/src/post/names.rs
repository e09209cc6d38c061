//! The names of what a session holds, as a Want tells them: kept in order as it comes in. R50

use conclave_crypto::digest::Digest;

/// The first eight bytes of a digest.
pub(crate) type Name = [u8; 8];

/// The name of what has this digest.
pub(super) fn name(digest: &Digest) -> Name {
    *digest
        .as_bytes()
        .first_chunk()
        .expect("a digest has 32 bytes")
}

/// Sorts names that are in order already but for the last.
#[expect(
    clippy::stable_sort_primitive,
    reason = "stable sorting takes parts that are in order as they are"
)]
pub(super) fn sort(names: &mut [Name]) {
    names.sort();
}

/// Names of what is held.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Ascending.
    sorted: Vec<Name>,
    /// What came since they were sorted.
    fresh: Vec<Name>,
}

impl Names {
    pub(super) fn add(&mut self, digest: &Digest) {
        self.fresh.push(name(digest));
    }

    pub(super) fn remove(&mut self, digest: &Digest) {
        let name = name(digest);
        if let Ok(at) = self.ascending().binary_search(&name) {
            self.sorted.remove(at);
        }
    }

    /// All of them, ascending.
    pub(super) fn ascending(&mut self) -> &[Name] {
        if !self.fresh.is_empty() {
            self.sorted.append(&mut self.fresh);
            sort(&mut self.sorted);
        }
        &self.sorted
    }

    /// Whether each of them is among others that ascend.
    pub(super) fn are_among(&mut self, others: &[Name]) -> bool {
        let mut others = others.iter();
        let mut own = self.ascending().iter();
        own.all(|name| others.find(|other| *other >= name) == Some(name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest([byte; 32])
    }

    proptest! {
        #[test]
        fn they_ascend_and_are_found(steps: Vec<(bool, bool, u8)>, others: BTreeSet<u8>) {
            let (mut names, mut held) = (Names::default(), BTreeSet::new());
            let all = |bytes: &BTreeSet<u8>| bytes.iter().map(|byte| name(&digest(*byte))).collect::<Vec<_>>();
            for (adds, looks, byte) in steps {
                if adds && held.insert(byte) {
                    names.add(&digest(byte));
                } else if !adds {
                    held.remove(&byte);
                    names.remove(&digest(byte));
                }
                if looks {
                    prop_assert_eq!(names.ascending(), all(&held));
                    prop_assert_eq!(names.are_among(&all(&others)), held.is_subset(&others));
                }
            }
        }
    }
}
