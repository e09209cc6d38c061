//! Sealed shares: ChaCha20-Poly1305 (RFC 8439) under a key that seals once.
//!
//! `key = HKDF-SHA256(salt = sess, ikm = X25519(sk_e of the dealer, pk_c of the holder), info = "conclave/v1/share" ‖
//! from ‖ to)`, nonce 0, `AAD = sess ‖ from ‖ to`, identifiers as u32 little-endian.

use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::agree::Shared;
use crate::digest::Digest;

/// Why a box does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed box was not made by this dealer for this holder in this session")]
pub struct SealError;

/// Seals `plain` from dealer `from` to holder `to`: 16 bytes longer than the plain text.
pub fn seal(shared: &Shared, sess: &Digest, from: u32, to: u32, plain: &[u8]) -> Vec<u8> {
    let aad = associated(sess, from, to);
    cipher(shared, sess, from, to)
        .encrypt(
            &[0; 12].into(),
            Payload {
                msg: plain,
                aad: &aad,
            },
        )
        .expect("a share is shorter than the cipher's limit of 256 GiB")
}

/// Opens what [`seal`] made.
pub fn open(
    shared: &Shared,
    sess: &Digest,
    from: u32,
    to: u32,
    boxed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let aad = associated(sess, from, to);
    cipher(shared, sess, from, to)
        .decrypt(
            &[0; 12].into(),
            Payload {
                msg: boxed,
                aad: &aad,
            },
        )
        .map(Zeroizing::new)
        .map_err(|_| SealError)
}

fn cipher(shared: &Shared, sess: &Digest, from: u32, to: u32) -> ChaCha20Poly1305 {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(sess.as_bytes()), shared.as_bytes())
        .expand_multi_info(
            &[b"conclave/v1/share", &from.to_le_bytes(), &to.to_le_bytes()],
            key.as_mut(),
        )
        .expect("32 bytes are within HKDF's limit");
    ChaCha20Poly1305::new((&*key).into())
}

fn associated(sess: &Digest, from: u32, to: u32) -> Vec<u8> {
    [
        sess.as_bytes().as_slice(),
        &from.to_le_bytes(),
        &to.to_le_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agree::ExchangeKey;

    #[test]
    fn opens_only_for_whom_it_was_made() {
        let (dealer, holder) = (
            ExchangeKey::from_bytes(&[1; 32]),
            ExchangeKey::from_bytes(&[2; 32]),
        );
        let sess = Digest([9; 32]);
        let boxed = seal(
            &dealer.shared(&holder.public()).expect("good"),
            &sess,
            3,
            4,
            b"shares",
        );
        let shared = holder.shared(&dealer.public()).expect("good");
        assert_eq!(
            open(&shared, &sess, 3, 4, &boxed)
                .expect("opens")
                .as_slice(),
            b"shares"
        );
        assert_eq!(open(&shared, &sess, 4, 3, &boxed).err(), Some(SealError));
        assert_eq!(
            open(&shared, &Digest([8; 32]), 3, 4, &boxed).err(),
            Some(SealError)
        );
        let mut broken = boxed;
        broken[2] ^= 1;
        assert_eq!(open(&shared, &sess, 3, 4, &broken).err(), Some(SealError));
        assert_eq!(open(&shared, &sess, 3, 4, &[]).err(), Some(SealError));
    }
}
