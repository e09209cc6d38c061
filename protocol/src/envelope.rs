//! The signed envelope that every message travels in.
//!
//! `Envelope{kind, sess, sender, seq, body, signature}`; Ed25519 over
//! `"conclave/v1/sig/" ‖ kind ‖ 0 ‖ sess ‖ sender ‖ seq ‖ SHA-512(body)`, verified strictly, over the received bytes.

use conclave_crypto::sign::{IdentityKey, PublicKey, SignError, Signature};
use sha2::{Digest as _, Sha512};

use crate::names::{MemberId, SessId};

/// What an envelope carries. The number is the wire's.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode,
)]
pub enum Kind {
    /// Session keys and weight class.
    KeyAd,
    /// The dealer's sending key and the leaf lists of its shares.
    Deal,
    /// The sealed shares for one holder.
    Seal,
    /// Which dealings I hold and could open.
    Ack,
    /// The Merkle root and length of a masked vector, and the vector while it is small.
    Commit,
    /// Which masked vectors I hold.
    Have,
    /// A proposed record with its consensus round.
    Proposal,
    /// A prevote or precommit.
    Vote,
    /// A polka or round certificate of the consensus engine.
    Liveness,
    /// The shares that the recorded survivors require.
    Reveal,
    /// Progress, not stored.
    Heartbeat,
    /// A newcomer's wish to enter, with its invitation.
    Join,
    /// What the sender holds of a session, so that the receiver sends the rest.
    Want,
    /// A decided record with its certificate.
    Decided,
    /// A member's wish to leave in order.
    Leave,
    /// The newest of what the receiver signed itself, for one that may have forgotten it.
    Recall,
    /// The sums of the shards that the sender was called to, by digest.
    SumCommit,
    /// The check tags of the sender's vector, one a shard.
    Tags,
}

/// A message with its sender and signature.
#[derive(Clone, PartialEq, Eq, Debug, bincode::Encode, bincode::Decode)]
pub struct Envelope {
    /// What the body is.
    pub kind: Kind,
    /// The session that it belongs to.
    pub sess: SessId,
    /// Who says it.
    pub sender: MemberId,
    /// 0 for slot-unique kinds, counting up for monotone ones.
    pub seq: u64,
    /// The canonical encoding of the body.
    pub body: Vec<u8>,
    /// By the sender's identity key over [`Envelope::preimage`].
    pub signature: Signature,
}

impl Envelope {
    /// The bytes that are signed.
    pub fn preimage(kind: Kind, sess: SessId, sender: MemberId, seq: u64, body: &[u8]) -> Vec<u8> {
        Self::preimage_of(kind, sess, sender, seq, &Self::hash(body))
    }

    /// What of a body is signed: its SHA-512. A signature can be checked without the body.
    pub fn hash(body: &[u8]) -> [u8; 64] {
        Sha512::digest(body).into()
    }

    /// The bytes that are signed, from the hash of the body.
    pub fn preimage_of(
        kind: Kind,
        sess: SessId,
        sender: MemberId,
        seq: u64,
        hash: &[u8; 64],
    ) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(160);
        bytes.extend_from_slice(b"conclave/v1/sig/");
        bytes.extend_from_slice(kind.name().as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(sess.0.as_bytes());
        bytes.extend_from_slice(&sender.0.to_le_bytes());
        bytes.extend_from_slice(&seq.to_le_bytes());
        bytes.extend_from_slice(hash);
        bytes
    }

    /// Signs a body.
    pub fn sign(
        key: &IdentityKey,
        kind: Kind,
        sess: SessId,
        sender: MemberId,
        seq: u64,
        body: Vec<u8>,
    ) -> Self {
        let signature = key.sign(&Self::preimage(kind, sess, sender, seq, &body));
        Self {
            kind,
            sess,
            sender,
            seq,
            body,
            signature,
        }
    }

    /// Verifies the signature under the sender's key.
    pub fn verify(&self, key: &PublicKey) -> Result<(), SignError> {
        key.verify(
            &Self::preimage(self.kind, self.sess, self.sender, self.seq, &self.body),
            &self.signature,
        )
    }
}

impl Kind {
    /// Whether it is the consensus engine's: heard by the decision of a height, gossiped on a topic of its own.
    pub const fn is_consensus(self) -> bool {
        matches!(self, Self::Proposal | Self::Vote | Self::Liveness)
    }

    /// The kinds of which a later one of a sender contains its earlier ones.
    pub const MONOTONE: [Self; 3] = [Self::Ack, Self::Have, Self::Reveal];

    /// Whether a later one of a sender contains its earlier ones: the sequence number counts up.
    pub const fn is_monotone(self) -> bool {
        matches!(self, Self::Ack | Self::Have | Self::Reveal)
    }

    /// The name that is signed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KeyAd => "keyad",
            Self::Deal => "deal",
            Self::Seal => "seal",
            Self::Ack => "ack",
            Self::Commit => "commit",
            Self::Have => "have",
            Self::Proposal => "proposal",
            Self::Vote => "vote",
            Self::Liveness => "liveness",
            Self::Reveal => "reveal",
            Self::Heartbeat => "heartbeat",
            Self::Join => "join",
            Self::Want => "want",
            Self::Decided => "decided",
            Self::Leave => "leave",
            Self::Recall => "recall",
            Self::SumCommit => "sumcommit",
            Self::Tags => "tags",
        }
    }
}
