//! Any text as a model's configuration, and a whole one with other values: what is taken is written out and read back,
//! its parameters can be counted and its angles are numbers.
#![no_main]

use std::path::Path;

use conclave::learn::model::config::{Config, Family};
use conclave_fuzz::node::{CONFIG, reworded};

/// Keys beside those of [`CONFIG`].
const KEYS: [&str; 36] = [
    "model_type",
    "architectures",
    "head_dim",
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "hidden_act",
    "activation_function",
    "attention_bias",
    "mlp_bias",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "layer_types",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "rope_freqs.weight",
    "partial_rotary_factor",
    "n_embd",
    "n_inner",
    "n_layer",
    "n_head",
    "n_positions",
    "type_vocab_size",
    "position_embedding_type",
    "problem_type",
    "id2label",
    "is_decoder",
    "dtype",
    "torch_dtype",
    "num_experts",
    "quantization_config",
    "use_qk_norm",
    "logits_scaling",
    "unknown",
];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = match bytes.split_first() {
        None => return,
        Some((0, text)) => String::from_utf8_lossy(text).into_owned(),
        Some((_, changes)) => reworded(CONFIG, &KEYS, changes),
    };
    let path = Path::new("config.json");
    let Ok(config) = Config::parse(&text, path) else {
        return;
    };
    assert!(config.parameters() > 0);
    if let Family::Llama(llama) = &config.family {
        assert!(llama.rope.frequencies.iter().all(|x| x.is_finite()));
    }
    let again = Config::parse(&config.to_json(), path).expect("what was read can be written");
    assert_eq!(again.parts(), config.parts());
});
