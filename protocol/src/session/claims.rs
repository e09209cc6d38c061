//! Who says that it holds which vectors: the members' Haves, turned round. R16, R73

use conclave_crypto::digest::Digest;

use crate::message::Have;
use crate::places::Places;

/// The members' newest Haves.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// By Commit, ascending: the places of the members whose newest Have lists it.
    places: Vec<(Digest, Places)>,
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
        // Lists and places ascend: one walk along all three.
        let mut olds = old.iter().peekable();
        let mut known = self.places.iter_mut().peekable();
        let mut unknown = Vec::new();
        for commit in &have.commits {
            while olds.next_if(|old| *old < commit).is_some() {}
            if olds.next_if_eq(&commit).is_some() {
                continue;
            }
            while known.next_if(|(at, _)| at < commit).is_some() {}
            match known.next_if(|(at, _)| at == commit) {
                Some((_, places)) => {
                    places.insert(place);
                }
                None => unknown.push((*commit, Places::from_iter([place]))),
            }
            new(*commit);
        }
        if !unknown.is_empty() {
            self.places.extend(unknown);
            self.places.sort_unstable_by_key(|(commit, _)| *commit);
        }
        for gone in old.iter().filter(|commit| !lists(have, commit)) {
            if let Ok(at) = self.find(gone)
                && let Some((_, places)) = self.places.get_mut(at)
            {
                places.remove(place);
            }
        }
        self.places
            .retain(|(_, places)| *places != Places::default());
    }

    /// Who lists a Commit.
    pub(crate) fn of(&self, commit: &Digest) -> Places {
        let found = self.find(commit).ok().and_then(|at| self.places.get(at));
        found.map(|(_, places)| *places).unwrap_or_default()
    }

    fn find(&self, commit: &Digest) -> Result<usize, usize> {
        self.places.binary_search_by_key(commit, |(at, _)| *at)
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
