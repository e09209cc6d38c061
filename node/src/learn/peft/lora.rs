//! LoRA: low-rank factors beside linear maps (Hu et al., arXiv 2106.09685).

use std::collections::BTreeMap;

use candle_core::Tensor;
use conclave_protocol::charter::{NoTargets, Targets};
use conclave_protocol::names::Factor;

use super::pattern::Pattern;
use super::{AdapterError, PREFIX, Tensors, bound_of, uniform};
use crate::learn::flatten::Slot;
use crate::learn::model::adapted::{Factors, LoraTensors};
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
    /// Whether the side path counts alpha / sqrt(r) instead (Kalajdzievski, arXiv 2312.03732).
    pub rslora: bool,
    /// Other ranks, by map.
    pub ranks: Pattern,
    /// Other alphas, by map.
    pub alphas: Pattern,
}

impl Lora {
    /// The maps of a model that carry factors.
    pub(super) fn maps(&self, config: &Config) -> Result<Vec<LinearMap>, AdapterError> {
        let maps = chosen(&self.targets, config.maps())?;
        self.ranks.check(&maps)?;
        self.alphas.check(&maps)?;
        let ranks = self.ranks.0.iter().map(|(_, r)| *r);
        for r in ranks.chain([self.r]) {
            if r == 0 || r as usize > config.hidden {
                let most = config.hidden;
                return Err(AdapterError::Rank { r, most });
            }
        }
        let mut alphas = self.alphas.0.iter().map(|(_, alpha)| *alpha);
        if self.alpha == 0 || alphas.any(|alpha| alpha == 0) {
            return Err(AdapterError::Alpha);
        }
        Ok(maps)
    }

    /// Leaves out patterns that match no target, which mean nothing in PEFT's folders.
    pub(super) fn forget_others(&mut self, config: &Config) -> Result<(), AdapterError> {
        let maps = chosen(&self.targets, config.maps())?;
        self.ranks.keep(&maps)?;
        self.alphas.keep(&maps)
    }

    /// The names by which PEFT finds the maps that carry factors and no others.
    pub(super) fn names(&self, maps: &[LinearMap]) -> Vec<String> {
        match &self.targets {
            Targets::AllLinear => names(maps),
            Targets::Named(names) => names.clone(),
        }
    }

    /// The tensors of its maps, by PEFT's names.
    pub(super) fn tensors(&self, maps: &[LinearMap]) -> Result<Vec<Tensors>, AdapterError> {
        let ranks = self.ranks.matcher()?;
        let mut tensors = Vec::with_capacity(2 * maps.len());
        for map in maps {
            let rank = ranks.of(&map.module).unwrap_or(self.r) as usize;
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
    pub(super) fn bind(
        &self,
        maps: &[LinearMap],
        tensors: &BTreeMap<String, Tensor>,
    ) -> LoraTensors {
        let matcher = |pattern: &Pattern| pattern.matcher().expect("checked when it was bound");
        let (ranks, alphas) = (matcher(&self.ranks), matcher(&self.alphas));
        let factors = maps.iter().map(|map| {
            let [a, b] = ["A", "B"].map(|of| tensors[&factor_name(&map.module, of)].clone());
            let r = ranks.of(&map.module).unwrap_or(self.r);
            let alpha = alphas.of(&map.module).unwrap_or(self.alpha);
            let scale = self.scale(alpha, r);
            (map.module.clone(), Factors { a, b, scale })
        });
        LoraTensors {
            dropout: None,
            factors: factors.collect(),
        }
    }

    /// What the side path counts.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "ranks and alphas are small"
    )]
    fn scale(&self, alpha: u32, r: u32) -> f32 {
        if self.rslora {
            (f64::from(alpha) / f64::from(r).sqrt()) as f32
        } else {
            alpha as f32 / r as f32
        }
    }
}

/// Which of a model's maps are meant.
fn chosen(targets: &Targets, maps: Vec<LinearMap>) -> Result<Vec<LinearMap>, AdapterError> {
    let Targets::Named(targets) = targets else {
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
        return Err(AdapterError::NoTargets(NoTargets));
    }
    Ok(chosen)
}

/// PEFT's name of a factor.
fn factor_name(module: &str, factor: &str) -> String {
    format!("{PREFIX}{module}.lora_{factor}.weight")
}

/// The last components of the maps' names, each once, in their order.
pub(super) fn names(maps: &[LinearMap]) -> Vec<String> {
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
    use super::*;
    use crate::learn::fixture::tiny;
    use crate::learn::model::Model;
    use crate::learn::model::adapted::MethodTensors;
    use crate::learn::peft::{Adapter, AdapterSpec, Method};

    fn pattern(entries: &[(&str, u32)]) -> Pattern {
        Pattern(
            entries
                .iter()
                .map(|(key, n)| ((*key).to_owned(), *n))
                .collect(),
        )
    }

    fn lora(ranks: &[(&str, u32)], alphas: &[(&str, u32)]) -> Lora {
        Lora {
            r: 4,
            alpha: 6,
            targets: "q_proj,down_proj".parse().unwrap(),
            rslora: true,
            ranks: pattern(ranks),
            alphas: pattern(alphas),
        }
    }

    fn attached(lora: Lora, model: &Model) -> Result<Adapter, AdapterError> {
        let method = Method::Lora(lora);
        Adapter::new(AdapterSpec { method, seed: 1 }, model.config())
    }

    #[test]
    fn patterns_give_maps_their_own_ranks_and_scales() {
        let model = tiny(true);
        let lora = lora(
            &[("0.self_attn.q_proj", 9), ("down_proj", 2)],
            &[("q_proj", 12)],
        );
        let adapter = attached(lora, &model).unwrap();
        let values = adapter.initial(&model);
        let bound = adapter.bind(&adapter.flat().tensors(&values, |_| false).unwrap());
        let MethodTensors::Lora(bound) = bound.method else {
            panic!("it is LoRA");
        };
        for (module, rank, scale) in [
            ("model.layers.0.self_attn.q_proj", 9, 4.0),
            ("model.layers.1.self_attn.q_proj", 4, 6.0),
            ("model.layers.1.mlp.down_proj", 2, 6.0 / 2_f32.sqrt()),
        ] {
            let factors = &bound.factors[module];
            assert_eq!(factors.a.dims()[0], rank, "{module}");
            assert_eq!(factors.b.dims()[1], rank, "{module}");
            assert!(
                (factors.scale - scale).abs() < 1e-6,
                "{module}: {}",
                factors.scale
            );
        }
    }

    #[test]
    fn patterns_that_mean_nothing_are_refused_by_name() {
        let refused = |ranks: &[(&str, u32)], alphas: &[(&str, u32)]| {
            attached(lora(ranks, alphas), &tiny(true))
                .unwrap_err()
                .to_string()
        };
        let said = refused(&[("k_proj", 2)], &[]);
        assert!(
            said.contains("\"k_proj\"") && said.contains("q_proj, down_proj"),
            "{said}"
        );
        assert!(refused(&[], &[("proj", 2)]).contains("\"proj\""));
        assert!(refused(&[("q_(", 2)], &[]).contains("no regular expression"));
        assert!(refused(&[("q_proj", 0)], &[]).contains("lora_r = 0 is out of range"));
        assert!(refused(&[("q_proj", 17)], &[]).contains("lora_r = 17 is out of range"));
        assert!(refused(&[], &[("q_proj", 0)]).contains("lora_alpha"));
    }
}
