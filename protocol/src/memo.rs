//! What a world may remember for all its members: results of pure functions, and the secrets of its members' keys.
//!
//! A node has one member and no memo: it computes everything itself. In a world of hundreds the same certificate,
//! dealing or agreement is worked out by each of them; there one result may serve all. Nothing else differs, and a
//! run with a memo equals the run without, byte for byte.

use std::any::Any;
use std::sync::Arc;

use conclave_crypto::agree::{AgreeError, ExchangeKey, ExchangePublic, Shared};
use conclave_crypto::dealing::{Dealing, Secret};
use conclave_crypto::digest::Digest;

use crate::letter::{Bytes, Letter};

/// The functions whose results may be remembered. Each is a function of the bytes that name it, and of nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Function {
    /// X25519 of two public keys: both ends get the same.
    Agreement,
    /// The secret behind a public key: with both secrets an agreement is less work.
    Key,
    /// A dealing, derived from its seed.
    Dealing,
    /// The shares of a Reveal that fit the leaves that the chain names.
    Reveal,
    /// Whether a certificate holds for a session and its voters.
    Certificate,
    /// A decided record, parsed.
    Entry,
    /// A proposed record, parsed, and what the chain before it says of it.
    Record,
    /// The secrets that a record calls for, rebuilt, and whose dealings they prove false.
    Seeds,
    /// A sum without its masks, applied.
    Sum,
    /// A stored letter, with what follows from its bytes.
    Letter,
}

/// A result that several members may hold.
pub type Known = Arc<dyn Any + Send + Sync>;

/// Remembers results by the function and the digest of its arguments. Session keys are among them, and what these agree
/// on: for worlds only.
pub trait Memo: Send + Sync {
    /// The result that is known, if one is.
    fn recall(&self, function: Function, arguments: &Digest) -> Option<Known>;

    /// Remembers a result. It may be forgotten at any time.
    fn keep(&self, function: Function, arguments: Digest, result: Known);
}

/// No memo, or a world's.
#[derive(Clone, Default)]
pub struct Remembered(Option<Arc<dyn Memo>>);

impl Remembered {
    /// Results are looked up in this memo, and kept there.
    pub fn by(memo: Arc<dyn Memo>) -> Self {
        Self(Some(memo))
    }

    /// Whether results are remembered at all.
    pub(crate) const fn remembers(&self) -> bool {
        self.0.is_some()
    }

    /// The result of a function of these arguments, remembered or made now.
    pub(crate) fn once<T: Send + Sync + 'static>(
        &self,
        function: Function,
        arguments: &[&[u8]],
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        match &self.0 {
            Some(memo) => known(memo.as_ref(), function, name(arguments), make),
            None => Arc::new(make()),
        }
    }

    /// The letter of stored bytes, parsed once for all that start again with it.
    pub(crate) fn letter(&self, bytes: &Bytes) -> Letter {
        let letter = Letter::from(bytes.clone());
        let Some(memo) = &self.0 else { return letter };
        let digest = letter.digest();
        Letter::clone(&known(memo.as_ref(), Function::Letter, digest, || letter))
    }

    /// A member drew a key that others will agree with.
    pub(crate) fn drew(&self, key: &ExchangeKey) {
        if let Some(memo) = &self.0 {
            let own = ExchangeKey::from_bytes(&key.to_bytes());
            memo.keep(Function::Key, name(&[&key.public().0]), Arc::new(own));
        }
    }

    /// `X25519(sk, pk)`, which both ends of a pair get alike.
    pub(crate) fn agree(&self, key: &ExchangeKey, other: &ExchangePublic) -> Agreed {
        let [least, greatest] = pair(key, other);
        let derive = || key.shared(other).map(Arc::new);
        let shared = self.once(Function::Agreement, &[&least.0, &greatest.0], derive);
        shared.as_ref().clone()
    }

    /// Works out what is not known yet of the agreements with these others, before they are asked for: together they
    /// take less.
    pub(crate) fn meet(&self, key: &ExchangeKey, others: impl Iterator<Item = ExchangePublic>) {
        let Some(memo) = &self.0 else { return };
        let unknown = |other: ExchangePublic| {
            let [least, greatest] = pair(key, &other);
            let agreement = name(&[&least.0, &greatest.0]);
            if memo.recall(Function::Agreement, &agreement).is_some() {
                return None;
            }
            let secret = memo.recall(Function::Key, &name(&[&other.0]))?;
            Some((agreement, secret.downcast::<ExchangeKey>().ok()?))
        };
        let unknown: Vec<_> = others.filter_map(unknown).collect();
        let shared = key.shared_with(unknown.iter().map(|(_, other)| other.as_ref()));
        for ((agreement, _), shared) in unknown.iter().zip(shared) {
            let agreed: Agreed = Ok(Arc::new(shared));
            memo.keep(Function::Agreement, *agreement, Arc::new(agreed));
        }
    }

    /// The dealing of a seed.
    pub(crate) fn derive(
        &self,
        seed: &[u8; 32],
        sess: &Digest,
        dealer: u32,
        which: Secret,
        threshold: u8,
        holders: u8,
    ) -> Arc<Dealing> {
        let make = || Dealing::derive(seed, sess, dealer, which, threshold, holders);
        let kind = u8::from(which == Secret::PairKey);
        let arguments: [&[u8]; 4] = [
            seed,
            sess.as_bytes(),
            &dealer.to_le_bytes(),
            &[kind, threshold, holders],
        ];
        self.once(Function::Dealing, &arguments, make)
    }
}

/// What two keys agree on.
type Agreed = Result<Arc<Shared>, AgreeError>;

/// Two public keys, the lower first.
fn pair(key: &ExchangeKey, other: &ExchangePublic) -> [ExchangePublic; 2] {
    let own = key.public();
    [own.min(*other), own.max(*other)]
}

/// The result that a memo holds under a name, or made now and kept there.
fn known<T: Send + Sync + 'static>(
    memo: &dyn Memo,
    function: Function,
    name: Digest,
    make: impl FnOnce() -> T,
) -> Arc<T> {
    let known = memo.recall(function, &name);
    if let Some(known) = known.and_then(|known| known.downcast::<T>().ok()) {
        return known;
    }
    let made = Arc::new(make());
    memo.keep(function, name, Arc::clone(&made) as Known);
    made
}

/// What a result is remembered by.
fn name(arguments: &[&[u8]]) -> Digest {
    Digest::of("conclave/v1/memo", arguments)
}

impl core::fmt::Debug for Remembered {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(if self.0.is_some() {
            "a memo"
        } else {
            "no memo"
        })
    }
}
