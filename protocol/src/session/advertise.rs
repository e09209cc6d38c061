//! Advertise: every member of the height publishes fresh session keys.

use std::collections::BTreeMap;

use conclave_crypto::agree::ExchangeKey;
use conclave_crypto::dealing;
use conclave_crypto::digest::Digest;
use rand_core::Rng as _;
use zeroize::Zeroizing;

use crate::desk::Desk;
use crate::envelope::Kind;
use crate::message::KeyAd;
use crate::names::MemberId;
use crate::outbox;
use crate::output::{Stored, Table};
use crate::params;
use crate::refusal::Refusal;
use crate::session::Session;

/// The session keys that are known, and our own secrets behind ours.
#[derive(Debug, Default)]
pub(crate) struct Adverts {
    pub(crate) known: BTreeMap<MemberId, Advert>,
    /// Erased before our masked vector is sent.
    pub(crate) secrets: Option<MaskSecrets>,
    /// Opens what was sealed to us; lives until the session closes.
    pub(crate) opener: Option<ExchangeKey>,
}

/// A member's session keys with the digest of the envelope that brought them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Advert {
    pub(crate) digest: Digest,
    pub(crate) body: KeyAd,
}

/// The two Shamir secrets and the sealing key. `Debug` prints the name only.
pub(crate) struct MaskSecrets {
    pub(crate) seed_m: Zeroizing<[u8; 32]>,
    pub(crate) seed_b: Zeroizing<[u8; 32]>,
    pub(crate) sealer: ExchangeKey,
}

impl Session {
    /// R10. A member of the height advertises fresh keys, stored before they are said.
    pub(crate) fn advertise(&mut self, desk: &mut Desk) {
        if self.speaker(desk).is_none() || self.said(desk, Kind::KeyAd) {
            return;
        }
        if self.adverts.secrets.is_none() || self.adverts.opener.is_none() {
            self.draw(desk);
        }
        let (Some(secrets), Some(opener)) = (&self.adverts.secrets, &self.adverts.opener) else {
            return;
        };
        let mask = dealing::mask_key(&secrets.seed_m, &self.sess.0);
        desk.memo.drew(&mask);
        desk.memo.drew(opener);
        let body = KeyAd {
            mask: mask.public(),
            seal: opener.public(),
            weight: params::weight_class(&desk.charter, desk.examples),
        };
        let envelope = desk.sign(Kind::KeyAd, self.sess, 0, &body);
        self.say(desk, &envelope);
    }

    /// Draws the session's secrets and stores each file before anything follows from it.
    fn draw(&mut self, desk: &mut Desk) {
        let mut draw = || {
            let mut bytes = Zeroizing::new([0; 32]);
            desk.rng.fill_bytes(bytes.as_mut());
            bytes
        };
        let (seed_m, seed_b, sealer, opener) = (draw(), draw(), draw(), draw());
        let file = [*seed_m, *seed_b, *sealer].concat();
        desk.store(Table::Secrets, outbox::mask_file(self.height), file);
        desk.store(
            Table::Secrets,
            outbox::open_file(self.height),
            opener.to_vec(),
        );
        let sealer = ExchangeKey::from_bytes(&sealer);
        self.adverts.secrets = Some(MaskSecrets {
            seed_m,
            seed_b,
            sealer,
        });
        self.adverts.opener = Some(ExchangeKey::from_bytes(&opener));
    }

    /// R17. Reads the secrets back; those behind a mask that was used are erased unread.
    pub(crate) fn restore_secrets(&mut self, desk: &mut Desk, stored: &Stored) {
        let file = outbox::open_file(self.height);
        let opener = outbox::value(stored, Table::Secrets, &file);
        self.adverts.opener = opener
            .and_then(|bytes| bytes.try_into().ok())
            .map(ExchangeKey::from_bytes);
        let file = outbox::mask_file(self.height);
        if self.said(desk, Kind::Commit) {
            desk.erase(Table::Secrets, file);
            return;
        }
        let secrets = outbox::value(stored, Table::Secrets, &file);
        self.adverts.secrets = secrets.and_then(MaskSecrets::from_bytes);
    }

    /// R17. Erases what the masks were grown from: file and memory.
    pub(crate) fn erase_secrets(&mut self, desk: &mut Desk) {
        desk.erase(Table::Secrets, outbox::mask_file(self.height));
        self.adverts.secrets = None;
        self.dealings.own = None;
    }

    /// R10. Keys must contribute to what is agreed with them; the weight is a class of the charter.
    pub(crate) fn take_advert(
        &mut self,
        desk: &Desk,
        sender: MemberId,
        digest: Digest,
        body: KeyAd,
    ) -> Result<(), Refusal> {
        let class =
            body.weight.is_power_of_two() && body.weight <= desk.charter.aggregation.weight_max;
        let sound = body.mask.contributes() && body.seal.contributes();
        if !class || !sound {
            return Err(Refusal::Rule);
        }
        self.adverts.known.insert(sender, Advert { digest, body });
        self.dealings.advertised();
        Ok(())
    }
}

impl MaskSecrets {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (keys, rest) = bytes.as_chunks::<32>();
        let [seed_m, seed_b, sealer] = keys else {
            return None;
        };
        rest.is_empty().then(|| Self {
            seed_m: Zeroizing::new(*seed_m),
            seed_b: Zeroizing::new(*seed_b),
            sealer: ExchangeKey::from_bytes(sealer),
        })
    }
}

impl core::fmt::Debug for MaskSecrets {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("MaskSecrets")
    }
}
