//! The bodies that envelopes carry, and their one encoding.
//!
//! bincode with fixed-width little-endian integers: every value has exactly one encoding, `encode(decode(x)) == x`.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};
use conclave_crypto::agree::ExchangePublic;
use conclave_crypto::dealing::Secret;
use conclave_crypto::digest::Digest;
use conclave_crypto::sign::{IdentityKey, PublicKey, SignError, Signature};

use crate::claim::Claim;
use crate::decide::Certificate;
use crate::envelope::{Envelope, Kind};
use crate::limits;
use crate::names::{Height, MemberId, SumId};
use crate::output::Phase;

/// The session keys of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct KeyAd {
    /// Masks are agreed with it (pk_m).
    pub mask: ExchangePublic,
    /// Shares are sealed to it (pk_c).
    pub seal: ExchangePublic,
    /// The public weight class: a power of two.
    pub weight: u32,
}

/// What a dealer binds itself to: one leaf for each share, for all positions of the session's members.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Deal {
    /// The dealer seals with it (pk_e).
    pub sealer: ExchangePublic,
    /// Leaves of the self seed's shares, by position.
    pub own: Vec<Digest>,
    /// Leaves of the pair key's shares, by position.
    pub pair: Vec<Digest>,
}

/// The two shares of one dealer for one holder.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Seal {
    /// The holder.
    pub to: MemberId,
    /// `share_b ‖ salt_b ‖ share_m ‖ salt_m`, sealed.
    pub sealed: Vec<u8>,
}

/// One dealing that a holder can open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Acked {
    /// The dealer.
    pub dealer: MemberId,
    /// `SHA-256("conclave/v1/acked" ‖ digest of its KeyAd ‖ digest of its Deal)`.
    pub pair: Digest,
}

/// All dealings that the sender holds shares of, by dealer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Ack {
    /// Ascending by dealer, at most one a dealer.
    pub dealings: Vec<Acked>,
}

/// A masked vector, announced and (while it is small) included.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Commit {
    /// The masking context.
    pub sid: SumId,
    /// Merkle root of the vector's bytes.
    pub root: Digest,
    /// Bytes of the vector.
    pub length: u64,
    /// The vector, ring elements u32 little-endian, up to the charter's inline limit.
    pub inline: Option<Vec<u8>>,
    /// The names of its shards, where vectors are summed in shards.
    pub shards: Vec<Digest>,
}

/// The masked vectors that the sender holds.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Have {
    /// Digests of the Commits, ascending.
    pub commits: Vec<Digest>,
    /// Where vectors are summed in shards: those that it holds of each of these vectors, ascending.
    pub shards: Vec<u32>,
}

/// A share made public.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Revealed {
    /// Whose secret it is a share of.
    pub dealer: MemberId,
    /// Which of the two secrets.
    pub which: Secret,
    /// The share.
    pub share: [u8; 32],
    /// The salt of its leaf.
    pub salt: [u8; 32],
}

/// The shares that a decided record requires.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Reveal {
    /// The record.
    pub record: Digest,
    /// By dealer; the sender's shares.
    pub shares: Vec<Revealed>,
    /// Digests of the SumCommits that the sender had seen before its first Reveal, ascending.
    pub sums: Vec<Digest>,
}

/// The sums that the sender made of the shards that it was called to.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SumCommit {
    /// The record that names the survivors.
    pub record: Digest,
    /// Shard, and Merkle root of its encoded sum; ascending.
    pub sums: Vec<(u32, Digest)>,
}

/// The check tags of the sender's vector.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Tags {
    /// The record that names the survivors.
    pub record: Digest,
    /// One a shard.
    pub tags: Vec<u64>,
}

/// A sign of life, not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Heartbeat {
    /// The height that the sender works at: its head's height + 1.
    pub height: Height,
    /// Where it stands.
    pub phase: Phase,
    /// Optimiser steps done.
    pub done: u32,
    /// Optimiser steps ordered.
    pub of: u32,
}

/// A member's word that somebody may enter.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Invite {
    /// The federation.
    pub charter: Digest,
    /// The epoch.
    pub epoch: u32,
    /// Who invites.
    pub sponsor: MemberId,
    /// Random.
    pub nonce: [u8; 16],
    /// Only this key may use it, if given.
    pub invitee: Option<PublicKey>,
    /// How many may enter by it.
    pub uses: u32,
    /// Milliseconds of Unix time after which it is void; 0 = never.
    pub expires: u64,
    /// By the sponsor.
    pub signature: Signature,
}

/// A newcomer's wish to enter, or that of a member removed for absence to return.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Join {
    /// The invitation; none for one who was a member before.
    pub invite: Option<Invite>,
    /// Who enters: the envelope is signed with it.
    pub key: PublicKey,
    /// Its name, for people.
    pub name: String,
    /// A ledger head that it knows.
    pub head: Digest,
    /// That head's height.
    pub head_height: Height,
}

/// A member's wish to leave: it stays until the last height whose members it is among.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Leave {
    /// A ledger head that it knows.
    pub head: Digest,
    /// That head's height.
    pub head_height: Height,
}

/// Names the question of a member that has started, and tells it from those of other starts and members: random. R60
pub type Question = [u8; 16];

/// One of the newest statements that the receiver signed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Recalled {
    /// The height of its session.
    pub height: Height,
    /// The digest of the record two before: the session follows from it, known to the receiver or not.
    pub before: Digest,
    /// The statement.
    pub claim: Claim,
}

/// The newest statements that the receiver signed, as far as the sender holds any: the answer to a Want that asks for
/// them. R60
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Recall {
    /// The name of the question, where the answer goes through others: who asked knows that it is no old one.
    pub answers: Option<Question>,
    /// At most [`limits::CLAIMS`].
    pub claims: Vec<Recalled>,
}

/// What the sender holds of the envelope's session: whoever gets it sends the rest.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Want {
    /// The height of the sender's ledger head: later records are wanted.
    pub head: Height,
    /// The first eight bytes of the digest of every envelope that it holds of kinds that are said once, ascending.
    pub held: Vec<[u8; 8]>,
    /// Of kinds that count up: the sequence numbers that it holds, by the places of the session's members (0: none),
    /// as far as there are any.
    pub newest: Vec<(Kind, Vec<u32>)>,
    /// One who is no member yet shows its invitation.
    pub invite: Option<Invite>,
    /// The sender asks for the newest that it said itself. R60
    pub recall: Option<Question>,
}

/// A decided record with its certificate. It proves itself; whoever hands it over does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Decided {
    /// The encoded record.
    pub record: Vec<u8>,
    /// The quorum's signatures.
    pub certificate: Certificate,
}

/// The bytes are no encoding of what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no canonical encoding")]
pub struct Malformed;

const FORM: Configuration<LittleEndian, Fixint, Limit<{ limits::ENVELOPE }>> =
    bincode::config::standard()
        .with_fixed_int_encoding()
        .with_little_endian()
        .with_limit::<{ limits::ENVELOPE }>();

/// The one encoding of a value.
pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, FORM)
        .expect("our types encode, and encoding to memory does not fail")
}

/// The value of which these bytes are the one encoding.
pub fn decode<T: Decode<()> + Encode>(bytes: &[u8]) -> Result<T, Malformed> {
    let (value, read) = bincode::decode_from_slice::<T, _>(bytes, FORM).map_err(|_| Malformed)?;
    if read == bytes.len() {
        Ok(value)
    } else {
        Err(Malformed)
    }
}

impl Acked {
    /// The dealing of a Deal under the keys of a KeyAd, given by their digests.
    pub fn of(dealer: MemberId, key_ad: &Digest, deal: &Digest) -> Self {
        let pair = Digest::of("conclave/v1/acked", &[key_ad.as_bytes(), deal.as_bytes()]);
        Self { dealer, pair }
    }
}

impl Envelope {
    /// The bytes that travel.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Parses the bytes that travelled.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        decode(bytes)
    }

    /// The name of an envelope: the digest of its bytes, signature included.
    pub fn digest_of(bytes: &[u8]) -> Digest {
        Digest::of("conclave/v1/envelope", &[bytes])
    }
}

impl Invite {
    /// Signs an invitation.
    pub fn sign(
        key: &IdentityKey,
        charter: Digest,
        sponsor: MemberId,
        nonce: [u8; 16],
        invitee: Option<PublicKey>,
        uses: u32,
        expires: u64,
    ) -> Self {
        let mut invite = Self {
            charter,
            epoch: 0,
            sponsor,
            nonce,
            invitee,
            uses,
            expires,
            signature: Signature([0; 64]),
        };
        invite.signature = key.sign(&invite.preimage());
        invite
    }

    /// Verifies the sponsor's signature.
    pub fn verify(&self, sponsor: &PublicKey) -> Result<(), SignError> {
        sponsor.verify(&self.preimage(), &self.signature)
    }

    fn preimage(&self) -> Vec<u8> {
        let mut bytes = b"conclave/v1/invite\0".to_vec();
        let unsigned = Self {
            signature: Signature([0; 64]),
            ..self.clone()
        };
        bytes.extend_from_slice(&encode(&unsigned));
        bytes
    }
}

impl core::fmt::Debug for Commit {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let how = if self.inline.is_some() {
            "inline"
        } else {
            "announced"
        };
        write!(
            f,
            "Commit({}, {} bytes, {how})",
            self.root.short(),
            self.length
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::names::SessId;
    use crate::record::Record;

    fn total<T: Encode + Decode<()>>(bytes: &[u8]) {
        if let Ok(value) = decode::<T>(bytes) {
            assert_eq!(encode(&value), bytes, "two encodings of one value");
        }
    }

    fn all(bytes: &[u8]) {
        total::<Envelope>(bytes);
        total::<KeyAd>(bytes);
        total::<Deal>(bytes);
        total::<Seal>(bytes);
        total::<Ack>(bytes);
        total::<Commit>(bytes);
        total::<Have>(bytes);
        total::<Reveal>(bytes);
        total::<SumCommit>(bytes);
        total::<Tags>(bytes);
        total::<Heartbeat>(bytes);
        total::<Join>(bytes);
        total::<Want>(bytes);
        total::<Decided>(bytes);
        total::<Record>(bytes);
        total::<Leave>(bytes);
        total::<Recall>(bytes);
        total::<crate::evidence::Evidence>(bytes);
    }

    fn samples() -> Vec<Vec<u8>> {
        let key = IdentityKey::from_bytes(&[5; 32]);
        let invite = Invite::sign(&key, Digest([1; 32]), MemberId(2), [3; 16], None, 1, 0);
        let head = Digest([4; 32]);
        let join = Join {
            invite: Some(invite.clone()),
            key: key.public(),
            name: "north".to_owned(),
            head,
            head_height: Height(7),
        };
        let want = Want {
            head: Height(3),
            held: vec![[1; 8], [2; 8]],
            newest: vec![(Kind::Ack, vec![0, 3])],
            invite: Some(invite),
            recall: Some([6; 16]),
        };
        let commit = Commit {
            sid: SumId(head),
            root: head,
            length: 8,
            inline: Some(vec![1; 8]),
            shards: vec![head],
        };
        let share = [9; 32];
        let shares = vec![Revealed {
            dealer: MemberId(1),
            which: Secret::PairKey,
            share,
            salt: share,
        }];
        let reveal = Reveal {
            record: head,
            shares,
            sums: vec![head],
        };
        let body = encode(&join);
        let envelope = Envelope::sign(&key, Kind::Join, SessId(head), MemberId::NEWCOMER, 0, body);
        let claim = Claim::of(&envelope);
        let recall = Recall {
            answers: Some([6; 16]),
            claims: vec![Recalled {
                height: Height(3),
                before: head,
                claim,
            }],
        };
        vec![
            encode(&recall),
            encode(&join),
            encode(&want),
            encode(&commit),
            encode(&reveal),
            envelope.to_bytes(),
        ]
    }

    // R8: parsers are total, and what they take has one encoding.
    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            all(&bytes);
        }

        #[test]
        fn changed_bytes_are_refused_or_have_one_encoding(
            which in 0usize..6, at in any::<prop::sample::Index>(), flip in 1u8..=255, cut in any::<bool>(),
        ) {
            let mut bytes = samples()[which].clone();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if cut {
                bytes.truncate(at);
            }
            all(&bytes);
        }
    }

    #[test]
    fn an_invitation_is_the_sponsors_word() {
        let key = IdentityKey::from_bytes(&[5; 32]);
        let mut invite = Invite::sign(&key, Digest([1; 32]), MemberId(2), [3; 16], None, 1, 0);
        assert!(invite.verify(&key.public()).is_ok());
        invite.uses = 2;
        assert!(invite.verify(&key.public()).is_err());
    }
}
