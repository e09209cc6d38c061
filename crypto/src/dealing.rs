//! A dealing, derived from one seed (PROTOCOL.md, section 3): shares, salts and leaves for every holder.
//!
//! Whoever knows the seed derives the whole dealing again, so a dishonest one is proved by comparing leaves.
//! Secrecy of fewer than t shares is computational: HKDF is taken as a random oracle.

use core::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

use crate::agree::ExchangeKey;
use crate::digest::Digest;
use crate::shamir;

/// Which of a dealer's two seeds is shared.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode,
)]
pub enum Secret {
    /// `seed_b`: gives the self mask. Revealed for survivors.
    SelfSeed,
    /// `seed_m`: gives the session's mask key. Revealed for dropouts.
    PairKey,
}

/// One holder's part: a share and the salt of its leaf. `Debug` prints the name only; wiped when dropped.
#[derive(Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Share {
    /// The Shamir share of the seed.
    pub share: [u8; 32],
    /// What makes the leaf hide the share.
    pub salt: [u8; 32],
}

/// All that follows from one seed: a part and a leaf for every holder. Silent in `Debug`, wiped when dropped.
pub struct Dealing {
    shares: Vec<Share>,
    leaves: Vec<Digest>,
}

/// `b_i`, the secret behind the self mask.
pub struct SelfSecret(pub(crate) Zeroizing<[u8; 32]>);

impl Dealing {
    /// Derives the dealing of `seed` among `holders` positions (x = 1..=holders), `threshold` of which open it.
    ///
    /// # Panics
    /// If `threshold` is 0.
    pub fn derive(
        seed: &[u8; 32],
        sess: &Digest,
        dealer: u32,
        which: Secret,
        threshold: u8,
        holders: u8,
    ) -> Self {
        assert!(threshold > 0, "a threshold is at least one");
        let derive = Hkdf::<Sha256>::new(Some(sess.as_bytes()), seed);
        let coefficients = (1..threshold)
            .map(|k| expand(&derive, &[b"coef", &[k]]))
            .collect::<Vec<Zeroizing<[u8; 32]>>>();
        let (shares, leaves) = (1..=holders)
            .map(|x| {
                let share = Share {
                    share: shamir::share_at(seed, &coefficients, x),
                    salt: *expand(&derive, &[b"salt", &[x]]),
                };
                let leaf = leaf(sess, dealer, which, x, &share);
                (share, leaf)
            })
            .unzip();
        Self { shares, leaves }
    }

    /// The part of the holder at position `x`.
    ///
    /// # Panics
    /// If no holder has that position: they go from 1 to the number of holders.
    pub fn share(&self, x: u8) -> Share {
        usize::from(x)
            .checked_sub(1)
            .and_then(|at| self.shares.get(at))
            .expect("a holder's position goes from 1 to the number of holders")
            .clone()
    }

    /// The leaves of all positions, x = 1 first.
    pub fn leaves(&self) -> &[Digest] {
        &self.leaves
    }
}

/// `b_i = HKDF(salt = sess, ikm = seed_b, info = "b")`.
pub fn self_secret(seed: &[u8; 32], sess: &Digest) -> SelfSecret {
    SelfSecret(expand(&Hkdf::new(Some(sess.as_bytes()), seed), &[b"b"]))
}

/// `sk_m = HKDF(salt = sess, ikm = seed_m, info = "m")`.
pub fn mask_key(seed: &[u8; 32], sess: &Digest) -> ExchangeKey {
    let derive = Hkdf::new(Some(sess.as_bytes()), seed);
    ExchangeKey::from_bytes(&expand(&derive, &[b"m"]))
}

/// `H("conclave/v1/leaf" ‖ sess ‖ dealer ‖ kind ‖ x ‖ share ‖ salt)`.
pub fn leaf(sess: &Digest, dealer: u32, which: Secret, x: u8, share: &Share) -> Digest {
    let kind = match which {
        Secret::SelfSeed => b'b',
        Secret::PairKey => b'm',
    };
    Digest::of(
        "conclave/v1/leaf",
        &[
            sess.as_bytes(),
            &dealer.to_le_bytes(),
            &[kind, x],
            &share.share,
            &share.salt,
        ],
    )
}

fn expand(derive: &Hkdf<Sha256>, info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    derive
        .expand_multi_info(info, out.as_mut())
        .expect("32 bytes are within HKDF's limit");
    out
}

impl Drop for Share {
    fn drop(&mut self) {
        self.share.zeroize();
        self.salt.zeroize();
    }
}

impl fmt::Debug for Dealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dealing")
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Share")
    }
}

impl fmt::Debug for SelfSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SelfSecret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_threshold_of_holders_gives_the_same_dealing() {
        let (seed, sess) = ([5; 32], Digest([6; 32]));
        let dealing = Dealing::derive(&seed, &sess, 2, Secret::PairKey, 4, 5);
        for skipped in 1..=5 {
            let parts: Vec<_> = (1..=5)
                .filter(|x| *x != skipped)
                .map(|x| (x, dealing.share(x).share))
                .collect();
            let opened = shamir::combine(&parts).expect("four of five");
            let again = Dealing::derive(&opened, &sess, 2, Secret::PairKey, 4, 5);
            assert_eq!(again.leaves(), dealing.leaves());
        }
        let three: Vec<_> = (1..=3).map(|x| (x, dealing.share(x).share)).collect();
        assert_ne!(*shamir::combine(&three).expect("positions are good"), seed);
    }

    #[test]
    fn everything_is_bound() {
        let sess = Digest([6; 32]);
        let base = Dealing::derive(&[5; 32], &sess, 2, Secret::PairKey, 3, 4);
        for other in [
            Dealing::derive(&[4; 32], &sess, 2, Secret::PairKey, 3, 4),
            Dealing::derive(&[5; 32], &Digest([7; 32]), 2, Secret::PairKey, 3, 4),
            Dealing::derive(&[5; 32], &sess, 3, Secret::PairKey, 3, 4),
            Dealing::derive(&[5; 32], &sess, 2, Secret::SelfSeed, 3, 4),
            Dealing::derive(&[5; 32], &sess, 2, Secret::PairKey, 2, 4),
        ] {
            assert_ne!(base.leaves(), other.leaves());
        }
    }
}
