//! What the targets share: what is asked of a parser, bytes in pieces, an engine and a member to hand them to.

#[cfg(feature = "node")]
pub mod node;

use std::iter;
use std::sync::LazyLock;

use bincode::{Decode, Encode};
use conclave_crypto::digest::Digest;
use conclave_crypto::sign::IdentityKey;
use conclave_protocol::charter::Charter;
use conclave_protocol::decide::{ConsensusTimers, Decider, Voter};
use conclave_protocol::member::Member;
use conclave_protocol::message;
use conclave_protocol::names::{Height, MemberId, SessId};
use conclave_protocol::output::Stored;
use conclave_protocol::setup::OpenError;
use conclave_protocol::sim::Terms;
use conclave_protocol::time::{Span, Time};

/// Decodes, and encodes again what was decoded.
///
/// # Panics
/// If a value has two encodings.
pub fn total<T: Encode + Decode<()>>(bytes: &[u8]) {
    if let Ok(value) = message::decode::<T>(bytes) {
        assert_eq!(
            message::encode(&value),
            bytes,
            "two encodings of one {}",
            std::any::type_name::<T>()
        );
    }
}

/// Bytes in pieces: two bytes, the length as u16 little-endian, and so many bytes, or what is left of them.
pub fn pieces(bytes: &[u8]) -> impl Iterator<Item = ([u8; 2], &[u8])> {
    let mut rest = bytes;
    iter::from_fn(move || {
        let ([one, two, low, high], behind) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let (piece, behind) = behind.split_at(length.min(behind.len()));
        rest = behind;
        Some(([*one, *two], piece))
    })
}

/// The identity of a voter of [`decider`].
pub fn key(voter: u8) -> IdentityKey {
    IdentityKey::from_bytes(&[voter + 1; 32])
}

/// The engine of the first of four voters, not started, and its session.
pub fn decider() -> (Decider, SessId) {
    let voters = (0..4).map(|voter| Voter {
        member: MemberId(voter.into()),
        key: key(voter).public(),
    });
    let timers = ConsensusTimers {
        base: Span(1000),
        step: Span(500),
    };
    let sess = SessId(Digest([7; 32]));
    let me = Some(MemberId(0));
    let engine = Decider::new(Height(1), sess, me, voters.collect(), timers);
    (engine, sess)
}

/// The charter of four members.
pub static CHARTER: LazyLock<Charter> = LazyLock::new(|| terms().charter());

fn terms() -> Terms {
    Terms::new(1, 4)
}

/// The first of four members with this store, and the terms that they are of.
pub fn member(stored: Stored) -> Result<(Member, Terms), OpenError> {
    let terms = terms();
    let setup = terms.setup(&CHARTER, 0);
    Ok((Member::open(setup, stored, Time(0), [1; 32])?, terms))
}
