//! What the tests of the engine learn on: tiny random models, a tokenizer of letters.

use std::fmt::Write as _;
use std::path::Path;

use conclave_protocol::charter::NonLinearity;

use super::data::Example;
use super::export::write_model;
use super::model::Model;
use super::model::config::Config;
use super::peft::{Adapter, AdapterSpec, Bottleneck, Method, Prompt, Targets, uniform};
use super::weights::Weight;

/// A random model: grouped queries, a feed-forward width that is no power of two.
pub(crate) fn tiny(tied: bool) -> Model {
    llama(tied, "")
}

/// The same with more keys in its `config.json`, each with a comma in front.
pub(crate) fn llama(tied: bool, more: &str) -> Model {
    random(&format!(
        r#"{{"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 32, "max_position_embeddings": 128,
        "tie_word_embeddings": {tied}, "bos_token_id": 0, "eos_token_id": 1{more}}}"#
    ))
}

/// A random GPT-2.
pub(crate) fn gpt2(activation: &str) -> Model {
    random(&format!(
        r#"{{"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 32,
        "n_inner": 20, "activation_function": "{activation}", "bos_token_id": 0, "eos_token_id": 1}}"#
    ))
}

/// A random BERT for three labels, with a head or without.
pub(crate) fn bert(headed: bool) -> Model {
    let architecture = if headed {
        "BertForSequenceClassification"
    } else {
        "BertModel"
    };
    let mut model = encoder(architecture);
    if !headed {
        let labels = ["a", "b", "c"].map(str::to_owned);
        model.set_labels(labels.to_vec()).unwrap();
    }
    model
}

/// A random BERT of this architecture, as its folder says it: labels are a classifier's.
pub(crate) fn encoder(architecture: &str) -> Model {
    let labels = match architecture {
        "BertModel" => "",
        _ => r#", "id2label": {"0": "a", "1": "b", "2": "c"}"#,
    };
    random(&format!(
        r#"{{"model_type": "bert", "architectures": ["{architecture}"], "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 20, "max_position_embeddings": 128, "vocab_size": 32{labels}}}"#
    ))
}

/// A model with this `config.json` and random weights.
pub(crate) fn random(text: &str) -> Model {
    filled(Config::parse(text, Path::new("config.json")).unwrap())
}

/// A model of this shape with random weights.
pub(crate) fn filled(config: Config) -> Model {
    filled_up_to(0.5, config)
}

/// The same with weights of up to this size, but for the norms'.
pub(crate) fn filled_up_to(most: f32, config: Config) -> Model {
    let mut count = 0u8;
    let take = |name: &str, shape: &[usize]| -> Result<Weight, ()> {
        count += 1;
        let mut values = vec![0.0; shape.iter().product()];
        uniform([count; 32], most, &mut values);
        if name.contains("norm") {
            for x in &mut values {
                *x += 1.0;
            }
        }
        Ok(Weight::owned(values, shape.to_vec()))
    };
    Model::build(config, take).unwrap()
}

/// An adapter of this rank on every linear map of a model, with an alpha of twice the rank.
pub(crate) fn adapter(r: u32, model: &Model) -> Adapter {
    let spec = AdapterSpec::lora(r, 2 * r, Targets::AllLinear, 1);
    Adapter::new(spec, model.config()).unwrap()
}

/// An adapter of this method on a model.
pub(crate) fn attached(method: Method, model: &Model) -> Adapter {
    let spec = AdapterSpec { method, seed: 1 };
    Adapter::new(spec, model.config()).unwrap()
}

/// Bottlenecks of this size.
pub(crate) fn bottleneck(size: u32, non_linearity: NonLinearity) -> Method {
    Method::Bottleneck(Bottleneck {
        size,
        non_linearity,
    })
}

/// A soft prompt that starts from drawn words.
pub(crate) fn prompt(virtual_tokens: u32) -> Method {
    Method::Prompt(Prompt {
        virtual_tokens,
        start: None,
    })
}

/// Thirty examples of three letters in turn, scored from different places on.
pub(crate) fn examples() -> Vec<Example> {
    let make = |i: u32| Example {
        ids: (0..8 + i % 5).map(|j| (2 + (i + j) % 3) % 32).collect(),
        scored: (0..8 + i % 5).map(|j| j > i % 3).collect(),
    };
    (0..30).map(make).collect()
}

/// A folder with [`tiny`], the tokenizer of letters, and 60 rows of `abcabc…` in `rows.jsonl`.
pub(crate) fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &tiny(true)).unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), LETTERS).unwrap();
    let mut rows = String::new();
    for i in 0..60 {
        writeln!(rows, r#"{{"text": "{}"}}"#, &"abcabcabcabc"[i % 5..]).unwrap();
    }
    std::fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    folder
}

const LETTERS: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [
    {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
     "normalized": false, "special": true},
    {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
     "normalized": false, "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": false},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
    "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
      "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4}, "merges": []}}"#;
