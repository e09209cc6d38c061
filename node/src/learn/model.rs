//! Models: what is loaded from a folder, and the forward pass through it.
//!
//! Each family ([`llama`], [`gpt2`], [`bert`]) lists its tensors and says once how they are combined, in terms of a
//! few operations; training, decoding and the tests' plain twin carry these out. The base is frozen and lies in
//! [`Weight`]s outside candle's graph; what moves, an adapter's tensors or (to make a new base) every weight, comes in
//! with each forward pass as [`Moving`]. A batch is one packed row of tokens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Result};
use conclave_crypto::digest::Digest;

use super::batch::Batch;
use super::fused::head::Score;
use super::kernel::attention::{Heads, Sight};
use super::kernel::halves;
use super::kernel::rope::RopeTable;
use super::weights::affine::{Affine, Layout};
use super::weights::identity::Identity;
use super::weights::quantised::{Precision, Quantised};
use super::weights::{Weight, Weights, WeightsError};
use adapted::Moving;
use bert::Bert;
use carried::Carried;
use config::{Config, ConfigError, Family};
use device::OnDevice;
use device::pass::DevicePass;
use gguf::{Gguf, GgufError};
use gpt2::Gpt2;
use llama::Llama;
use parts::{Ops, Part};
use processor::ProcessorPass;

pub use whole::{check, digest};

pub mod adapted;
pub mod bert;
mod carried;
pub mod config;
pub mod decode;
mod device;
pub mod gguf;
pub mod gpt2;
mod gradient;
pub mod labels;
pub mod llama;
pub mod parts;
#[cfg(test)]
mod plain;
mod processor;
pub mod rope;
mod whole;

/// A frozen model.
#[derive(Debug)]
pub struct Model {
    config: Config,
    heads: Heads,
    /// The linear maps, by module.
    maps: BTreeMap<String, Affine>,
    /// All other tensors, by name.
    weights: BTreeMap<String, Weight>,
    identity: Digest,
    /// The output head of a model that continues texts.
    head: Option<Affine>,
    /// The same on another device, where that is to compute.
    there: Option<OnDevice>,
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
    /// Its GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A file of it cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Model {
    /// Loads a folder: `config.json` and the safetensors beside it, or a GGUF file.
    pub fn open(folder: &Path) -> std::result::Result<Self, ModelError> {
        Self::open_at(folder, Precision::F32)
    }

    /// The same with the matrices of its linear maps held at a precision; embeddings, norms and head stay whole.
    pub fn open_at(folder: &Path, precision: Precision) -> std::result::Result<Self, ModelError> {
        let config = Config::read(folder)?;
        if let Some(path) = Gguf::find(folder) {
            let gguf = Gguf::open(&path)?;
            let take = |name: &str, shape: &[usize]| gguf.take(name, shape);
            let blocks = |name: &str, shape| gguf.blocks(name, shape, precision);
            return Self::build_at(config, precision, take, blocks).map_err(Into::into);
        }
        let weights = Weights::open(folder)?;
        let prefix = config.prefix();
        let take = |name: &str, shape: &[usize]| {
            weights.take(folder, &stored_name(&weights, name, prefix), shape)
        };
        Self::build_at(config, precision, take, |_, _| Ok(None)).map_err(Into::into)
    }

    /// Assembles a model from whatever gives its tensors by name and shape.
    pub fn build<E>(
        config: Config,
        take: impl FnMut(&str, &[usize]) -> std::result::Result<Weight, E>,
    ) -> std::result::Result<Self, E> {
        Self::build_at(config, Precision::F32, take, |_, _| Ok(None))
    }

    /// `blocks` gives a matrix that lies in the blocks of the precision already.
    fn build_at<E>(
        config: Config,
        precision: Precision,
        mut take: impl FnMut(&str, &[usize]) -> std::result::Result<Weight, E>,
        mut blocks: impl FnMut(&str, [usize; 2]) -> std::result::Result<Option<Quantised>, E>,
    ) -> std::result::Result<Self, E> {
        let mut identity = Identity::new();
        let mut take = |name: &str, shape: &[usize]| {
            let weight = take(name, shape)?;
            identity.add(name, &weight);
            Ok(weight)
        };
        let (mut maps, mut weights) = (BTreeMap::new(), BTreeMap::new());
        for part in config.parts() {
            match part {
                Part::Tensor { name, shape } => {
                    let weight = take(&name, &shape)?;
                    weights.insert(name, weight);
                }
                Part::Map(map) => {
                    let name = format!("{}.weight", map.module);
                    let weight = take(&name, &map.shape())?;
                    let blocks = blocks(&name, map.shape())?;
                    let bias = map.bias.then(|| format!("{}.bias", map.module));
                    let bias = bias.map(|name| take(&name, &[map.out])).transpose()?;
                    let affine = match blocks {
                        Some(blocks) => Affine::held(blocks, bias, map.layout),
                        None => Affine::new(weight, bias, map.layout).rounded(precision),
                    };
                    maps.insert(map.module, affine);
                }
            }
        }
        let head = (!config.classifies())
            .then(|| weights.get(config.head()).cloned())
            .flatten()
            .map(|weight| Affine::new(weight, None, Layout::OutIn));
        let head = match precision {
            Precision::Bf16 if halves::there() => head.map(|head| head.rounded(precision)),
            _ => head,
        };
        let rope = match &config.family {
            Family::Llama(llama) => Some(RopeTable::new(&llama.rope, config.context)),
            Family::Gpt2(_) | Family::Bert(_) => None,
        };
        let heads = Heads {
            heads: config.heads,
            kv_heads: config.kv_heads,
            dim: config.head_dim,
            rope: rope.map(Arc::new),
            sight: match &config.family {
                Family::Bert(_) => Sight::Both,
                Family::Llama(_) | Family::Gpt2(_) => Sight::Causal,
            },
        };
        Ok(Self {
            config,
            heads,
            maps,
            weights,
            head,
            identity: identity.finish(),
            there: None,
        })
    }

    /// What tells this base from others, at whatever precision it is held.
    pub fn identity(&self) -> Digest {
        self.identity
    }

    /// Its shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A linear map, by module.
    ///
    /// # Panics
    /// If the model has no such map; [`Config::maps`] lists them.
    pub fn map(&self, module: &str) -> &Affine {
        &self.maps[module]
    }

    /// The frozen tensors by name, as a folder holds them: a tied head is left out.
    pub fn tensors(&self) -> BTreeMap<String, Weight> {
        let mut all = self.weights.clone();
        for (module, map) in &self.maps {
            all.insert(format!("{module}.weight"), map.weight());
            if let Some(bias) = map.bias() {
                all.insert(format!("{module}.bias"), bias.clone());
            }
        }
        all
    }

    /// The exact score of a batch.
    ///
    /// # Panics
    /// If a token is outside the vocabulary or an example longer than the context: the data layer checks both.
    pub fn score(&self, batch: &Batch, moving: &Moving) -> Result<Score> {
        let batch = &*moving.in_front(batch);
        let carried = self.carried(batch, moving);
        match &self.there {
            None => ProcessorPass::new(carried).score(),
            Some(there) => Ok(DevicePass::new(carried, there)?.loss(1.0)?.1),
        }
    }

    /// What a classifier says of each example of a batch: a number for each label.
    ///
    /// # Panics
    /// As [`Self::score`].
    pub fn label_logits(&self, batch: &Batch, moving: &Moving) -> Result<Vec<Vec<f32>>> {
        let batch = &*moving.in_front(batch);
        let carried = self.carried(batch, moving);
        let logits = match &self.there {
            None => ProcessorPass::new(carried).label_logits(),
            Some(there) => DevicePass::new(carried, there)?.label_logits(),
        };
        logits?.to_vec2()
    }

    /// The same model as if the processor were another device.
    #[cfg(test)]
    pub(crate) fn elsewhere(mut self, precision: Precision) -> Self {
        let sent = OnDevice::send(&self, &Device::Cpu, precision);
        self.there = Some(sent.expect("there is room"));
        self
    }

    fn carried<'a>(&'a self, batch: &'a Batch, moving: &'a Moving) -> Carried<'a> {
        Carried {
            model: self,
            batch,
            moving,
            before: 0,
        }
    }

    /// Sends what it computes with to a device; a no-op for the processor.
    pub fn on(mut self, device: &Device, precision: Precision) -> Result<Self> {
        if !device.is_cpu() {
            self.there = Some(OnDevice::send(&self, device, precision)?);
        }
        Ok(self)
    }

    /// Where it computes, and wants what moves.
    pub fn device(&self) -> &Device {
        self.there.as_ref().map_or(&Device::Cpu, OnDevice::device)
    }

    /// Gives a bare encoder the labels that it is to tell apart.
    pub fn set_labels(&mut self, labels: Vec<String>) -> std::result::Result<(), ConfigError> {
        self.config.set_labels(labels)
    }

    /// A tensor of the head where the checkpoint has one.
    pub fn stored_head(&self, name: &str) -> Option<&Weight> {
        let heads = [bert::HEAD_WEIGHT, bert::HEAD_BIAS];
        self.weights.get(name).filter(|_| heads.contains(&name))
    }

    fn has(&self, name: &str) -> bool {
        self.weights.contains_key(name)
    }

    /// The hidden states `(tokens, hidden)` before the head; of a classifier one row for each example.
    fn forward<O: Ops>(&self, ops: &mut O) -> Result<O::Rows> {
        let x = self.stack(ops)?;
        self.end(&x, ops)
    }

    /// What leaves the last layer.
    fn stack<O: Ops>(&self, ops: &mut O) -> Result<O::Rows> {
        let mut x = self.begin(ops)?;
        for layer in 0..self.config.layers {
            x = self.layer(layer, x, ops)?;
        }
        Ok(x)
    }

    /// What enters the first layer.
    fn begin<O: Ops>(&self, ops: &mut O) -> Result<O::Rows> {
        match &self.config.family {
            Family::Llama(_) => Llama::begin(ops),
            Family::Gpt2(_) => Gpt2::begin(ops),
            Family::Bert(_) => Bert::begin(&self.config, ops),
        }
    }

    /// What leaves a layer.
    fn layer<O: Ops>(&self, layer: usize, x: O::Rows, ops: &mut O) -> Result<O::Rows> {
        let (config, heads) = (&self.config, &self.heads);
        match &config.family {
            Family::Llama(llama) => llama.layer(layer, x, config, heads, ops),
            Family::Gpt2(gpt2) => gpt2.layer(layer, x, config, heads, ops),
            Family::Bert(bert) => bert.layer(layer, x, config, heads, ops),
        }
    }

    /// What goes into the head.
    fn end<O: Ops>(&self, x: &O::Rows, ops: &mut O) -> Result<O::Rows> {
        match &self.config.family {
            Family::Llama(_) => Llama::end(x, &self.config, ops),
            Family::Gpt2(_) => Gpt2::end(x, &self.config, ops),
            Family::Bert(_) => Bert::end(x, ops),
        }
    }

    /// A tensor that is no map's.
    fn weight(&self, name: &str) -> &Weight {
        &self.weights[name]
    }

    /// The rows of the embedding that belong to tokens: `(ids, hidden)`.
    ///
    /// # Panics
    /// If one is outside the vocabulary.
    pub fn embedded(&self, ids: &[u32]) -> Vec<f32> {
        self.rows(self.config.embedding(), ids)
    }

    /// The rows of a table that belong to tokens.
    fn rows(&self, table: &str, ids: &[u32]) -> Vec<f32> {
        let table = self.weight(table);
        let width = table.dims2().1;
        let mut rows = Vec::with_capacity(ids.len() * width);
        for &id in ids {
            let at = id as usize * width;
            rows.extend_from_slice(&table.values()[at..at + width]);
        }
        rows
    }

    /// The output head of a model that continues texts.
    fn output_head(&self) -> &Affine {
        let head = self.head.as_ref();
        head.expect("an encoder's labels have a head of their own")
    }
}

/// The name under which a checkpoint has a tensor: without the prefix if it is one of the bare model; and old ones
/// call the weight and the bias of a norm gamma and beta.
fn stored_name(weights: &Weights, name: &str, prefix: &str) -> String {
    let bare = name.strip_prefix(prefix).unwrap_or(name);
    let old = |name: &str| {
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
        name.replace("LayerNorm.bias", "LayerNorm.beta")
    };
    let names = [name.to_owned(), bare.to_owned(), old(name), old(bare)];
    let found = names.into_iter().find(|name| weights.has(name));
    found.unwrap_or_else(|| name.to_owned())
}
