//! Equivocation: two different signed messages for one slot, one to some and one to the rest.

use conclave_crypto::agree::ExchangeKey;
use conclave_crypto::digest::Digest;

use super::talk::Ballot;
use super::{Hostile, Said, Scene};
use crate::message::{self, Deal, KeyAd};

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
