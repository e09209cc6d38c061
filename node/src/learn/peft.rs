//! Adapters: which tensors each method has, how they start, how they lie in the flat vector.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use conclave_crypto::digest::Digest;
use conclave_protocol::charter::{self, NoTargets};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::data::DataError;
use super::flatten::Flat;
use super::model::Model;
use super::model::adapted::{AdapterTensors, MethodTensors};
use super::model::bert::{HEAD_BIAS, HEAD_WEIGHT};
use super::model::config::Config;
use super::model::labels::LabelHead;
use super::model::parts::LinearMap;
pub use bottleneck::Bottleneck;
pub use conclave_protocol::charter::Targets;
pub use lora::Lora;
pub use pattern::Pattern;
pub use prompt::Prompt;

mod bottleneck;
pub mod folder;
mod lora;
mod pattern;
mod prompt;

/// An adapter as the charter or a user describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterSpec {
    /// What is trained.
    pub method: Method,
    /// Where it starts; the same on every machine.
    pub seed: u64,
}

/// The kinds of adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// Low-rank factors beside linear maps.
    Lora(Lora),
    /// Two small maps behind each sublayer.
    Bottleneck(Bottleneck),
    /// Rows in front of each text.
    Prompt(Prompt),
}

/// Why a charter's adapter cannot be trained on a model.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The model has no room for it.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// Nor has any charter.
    #[error(transparent)]
    Terms(#[from] charter::CharterError),
    /// The model's tokenizer makes no start for it.
    #[error(transparent)]
    Start(#[from] DataError),
}

/// Whether a charter's adapter can be trained on a model: one in a folder, or without a folder the embedded one, whose
/// tokenizer reads any text.
pub fn fits(terms: &charter::Adapter, config: &Config, folder: Option<&Path>) -> Result<(), Unfit> {
    let method = match folder {
        Some(folder) => Method::agreed(&terms.method, folder)?,
        None => Method::started(&terms.method, None),
    };
    let seed = terms.seed;
    Adapter::new(AdapterSpec { method, seed }, config)?;
    Ok(terms.check()?)
}

/// A tensor's name and shape.
type Tensors = (String, Vec<usize>);

/// An adapter bound to a model's shape.
#[derive(Debug, Clone)]
pub struct Adapter {
    spec: AdapterSpec,
    /// Where LoRA's factors stand; none for other methods.
    maps: Vec<LinearMap>,
    /// Where bottlenecks stand.
    joins: Vec<String>,
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
    #[error(transparent)]
    NoTargets(#[from] NoTargets),
    /// A rank of zero, or above every map's size.
    #[error("lora_r = {r} is out of range; for this model it lies between 1 and {most}")]
    Rank {
        /// What was asked.
        r: u32,
        /// The smallest dimension of the model's hidden maps.
        most: usize,
    },
    /// A pattern for a map that carries no factors.
    #[error("the pattern {key:?} matches no target module of this model; choose from {known}")]
    PatternOfNothing {
        /// The pattern.
        key: String,
        /// The names that there are.
        known: String,
    },
    /// A pattern that is none.
    #[error("the pattern {0:?} is no regular expression; write a module's name, such as q_proj")]
    Pattern(String),
    /// An encoder that does not know what it is to tell apart.
    #[error(
        "the model is an encoder without labels; give rows with a field label, or name the labels in id2label of its \
         config.json"
    )]
    NoLabels,
    /// A scale of zero moves nothing.
    #[error("lora_alpha must be at least 1")]
    Alpha,
    /// A bottleneck of nothing, or one that is none.
    #[error(
        "bottleneck_size = {size} is out of range; for this model it lies between 1 and {most}"
    )]
    Size {
        /// What was asked.
        size: u32,
        /// Elements of the model's hidden rows.
        most: usize,
    },
    /// No soft prompt, or one that leaves no room for a text.
    #[error(
        "num_virtual_tokens = {virtual_tokens} is out of range; for this model it lies between 1 and {most}"
    )]
    VirtualTokens {
        /// What was asked.
        virtual_tokens: u32,
        /// One less than the model's context.
        most: usize,
    },
    /// Nothing to start from.
    #[error("prompt_tuning_init_text has no token; give some words, or leave it out")]
    NoStart,
    /// A tokenizer of another model.
    #[error(
        "prompt_tuning_init_text has token {token}, outside the model's vocabulary of {vocabulary}; the tokenizer \
         belongs to another model"
    )]
    Vocabulary {
        /// The token.
        token: u32,
        /// The vocabulary's size.
        vocabulary: usize,
    },
}

impl AdapterSpec {
    /// LoRA in these terms.
    pub fn lora(r: u32, alpha: u32, targets: Targets, seed: u64) -> Self {
        let lora = Lora {
            r,
            alpha,
            targets,
            rslora: false,
            ranks: Pattern::default(),
            alphas: Pattern::default(),
        };
        let method = Method::Lora(lora);
        Self { method, seed }
    }
}

impl Method {
    /// What a charter means for a model: the tokenizer in its folder reads the text that a soft prompt starts from.
    pub fn agreed(method: &charter::Method, model: &Path) -> Result<Self, DataError> {
        let text = match method {
            charter::Method::Prompt(terms) => terms.init_text.as_deref(),
            charter::Method::Lora(_) | charter::Method::Bottleneck(_) => None,
        };
        let start = text.map(|text| prompt::start(model, text)).transpose()?;
        Ok(Self::started(method, start))
    }

    fn started(method: &charter::Method, start: Option<Vec<u32>>) -> Self {
        match method {
            charter::Method::Lora(terms) => Self::Lora(Lora {
                r: terms.r,
                alpha: terms.alpha,
                targets: terms.target_modules.clone(),
                rslora: terms.rslora,
                ranks: Pattern(terms.rank_pattern.clone().into_iter().collect()),
                alphas: Pattern(terms.alpha_pattern.clone().into_iter().collect()),
            }),
            charter::Method::Bottleneck(terms) => Self::Bottleneck(Bottleneck {
                size: terms.size,
                non_linearity: terms.non_linearity,
            }),
            charter::Method::Prompt(terms) => Self::Prompt(Prompt {
                virtual_tokens: terms.virtual_tokens,
                start,
            }),
        }
    }

    /// How many positions of the context it takes.
    pub fn virtual_tokens(&self) -> usize {
        match self {
            Self::Lora(_) | Self::Bottleneck(_) => 0,
            Self::Prompt(prompt) => prompt.virtual_tokens as usize,
        }
    }
}

impl Adapter {
    /// Binds an adapter to a model.
    pub fn new(spec: AdapterSpec, config: &Config) -> Result<Self, AdapterError> {
        let mut maps = Vec::new();
        let mut tensors = match &spec.method {
            Method::Lora(lora) => {
                maps = lora.maps(config)?;
                lora.tensors(&maps)?
            }
            Method::Bottleneck(bottleneck) => bottleneck.tensors(config)?,
            Method::Prompt(prompt) => prompt.tensors(config)?,
        };
        if config.classifies() {
            let labels = config.labels.len();
            if labels == 0 {
                return Err(AdapterError::NoLabels);
            }
            let name = |of| head_name(&spec.method, of);
            tensors.push((name(HEAD_WEIGHT), vec![labels, config.hidden]));
            tensors.push((name(HEAD_BIAS), vec![labels]));
        }
        Ok(Self {
            spec,
            maps,
            joins: config.joins(),
            labels: config.labels.clone(),
            flat: Flat::new(tensors),
        })
    }

    /// As described.
    pub fn spec(&self) -> &AdapterSpec {
        &self.spec
    }

    /// The maps that carry LoRA's factors; none for other methods.
    pub fn maps(&self) -> &[LinearMap] {
        &self.maps
    }

    /// What the head that it brings tells apart; empty for a language model.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// How many tokens of a model's context it leaves to texts.
    pub fn room(&self, config: &Config) -> usize {
        config.context - self.spec.method.virtual_tokens()
    }

    /// Its order as one vector.
    pub fn flat(&self) -> &Flat {
        &self.flat
    }

    /// Where it starts: each method in its own way; a head as the model has it, else its bias 0 and its matrix uniform
    /// with the standard deviation 0.02. From ChaCha20 keyed by seed and name, integers and correctly rounded
    /// operations only: the same bits everywhere.
    pub fn initial(&self, model: &Model) -> Vec<f32> {
        let mut all = vec![0.0; self.flat.len()];
        for slot in self.flat.slots() {
            let values = &mut all[slot.range.clone()];
            let key = Digest::of(
                "conclave/v1/adapter-start",
                &[&self.spec.seed.to_le_bytes(), slot.name.as_bytes()],
            );
            let key = *key.as_bytes();
            if let Some(name) = self.of_head(&slot.name) {
                match model.stored_head(name) {
                    Some(stored) => values.copy_from_slice(stored.values()),
                    None if name == HEAD_WEIGHT => uniform(key, HEAD_BOUND, values),
                    None => {}
                }
                continue;
            }
            match &self.spec.method {
                Method::Lora(_) => Lora::start(slot, key, values),
                Method::Bottleneck(_) => Bottleneck::start(slot, key, values),
                Method::Prompt(prompt) => prompt.start(key, model, values),
            }
        }
        all
    }

    /// The model's name of a tensor of the head, if this is one.
    fn of_head(&self, name: &str) -> Option<&'static str> {
        let parts = [HEAD_WEIGHT, HEAD_BIAS];
        parts
            .into_iter()
            .find(|part| name == head_name(&self.spec.method, part))
    }

    /// What a forward pass takes, from the tensors of [`Flat::tensors`].
    ///
    /// # Panics
    /// If the tensors are not this adapter's.
    pub fn bind(&self, tensors: &BTreeMap<String, Tensor>) -> AdapterTensors {
        let head = |of| tensors.get(&head_name(&self.spec.method, of)).cloned();
        AdapterTensors {
            head: head(HEAD_WEIGHT)
                .zip(head(HEAD_BIAS))
                .map(|(weight, bias)| LabelHead { weight, bias }),
            method: match &self.spec.method {
                Method::Lora(lora) => MethodTensors::Lora(lora.bind(&self.maps, tensors)),
                Method::Bottleneck(bottleneck) => {
                    MethodTensors::Bottleneck(bottleneck.bind(&self.joins, tensors))
                }
                Method::Prompt(_) => MethodTensors::Prompt(tensors[prompt::EMBEDDINGS].clone()),
            },
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

/// Kaiming's bound with a = sqrt(5) for rows of this width: 1/sqrt(inside).
fn bound_of(inside: usize) -> f32 {
    1.0 / f32::from(u16::try_from(inside).unwrap_or(u16::MAX)).sqrt()
}

/// PEFT's name of a tensor of the head, one of its `modules_to_save`.
pub(crate) fn head_name(method: &Method, name: &str) -> String {
    match method {
        Method::Lora(_) | Method::Bottleneck(_) => format!("{PREFIX}{name}"),
        Method::Prompt(_) => format!("{PROMPT_PREFIX}{name}"),
    }
}

/// All of PEFT's names of a tensor of the head.
fn head_names(name: &str) -> [String; 2] {
    [PREFIX, PROMPT_PREFIX].map(|prefix| format!("{prefix}{name}"))
}

/// `0.02 · sqrt(3)`: uniform numbers inside have the standard deviation 0.02.
const HEAD_BOUND: f32 = 0.034_641_016;

/// What PEFT puts in front of every name.
const PREFIX: &str = "base_model.model.";

/// The same for what trains beside a soft prompt.
const PROMPT_PREFIX: &str = "base_model.";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use conclave_protocol::charter::NonLinearity;
    use conclave_protocol::names::Factor;

    use super::*;
    use crate::learn::fixture::{bert, random};

    const TINY: &str = r#"{"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 16}"#;

    fn config() -> Config {
        Config::parse(TINY, Path::new("config.json")).unwrap()
    }

    fn spec(targets: &str) -> AdapterSpec {
        AdapterSpec::lora(2, 4, targets.parse().unwrap(), 7)
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
        let Method::Lora(lora) = &all.spec().method else {
            panic!("LoRA was asked for");
        };
        assert_eq!(lora.names(all.maps()).len(), 7);
        assert!("q_proj,".parse::<Targets>().is_err());
        let one = Adapter::new(spec("layers.1.mlp.up_proj,q_proj"), &config()).unwrap();
        assert_eq!(one.maps().len(), 3);
        let zero = AdapterSpec::lora(0, 4, Targets::AllLinear, 7);
        assert!(Adapter::new(zero, &config()).is_err());
    }

    #[test]
    fn sizes_that_no_model_has_room_for_are_refused() {
        let model = random(TINY);
        let refused = |method| {
            let spec = AdapterSpec { method, seed: 0 };
            Adapter::new(spec, model.config()).unwrap_err().to_string()
        };
        for size in [0, 9] {
            let non_linearity = NonLinearity::Relu;
            let said = refused(Method::Bottleneck(Bottleneck {
                size,
                non_linearity,
            }));
            assert!(said.contains("between 1 and 8"), "{said}");
        }
        let prompt = |virtual_tokens, start| {
            refused(Method::Prompt(Prompt {
                virtual_tokens,
                start,
            }))
        };
        assert!(prompt(0, None).contains("between 1 and 2047"));
        assert!(prompt(2048, None).contains("between 1 and 2047"));
        assert!(prompt(2, Some(Vec::new())).contains("no token"));
        assert!(prompt(2, Some(vec![3, 16])).contains("vocabulary of 16"));
    }

    #[test]
    fn terms_that_no_charter_may_have_and_texts_that_cannot_be_read_are_refused_before_any_work() {
        let refused = |seed, text: &str, folder| {
            let method = charter::Method::Prompt(charter::Prompt {
                virtual_tokens: 2,
                init_text: Some(text.to_owned()),
            });
            let terms = charter::Adapter { method, seed };
            let fit = fits(&terms, &config(), folder);
            fit.map_or_else(|unfit| unfit.to_string(), |()| String::new())
        };
        assert_eq!(refused(0, "a", None), "");
        assert!(refused(u64::MAX, "a", None).contains("adapter.seed"));
        assert!(refused(0, "", None).contains("from 1 to 4096"));
        let empty = tempfile::tempdir().unwrap();
        let said = refused(0, "a", Some(empty.path()));
        assert!(said.contains("config.json"), "{said}");
    }

    #[test]
    fn a_soft_prompt_starts_from_the_words_that_are_given_or_drawn() {
        let model = random(TINY);
        let start = |virtual_tokens, start, seed| {
            let method = Method::Prompt(Prompt {
                virtual_tokens,
                start,
            });
            let adapter = Adapter::new(AdapterSpec { method, seed }, model.config()).unwrap();
            adapter.initial(&model)
        };
        let given = start(5, Some(vec![3, 9]), 0);
        assert_eq!(given, model.embedded(&[3, 9, 3, 9, 3]));
        assert_eq!(start(1, Some(vec![3, 9]), 0), model.embedded(&[3]));
        let drawn = start(64, None, 1);
        assert_eq!(drawn, start(64, None, 1));
        assert_ne!(drawn, start(64, None, 2));
        let words: Vec<Vec<f32>> = (0..16).map(|id| model.embedded(&[id])).collect();
        let known = |row: &[f32]| words.iter().position(|word| word == row);
        let ids: Option<Vec<usize>> = drawn.chunks_exact(8).map(known).collect();
        let ids = ids.expect("every row is a word's");
        let distinct: std::collections::BTreeSet<usize> = ids.into_iter().collect();
        assert!(distinct.len() > 8, "{distinct:?}");
    }

    const PINNED: [u32; 3] = [1_040_336_640, 1_048_635_468, 3_194_015_344];
}
