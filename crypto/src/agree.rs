//! Key agreement: X25519 (RFC 7748), with non-contributory results refused.

use core::fmt;
use std::sync::OnceLock;

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

    #[test]
    fn is_silent() {
        assert_eq!(
            format!("{:?}", ExchangeKey::from_bytes(&[1; 32])),
            "ExchangeKey"
        );
    }
}
