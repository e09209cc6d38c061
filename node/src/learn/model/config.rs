//! `config.json` of a model, parsed: what we cannot compute as its author meant is refused by name.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::bert::Bert;
use super::gguf::{Gguf, GgufError};
use super::gpt2::Gpt2;
use super::llama::Llama;
use super::parts::{LinearMap, Part};
use super::rope::DIVISORS;
use keys::Keys;
use labels::{labels, named};

pub mod keys;
mod labels;

/// The shape of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward maps.
    pub inner: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements a head.
    pub head_dim: usize,
    /// Number of tokens.
    pub vocabulary: usize,
    /// Longest sequence.
    pub context: usize,
    /// The norms' epsilon.
    pub eps: f32,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// First token of a sequence.
    pub bos: Option<u32>,
    /// Tokens that end a text, the first being the one that training appends.
    pub eos: Vec<u32>,
    /// What a classifier tells apart, by its outputs; empty for a language model.
    pub labels: Vec<String>,
    /// How it is built, with what only this family has.
    pub family: Family,
    /// The file's own keys.
    source: Map<String, Value>,
}

/// The kinds of models.
#[derive(Debug, Clone, PartialEq)]
pub enum Family {
    /// Llama and its relatives: Mistral, Qwen2, Qwen3, SmolLM, TinyLlama.
    Llama(Llama),
    /// GPT-2.
    Gpt2(Gpt2),
    /// BERT with a classification head.
    Bert(Bert),
}

/// Why a `config.json` is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{path}: {source}; give a Hugging Face folder with a config.json")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It is not the JSON that we expect.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What and where.
        reason: String,
    },
    /// A kind of model that is not built.
    #[error("{path}: model_type = {found} is not supported; supported are {}", SUPPORTED.join(", "))]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// Its GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Labels for a model without a head for them.
    #[error("the model is no encoder: it continues texts and tells no labels apart")]
    NoClassifier,
    /// The head is for other labels.
    #[error(
        "the model tells apart {ours}, not {given}; use a bare encoder, or rows with its labels"
    )]
    OtherLabels {
        /// Those of the model.
        ours: String,
        /// Those that were asked for.
        given: String,
    },
    /// A key asks for mathematics that is not built.
    #[error("{path}: {key} = {value} is not supported: this model would not be computed exactly")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
}

/// The sizes that a family reads from its own keys.
#[derive(Debug)]
pub(super) struct Sizes {
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) context: usize,
    pub(super) eps: f32,
    pub(super) tied: bool,
}

impl Config {
    /// Reads `config.json` of a model folder, or the keys of its GGUF file.
    pub fn read(folder: &Path) -> Result<Self, ConfigError> {
        if let Some(path) = Gguf::find(folder) {
            return Self::of(Gguf::open(&path)?.config()?, &path);
        }
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Io {
            path: path.clone(),
            source,
        })?;
        Self::parse(&text, &path)
    }

    /// Parses the text of a `config.json`; `path` is for the sentences.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let json = serde_json::from_str(text).map_err(|e| ConfigError::Malformed {
            path: path.to_owned(),
            reason: format!("no valid JSON ({e}); copy it again from its origin"),
        })?;
        Keys { json: &json, path }.only(DIVISORS, &[])?;
        Self::of(json, path)
    }

    /// The keys as they were read.
    pub fn source(&self) -> &Map<String, Value> {
        &self.source
    }

    /// Whether [`Self::to_json`] leaves nothing out: not so with the stretched frequencies of a GGUF file.
    pub fn fits_json(&self) -> bool {
        !self.source.contains_key(DIVISORS)
    }

    /// From the keys of a `config.json`, or of a GGUF file in their place.
    pub(super) fn of(json: Map<String, Value>, path: &Path) -> Result<Self, ConfigError> {
        let keys = Keys { json: &json, path };
        for key in FOREIGN {
            keys.only(key, &[])?;
        }
        let (sizes, family) = match keys.word("model_type").unwrap_or("llama") {
            "llama" | "mistral" | "qwen2" | "qwen3" => {
                let (sizes, llama) = Llama::read(keys)?;
                (sizes, Family::Llama(llama))
            }
            "gpt2" => {
                let (sizes, gpt2) = Gpt2::read(keys)?;
                (sizes, Family::Gpt2(gpt2))
            }
            "bert" => {
                let (sizes, bert) = Bert::read(keys)?;
                (sizes, Family::Bert(bert))
            }
            other => {
                return Err(ConfigError::Architecture {
                    path: path.to_owned(),
                    found: other.to_owned(),
                });
            }
        };
        Ok(Self {
            hidden: sizes.hidden,
            inner: sizes.inner,
            layers: sizes.layers,
            heads: sizes.heads,
            kv_heads: sizes.kv_heads,
            head_dim: sizes.head_dim,
            vocabulary: keys.size("vocab_size")?,
            context: sizes.context,
            eps: sizes.eps,
            tied: sizes.tied,
            bos: keys.tokens("bos_token_id").first().copied(),
            eos: keys.tokens("eos_token_id"),
            labels: match &family {
                Family::Bert(bert) if bert.headed || named(keys) => labels(keys)?,
                _ => Vec::new(),
            },
            family,
            source: json,
        })
    }

    /// The `config.json` as it was read, for weights of f32.
    pub fn to_json(&self) -> String {
        let mut json = self.source.clone();
        let key = if json.contains_key("dtype") {
            "dtype"
        } else {
            "torch_dtype"
        };
        json.insert(key.to_owned(), Value::from("float32"));
        if !self.labels.is_empty() {
            let head = Value::from(vec!["BertForSequenceClassification"]);
            json.insert("architectures".to_owned(), head);
            self.name_labels(&mut json);
        }
        format!("{:#}\n", Value::Object(json))
    }

    /// The `config.json` as it was read, with the labels that a bare encoder is to tell apart.
    pub fn to_bare_json(&self) -> String {
        let mut json = self.source.clone();
        self.name_labels(&mut json);
        format!("{:#}\n", Value::Object(json))
    }

    fn name_labels(&self, json: &mut Map<String, Value>) {
        let labels = || self.labels.iter().enumerate();
        let names = labels().map(|(id, name)| (id.to_string(), Value::from(name.as_str())));
        let ids = labels().map(|(id, name)| (name.clone(), Value::from(id)));
        json.insert("id2label".to_owned(), Value::Object(names.collect()));
        json.insert("label2id".to_owned(), Value::Object(ids.collect()));
    }

    /// Whether it tells labels apart instead of continuing texts.
    pub fn classifies(&self) -> bool {
        matches!(self.family, Family::Bert(_))
    }

    /// What an encoder tells apart, empty if nobody said; none for a model that continues texts.
    pub fn classes(&self) -> Option<&[String]> {
        self.classifies().then_some(&self.labels)
    }

    /// How many numbers it gives out: one for each label, or for each token.
    pub fn outputs(&self) -> usize {
        if self.classifies() {
            self.labels.len()
        } else {
            self.vocabulary
        }
    }

    /// Gives a bare encoder the labels that it is to tell apart.
    pub fn set_labels(&mut self, labels: Vec<String>) -> Result<(), ConfigError> {
        let headed = match &self.family {
            Family::Bert(bert) => bert.headed,
            _ => return Err(ConfigError::NoClassifier),
        };
        if headed && labels != self.labels {
            return Err(ConfigError::OtherLabels {
                ours: self.labels.join(", "),
                given: labels.join(", "),
            });
        }
        self.labels = labels;
        Ok(())
    }

    /// The architecture as the file names it.
    pub fn model_type(&self) -> &str {
        let named = self.source.get("model_type").and_then(Value::as_str);
        named.unwrap_or("llama")
    }

    /// Its tensors, in the order of their use.
    pub fn parts(&self) -> Vec<Part> {
        match &self.family {
            Family::Llama(llama) => llama.parts(self),
            Family::Gpt2(_) => Gpt2::parts(self),
            Family::Bert(bert) => bert.parts(self),
        }
    }

    /// The linear maps that an adapter can attach to, in the order of their use.
    pub fn maps(&self) -> Vec<LinearMap> {
        let map = |part| match part {
            Part::Map(map) => Some(map),
            Part::Tensor { .. } => None,
        };
        self.parts().into_iter().filter_map(map).collect()
    }

    /// The sublayers whose output joins the residual stream, in the order of their use: where bottlenecks stand.
    pub fn joins(&self) -> Vec<String> {
        let parts = match &self.family {
            Family::Llama(_) => Llama::JOINS,
            Family::Gpt2(_) => Gpt2::JOINS,
            Family::Bert(_) => Bert::JOINS,
        };
        let layers = 0..self.layers;
        let names = layers.flat_map(|layer| parts.map(|part| self.in_layer(layer, part)));
        names.collect()
    }

    /// The name of a part of a layer.
    pub(super) fn in_layer(&self, layer: usize, part: &str) -> String {
        let layers = match &self.family {
            Family::Llama(_) => Llama::LAYERS,
            Family::Gpt2(_) => Gpt2::LAYERS,
            Family::Bert(_) => Bert::LAYERS,
        };
        format!("{layers}.{layer}.{part}")
    }

    /// The name of the tokens' embedding.
    pub(super) fn embedding(&self) -> &'static str {
        match &self.family {
            Family::Llama(_) => Llama::EMBEDDING,
            Family::Gpt2(_) => Gpt2::EMBEDDING,
            Family::Bert(_) => Bert::EMBEDDING,
        }
    }

    /// The name of the output head's matrix.
    pub(super) fn head(&self) -> &'static str {
        match &self.family {
            Family::Llama(_) => Llama::head(self),
            Family::Gpt2(_) => Gpt2::head(self),
            Family::Bert(_) => super::bert::HEAD_WEIGHT,
        }
    }

    /// What checkpoints of the model without its head leave off the names.
    pub(super) fn prefix(&self) -> &'static str {
        match &self.family {
            Family::Llama(_) => Llama::PREFIX,
            Family::Gpt2(_) => Gpt2::PREFIX,
            Family::Bert(_) => Bert::PREFIX,
        }
    }

    /// How many parameters a model of this shape has.
    pub fn parameters(&self) -> u64 {
        self.parts().iter().map(Part::parameters).sum::<usize>() as u64
    }
}

/// The architectures, as `model_type` names them.
const SUPPORTED: [&str; 6] = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "bert"];

/// Keys of other models' mathematics.
const FOREIGN: [&str; 7] = [
    "quantization_config",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "attention_multiplier",
    "no_rope_layers",
    "num_local_experts",
    "num_experts",
];

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = r#"{"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 2, "vocab_size": 16"#;

    fn parse(more: &str) -> Result<Config, ConfigError> {
        Config::parse(&format!("{TINY}{more}}}"), Path::new("config.json"))
    }

    #[test]
    fn lists_of_eos_are_read_and_the_file_is_written_as_it_was() {
        assert_eq!(parse(r#", "eos_token_id": [3, 4]"#).unwrap().eos, [3, 4]);
        let config =
            parse(r#", "eos_token_id": 2, "bos_token_id": 1, "dtype": "bfloat16""#).unwrap();
        let again = Config::parse(&config.to_json(), Path::new("config.json")).unwrap();
        assert_eq!((again.bos, &again.eos), (Some(1), &vec![2]));
        assert_eq!(again.parts(), config.parts());
        assert!(again.to_json().contains("\"dtype\": \"float32\""));
        assert!(!again.to_json().contains("torch_dtype"));
    }

    #[test]
    fn mathematics_that_is_not_built_is_refused_by_key() {
        for (more, key) in [
            (
                r#", "rope_scaling": {"rope_type": "longrope", "factor": 4.0}"#,
                "rope_scaling",
            ),
            (
                r#", "rope_scaling": {"rope_type": "llama3", "factor": 4.0}"#,
                "low_freq_factor",
            ),
            (
                r#", "rope_parameters": {"full_attention": {"rope_type": "default"}}"#,
                "full_attention",
            ),
            (r#", "hidden_act": "gelu""#, "hidden_act"),
            (r#", "sliding_window": 4096"#, "sliding_window"),
            (
                r#", "model_type": "mistral", "num_key_value_heads": 1, "sliding_window": -1"#,
                "sliding_window",
            ),
            (r#", "num_experts": 8"#, "num_experts"),
            (r#", "num_key_value_heads": 0"#, "num_key_value_heads"),
            (r#", "head_dim": 3"#, "3 elements"),
            (r#", "rms_norm_eps": 2"#, "rms_norm_eps"),
            (r#", "attention_bias": "no""#, "attention_bias"),
            (r#", "num_hidden_layers": 4097"#, "the most is 4096"),
            (
                r#", "num_attention_heads": 4194304, "head_dim": 2"#,
                "4194304 heads",
            ),
            (
                r#", "max_position_embeddings": 4194304, "head_dim": 128"#,
                "fill the memory",
            ),
            (
                r#", "rope_scaling": {"rope_type": "yarn", "factor": 2, "beta_fast": 0}"#,
                "angles that are none",
            ),
        ] {
            let error = parse(more).unwrap_err().to_string();
            assert!(error.contains(key), "{more}: {error}");
        }
        let error = parse(r#", "model_type": "mamba""#).unwrap_err().to_string();
        assert!(
            error.contains("mamba") && error.contains("qwen3"),
            "{error}"
        );
        let error = Config::parse("{}", Path::new("config.json")).unwrap_err();
        assert!(error.to_string().contains("hidden_size is missing"));
    }
}
