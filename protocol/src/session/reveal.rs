//! Reveal: the shares that the decided record calls for become public, once a session.

use std::sync::Arc;

use conclave_crypto::dealing::{Secret, Share};
use conclave_crypto::digest::Digest;

use crate::desk::Desk;
use crate::envelope::Kind;
use crate::journal::Journal;
use crate::limits;
use crate::memo::Function;
use crate::message::{Reveal, Revealed};
use crate::names::MemberId;
use crate::post::Slot;
use crate::record::Entry;
use crate::refusal::Refusal;
use crate::session::Session;
use crate::session::open::Called;
use crate::session::pieces::{Row, Target};

impl Session {
    /// The height is decided: its record may call for a sum.
    pub(crate) fn settle(&mut self, desk: &Desk, entry: &Entry) {
        let Some(survivors) = &entry.record.survivors else {
            return;
        };
        for (member, digest) in &survivors.commits {
            self.post.pin(Slot::of(Kind::Commit, *member), *digest);
        }
        self.opening.called = Some(Called {
            record: entry.digest,
            sid: survivors.sid,
            survivors: survivors.commits.iter().copied().collect(),
            since: desk.now,
        });
        self.sharding.book.stir();
    }

    /// Whose secrets the record calls for: self seeds of survivors, pair keys of the other sharers.
    pub(crate) fn targets(&self) -> Vec<(MemberId, Secret)> {
        let (Some(work), Some(called)) = (&self.work, &self.opening.called) else {
            return Vec::new();
        };
        let which = |member: &MemberId| {
            if called.survivors.contains_key(member) {
                Secret::SelfSeed
            } else {
                Secret::PairKey
            }
        };
        work.sharers
            .keys()
            .map(|member| (*member, which(member)))
            .collect()
    }

    /// R30, R31. Reveals what the record calls for, and adds shares that arrive later. Holders outside S do too.
    pub(crate) fn reveal(&mut self, desk: &mut Desk, journal: &mut Journal) {
        let (Some(me), Some(called)) = (self.speaker(desk), &self.opening.called) else {
            return;
        };
        let all = self.work.as_ref().map_or(0, |work| work.sharers.len());
        // What was revealed before stays; more there is only when something came in.
        let again = self.opening.shares_at == Some(self.dealings.news);
        if self.opening.revealed >= all || again && self.opening.revealed > 0 {
            return;
        }
        // R31  Not without the chain: every recorded Commit is here and carries the record's masking context.
        let proper = called.survivors.iter().all(|(member, digest)| {
            let commit = self.submissions.commits.get(member);
            commit.is_some_and(|commit| commit.digest == *digest && commit.sid == called.sid)
        });
        if !proper || !self.sums_are_in(desk) {
            return;
        }
        let shares = self.own_shares();
        self.opening.shares_at = Some(self.dealings.news);
        if shares.len() <= self.opening.revealed {
            return;
        }
        let record = called.record;
        if !journal.permit(desk, self.sess, record) {
            desk.warn(format!(
                "height {} was revealed under another record before: nothing is revealed",
                self.height.0
            ));
            self.opening.revealed = usize::MAX;
            return;
        }
        self.opening.revealed = shares.len();
        let seq = self.next_seq(me, Kind::Reveal);
        let sums = self.sharding.named_by_us(me, &record);
        let body = Reveal {
            record,
            shares,
            sums,
        };
        let envelope = desk.sign(Kind::Reveal, self.sess, seq, &body);
        self.say(desk, &envelope);
    }

    /// R62. Who acknowledged dealings of this height's sharers and has not revealed all that the record calls for, and
    /// whose vector cannot be had.
    pub(crate) fn silent(&self) -> Vec<MemberId> {
        let Some(work) = &self.work else {
            return Vec::new();
        };
        // Who cannot judge shares accuses nobody.
        if !self.has_recorded_deals() {
            return Vec::new();
        }
        // The targets are the sharers in their order.
        let ackers = work.sharers.values().map(|sharer| &sharer.ackers);
        let ackers: Vec<_> = ackers.map(|ids| self.roster.places(ids)).collect();
        let unserved = self.unserved();
        let withholds = |(place, holder): (usize, MemberId)| {
            let mut held = ackers.iter().enumerate().filter(|(_, ackers)| {
                let ackers = ackers.as_ref();
                ackers.is_some_and(|ackers| ackers.contains(place))
            });
            let pieces = &self.opening.pieces;
            let shown = |at| self.roster.x(holder).is_some_and(|x| pieces.shown(x, at));
            let withheld = held.any(|(at, _)| !shown(at)) || unserved.contains(&holder);
            withheld.then_some(holder)
        };
        let members = self.roster.ids().enumerate();
        members.filter_map(withholds).collect()
    }

    fn own_shares(&self) -> Vec<Revealed> {
        let ours = |(dealer, which): (MemberId, Secret)| {
            let sharer = self.work.as_ref()?.sharers.get(&dealer)?;
            let portion = self.dealings.shares.get(&dealer)?;
            if portion.deal != sharer.deal {
                return None;
            }
            let share = match which {
                Secret::SelfSeed => &portion.own,
                Secret::PairKey => &portion.pair,
            };
            Some(Revealed {
                dealer,
                which,
                share: share.share,
                salt: share.salt,
            })
        };
        self.targets().into_iter().filter_map(ours).collect()
    }

    pub(crate) fn take_reveal(
        &mut self,
        sender: MemberId,
        digest: Digest,
        body: Arc<Reveal>,
    ) -> Result<(), Refusal> {
        if body.shares.len() > limits::MEMBERS || body.sums.len() > limits::MEMBERS {
            return Err(Refusal::Rule);
        }
        self.sharding.take_names(sender, &body);
        self.opening.reveals.insert(sender, (digest, body));
        Ok(())
    }

    /// R31. Sorts the reveals: only shares that the record calls for and that fit the recorded leaves count.
    pub(crate) fn collect(&mut self, desk: &mut Desk) {
        let Some(called) = &self.opening.called else {
            return;
        };
        let record = called.record;
        if self.opening.reveals.is_empty() {
            return;
        }
        self.opening.dealt = self.opening.dealt || self.has_recorded_deals();
        if !self.opening.dealt {
            return;
        }
        let targets = self.targets();
        for (holder, (digest, reveal)) in core::mem::take(&mut self.opening.reveals) {
            let Some(x) = self.roster.x(holder) else {
                continue;
            };
            if reveal.record != record {
                desk.refused.count(Refusal::Rule);
                continue;
            }
            // The record names its chain, and with it the leaves: the same Reveal is judged alike by all.
            let arguments: [&[u8]; 2] = [digest.as_bytes(), record.as_bytes()];
            let judge = || self.sound_shares(holder, &reveal, &targets);
            let sound = desk.memo.once(Function::Reveal, &arguments, judge);
            if sound.iter().flatten().count() < reveal.shares.len() {
                desk.refused.count(Refusal::Rule);
            }
            self.opening.pieces.add(x, &sound);
        }
    }

    /// The shares of a Reveal that the record calls for and that fit the leaves, in the order of the targets.
    fn sound_shares(&self, holder: MemberId, reveal: &Reveal, targets: &[Target]) -> Row {
        let mut row = vec![None; targets.len()];
        for revealed in &reveal.shares {
            let at = targets.binary_search(&(revealed.dealer, revealed.which));
            let share = Share {
                share: revealed.share,
                salt: revealed.salt,
            };
            let fits = self.leaf_fits(revealed.dealer, revealed.which, holder, &share);
            if let (Ok(at), true) = (at, fits)
                && let Some(place) = row.get_mut(at)
            {
                *place = Some(share.share);
            }
        }
        row
    }

    fn has_recorded_deals(&self) -> bool {
        self.work.as_ref().is_some_and(|work| {
            let held =
                |sharer| self.recorded_deal(sharer) && self.recorded_advert(sharer).is_some();
            work.sharers.values().all(held)
        })
    }
}
