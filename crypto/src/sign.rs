//! Identities: Ed25519 signatures (RFC 8032) under a domain, verified strictly.

use core::fmt;
use core::str::FromStr;

use ed25519_dalek::Signer as _;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// A member's public key: 32 bytes that decode to a point of the curve and are not of small order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct PublicKey([u8; 32]);

/// A signature: 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct Signature(pub [u8; 64]);

/// A member's secret key. It has no `Clone`, and `Debug` prints the public half only.
pub struct IdentityKey(ed25519_dalek::SigningKey);

/// Why a signature or a key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The bytes are no point of the curve, or a weak one.
    #[error("the 32 bytes are no Ed25519 public key")]
    Key,
    /// The signature does not verify.
    #[error("the signature does not belong to this message and key")]
    Signature,
}

impl IdentityKey {
    /// A fresh key from the generator of the operating system, handed in by the caller.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        Self::from_bytes(&seed)
    }

    /// The key of a 32-byte seed (RFC 8032, section 5.1.5).
    pub fn from_bytes(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The seed, to be stored with mode 0600.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// `Sign(sk, message)`: the caller puts a domain in front of the message.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityKey({})", self.public())
    }
}

impl PublicKey {
    /// Parses 32 bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, SignError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| SignError::Key)?;
        if key.is_weak() {
            return Err(SignError::Key);
        }
        Ok(Self(*bytes))
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight hexadecimal digits, for people.
    pub fn short(&self) -> String {
        hex::encode(self.0.first_chunk::<4>().expect("a key has 32 bytes"))
    }

    /// Strict verification: canonical encodings, no small-order points (`verify_strict`).
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), SignError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(&self.0).map_err(|_| SignError::Key)?;
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        key.verify_strict(message, &signature)
            .map_err(|_| SignError::Signature)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.short())
    }
}

impl FromStr for PublicKey {
    type Err = SignError;

    fn from_str(text: &str) -> Result<Self, SignError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| SignError::Key)?;
        Self::from_bytes(&bytes)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Signature({})",
            hex::encode(self.0.first_chunk::<4>().expect("64 bytes"))
        )
    }
}
