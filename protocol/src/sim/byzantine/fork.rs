//! Equivocation: two different signed messages for one slot, one to some and one to the rest.

use conclave_crypto::agree::ExchangeKey;
use conclave_crypto::digest::Digest;

use super::talk::Ballot;
use super::{Hostile, Said, Scene};
use crate::envelope::Kind;
use crate::letter::Letter;
use crate::message::{self, Ack, Deal, KeyAd};

impl Hostile {
    /// Two mask keys.
    pub(super) fn fork_advert(&mut self, scene: &Scene<'_>) -> Vec<Said> {
        let forged = self.forge(scene, |hostile| {
            let mut advert: KeyAd = message::decode(&scene.own.body).ok()?;
            advert.mask = ExchangeKey::from_bytes(&hostile.chance.bytes()).public();
            Some(message::encode(&advert))
        });
        self.divide(scene, forged)
    }

    /// Two lists of leaves.
    pub(super) fn fork_deal(&mut self, scene: &Scene<'_>) -> Vec<Said> {
        let forged = self.forge(scene, |hostile| {
            let mut deal: Deal = message::decode(&scene.own.body).ok()?;
            let at = hostile.chance.index(deal.own.len());
            *deal.own.get_mut(at)? = Digest(hostile.chance.bytes());
            Some(message::encode(&deal))
        });
        self.divide(scene, forged)
    }

    /// Every other dealing acknowledged before some, and the others before the rest.
    pub(super) fn fork_ack(&self, mut scene: Scene<'_>) -> Vec<Said> {
        let Ok(all) = message::decode::<Ack>(&scene.own.body) else {
            return vec![scene.said];
        };
        let half = |odd: usize| {
            let dealings = all.dealings.iter().skip(odd).step_by(2).copied().collect();
            let body = message::encode(&Ack { dealings });
            let (sess, seq) = (scene.own.sess, scene.own.seq);
            Letter::sign(&self.key, Kind::Ack, sess, scene.id, seq, body)
        };
        let (some, others) = (half(0), half(1));
        scene.said.bytes = some;
        self.divide(&scene, Some(others))
    }

    /// Two masked vectors.
    pub(super) fn fork_commit(&mut self, mut scene: Scene<'_>) -> Vec<Said> {
        let forged = self.forge_commit(&mut scene, 1);
        self.divide(&scene, forged)
    }

    /// A vote for a record before some, for nothing before the rest; or for nothing, and for a record unheard of.
    pub(super) fn fork_vote(&mut self, scene: &Scene<'_>) -> Vec<Said> {
        let forged = self.forge(scene, |hostile| {
            let mut ballot = Ballot::of(&scene.own)?;
            ballot.record = match ballot.record {
                Some(_) => None,
                None => Some(Digest(hostile.chance.bytes())),
            };
            Some(message::encode(&ballot))
        });
        self.divide(scene, forged)
    }
}
