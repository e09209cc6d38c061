//! What is gathered of the sums of all shards: which are here, which wait for tags, which are summed from the vectors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use conclave_crypto::check;

use crate::names::MemberId;
use crate::session::pieces::Seeds;
use crate::shard::Cut;
use crate::shard::tag::Challenge;
use crate::time::Time;

/// The sums of all shards, as they come in.
#[derive(Debug)]
pub(crate) struct Gathering {
    pub(super) challenge: Challenge,
    pub(super) since: Time,
    pub(super) seeds: Arc<Seeds>,
    /// The sum in the ring, written shard by shard.
    pub(super) total: Vec<u32>,
    /// Shards whose sum is known to be right.
    pub(super) done: BTreeSet<usize>,
    /// Sums that are here and wait for tags: their product with the challenge.
    pub(super) claims: BTreeMap<usize, u64>,
    /// Shards that are summed from the vectors.
    pub(super) direct: BTreeSet<usize>,
    /// Those of them for which there was no sum, or nobody to hand it over: it is asked for as well.
    pub(super) beside: BTreeSet<usize>,
    /// Tags that we computed from the vectors.
    pub(super) computed: BTreeMap<(MemberId, usize), u64>,
}

impl Gathering {
    pub(super) fn new(
        challenge: Challenge,
        since: Time,
        coordinates: usize,
        seeds: Arc<Seeds>,
    ) -> Self {
        Self {
            challenge,
            since,
            total: vec![0; coordinates],
            seeds,
            done: BTreeSet::new(),
            claims: BTreeMap::new(),
            direct: BTreeSet::new(),
            beside: BTreeSet::new(),
            computed: BTreeMap::new(),
        }
    }

    /// R77. These are summed from the vectors alone: nobody's sum of them is taken.
    pub(super) fn make_direct(&mut self, shards: Vec<usize>) {
        for m in &shards {
            self.beside.remove(m);
        }
        self.direct.extend(shards);
    }

    /// R77. These are summed from the vectors, and their sums are asked for as well.
    pub(super) fn make_beside(&mut self, shards: Vec<usize>) {
        self.direct.extend(&shards);
        self.beside.extend(shards);
    }

    /// R76. What the tags say of sums that were here.
    pub(super) fn settle(&mut self, right: Vec<usize>, wrong: Vec<usize>) {
        for m in right.iter().chain(&wrong) {
            self.claims.remove(m);
        }
        self.done.extend(right);
        self.make_direct(wrong);
    }

    /// Whether somebody's sum of a shard would be taken.
    pub(super) fn may_take(&self, m: usize) -> bool {
        let direct = self.direct.contains(&m) && !self.beside.contains(&m);
        !direct && !self.claims.contains_key(&m)
    }

    pub(super) fn write(&mut self, cut: &Cut, m: usize, bytes: &[u8]) {
        if let Some(place) = self.total.get_mut(cut.range(m)) {
            check::ring_of_sum(bytes, place);
        }
    }
}

#[cfg(test)]
mod tests {
    use conclave_crypto::digest::Digest;

    use super::*;
    use crate::names::SessId;

    #[test]
    fn a_sum_that_nobody_had_is_taken_when_it_comes_but_none_that_is_disputed() {
        // R77
        let challenge = Challenge::new(&SessId(Digest::ZERO), &Digest::ZERO, core::iter::empty());
        let mut gathering = Gathering::new(challenge, Time(0), 8, Arc::default());
        gathering.make_beside(vec![1, 2, 3]);
        gathering.make_direct(vec![1]);
        let takes = |gathering: &Gathering| {
            let shards = 0..4;
            shards
                .filter(|m| gathering.may_take(*m))
                .collect::<Vec<_>>()
        };
        assert_eq!(takes(&gathering), [0, 2, 3]);
        gathering.claims.extend([(2, 7), (3, 7)]);
        assert_eq!(takes(&gathering), [0], "they wait for their tags");
        gathering.settle(vec![2], vec![3]);
        assert!(gathering.done.contains(&2) && gathering.claims.is_empty());
        // What the tags are against comes from the vectors alone.
        assert!(gathering.direct.contains(&3) && !gathering.may_take(3));
    }
}
