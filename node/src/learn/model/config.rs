//! `config.json` of a Llama-family model, parsed: what we cannot compute as its author meant is refused by name.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

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
    /// RMSNorm's epsilon.
    pub eps: f32,
    /// RoPE's base.
    pub rope_theta: f64,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// First token of a sequence.
    pub bos: Option<u32>,
    /// Tokens that end a text, the first being the one that training appends.
    pub eos: Vec<u32>,
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
    /// A key asks for mathematics that is not built.
    #[error(
        "{path}: {key} = {value} is not supported: only plain Llama models can be computed exactly"
    )]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
}

#[derive(Deserialize)]
struct Raw {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    #[serde(default = "default_context")]
    max_position_embeddings: usize,
    #[serde(default = "default_eps")]
    rms_norm_eps: f32,
    rope_theta: Option<f64>,
    rope_parameters: Option<Value>,
    #[serde(default)]
    tie_word_embeddings: bool,
    bos_token_id: Option<u32>,
    eos_token_id: Option<Value>,
}

impl Config {
    /// Reads `config.json` of a model folder.
    pub fn read(folder: &Path) -> Result<Self, ConfigError> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Io {
            path: path.clone(),
            source,
        })?;
        Self::parse(&text, &path)
    }

    /// Parses the text of a `config.json`; `path` is for the sentences.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let malformed = |reason: String| ConfigError::Malformed {
            path: path.to_owned(),
            reason,
        };
        let json: Value = serde_json::from_str(text).map_err(|e| malformed(e.to_string()))?;
        refuse_foreign(&json, path)?;
        let raw: Raw = serde_json::from_value(json).map_err(|e| malformed(e.to_string()))?;
        let kv_heads = raw.num_key_value_heads.unwrap_or(raw.num_attention_heads);
        let sizes = [
            raw.hidden_size,
            raw.intermediate_size,
            raw.num_hidden_layers,
            raw.num_attention_heads,
            kv_heads,
            raw.vocab_size,
            raw.max_position_embeddings,
        ];
        if sizes.iter().any(|&size| size == 0 || size > LARGEST) {
            return Err(malformed("a size is zero or absurdly large".into()));
        }
        let head_dim = raw
            .head_dim
            .unwrap_or(raw.hidden_size / raw.num_attention_heads);
        if head_dim == 0 || head_dim % 2 == 1 || head_dim > 1024 {
            return Err(malformed(format!(
                "heads of {head_dim} elements cannot be rotated"
            )));
        }
        if !raw.num_attention_heads.is_multiple_of(kv_heads) {
            return Err(malformed(
                "num_key_value_heads must divide num_attention_heads".into(),
            ));
        }
        let theta = raw
            .rope_parameters
            .as_ref()
            .and_then(|p| p["rope_theta"].as_f64());
        Ok(Self {
            hidden: raw.hidden_size,
            inner: raw.intermediate_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            kv_heads,
            head_dim,
            vocabulary: raw.vocab_size,
            context: raw.max_position_embeddings,
            eps: raw.rms_norm_eps,
            rope_theta: theta.or(raw.rope_theta).unwrap_or(10_000.0),
            tied: raw.tie_word_embeddings,
            bos: raw.bos_token_id,
            eos: tokens(raw.eos_token_id.as_ref()),
        })
    }

    /// The `config.json` of a model of this shape, in Hugging Face's spelling.
    pub fn to_json(&self) -> String {
        let json = serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context,
            "rms_norm_eps": f64::from(self.eps),
            "rope_theta": self.rope_theta,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "attention_bias": false,
            "mlp_bias": false,
            "bos_token_id": self.bos,
            "eos_token_id": self.eos.first(),
            "torch_dtype": "float32",
        });
        format!("{json:#}\n")
    }

    /// How many parameters a model of this shape has.
    pub fn parameters(&self) -> u64 {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let layer = self.hidden * (2 * q + 2 * kv + 3 * self.inner + 2);
        let tables = if self.tied { 1 } else { 2 };
        (self.layers * layer + self.hidden * (1 + tables * self.vocabulary)) as u64
    }
}

/// Keys that change the mathematics, with the values under which they do not.
fn refuse_foreign(json: &Value, path: &Path) -> Result<(), ConfigError> {
    let refuse = |key: &str, value: &Value| {
        Err(ConfigError::Unsupported {
            path: path.to_owned(),
            key: key.to_owned(),
            value: value.to_string(),
        })
    };
    for (key, allowed) in [
        ("model_type", vec![Value::from("llama")]),
        (
            "hidden_act",
            vec![Value::from("silu"), Value::from("swish")],
        ),
        ("attention_bias", vec![Value::from(false)]),
        ("mlp_bias", vec![Value::from(false)]),
        ("sliding_window", vec![]),
        ("quantization_config", vec![]),
        (
            "partial_rotary_factor",
            vec![Value::from(1.0), Value::from(1)],
        ),
        ("attn_logit_softcapping", vec![]),
        ("final_logit_softcapping", vec![]),
        ("logits_scaling", vec![Value::from(1.0), Value::from(1)]),
        (
            "embedding_multiplier",
            vec![Value::from(1.0), Value::from(1)],
        ),
        (
            "residual_multiplier",
            vec![Value::from(1.0), Value::from(1)],
        ),
        ("attention_multiplier", vec![]),
        ("no_rope_layers", vec![]),
        ("use_qk_norm", vec![Value::from(false)]),
        ("num_local_experts", vec![]),
    ] {
        match &json[key] {
            Value::Null => {}
            value if allowed.contains(value) => {}
            value => return refuse(key, value),
        }
    }
    for key in ["rope_scaling", "rope_parameters"] {
        let rope = &json[key];
        let kind = rope.get("rope_type").or_else(|| rope.get("type"));
        let plain = kind.is_none_or(|kind| kind == "default");
        let known = rope.as_object().is_none_or(|map| {
            let keys = ["rope_theta", "rope_type", "type"];
            map.keys().all(|key| keys.contains(&key.as_str()))
        });
        if !plain || !known {
            return refuse(key, rope);
        }
    }
    Ok(())
}

fn tokens(value: Option<&Value>) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}

fn default_context() -> usize {
    2048
}

fn default_eps() -> f32 {
    1e-6
}

const LARGEST: usize = 1 << 22;

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = r#"{"model_type": "llama", "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 16"#;

    fn parse(more: &str) -> Result<Config, ConfigError> {
        Config::parse(&format!("{TINY}{more}}}"), Path::new("config.json"))
    }

    #[test]
    fn reads_both_spellings_of_theta_and_lists_of_eos() {
        assert!((parse("").unwrap().rope_theta - 10_000.0).abs() < 1e-9);
        assert!((parse(r#", "rope_theta": 5e5"#).unwrap().rope_theta - 5e5).abs() < 1e-9);
        let new = r#", "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}"#;
        assert!((parse(new).unwrap().rope_theta - 7.0).abs() < 1e-9);
        assert_eq!(parse(r#", "eos_token_id": [3, 4]"#).unwrap().eos, [3, 4]);
        let config = parse(r#", "eos_token_id": 2, "bos_token_id": 1"#).unwrap();
        let again = Config::parse(&config.to_json(), Path::new("config.json")).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn mathematics_that_is_not_built_is_refused_by_key() {
        for (more, key) in [
            (
                r#", "rope_scaling": {"rope_type": "yarn", "factor": 4.0}"#,
                "rope_scaling",
            ),
            (r#", "attention_bias": true"#, "attention_bias"),
            (r#", "hidden_act": "gelu""#, "hidden_act"),
            (r#", "sliding_window": 4096"#, "sliding_window"),
        ] {
            let error = parse(more).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        assert!(parse(r#", "num_key_value_heads": 0"#).is_err());
        assert!(parse(r#", "head_dim": 3"#).is_err());
    }
}
