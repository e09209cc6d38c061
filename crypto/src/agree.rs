//! Key agreement: X25519 (RFC 7748), with non-contributory results refused.

use core::fmt;
use std::sync::OnceLock;

use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::montgomery::MontgomeryPoint;
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use rand_core::CryptoRng;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// A secret scalar of one session. It has no `Clone`, is silent in `Debug` and wiped when dropped.
///
/// ```compile_fail
/// let key = conclave_crypto::agree::ExchangeKey::from_bytes(&[1; 32]);
/// let copy = key.clone();
/// ```
pub struct ExchangeKey {
    secret: StaticSecret,
    /// Worked out when it is first asked for.
    public: OnceLock<ExchangePublic>,
}

/// The public half: a u-coordinate of 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct ExchangePublic(pub [u8; 32]);

/// What two parties share: 32 secret bytes, to be fed to HKDF only.
pub struct Shared(Zeroizing<[u8; 32]>);

/// Why an agreement is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AgreeError {
    /// The peer's key has small order: the result does not depend on the own key (RFC 7748, section 6.1).
    #[error("the other key contributes nothing to the agreement")]
    NonContributory,
}

impl ExchangeKey {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(bytes.as_mut());
        Self::from_bytes(&bytes)
    }

    /// The key of 32 secret bytes (clamped when used, RFC 7748, section 5).
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self {
            secret: StaticSecret::from(*bytes),
            public: OnceLock::new(),
        }
    }

    /// The 32 secret bytes, to be stored in a secrets file only.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.to_bytes())
    }

    /// `X25519(sk, 9)`.
    pub fn public(&self) -> ExchangePublic {
        let derive = || ExchangePublic(PublicKey::from(&self.secret).to_bytes());
        *self.public.get_or_init(derive)
    }

    /// `X25519(sk, pk)`.
    pub fn shared(&self, other: &ExchangePublic) -> Result<Shared, AgreeError> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(other.0));
        if !shared.was_contributory() {
            return Err(AgreeError::NonContributory);
        }
        Ok(Shared(Zeroizing::new(shared.to_bytes())))
    }

    /// `X25519(sk, pk)` with each of others whose secrets are known too, as in a simulation: bit for bit what
    /// [`Self::shared`] gives, in a quarter of the time.
    #[expect(clippy::arithmetic_side_effects, reason = "scalars wrap at the order")]
    pub fn shared_with<'a>(&self, others: impl IntoIterator<Item = &'a Self>) -> Vec<Shared> {
        let scalar = |key: &Self| {
            let clamped = Zeroizing::new(clamp_integer(*key.to_bytes()));
            Zeroizing::new(Scalar::from_bytes_mod_order(*clamped))
        };
        let own = scalar(self);
        // The other public key is a multiple of the base point, whose order, a prime, the scalars are reduced by. A
        // clamped one is a multiple of 8 below 8 times that order: never zero, and so is no product.
        let point = |other| EdwardsPoint::mul_base(&Zeroizing::new(*own * *scalar(other)));
        let points: Zeroizing<Vec<_>> = Zeroizing::new(others.into_iter().map(point).collect());
        let shared = Zeroizing::new(EdwardsPoint::to_montgomery_batch(&points));
        let shared = shared.iter().map(MontgomeryPoint::to_bytes);
        shared.map(|bytes| Shared(Zeroizing::new(bytes))).collect()
    }
}

impl ExchangePublic {
    /// Whether what is agreed with this key depends on the other key: whether [`ExchangeKey::shared`] takes it.
    pub fn contributes(&self) -> bool {
        let mut point = self.0;
        if let Some(last) = point.last_mut() {
            // RFC 7748, section 5: the highest bit is not looked at.
            *last &= 0x7f;
        }
        !SMALL_ORDER.contains(&point)
    }
}

/// The points whose order divides the cofactor, on the curve and on its twist, as u-coordinates: 0, 1, −1, two of order
/// 8, and p and p + 1, which stand for 0 and 1 (RFC 7748, section 6.1).
const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    with_ends(1, 0, 0),
    with_ends(0xec, 0xff, 0x7f),
    with_ends(0xed, 0xff, 0x7f),
    with_ends(0xee, 0xff, 0x7f),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ],
];

const fn with_ends(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    let [start, .., end] = &mut bytes;
    (*start, *end) = (first, last);
    bytes
}

impl Shared {
    /// The input keying material for HKDF.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ExchangeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExchangeKey")
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl fmt::Debug for ExchangePublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ExchangePublic({})",
            hex::encode(self.0.first_chunk::<4>().expect("32 bytes"))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn refuses_small_order() {
        let key = ExchangeKey::from_bytes(&[7; 32]);
        assert_eq!(
            key.shared(&ExchangePublic([0; 32])).err(),
            Some(AgreeError::NonContributory)
        );
        let mut one = [0; 32];
        one[0] = 1;
        assert_eq!(
            key.shared(&ExchangePublic(one)).err(),
            Some(AgreeError::NonContributory)
        );
    }

    /// Against the agreement itself: all points of small order, their neighbours, any others.
    #[test]
    fn the_keys_that_contribute_are_those_that_agree() {
        let key = ExchangeKey::from_bytes(&[7; 32]);
        let mut contributing = 0;
        for seed in 0..=255_u8 {
            let mut points = vec![*Digest::of("a key", &[&[seed]]).as_bytes()];
            points.extend(SMALL_ORDER.map(|mut point| {
                point[31] |= 0x80 * (seed & 1);
                point[0] = point[0].wrapping_add(seed >> 1);
                point
            }));
            for point in points {
                let public = ExchangePublic(point);
                assert_eq!(
                    public.contributes(),
                    key.shared(&public).is_ok(),
                    "{point:x?}"
                );
                contributing += usize::from(public.contributes());
            }
        }
        // Seeds 0 and 1 leave the seven as they are; beside them 0 and −1, and 0, p and their neighbours meet.
        assert!((1900..2040).contains(&contributing), "{contributing}");
    }

    /// Also where the clamped scalars are the largest and the smallest.
    #[test]
    fn both_secrets_give_what_one_and_the_other_key_give() {
        let named = |seed: u8| *Digest::of("a key", &[&[seed]]).as_bytes();
        let secrets = (0..20).map(named).chain([[0xff; 32], [0; 32]]);
        let keys: Vec<_> = secrets
            .map(|secret| ExchangeKey::from_bytes(&secret))
            .collect();
        for key in &keys {
            let known = key.shared_with(&keys);
            assert_eq!(known.len(), keys.len());
            for (other, known) in keys.iter().zip(known) {
                let shared = key.shared(&other.public());
                let shared = shared.expect("an honest key contributes");
                assert_eq!(known.as_bytes(), shared.as_bytes());
            }
        }
        assert!(keys[0].shared_with([]).is_empty());
    }

    #[test]
    fn is_silent() {
        assert_eq!(
            format!("{:?}", ExchangeKey::from_bytes(&[1; 32])),
            "ExchangeKey"
        );
    }
}
