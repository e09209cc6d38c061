//! What a session knows of the shards of its vectors: their names, who holds them, what stands in the own table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use conclave_crypto::digest::Digest;

use crate::limits;
use crate::message::Commit;
use crate::names::{MemberId, SumId};
use crate::output::{Stored, Table};
use crate::places::Places;
use crate::refusal::Refusal;
use crate::roster::Roster;
use crate::session::pull::{Pulls, Recent};
use crate::session::sums::{SumBook, Summing};
use crate::shard::{self, Cut, seats::Seats};
use crate::time::Time;

/// What a session knows of the shards of its vectors.
#[derive(Debug, Default)]
pub(crate) struct Sharding {
    pub(super) plan: Option<Plan>,
    /// The shards that we sum: a seat once taken is kept.
    pub(super) mine: BTreeSet<usize>,
    /// Members that were late when our seats were last counted.
    pub(super) late: Option<Places>,
    /// The Haves taken by then, and the Commits for which T_move was over.
    pub(super) late_at: Option<(u64, usize)>,
    /// When our seats may be counted again.
    pub(super) seats_at: Option<Time>,
    /// The names of the shards of each announced vector.
    pub(super) lists: BTreeMap<MemberId, Listed>,
    /// Of the shards that were asked for so far, whose has which name, ascending: one that copies another's Commit has
    /// the same.
    index: BTreeMap<usize, Vec<(Digest, MemberId)>>,
    /// Names of the shards and sums that stand in the own table.
    pub(super) held: BTreeSet<Digest>,
    /// R72. Names of the shards that we fetch for others.
    pub(super) for_others: BTreeSet<Digest>,
    /// R73. Commits whose vectors count as held: once counted, always.
    pub(super) counted: BTreeSet<Digest>,
    /// The Commits that fit the plan, in the order in which they came in.
    pub(super) announced: Vec<Fitting>,
    /// R73. Members that say that they hold all shards that call them, as [`Plan::calls`] has it.
    pub(super) complete: Places,
    /// Commits that came in, or that more members listed, since vectors were counted last.
    pub(super) stirred: BTreeSet<Digest>,
    /// Counts what came in of shards and sums, and what was found by that.
    pub(crate) news: u64,
    pub(super) have_at: Option<Time>,
    pub(super) pulls: Pulls,
    pub(crate) recent: Recent,
    /// Sums that we make.
    pub(super) summing: BTreeMap<usize, Summing>,
    /// Sums that we made, by name.
    pub(super) made: BTreeMap<usize, Digest>,
    /// R77. Sums that we made after the Reveals, from the vectors, by name.
    pub(super) remade: BTreeMap<usize, Digest>,
    pub(super) book: SumBook,
    /// R77. The sums were made a second time, from the vectors alone.
    pub(super) again: bool,
}

/// The cut and the seats of a height.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) sid: SumId,
    pub(super) cut: Cut,
    pub(super) seats: Seats,
    pub(super) replicas: usize,
    /// The places of all members with a seat at any rank.
    pub(super) seated: Places,
    /// R71. The places of those that are gone: they are not called.
    pub(super) gone: Places,
    /// The places of those that some shard calls among the first `replicas` that are not gone.
    pub(super) first: Places,
    /// The shards that call them so.
    pub(super) calls: BTreeMap<MemberId, Vec<u32>>,
    /// R79. Members whose tags are not relied on.
    pub(super) liars: BTreeSet<MemberId>,
}

impl Plan {
    /// R71. Every shard calls the first `replicas` in its order that are not gone.
    pub(super) fn call(&mut self, roster: &Roster, gone: Places) {
        self.gone = gone;
        let mut calls = BTreeMap::<MemberId, Vec<u32>>::new();
        for m in 0..self.cut.shards() {
            let named = u32::try_from(m).unwrap_or(u32::MAX);
            for id in self.called(roster, m).take(self.replicas) {
                calls.entry(id).or_default().push(named);
            }
        }
        self.first = calls.keys().filter_map(|id| roster.place(*id)).collect();
        self.calls = calls;
    }

    /// R71. The sharers that a shard calls, in their order, without those that are gone.
    pub(super) fn called<'a>(
        &'a self,
        roster: &'a Roster,
        m: usize,
    ) -> impl Iterator<Item = MemberId> + 'a {
        let here = |id: &MemberId| !roster.is_in(&self.gone, *id);
        self.seats.order(m).filter(here)
    }

    /// R72. The `replicas` sharers that a shard calls next behind those that hold its seats.
    pub(super) fn next_called<'a>(
        &'a self,
        roster: &'a Roster,
        m: usize,
    ) -> impl Iterator<Item = MemberId> + 'a {
        let called = self.called(roster, m);
        called.skip(self.replicas).take(self.replicas)
    }

    /// Whether a member's word that it holds shards of a vector proves anything: the author's does not, unless nobody
    /// else is asked to hold them.
    pub(super) fn bears_witness(&self, member: MemberId, author: MemberId) -> bool {
        self.replicas == 1 || member != author
    }
}

/// A Commit that announces a vector in shards under the plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fitting {
    pub(super) member: MemberId,
    pub(super) commit: Digest,
    pub(super) since: Time,
    /// T_move was over when it was looked at last.
    pub(super) over: bool,
    pub(super) counted: bool,
    /// How many of our seats' shards of it were found here, all that there were by then; 0 while one is lacking.
    pub(super) here: usize,
}

/// The shards of an announced vector.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) commit: Digest,
    /// What names them.
    body: Arc<Commit>,
}

impl Listed {
    /// Their names, in order.
    pub(super) fn names(&self) -> &[Digest] {
        &self.body.shards
    }
}

impl Sharding {
    /// R72. Takes up the names of an announced vector's shards: they give its root.
    pub(crate) fn take_commit(
        &mut self,
        sender: MemberId,
        commit: Digest,
        body: &Arc<Commit>,
    ) -> Result<(), Refusal> {
        let names = &body.shards;
        if names.is_empty() {
            return Ok(());
        }
        if names.len() > limits::SHARDS || shard::root(names) != body.root {
            return Err(Refusal::Rule);
        }
        for (m, known) in &mut self.index {
            let named = names.get(*m).map(|name| (*name, sender));
            if let Some(named) = named
                && let Err(at) = known.binary_search(&named)
            {
                known.insert(at, named);
            }
        }
        let body = Arc::clone(body);
        self.lists.insert(sender, Listed { commit, body });
        Ok(())
    }

    /// A shard is asked for: from now on its names are found by [`Self::places`].
    pub(super) fn find_by_name(&mut self, m: usize) {
        let lists = &self.lists;
        self.index.entry(m).or_insert_with(|| {
            let named =
                |(member, list): (&MemberId, &Listed)| Some((*list.names().get(m)?, *member));
            let mut known: Vec<_> = lists.iter().filter_map(named).collect();
            known.sort_unstable();
            known
        });
    }

    /// A record names another Commit of this member.
    pub(crate) fn forget(&mut self, member: MemberId) {
        if let Some(list) = self.lists.remove(&member) {
            for (m, known) in &mut self.index {
                let named = list.names().get(*m).map(|name| (*name, member));
                if let Some(at) = named.and_then(|named| known.binary_search(&named).ok()) {
                    known.remove(at);
                }
            }
        }
    }

    /// Takes up the names that an earlier run stored the bytes of: of shards, of own sums, and of sums that we keep.
    pub(crate) fn restore(&mut self, me: Option<MemberId>, stored: &Stored) {
        let made = me.map(|me| self.book.sums_of(me)).unwrap_or_default();
        let here = |name: &Digest| stored.contains_key(&(Table::Shards, name.as_bytes().to_vec()));
        let names = self.lists.values().flat_map(Listed::names);
        let listed = names.chain(self.book.listed());
        self.held.extend(listed.filter(|name| here(name)));
        self.made
            .extend(made.into_iter().filter(|(_, name)| here(name)));
    }

    /// The durable rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Table, Vec<u8>)> + '_ {
        self.held
            .iter()
            .map(|name| (Table::Shards, name.as_bytes().to_vec()))
    }

    /// A blob does not stand at home any more; whether it was to.
    pub(super) fn lose(&mut self, name: &Digest) -> bool {
        self.made.retain(|_, made| made != name);
        for fitting in &mut self.announced {
            fitting.here = 0;
        }
        self.held.remove(name)
    }

    /// Finds out of which announced vectors all shards that we are called to are here.
    pub(super) fn count_here(&mut self) {
        let (mine, held, lists) = (&self.mine, &self.held, &self.lists);
        for fitting in &mut self.announced {
            if fitting.here == mine.len() {
                continue;
            }
            let names = lists.get(&fitting.member).map(Listed::names);
            let held = |m: &usize| {
                names
                    .and_then(|names| names.get(*m))
                    .is_some_and(|name| held.contains(name))
            };
            fitting.here = if mine.iter().all(held) { mine.len() } else { 0 };
        }
    }

    /// The announced vectors of which all shards that we are called to were found here, or not.
    pub(super) fn whole(&self, here: bool) -> impl Iterator<Item = &Fitting> {
        let all = self.mine.len();
        self.announced
            .iter()
            .filter(move |fitting| (fitting.here == all) == here)
    }

    /// Something came in, or was found.
    pub(super) fn stir(&mut self) {
        self.news = self.news.saturating_add(1);
    }

    /// The name of a shard of an announced vector.
    pub(super) fn name(&self, member: MemberId, shard: usize) -> Option<Digest> {
        self.lists.get(&member)?.names().get(shard).copied()
    }

    /// Whose shard has this name, and which, of those that were asked for so far.
    pub(super) fn places(&self, name: &Digest) -> Vec<(MemberId, usize)> {
        let mut places = Vec::new();
        for (m, known) in &self.index {
            let first = known.partition_point(|(other, _)| other < name);
            let named = known.iter().skip(first);
            let named = named.take_while(|(other, _)| other == name);
            places.extend(named.map(|(_, member)| (*member, *m)));
        }
        places.sort_unstable();
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(names: &[u8]) -> Arc<Commit> {
        let shards: Vec<_> = names.iter().map(|name| Digest([*name; 32])).collect();
        Arc::new(Commit {
            sid: SumId(Digest([1; 32])),
            root: shard::root(&shards),
            length: 8,
            inline: None,
            shards,
        })
    }

    // R72
    #[test]
    fn names_are_found_of_the_shards_that_are_asked_for() {
        let mut sharding = Sharding::default();
        let take = |sharding: &mut Sharding, member, names: &[u8]| {
            sharding.take_commit(MemberId(member), Digest([9; 32]), &commit(names))
        };
        let places = |sharding: &Sharding, name| {
            let places = sharding.places(&Digest([name; 32]));
            let places = places.into_iter().map(|(member, m)| (member.0, m));
            places.collect::<Vec<_>>()
        };
        assert_eq!(take(&mut sharding, 1, &[7, 8]), Ok(()));
        assert_eq!(places(&sharding, 8), []);
        sharding.find_by_name(1);
        assert_eq!(places(&sharding, 8), [(1, 1)]);
        assert_eq!(places(&sharding, 7), []);
        // A copy, and the same bytes in another place.
        assert_eq!(take(&mut sharding, 3, &[7, 8]), Ok(()));
        assert_eq!(take(&mut sharding, 2, &[8, 6]), Ok(()));
        assert_eq!(places(&sharding, 8), [(1, 1), (3, 1)]);
        sharding.find_by_name(0);
        assert_eq!(places(&sharding, 8), [(1, 1), (2, 0), (3, 1)]);
        sharding.forget(MemberId(1));
        assert_eq!(places(&sharding, 8), [(2, 0), (3, 1)]);
        assert_eq!(places(&sharding, 7), [(3, 0)]);
        let mut other = commit(&[7, 8]);
        Arc::make_mut(&mut other).root = Digest([0; 32]);
        let refused = sharding.take_commit(MemberId(4), Digest([9; 32]), &other);
        assert_eq!(refused, Err(Refusal::Rule), "names of another root");
    }
}
