//! Why a message was not taken: counted, never fatal.

/// A reason to refuse what a peer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The bytes are no canonical encoding of an envelope or body.
    Malformed,
    /// Longer than its kind allows.
    Oversized,
    /// The sender is no member of this session.
    Stranger,
    /// The signature does not verify.
    Signature,
    /// It contradicts what the same sender signed before in the same slot.
    Equivocation,
    /// It breaks a rule of the protocol.
    Rule,
}
