//! The keys by which a GGUF file says what a model is.

use std::path::Path;

use candle_core::quantized::gguf_file::Value as Key;
use serde_json::Value;

use super::Numbers;
use crate::learn::export::ExportError;
use crate::learn::kernel::attention::Sight;
use crate::learn::kernel::gelu::Gelu;
use crate::learn::model::config::{Config, Family};
use crate::learn::model::rope::{DIVISORS, Rope, yarn_scale};

/// How a model's rotary positions are made, as its own keys say it.
struct Rotary<'a> {
    source: &'a serde_json::Map<String, Value>,
    kind: &'a str,
}

/// Refuses what llama.cpp would compute otherwise.
pub(super) fn fits(config: &Config, source: &Path) -> Result<(), ExportError> {
    let what = match &config.family {
        Family::Gpt2(gpt2) if gpt2.gelu == Gelu::Tanh => return Ok(()),
        Family::Gpt2(_) => "a gpt2 model with another activation than gelu_new".to_owned(),
        Family::Bert(_) => "an encoder".to_owned(),
        Family::Llama(llama) => {
            let window = |sight: &Sight| matches!(sight, Sight::Window(_));
            let rotary = Rotary::of(config);
            let whole = rotary.key("truncate") == Some(&Value::from(false));
            match rotary.kind {
                _ if llama.sights.iter().any(window) => "a model with a sliding window".to_owned(),
                "yarn" if whole => "YaRN with truncate = false".to_owned(),
                "default" | "dynamic" | "linear" | "llama3" | "yarn" => return Ok(()),
                other => format!("a model with {other} rotary positions"),
            }
        }
    };
    let model = source.to_owned();
    Err(ExportError::NotInGguf { model, what })
}

/// What the file holds, and of which family.
pub(super) fn general(
    config: &Config,
    source: &Path,
    kind: &str,
    numbers: Numbers,
) -> Vec<(String, Key)> {
    let name = std::path::absolute(source).unwrap_or_else(|_| source.to_owned());
    let name = name
        .file_name()
        .map_or_else(|| "model".into(), std::ffi::OsStr::to_string_lossy);
    let word = |word: &str| Key::String(word.to_owned());
    let keys = [
        ("architecture", word(architecture(config))),
        ("type", word(kind)),
        ("name", word(&name)),
        ("file_type", Key::U32(numbers.file_type())),
        ("quantization_version", Key::U32(2)),
    ];
    keys.map(|(key, value)| (format!("general.{key}"), value))
        .to_vec()
}

/// llama.cpp's name of the family: Mistral is a llama.
pub(super) fn architecture(config: &Config) -> &str {
    match config.model_type() {
        "mistral" => "llama",
        other => other,
    }
}

/// The sizes of a model and how it turns positions.
pub(super) fn shape(config: &Config) -> Vec<(String, Key)> {
    let mut keys = vec![
        ("block_count", whole(config.layers)),
        ("context_length", whole(config.context)),
        ("embedding_length", whole(config.hidden)),
        ("feed_forward_length", whole(config.inner)),
        ("vocab_size", whole(config.vocabulary)),
        ("attention.head_count", whole(config.heads)),
        ("attention.head_count_kv", whole(config.kv_heads)),
    ];
    if let Family::Llama(llama) = &config.family {
        debug_assert_eq!(llama.rope.frequencies.len() * 2, config.head_dim);
        let rotary = Rotary::of(config);
        keys.extend([
            ("attention.key_length", whole(config.head_dim)),
            ("attention.value_length", whole(config.head_dim)),
            ("attention.layer_norm_rms_epsilon", Key::F32(config.eps)),
            ("rope.dimension_count", whole(config.head_dim)),
            ("rope.freq_base", real(rotary.base())),
        ]);
        keys.extend(rotary.stretch(config.context, &llama.rope));
    } else {
        keys.push(("attention.layer_norm_epsilon", Key::F32(config.eps)));
    }
    let family = architecture(config);
    let named = |(key, value)| (format!("{family}.{key}"), value);
    keys.into_iter().map(named).collect()
}

/// What Llama 3 divides its frequencies by: `rope_freqs.weight`.
pub(super) fn divisors(config: &Config) -> Option<Vec<f32>> {
    let Family::Llama(llama) = &config.family else {
        return None;
    };
    let rotary = Rotary::of(config);
    if let Some(Value::Array(given)) = rotary.source.get(DIVISORS) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "they were f32 in their file"
        )]
        let given = given.iter().filter_map(Value::as_f64).map(|x| x as f32);
        return Some(given.collect());
    }
    if rotary.kind != "llama3" {
        return None;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "heads are small"
    )]
    let divisor = |(pair, frequency): (usize, &f32)| {
        let power = -2.0 * pair as f64 / config.head_dim as f64;
        (rotary.base().powf(power) / f64::from(*frequency)) as f32
    };
    let frequencies = llama.rope.frequencies.iter().enumerate();
    Some(frequencies.map(divisor).collect())
}

impl<'a> Rotary<'a> {
    fn of(config: &'a Config) -> Self {
        let source = config.source();
        let mut rotary = Self {
            source,
            kind: "default",
        };
        let kind = rotary.key("rope_type").or_else(|| rotary.key("type"));
        rotary.kind = kind.and_then(Value::as_str).unwrap_or(rotary.kind);
        rotary
    }

    /// A key of `rope_parameters` or `rope_scaling`.
    fn key(&self, key: &str) -> Option<&'a Value> {
        let named = ["rope_parameters", "rope_scaling"];
        let named = named.map(|name| self.source.get(name));
        let rope = named.into_iter().flatten().find_map(Value::as_object);
        rope?.get(key).filter(|value| !value.is_null())
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.key(key).and_then(Value::as_f64)
    }

    /// Theta.
    fn base(&self) -> f64 {
        let beside = || self.source.get("rope_theta").and_then(Value::as_f64);
        self.number("rope_theta")
            .or_else(beside)
            .unwrap_or(10_000.0)
    }

    /// How positions are stretched; the divisors of Llama 3 are a tensor.
    fn stretch(&self, context: usize, rope: &Rope) -> Vec<(&'static str, Key)> {
        if !["linear", "yarn"].contains(&self.kind) {
            return Vec::new();
        }
        let factor = self.number("factor").unwrap_or(1.0);
        let mut keys = vec![
            ("rope.scaling.type", Key::String(self.kind.to_owned())),
            ("rope.scaling.factor", real(factor)),
        ];
        if self.kind == "yarn" {
            let original = self.key("original_max_position_embeddings");
            let original = original.and_then(Value::as_u64);
            let original = original.and_then(|n| usize::try_from(n).ok());
            keys.push((
                "rope.scaling.original_context_length",
                whole(original.unwrap_or(context)),
            ));
            for (key, ours) in [
                ("rope.scaling.yarn_beta_fast", "beta_fast"),
                ("rope.scaling.yarn_beta_slow", "beta_slow"),
            ] {
                keys.extend(self.number(ours).map(|turns| (key, real(turns))));
            }
            let more = f64::from(rope.scale) / yarn_scale(factor, 1.0);
            if (more - 1.0).abs() > 1e-6 {
                keys.push(("rope.scaling.attn_factor", real(more)));
            }
        }
        keys
    }
}

fn whole(n: usize) -> Key {
    Key::U32(u32::try_from(n).unwrap_or(u32::MAX))
}

#[expect(clippy::cast_possible_truncation, reason = "GGUF keeps them in f32")]
fn real(x: f64) -> Key {
    Key::F32(x as f32)
}
