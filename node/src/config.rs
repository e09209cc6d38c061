//! `node.toml`: what is a node's own business. Environment variables `CONCLAVE_<KEY>` override it, flags override both.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use conclave_protocol::nearest::suggestion;
use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::learn::data::Excess;
use crate::learn::device::Device;
use crate::learn::schedule::Scheduler;
use crate::learn::training::Training;
use crate::learn::weights::quantised::Precision;

/// Where the configuration stands in a data folder.
pub const FILE: &str = "node.toml";

/// The settings of a node. What is absent has the default of the part that reads it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct NodeConfig {
    /// What the node calls itself in logs and reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The folder of the base model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// Private rows: a file or a folder. They never leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Rows that score instead of a part of `data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_data: Option<PathBuf>,
    /// Threads of the engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Addresses to listen on, such as `/ip4/0.0.0.0/tcp/4001`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Vec<String>>,
    /// Addresses that others reach it by, where they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announce: Option<Vec<String>>,
    /// Addresses of members to begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Vec<String>>,
    /// Where the local API listens: a loopback address and port; port 0 lets the system choose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<SocketAddr>,
    /// How it trains.
    #[serde(flatten)]
    pub training: TrainingConfig,
}

/// The training keys, in the spelling of PEFT and axolotl.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct TrainingConfig {
    /// The peak of the schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Rows (or packed sequences) of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_size: Option<usize>,
    /// Batches of a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_accumulation_steps: Option<usize>,
    /// Tokens of a sequence; longer rows are cut and counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence_len: Option<usize>,
    /// What becomes of longer rows: `truncate` or `drop`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excess_length_strategy: Option<Excess>,
    /// Whether short rows share a sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_packing: Option<bool>,
    /// How the learning rate falls after the warm-up: `cosine`, `linear` or `constant`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_scheduler: Option<Scheduler>,
    /// The share of all steps spent warming up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
    /// Of AdamW.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Gradients are scaled down to this norm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_grad_norm: Option<f64>,
    /// The share of the inputs of LoRA's factors that is zeroed at each step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_dropout: Option<f64>,
    /// Where the engine computes: `auto`, `cpu` or `cuda:0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// How the frozen linear maps are held in memory: `f32`, `bf16`, `q8_0` or `q4_k`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Whether what a layer computes is forgotten, and computed again for the gradient.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_checkpointing: Option<bool>,
    /// Of batches and splits; never of keys or masks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system says.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{path}: line {line}: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What the parser says.
        reason: String,
    },
    /// A key that there is not.
    #[error("{path}: unknown key `{key}`; {suggestion}")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// As written.
        key: String,
        /// The nearest, or all.
        suggestion: String,
    },
    /// A value of the wrong type or out of its bounds.
    #[error("{origin}: `{key}`: {reason}")]
    Value {
        /// The file, or the variable.
        origin: String,
        /// Which key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// No address of a node.
    #[error("{key}: {text:?} is no address; write one such as /ip4/192.0.2.7/tcp/4001")]
    Address {
        /// Which key.
        key: &'static str,
        /// As written.
        text: String,
    },
}

/// The addresses of a key; none if it is absent.
///
/// # Errors
/// If one cannot be read.
pub fn addresses(
    key: &'static str,
    texts: Option<&[String]>,
) -> Result<Vec<Multiaddr>, ConfigError> {
    let parse = |text: &String| {
        let text = text.clone();
        text.parse().map_err(|_| ConfigError::Address { key, text })
    };
    texts.unwrap_or_default().iter().map(parse).collect()
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Texts,
    Whole,
    Real,
    Switch,
}

const KEYS: [(&str, Kind); 24] = [
    ("name", Kind::Text),
    ("model", Kind::Text),
    ("data", Kind::Text),
    ("eval_data", Kind::Text),
    ("device", Kind::Text),
    ("threads", Kind::Whole),
    ("listen", Kind::Texts),
    ("announce", Kind::Texts),
    ("bootstrap", Kind::Texts),
    ("api", Kind::Text),
    ("learning_rate", Kind::Real),
    ("micro_batch_size", Kind::Whole),
    ("gradient_accumulation_steps", Kind::Whole),
    ("sequence_len", Kind::Whole),
    ("excess_length_strategy", Kind::Text),
    ("sample_packing", Kind::Switch),
    ("lr_scheduler", Kind::Text),
    ("warmup_ratio", Kind::Real),
    ("weight_decay", Kind::Real),
    ("max_grad_norm", Kind::Real),
    ("lora_dropout", Kind::Real),
    ("precision", Kind::Text),
    ("gradient_checkpointing", Kind::Switch),
    ("seed", Kind::Whole),
];

/// The environment variables that override keys.
pub fn variables() -> impl Iterator<Item = String> {
    KEYS.iter().map(|(key, _)| variable(key))
}

fn variable(key: &str) -> String {
    format!("CONCLAVE_{}", key.to_uppercase())
}

impl NodeConfig {
    /// Reads `node.toml` of a data folder (an absent one is empty) under the environment of the process. Relative
    /// paths in the file are relative to the folder.
    pub fn open(folder: &Path) -> Result<Self, ConfigError> {
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::Io { path, source }),
        };
        Self::parse(&path, &text, |name| std::env::var(name).ok())
    }

    /// Parses the text of the file at `path`, then lays the variables of `environment` over it.
    pub fn parse(
        path: &Path,
        text: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut table: Table = toml::from_str(text).map_err(|error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start);
            ConfigError::Syntax {
                path: path.to_owned(),
                line: text[..at.min(text.len())].matches('\n').count() + 1,
                reason: error.message().to_owned(),
            }
        })?;
        let known = KEYS.map(|(key, _)| key);
        if let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(ConfigError::UnknownKey {
                path: path.to_owned(),
                key: key.clone(),
                suggestion: suggestion(key, &known),
            });
        }
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        for key in ["model", "data", "eval_data"] {
            if let Some(Value::String(place)) = table.get_mut(key) {
                *place = folder.join(&*place).to_string_lossy().into_owned();
            }
        }
        let mut config = Self::default();
        for (key, kind) in KEYS {
            let variable = variable(key);
            let (value, origin) = match environment(&variable) {
                Some(text) => (Some(kind.read(key, &variable, &text)?), variable),
                None => (table.remove(key), path.display().to_string()),
            };
            if let Some(value) = value {
                config.set(key, value, &origin)?;
            }
        }
        Ok(config)
    }

    /// The text of a `node.toml`.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a flat record of texts and numbers is TOML")
    }

    /// Sets one key: all keys but this one keep their values.
    fn set(&mut self, key: &'static str, value: Value, origin: &str) -> Result<(), ConfigError> {
        let mut whole =
            Table::try_from(&*self).expect("a flat record of texts and numbers is TOML");
        whole.insert(key.to_owned(), value);
        let wrong = |reason: String| ConfigError::Value {
            origin: origin.to_owned(),
            key,
            reason,
        };
        let next: Self = whole
            .try_into()
            .map_err(|error: toml::de::Error| wrong(error.message().to_owned()))?;
        if let Some(reason) = next.bounds(key) {
            return Err(wrong(reason));
        }
        *self = next;
        Ok(())
    }

    /// What is wrong with the value of a key.
    fn bounds(&self, key: &str) -> Option<String> {
        if key == "threads" && self.threads == Some(0) {
            return Some("it must be above 0".to_owned());
        }
        if self.api.is_some_and(|address| !address.ip().is_loopback()) {
            let reason = "the local API answers on loopback alone; write 127.0.0.1:PORT";
            return Some(reason.to_owned());
        }
        let refused = Training::from(&self.training).check().err()?;
        (refused.key == key).then(|| format!("it must be {}", refused.range))
    }
}

impl Kind {
    fn read(self, key: &'static str, variable: &str, text: &str) -> Result<Value, ConfigError> {
        let wrong = |expected: &str| ConfigError::Value {
            origin: format!("environment variable {variable}"),
            key,
            reason: format!("{text:?} is not {expected}"),
        };
        Ok(match self {
            Self::Text => Value::String(text.to_owned()),
            Self::Texts => Value::Array(
                text.split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty())
                    .map(|part| Value::String(part.to_owned()))
                    .collect(),
            ),
            Self::Whole => Value::Integer(text.parse().map_err(|_| wrong("a whole number"))?),
            Self::Real => Value::Float(text.parse().map_err(|_| wrong("a number"))?),
            Self::Switch => Value::Boolean(text.parse().map_err(|_| wrong("true or false"))?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<NodeConfig, String> {
        NodeConfig::parse(Path::new("berlin/node.toml"), text, |name| {
            environment
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_overrides_the_file_key_by_key() {
        let text = "learning_rate = 1\ndata = \"notes.jsonl\"\nlisten = [\"/ip4/0.0.0.0/tcp/1\"]";
        let environment = [
            ("CONCLAVE_LEARNING_RATE", "0.5"),
            ("CONCLAVE_BOOTSTRAP", "/a, /b"),
            ("CONCLAVE_SHARED", "x"),
        ];
        let config = parse(text, &environment).unwrap();
        assert_eq!(config.training.learning_rate, Some(0.5));
        assert_eq!(config.data, Some(PathBuf::from("berlin/notes.jsonl")));
        assert_eq!(config.bootstrap, Some(vec!["/a".into(), "/b".into()]));
        assert_eq!(parse(text, &[]).unwrap().training.learning_rate, Some(1.0));
        assert_eq!(parse("", &[]).unwrap(), NodeConfig::default());
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut config = parse("threads = 2\nseed = 7\nsample_packing = false", &[]).unwrap();
        config.data = Some(PathBuf::from("/data.jsonl"));
        config.bootstrap = Some(vec!["/ip4/127.0.0.1/tcp/4001".into()]);
        assert_eq!(parse(&config.to_toml(), &[]).unwrap(), config);
    }

    #[test]
    fn wrong_keys_and_values_are_named() {
        for (text, environment, expected) in [
            (
                "learning_rte = 1.0",
                &[][..],
                "did you mean `learning_rate`?",
            ),
            ("seed = -1", &[], "node.toml: `seed`"),
            ("threads = 0", &[], "`threads`: it must be above 0"),
            (
                "weight_decay = 1.5",
                &[],
                "`weight_decay`: it must be between 0 and 1",
            ),
            (
                "seed = 1\nmicro_batch_size = 5000",
                &[],
                "`micro_batch_size`: it must be between 1 and 4096",
            ),
            (
                "lora_dropout = 1",
                &[],
                "`lora_dropout`: it must be 0 or more",
            ),
            ("data = 3", &[], "`data`"),
            ("seed = 1\n b", &[], "line 2"),
            ("api = \"0.0.0.0:80\"", &[], "loopback"),
            (
                "",
                &[("CONCLAVE_THREADS", "many")],
                "variable CONCLAVE_THREADS",
            ),
            (
                "",
                &[("CONCLAVE_LEARNING_RATE", "-1")],
                "CONCLAVE_LEARNING_RATE: `learning_rate`",
            ),
            ("", &[("CONCLAVE_DEVICE", "abacus")], "`device`"),
            ("lr_scheduler = \"cosin\"", &[], "`lr_scheduler`"),
            (
                "lora_dropout = 1.0",
                &[],
                "`lora_dropout`: it must be 0 or more and below 1",
            ),
        ] {
            let error = parse(text, environment).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
