//! `[adapter]`: a method, and the keys that belong to it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::choice;
use crate::charter::{
    Adapter, Bottleneck, CharterError, Combination, Lora, Method, MethodKind, NonLinearity, Prompt,
    Targets,
};

/// The table as it is written.
#[derive(Deserialize, Default)]
pub(super) struct Table {
    method: Option<String>,
    lora_r: Option<u32>,
    lora_alpha: Option<u32>,
    target_modules: Option<TargetsText>,
    use_rslora: Option<bool>,
    rank_pattern: Option<BTreeMap<String, u32>>,
    alpha_pattern: Option<BTreeMap<String, u32>>,
    aggregation: Option<String>,
    bottleneck_size: Option<u32>,
    non_linearity: Option<String>,
    num_virtual_tokens: Option<u32>,
    prompt_tuning_init_text: Option<String>,
    seed: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TargetsText {
    One(String),
    Many(Vec<String>),
}

impl Table {
    /// The terms, their bounds not yet checked.
    pub(super) fn read(self) -> Result<Adapter, CharterError> {
        let chosen = choice("adapter.method", self.method.as_deref(), &MethodKind::ALL)?;
        own_keys(&self, chosen)?;
        let seed = self.seed.unwrap_or(0);
        let method = match chosen {
            MethodKind::Lora => Method::Lora(lora(self)?),
            MethodKind::Bottleneck => Method::Bottleneck(Bottleneck {
                size: self
                    .bottleneck_size
                    .unwrap_or_else(|| Bottleneck::default().size),
                non_linearity: choice(
                    "adapter.non_linearity",
                    self.non_linearity.as_deref(),
                    &NonLinearity::ALL,
                )?,
            }),
            MethodKind::Prompt => Method::Prompt(Prompt {
                virtual_tokens: self
                    .num_virtual_tokens
                    .unwrap_or_else(|| Prompt::default().virtual_tokens),
                init_text: self.prompt_tuning_init_text,
            }),
        };
        Ok(Adapter { method, seed })
    }
}

/// Refuses a key that belongs to another method.
fn own_keys(text: &Table, chosen: MethodKind) -> Result<(), CharterError> {
    let (lora, bottleneck, prompt) = (MethodKind::Lora, MethodKind::Bottleneck, MethodKind::Prompt);
    let given = [
        ("adapter.lora_r", lora, text.lora_r.is_some()),
        ("adapter.lora_alpha", lora, text.lora_alpha.is_some()),
        (
            "adapter.target_modules",
            lora,
            text.target_modules.is_some(),
        ),
        ("adapter.use_rslora", lora, text.use_rslora.is_some()),
        ("adapter.rank_pattern", lora, text.rank_pattern.is_some()),
        ("adapter.alpha_pattern", lora, text.alpha_pattern.is_some()),
        ("adapter.aggregation", lora, text.aggregation.is_some()),
        (
            "adapter.bottleneck_size",
            bottleneck,
            text.bottleneck_size.is_some(),
        ),
        (
            "adapter.non_linearity",
            bottleneck,
            text.non_linearity.is_some(),
        ),
        (
            "adapter.num_virtual_tokens",
            prompt,
            text.num_virtual_tokens.is_some(),
        ),
        (
            "adapter.prompt_tuning_init_text",
            prompt,
            text.prompt_tuning_init_text.is_some(),
        ),
    ];
    match given.iter().find(|(_, of, given)| *given && *of != chosen) {
        None => Ok(()),
        Some((key, of, _)) => Err(CharterError::Foreign {
            key,
            of: of.name(),
            method: chosen.name(),
        }),
    }
}

fn lora(text: Table) -> Result<Lora, CharterError> {
    let r = text.lora_r.unwrap_or_else(|| Lora::default().r);
    let target_modules = match text.target_modules {
        None => Targets::AllLinear,
        Some(TargetsText::One(word)) => choice(
            "adapter.target_modules",
            Some(&word),
            &[("all-linear", Targets::AllLinear)],
        )?,
        Some(TargetsText::Many(mut names)) => {
            names.sort();
            Targets::Named(names)
        }
    };
    Ok(Lora {
        r,
        alpha: text.lora_alpha.unwrap_or_else(|| r.saturating_mul(2)),
        target_modules,
        rslora: text.use_rslora.unwrap_or(false),
        rank_pattern: text.rank_pattern.unwrap_or_default(),
        alpha_pattern: text.alpha_pattern.unwrap_or_default(),
        aggregation: choice(
            "adapter.aggregation",
            text.aggregation.as_deref(),
            &[("alternating", Combination::Alternating)],
        )?,
    })
}
