//! Why a message was not taken: counted, never fatal.

use std::collections::BTreeMap;

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

impl Refusal {
    /// The word for it in what is shown and kept.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Oversized => "oversized",
            Self::Stranger => "stranger",
            Self::Signature => "signature",
            Self::Equivocation => "equivocation",
            Self::Rule => "rule",
        }
    }
}

/// How often each reason was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals(BTreeMap<Refusal, u64>);

impl Refusals {
    /// Counts one.
    pub fn count(&mut self, refusal: Refusal) {
        let count = self.0.entry(refusal).or_default();
        *count = count.saturating_add(1);
    }

    /// How many in all.
    pub fn total(&self) -> u64 {
        self.0
            .values()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Every reason that was given, with how often.
    pub fn causes(&self) -> impl Iterator<Item = (Refusal, u64)> + '_ {
        self.0.iter().map(|(refusal, count)| (*refusal, *count))
    }

    /// How many for one reason.
    pub fn of(&self, refusal: Refusal) -> u64 {
        self.0.get(&refusal).copied().unwrap_or_default()
    }
}
