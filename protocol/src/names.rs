//! The names of things: members, heights, rounds, sessions. Each is its own type.

use conclave_crypto::digest::Digest;

/// A member's index in the append-only members table of the ledger.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode,
)]
pub struct MemberId(pub u32);

impl MemberId {
    /// The sender of a `Join`: a key that is no member yet.
    pub const NEWCOMER: Self = Self(u32::MAX);
}

/// The index of a record in the chain. Record 0 is the charter.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    bincode::Encode,
    bincode::Decode,
)]
pub struct Height(pub u64);

/// The display number of a height with sharers, from 1.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    bincode::Encode,
    bincode::Decode,
)]
pub struct Round(pub u32);

/// The name of a session: binds the charter, the epoch, the height and the record two heights back.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode,
)]
pub struct SessId(pub Digest);

/// The name of a masking context: binds the session, the record before, the adapter and the configuration.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode,
)]
pub struct SumId(pub Digest);

/// Which LoRA factor a round trains (LEARNING.md, RoLoRA): B in odd rounds, A in even ones.
/// Methods without factors train `All` in every round.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode,
)]
pub enum Factor {
    /// The down-projection, `r × in`.
    A,
    /// The up-projection, `out × r`.
    B,
    /// Every coordinate.
    All,
}
