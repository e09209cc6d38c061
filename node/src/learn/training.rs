//! The local training keys of `node.toml`, in the spelling of PEFT and axolotl.

use serde::{Deserialize, Serialize};

use super::data::{Excess, Length};
use super::device::Device;
use super::model::config::Config;
use super::peft::Method;
use super::schedule::Scheduler;
use super::trainer::Subject;
use super::weights::quantised::Precision;
use crate::config::TrainingConfig;

/// How this node trains. Nothing here changes what its peers must do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Training {
    /// Peak learning rate; by default 5e-3 under 10 million parameters, else 2e-4, of a classifier 2e-3; of a soft
    /// prompt 3e-2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Rows that go through the model at once.
    pub micro_batch_size: u32,
    /// Micro-batches whose gradients make one step; the result is that of one large batch.
    pub gradient_accumulation_steps: u32,
    /// Rows are cut to this many tokens; by default the smaller of 512 and the model's context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence_len: Option<u32>,
    /// What becomes of a row that is longer.
    pub excess_length_strategy: Excess,
    /// Whether a row is filled with several examples up to `sequence_len`. (Rows are never padded, with or without.)
    pub sample_packing: bool,
    /// How the learning rate falls.
    pub lr_scheduler: Scheduler,
    /// The share of all steps over which the learning rate rises.
    pub warmup_ratio: f64,
    /// AdamW's decoupled decay.
    pub weight_decay: f64,
    /// Gradients longer than this are scaled down to it.
    pub max_grad_norm: f64,
    /// The share of the inputs of LoRA's factors that is zeroed at each step.
    pub lora_dropout: f64,
    /// Where it computes.
    pub device: Device,
    /// How the frozen linear maps are held in memory.
    pub precision: Precision,
    /// Whether what a layer computes is forgotten, and computed again for the gradient: less memory, more time, the
    /// same bits of an adapter.
    pub gradient_checkpointing: bool,
    /// Draws batches in solo training, and held-out rows; in a federation batches are bound to the session.
    pub seed: u64,
}

/// A training key outside its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{key} = {value} is out of range; it must be {range}")]
pub struct TrainingError {
    /// The key.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What is allowed.
    pub range: &'static str,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            learning_rate: None,
            micro_batch_size: 8,
            gradient_accumulation_steps: 1,
            sequence_len: None,
            excess_length_strategy: Excess::default(),
            sample_packing: false,
            lr_scheduler: Scheduler::default(),
            warmup_ratio: 0.03,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            lora_dropout: 0.0,
            device: Device::default(),
            precision: Precision::default(),
            gradient_checkpointing: false,
            seed: 0,
        }
    }
}

impl From<&TrainingConfig> for Training {
    /// The keys that are set, over the defaults.
    fn from(keys: &TrainingConfig) -> Self {
        let otherwise = Self::default();
        let whole = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            learning_rate: keys.learning_rate,
            micro_batch_size: keys
                .micro_batch_size
                .map_or(otherwise.micro_batch_size, whole),
            gradient_accumulation_steps: keys
                .gradient_accumulation_steps
                .map_or(otherwise.gradient_accumulation_steps, whole),
            sequence_len: keys.sequence_len.map(whole),
            excess_length_strategy: keys
                .excess_length_strategy
                .unwrap_or(otherwise.excess_length_strategy),
            sample_packing: keys.sample_packing.unwrap_or(otherwise.sample_packing),
            lr_scheduler: keys.lr_scheduler.unwrap_or(otherwise.lr_scheduler),
            warmup_ratio: keys.warmup_ratio.unwrap_or(otherwise.warmup_ratio),
            weight_decay: keys.weight_decay.unwrap_or(otherwise.weight_decay),
            max_grad_norm: keys.max_grad_norm.unwrap_or(otherwise.max_grad_norm),
            lora_dropout: keys.lora_dropout.unwrap_or(otherwise.lora_dropout),
            device: keys.device.unwrap_or(otherwise.device),
            precision: keys.precision.unwrap_or(otherwise.precision),
            gradient_checkpointing: keys
                .gradient_checkpointing
                .unwrap_or(otherwise.gradient_checkpointing),
            seed: keys.seed.unwrap_or(otherwise.seed),
        }
    }
}

impl Training {
    /// Refuses keys outside their range.
    pub fn check(&self) -> Result<(), TrainingError> {
        let whole = |key, value: u32, most: u32, range| {
            let value = (value == 0 || value > most).then(|| value.to_string());
            value.map_or(Ok(()), |value| Err(TrainingError { key, value, range }))
        };
        let real = |key, value: f64, good: bool, range| {
            let value = value.to_string();
            if good {
                Ok(())
            } else {
                Err(TrainingError { key, value, range })
            }
        };
        whole(
            "micro_batch_size",
            self.micro_batch_size,
            4096,
            "between 1 and 4096",
        )?;
        let steps = self.gradient_accumulation_steps;
        whole(
            "gradient_accumulation_steps",
            steps,
            4096,
            "between 1 and 4096",
        )?;
        if let Some(len) = self.sequence_len {
            let range = "between 2 and the model's context";
            if len < 2 {
                let (key, value) = ("sequence_len", len.to_string());
                return Err(TrainingError { key, value, range });
            }
            whole("sequence_len", len, 1 << 20, range)?;
        }
        if let Some(rate) = self.learning_rate {
            let good = rate.is_finite() && rate > 0.0 && rate <= 10.0;
            real("learning_rate", rate, good, "above 0 and at most 10")?;
        }
        let good = (0.0..=1.0).contains(&self.warmup_ratio);
        real("warmup_ratio", self.warmup_ratio, good, "between 0 and 1")?;
        let good = (0.0..=1.0).contains(&self.weight_decay);
        real("weight_decay", self.weight_decay, good, "between 0 and 1")?;
        let good = (0.0..1.0).contains(&self.lora_dropout);
        real(
            "lora_dropout",
            self.lora_dropout,
            good,
            "0 or more and below 1",
        )?;
        let good = self.max_grad_norm.is_finite() && self.max_grad_norm > 0.0;
        real("max_grad_norm", self.max_grad_norm, good, "above 0")
    }

    /// The peak learning rate for what moves in a model.
    pub fn rate_for(&self, config: &Config, subject: &Subject) -> f64 {
        let small = config.parameters() < 10_000_000;
        let usual = match subject.spec().map(|spec| &spec.method) {
            Some(Method::Prompt(_)) => 3e-2,
            _ if small => 5e-3,
            // The head is new, and moves with the adapter.
            _ if config.classifies() => 2e-3,
            _ => 2e-4,
        };
        self.learning_rate.unwrap_or(usual)
    }

    /// The most tokens of an example where a model has room for `context`.
    pub fn length_for(&self, context: usize) -> usize {
        let asked = self.sequence_len.map_or(512, |len| len as usize);
        asked.min(context)
    }

    /// The same, with what becomes of longer ones.
    pub fn bounds_for(&self, context: usize) -> Length {
        Length {
            most: self.length_for(context),
            excess: self.excess_length_strategy,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::learn::fixture::{adapter, attached, bert, prompt, tiny};
    use crate::learn::model::Model;

    #[test]
    fn the_usual_rate_is_that_of_what_moves() {
        let large = |model: &Model| {
            let mut json: serde_json::Value =
                serde_json::from_str(&model.config().to_json()).unwrap();
            json["vocab_size"] = 700_000.into();
            Config::parse(&json.to_string(), Path::new("config.json")).unwrap()
        };
        let rate = |config: &Config, subject: &Subject| {
            let usual = Training::default().rate_for(config, subject);
            let learning_rate = Some(0.5);
            let asked = Training {
                learning_rate,
                ..Training::default()
            };
            assert!((asked.rate_for(config, subject) - 0.5).abs() < 1e-12);
            format!("{usual:e}")
        };
        let (speaks, classifies) = (tiny(true), bert(true));
        let lora = |model| Subject::Adapter(adapter(2, model));
        let soft = Subject::Adapter(attached(prompt(3), &speaks));
        assert_eq!(rate(speaks.config(), &lora(&speaks)), "5e-3");
        assert_eq!(rate(&large(&speaks), &lora(&speaks)), "2e-4");
        assert_eq!(rate(classifies.config(), &lora(&classifies)), "5e-3");
        assert_eq!(rate(&large(&classifies), &lora(&classifies)), "2e-3");
        assert_eq!(rate(&large(&speaks), &soft), "3e-2");
    }

    #[test]
    fn keys_outside_their_range_are_named_and_unknown_ones_refused() {
        assert_eq!(Training::default().check(), Ok(()));
        for (text, key) in [
            ("micro_batch_size = 0", "micro_batch_size"),
            ("learning_rate = -1.0", "learning_rate"),
            ("learning_rate = nan", "learning_rate"),
            ("warmup_ratio = 2.0", "warmup_ratio"),
            ("max_grad_norm = 0.0", "max_grad_norm"),
            ("lora_dropout = 1.0", "lora_dropout"),
            ("sequence_len = 1", "sequence_len"),
        ] {
            let training: Training = toml::from_str(text).unwrap();
            assert_eq!(training.check().unwrap_err().key, key);
        }
        assert!(toml::from_str::<Training>("learning_rat = 1.0").is_err());
    }
}
