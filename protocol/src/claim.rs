//! A signed statement that stands for itself: what somebody said in a slot, provable without the whole envelope.

use bincode::{Decode, Encode};
use conclave_crypto::sign::{PublicKey, SignError, Signature};

use crate::decide;
use crate::envelope::{Envelope, Kind};
use crate::letter::Letter;
use crate::message::{self, Malformed, Reveal, Seal};
use crate::names::{MemberId, SessId};

/// An envelope, or as much of it as proves what it says.
///
/// Signatures are over the hash of a body ([`Envelope::hash`]): where kind, session and sender name the slot, the hash
/// stands for the body; where the slot is told apart by the body (whose seal, which vote), the body is whole.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Claim {
    /// What the body is.
    pub kind: Kind,
    /// The session.
    pub sess: SessId,
    /// Who said it.
    pub sender: MemberId,
    /// The sequence number.
    pub seq: u64,
    /// The body, or its hash.
    pub said: Said,
    /// By the sender.
    pub signature: Signature,
}

/// The body of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Said {
    /// The body itself.
    Whole(Vec<u8>),
    /// SHA-512 of it.
    Hash([u8; 64]),
}

/// What tells two statements of one kind, session and sender apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spot {
    /// Nothing: there is room for one.
    Only,
    /// The holder of a seal.
    Holder(MemberId),
    /// Consensus round and step.
    Step(u32, u32),
}

impl Claim {
    /// What this envelope says.
    pub fn of(envelope: &Envelope) -> Self {
        let said = if Self::is_whole(envelope.kind) {
            Said::Whole(envelope.body.clone())
        } else {
            Said::Hash(Envelope::hash(&envelope.body))
        };
        Self {
            kind: envelope.kind,
            sess: envelope.sess,
            sender: envelope.sender,
            seq: envelope.seq,
            said,
            signature: envelope.signature,
        }
    }

    /// Whether the body of this kind tells its slot, so that it must be whole.
    pub(crate) const fn is_whole(kind: Kind) -> bool {
        matches!(
            kind,
            Kind::Seal | Kind::Vote | Kind::Proposal | Kind::Reveal
        )
    }

    /// What this envelope says, for one who knows its own envelopes: the hash alone.
    pub fn brief(letter: &Letter) -> Result<Self, Malformed> {
        let envelope = letter.envelope()?;
        Ok(Self {
            kind: envelope.kind,
            sess: envelope.sess,
            sender: envelope.sender,
            seq: envelope.seq,
            said: Said::Hash(letter.hash()?),
            signature: envelope.signature,
        })
    }

    /// The hash of the body.
    pub fn hash(&self) -> [u8; 64] {
        match &self.said {
            Said::Whole(body) => Envelope::hash(body),
            Said::Hash(hash) => *hash,
        }
    }

    /// Verifies the sender's signature.
    pub fn verify(&self, key: &PublicKey) -> Result<(), SignError> {
        let hash = self.hash();
        let preimage = Envelope::preimage_of(self.kind, self.sess, self.sender, self.seq, &hash);
        key.verify(&preimage, &self.signature)
    }

    /// Whether this envelope says the same in the same place.
    pub fn is(&self, envelope: &Envelope) -> bool {
        self.stands_where(envelope) && self.hash() == Envelope::hash(&envelope.body)
    }

    /// Whether this letter does.
    pub fn is_letter(&self, letter: &Letter) -> bool {
        let there = letter
            .envelope()
            .is_ok_and(|envelope| self.stands_where(envelope));
        there && letter.hash() == Ok(self.hash())
    }

    fn stands_where(&self, envelope: &Envelope) -> bool {
        self.kind == envelope.kind
            && self.sess == envelope.sess
            && self.sender == envelope.sender
            && self.seq == envelope.seq
    }

    /// Bytes of the body that are carried.
    pub fn carried(&self) -> usize {
        match &self.said {
            Said::Whole(body) => body.len(),
            Said::Hash(hash) => hash.len(),
        }
    }

    /// The spot that it fills; `None` if it is of a kind that may be said more than once, or unreadable.
    pub fn spot(&self) -> Option<Spot> {
        match (self.kind, &self.said) {
            (
                Kind::KeyAd | Kind::Deal | Kind::Commit | Kind::SumCommit | Kind::Tags,
                Said::Hash(_),
            ) if self.seq == 0 => Some(Spot::Only),
            (Kind::Seal, Said::Whole(body)) if self.seq == 0 => {
                let seal: Seal = message::decode(body).ok()?;
                Some(Spot::Holder(seal.to))
            }
            (Kind::Vote | Kind::Proposal, Said::Whole(body)) if self.seq == 0 => {
                let (round, step) = decide::slot_of(&self.envelope(body))?;
                Some(Spot::Step(round, step))
            }
            (Kind::Reveal, Said::Whole(_)) => Some(Spot::Only),
            _ => None,
        }
    }

    /// What may not differ between two statements in one spot: all of it, but of a Reveal only the record (a later one
    /// may add shares).
    pub(crate) fn word(&self) -> Option<Vec<u8>> {
        match (self.kind, &self.said) {
            (Kind::Reveal, Said::Whole(body)) => {
                let reveal: Reveal = message::decode(body).ok()?;
                Some(reveal.record.as_bytes().to_vec())
            }
            _ => Some(self.hash().to_vec()),
        }
    }

    fn envelope(&self, body: &[u8]) -> Envelope {
        Envelope {
            kind: self.kind,
            sess: self.sess,
            sender: self.sender,
            seq: self.seq,
            body: body.to_vec(),
            signature: self.signature,
        }
    }
}
