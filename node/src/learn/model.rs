//! A Llama-family decoder: RMSNorm, rotary positions, grouped queries, SwiGLU, tied or untied head.
//!
//! The base is frozen and lies in [`Weight`]s outside candle's graph; what moves, the LoRA factors or (to make a new
//! base) every weight, comes in with each forward pass as [`Moving`]. A batch is one packed row of tokens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use conclave_crypto::digest::Digest;

use super::batch::Batch;
use super::fused::head::Score;
use super::fused::{attention, head, linear, norm, swiglu};
use super::kernel::attention::Heads;
use super::kernel::rope::RopeTable;
use super::weights::{Weight, Weights, WeightsError};
use config::{Config, ConfigError};

pub mod config;
pub mod decode;
#[cfg(test)]
mod plain;

/// The linear maps of a layer, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Map {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Attention's output.
    O,
    /// The feed-forward gate.
    Gate,
    /// The feed-forward input.
    Up,
    /// The feed-forward output.
    Down,
}

/// A frozen model.
#[derive(Debug)]
pub struct Model {
    config: Config,
    embedding: Weight,
    layers: Vec<Layer>,
    final_norm: Tensor,
    head: Option<Weight>,
    rope: Arc<RopeTable>,
}

/// One layer's weights.
#[derive(Debug)]
struct Layer {
    input_norm: Tensor,
    inner_norm: Tensor,
    maps: [Weight; 7],
}

/// What a forward pass uses beside, or in place of, the frozen weights.
#[derive(Debug)]
pub enum Moving {
    /// The base alone.
    Nothing,
    /// LoRA factors.
    Lora(LoraTensors),
    /// Every weight of the model, by name.
    All(BTreeMap<String, Tensor>),
}

/// The factors of an adapter as tensors.
#[derive(Debug, Clone)]
pub struct LoraTensors {
    /// alpha / r.
    pub scale: f32,
    /// For each layer and map `(A, B)`, where the map has them.
    pub layers: Vec<[Option<(Tensor, Tensor)>; 7]>,
}

/// Why a model folder is refused.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A file of it cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Map {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::Q,
        Self::K,
        Self::V,
        Self::O,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// The name that target lists use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q => "q_proj",
            Self::K => "k_proj",
            Self::V => "v_proj",
            Self::O => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The module's full name in a layer, without `.weight`.
    pub fn module(self, layer: usize) -> String {
        let part = match self {
            Self::Q | Self::K | Self::V | Self::O => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
        };
        format!("model.layers.{layer}.{part}.{}", self.name())
    }

    /// `(out, in)` of the map.
    pub const fn dims(self, config: &Config) -> (usize, usize) {
        let (q, kv) = (
            config.heads * config.head_dim,
            config.kv_heads * config.head_dim,
        );
        match self {
            Self::Q => (q, config.hidden),
            Self::K | Self::V => (kv, config.hidden),
            Self::O => (config.hidden, q),
            Self::Gate | Self::Up => (config.inner, config.hidden),
            Self::Down => (config.hidden, config.inner),
        }
    }
}

impl Model {
    /// Loads a Hugging Face folder: `config.json` and the safetensors beside it.
    pub fn open(folder: &Path) -> std::result::Result<Self, ModelError> {
        let config = Config::read(folder)?;
        let weights = Weights::open(folder)?;
        Self::build(config, |name, shape| weights.take(folder, name, shape)).map_err(Into::into)
    }

    /// Assembles a model from whatever gives its tensors by name and shape.
    #[expect(clippy::missing_panics_doc, reason = "seven maps are seven maps")]
    pub fn build<E>(
        config: Config,
        mut take: impl FnMut(&str, &[usize]) -> std::result::Result<Weight, E>,
    ) -> std::result::Result<Self, E> {
        let (hidden, table) = (config.hidden, [config.vocabulary, config.hidden]);
        let embedding = take(EMBEDDING, &table)?;
        let mut layers = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let mut maps = Vec::with_capacity(7);
            for map in Map::ALL {
                let (out, inside) = map.dims(&config);
                maps.push(take(
                    &format!("{}.weight", map.module(layer)),
                    &[out, inside],
                )?);
            }
            layers.push(Layer {
                input_norm: vector(&take(&norm_name(layer, "input"), &[hidden])?),
                inner_norm: vector(&take(&norm_name(layer, "post_attention"), &[hidden])?),
                maps: maps.try_into().expect("seven maps were pushed"),
            });
        }
        let final_norm = vector(&take(FINAL_NORM, &[hidden])?);
        let head = if config.tied {
            None
        } else {
            Some(take(HEAD, &table)?)
        };
        let rope = RopeTable::new(config.rope_theta, config.head_dim, config.context);
        Ok(Self {
            config,
            embedding,
            layers,
            final_norm,
            head,
            rope: Arc::new(rope),
        })
    }

    /// Its shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The frozen matrix of a map.
    pub fn map(&self, layer: usize, map: Map) -> &Weight {
        &self.layers[layer].maps[map as usize]
    }

    /// The frozen tensors by name, as a folder holds them: a tied head is left out.
    pub fn tensors(&self) -> BTreeMap<String, Weight> {
        let mut all = BTreeMap::from([(EMBEDDING.to_owned(), self.embedding.clone())]);
        for (i, layer) in self.layers.iter().enumerate() {
            for map in Map::ALL {
                let name = format!("{}.weight", map.module(i));
                all.insert(name, layer.maps[map as usize].clone());
            }
            all.insert(norm_name(i, "input"), back(&layer.input_norm));
            all.insert(norm_name(i, "post_attention"), back(&layer.inner_norm));
        }
        all.insert(FINAL_NORM.to_owned(), back(&self.final_norm));
        if let Some(head) = &self.head {
            all.insert(HEAD.to_owned(), head.clone());
        }
        all
    }

    /// `factor · Σ nll` over the scored tokens of a batch as a graph to differentiate, and the exact score.
    ///
    /// # Panics
    /// If a token is outside the vocabulary or an example longer than the context: the data layer checks both.
    pub fn loss(&self, batch: &Batch, moving: &Moving, factor: f32) -> Result<(Tensor, Score)> {
        let hidden = self.hidden_states(batch, moving)?;
        let targets = batch.targets.clone();
        match moving {
            Moving::All(weights) => {
                let name = if self.config.tied { EMBEDDING } else { HEAD };
                head::free(&hidden, &weights[name], targets, factor)
            }
            Moving::Nothing | Moving::Lora(_) => {
                head::frozen(&hidden, self.head(), targets, factor)
            }
        }
    }

    /// The normed hidden states `(tokens, hidden)` before the head.
    fn hidden_states(&self, batch: &Batch, moving: &Moving) -> Result<Tensor> {
        let config = &self.config;
        let heads = Heads {
            heads: config.heads,
            kv_heads: config.kv_heads,
            dim: config.head_dim,
            rope: self.rope.clone(),
            spans: batch.spans.clone(),
        };
        let mut x = match moving {
            Moving::All(weights) => {
                let ids = Tensor::new(&batch.ids[..], &Device::Cpu)?;
                weights[EMBEDDING].index_select(&ids, 0)?
            }
            Moving::Nothing | Moving::Lora(_) => self.embed(&batch.ids)?,
        };
        let free = |name: &str, frozen: &Tensor| match moving {
            Moving::All(weights) => weights[name].clone(),
            Moving::Nothing | Moving::Lora(_) => frozen.clone(),
        };
        for (i, layer) in self.layers.iter().enumerate() {
            let map = |x: &Tensor, map| self.apply(x, i, map, moving);
            let weight = free(&norm_name(i, "input"), &layer.input_norm);
            let inside = norm::norm(&x, &weight, config.eps)?;
            let (q, k) = (map(&inside, Map::Q)?, map(&inside, Map::K)?);
            let v = map(&inside, Map::V)?;
            let seen = attention::attention(&q, &k, &v, heads.clone())?;
            x = (x + map(&seen, Map::O)?)?;
            let weight = free(&norm_name(i, "post_attention"), &layer.inner_norm);
            let inside = norm::norm(&x, &weight, config.eps)?;
            let inner = swiglu::swiglu(&map(&inside, Map::Gate)?, &map(&inside, Map::Up)?)?;
            x = (x + map(&inner, Map::Down)?)?;
        }
        norm::norm(&x, &free(FINAL_NORM, &self.final_norm), config.eps)
    }

    fn apply(&self, x: &Tensor, layer: usize, map: Map, moving: &Moving) -> Result<Tensor> {
        let weight = self.map(layer, map);
        match moving {
            Moving::Nothing => linear::frozen(x, weight),
            Moving::All(weights) => {
                linear::free(x, &weights[&format!("{}.weight", map.module(layer))])
            }
            Moving::Lora(lora) => match &lora.layers[layer][map as usize] {
                None => linear::frozen(x, weight),
                Some((a, b)) => linear::lora(x, weight, a, b, lora.scale),
            },
        }
    }

    fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let hidden = self.config.hidden;
        let table = self.embedding.values();
        let mut rows = Vec::with_capacity(ids.len() * hidden);
        for &id in ids {
            let at = id as usize * hidden;
            rows.extend_from_slice(&table[at..at + hidden]);
        }
        Tensor::from_vec(rows, (ids.len(), hidden), &Device::Cpu)
    }

    fn head(&self) -> &Weight {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

/// SHA-256 over config.json, tokenizer.json (each by its own digest; an absent one as empty) and the sorted tensors.
pub fn digest(folder: &Path) -> std::result::Result<Digest, ModelError> {
    let read = |name: &str| {
        let path = folder.join(name);
        match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(|source| ModelError::Io { path, source }),
        }
    };
    let config = Digest::of("conclave/v1/model-file", &[&read("config.json")?]);
    let tokenizer = Digest::of("conclave/v1/model-file", &[&read("tokenizer.json")?]);
    let tensors = Weights::open(folder)?.digest();
    let parts: [&[u8]; 3] = [config.as_bytes(), tokenizer.as_bytes(), &tensors];
    Ok(Digest::of("conclave/v1/model", &parts))
}

fn norm_name(layer: usize, which: &str) -> String {
    format!("model.layers.{layer}.{which}_layernorm.weight")
}

fn vector(weight: &Weight) -> Tensor {
    Tensor::new(weight.values(), &Device::Cpu).expect("a slice of f32 is a tensor on the CPU")
}

fn back(tensor: &Tensor) -> Weight {
    let values = tensor
        .to_vec1()
        .expect("norm weights were made from a slice of f32");
    let len = values.len();
    Weight::owned(values, vec![len])
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const FINAL_NORM: &str = "model.norm.weight";
const HEAD: &str = "lm_head.weight";
