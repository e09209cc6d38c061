//! Every bound on what others may make a member hold or do, on one page.

use crate::envelope::Kind;

/// The most members of a height (GF(256) has room for 255 holders).
pub const MEMBERS: usize = 200;

/// Bytes of an encoded envelope around its body: kind, session, sender, sequence number, length, signature.
pub const ENVELOPE_OVERHEAD: usize = 4 + 32 + 4 + 8 + 8 + 64;

/// No envelope is longer than this, whatever its kind.
pub const ENVELOPE: usize = 16 * 1024 * 1024;

/// The longest inline vector that a charter can ask for.
pub const INLINE: usize = 8 * 1024 * 1024;

/// Envelopes of sessions that are not known yet, kept until the record that names them is decided.
pub const EARLY: usize = 512;

/// Those that one peer may hand over.
pub const EARLY_PEER: usize = 128;

/// Bytes of those envelopes.
pub const EARLY_BYTES: usize = 16 * 1024 * 1024;

/// Consensus messages kept for each sender in one session, to be handed on.
pub const TALK: usize = 256;

/// Bytes of them.
pub const TALK_BYTES: usize = 6 * 1024 * 1024;

/// The most shards of a vector: 16 GiB.
pub const SHARDS: usize = 4096;

/// Envelopes sent in answer to one Want.
pub const ANSWER: usize = 512;

/// Bytes sent in answer to one Want.
pub const ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// Records sent in answer to one Want.
pub const ANSWER_RECORDS: u64 = 32;

/// Joins remembered until a record admits them.
pub const JOINS: usize = 64;

/// Bytes of the two statements of one piece of evidence; longer contradictions are refused without a record of it.
pub const EVIDENCE: usize = 64 * 1024;

/// Members that one record may convict.
pub const CONVICTS: usize = 8;

/// Statements in one Recall.
pub const CLAIMS: usize = 12;

/// Bytes of a member's name.
pub const NAME: usize = 64;

/// The longest body of each kind, in bytes.
pub const fn body(kind: Kind) -> usize {
    match kind {
        Kind::KeyAd => 96,
        Kind::Deal => 64 + 2 * (8 + 32 * MEMBERS),
        Kind::Seal => 256,
        Kind::Ack => 8 + MEMBERS * 36,
        Kind::Commit => INLINE + 256 + SHARDS * 32,
        Kind::Have => 16 + MEMBERS * 32 + SHARDS * 4,
        Kind::Proposal | Kind::Decided => 4 * 1024 * 1024,
        Kind::Vote | Kind::Join | Kind::Leave => 1024,
        Kind::Recall => 4096,
        Kind::Liveness | Kind::Want => 256 * 1024,
        Kind::Reveal => 64 + MEMBERS * (80 + 32),
        Kind::SumCommit => 64 + SHARDS * 36,
        Kind::Tags => 64 + SHARDS * 8,
        Kind::Heartbeat => 64,
    }
}
