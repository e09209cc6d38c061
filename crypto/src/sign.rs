//! Identities: Ed25519 signatures (RFC 8032) under a domain, verified strictly.

use core::fmt;
use core::str::FromStr;

use bincode::de::Decoder;
use bincode::error::DecodeError;
use ed25519_dalek::Signer as _;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// A member's public key: 32 bytes that decode to a point of the curve and are not of small order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode)]
pub struct PublicKey([u8; 32]);

/// A signature: 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct Signature(pub [u8; 64]);

/// A member's secret key. It has no `Clone`, and `Debug` prints the public half only.
///
/// ```
/// # use conclave_crypto::sign::IdentityKey;
/// let key = IdentityKey::from_bytes(&[1; 32]);
/// let signature = key.sign(b"conclave/v1/example a message");
/// assert!(key.public().verify(b"conclave/v1/example a message", &signature).is_ok());
/// ```
/// ```compile_fail
/// # use conclave_crypto::sign::IdentityKey;
/// let copy = IdentityKey::from_bytes(&[1; 32]).clone();
/// ```
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

impl<Context> bincode::Decode<Context> for PublicKey {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let bytes = bincode::Decode::decode(decoder)?;
        Self::from_bytes(&bytes).map_err(|_| DecodeError::Other("no Ed25519 public key"))
    }
}
bincode::impl_borrow_decode!(PublicKey);

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: bincode::config::Configuration<
        bincode::config::LittleEndian,
        bincode::config::Fixint,
    > = bincode::config::standard().with_fixed_int_encoding();

    #[test]
    fn only_this_message_key_and_signature_verify() {
        let key = IdentityKey::from_bytes(&[3; 32]);
        let good = key.sign(b"message");
        assert_eq!(key.public().verify(b"message", &good), Ok(()));
        let other = IdentityKey::from_bytes(&[4; 32]).public();
        assert_eq!(other.verify(b"message", &good), Err(SignError::Signature));
        assert_eq!(
            key.public().verify(b"messagf", &good),
            Err(SignError::Signature)
        );
        for at in 0..64 {
            let mut bad = good;
            bad.0[at] ^= 1;
            assert!(
                key.public().verify(b"message", &bad).is_err(),
                "byte {at} of the signature"
            );
        }
    }

    /// RFC 8032, section 8.4: s and s + L must not both verify.
    #[test]
    fn a_signature_has_one_form() {
        let key = IdentityKey::from_bytes(&[3; 32]);
        let mut signature = key.sign(b"message");
        let order = hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
            .expect("hex");
        let mut carry = 0;
        for (byte, add) in signature.0[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            [*byte, _] = sum.to_le_bytes();
            carry = sum >> 8;
        }
        assert_eq!(
            key.public().verify(b"message", &signature),
            Err(SignError::Signature)
        );
    }

    #[test]
    fn weak_keys_are_refused_wherever_they_come_from() {
        let mut identity_point = [0; 32];
        identity_point[0] = 1;
        for bytes in [[0; 32], identity_point] {
            assert_eq!(PublicKey::from_bytes(&bytes), Err(SignError::Key));
            assert!(hex::encode(bytes).parse::<PublicKey>().is_err());
            assert!(bincode::decode_from_slice::<PublicKey, _>(&bytes, CONFIG).is_err());
        }
    }

    #[test]
    fn the_secret_is_silent() {
        let key = IdentityKey::from_bytes(&[3; 32]);
        let shown = format!("{key:?}");
        assert!(!shown.contains(&hex::encode([3; 4])), "{shown}");
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(seed: [u8; 32], foreign: [u8; 32], signature: [u8; 64]) {
            let public = IdentityKey::from_bytes(&seed).public();
            prop_assert_eq!(public.to_string().parse::<PublicKey>(), Ok(public));
            for bytes in [*public.as_bytes(), foreign] {
                if let Ok((key, used)) = bincode::decode_from_slice::<PublicKey, _>(&bytes, CONFIG) {
                    prop_assert_eq!(used, 32);
                    prop_assert_eq!(bincode::encode_to_vec(key, CONFIG).expect("encodes"), bytes);
                }
            }
            let bytes = bincode::encode_to_vec(Signature(signature), CONFIG).expect("encodes");
            prop_assert_eq!(bytes.as_slice(), signature.as_slice());
            let _refused_or_not = public.verify(&foreign, &Signature(signature));
        }
    }
}
