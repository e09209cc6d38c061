//! Gathering: everybody pulls the sums of all shards, checks each against the survivors' tags, and sums again from the
//! vectors what is missing, disputed or wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use conclave_crypto::digest::Digest;

use crate::desk::Desk;
use crate::envelope::Kind;
use crate::letter::Bytes;
use crate::message::Tags;
use crate::names::MemberId;
use crate::params;
use crate::session::Session;
use crate::session::gathering::Gathering;
use crate::session::pieces::Seeds;
use crate::session::pull::{Source, Wanted};
use crate::session::sums::{FixedSums, Summing};
use crate::shard::Cut;
use crate::shard::tag::{self, Challenge};

/// After so many failed pulls of a sum it is made from the vectors.
const FAILURES: usize = 3;

/// Sums that are made from the vectors at a time.
pub(super) const SUMS_TOGETHER: usize = 4;

impl Session {
    /// R75, R76, R77. Everything is revealed: checks the dealings, gathers the sums, opens when they are complete.
    pub(super) fn open_shards(&mut self, desk: &mut Desk) {
        self.plan_shards(desk);
        let Some(cut) = self.cut().filter(|_| self.survivors_fit()) else {
            return;
        };
        if self.opening.gathering.is_none() {
            let Some(seeds) = self.rebuild(desk) else {
                return;
            };
            self.opening.result = self.judge_dealings(desk, &seeds);
            if self.opening.result.is_some() {
                return;
            }
            self.begin_gathering(desk, seeds);
        }
        self.gather(desk, &cut);
        while self.opening.gathering.is_some() && self.pull_shards(desk) {
            self.gather(desk, &cut);
        }
    }

    /// One look at what is here; opens when the sums are complete and the own tags are out.
    fn gather(&mut self, desk: &mut Desk, cut: &Cut) {
        self.say_tags(desk, cut);
        self.choose_sums(desk, cut);
        self.check_claims();
        let said = self.tags_due(desk).is_none();
        let complete = |gathering: &Gathering| said && gathering.done.len() == cut.shards();
        let gathering = &mut self.opening.gathering;
        if let Some(Gathering { seeds, total, .. }) = gathering.take_if(|known| complete(known)) {
            self.unseat_liars(desk);
            self.opening.result = self.apply_sum(desk, &seeds, total);
        }
    }

    /// R76. Our id, if we are a survivor whose tags are not out yet.
    fn tags_due(&self, desk: &Desk) -> Option<MemberId> {
        let called = self.opening.called.as_ref()?;
        let me = self.speaker(desk)?;
        let due = called.survivors.contains_key(&me) && !self.said(desk, Kind::Tags);
        due.then_some(me)
    }

    fn begin_gathering(&mut self, desk: &Desk, seeds: Arc<Seeds>) {
        let (Some(work), Some(called)) = (&self.work, &self.opening.called) else {
            return;
        };
        let all = self
            .cut()
            .filter(|_| self.sharding.again)
            .map_or(0, |cut| cut.shards());
        let direct = (0..all)
            .filter(|m| !self.sharding.made.contains_key(m))
            .collect();
        let opened = seeds
            .iter()
            .map(|((id, which), seed)| (*id, *which, &**seed));
        let challenge = Challenge::new(&self.sess, &called.record, opened);
        let mut gathering = Gathering::new(challenge, desk.now, work.coordinates, seeds);
        gathering.make_direct(direct);
        self.sharding.summing.clear();
        self.opening.gathering = Some(gathering);
    }

    /// R76. A survivor publishes the tags of its vector, all at once.
    fn say_tags(&mut self, desk: &mut Desk, cut: &Cut) {
        let (Some(me), Some(called)) = (self.tags_due(desk), &self.opening.called) else {
            return;
        };
        let Some(gathering) = &self.opening.gathering else {
            return;
        };
        let tags = (0..cut.shards()).map(|m| gathering.computed.get(&(me, m)).copied());
        let Some(tags) = tags.collect::<Option<Vec<_>>>() else {
            return;
        };
        let record = called.record;
        let envelope = desk.sign(Kind::Tags, self.sess, 0, &Tags { record, tags });
        self.say(desk, &envelope);
    }

    /// R77. Decides which shards are summed from the vectors: no sum of them is fixed, or several that differ, or the
    /// one that is cannot be had. Unless several differ a sum is still asked for beside the vectors: it may come before
    /// the last of them.
    fn choose_sums(&mut self, desk: &mut Desk, cut: &Cut) {
        let Some(gathering) = &self.opening.gathering else {
            return;
        };
        let waited = desk.due(gathering.since + desk.timers().sync);
        let (fixed, none) = (self.fixed_sums(), BTreeMap::new());
        let (mut direct, mut beside) = (Vec::new(), Vec::new());
        for m in 0..cut.shards() {
            let settled = gathering.done.contains(&m) || gathering.claims.contains_key(&m);
            if settled || self.sharding.made.contains_key(&m) {
                continue;
            }
            let fixed = fixed.get(&m).unwrap_or(&none);
            let lost = |name| self.sharding.pulls.failures(name) >= FAILURES;
            if fixed.len() > 1 {
                direct.push(m);
            } else if !gathering.direct.contains(&m)
                && (fixed.is_empty() && waited || fixed.keys().any(lost))
            {
                beside.push(m);
            }
        }
        if let Some(gathering) = &mut self.opening.gathering {
            gathering.make_direct(direct);
            gathering.make_beside(beside);
        }
        self.begin_direct_sums();
    }

    fn begin_direct_sums(&mut self) {
        let Some(gathering) = &self.opening.gathering else {
            return;
        };
        let open = gathering
            .direct
            .difference(&gathering.done)
            .take(SUMS_TOGETHER);
        for m in open.copied().collect::<Vec<_>>() {
            self.begin_sum(m);
        }
    }

    /// R76. Checks the sums that are here against the tags that are here; a wrong one is summed from the vectors.
    fn check_claims(&mut self) {
        let (Some(called), Some(gathering)) = (&self.opening.called, &self.opening.gathering)
        else {
            return;
        };
        if gathering.claims.is_empty() {
            return;
        }
        // Most looks come before the tags are in.
        let computed: BTreeSet<_> = gathering.computed.keys().map(|(id, _)| id).collect();
        let tagged = self.sharding.book.tagged().saturating_add(computed.len());
        if tagged < called.survivors.len() {
            return;
        }
        let (mut right, mut wrong) = (Vec::new(), Vec::new());
        for (m, product) in &gathering.claims {
            let tag = |id: &MemberId| self.tag(*id, *m);
            let tags = called.survivors.keys().map(tag).collect::<Option<Vec<_>>>();
            let Some(tags) = tags else { continue };
            if tags.into_iter().fold(0, tag::add) == *product {
                right.push(*m);
            } else {
                wrong.push(*m);
            }
        }
        let Some(gathering) = &mut self.opening.gathering else {
            return;
        };
        for m in &right {
            self.sharding.summing.remove(m);
        }
        gathering.settle(right, wrong);
        self.begin_direct_sums();
    }

    /// R76. The tag of a survivor's shard: computed here from the vector, else as its author published it.
    fn tag(&self, member: MemberId, m: usize) -> Option<u64> {
        let gathering = self.opening.gathering.as_ref()?;
        let computed = gathering.computed.get(&(member, m)).copied();
        computed.or_else(|| self.published_tag(member, m))
    }

    /// What gathering still wants: the own vector for its tags, the sums, and the shards of survivors without tags.
    pub(super) fn wanted_for_gathering(&self, desk: &mut Desk, cut: &Cut) -> Vec<Wanted> {
        let (Some(gathering), Some(called)) = (&self.opening.gathering, &self.opening.called)
        else {
            return Vec::new();
        };
        let mut wanted = Vec::new();
        if let Some(me) = self.tags_due(desk) {
            let open = (0..cut.shards()).filter(|m| !gathering.computed.contains_key(&(me, *m)));
            wanted.extend(open.filter_map(|m| self.wanted_shard(me, m, cut)));
        }
        let fixed = self.fixed_sums();
        for m in (0..cut.shards()).filter(|m| !gathering.done.contains(m)) {
            let length = cut.sum_bytes(m);
            if !gathering.may_take(m) {
                continue;
            }
            if let Some(name) = self.sharding.made.get(&m) {
                wanted.push(Wanted::new(*name, m, length, Source::Here));
            } else if let Some((name, _)) = fixed.get(&m).and_then(BTreeMap::first_key_value) {
                wanted.push(Wanted::new(*name, m, length, Source::Makers));
            }
        }
        if gathering.claims.is_empty() {
            return wanted;
        }
        let late = desk.due(gathering.since + self.moving(desk));
        let liars = self.sharding.plan.as_ref().map(|plan| &plan.liars);
        let gone = self.gone(desk);
        let asked = |id: &MemberId| {
            let liar = liars.is_some_and(|liars| liars.contains(id));
            late || liar || self.roster.is_in(&gone, *id)
        };
        let untagged = |id: &&MemberId| asked(id) && self.published_tag(**id, 0).is_none();
        let untagged: Vec<_> = called.survivors.keys().filter(untagged).collect();
        for m in gathering.claims.keys() {
            let missing = untagged.iter().filter(|id| self.tag(***id, *m).is_none());
            wanted.extend(missing.filter_map(|id| self.wanted_shard(**id, *m, cut)));
        }
        wanted
    }

    /// R62. The survivors of whose vectors a shard is wanted in vain: for a sum that must be made from the vectors, or
    /// for a tag that was not published; nobody if those are more than f.
    pub(super) fn unserved(&self) -> BTreeSet<MemberId> {
        let (Some(gathering), Some(called)) = (&self.opening.gathering, &self.opening.called)
        else {
            return BTreeSet::new();
        };
        // A sum that is here and waits for tags needs no vectors.
        let direct = gathering.direct.difference(&gathering.done);
        let direct = direct.filter(|m| !gathering.claims.contains_key(m));
        let begun = direct.filter_map(|m| self.sharding.summing.get(m));
        let tagless = gathering.claims.keys().flat_map(|m| {
            let survivors = called.survivors.keys().copied();
            survivors.filter(|id| self.tag(*id, *m).is_none())
        });
        let missing: BTreeSet<_> = begun.flat_map(Summing::missing).chain(tagless).collect();
        // More than may lie are slow, or we are.
        if missing.len() > params::faults(self.roster.len()) {
            return BTreeSet::new();
        }
        missing
    }

    /// R76, R79. Computes the tag of a shard that is here; who published another one lied.
    pub(super) fn tag_shard(
        &mut self,
        desk: &mut Desk,
        member: MemberId,
        m: usize,
        bytes: &[u8],
    ) -> bool {
        let published = self.published_tag(member, m);
        let called = self.opening.called.as_ref();
        let counts = called.is_some_and(|called| called.survivors.contains_key(&member));
        let Some(gathering) = self.opening.gathering.as_mut().filter(|_| counts) else {
            return false;
        };
        if gathering.computed.contains_key(&(member, m)) {
            return false;
        }
        let tag = gathering.challenge.of_vector(m, bytes);
        gathering.computed.insert((member, m), tag);
        if published.is_some_and(|published| published != tag) {
            desk.unseat(member, "published a false tag of its vector");
        }
        true
    }

    /// Takes a pulled sum: the own one is right, another's waits for the tags. Whether it was wanted.
    pub(super) fn take_sum(&mut self, desk: &mut Desk, name: &Digest, bytes: &Bytes) -> bool {
        let (Some(cut), Some(gathering)) = (self.cut(), &self.opening.gathering) else {
            return false;
        };
        let open = |m: &usize| !gathering.done.contains(m) && gathering.may_take(*m);
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let fixed = self.fixed_sums();
        let is_it = |m: &usize| {
            let made = self.sharding.made.get(m);
            let named = made.map_or_else(|| is_fixed(&fixed, *m, name), |made| made == name);
            named && cut.sum_bytes(*m) == length
        };
        let wanted = (0..cut.shards())
            .filter(open)
            .filter(is_it)
            .collect::<Vec<_>>();
        for m in &wanted {
            let (m, made) = (*m, self.sharding.made.contains_key(m));
            let Some(gathering) = &mut self.opening.gathering else {
                return false;
            };
            if made {
                gathering.write(&cut, m, bytes);
                gathering.done.insert(m);
            } else if let Some(place) = gathering.total.get_mut(cut.range(m)) {
                let product = gathering.challenge.of_sum(m, bytes, place);
                gathering.claims.insert(m, product);
            }
            self.keep_sum(desk, m, *name, bytes);
        }
        !wanted.is_empty()
    }

    /// R77. Takes a sum that we made from the vectors, because no other could be relied on.
    pub(super) fn take_own_sum(&mut self, desk: &mut Desk, m: usize, name: Digest, bytes: &Bytes) {
        let (Some(cut), Some(gathering)) = (self.cut(), &mut self.opening.gathering) else {
            return;
        };
        gathering.write(&cut, m, bytes);
        gathering.done.insert(m);
        gathering.claims.remove(&m);
        self.sharding.remade.insert(m, name);
        self.keep_sum(desk, m, name, bytes);
    }

    /// R79. Who committed to another sum of a shard than the vectors give here lied.
    fn unseat_liars(&self, desk: &mut Desk) {
        let fixed = self.fixed_sums();
        let made = self.sharding.made.iter().chain(&self.sharding.remade);
        for (m, name) in made {
            let sums = fixed.get(m).into_iter().flatten();
            for liar in sums
                .filter(|(other, _)| *other != name)
                .flat_map(|(_, makers)| makers)
            {
                desk.unseat(*liar, "committed to a false sum of a shard");
            }
        }
    }

    /// R77. A sum is not here any more. Where all are made from the vectors, it is too if it was ours.
    pub(super) fn sum_lost(&mut self, name: &Digest) {
        let (made, again) = (&self.sharding.made, self.sharding.again);
        if let Some(gathering) = self.opening.gathering.as_mut().filter(|_| again) {
            let lost = made.iter().filter(|(_, made)| *made == name);
            gathering.make_direct(lost.map(|(m, _)| *m).collect());
        }
    }

    /// R77. Another result than ours is proposed: what we took from others is summed again from the vectors, once.
    pub(crate) fn sum_again(&mut self, desk: &Desk) -> bool {
        let again =
            self.is_sharded(desk) && !self.sharding.again && self.opening.gathering.is_none();
        if again {
            self.sharding.again = true;
            self.opening.result = None;
            if let Some(called) = &mut self.opening.called {
                called.since = desk.now;
            }
        }
        again
    }
}

fn is_fixed(fixed: &FixedSums, m: usize, name: &Digest) -> bool {
    fixed.get(&m).is_some_and(|sums| sums.contains_key(name))
}
