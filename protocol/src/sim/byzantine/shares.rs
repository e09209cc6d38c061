//! Dealings that do not open: shares on no polynomial, boxes that hold nothing.

use conclave_crypto::agree::ExchangeKey;
use conclave_crypto::dealing::{self, Secret, Share};
use conclave_crypto::sealed;

use super::{Hostile, Said, Scene};
use crate::envelope::{Envelope, Kind};
use crate::message::{self, Ack, Acked, Deal, Seal};
use crate::names::MemberId;
use crate::outbox;
use crate::output::Table;
use crate::params;

impl Hostile {
    /// Shares drawn at random, with leaves that fit them: every box opens, and no seed fits all of them.
    pub(super) fn deal_falsely(&mut self, scene: Scene<'_>) -> Vec<Said> {
        if !self.strikes(&scene) {
            return vec![scene.said];
        }
        let forged = match scene.own.kind {
            Kind::Deal => self.forge(&scene, |hostile| hostile.false_deal(&scene)),
            Kind::Seal => self.forge(&scene, |hostile| hostile.false_seal(&scene)),
            _ => self.forge(&scene, |hostile| hostile.ack_of_false_deal(&scene)),
        };
        Self::replace(scene, forged)
    }

    fn false_deal(&mut self, scene: &Scene<'_>) -> Option<Vec<u8>> {
        let mut deal: Deal = message::decode(&scene.own.body).ok()?;
        let mut draw = || Share {
            share: self.chance.bytes(),
            salt: self.chance.bytes(),
        };
        let shares: Vec<_> = scene.roster.iter().map(|_| (draw(), draw())).collect();
        let leaf = |which, x: usize, share: &Share| {
            let x = u8::try_from(x + 1).unwrap_or(u8::MAX);
            dealing::leaf(&scene.own.sess.0, scene.id.0, which, x, share)
        };
        let own = shares.iter().enumerate();
        deal.own = own
            .map(|(x, (own, _))| leaf(Secret::SelfSeed, x, own))
            .collect();
        let pair = shares.iter().enumerate();
        deal.pair = pair
            .map(|(x, (_, pair))| leaf(Secret::PairKey, x, pair))
            .collect();
        self.shares.insert(scene.own.sess, shares);
        Some(message::encode(&deal))
    }

    fn false_seal(&self, scene: &Scene<'_>) -> Option<Vec<u8>> {
        let mut seal: Seal = message::decode(&scene.own.body).ok()?;
        let sess = scene.own.sess;
        let at = scene.roster.iter().position(|id| *id == seal.to)?;
        let (own, pair) = self.shares.get(&sess)?.get(at)?;
        let plain = [own.share, own.salt, pair.share, pair.salt].concat();
        let holder = self.keys.get(&(sess, seal.to))?;
        let file = (Table::Secrets, outbox::mask_file(scene.height));
        let (keys, _) = scene.disk.get(&file)?.as_chunks::<32>();
        let shared = ExchangeKey::from_bytes(keys.get(2)?)
            .shared(&holder.seal)
            .ok()?;
        seal.sealed = sealed::seal(&shared, &sess.0, scene.id.0, seal.to.0, &plain);
        Some(message::encode(&seal))
    }

    /// It acknowledges itself: what it bound itself to before the others.
    fn ack_of_false_deal(&self, scene: &Scene<'_>) -> Option<Vec<u8>> {
        let mut ack: Ack = message::decode(&scene.own.body).ok()?;
        let said = |kind| {
            let key = outbox::slot_key(scene.height, kind, scene.id);
            let said = scene.disk.get(&(Table::Outbox, key))?;
            Some(Envelope::digest_of(said))
        };
        let (key_ad, deal) = (said(Kind::KeyAd)?, said(Kind::Deal)?);
        let own = Acked::of(scene.id, &key_ad, &deal);
        let own = ack.dealings.iter_mut().find(|ack| **ack == own)?;
        let forged = self.forged.get(&deal)?;
        *own = Acked::of(scene.id, &key_ad, &forged.digest());
        Some(message::encode(&ack))
    }

    /// Boxes that do not open for all holders but as many as make it a sharer; then it keeps its own shares back.
    pub(super) fn seal_falsely(&mut self, scene: Scene<'_>) -> Vec<Said> {
        if !self.strikes(&scene) {
            return vec![scene.said];
        }
        if scene.own.kind == Kind::Reveal {
            return Vec::new();
        }
        let forged = self.forge(&scene, |_| {
            let mut seal: Seal = message::decode(&scene.own.body).ok()?;
            let spoiled = spoiled(&scene.roster, scene.id);
            if spoiled.contains(&seal.to) {
                *seal.sealed.first_mut()? ^= 1;
            }
            Some(message::encode(&seal))
        });
        Self::replace(scene, forged)
    }
}

/// The holders that need not acknowledge a dealer for it to be a sharer.
fn spoiled(roster: &[MemberId], dealer: MemberId) -> Vec<MemberId> {
    let spare = roster.len().saturating_sub(params::quorum(roster.len()));
    let others = roster.iter().copied().filter(|id| *id != dealer);
    others.take(spare).collect()
}
