//! `charter.toml`: its keys and their defaults.

use conclave_crypto::digest::Digest;
use conclave_crypto::fraction::Fraction;
use conclave_crypto::mask::Prg;
use serde::Deserialize;

use super::{
    Admission, Aggregation, Charter, CharterError, Federation, Founder, Model, Rounds, Timers,
};
use crate::nearest::{nearest, suggestion};
use crate::time::Span;

mod adapter;

/// The tables of a charter and their keys. `[round]` has those of [`Timers::named`] too.
const SECTIONS: [(&str, &[&str]); 7] = [
    ("federation", &["name", "protocol", "nonce"]),
    ("model", &["digest", "architecture"]),
    (
        "adapter",
        &[
            "method",
            "lora_r",
            "lora_alpha",
            "target_modules",
            "use_rslora",
            "rank_pattern",
            "alpha_pattern",
            "aggregation",
            "bottleneck_size",
            "non_linearity",
            "num_virtual_tokens",
            "prompt_tuning_init_text",
            "seed",
        ],
    ),
    ("round", &["rounds", "local_steps"]),
    (
        "aggregation",
        &[
            "min_survivors",
            "members_max",
            "corruption",
            "clip",
            "weight_max",
            "weight_unit",
            "ring_bits",
            "prg",
            "inline_limit",
            "replicas",
            "absent_rounds",
        ],
    ),
    ("admission", &["mode"]),
    ("members", &["name", "key"]),
];

#[derive(Deserialize)]
struct Text {
    federation: FederationText,
    model: ModelText,
    #[serde(default)]
    adapter: adapter::Table,
    #[serde(default)]
    round: toml::Table,
    #[serde(default)]
    aggregation: AggregationText,
    #[serde(default)]
    admission: AdmissionText,
    members: Vec<FounderText>,
}

#[derive(Deserialize)]
struct FederationText {
    name: String,
    protocol: u32,
    nonce: String,
}

#[derive(Deserialize)]
struct ModelText {
    digest: String,
    architecture: String,
}

#[derive(Deserialize, Default)]
struct AggregationText {
    min_survivors: Option<u32>,
    members_max: Option<u32>,
    corruption: Option<String>,
    clip: Option<String>,
    weight_max: Option<u32>,
    weight_unit: Option<u64>,
    ring_bits: Option<u32>,
    prg: Option<String>,
    inline_limit: Option<u64>,
    replicas: Option<u32>,
    absent_rounds: Option<u32>,
}

#[derive(Deserialize, Default)]
struct AdmissionText {
    mode: Option<String>,
}

#[derive(Deserialize)]
struct FounderText {
    name: String,
    key: String,
}

/// The charter of the text, its bounds not yet checked.
pub(super) fn read(text: &str) -> Result<Charter, CharterError> {
    let syntax = |error: &toml::de::Error| CharterError::Syntax {
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        reason: error.message().to_owned(),
    };
    let table: toml::Table = toml::from_str(text).map_err(|error| syntax(&error))?;
    known_keys(&table)?;
    let text: Text = toml::from_str(text).map_err(|error| syntax(&error))?;
    Ok(Charter {
        federation: federation(text.federation)?,
        model: Model {
            digest: parsed("model.digest", &text.model.digest)?,
            architecture: text.model.architecture,
        },
        adapter: text.adapter.read()?,
        round: round(&text.round)?,
        aggregation: aggregation(text.aggregation, text.members.len())?,
        admission: choice(
            "admission.mode",
            text.admission.mode.as_deref(),
            &[("closed", Admission::Closed), ("invite", Admission::Invite)],
        )?,
        members: text
            .members
            .into_iter()
            .map(|founder| {
                Ok(Founder {
                    key: parsed("members.key", &founder.key)?,
                    name: founder.name,
                })
            })
            .collect::<Result<_, CharterError>>()?,
    })
}

fn federation(text: FederationText) -> Result<Federation, CharterError> {
    let nonce: Digest = text.nonce.parse().map_err(|_| CharterError::OutOfBounds {
        key: "federation.nonce",
        found: format!("{:?}", text.nonce),
        expected: "64 hexadecimal digits from a random generator".to_owned(),
    })?;
    Ok(Federation {
        name: text.name,
        protocol: text.protocol,
        nonce: nonce.0,
    })
}

fn round(table: &toml::Table) -> Result<Rounds, CharterError> {
    let number = |key: &'static str, default: u64| -> Result<u64, CharterError> {
        let Some(value) = table.get(key) else {
            return Ok(default);
        };
        value
            .as_integer()
            .and_then(|number| u64::try_from(number).ok())
            .ok_or_else(|| CharterError::OutOfBounds {
                key,
                found: value.to_string(),
                expected: "a whole number".to_owned(),
            })
    };
    let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let default = Timers::default();
    let span = |key, span: Span| number(key, span.0).map(Span);
    Ok(Rounds {
        rounds: short(number("rounds", 6)?),
        local_steps: short(number("local_steps", 20)?),
        timers: Timers {
            genesis: span("genesis_ms", default.genesis)?,
            setup: span("setup_ms", default.setup)?,
            submit_min: span("submit_min_ms", default.submit_min)?,
            submit_max: span("submit_max_ms", default.submit_max)?,
            quiet: span("quiet_ms", default.quiet)?,
            heartbeat: span("heartbeat_ms", default.heartbeat)?,
            have: span("have_ms", default.have)?,
            reveal: span("reveal_ms", default.reveal)?,
            sync: span("sync_ms", default.sync)?,
            linger: span("linger_ms", default.linger)?,
            consensus_base: span("consensus_base_ms", default.consensus_base)?,
            consensus_step: span("consensus_step_ms", default.consensus_step)?,
        },
    })
}

fn aggregation(text: AggregationText, founders: usize) -> Result<Aggregation, CharterError> {
    let default = Aggregation::default();
    let fraction = |key, text: Option<String>, default: Fraction| match text {
        None => Ok(default),
        Some(text) => parsed(key, &text),
    };
    Ok(Aggregation {
        min_survivors: text.min_survivors.unwrap_or(default.min_survivors),
        members_max: text
            .members_max
            .unwrap_or_else(|| Charter::default_members_max(founders)),
        corruption: fraction(
            "aggregation.corruption",
            text.corruption,
            default.corruption,
        )?,
        clip: fraction("aggregation.clip", text.clip, default.clip)?,
        weight_max: text.weight_max.unwrap_or(default.weight_max),
        weight_unit: text.weight_unit.unwrap_or(default.weight_unit),
        ring_bits: text.ring_bits.unwrap_or(default.ring_bits),
        prg: choice(
            "aggregation.prg",
            text.prg.as_deref(),
            &[("aes256ctr", Prg::Aes256Ctr), ("chacha20", Prg::ChaCha20)],
        )?,
        inline_limit: text.inline_limit.unwrap_or(default.inline_limit),
        replicas: text.replicas.unwrap_or(default.replicas),
        absent_rounds: text.absent_rounds.unwrap_or(default.absent_rounds),
    })
}

/// One of a few words; the first is the default.
fn choice<T: Clone>(
    key: &'static str,
    word: Option<&str>,
    known: &[(&str, T)],
) -> Result<T, CharterError> {
    let found = match word {
        None => known.first(),
        Some(word) => known.iter().find(|(name, _)| *name == word),
    };
    found.map(|(_, value)| value.clone()).ok_or_else(|| {
        let words: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        CharterError::OutOfBounds {
            key,
            found: format!("{:?}", word.unwrap_or_default()),
            expected: suggestion(word.unwrap_or_default(), &words),
        }
    })
}

fn parsed<T>(key: &'static str, text: &str) -> Result<T, CharterError>
where
    T: core::str::FromStr,
    T::Err: core::fmt::Display,
{
    text.parse()
        .map_err(|error: T::Err| CharterError::OutOfBounds {
            key,
            found: format!("{text:?}"),
            expected: error.to_string(),
        })
}

/// Refuses the first key that no charter has.
fn known_keys(table: &toml::Table) -> Result<(), CharterError> {
    let sections: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
    for (name, value) in table {
        let Some((section, keys)) = SECTIONS.iter().find(|(section, _)| section == name) else {
            return Err(unknown(name, "the charter", &sections));
        };
        let mut keys = keys.to_vec();
        if *section == "round" {
            keys.extend(Timers::testnet().named().iter().map(|(key, _)| *key));
        }
        let tables: Vec<&toml::Table> = match value {
            toml::Value::Table(table) => vec![table],
            toml::Value::Array(array) => array.iter().filter_map(toml::Value::as_table).collect(),
            toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_) => Vec::new(),
        };
        for key in tables.into_iter().flat_map(toml::Table::keys) {
            if !keys.contains(&key.as_str()) {
                return Err(unknown(key, &format!("[{section}]"), &keys));
            }
        }
    }
    Ok(())
}

/// Names the nearest key of the section, or the section that has this very key.
fn unknown(key: &str, section: &str, known: &[&str]) -> CharterError {
    let elsewhere = SECTIONS.iter().find(|(_, keys)| keys.contains(&key));
    let suggestion = match (nearest(key, known.iter().copied()), elsewhere) {
        (None, Some((section, _))) => format!("it belongs to [{section}]"),
        _ => suggestion(key, known),
    };
    CharterError::UnknownKey {
        key: key.to_owned(),
        section: section.to_owned(),
        suggestion,
    }
}

/// The line of a byte, from 1.
fn line_of(text: &str, at: usize) -> usize {
    text.get(..at).unwrap_or(text).split('\n').count()
}
