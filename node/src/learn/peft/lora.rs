//! LoRA: low-rank factors beside linear maps (Hu et al., arXiv 2106.09685).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use candle_core::Tensor;
use conclave_protocol::names::Factor;

use super::{AdapterError, PREFIX, Tensors, bound_of, uniform};
use crate::learn::flatten::Slot;
use crate::learn::model::adapted::LoraTensors;
use crate::learn::model::config::Config;
use crate::learn::model::parts::LinearMap;

/// The terms of LoRA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lora {
    /// Rank of the factors.
    pub r: u32,
    /// The side path counts alpha / r.
    pub alpha: u32,
    /// Which maps carry factors.
    pub targets: Targets,
}

/// The linear maps that carry factors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Every one but the output head.
    AllLinear,
    /// Those whose names end with one of these, from a dot on, in every layer.
    Named(Vec<String>),
}

impl Lora {
    /// The maps of a model that carry factors.
    pub(super) fn maps(&self, config: &Config) -> Result<Vec<LinearMap>, AdapterError> {
        let maps = self.targets.choose(config.maps())?;
        if self.r == 0 || self.r as usize > config.hidden {
            let most = config.hidden;
            return Err(AdapterError::Rank { r: self.r, most });
        }
        if self.alpha == 0 {
            return Err(AdapterError::Alpha);
        }
        Ok(maps)
    }

    /// The names by which PEFT finds the maps that carry factors and no others.
    pub(super) fn names(&self, maps: &[LinearMap]) -> Vec<String> {
        match &self.targets {
            Targets::AllLinear => names(maps),
            Targets::Named(names) => names.clone(),
        }
    }

    /// Its tensors, by PEFT's names.
    pub(super) fn tensors(&self, config: &Config) -> Result<Vec<Tensors>, AdapterError> {
        let (rank, maps) = (self.r as usize, self.maps(config)?);
        let mut tensors = Vec::with_capacity(2 * maps.len());
        for map in maps {
            tensors.push((factor_name(&map.module, "A"), vec![rank, map.inside]));
            tensors.push((factor_name(&map.module, "B"), vec![map.out, rank]));
        }
        Ok(tensors)
    }

    /// B starts at 0 and A uniform in ±1/sqrt(in): Kaiming's bound with a = sqrt(5), as PEFT starts.
    pub(super) fn start(slot: &Slot, key: [u8; 32], values: &mut [f32]) {
        if slot.belongs_to(Factor::A) {
            uniform(key, bound_of(slot.shape[1]), values);
        }
    }

    /// The factors by module.
    #[expect(clippy::cast_precision_loss, reason = "ranks and alphas are small")]
    pub(super) fn bind(
        &self,
        maps: &[LinearMap],
        tensors: &BTreeMap<String, Tensor>,
    ) -> LoraTensors {
        let factors = maps.iter().map(|map| {
            let [a, b] = ["A", "B"].map(|of| tensors[&factor_name(&map.module, of)].clone());
            (map.module.clone(), (a, b))
        });
        LoraTensors {
            scale: self.alpha as f32 / self.r as f32,
            dropout: None,
            factors: factors.collect(),
        }
    }
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
