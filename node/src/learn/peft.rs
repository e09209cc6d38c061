//! LoRA adapters: which maps carry one, how it starts, how it lies in the flat vector.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use candle_core::Tensor;
use conclave_crypto::digest::Digest;
use conclave_protocol::names::Factor;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::flatten::Flat;
use super::model::bert::{HEAD_BIAS, HEAD_WEIGHT};
use super::model::config::Config;
use super::model::labels::LabelHead;
use super::model::parts::LinearMap;
use super::model::{LoraTensors, Model};

pub mod folder;

/// An adapter as the charter or a user describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterSpec {
    /// Rank of the factors.
    pub r: u32,
    /// The side path counts alpha / r.
    pub alpha: u32,
    /// Which maps carry factors.
    pub targets: Targets,
    /// Where A comes from; the same on every machine.
    pub seed: u64,
}

/// The linear maps that carry factors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Every one but the output head.
    AllLinear,
    /// Those whose names end with one of these, from a dot on, in every layer.
    Named(Vec<String>),
}

/// An adapter bound to a model's shape.
#[derive(Debug, Clone)]
pub struct Adapter {
    spec: AdapterSpec,
    maps: Vec<LinearMap>,
    labels: Vec<String>,
    flat: Flat,
}

/// Why an adapter does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdapterError {
    /// A name that is no linear map of the model.
    #[error(
        "target module {name:?} is no linear map of this model; choose from {known} or all-linear"
    )]
    UnknownTarget {
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// No target at all.
    #[error("target modules: the list is empty; write all-linear, or names with commas between")]
    NoTargets,
    /// A rank of zero, or above every map's size.
    #[error("lora_r = {r} is out of range; for this model it lies between 1 and {most}")]
    Rank {
        /// What was asked.
        r: u32,
        /// The smallest dimension of the model's hidden maps.
        most: usize,
    },
    /// An encoder that does not know what it is to tell apart.
    #[error(
        "the model is an encoder without labels; give rows with a field label, or a model whose config.json has \
         id2label and a classification head"
    )]
    NoLabels,
    /// A scale of zero moves nothing.
    #[error("lora_alpha must be at least 1")]
    Alpha,
}

impl FromStr for Targets {
    type Err = AdapterError;

    fn from_str(text: &str) -> Result<Self, AdapterError> {
        if text == "all-linear" {
            return Ok(Self::AllLinear);
        }
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        if names.iter().any(String::is_empty) {
            return Err(AdapterError::NoTargets);
        }
        Ok(Self::Named(names))
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllLinear => f.write_str("all-linear"),
            Self::Named(names) => f.write_str(&names.join(",")),
        }
    }
}

impl Targets {
    /// Which of a model's maps they are.
    fn choose(&self, maps: Vec<LinearMap>) -> Result<Vec<LinearMap>, AdapterError> {
        let Self::Named(targets) = self else {
            return Ok(maps);
        };
        for target in targets {
            if !maps.iter().any(|map| map.is_called(target)) {
                let (name, known) = (target.clone(), names(&maps).join(", "));
                return Err(AdapterError::UnknownTarget { name, known });
            }
        }
        let called = |map: &LinearMap| targets.iter().any(|target| map.is_called(target));
        let chosen: Vec<LinearMap> = maps.into_iter().filter(called).collect();
        if chosen.is_empty() {
            return Err(AdapterError::NoTargets);
        }
        Ok(chosen)
    }
}

impl Adapter {
    /// Binds an adapter to a model.
    pub fn new(spec: AdapterSpec, config: &Config) -> Result<Self, AdapterError> {
        let maps = spec.targets.choose(config.maps())?;
        if spec.r == 0 || spec.r as usize > config.hidden {
            let most = config.hidden;
            return Err(AdapterError::Rank { r: spec.r, most });
        }
        if spec.alpha == 0 {
            return Err(AdapterError::Alpha);
        }
        let rank = spec.r as usize;
        let mut tensors = Vec::with_capacity(2 * maps.len());
        for map in &maps {
            tensors.push((factor_name(&map.module, "A"), vec![rank, map.inside]));
            tensors.push((factor_name(&map.module, "B"), vec![map.out, rank]));
        }
        if config.classifies() {
            let labels = config.labels.len();
            if labels == 0 {
                return Err(AdapterError::NoLabels);
            }
            tensors.push((head_name(HEAD_WEIGHT), vec![labels, config.hidden]));
            tensors.push((head_name(HEAD_BIAS), vec![labels]));
        }
        let flat = Flat::new(tensors);
        let labels = config.labels.clone();
        Ok(Self {
            spec,
            maps,
            labels,
            flat,
        })
    }

    /// As described.
    pub fn spec(&self) -> &AdapterSpec {
        &self.spec
    }

    /// The maps that carry factors.
    pub fn maps(&self) -> &[LinearMap] {
        &self.maps
    }

    /// What the head that it brings tells apart; empty for a language model.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The names by which PEFT finds these maps and no others.
    pub fn targets(&self) -> Vec<String> {
        match &self.spec.targets {
            Targets::AllLinear => names(&self.maps),
            Targets::Named(names) => names.clone(),
        }
    }

    /// Its order as one vector.
    pub fn flat(&self) -> &Flat {
        &self.flat
    }

    /// Where it starts: B = 0 and A uniform in ±1/sqrt(in) (Kaiming's bound with a = sqrt(5), as PEFT starts); a head
    /// as the model has it, else its bias 0 and its matrix uniform with the standard deviation 0.02. From ChaCha20
    /// keyed by seed and name, integers and correctly rounded operations only: the same bits everywhere.
    pub fn initial(&self, model: &Model) -> Vec<f32> {
        let mut values = vec![0.0; self.flat.len()];
        let head = head_name(HEAD_WEIGHT);
        for slot in self.flat.slots() {
            let of_head = slot.name == head;
            if !of_head && !slot.belongs_to(Factor::A) {
                continue;
            }
            let key = Digest::of(
                "conclave/v1/adapter-start",
                &[&self.spec.seed.to_le_bytes(), slot.name.as_bytes()],
            );
            let inside = u16::try_from(slot.shape[1]).unwrap_or(u16::MAX);
            let bound = if of_head {
                HEAD_BOUND
            } else {
                1.0 / f32::from(inside).sqrt()
            };
            uniform(*key.as_bytes(), bound, &mut values[slot.range.clone()]);
        }
        for slot in self.flat.slots() {
            let name = slot.name.strip_prefix(PREFIX);
            if let Some(stored) = name.and_then(|name| model.stored_head(name)) {
                values[slot.range.clone()].copy_from_slice(stored.values());
            }
        }
        values
    }

    /// The factors by module, from the tensors of [`Flat::tensors`].
    ///
    /// # Panics
    /// If the tensors are not this adapter's.
    #[expect(clippy::cast_precision_loss, reason = "ranks and alphas are small")]
    pub fn bind(&self, tensors: &BTreeMap<String, Tensor>) -> LoraTensors {
        let factors = self.maps.iter().map(|map| {
            let [a, b] = ["A", "B"].map(|of| tensors[&factor_name(&map.module, of)].clone());
            (map.module.clone(), (a, b))
        });
        LoraTensors {
            scale: self.spec.alpha as f32 / self.spec.r as f32,
            dropout: None,
            head: tensors
                .get(&head_name(HEAD_WEIGHT))
                .map(|weight| LabelHead {
                    weight: weight.clone(),
                    bias: tensors[&head_name(HEAD_BIAS)].clone(),
                }),
            factors: factors.collect(),
        }
    }
}

/// Fills with numbers in `[-bound, bound)`: 24 bits each, scaled by exact powers of two and one multiplication.
pub(crate) fn uniform(key: [u8; 32], bound: f32, values: &mut [f32]) {
    let mut rng = ChaCha20Rng::from_seed(key);
    for value in values {
        let bits = (rng.next_u32() >> 8).cast_signed() - (1 << 23);
        #[expect(clippy::cast_precision_loss, reason = "24 bits are exact in an f32")]
        let unit = bits as f32 / 8_388_608.0;
        *value = unit * bound;
    }
}

/// PEFT's name of a tensor of the head, one of its `modules_to_save`.
pub(crate) fn head_name(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// `0.02 · sqrt(3)`: uniform numbers inside have the standard deviation 0.02.
const HEAD_BOUND: f32 = 0.034_641_016;

/// What PEFT puts in front of every name.
const PREFIX: &str = "base_model.model.";

/// PEFT's name of a factor.
fn factor_name(module: &str, factor: &str) -> String {
    format!("{PREFIX}{module}.lora_{factor}.weight")
}

/// The last components of the maps' names, each once, in their order.
fn names(maps: &[LinearMap]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for map in maps {
        if !names.iter().any(|name| name == map.name()) {
            names.push(map.name().to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::learn::fixture::{bert, random};

    const TINY: &str = r#"{"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 16}"#;

    fn config() -> Config {
        Config::parse(TINY, Path::new("config.json")).unwrap()
    }

    fn spec(targets: &str) -> AdapterSpec {
        AdapterSpec {
            r: 2,
            alpha: 4,
            targets: targets.parse().unwrap(),
            seed: 7,
        }
    }

    #[test]
    fn the_start_is_fixed_to_the_bit() {
        let adapter = Adapter::new(spec("q_proj,v_proj"), &config()).unwrap();
        let start = adapter.initial(&random(TINY));
        assert_eq!(start.len(), 2 * (2 * 8 + 8 * 2 + 2 * 8 + 4 * 2));
        let layout = adapter.flat().layout();
        assert!(
            layout
                .b
                .iter()
                .all(|r| start[r.clone()].iter().all(|x| *x == 0.0))
        );
        let bound = 1.0 / 8.0f32.sqrt();
        assert!(layout.a.iter().all(|r| {
            start[r.clone()]
                .iter()
                .all(|x| x.abs() <= bound && *x != 0.0)
        }));
        let bits: Vec<u32> = start[..3].iter().map(|x| x.to_bits()).collect();
        assert_eq!(
            bits, PINNED,
            "every machine must start from the same adapter"
        );
    }

    #[test]
    fn a_head_starts_as_the_model_has_it_or_small() {
        for headed in [true, false] {
            let model = bert(headed);
            let adapter = Adapter::new(spec("query"), model.config()).unwrap();
            let start = adapter.initial(&model);
            let slots = adapter.flat().slots().iter();
            let heads = slots.filter(|slot| slot.name.contains("classifier"));
            for slot in heads {
                let values = &start[slot.range.clone()];
                match model.stored_head(slot.name.strip_prefix(PREFIX).unwrap()) {
                    Some(stored) => assert_eq!(values, stored.values()),
                    None if slot.name.ends_with("bias") => {
                        assert!(values.iter().all(|x| *x == 0.0));
                    }
                    None => assert!(values.iter().all(|x| *x != 0.0 && x.abs() < 0.035)),
                }
            }
            let layout = adapter.flat().layout();
            assert!(layout.is_sound());
            assert_eq!(
                layout.count(Factor::A) + layout.count(Factor::B),
                layout.len
            );
        }
    }

    #[test]
    fn wrong_targets_and_ranks_are_refused_by_name() {
        let error = Adapter::new(spec("q_proj,lm_head"), &config())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("lm_head") && error.contains("gate_proj"),
            "{error}"
        );
        let all = Adapter::new(spec("all-linear"), &config()).unwrap();
        assert_eq!(all.maps().len(), 14);
        assert_eq!(all.targets().len(), 7);
        assert!("q_proj,".parse::<Targets>().is_err());
        let one = Adapter::new(spec("layers.1.mlp.up_proj,q_proj"), &config()).unwrap();
        assert_eq!(one.maps().len(), 3);
        let zero = AdapterSpec {
            r: 0,
            ..spec("all-linear")
        };
        assert!(Adapter::new(zero, &config()).is_err());
    }

    const PINNED: [u32; 3] = [1_040_336_640, 1_048_635_468, 3_194_015_344];
}
