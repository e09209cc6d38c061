//! Who says that it holds which vectors: the members' Haves, turned round. R16, R73

use std::collections::BTreeMap;

use conclave_crypto::digest::Digest;

use crate::message::Have;
use crate::places::Places;

/// The members' newest Haves.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// By Commit: the places of the members whose newest Have lists it.
    places: BTreeMap<Digest, Places>,
    /// Counts the Haves that were taken.
    pub(crate) news: u64,
}

impl Claims {
    /// Takes a member's newest Have in the place of the one before, both ascending. Calls `new` with every Commit that
    /// it listed not before.
    pub(crate) fn take(
        &mut self,
        place: usize,
        before: Option<&Have>,
        have: &Have,
        mut new: impl FnMut(Digest),
    ) {
        self.news = self.news.saturating_add(1);
        let old = before.map_or(&[][..], |before| before.commits.as_slice());
        for gone in old.iter().filter(|commit| !lists(have, commit)) {
            if let Some(places) = self.places.get_mut(gone) {
                places.remove(place);
                if *places == Places::default() {
                    self.places.remove(gone);
                }
            }
        }
        let known = |commit: &&Digest| old.binary_search(commit).is_ok();
        for commit in have.commits.iter().filter(|commit| !known(commit)) {
            self.places.entry(*commit).or_default().insert(place);
            new(*commit);
        }
    }

    /// Who lists a Commit.
    pub(crate) fn of(&self, commit: &Digest) -> Places {
        self.places.get(commit).copied().unwrap_or_default()
    }
}

fn lists(have: &Have, commit: &Digest) -> bool {
    have.commits.binary_search(commit).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn have(commits: &[u8]) -> Have {
        let commits = commits.iter().map(|commit| Digest([*commit; 32]));
        Have {
            commits: commits.collect(),
            shards: Vec::new(),
        }
    }

    #[test]
    fn the_newest_word_of_each_member_counts() {
        let mut claims = Claims::default();
        let mut new = Vec::new();
        claims.take(4, None, &have(&[1, 3]), |commit| new.push(commit.0[0]));
        claims.take(7, None, &have(&[3]), |_| {});
        claims.take(4, Some(&have(&[1, 3])), &have(&[2, 3, 5]), |commit| {
            new.push(commit.0[0]);
        });
        assert_eq!(new, [1, 3, 2, 5]);
        let of = |commit: u8| claims.of(&Digest([commit; 32]));
        assert_eq!(of(1), Places::default());
        assert_eq!(of(2), Places::from_iter([4]));
        assert_eq!(of(3), Places::from_iter([4, 7]));
        assert_eq!(of(9), Places::default());
    }
}
