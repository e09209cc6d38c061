//! The flags that say what is trained: a method, and the terms that belong to it.

use std::path::Path;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use conclave_protocol::charter::{
    Bottleneck, Lora, Method, MethodKind, NonLinearity, Prompt, Targets,
};

use super::loading::flag;
use crate::learn::peft;

/// What is trained.
#[derive(Debug, Clone, clap::Args)]
pub struct MethodArgs {
    /// What is trained.
    #[arg(long, default_value = "lora", value_parser = kinds())]
    method: MethodKind,
    /// Of lora: the rank of the factors [default: 8]
    #[arg(long, value_name = "R")]
    lora_r: Option<u32>,
    /// Of lora: the side path counts alpha / r [default: twice the rank; of `train`: 16]
    #[arg(long, value_name = "ALPHA")]
    lora_alpha: Option<u32>,
    /// Of lora: which linear maps carry factors, all-linear (all but the output head) or names with commas between
    /// [default: all-linear]
    #[arg(long, value_name = "NAMES")]
    target_modules: Option<Targets>,
    /// Of lora: the side path counts alpha / sqrt(r) (rsLoRA).
    #[arg(long, alias = "rslora")]
    use_rslora: bool,
    /// Of lora: other ranks for some maps, by the end of their names, such as q_proj=16,mlp.down_proj=4
    #[arg(long, value_name = "NAME=R", value_delimiter = ',', value_parser = entry)]
    rank_pattern: Vec<(String, u32)>,
    /// Of lora: other alphas for some maps.
    #[arg(long, value_name = "NAME=ALPHA", value_delimiter = ',', value_parser = entry)]
    alpha_pattern: Vec<(String, u32)>,
    /// Of adapter: elements between the two maps [default: 16]
    #[arg(long, value_name = "SIZE")]
    bottleneck_size: Option<u32>,
    /// Of adapter: what stands between the two maps, relu, gelu, silu or tanh [default: relu]
    #[arg(long, value_name = "NAME")]
    non_linearity: Option<NonLinearity>,
    /// Of prompt: how many rows stand in front of each text [default: 16]
    #[arg(long, value_name = "N")]
    num_virtual_tokens: Option<u32>,
    /// Of prompt: a text whose embeddings the rows start from; without, those of words drawn by the seed.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt_tuning_init_text: Option<String>,
}

impl MethodArgs {
    /// Refuses a flag that belongs to another method.
    pub fn check(&self) -> anyhow::Result<()> {
        let flags = [
            (MethodKind::Lora, "--lora-r", self.lora_r.is_some()),
            (MethodKind::Lora, "--lora-alpha", self.lora_alpha.is_some()),
            (
                MethodKind::Lora,
                "--target-modules",
                self.target_modules.is_some(),
            ),
            (MethodKind::Lora, "--use-rslora", self.use_rslora),
            (
                MethodKind::Lora,
                "--rank-pattern",
                !self.rank_pattern.is_empty(),
            ),
            (
                MethodKind::Lora,
                "--alpha-pattern",
                !self.alpha_pattern.is_empty(),
            ),
            (
                MethodKind::Bottleneck,
                "--bottleneck-size",
                self.bottleneck_size.is_some(),
            ),
            (
                MethodKind::Bottleneck,
                "--non-linearity",
                self.non_linearity.is_some(),
            ),
            (
                MethodKind::Prompt,
                "--num-virtual-tokens",
                self.num_virtual_tokens.is_some(),
            ),
            (
                MethodKind::Prompt,
                "--prompt-tuning-init-text",
                self.prompt_tuning_init_text.is_some(),
            ),
        ];
        for (of, name, given) in flags {
            if given && of != self.method {
                let (of, ours) = (of.name(), self.method.name());
                return Err(flag(format!(
                    "{name} belongs to --method {of}, and this is --method {ours}; leave it out"
                )));
            }
        }
        Ok(())
    }

    /// Whether LoRA is trained.
    pub fn is_lora(&self) -> bool {
        self.method == MethodKind::Lora
    }

    /// The terms as a charter has them, checked.
    pub fn charter(&self) -> anyhow::Result<Method> {
        self.check()?;
        Ok(self.method(|r| r.saturating_mul(2)))
    }

    /// The terms for training alone on a model: the tokenizer in its folder reads the text that a soft prompt starts
    /// from.
    pub fn solo(&self, model: &Path) -> anyhow::Result<peft::Method> {
        Ok(peft::Method::agreed(&self.method(|_| 16), model)?)
    }

    fn method(&self, alpha: impl FnOnce(u32) -> u32) -> Method {
        match self.method {
            MethodKind::Lora => {
                let usual = Lora::default();
                let r = self.lora_r.unwrap_or(usual.r);
                Method::Lora(Lora {
                    r,
                    alpha: self.lora_alpha.unwrap_or_else(|| alpha(r)),
                    target_modules: self.target_modules.clone().unwrap_or(usual.target_modules),
                    rslora: self.use_rslora,
                    rank_pattern: self.rank_pattern.iter().cloned().collect(),
                    alpha_pattern: self.alpha_pattern.iter().cloned().collect(),
                    aggregation: usual.aggregation,
                })
            }
            MethodKind::Bottleneck => {
                let usual = Bottleneck::default();
                Method::Bottleneck(Bottleneck {
                    size: self.bottleneck_size.unwrap_or(usual.size),
                    non_linearity: self.non_linearity.unwrap_or(usual.non_linearity),
                })
            }
            MethodKind::Prompt => Method::Prompt(Prompt {
                virtual_tokens: self
                    .num_virtual_tokens
                    .unwrap_or_else(|| Prompt::default().virtual_tokens),
                init_text: self.prompt_tuning_init_text.clone(),
            }),
        }
    }
}

/// Parses a method's name, and lists all.
fn kinds() -> impl TypedValueParser<Value = MethodKind> {
    let about = |kind| match kind {
        MethodKind::Lora => "Low-rank factors beside the linear maps",
        MethodKind::Bottleneck => {
            "Bottlenecks behind attention and behind the MLP of every layer (Houlsby)"
        }
        MethodKind::Prompt => "Prompt tuning: rows in front of each text that stand for no word",
    };
    let named = |(name, kind)| PossibleValue::new(name).help(about(kind));
    PossibleValuesParser::new(MethodKind::ALL.map(named)).try_map(|word| {
        let mut all = MethodKind::ALL.into_iter();
        let found = all.find(|(name, _)| *name == word);
        found.map(|(_, kind)| kind).ok_or("no method")
    })
}

/// Parses `NAME=NUMBER`.
fn entry(text: &str) -> Result<(String, u32), String> {
    let parts = text
        .split_once('=')
        .map(|(name, number)| (name.trim(), number.trim().parse()));
    match parts {
        Some((name, Ok(number))) if !name.is_empty() => Ok((name.to_owned(), number)),
        _ => Err("write a module's name and a number, such as q_proj=16".to_owned()),
    }
}
