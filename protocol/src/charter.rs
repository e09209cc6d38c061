//! The charter: the immutable agreement of a federation. Its digest names the federation.
//!
//! A [`Charter`] exists only when every number in it was checked: parsing, and [`Charter::checked`] for one that a
//! program put together, are the only ways to a value that the rest of the core takes. Fractions are strings parsed
//! exactly; no float enters. The keys of the file are those of `charter/file.rs`.

mod canonical;
mod check;
mod file;
mod method;
mod timers;
mod written;

use conclave_crypto::digest::Digest;
use conclave_crypto::fixed::Scale;
use conclave_crypto::fraction::Fraction;
use conclave_crypto::mask::Prg;
use conclave_crypto::sign::PublicKey;

pub use check::CharterError;
pub use method::{
    Bottleneck, Combination, Lora, Method, MethodKind, NoNonLinearity, NoTargets, NonLinearity,
    Prompt, Targets,
};
pub use timers::Timers;

/// The most members that a charter may allow (GF(256) has room for 255 holders).
pub const MEMBERS_MAX: u32 = 200;

/// The fewest survivors of a sum, and so the fewest founders.
pub const SURVIVORS_MIN: u32 = 3;

/// What a federation agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charter {
    /// What the federation is called.
    pub federation: Federation,
    /// The base model.
    pub model: Model,
    /// What is trained.
    pub adapter: Adapter,
    /// How long, and how patiently.
    pub round: Rounds,
    /// How deltas are summed.
    pub aggregation: Aggregation,
    /// Who may come later.
    pub admission: Admission,
    /// The founders, in the order of their member ids.
    pub members: Vec<Founder>,
}

/// `[federation]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Federation {
    /// For people: 1 to 64 characters.
    pub name: String,
    /// The version of the protocol: 1.
    pub protocol: u32,
    /// Random: two federations of the same terms are still two.
    pub nonce: [u8; 32],
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The model digest of PROTOCOL.md, section 8.
    pub digest: Digest,
    /// The architecture as `config.json` names it (`model_type`).
    pub architecture: String,
}

/// `[adapter]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// Which kind of adapter, and its terms.
    pub method: Method,
    /// Of the common initialisation.
    pub seed: u64,
}

/// `[round]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rounds {
    /// How many rounds are run, won or not.
    pub rounds: u32,
    /// Optimiser steps of a member in a round.
    pub local_steps: u32,
    /// Pace and patience.
    pub timers: Timers,
}

/// `[aggregation]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregation {
    /// No sum of fewer members is opened; at least 3.
    pub min_survivors: u32,
    /// The most members that the ring has room for.
    pub members_max: u32,
    /// The share of members assumed corrupt; below one third.
    pub corruption: Fraction,
    /// The clamp of each coordinate of a delta.
    pub clip: Fraction,
    /// The largest weight class.
    pub weight_max: u32,
    /// So many examples make one unit of weight.
    pub weight_unit: u64,
    /// The ring is `Z_2^ring_bits`: 32.
    pub ring_bits: u32,
    /// What masks are grown with.
    pub prg: Prg,
    /// Masked vectors of at most so many bytes travel inside their announcement.
    pub inline_limit: u64,
    /// Aggregators of a shard.
    pub replicas: u32,
    /// A member absent for so many rounds is removed.
    pub absent_rounds: u32,
}

/// `[admission]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The founders and nobody else.
    Closed,
    /// Whoever a member invited.
    Invite,
}

/// One of `[[members]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founder {
    /// For people: 1 to 64 characters, unique in the charter.
    pub name: String,
    /// Its identity, unique in the charter.
    pub key: PublicKey,
}

impl Charter {
    /// Parses and checks a `charter.toml`.
    ///
    /// ```
    /// use conclave_protocol::charter::Charter;
    /// let error = Charter::parse("[federation]\nnmae = \"x\"").unwrap_err().to_string();
    /// assert!(error.contains("`nmae`") && error.contains("`name`"), "{error}");
    /// ```
    pub fn parse(text: &str) -> Result<Self, CharterError> {
        file::read(text)?.checked()
    }

    /// Checks a charter that a program put together: every bound, and that the ring has room.
    pub fn checked(self) -> Result<Self, CharterError> {
        check::check(&self)?;
        Ok(self)
    }

    /// `SHA-256("conclave/v1/charter" ‖ canonical encoding)`: the name of the federation, and record 0 of its ledger.
    pub fn digest(&self) -> Digest {
        canonical::digest(self)
    }

    /// The whole charter as TOML, defaults written out; [`Charter::parse`] of it gives an equal charter.
    pub fn to_toml(&self) -> String {
        written::write(self)
    }

    /// The fixed-point scale of the ring.
    pub fn scale(&self) -> Scale {
        check::scale(self).expect("a checked charter has room in the ring")
    }

    /// What `members_max` is when the charter does not say: twice the founders, within 16 and 200.
    pub fn default_members_max(founders: usize) -> u32 {
        u32::try_from(founders)
            .unwrap_or(u32::MAX)
            .saturating_mul(2)
            .clamp(16, MEMBERS_MAX)
    }
}

impl Default for Aggregation {
    /// The terms of DESIGN.md for up to eight founders.
    fn default() -> Self {
        Self {
            min_survivors: SURVIVORS_MIN,
            members_max: Charter::default_members_max(0),
            corruption: "0.2".parse().expect("a literal fraction"),
            clip: "1.0".parse().expect("a literal fraction"),
            weight_max: 16,
            weight_unit: 64,
            ring_bits: 32,
            prg: Prg::Aes256Ctr,
            inline_limit: 262_144,
            replicas: 2,
            absent_rounds: 3,
        }
    }
}

#[cfg(test)]
mod tests;
