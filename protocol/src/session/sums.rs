//! Sums of shards: made by the holders of the seats over the recorded survivors, and fixed before anything is revealed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use conclave_crypto::digest::Digest;
use conclave_crypto::merkle;

use crate::desk::Desk;
use crate::envelope::Kind;
use crate::letter::Bytes;
use crate::limits;
use crate::message::{Reveal, SumCommit, Tags};
use crate::names::MemberId;
use crate::output::Table;
use crate::params;
use crate::refusal::Refusal;
use crate::session::Session;
use crate::session::gather::SUMS_TOGETHER;
use crate::session::pull::Wanted;
use crate::session::sharding::Sharding;
use crate::shard::sum::Tally;
use crate::time::Span;

/// A sum that is being made.
#[derive(Debug)]
pub(crate) struct Summing {
    tally: Tally,
    /// Whose vectors are still to be added.
    missing: BTreeSet<MemberId>,
}

impl Summing {
    /// Whose vectors are still to be added.
    pub(super) fn missing(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.missing.iter().copied()
    }
}

/// What members say of sums.
#[derive(Debug, Default)]
pub(crate) struct SumBook {
    commits: BTreeMap<MemberId, Announced>,
    /// The SumCommits that each member's Reveal names, with the Reveal's record.
    names: BTreeMap<MemberId, (Digest, BTreeSet<Digest>)>,
    /// How many Reveals under a record name a SumCommit, by both.
    named: BTreeMap<(Digest, Digest), usize>,
    tags: BTreeMap<MemberId, Arc<Tags>>,
    /// The sums that count by all that is known, worked out once.
    fixed: OnceLock<Arc<FixedSums>>,
}

/// Sums by shard and name, with who made them.
pub(super) type FixedSums = BTreeMap<usize, BTreeMap<Digest, Vec<MemberId>>>;

/// The sums of a member, by shard.
#[derive(Debug)]
struct Announced {
    digest: Digest,
    record: Digest,
    sums: BTreeMap<usize, Digest>,
}

impl Session {
    /// R74. Sums the shards that we are called to over the recorded survivors, and commits to what we have, at the
    /// latest half of T_move after the decision.
    pub(crate) fn sum_shards(&mut self, desk: &mut Desk) {
        let Some(called) = &self.opening.called else {
            return;
        };
        let (record, since) = (called.record, called.since);
        let over = self.opening.gathering.is_some() || self.opening.result.is_some();
        if !self.is_sharded(desk) || self.said(desk, Kind::SumCommit) || over {
            return;
        }
        self.plan_shards(desk);
        if !self.survivors_fit() {
            return;
        }
        if self.sharding.mine.is_empty() {
            self.take_seats(desk);
        }
        if self.sharding.mine.is_empty() || self.speaker(desk).is_none() {
            return;
        }
        while self.begin_sums() && self.pull_shards(desk) {}
        let lacking = self.sharding.mine.len() > self.sharding.made.len();
        let half = Span(self.moving(desk).0.checked_div(2).unwrap_or(0));
        let over = desk.due(since + half);
        if lacking && !over || self.sharding.made.is_empty() {
            return;
        }
        let named = |(m, name): (&usize, &Digest)| Some((u32::try_from(*m).ok()?, *name));
        let sums = self.sharding.made.iter().filter_map(named).collect();
        let body = SumCommit { record, sums };
        let envelope = desk.sign(Kind::SumCommit, self.sess, 0, &body);
        self.say(desk, &envelope);
    }

    /// R31. Whether every Commit that we hold of a survivor is the recorded one: then it stays.
    pub(super) fn survivors_fit(&mut self) -> bool {
        let sid = self.sharding.plan.as_ref().map(|plan| plan.sid);
        if sid.is_some() && self.opening.fits == sid {
            return true;
        }
        let called = self.opening.called.as_ref();
        let fits = |(id, commit): (&MemberId, &Digest)| self.fitting(*id) == Some(*commit);
        let all = called.is_some_and(|called| called.survivors.iter().all(fits));
        self.opening.fits = sid.filter(|_| all);
        all
    }

    /// Begins the next few sums of the shards that we are called to; false if all are made.
    fn begin_sums(&mut self) -> bool {
        let (mine, made) = (&self.sharding.mine, &self.sharding.made);
        let open = mine.iter().filter(|m| !made.contains_key(m));
        let open: Vec<_> = open.copied().take(SUMS_TOGETHER).collect();
        for m in &open {
            self.begin_sum(*m);
        }
        !open.is_empty()
    }

    /// Begins the sum of a shard over the recorded survivors, if it is not begun.
    pub(super) fn begin_sum(&mut self, m: usize) {
        let (Some(called), Some(cut)) = (&self.opening.called, self.cut()) else {
            return;
        };
        let missing = || called.survivors.keys().copied().collect();
        self.sharding.summing.entry(m).or_insert_with(|| Summing {
            tally: Tally::new(cut.range(m).len()),
            missing: missing(),
        });
    }

    /// Adds a shard of a survivor's vector to the sum that is being made of it; whether it was still missing there.
    pub(super) fn add_to_sum(
        &mut self,
        desk: &mut Desk,
        member: MemberId,
        m: usize,
        bytes: &[u8],
    ) -> bool {
        let Some(summing) = self.sharding.summing.get_mut(&m) else {
            return false;
        };
        if !summing.missing.contains(&member) || !summing.tally.add(bytes) {
            return false;
        }
        summing.missing.remove(&member);
        if !summing.missing.is_empty() {
            return true;
        }
        let sum = Bytes::from(summing.tally.to_bytes());
        self.sharding.summing.remove(&m);
        let name = merkle::root(&sum);
        if self.opening.gathering.is_some() {
            self.take_own_sum(desk, m, name, &sum);
        } else {
            desk.store(Table::Shards, name.as_bytes().to_vec(), sum.clone());
            self.sharding.recent.keep(name, &sum);
            self.sharding.held.insert(name);
            self.sharding.made.insert(m, name);
        }
        true
    }

    /// What is still wanted for the sums that are being made, and for those that are being gathered.
    pub(super) fn wanted_for_sums(&self, desk: &mut Desk) -> Vec<Wanted> {
        let Some(cut) = self.cut() else {
            return Vec::new();
        };
        let mut wanted = self.wanted_for_gathering(desk, &cut);
        for (m, summing) in &self.sharding.summing {
            let missing = summing.missing.iter();
            wanted.extend(missing.filter_map(|id| self.wanted_shard(*id, *m, &cut)));
        }
        wanted
    }

    /// R75. Whether the sums are fixed, so that something may be revealed: all that said they hold their shards of all
    /// survivors, and are not gone, have committed to their sums, and every shard has one; or T_move is over.
    pub(crate) fn sums_are_in(&self, desk: &mut Desk) -> bool {
        if !self.is_sharded(desk) {
            return true;
        }
        let Some(called) = &self.opening.called else {
            return false;
        };
        let moving = self.moving(desk);
        if desk.due(called.since + moving) {
            return true;
        }
        let Some(plan) = self.sharding.plan.as_ref() else {
            return false;
        };
        let book = &self.sharding.book;
        let has_one = |m| {
            book.under(&called.record)
                .any(|announced| announced.sums.contains_key(&m))
        };
        if !(0..plan.cut.shards()).all(has_one) {
            return false;
        }
        let listed = |commit: &Digest| self.submissions.claims.of(commit);
        let commits = called.survivors.values().map(listed);
        let hold_all = commits.reduce(|one, other| one.and(&other));
        let hold_all = hold_all.unwrap_or_default();
        let awaited = hold_all.without(&self.gone(desk));
        let sharers = self.work.iter().flat_map(|work| work.sharers.keys());
        let mut sharers = sharers.filter(|id| self.roster.is_in(&awaited, **id));
        sharers.all(|id| {
            let announced = book.commits.get(id);
            announced.is_some_and(|announced| announced.record == called.record)
        })
    }

    /// R75. The sums that count, by shard, with who made them: those in SumCommits that so many Reveals name that they
    /// stood before anybody could know the challenge.
    pub(super) fn fixed_sums(&self) -> Arc<FixedSums> {
        if self.opening.called.is_none() || self.sharding.plan.is_none() {
            return Arc::default();
        }
        let fixed = &self.sharding.book.fixed;
        Arc::clone(fixed.get_or_init(|| Arc::new(self.find_fixed_sums())))
    }

    fn find_fixed_sums(&self) -> FixedSums {
        let (mut called_to, mut others) = (FixedSums::new(), FixedSums::new());
        let (Some(called), Some(plan)) = (&self.opening.called, self.sharding.plan.as_ref()) else {
            return called_to;
        };
        let (n, book) = (self.roster.len(), &self.sharding.book);
        let least = n
            .saturating_sub(params::quorum(n))
            .saturating_add(params::faults(n))
            .saturating_add(1);
        for (id, announced) in &book.commits {
            if announced.record != called.record || book.naming(announced) < least {
                continue;
            }
            for (m, name) in &announced.sums {
                // R77, R79  The holders of the seats count, others only for shards of which those say nothing.
                let sums = match plan.seats.rank(*m, *id) {
                    Some(rank) if rank < plan.replicas => &mut called_to,
                    Some(_) => &mut others,
                    None => continue,
                };
                let makers = sums.entry(*m).or_default().entry(*name).or_default();
                makers.push(*id);
            }
        }
        for (m, sums) in others {
            called_to.entry(m).or_insert(sums);
        }
        called_to
    }

    /// R76. The tag of a survivor's shard, as it published it.
    pub(super) fn published_tag(&self, member: MemberId, m: usize) -> Option<u64> {
        let (called, cut) = (self.opening.called.as_ref()?, self.cut()?);
        let known_liar = self.sharding.plan.as_ref()?.liars.contains(&member);
        let tags = self
            .sharding
            .book
            .tags
            .get(&member)
            .filter(|_| !known_liar)?;
        let fits = tags.record == called.record && tags.tags.len() == cut.shards();
        tags.tags.get(m).copied().filter(|_| fits)
    }
}

impl SumBook {
    /// Something was said, or other seats were drawn: what counts is worked out again.
    pub(super) fn stir(&mut self) {
        self.fixed.take();
    }

    /// The names of all sums that anybody committed to.
    pub(super) fn listed(&self) -> impl Iterator<Item = &Digest> {
        let commits = self.commits.values();
        commits.flat_map(|announced| announced.sums.values())
    }

    /// The sums that a member committed to.
    pub(super) fn sums_of(&self, member: MemberId) -> Vec<(usize, Digest)> {
        let sums = self.commits.get(&member).map(|announced| &announced.sums);
        sums.into_iter()
            .flatten()
            .map(|(m, name)| (*m, *name))
            .collect()
    }

    /// How many Reveals under its record name a SumCommit.
    fn naming(&self, announced: &Announced) -> usize {
        let name = (announced.record, announced.digest);
        self.named.get(&name).copied().unwrap_or(0)
    }

    /// How many members published tags.
    pub(super) fn tagged(&self) -> usize {
        self.tags.len()
    }

    fn under(&self, record: &Digest) -> impl Iterator<Item = &Announced> {
        self.commits
            .values()
            .filter(move |announced| announced.record == *record)
    }
}

impl Sharding {
    /// R74. Takes a member's sums.
    pub(crate) fn take_sums(
        &mut self,
        sender: MemberId,
        digest: Digest,
        body: &SumCommit,
    ) -> Result<(), Refusal> {
        let ascending = body.sums.is_sorted_by(|(one, _), (other, _)| one < other);
        if body.sums.len() > limits::SHARDS || !ascending {
            return Err(Refusal::Rule);
        }
        let sums = body
            .sums
            .iter()
            .filter_map(|(m, name)| Some((usize::try_from(*m).ok()?, *name)));
        let announced = Announced {
            digest,
            record: body.record,
            sums: sums.collect(),
        };
        self.book.commits.insert(sender, announced);
        self.book.stir();
        Ok(())
    }

    /// R76. Takes a member's tags.
    pub(crate) fn take_tags(&mut self, sender: MemberId, body: Arc<Tags>) -> Result<(), Refusal> {
        let small = |tag: &u64| *tag < crate::shard::tag::PRIME;
        if body.tags.len() > limits::SHARDS || !body.tags.iter().all(small) {
            return Err(Refusal::Rule);
        }
        self.book.tags.insert(sender, body);
        Ok(())
    }

    /// R75. Takes the SumCommits that a Reveal names.
    pub(crate) fn take_names(&mut self, sender: MemberId, body: &Reveal) {
        let names: BTreeSet<_> = body.sums.iter().copied().collect();
        let book = &mut self.book;
        for name in &names {
            let named = book.named.entry((body.record, *name)).or_default();
            *named = named.saturating_add(1);
        }
        let before = book.names.insert(sender, (body.record, names));
        let (record, names) = before.unwrap_or_default();
        for name in names {
            if let Some(named) = book.named.get_mut(&(record, name)) {
                *named = named.saturating_sub(1);
            }
        }
        self.book.stir();
    }

    /// R75. The SumCommits that our Reveal names: fixed by the first.
    pub(crate) fn named_by_us(&self, me: MemberId, record: &Digest) -> Vec<Digest> {
        if let Some((_, names)) = self
            .book
            .names
            .get(&me)
            .filter(|(under, _)| under == record)
        {
            return names.iter().copied().collect();
        }
        let seen: BTreeSet<_> = self
            .book
            .under(record)
            .map(|announced| announced.digest)
            .collect();
        seen.into_iter().collect()
    }
}
