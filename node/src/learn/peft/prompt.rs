//! Prompt tuning (Lester et al., arXiv 2104.08691): rows in front of each text that stand for no word.

use std::path::Path;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::folder::number;
use super::{AdapterError, Tensors};
use crate::learn::data::{DataError, Tokens};
use crate::learn::model::Model;
use crate::learn::model::config::Config;

/// The terms of a soft prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// How many rows stand in front of each text.
    pub virtual_tokens: u32,
    /// Whose embeddings they start from, cut or repeated to fit; without, words drawn by the seed.
    pub start: Option<Vec<u32>>,
}

impl Prompt {
    /// What PEFT's `peft_type` says.
    pub(super) const TYPE: &'static str = "PROMPT_TUNING";

    /// Its part of `adapter_config.json`. PEFT fills in what is null from the model.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "num_attention_heads": null,
            "num_layers": null,
            "num_transformer_submodules": 1,
            "num_virtual_tokens": self.virtual_tokens,
            "peft_type": Self::TYPE,
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_text": null,
            "token_dim": null,
            "tokenizer_name_or_path": null,
        })
    }

    /// The same, read. What it started from is over, and not read.
    pub(super) fn from_json(json: &Value) -> Result<Self, String> {
        let submodules = &json["num_transformer_submodules"];
        if !submodules.is_null() && submodules != 1 {
            return Err(format!(
                "num_transformer_submodules is {submodules}; only prompts of one model, 1, can be read"
            ));
        }
        Ok(Self {
            virtual_tokens: number(json, "num_virtual_tokens")?,
            start: None,
        })
    }

    /// Its one tensor, by PEFT's name.
    pub(super) fn tensors(&self, config: &Config) -> Result<Vec<Tensors>, AdapterError> {
        let rows = self.virtual_tokens as usize;
        // A text has at least two tokens, of which the last is not read.
        let most = config.context.saturating_sub(1);
        if rows == 0 || rows > most {
            let virtual_tokens = self.virtual_tokens;
            return Err(AdapterError::VirtualTokens {
                virtual_tokens,
                most,
            });
        }
        if self.start.as_ref().is_some_and(Vec::is_empty) {
            return Err(AdapterError::NoStart);
        }
        let vocabulary = config.vocabulary;
        let mut ids = self.start.iter().flatten();
        if let Some(&token) = ids.find(|id| **id as usize >= vocabulary) {
            return Err(AdapterError::Vocabulary { token, vocabulary });
        }
        Ok(vec![(EMBEDDINGS.to_owned(), vec![rows, config.hidden])])
    }

    /// The embeddings of the words that it starts from.
    pub(super) fn start(&self, key: [u8; 32], model: &Model, values: &mut [f32]) {
        let rows = self.virtual_tokens as usize;
        let ids: Vec<u32> = match &self.start {
            Some(ids) => ids.iter().copied().cycle().take(rows).collect(),
            None => drawn(key, model.config().vocabulary, rows),
        };
        values.copy_from_slice(&model.embedded(&ids));
    }
}

/// Words of a vocabulary, by a multiplication that favours none by more than one in four billion.
fn drawn(key: [u8; 32], vocabulary: usize, count: usize) -> Vec<u32> {
    let mut rng = ChaCha20Rng::from_seed(key);
    let word = |bits: u32| (u64::from(bits) * vocabulary as u64) >> 32;
    let ids = (0..count).map(|_| word(rng.next_u32()));
    ids.map(|id| u32::try_from(id).expect("below the vocabulary"))
        .collect()
}

/// The tokens of a text that a soft prompt is to start from, as a model's own tokenizer reads a text's beginning.
pub(super) fn start(model: &Path, text: &str) -> Result<Vec<u32>, DataError> {
    Tokens::open(model)?.prompt(text)
}

/// PEFT's name of the rows.
pub(super) const EMBEDDINGS: &str = "prompt_embeddings";
