//! The kinds of adapter, and the terms of each.

use core::fmt;
use core::str::FromStr;
use std::collections::BTreeMap;

/// The kinds of adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// Low-rank adaptation: `lora`.
    Lora(Lora),
    /// Bottlenecks behind sublayers: `adapter`.
    Bottleneck(Bottleneck),
    /// A soft prompt: `prompt`.
    Prompt(Prompt),
}

/// The terms of LoRA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lora {
    /// The rank.
    pub r: u32,
    /// The scaling is `alpha / r`.
    pub alpha: u32,
    /// Whether it is `alpha / sqrt(r)` instead (rsLoRA).
    pub rslora: bool,
    /// Other ranks, by the end of the linear maps' names.
    pub rank_pattern: BTreeMap<String, u32>,
    /// Other alphas, likewise.
    pub alpha_pattern: BTreeMap<String, u32>,
    /// Which linear maps.
    pub target_modules: Targets,
    /// How factors are combined.
    pub aggregation: Combination,
}

/// The linear maps that get an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Every linear map of the blocks; the output head is left out.
    AllLinear,
    /// Those whose name ends so, from a dot on, in every layer; in a charter sorted.
    Named(Vec<String>),
}

/// A list of targets with nothing in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("target modules: the list is empty; write all-linear, or names with commas between")]
pub struct NoTargets;

impl FromStr for Targets {
    type Err = NoTargets;

    /// `all-linear`, or names with commas between, which are sorted.
    fn from_str(text: &str) -> Result<Self, NoTargets> {
        if text == "all-linear" {
            return Ok(Self::AllLinear);
        }
        let mut names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        if names.iter().any(String::is_empty) {
            return Err(NoTargets);
        }
        names.sort();
        names.dedup();
        Ok(Self::Named(names))
    }
}

/// How LoRA factors are combined under sums. Other methods have no product of factors: all their coordinates are summed
/// in every round, which is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combination {
    /// One factor a round (B in odd rounds, A in even ones): exact under sums.
    Alternating,
}

/// The terms of bottleneck adapters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bottleneck {
    /// Elements between the two maps.
    pub size: u32,
    /// What stands between them.
    pub non_linearity: NonLinearity,
}

/// The terms of a soft prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// How many rows stand in front of each text.
    pub virtual_tokens: u32,
    /// The text whose embeddings they start from; without, those of words drawn by the seed.
    pub init_text: Option<String>,
}

/// Which method, whatever its terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodKind {
    /// Low-rank factors.
    Lora,
    /// Bottlenecks.
    Bottleneck,
    /// A soft prompt.
    Prompt,
}

impl MethodKind {
    /// Each with its name in charters and flags.
    pub const ALL: [(&'static str, Self); 3] = [
        ("lora", Self::Lora),
        ("adapter", Self::Bottleneck),
        ("prompt", Self::Prompt),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        let named = Self::ALL.into_iter().find(|(_, kind)| *kind == self);
        named.map_or("", |(name, _)| name)
    }
}

impl Method {
    /// Which it is.
    pub fn kind(&self) -> MethodKind {
        match self {
            Self::Lora(_) => MethodKind::Lora,
            Self::Bottleneck(_) => MethodKind::Bottleneck,
            Self::Prompt(_) => MethodKind::Prompt,
        }
    }

    /// Its name in charters and flags.
    pub fn name(&self) -> &'static str {
        self.kind().name()
    }
}

impl Default for Method {
    fn default() -> Self {
        Self::Lora(Lora::default())
    }
}

impl Default for Lora {
    fn default() -> Self {
        Self {
            r: 8,
            alpha: 16,
            rslora: false,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            target_modules: Targets::AllLinear,
            aggregation: Combination::Alternating,
        }
    }
}

impl Default for Bottleneck {
    fn default() -> Self {
        Self {
            size: 16,
            non_linearity: NonLinearity::Relu,
        }
    }
}

impl Default for Prompt {
    fn default() -> Self {
        Self {
            virtual_tokens: 16,
            init_text: None,
        }
    }
}

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
