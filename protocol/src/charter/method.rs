//! The kinds of adapter.

use core::fmt;
use core::str::FromStr;

/// What stands between the two maps of a bottleneck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonLinearity {
    /// `max(x, 0)`
    Relu,
    /// `x · Φ(x)`
    Gelu,
    /// `x / (1 + e^-x)`
    Silu,
    /// `tanh(x)`
    Tanh,
}

impl NonLinearity {
    /// All, by their names in charters and flags.
    pub const ALL: [(&'static str, Self); 4] = [
        ("relu", Self::Relu),
        ("gelu", Self::Gelu),
        ("silu", Self::Silu),
        ("tanh", Self::Tanh),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::Gelu => "gelu",
            Self::Silu => "silu",
            Self::Tanh => "tanh",
        }
    }
}

impl fmt::Display for NonLinearity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is none of [`NonLinearity::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no non-linearity; choose from relu, gelu, silu and tanh")]
pub struct NoNonLinearity(String);

impl FromStr for NonLinearity {
    type Err = NoNonLinearity;

    fn from_str(text: &str) -> Result<Self, NoNonLinearity> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text);
        found.map_or_else(|| Err(NoNonLinearity(text.to_owned())), |(_, of)| Ok(*of))
    }
}
