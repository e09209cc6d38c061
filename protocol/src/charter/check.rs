//! Every bound of a charter, and whether its ring has room.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crypto::fixed::Scale;
use conclave_crypto::fraction::Fraction;

use super::{Adapter, Charter, Lora, MEMBERS_MAX, Method, SURVIVORS_MIN, Targets};

/// Why a text is no charter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CharterError {
    /// The text is no TOML of the right types.
    #[error("line {line}: {reason}")]
    Syntax {
        /// Where, from 1.
        line: usize,
        /// What the parser says.
        reason: String,
    },
    /// A key that no charter has.
    #[error("unknown key `{key}` in {section}; {suggestion}")]
    UnknownKey {
        /// As written.
        key: String,
        /// Which table it stands in.
        section: String,
        /// The nearest known key, or all of them.
        suggestion: String,
    },
    /// A number, text or choice that is out of its bounds.
    #[error("{key} = {found}: {expected}")]
    OutOfBounds {
        /// Section and key.
        key: &'static str,
        /// As written.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// A term of another method.
    #[error("{key} belongs to the method {of}, and this is {method}; leave it out")]
    Foreign {
        /// Section and key.
        key: &'static str,
        /// Whose it is.
        of: &'static str,
        /// The charter's.
        method: &'static str,
    },
    /// Two founders share a name or key.
    #[error("members: {0} appears twice; every founder has its own name and key")]
    Twice(String),
    /// The ring overflows under these terms.
    #[error("aggregation: {0}; lower members_max, weight_max or clip")]
    Infeasible(String),
}

/// All bounds.
pub(super) fn check(charter: &Charter) -> Result<(), CharterError> {
    named("federation.name", &charter.federation.name)?;
    within("federation.protocol", charter.federation.protocol, 1, 1)?;
    named("model.architecture", &charter.model.architecture)?;
    charter.adapter.check()?;
    within("round.rounds", charter.round.rounds, 1, 100_000)?;
    within("round.local_steps", charter.round.local_steps, 1, 1_000_000)?;
    timers(charter)?;
    aggregation(charter)?;
    members(charter)?;
    scale(charter).map(|_| ())
}

/// The scale of the ring, when it has room.
pub(super) fn scale(charter: &Charter) -> Result<Scale, CharterError> {
    let terms = &charter.aggregation;
    Scale::solve(
        terms.members_max,
        terms.weight_max,
        &terms.clip,
        terms.ring_bits,
    )
    .map_err(|infeasible| CharterError::Infeasible(infeasible.to_string()))
}

impl Adapter {
    /// Whether its terms lie within a charter's bounds, whatever the model.
    pub fn check(&self) -> Result<(), CharterError> {
        let seed = self.seed;
        within("adapter.seed", seed, 0, i64::MAX.unsigned_abs())?;
        match &self.method {
            Method::Lora(terms) => lora(terms),
            Method::Bottleneck(terms) => within("adapter.bottleneck_size", terms.size, 1, 65_536),
            Method::Prompt(terms) => {
                let rows = terms.virtual_tokens;
                within("adapter.num_virtual_tokens", rows, 1, 65_536)?;
                let key = "adapter.prompt_tuning_init_text (its characters)";
                let length = terms.init_text.as_ref().map(|text| text.chars().count());
                length.map_or(Ok(()), |length| within(key, length, 1, 4096))
            }
        }
    }
}

fn lora(terms: &Lora) -> Result<(), CharterError> {
    within("adapter.lora_r", terms.r, 1, 1024)?;
    within("adapter.lora_alpha", terms.alpha, 1, 65_536)?;
    pattern("adapter.rank_pattern", &terms.rank_pattern, 1024)?;
    pattern("adapter.alpha_pattern", &terms.alpha_pattern, 65_536)?;
    if let Targets::Named(names) = &terms.target_modules {
        within("adapter.target_modules (their number)", names.len(), 1, 64)?;
        for name in names {
            named("adapter.target_modules", name)?;
        }
        if !names.is_sorted_by(|left, right| left < right) {
            return Err(CharterError::OutOfBounds {
                key: "adapter.target_modules",
                found: format!("{names:?}"),
                expected: "each module once, in alphabetical order".to_owned(),
            });
        }
    }
    Ok(())
}

fn pattern(
    key: &'static str,
    pattern: &BTreeMap<String, u32>,
    most: u32,
) -> Result<(), CharterError> {
    within(key, pattern.len(), 0, 64)?;
    for (name, number) in pattern {
        named(key, name)?;
        within(key, *number, 1, most)?;
    }
    Ok(())
}

fn timers(charter: &Charter) -> Result<(), CharterError> {
    let timers = &charter.round.timers;
    for (key, span) in timers.named() {
        within(key, span.0, 10, 30 * 86_400_000)?;
    }
    within(
        "submit_min_ms",
        timers.submit_min.0,
        10,
        timers.submit_max.0,
    )
}

fn aggregation(charter: &Charter) -> Result<(), CharterError> {
    let terms = &charter.aggregation;
    let founders = u32::try_from(charter.members.len()).unwrap_or(u32::MAX);
    within(
        "the number of [[members]]",
        founders,
        SURVIVORS_MIN,
        MEMBERS_MAX,
    )?;
    within(
        "aggregation.members_max",
        terms.members_max,
        founders,
        MEMBERS_MAX,
    )?;
    within(
        "aggregation.min_survivors",
        terms.min_survivors,
        SURVIVORS_MIN,
        founders,
    )?;
    if !below_a_third(&terms.corruption) {
        return Err(CharterError::OutOfBounds {
            key: "aggregation.corruption",
            found: terms.corruption.to_string(),
            expected: "at least 0 and less than one third".to_owned(),
        });
    }
    if terms.clip.numerator() == 0 {
        return Err(CharterError::OutOfBounds {
            key: "aggregation.clip",
            found: terms.clip.to_string(),
            expected: "more than 0".to_owned(),
        });
    }
    within("aggregation.weight_max", terms.weight_max, 1, 65_536)?;
    within(
        "aggregation.weight_unit",
        terms.weight_unit,
        1,
        1_000_000_000,
    )?;
    within("aggregation.ring_bits", terms.ring_bits, 32, 32)?;
    within("aggregation.inline_limit", terms.inline_limit, 0, 4 << 20)?;
    within("aggregation.replicas", terms.replicas, 1, 16)?;
    within("aggregation.absent_rounds", terms.absent_rounds, 1, 1000)
}

fn members(charter: &Charter) -> Result<(), CharterError> {
    let mut names = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for member in &charter.members {
        named("members.name", &member.name)?;
        if !names.insert(&member.name) {
            return Err(CharterError::Twice(format!("the name `{}`", member.name)));
        }
        if !keys.insert(member.key) {
            return Err(CharterError::Twice(format!("the key {}", member.key)));
        }
    }
    Ok(())
}

/// 3 · numerator < denominator, without overflow.
fn below_a_third(fraction: &Fraction) -> bool {
    u128::from(fraction.numerator()).saturating_mul(3) < u128::from(fraction.denominator())
}

fn named(key: &'static str, text: &str) -> Result<(), CharterError> {
    let length = text.chars().count();
    if (1..=64).contains(&length) && text.trim() == text && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(CharterError::OutOfBounds {
        key,
        found: format!("{text:?}"),
        expected: "1 to 64 printable characters, no blanks at the ends".to_owned(),
    })
}

fn within<N: Copy + PartialOrd + core::fmt::Display>(
    key: &'static str,
    found: N,
    least: N,
    most: N,
) -> Result<(), CharterError> {
    if found >= least && found <= most {
        return Ok(());
    }
    let expected = if least >= most {
        format!("it must be {least}")
    } else {
        format!("it must be from {least} to {most}")
    };
    Err(CharterError::OutOfBounds {
        key,
        found: found.to_string(),
        expected,
    })
}
