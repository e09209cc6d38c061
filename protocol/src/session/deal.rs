//! Deal: every member shares its two secrets among all members of the height, and says what it can open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use conclave_crypto::dealing::{self, Dealing, Secret, Share};
use conclave_crypto::digest::Digest;
use conclave_crypto::sealed;

use crate::desk::Desk;
use crate::envelope::Kind;
use crate::message::{Ack, Acked, Deal, Seal};
use crate::names::MemberId;
use crate::output::Report;
use crate::params;
use crate::post::Slot;
use crate::record::Sharer;
use crate::refusal::Refusal;
use crate::session::Session;
use crate::session::acks::Acks;
use crate::session::pace::GATHER;
use crate::session::parcels::Parcels;
use crate::time::{Span, Time};

/// What was dealt, opened and acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Dealings {
    pub(crate) deals: BTreeMap<MemberId, Dealt>,
    /// Boxes for us, by dealer.
    seals: BTreeMap<MemberId, Arc<Seal>>,
    /// Boxes that did not open under that Deal.
    spoiled: BTreeSet<(MemberId, Digest)>,
    /// Shares of ours, checked against the dealer's leaves.
    pub(crate) shares: BTreeMap<MemberId, Portion>,
    /// Who acknowledged what.
    pub(super) acks: Acks,
    /// Counts what came in of keys, dealings and boxes: what was looked at since need not be looked at again.
    pub(crate) news: u64,
    /// Keys that came in, and those that boxes were made for.
    keys: u64,
    sealed_at: Option<u64>,
    /// Dealers of whom a dealing or a box came in since boxes were opened last.
    unopened: BTreeSet<MemberId>,
    /// The news that acknowledgements were weighed at.
    weighed_at: Option<u64>,
    /// Counts the acknowledgements that came in.
    pub(super) acked: u64,
    /// Our own dealing, while its secrets live.
    pub(crate) own: Option<(Arc<Dealing>, Arc<Dealing>)>,
    /// Boxes that have not reached their holders.
    pub(super) parcels: Parcels,
    ack_at: Option<Time>,
    reported: bool,
}

/// A Deal with its envelope's digest.
#[derive(Debug)]
pub(crate) struct Dealt {
    pub(crate) digest: Digest,
    pub(crate) body: Arc<Deal>,
}

/// Our shares of one dealer's two secrets, checked under one Deal.
#[derive(Debug)]
pub(crate) struct Portion {
    pub(crate) deal: Digest,
    pub(crate) own: Share,
    pub(crate) pair: Share,
}

impl Session {
    /// R11. Deals once all keys are in, or at a third of the set-up time; seals for late ones afterwards.
    pub(crate) fn deal(&mut self, desk: &mut Desk) {
        let Some(me) = self.speaker(desk) else { return };
        if self.adverts.secrets.is_none() || !self.said(desk, Kind::KeyAd) {
            return;
        }
        if !self.said(desk, Kind::Deal) && !self.may_deal(desk) {
            return;
        }
        self.derive_own(desk, me);
        if !self.said(desk, Kind::Deal)
            && let (Some((own, pair)), Some(secrets)) = (&self.dealings.own, &self.adverts.secrets)
        {
            let body = Deal {
                sealer: secrets.sealer.public(),
                own: own.leaves().to_vec(),
                pair: pair.leaves().to_vec(),
            };
            let envelope = desk.sign(Kind::Deal, self.sess, 0, &body);
            self.say(desk, &envelope);
        }
        self.seal(desk, me);
    }

    pub(super) fn may_deal(&self, desk: &mut Desk) -> bool {
        let third = Span(desk.timers().setup.0.checked_div(3).unwrap_or(0));
        self.adverts.known.len() == self.roster.len()
            || self.begun.is_some_and(|begun| desk.due(begun + third))
    }

    fn derive_own(&mut self, desk: &Desk, me: MemberId) {
        let Some(secrets) = &self.adverts.secrets else {
            return;
        };
        if self.dealings.own.is_none() {
            let (threshold, holders) = (small(self.roster.quorum()), small(self.roster.len()));
            let sess = &self.sess.0;
            let derive = |seed, which| {
                let memo = &desk.memo;
                memo.derive(seed, sess, me.0, which, threshold, holders)
            };
            let own = derive(&secrets.seed_b, Secret::SelfSeed);
            let pair = derive(&secrets.seed_m, Secret::PairKey);
            self.dealings.own = Some((own, pair));
        }
    }

    /// R11. A box for every key seen that has none yet, our own among them.
    fn seal(&mut self, desk: &mut Desk, me: MemberId) {
        if self.dealings.sealed_at == Some(self.dealings.keys) {
            return;
        }
        self.dealings.sealed_at = Some(self.dealings.keys);
        let lacks = |holder: &MemberId| {
            let slot = Slot {
                kind: Kind::Seal,
                sender: me,
                holder: *holder,
            };
            self.post.held(slot).is_none()
        };
        let holders: Vec<_> = self.adverts.known.keys().copied().filter(lacks).collect();
        if let Some(secrets) = &self.adverts.secrets {
            let adverts = holders.iter().filter_map(|id| self.adverts.known.get(id));
            let keys = adverts.map(|advert| advert.body.seal);
            desk.memo.meet(&secrets.sealer, keys);
        }
        for holder in holders {
            let Some(sealed) = self.sealed_for(desk, me, holder) else {
                continue;
            };
            let body = Seal { to: holder, sealed };
            let envelope = desk.sign(Kind::Seal, self.sess, 0, &body);
            self.say(desk, &envelope);
        }
    }

    fn sealed_for(&self, desk: &Desk, me: MemberId, holder: MemberId) -> Option<Vec<u8>> {
        let (own, pair) = self.dealings.own.as_ref()?;
        let x = self.roster.x(holder)?;
        let (own, pair) = (own.share(x), pair.share(x));
        let plain = zeroize::Zeroizing::new([own.share, own.salt, pair.share, pair.salt].concat());
        let advert = self.adverts.known.get(&holder)?;
        let sealer = &self.adverts.secrets.as_ref()?.sealer;
        let shared = desk.memo.agree(sealer, &advert.body.seal).ok()?;
        Some(sealed::seal(&shared, &self.sess.0, me.0, holder.0, &plain))
    }

    /// R12. Opens the boxes for us whose dealer's keys and leaves are known.
    pub(crate) fn open_boxes(&mut self, desk: &mut Desk) {
        let Some(me) = self.me(desk) else { return };
        if self.adverts.opener.is_none() {
            return;
        }
        for dealer in core::mem::take(&mut self.dealings.unopened) {
            let deal = self.dealings.deals.get(&dealer).map(|dealt| dealt.digest);
            let sealed = self.dealings.seals.contains_key(&dealer);
            let Some(deal) = deal.filter(|_| sealed) else {
                continue;
            };
            let done = self.dealings.shares.contains_key(&dealer)
                || self.dealings.spoiled.contains(&(dealer, deal));
            if done {
                continue;
            }
            if let Some(portion) = self.open_box(desk, me, dealer) {
                self.dealings.shares.insert(dealer, portion);
            } else {
                self.dealings.spoiled.insert((dealer, deal));
                desk.refused.count(Refusal::Rule);
            }
        }
    }

    fn open_box(&self, desk: &Desk, me: MemberId, dealer: MemberId) -> Option<Portion> {
        let dealt = self.dealings.deals.get(&dealer)?;
        let seal = self.dealings.seals.get(&dealer)?;
        let opener = self.adverts.opener.as_ref()?;
        let shared = desk.memo.agree(opener, &dealt.body.sealer).ok()?;
        let plain = sealed::open(&shared, &self.sess.0, dealer.0, me.0, &seal.sealed).ok()?;
        let (parts, rest) = plain.as_chunks::<32>();
        let [share_b, salt_b, share_m, salt_m] = parts else {
            return None;
        };
        let own = Share {
            share: *share_b,
            salt: *salt_b,
        };
        let pair = Share {
            share: *share_m,
            salt: *salt_m,
        };
        let sound = rest.is_empty()
            && self.leaf_fits(dealer, Secret::SelfSeed, me, &own)
            && self.leaf_fits(dealer, Secret::PairKey, me, &pair);
        sound.then_some(Portion {
            deal: dealt.digest,
            own,
            pair,
        })
    }

    /// Whether a holder's share is the one that the dealer bound itself to.
    pub(crate) fn leaf_fits(
        &self,
        dealer: MemberId,
        which: Secret,
        holder: MemberId,
        share: &Share,
    ) -> bool {
        let (Some(dealt), Some(x)) = (self.dealings.deals.get(&dealer), self.roster.x(holder))
        else {
            return false;
        };
        let leaves = match which {
            Secret::SelfSeed => &dealt.body.own,
            Secret::PairKey => &dealt.body.pair,
        };
        let leaf = leaves.get(usize::from(x).saturating_sub(1));
        leaf == Some(&dealing::leaf(&self.sess.0, dealer.0, which, x, share))
    }

    /// R12. Says what we can open: at once when that is everything dealt, else after a short gathering.
    pub(crate) fn acknowledge(&mut self, desk: &mut Desk) {
        let Some(me) = self.speaker(desk) else { return };
        let Some(own) = self.roster.place(me) else {
            return;
        };
        if self.dealings.weighed_at == Some(self.dealings.news) {
            // Nothing new since: what is there may still gather.
            if self.dealings.ack_at.is_none_or(|at| !desk.due(at)) {
                return;
            }
        }
        self.dealings.weighed_at = Some(self.dealings.news);
        let fresh = |(dealer, portion): (&MemberId, &Portion)| {
            let known = self.dealings.acks.has(own, self.roster.place(*dealer)?);
            let advert = self.adverts.known.get(dealer).filter(|_| !known)?;
            Some(Acked::of(*dealer, &advert.digest, &portion.deal))
        };
        let fresh: Vec<_> = self.dealings.shares.iter().filter_map(fresh).collect();
        if fresh.is_empty() {
            return;
        }
        let mut dealings = self.dealings.acks.said(&self.roster, own);
        let held = dealings.len().saturating_add(fresh.len());
        let all = held == self.adverts.known.len();
        // The last is said at once, and the first that is complete; others gather, the longer the more listen.
        let last = held == self.roster.len() || all && dealings.is_empty();
        let patience = if dealings.is_empty() {
            GATHER
        } else {
            self.gathering()
        };
        let at = *self.dealings.ack_at.get_or_insert(desk.now + patience);
        if !last && !desk.due(at) {
            return;
        }
        self.dealings.ack_at = None;
        dealings.extend(fresh);
        dealings.sort_unstable();
        let seq = self.next_seq(me, Kind::Ack);
        let envelope = desk.sign(Kind::Ack, self.sess, seq, &Ack { dealings });
        self.say(desk, &envelope);
    }

    /// Tells the operator once when enough holders acknowledged our own dealing.
    pub(crate) fn report_dealt(&mut self, desk: &mut Desk) {
        let Some(me) = self.me(desk) else { return };
        if !self.dealings.reported && self.sharer(me).is_some() {
            self.dealings.reported = true;
            desk.report(Report::Dealt {
                height: self.height,
            });
        }
    }

    /// R12. This dealer as a sharer, if at least t members, itself among them, acknowledged it.
    pub(crate) fn sharer(&self, dealer: MemberId) -> Option<Sharer> {
        let key_ad = self.adverts.known.get(&dealer)?.digest;
        let deal = self.dealings.deals.get(&dealer)?.digest;
        let place = self.roster.place(dealer)?;
        let acked = Acked::of(dealer, &key_ad, &deal);
        let holders = self.dealings.acks.holders(place, &acked);
        let enough = holders.count() >= self.roster.quorum() && holders.contains(place);
        let acked = |(place, id)| holders.contains(place).then_some(id);
        enough.then(|| Sharer {
            member: dealer,
            key_ad,
            deal,
            ackers: self.roster.ids().enumerate().filter_map(acked).collect(),
        })
    }

    /// R12. Everybody whose dealing stands; nobody if that is too few for a sum.
    pub(crate) fn sharers(&self, desk: &Desk, excluded: impl Fn(MemberId) -> bool) -> Vec<Sharer> {
        let dealers = self.roster.ids().filter(|dealer| !excluded(*dealer));
        let sharers: Vec<_> = dealers.filter_map(|dealer| self.sharer(dealer)).collect();
        let least = params::survivors_min(&desk.charter, self.roster.len());
        if sharers.len() < least {
            Vec::new()
        } else {
            sharers
        }
    }

    pub(crate) fn take_deal(
        &mut self,
        sender: MemberId,
        digest: Digest,
        body: Arc<Deal>,
    ) -> Result<(), Refusal> {
        let n = self.roster.len();
        if body.own.len() != n || body.pair.len() != n {
            return Err(Refusal::Rule);
        }
        self.dealings.deals.insert(sender, Dealt { digest, body });
        self.dealings.unopened.insert(sender);
        self.dealings.stir();
        Ok(())
    }

    pub(crate) fn take_seal(
        &mut self,
        desk: &Desk,
        sender: MemberId,
        body: Arc<Seal>,
    ) -> Result<(), Refusal> {
        if !self.roster.contains(body.to) {
            return Err(Refusal::Rule);
        }
        if desk.me == Some(body.to) {
            self.dealings.seals.insert(sender, body);
            self.dealings.unopened.insert(sender);
            self.dealings.stir();
        }
        Ok(())
    }
}

impl Dealings {
    /// Keys came in.
    pub(super) fn advertised(&mut self) {
        self.keys = self.keys.saturating_add(1);
        self.stir();
    }

    /// Something came in that may open, seal or acknowledge more.
    pub(crate) fn stir(&mut self) {
        self.news = self.news.saturating_add(1);
    }

    /// A record names other envelopes of this dealer: what followed from the old ones is void.
    pub(crate) fn forget(&mut self, dealer: MemberId) {
        self.shares.remove(&dealer);
        self.unopened.insert(dealer);
        self.stir();
        self.spoiled.retain(|(spoiled, _)| *spoiled != dealer);
    }
}

fn small(n: usize) -> u8 {
    u8::try_from(n).expect("a charter allows at most 200 members")
}
