//! A letter: the bytes of one envelope as they travel, with what follows from them worked out once.
//!
//! Its parts (parsed envelope, digest, signature) are functions of the bytes alone, so it does not matter who asks
//! first, or whether copies of a letter share them: only time is saved.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use bincode::{Decode, Encode};
use conclave_crypto::digest::Digest;
use conclave_crypto::sign::{IdentityKey, PublicKey, SignError};

use crate::envelope::{Envelope, Kind};
use crate::limits;
use crate::message::{self, Malformed};
use crate::names::{MemberId, SessId};

/// Bytes that several holders share: cloning, or cutting a piece, copies no byte. They may be a buffer's or, as the
/// driver likes, those of a file that is mapped.
pub use bytes::Bytes;

/// The bytes of one envelope, sound or not. Clones share them, and what follows from them.
#[derive(Clone)]
pub struct Letter(Arc<Inner>);

#[derive(Default)]
struct Inner {
    bytes: Bytes,
    envelope: OnceLock<Option<Envelope>>,
    digest: OnceLock<Digest>,
    /// That of the body alone.
    hash: OnceLock<[u8; 64]>,
    /// What it says, as the reader of its kind has it.
    body: OnceLock<Option<Arc<dyn Any + Send + Sync>>>,
    /// The key that the signature was first asked about, and whether it is that key's.
    signed: OnceLock<(PublicKey, bool)>,
}

impl Letter {
    /// Signs a body and makes a letter of it.
    pub fn sign(
        key: &IdentityKey,
        kind: Kind,
        sess: SessId,
        sender: MemberId,
        seq: u64,
        body: Vec<u8>,
    ) -> Self {
        let letter = Self::of(Envelope::sign(key, kind, sess, sender, seq, body));
        // RFC 8032  What a key has signed verifies under it.
        let _fresh = letter.0.signed.set((key.public(), true));
        letter
    }

    /// The letter of an envelope.
    pub fn of(envelope: Envelope) -> Self {
        let letter = Self::from(envelope.to_bytes());
        let _fresh = letter.0.envelope.set(Some(envelope));
        letter
    }

    /// The envelope, if the bytes are the one encoding of one.
    pub fn envelope(&self) -> Result<&Envelope, Malformed> {
        let parse = || {
            let fits = self.0.bytes.len() <= limits::ENVELOPE;
            Envelope::from_bytes(&self.0.bytes).ok().filter(|_| fits)
        };
        self.0.envelope.get_or_init(parse).as_ref().ok_or(Malformed)
    }

    /// The name of the envelope: the digest of its bytes.
    pub fn digest(&self) -> Digest {
        *self
            .0
            .digest
            .get_or_init(|| Envelope::digest_of(&self.0.bytes))
    }

    /// The hash of the body, over which the signature is.
    pub fn hash(&self) -> Result<[u8; 64], Malformed> {
        let envelope = self.envelope()?;
        let hash = || Envelope::hash(&envelope.body);
        Ok(*self.0.hash.get_or_init(hash))
    }

    /// The body, parsed as the type that its kind has.
    pub(crate) fn body<T>(&self) -> Result<Arc<T>, Malformed>
    where
        T: Decode<()> + Encode + Send + Sync + 'static,
    {
        self.read(|envelope| message::decode(&envelope.body).ok())
    }

    /// What the envelope says, by the reader of its kind: each kind has one.
    pub(crate) fn read<T>(&self, reader: fn(&Envelope) -> Option<T>) -> Result<Arc<T>, Malformed>
    where
        T: Send + Sync + 'static,
    {
        let envelope = self.envelope()?;
        let read = || Some(Arc::new(reader(envelope)?) as Arc<dyn Any + Send + Sync>);
        let known = self.0.body.get_or_init(read).clone().ok_or(Malformed)?;
        known
            .downcast()
            .or_else(|_| reader(envelope).map(Arc::new).ok_or(Malformed))
    }

    /// Verifies the signature under the sender's key.
    pub fn verify(&self, key: &PublicKey) -> Result<(), SignError> {
        let envelope = self.envelope().map_err(|_| SignError::Signature)?;
        let judge = || (*key, envelope.verify(key).is_ok());
        let (asked, holds) = self.0.signed.get_or_init(judge);
        match (asked == key, holds) {
            (true, true) => Ok(()),
            (true, false) => Err(SignError::Signature),
            (false, _) => envelope.verify(key),
        }
    }

    /// The bytes, shared.
    pub fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }
}

impl From<Vec<u8>> for Letter {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

impl From<Bytes> for Letter {
    fn from(bytes: Bytes) -> Self {
        Self(Arc::new(Inner {
            bytes,
            ..Inner::default()
        }))
    }
}

impl core::ops::Deref for Letter {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl PartialEq for Letter {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.bytes == other.0.bytes
    }
}

impl Eq for Letter {}

impl core::fmt::Debug for Letter {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.envelope() {
            Ok(envelope) => write!(
                f,
                "Letter({:?} of {}, {} bytes)",
                envelope.kind,
                envelope.sender.0,
                self.len()
            ),
            Err(Malformed) => write!(f, "Letter({} bytes that are none)", self.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(key: &IdentityKey) -> Letter {
        let sess = SessId(Digest([2; 32]));
        Letter::sign(key, Kind::Ack, sess, MemberId(3), 4, vec![5; 6])
    }

    #[test]
    fn what_follows_from_the_bytes_does_not_depend_on_who_asked_before() {
        let (key, other) = (
            IdentityKey::from_bytes(&[1; 32]),
            IdentityKey::from_bytes(&[2; 32]),
        );
        for asked in [[&key, &other], [&other, &key]] {
            let letter = letter(&key);
            let copy = Letter::from(letter.to_vec());
            for asked in asked {
                let right = asked.public() == key.public();
                assert_eq!(letter.verify(&asked.public()).is_ok(), right);
                assert_eq!(letter.clone().verify(&asked.public()).is_ok(), right);
                assert_eq!(copy.verify(&asked.public()).is_ok(), right);
            }
            assert_eq!(letter.digest(), Envelope::digest_of(&letter));
            assert_eq!(letter.envelope(), copy.envelope());
            assert_eq!(letter, copy);
        }
    }

    #[test]
    fn changed_bytes_are_another_letter() {
        let key = IdentityKey::from_bytes(&[1; 32]);
        let letter = letter(&key);
        let mut bytes = letter.to_vec();
        bytes[60] ^= 1;
        let changed = Letter::from(bytes);
        assert!(changed.verify(&key.public()).is_err());
        assert_ne!(changed.digest(), letter.digest());
        assert!(Letter::from(vec![1, 2, 3]).envelope().is_err());
    }
}
