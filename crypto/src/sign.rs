//! Identities: Ed25519 signatures (RFC 8032) under a domain, verified strictly.

use core::fmt;
use core::str::FromStr;

use bincode::de::Decoder;
use bincode::error::DecodeError;
use ed25519_dalek::{Signer as _, Verifier as _};
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

    /// Strict verification: canonical encodings, no small-order points.
    ///
    /// It accepts what `verify_strict` of the library accepts. That one decodes R to look at its order; but R counts
    /// only if it is the one encoding of the point that comes out, and eight such encodings are of small order.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), SignError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(&self.0).map_err(|_| SignError::Key)?;
        let (point, _) = signature.0.split_at(32);
        if SMALL_ORDER.iter().any(|small| small == point) {
            return Err(SignError::Signature);
        }
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        key.verify(message, &signature)
            .map_err(|_| SignError::Signature)
    }
}

/// The encodings of the points whose order divides the cofactor: y = 1, y = −1, y = 0, and two more y, the latter with
/// either x (RFC 8032, section 5.1.2).
const SMALL_ORDER: [[u8; 32]; 8] = {
    let mut one = [0; 32];
    let mut minus_one = [0xff; 32];
    let mut zero = [0; 32];
    let ([first, ..], [low, .., high], [.., last]) = (&mut one, &mut minus_one, &mut zero);
    (*first, *low, *high, *last) = (1, 0xec, 0x7f, 0x80);
    [
        one,
        minus_one,
        [0; 32],
        zero,
        order_eight(ORDER_EIGHT, 0x05),
        order_eight(ORDER_EIGHT, 0x85),
        order_eight(OTHER_ORDER_EIGHT, 0x7a),
        order_eight(OTHER_ORDER_EIGHT, 0xfa),
    ]
};

const fn order_eight(mut point: [u8; 32], highest: u8) -> [u8; 32] {
    let [.., last] = &mut point;
    *last = highest;
    point
}

const ORDER_EIGHT: [u8; 32] = [
    0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
    0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
];

const OTHER_ORDER_EIGHT: [u8; 32] = [
    0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
    0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
];

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
    fn the_points_of_small_order_are_all_eight() {
        let weak = |bytes: &[u8; 32]| {
            let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).expect("a point");
            key.is_weak() && key.to_edwards().compress().as_bytes() == bytes
        };
        assert!(SMALL_ORDER.iter().all(weak));
        let different: std::collections::BTreeSet<_> = SMALL_ORDER.iter().collect();
        assert_eq!(different.len(), 8);
    }

    /// Against the library's strict verification: sound signatures, every bit changed, R of small order, s too large.
    #[test]
    fn what_is_accepted_is_what_the_library_accepts_strictly() {
        let key = IdentityKey::from_bytes(&[5; 32]);
        let public = key.public();
        let strict = ed25519_dalek::VerifyingKey::from_bytes(&public.0).expect("a key");
        let message = b"conclave/v1/example a message";
        let sound = key.sign(message);
        let mut tried = vec![sound.0];
        tried.extend((0..512).map(|bit| {
            let mut bytes = sound.0;
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        }));
        for small in SMALL_ORDER {
            for scalar in [[0; 32], sound.0[32..].try_into().expect("32 bytes")] {
                tried.push([small, scalar].concat().try_into().expect("64 bytes"));
            }
        }
        // s + the order of the base point is the same scalar in another encoding.
        let order = hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
        let (mut large, mut carry) = (sound.0, 0);
        for (byte, add) in large[32..].iter_mut().zip(order.expect("hexadecimal")) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
        }
        tried.push(large);
        let accepted = tried.iter().filter(|bytes| {
            let library =
                strict.verify_strict(message, &ed25519_dalek::Signature::from_bytes(bytes));
            let ours = public.verify(message, &Signature(**bytes));
            assert_eq!(ours.is_ok(), library.is_ok(), "{bytes:x?}");
            ours.is_ok()
        });
        assert_eq!(accepted.count(), 1);
    }

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
