//! Pulls of shards and sums: a few at a time, repeated until they are here, looked for at home first.

use std::collections::BTreeMap;

use conclave_crypto::digest::Digest;
use conclave_crypto::merkle;
use conclave_crypto::sign::PublicKey;

use crate::desk::Desk;
use crate::envelope::Kind;
use crate::letter::Bytes;
use crate::names::MemberId;
use crate::output::{Output, Table};
use crate::session::Session;
use crate::time::{Span, Time};

/// Pulls that may be under way at a time.
const TOGETHER: usize = 256;

/// Bytes that they may ask for in all: bounds what is in memory at once.
const TOGETHER_BYTES: u64 = 64 << 20;

/// The pulls of one session: of its shards and sums, or of its whole vectors.
#[derive(Debug, Default)]
pub(crate) struct Pulls(BTreeMap<Digest, Pull>);

/// Bytes that [`Recent`] keeps.
const RECENT: usize = 64 << 20;

/// Blobs of the own table whose bytes are still in memory, so that small vectors are read back from no disk.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    blobs: BTreeMap<Digest, Bytes>,
    length: usize,
}

/// A blob that was asked for.
#[derive(Debug)]
struct Pull {
    /// When it may be asked for again.
    again: Time,
    /// How often nobody could hand it over.
    failures: usize,
    under_way: bool,
    length: u64,
}

/// A blob that is wanted: a shard of a vector, or of a sum.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: Digest,
    /// Which shard.
    pub(super) shard: usize,
    pub(super) length: u64,
    pub(super) from: Source,
}

/// Where a wanted blob may be had.
#[derive(Debug)]
pub(super) enum Source {
    /// It stands in the own table.
    Here,
    /// From the author of a vector, and from those that say they hold this shard of it.
    Holders(MemberId),
    /// The same for one that fetches it for others: the author, which they may keep busy, is asked last.
    Witnesses(MemberId),
    /// The sum of a shard: from the members that made it, and from its keepers.
    Makers,
}

impl Wanted {
    pub(super) const fn new(name: Digest, shard: usize, length: u64, from: Source) -> Self {
        Self {
            name,
            shard,
            length,
            from,
        }
    }
}

impl Pulls {
    /// How often nobody could hand a blob over.
    pub(super) fn failures(&self, name: &Digest) -> usize {
        self.0.get(name).map_or(0, |pull| pull.failures)
    }

    /// Whether it is time to ask for a blob, for the first time or again.
    pub(super) fn may_ask(&self, desk: &mut Desk, name: &Digest) -> bool {
        self.0.get(name).is_none_or(|pull| desk.due(pull.again))
    }

    /// Whom to ask for a blob, in order. After each failure another holder comes first: one that gives wrong bytes, of
    /// which only the whole tells, keeps nobody from those that give the right ones. Others always stand behind them.
    pub(super) fn order(
        &self,
        name: &Digest,
        mut from: Vec<PublicKey>,
        behind: Vec<PublicKey>,
    ) -> Vec<PublicKey> {
        let first = self.failures(name).checked_rem(from.len()).unwrap_or(0);
        from.rotate_left(first);
        from.extend(behind);
        from
    }

    /// Asks these members for a blob, one after the other.
    pub(super) fn ask(&mut self, desk: &mut Desk, name: Digest, length: u64, from: Vec<PublicKey>) {
        let failures = self.failures(&name);
        let patience = Span(desk.timers().have.0.max(desk.timers().sync.0));
        let pull = Pull {
            again: desk.now + patience,
            failures,
            under_way: true,
            length,
        };
        self.0.insert(name, pull);
        desk.tray.push_back(Output::Pull { name, length, from });
    }

    /// Notes that nobody could hand a blob over, which is asked for again soon; false if it was not asked for.
    pub(super) fn fail(&mut self, desk: &Desk, name: &Digest) -> bool {
        let Some(pull) = self.0.get_mut(name) else {
            return false;
        };
        pull.failures = pull.failures.saturating_add(1);
        pull.under_way = false;
        pull.again = desk.now + desk.timers().sync;
        true
    }
}

impl Recent {
    /// Keeps the bytes, as long as there is room.
    pub(super) fn keep(&mut self, name: Digest, bytes: &Bytes) {
        let length = self.length.saturating_add(bytes.len());
        if length <= RECENT && self.blobs.insert(name, bytes.clone()).is_none() {
            self.length = length;
        }
    }

    /// A blob stands in its table: it is kept as it stands there.
    pub(crate) fn settle(&mut self, name: &Digest, bytes: &Bytes) {
        if let Some(held) = self
            .blobs
            .get_mut(name)
            .filter(|held| held.len() == bytes.len())
        {
            *held = bytes.clone();
        }
    }

    fn get(&self, name: &Digest) -> Option<&Bytes> {
        self.blobs.get(name)
    }
}

impl Session {
    /// R72. Asks for what is wanted of shards and sums, a few at a time; what is in memory is taken at once.
    /// Whether anything was taken: then more may be due.
    pub(crate) fn pull_shards(&mut self, desk: &mut Desk) -> bool {
        if !self.is_sharded(desk) || self.opening.result.is_some() {
            return false;
        }
        self.sharding.count_here();
        let mut wanted = self.wanted_for_sums(desk);
        wanted.extend(self.wanted_for_seats(desk));
        wanted.extend(self.wanted_for_others(desk));
        for shard in wanted.iter().map(|wanted| wanted.shard) {
            self.sharding.find_by_name(shard);
        }
        let pulls = &mut self.sharding.pulls.0;
        if !pulls.is_empty() {
            let mut names: Vec<_> = wanted.iter().map(|wanted| wanted.name).collect();
            names.sort_unstable();
            // What is under way takes room until it ends.
            pulls.retain(|name, pull| pull.under_way || names.binary_search(name).is_ok());
        }
        let running = pulls.values().filter(|pull| pull.under_way);
        let (mut under_way, mut bytes) = running.fold((0_usize, 0_u64), |(count, bytes), pull| {
            (count.saturating_add(1), bytes.saturating_add(pull.length))
        });
        let mut here = BTreeMap::new();
        for blob in wanted {
            let Wanted {
                name,
                shard,
                length,
                from,
            } = blob;
            if let Some(bytes) = self.sharding.recent.get(&name) {
                here.insert(name, bytes.clone());
                continue;
            }
            let known = self.sharding.pulls.0.get(&name);
            let running = known.is_some_and(|pull| pull.under_way);
            let full = under_way >= TOGETHER || bytes >= TOGETHER_BYTES;
            if !running && full || !self.sharding.pulls.may_ask(desk, &name) {
                continue;
            }
            if !running {
                under_way = under_way.saturating_add(1);
                bytes = bytes.saturating_add(length);
            }
            let (first, behind) = match from {
                Source::Here => (Vec::new(), Vec::new()),
                Source::Holders(member) => self.holders(member, shard),
                Source::Witnesses(member) => {
                    let (mut first, behind) = self.holders(member, shard);
                    first.rotate_left(1);
                    (first, behind)
                }
                Source::Makers => self.makers(desk, shard, &name),
            };
            let (first, behind) = (self.others(desk, first), self.others(desk, behind));
            let pulls = &mut self.sharding.pulls;
            let from = pulls.order(&name, first, behind);
            pulls.ask(desk, name, length, from);
        }
        let mut taken = false;
        for (name, bytes) in &here {
            taken |= self.take_blob(desk, *name, bytes);
        }
        taken
    }

    /// R73. The shards that we are called to and do not hold yet, of every vector that may still count.
    fn wanted_for_seats(&self, desk: &Desk) -> Vec<Wanted> {
        let cut = self.cut().filter(|_| !self.sharding.mine.is_empty());
        let Some(cut) = cut else {
            return Vec::new();
        };
        if self.said(desk, Kind::SumCommit) || self.opening.gathering.is_some() {
            return Vec::new();
        }
        let called = self.opening.called.as_ref();
        let counts = |id: &MemberId| called.is_none_or(|called| called.survivors.contains_key(id));
        let mut wanted = Vec::new();
        let lacking = self.sharding.whole(false);
        for fitting in lacking.filter(|fitting| counts(&fitting.member)) {
            // Most of them are here.
            let open = |m: &&usize| {
                let name = self.sharding.name(fitting.member, **m);
                name.is_some_and(|name| !self.sharding.held.contains(&name))
            };
            let open = self.sharding.mine.iter().filter(open);
            wanted.extend(open.filter_map(|m| self.wanted_shard(fitting.member, *m, &cut)));
        }
        wanted
    }

    /// A shard of a vector: at home, or from its author and from those that say they hold it.
    pub(super) fn wanted_shard(
        &self,
        member: MemberId,
        shard: usize,
        cut: &crate::shard::Cut,
    ) -> Option<Wanted> {
        let name = self.sharding.name(member, shard)?;
        let from = if self.sharding.held.contains(&name) {
            Source::Here
        } else {
            Source::Holders(member)
        };
        self.fitting(member)?;
        let length = cut.bytes(shard);
        Some(Wanted::new(name, shard, length, from))
    }

    /// The keys of these members but our own.
    pub(super) fn others(
        &self,
        desk: &Desk,
        members: impl IntoIterator<Item = MemberId>,
    ) -> Vec<PublicKey> {
        let keys = members.into_iter();
        let keys = keys.filter_map(|id| self.roster.key(id).copied());
        keys.filter(|key| *key != desk.key).collect()
    }

    /// R72. The author of a vector, and those that say they hold a shard of it, in the order in which that calls them;
    /// behind them those that may have fetched it for others.
    fn holders(&self, member: MemberId, shard: usize) -> (Vec<MemberId>, Vec<MemberId>) {
        let (mut from, mut behind) = (vec![member], Vec::new());
        if let (Some(plan), Some(commit)) = (&self.sharding.plan, self.fitting(member)) {
            let others = plan.seats.order(shard).filter(|id| *id != member);
            from.extend(others.filter(|id| self.covers(*id, &commit, shard)));
            let next = plan.next_called(&self.roster, shard);
            behind.extend(next.filter(|id| !from.contains(id)));
        }
        (from, behind)
    }

    /// R77. Those that made this sum of a shard, and its keepers. The members ask the makers in turn, so that each
    /// serves its part.
    fn makers(&self, desk: &Desk, m: usize, name: &Digest) -> (Vec<MemberId>, Vec<MemberId>) {
        let fixed = self.fixed_sums();
        let made_by = fixed.get(&m).and_then(|sums| sums.get(name));
        let mut made_by = made_by.cloned().unwrap_or_default();
        let keepers = self.keepers(m, &made_by);
        let plan = self.sharding.plan.as_ref().zip(desk.me);
        let rank = plan.and_then(|(plan, me)| plan.seats.rank(m, me));
        let first = rank.unwrap_or(0).checked_rem(made_by.len()).unwrap_or(0);
        made_by.rotate_left(first);
        (made_by, keepers)
    }

    /// Takes a blob that was pulled, if it is a shard of a vector or of a sum; its bytes must give its name.
    /// `None`: nobody asks for it here.
    pub(crate) fn shard_pulled(
        &mut self,
        desk: &mut Desk,
        name: Digest,
        bytes: &Bytes,
    ) -> Option<bool> {
        if !self.sharding.pulls.0.contains_key(&name) {
            return None;
        }
        if merkle::root(bytes) != name {
            self.shard_missed(desk, name);
            return Some(false);
        }
        if self.take_blob(desk, name, bytes) {
            self.sharding.pulls.0.remove(&name);
        } else {
            self.sharding.pulls.fail(desk, &name);
        }
        Some(true)
    }

    /// R72. Takes a blob of this name for all that it is wanted for, as a sum and as a shard: others choose the names
    /// that their Commits list. False if it is wanted for nothing of its length.
    fn take_blob(&mut self, desk: &mut Desk, name: Digest, bytes: &Bytes) -> bool {
        self.sharding.stir();
        let mut taken = self.take_sum(desk, &name, bytes);
        let (cut, length) = (self.cut(), u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        for (member, m) in self.sharding.places(&name) {
            if cut.is_none_or(|cut| cut.bytes(m) != length) {
                continue;
            }
            let kept = self.sharding.mine.contains(&m) || self.sharding.for_others.contains(&name);
            if kept && self.sharding.held.insert(name) {
                desk.store(Table::Shards, name.as_bytes().to_vec(), bytes.clone());
                self.sharding.recent.keep(name, bytes);
                taken = true;
            }
            taken |= self.add_to_sum(desk, member, m, bytes);
            taken |= self.tag_shard(desk, member, m, bytes);
        }
        taken
    }

    /// A pull of ours failed: ask again soon, and others too if it was to stand at home and was damaged there.
    pub(crate) fn shard_missed(&mut self, desk: &mut Desk, name: Digest) {
        if !self.sharding.pulls.fail(desk, &name) {
            return;
        }
        self.sum_lost(&name);
        if self.sharding.lose(&name) {
            // What is not known any more is not left behind.
            desk.erase(Table::Shards, name.as_bytes().to_vec());
        }
        self.sharding.stir();
    }
}

#[cfg(test)]
mod tests {
    use conclave_crypto::sign::IdentityKey;

    use super::*;

    // R77
    #[test]
    fn makers_take_turns_and_keepers_stand_behind_them() {
        let key = |byte| IdentityKey::from_bytes(&[byte; 32]).public();
        let (makers, keepers) = (vec![key(1), key(2)], vec![key(3), key(4)]);
        let name = Digest([9; 32]);
        for (failures, order) in [(0, [1, 2, 3, 4]), (1, [2, 1, 3, 4]), (2, [1, 2, 3, 4])] {
            let pull = Pull {
                again: Time(0),
                failures,
                under_way: false,
                length: 4,
            };
            let pulls = Pulls(BTreeMap::from([(name, pull)]));
            let asked = pulls.order(&name, makers.clone(), keepers.clone());
            assert_eq!(asked, order.map(key), "{failures} failures");
            assert_eq!(pulls.order(&name, Vec::new(), keepers.clone()), keepers);
        }
    }
}
