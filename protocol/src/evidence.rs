//! Evidence: two signed statements of one member where there is room for one. R64

use bincode::{Decode, Encode};
use conclave_crypto::sign::PublicKey;

use crate::claim::Claim;
use crate::envelope::Envelope;
use crate::limits;
use crate::names::{MemberId, SessId};

/// A contradiction that proves itself to whoever knows the member's key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Evidence {
    /// The statement with the smaller hash.
    pub first: Claim,
    /// The other.
    pub second: Claim,
}

impl Evidence {
    /// The contradiction between two envelopes, if there is one and it is small enough for a record.
    pub fn of(one: &Envelope, other: &Envelope) -> Option<Self> {
        let (one, other) = (Claim::of(one), Claim::of(other));
        let (first, second) = if one.hash() < other.hash() {
            (one, other)
        } else {
            (other, one)
        };
        let evidence = Self { first, second };
        evidence.contradicts().then_some(evidence)
    }

    /// Against whom.
    pub const fn against(&self) -> MemberId {
        self.first.sender
    }

    /// In which session.
    pub const fn sess(&self) -> SessId {
        self.first.sess
    }

    /// Whether the holder of this key signed both and they contradict each other.
    pub fn proves(&self, key: &PublicKey) -> bool {
        self.contradicts() && self.first.verify(key).is_ok() && self.second.verify(key).is_ok()
    }

    /// One spot, two words. The order makes one encoding of each pair.
    fn contradicts(&self) -> bool {
        let (one, other) = (&self.first, &self.second);
        let small = one.carried().saturating_add(other.carried()) <= limits::EVIDENCE;
        let spot = one.spot();
        small
            && one.kind == other.kind
            && one.sess == other.sess
            && one.sender == other.sender
            && spot.is_some()
            && spot == other.spot()
            && one.hash() < other.hash()
            && one.word().is_some_and(|word| Some(word) != other.word())
    }
}

#[cfg(test)]
mod tests {
    use conclave_crypto::dealing::Secret;
    use conclave_crypto::digest::Digest;
    use conclave_crypto::sign::IdentityKey;

    use super::*;
    use crate::envelope::Kind;
    use crate::message::{self, Reveal, Revealed, Seal};

    fn envelope(kind: Kind, seq: u64, body: Vec<u8>) -> Envelope {
        let key = IdentityKey::from_bytes(&[7; 32]);
        Envelope::sign(&key, kind, SessId(Digest([1; 32])), MemberId(3), seq, body)
    }

    fn key() -> PublicKey {
        IdentityKey::from_bytes(&[7; 32]).public()
    }

    // R64: two words in one spot convict, and only the one who signed both.
    #[test]
    fn two_adverts_of_one_session_are_evidence() {
        let (one, other) = (
            envelope(Kind::KeyAd, 0, vec![1; 68]),
            envelope(Kind::KeyAd, 0, vec![2; 68]),
        );
        let evidence = Evidence::of(&one, &other).expect("a contradiction");
        assert_eq!(Evidence::of(&other, &one), Some(evidence.clone()));
        assert!(evidence.proves(&key()));
        assert!(!evidence.proves(&IdentityKey::from_bytes(&[8; 32]).public()));
        let mut forged = evidence;
        forged.second.signature.0[3] ^= 1;
        assert!(!forged.proves(&key()));
    }

    // R64: nobody honest is convicted: the same words, seals to two holders, a later Reveal with more shares.
    #[test]
    fn what_may_be_said_twice_is_no_evidence() {
        let one = envelope(Kind::Commit, 0, vec![1; 80]);
        assert_eq!(Evidence::of(&one, &one), None);
        let seal = |to| {
            let sealed = vec![0; 144];
            let to = MemberId(to);
            envelope(Kind::Seal, 0, message::encode(&Seal { to, sealed }))
        };
        assert_eq!(Evidence::of(&seal(1), &seal(2)), None);
        let reveal = |seq, record, shares| {
            let shares = (0..shares)
                .map(|dealer| Revealed {
                    dealer: MemberId(dealer),
                    which: Secret::SelfSeed,
                    share: [1; 32],
                    salt: [2; 32],
                })
                .collect();
            let record = Digest([record; 32]);
            envelope(
                Kind::Reveal,
                seq,
                message::encode(&Reveal {
                    record,
                    shares,
                    sums: Vec::new(),
                }),
            )
        };
        assert_eq!(Evidence::of(&reveal(1, 5, 1), &reveal(2, 5, 2)), None);
        let two = Evidence::of(&reveal(1, 5, 1), &reveal(2, 6, 1)).expect("two openings");
        assert!(two.proves(&key()));
        let acks = [1, 2].map(|seq| envelope(Kind::Ack, seq, vec![1; 8]));
        assert_eq!(Evidence::of(&acks[0], &acks[1]), None);
    }
}
