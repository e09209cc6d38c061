//! Models of the Llama family and GPT-2 in GGUF, as llama.cpp writes them: the keys become those of a `config.json`,
//! the tensors are widened to f32 when they are read.
//!
//! llama.cpp turns neighbouring elements of a head where Hugging Face turns the two halves: for its architecture
//! `llama` it stores the rows of queries and keys reordered, which is undone here; so is the other way in which GPT-2's
//! matrices lie.

use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use serde_json::{Map, json};

use super::rope::{DIVISORS, yarn_scale};
use crate::learn::weights::Weight;
use stored::{across, halves, stored_name, turned};

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
        let content = Content::read(&mut file).map_err(|e| GgufError::Malformed {
            path: path.to_owned(),
            reason: first_line(&e.to_string()),
        })?;
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
        let refuse = |what: String| GgufError::Tensor {
            path: self.path.clone(),
            name: stored.clone(),
            what,
        };
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
        if self.architecture == "llama" {
            let heads = if stored.contains("attn_q.") {
                Some(self.whole("attention.head_count")?)
            } else if stored.contains("attn_k.") {
                Some(self.optional("attention.head_count_kv", "attention.head_count")?)
            } else {
                None
            };
            if let Some(heads) = heads {
                let heads = usize::try_from(heads).unwrap_or(usize::MAX);
                if heads == 0 || !shape[0].is_multiple_of(2 * heads) {
                    return Err(refuse(format!("cannot be parted into {heads} heads")));
                }
                values = halves(&values, shape[0], heads);
            }
        }
        Ok(Weight::owned(values, shape.to_vec()))
    }

    fn dequantised(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), GgufError> {
        let refuse = |what: String| GgufError::Tensor {
            path: self.path.clone(),
            name: name.to_owned(),
            what,
        };
        if !self.content.tensor_infos.contains_key(name) {
            return Err(refuse("is missing".into()));
        }
        let widened = self
            .content
            .tensor(&mut &self.file, name, &Device::Cpu)
            .and_then(|tensor| tensor.dequantize(&Device::Cpu))
            .and_then(|tensor| Ok((tensor.dims().to_vec(), tensor.flatten_all()?.to_vec1()?)));
        widened.map_err(|e| refuse(format!("cannot be read: {}", first_line(&e.to_string()))))
    }

    fn has(&self, tensor: &str) -> bool {
        self.content.tensor_infos.contains_key(tensor)
    }

    fn rows(&self, tensor: &str) -> Result<usize, GgufError> {
        let info = self.content.tensor_infos.get(tensor);
        let rows = info.and_then(|info| info.shape.dims().first().copied());
        rows.ok_or_else(|| GgufError::Tensor {
            path: self.path.clone(),
            name: tensor.to_owned(),
            what: "is missing".into(),
        })
    }

    fn value(&self, key: &str) -> Option<&Value> {
        let key = format!("{}.{key}", self.architecture);
        self.content.metadata.get(&key)
    }

    fn whole(&self, key: &str) -> Result<u64, GgufError> {
        let value = self.value(key);
        let value = value.ok_or_else(|| self.refuse(key, "is missing".into()))?;
        self.number(key, value)
    }

    fn optional(&self, key: &str, otherwise: &str) -> Result<u64, GgufError> {
        match self.value(key) {
            Some(value) => self.number(key, value),
            None => self.whole(otherwise),
        }
    }

    fn optional_or(&self, key: &str, otherwise: u64) -> Result<u64, GgufError> {
        let number = |value| self.number(key, value);
        self.value(key).map_or(Ok(otherwise), number)
    }

    fn number(&self, key: &str, value: &Value) -> Result<u64, GgufError> {
        let number = match value {
            Value::U8(n) => Some(u64::from(*n)),
            Value::U16(n) => Some(u64::from(*n)),
            Value::U32(n) => Some(u64::from(*n)),
            Value::U64(n) => Some(*n),
            Value::I32(n) => u64::try_from(*n).ok(),
            Value::I64(n) => u64::try_from(*n).ok(),
            _ => None,
        };
        number.ok_or_else(|| self.refuse(key, format!("is {value:?}; it must be a whole number")))
    }

    fn real(&self, key: &str) -> Result<Option<f64>, GgufError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::F32(x)) => Ok(Some(f64::from(*x))),
            Some(Value::F64(x)) => Ok(Some(*x)),
            Some(other) => Err(self.refuse(key, format!("is {other:?}; it must be a number"))),
        }
    }

    fn refuse(&self, key: &str, what: String) -> GgufError {
        GgufError::Key {
            path: self.path.clone(),
            key: format!("{}.{key}", self.architecture),
            what,
        }
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// The architectures, as `general.architecture` names them.
const SUPPORTED: [&str; 4] = ["llama", "qwen2", "qwen3", "gpt2"];

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use candle_core::Tensor;
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};

    use super::stored::neighbours;
    use super::*;
    use crate::learn::export::merged;
    use crate::learn::fixture::{adapter, filled, llama, random};
    use crate::learn::model::config::Config;
    use crate::learn::model::decode::Decoding;
    use crate::learn::model::{self, Model};

    /// The bytes of a file as llama.cpp would write it; `stretch` becomes `rope_freqs.weight`.
    fn written(model: &Model, dtype: GgmlDType, stretch: Option<&[f32]>) -> Vec<u8> {
        let config = model.config();
        let small = |n: usize| Value::U32(u32::try_from(n).unwrap());
        let metadata = [
            (
                "general.architecture",
                Value::String(config.model_type().into()),
            ),
            ("llama.embedding_length", small(config.hidden)),
            ("llama.feed_forward_length", small(config.inner)),
            ("llama.block_count", small(config.layers)),
            ("llama.attention.head_count", small(config.heads)),
            ("llama.attention.head_count_kv", small(config.kv_heads)),
            ("llama.context_length", small(config.context)),
            (
                "llama.attention.layer_norm_rms_epsilon",
                Value::F32(config.eps),
            ),
            ("tokenizer.ggml.bos_token_id", Value::U32(0)),
            ("tokenizer.ggml.eos_token_id", Value::U32(1)),
        ];
        let mut tensors = Vec::new();
        for (name, weight) in model.tensors() {
            let stored = stored_name(&name);
            let shape = weight.shape();
            let values = match &stored {
                q if q.contains("attn_q.") => neighbours(weight.values(), shape[0], config.heads),
                k if k.contains("attn_k.") => {
                    neighbours(weight.values(), shape[0], config.kv_heads)
                }
                _ => weight.values().to_vec(),
            };
            let dtype = if shape.len() == 1 {
                GgmlDType::F32
            } else {
                dtype
            };
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            tensors.push((stored, QTensor::quantize(&tensor, dtype).unwrap()));
        }
        if let Some(stretch) = stretch {
            let tensor = Tensor::new(stretch, &Device::Cpu).unwrap();
            let tensor = QTensor::quantize(&tensor, GgmlDType::F32).unwrap();
            tensors.push((DIVISORS.into(), tensor));
        }
        let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
        let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (&**n, t)).collect();
        let mut bytes = Cursor::new(Vec::new());
        gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
        bytes.into_inner()
    }

    fn folder(bytes: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.gguf"), bytes).unwrap();
        folder
    }

    fn logits(model: &Model) -> Vec<f32> {
        Decoding::new(model, None)
            .extend(&[1, 5, 9, 2, 30])
            .unwrap()
    }

    #[test]
    fn a_file_in_f32_is_the_model_to_the_bit() {
        for (tied, more) in [
            (true, ""),
            (false, r#", "model_type": "llama", "attention_bias": true"#),
        ] {
            let model = llama(tied, more);
            let folder = folder(&written(&model, GgmlDType::F32, None));
            let again = Model::open(folder.path()).unwrap();
            assert_eq!(logits(&again), logits(&model));
            assert_eq!(again.config().eos, [1]);
            assert_eq!(again.config().parts(), model.config().parts());
            model::check(folder.path()).unwrap();
            let digest = model::digest(folder.path()).unwrap();
            std::fs::write(folder.path().join("config.json"), "unread").unwrap();
            assert_eq!(model::digest(folder.path()).unwrap(), digest);
            let half = written(&model, GgmlDType::F16, None);
            std::fs::remove_file(folder.path().join("model.gguf")).unwrap();
            std::fs::write(folder.path().join("other.gguf"), half).unwrap();
            assert_ne!(model::digest(folder.path()).unwrap(), digest);
        }
    }

    #[test]
    fn quantised_files_come_close_and_frequencies_are_stretched() {
        let text = r#"{"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1,
            "num_attention_heads": 4, "vocab_size": 32, "max_position_embeddings": 32, "eos_token_id": 1"#;
        let model = random(&format!("{text}}}"));
        for (dtype, most) in [(GgmlDType::Q8_0, 0.01), (GgmlDType::Q4K, 0.12)] {
            let folder = folder(&written(&model, dtype, None));
            let again = Model::open(folder.path()).unwrap().tensors();
            for (name, weight) in model.tensors() {
                let size = weight.values().iter().map(|x| x * x).sum::<f32>();
                let pairs = weight.values().iter().zip(again[&name].values());
                let apart = pairs.map(|(w, g)| (w - g).powi(2)).sum::<f32>();
                let apart = (apart / size).sqrt();
                assert!(apart < most, "{name} in {dtype:?}: {apart}");
                assert_eq!(apart > 0.0, weight.shape().len() == 2, "{name}");
            }
        }
        let stretch: Vec<f32> = (0..32).map(|j| 1.0 + j as f32 / 4.0).collect();
        let stretched = format!(r#"{text}, "{DIVISORS}": {stretch:?}}}"#);
        let keys = serde_json::from_str(&stretched).unwrap();
        let config = Config::of(keys, Path::new("model.gguf")).unwrap();
        let stored = folder(&written(&model, GgmlDType::F32, Some(&stretch)));
        let opened = Model::open(stored.path()).unwrap();
        let got = logits(&opened);
        assert_eq!(got, logits(&filled(config)));
        assert_ne!(got, logits(&model));

        // A config.json has no place for them.
        let said = Config::parse(&stretched, Path::new("config.json")).unwrap_err();
        assert!(said.to_string().contains(DIVISORS), "{said}");
        let adapter = adapter(2, &opened);
        let tensors = adapter.flat().tensors(&adapter.initial(&opened), |_| false);
        let lora = adapter.bind(&tensors.unwrap());
        let place = stored.path().join("merged");
        let said = merged(&place, &opened, Some(&lora), stored.path()).unwrap_err();
        assert!(said.to_string().contains("--format peft"), "{said}");
        assert_eq!(std::fs::read_dir(stored.path()).unwrap().count(), 1);
    }

    #[test]
    fn broken_files_are_refused_by_name() {
        let model = llama(true, "");
        let bytes = written(&model, GgmlDType::F32, None);
        let refused = |bytes: &[u8]| {
            let folder = folder(bytes);
            Model::open(folder.path()).unwrap_err().to_string()
        };
        assert!(refused(b"GGUF").contains("not a whole GGUF file"));
        let error = refused(&bytes[..bytes.len() - 2000]);
        assert!(error.contains("the tensor"), "{error}");
        let edited = |from: &str, to: &str| {
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes());
            let mut bytes = bytes.clone();
            bytes[at.unwrap()..][..to.len()].copy_from_slice(to.as_bytes());
            refused(&bytes)
        };
        let error = edited("blk.1.ffn_up.weight", "blk.1.ffn_xx.weight");
        assert!(error.contains("blk.1.ffn_up.weight is missing"), "{error}");
        let error = edited("llama.block_count", "llama.block_xxxxx");
        assert!(error.contains("llama.block_count is missing"), "{error}");
        let error = edited("\0\0llama", "\0\0mamba");
        assert!(error.contains("mamba"), "{error}");
    }
}
