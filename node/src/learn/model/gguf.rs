//! Models of the Llama family and GPT-2 in GGUF, as llama.cpp writes them: the keys become those of a `config.json`,
//! the tensors are widened to f32 when they are read, or kept in their blocks where these are asked for.
//!
//! llama.cpp turns neighbouring elements of a head where Hugging Face turns the two halves: for its architecture
//! `llama` it stores the rows of queries and keys reordered, which is undone here; so is the other way in which GPT-2's
//! matrices lie.

use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::{Content, Value};
use serde_json::{Map, json};

use super::rope::{DIVISORS, yarn_scale};
use crate::guard::guarded;
use crate::learn::weights::Weight;
use crate::learn::weights::quantised::{Precision, Quantised, reordered};
use crate::said::first_line;
use stored::{across, halves, stored_name, turned};

#[cfg(test)]
mod checks;
mod keys;
pub mod stored;

/// An open file.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    content: Content,
    architecture: String,
}

/// Why a GGUF file is refused.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It is not whole, or none.
    #[error("{path}: not a whole GGUF file ({reason}); copy it again from its origin")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A kind of model that is not built.
    #[error("{path}: general.architecture = {found} is not supported; supported are {}", SUPPORTED.join(", "))]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// A key asks for mathematics that is not built, or is missing.
    #[error("{path}: {key} {what}")]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// A tensor is missing, has another shape or values that are no numbers.
    #[error("{path}: the tensor {name} {what}")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong with it.
        what: String,
    },
}

impl Gguf {
    /// The GGUF file of a model folder without safetensors, if it has one.
    pub fn find(folder: &Path) -> Option<PathBuf> {
        let whole = ["model.safetensors", "model.safetensors.index.json"];
        if whole.iter().any(|name| folder.join(name).exists()) {
            return None;
        }
        let entries = std::fs::read_dir(folder).ok()?.flatten();
        let files = entries.map(|entry| entry.path());
        files
            .filter(|path| path.extension().is_some_and(|end| end == "gguf"))
            .min()
    }

    /// Reads the head of a file.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let mut file = File::open(path).map_err(|source| GgufError::Io {
            path: path.to_owned(),
            source,
        })?;
        let malformed = |reason: String| GgufError::Malformed {
            path: path.to_owned(),
            reason,
        };
        // The library divides by the alignment that the file says.
        let content = guarded(|| Content::read(&mut file))
            .ok_or_else(|| malformed("its alignment cannot be".into()))?
            .map_err(|e| malformed(first_line(&e.to_string())))?;
        let named = content.metadata.get("general.architecture");
        let architecture = named.and_then(|name| name.to_string().ok());
        let architecture = architecture.cloned().unwrap_or_default();
        if !SUPPORTED.contains(&architecture.as_str()) {
            return Err(GgufError::Architecture {
                path: path.to_owned(),
                found: architecture,
            });
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            content,
            architecture,
        })
    }

    /// What a `config.json` of this model says.
    pub fn config(&self) -> Result<Map<String, serde_json::Value>, GgufError> {
        let config = if self.architecture == "gpt2" {
            self.gpt2()?
        } else {
            self.llama()?
        };
        let serde_json::Value::Object(mut config) = config else {
            return Ok(Map::new());
        };
        for (ours, theirs) in [("bos_token_id", "bos"), ("eos_token_id", "eos")] {
            let key = format!("tokenizer.ggml.{theirs}_token_id");
            if let Some(id) = self.content.metadata.get(&key) {
                config.insert(ours.into(), self.number(&key, id)?.into());
            }
        }
        for key in ["expert_count", "attention.sliding_window"] {
            if let Some(value) = self.value(key)
                && self.number(key, value)? > 0
            {
                return Err(self.refuse(key, "is not supported".into()));
            }
        }
        Ok(config)
    }

    fn gpt2(&self) -> Result<serde_json::Value, GgufError> {
        Ok(json!({
            "model_type": self.architecture,
            "n_embd": self.whole("embedding_length")?,
            "n_inner": self.whole("feed_forward_length")?,
            "n_layer": self.whole("block_count")?,
            "n_head": self.whole("attention.head_count")?,
            "n_positions": self.whole("context_length")?,
            "layer_norm_epsilon": self.real("attention.layer_norm_epsilon")?,
            "vocab_size": self.rows("token_embd.weight")?,
            "tie_word_embeddings": !self.has("output.weight"),
            "activation_function": "gelu_new",
        }))
    }

    fn llama(&self) -> Result<serde_json::Value, GgufError> {
        let vocabulary = self.rows("token_embd.weight")?;
        let mut config = json!({
            "model_type": self.architecture,
            "hidden_size": self.whole("embedding_length")?,
            "intermediate_size": self.whole("feed_forward_length")?,
            "num_hidden_layers": self.whole("block_count")?,
            "num_attention_heads": self.whole("attention.head_count")?,
            "num_key_value_heads": self.optional("attention.head_count_kv", "attention.head_count")?,
            "max_position_embeddings": self.whole("context_length")?,
            "rms_norm_eps": self.real("attention.layer_norm_rms_epsilon")?,
            "rope_theta": self.real("rope.freq_base")?.unwrap_or(10_000.0),
            "vocab_size": vocabulary,
            "tie_word_embeddings": !self.content.tensor_infos.contains_key("output.weight"),
            "hidden_act": "silu",
        });
        let map = config.as_object_mut().expect("an object was written");
        if let Some(dim) = self.value("attention.key_length") {
            map.insert(
                "head_dim".into(),
                self.number("attention.key_length", dim)?.into(),
            );
        }
        let heads = self.whole("attention.head_count")?.max(1);
        let dim = self.whole("embedding_length")? / heads;
        let dim = self.optional_or("attention.key_length", dim)?;
        if self.optional_or("rope.dimension_count", dim)? != dim {
            let what = format!("is not the {dim} elements of a head, which is not supported");
            return Err(self.refuse("rope.dimension_count", what));
        }
        if self.architecture == "llama" {
            map.insert(
                "attention_bias".into(),
                self.has("blk.0.attn_q.bias").into(),
            );
            map.insert("mlp_bias".into(), self.has("blk.0.ffn_up.bias").into());
        }
        if self.has(DIVISORS) {
            let (_, divisors) = self.dequantised(DIVISORS)?;
            map.insert(DIVISORS.into(), divisors.into());
        } else if let Some(scaling) = self.scaling()? {
            map.insert("rope_scaling".into(), scaling);
        }
        Ok(config)
    }

    /// Stretched rotary positions.
    fn scaling(&self) -> Result<Option<serde_json::Value>, GgufError> {
        let kind = self.value("rope.scaling.type").map(Value::to_string);
        let factor = self.real("rope.scaling.factor")?.unwrap_or(1.0);
        match kind {
            None => Ok(None),
            Some(Ok(kind)) if kind == "none" => Ok(None),
            Some(Ok(kind)) if kind == "linear" => {
                Ok(Some(json!({"rope_type": "linear", "factor": factor})))
            }
            Some(Ok(kind)) if kind == "yarn" => self.yarn(factor).map(Some),
            Some(_) => {
                let what = "is not supported; linear and yarn are";
                Err(self.refuse("rope.scaling.type", what.into()))
            }
        }
    }

    /// YaRN, whose usual factor of cosines and sines llama.cpp multiplies with one of the file.
    fn yarn(&self, factor: f64) -> Result<serde_json::Value, GgufError> {
        for (key, usual) in [
            ("yarn_ext_factor", 1.0),
            ("yarn_attn_factor", 1.0),
            ("yarn_log_multiplier", 0.0),
        ] {
            let key = format!("rope.scaling.{key}");
            let value = self.real(&key)?.unwrap_or(usual);
            if value.total_cmp(&usual).is_ne() {
                return Err(self.refuse(&key, format!("= {value} is not supported")));
            }
        }
        let mut yarn = json!({"rope_type": "yarn", "factor": factor});
        let known = [
            ("beta_fast", self.real("rope.scaling.yarn_beta_fast")?),
            ("beta_slow", self.real("rope.scaling.yarn_beta_slow")?),
        ];
        for (key, value) in known {
            if let Some(value) = value {
                yarn[key] = value.into();
            }
        }
        if let Some(context) = self.value("rope.scaling.original_context_length") {
            let context = self.number("rope.scaling.original_context_length", context)?;
            yarn["original_max_position_embeddings"] = context.into();
        }
        if let Some(more) = self.real("rope.scaling.attn_factor")? {
            yarn["attention_factor"] = (more * yarn_scale(factor, 1.0)).into();
        }
        Ok(yarn)
    }

    /// A key of the file by its whole name.
    pub fn key(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    /// A tensor by Hugging Face's name, as f32.
    pub fn take(&self, name: &str, shape: &[usize]) -> Result<Weight, GgufError> {
        let stored = stored_name(name);
        let (found, mut values) = self.dequantised(&stored)?;
        let refuse = |what| self.refuse_tensor(&stored, what);
        let mut asked = shape.to_vec();
        if turned(name) {
            asked.reverse();
        }
        if found != asked {
            return Err(refuse(format!(
                "has shape {found:?}, the file's keys ask for {asked:?}"
            )));
        }
        if values.iter().any(|x| !x.is_finite()) {
            let what = "holds values that are not finite (NaN or infinite); use a sound copy";
            return Err(refuse(what.into()));
        }
        if turned(name) {
            values = across(&values, found[0]);
        }
        if let Some(order) = self.order(&stored, shape[0])? {
            values = reordered(&values, shape[0], &order);
        }
        Ok(Weight::owned(values, shape.to_vec()))
    }

    /// The matrix of a linear map, whose shape [`Self::take`] has checked, in the blocks that the file has it in, if a
    /// precision asks for these; not where it lies across.
    pub fn blocks(
        &self,
        name: &str,
        shape: [usize; 2],
        precision: Precision,
    ) -> Result<Option<Quantised>, GgufError> {
        if turned(name) {
            return Ok(None);
        }
        let stored = stored_name(name);
        let order = self.order(&stored, shape[0])?;
        self.tensor(&stored, |tensor| {
            Quantised::stored(&tensor, shape, precision, order.as_deref())
        })
    }

    /// For each row of queries and keys of llama.cpp's `llama` the row of the file that it is.
    fn order(&self, stored: &str, rows: usize) -> Result<Option<Vec<usize>>, GgufError> {
        let heads = if self.architecture != "llama" {
            return Ok(None);
        } else if stored.contains("attn_q.") {
            self.whole("attention.head_count")?
        } else if stored.contains("attn_k.") {
            self.optional("attention.head_count_kv", "attention.head_count")?
        } else {
            return Ok(None);
        };
        let heads = usize::try_from(heads).unwrap_or(usize::MAX);
        if heads == 0 || !rows.is_multiple_of(heads.saturating_mul(2)) {
            let what = format!("cannot be parted into {heads} heads");
            return Err(self.refuse_tensor(stored, what));
        }
        Ok(Some(halves(rows, heads)))
    }

    fn dequantised(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), GgufError> {
        self.tensor(name, |tensor| {
            let tensor = tensor.dequantize(&Device::Cpu)?;
            Ok((tensor.dims().to_vec(), tensor.flatten_all()?.to_vec1()?))
        })
    }

    /// Something of a tensor by its name in the file.
    fn tensor<T>(
        &self,
        name: &str,
        of: impl FnOnce(QTensor) -> candle_core::Result<T>,
    ) -> Result<T, GgufError> {
        let info = self.content.tensor_infos.get(name);
        let info = info.ok_or_else(|| self.refuse_tensor(name, "is missing".into()))?;
        // The library takes it for granted that the elements can be counted, and that there are some.
        let mut sizes = info.shape.dims().iter();
        let count = sizes.try_fold(1, |count: usize, size| count.checked_mul(*size));
        if count.is_none_or(|count| count == 0 || count > ELEMENTS) {
            let what = format!("has the impossible shape {:?}", info.shape.dims());
            return Err(self.refuse_tensor(name, what));
        }
        let tensor = self.content.tensor(&mut &self.file, name, &Device::Cpu);
        tensor.and_then(of).map_err(|e| {
            let what = format!("cannot be read: {}", first_line(&e.to_string()));
            self.refuse_tensor(name, what)
        })
    }

    fn has(&self, tensor: &str) -> bool {
        self.content.tensor_infos.contains_key(tensor)
    }

    fn rows(&self, tensor: &str) -> Result<usize, GgufError> {
        let info = self.content.tensor_infos.get(tensor);
        let rows = info.and_then(|info| info.shape.dims().first().copied());
        rows.ok_or_else(|| self.refuse_tensor(tensor, "is missing".into()))
    }

    fn refuse_tensor(&self, name: &str, what: String) -> GgufError {
        GgufError::Tensor {
            path: self.path.clone(),
            name: name.to_owned(),
            what,
        }
    }
}

/// Elements that no tensor has: their bytes can still be counted.
const ELEMENTS: usize = 1 << 48;
/// The architectures, as `general.architecture` names them.
const SUPPORTED: [&str; 4] = ["llama", "qwen2", "qwen3", "gpt2"];
