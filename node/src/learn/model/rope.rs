//! The frequencies of rotary positions, plain or stretched to longer contexts, as transformers computes them.
//!
//! Methods and keys are those of transformers' `modeling_rope_utils`; `rope_parameters` (version 5) and
//! `rope_theta` with `rope_scaling` (version 4) say the same.

use std::f64::consts::TAU;

use serde_json::{Map, Value};

use super::config::ConfigError;
use super::config::keys::Keys;

/// How heads are turned.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The angle of a position for each pair of elements, radians.
    pub frequencies: Vec<f32>,
    /// What cosines and sines are multiplied with.
    pub scale: f32,
}

/// One stretching method's numbers.
struct Stretch<'a> {
    keys: Keys<'a>,
    theta: f64,
    dim: usize,
    context: usize,
}

impl Rope {
    /// From the keys of a `config.json`, for heads of `dim` elements.
    pub fn read(keys: Keys<'_>, dim: usize, context: usize) -> Result<Self, ConfigError> {
        let name = if keys.value("rope_parameters").is_some() {
            "rope_parameters"
        } else {
            "rope_scaling"
        };
        let none = Map::new();
        let rope = match keys.value(name) {
            None => &none,
            Some(Value::Object(rope)) => rope,
            Some(other) => return Err(keys.unsupported(name, other)),
        };
        let refuse = || keys.unsupported(name, &Value::Object(rope.clone()));
        if rope.keys().any(|key| !KNOWN.contains(&key.as_str())) {
            return Err(refuse());
        }
        let inner = Keys {
            json: rope,
            path: keys.path,
        };
        inner.only("partial_rotary_factor", &[Value::from(1.0)])?;
        keys.only("partial_rotary_factor", &[Value::from(1.0)])?;
        let theta = inner.real("rope_theta")?.or(keys.real("rope_theta")?);
        let stretch = Stretch {
            keys: inner,
            theta: theta.unwrap_or(10_000.0),
            dim,
            context,
        };
        if stretch.theta <= 0.0 {
            return Err(keys.malformed("rope_theta must be positive".into()));
        }
        let rope = if let Some(divisors) = keys.value(DIVISORS) {
            stretch.divided(divisors)?
        } else {
            match inner.word("rope_type").or_else(|| inner.word("type")) {
                // Inside the context, all that we take, NTK-aware scaling on the fly changes nothing.
                None | Some("default" | "dynamic") => stretch.plain(),
                Some("linear") => {
                    let factor = stretch.factor()?;
                    stretch.each(|_, frequency| frequency / factor, 1.0)
                }
                Some("llama3") => stretch.llama3()?,
                Some("yarn") => stretch.yarn()?,
                Some(_) => return Err(refuse()),
            }
        };
        if !rope.frequencies.iter().all(|x| x.is_finite()) || !rope.scale.is_finite() {
            let reason = format!("the numbers of {name} give angles that are none");
            return Err(keys.malformed(reason));
        }
        Ok(rope)
    }
}

impl Stretch<'_> {
    fn plain(&self) -> Rope {
        self.each(|_, frequency| frequency, 1.0)
    }

    /// `theta^(-2j / dim)` for each pair `j`, changed, computed in f64 and rounded once.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "heads are small; transformers keeps frequencies in f32"
    )]
    fn each(&self, change: impl Fn(f64, f64) -> f64, scale: f64) -> Rope {
        let frequencies = (0..self.dim / 2).map(|j| {
            let j = j as f64;
            let frequency = self.theta.powf(-2.0 * j / self.dim as f64);
            change(j, frequency) as f32
        });
        Rope {
            frequencies: frequencies.collect(),
            scale: scale as f32,
        }
    }

    fn factor(&self) -> Result<f64, ConfigError> {
        let factor = self.needed("factor")?;
        if factor >= 1.0 {
            Ok(factor)
        } else {
            let reason = format!("the factor of the rotary positions is {factor}, below 1");
            Err(self.keys.malformed(reason))
        }
    }

    fn needed(&self, key: &str) -> Result<f64, ConfigError> {
        let missing = || {
            let reason = format!("the key {key} of the rotary positions is missing");
            self.keys.malformed(reason)
        };
        self.keys.real(key)?.ok_or_else(missing)
    }

    /// Each frequency by its divisor.
    fn divided(&self, divisors: &Value) -> Result<Rope, ConfigError> {
        let wrong = || {
            let reason = format!("{DIVISORS} must hold {} positive numbers", self.dim / 2);
            self.keys.malformed(reason)
        };
        let list = divisors.as_array();
        let list = list.filter(|list| list.len() == self.dim / 2);
        let factors = list.ok_or_else(wrong)?.iter().map(Value::as_f64);
        let factors: Vec<f64> = factors
            .map(|factor| factor.filter(|factor| *factor > 0.0))
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        let mut rope = self.plain();
        for (frequency, factor) in rope.frequencies.iter_mut().zip(factors) {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "frequencies are kept in f32"
            )]
            {
                *frequency = (f64::from(*frequency) / factor) as f32;
            }
        }
        Ok(rope)
    }

    /// Llama 3.1: slow frequencies are divided, fast ones kept, those between blended.
    fn llama3(&self) -> Result<Rope, ConfigError> {
        let factor = self.factor()?;
        let (low, high) = (
            self.needed("low_freq_factor")?,
            self.needed("high_freq_factor")?,
        );
        let context = self.needed("original_max_position_embeddings")?;
        if high <= low {
            let reason = "high_freq_factor must be above low_freq_factor";
            return Err(self.keys.malformed(reason.into()));
        }
        let change = |_, frequency: f64| {
            let wavelength = TAU / frequency;
            if wavelength < context / high {
                frequency
            } else if wavelength > context / low {
                frequency / factor
            } else {
                let smooth = (context / wavelength - low) / (high - low);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        };
        Ok(self.each(change, 1.0))
    }

    /// YaRN (Peng et al., arXiv 2309.00071).
    #[expect(clippy::cast_precision_loss, reason = "heads and contexts are small")]
    fn yarn(&self) -> Result<Rope, ConfigError> {
        let factor = self.factor()?;
        let original = self.keys.real("original_max_position_embeddings")?;
        let context = original.unwrap_or(self.context as f64);
        let fast = self.keys.real("beta_fast")?.unwrap_or(32.0);
        let slow = self.keys.real("beta_slow")?.unwrap_or(1.0);
        let truncate = self.keys.flag_or("truncate", true)?;
        let dim = self.dim as f64;
        let turns =
            |rotations: f64| dim * (context / (rotations * TAU)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (turns(fast), turns(slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
        if low >= high {
            high = low + 0.001;
        }
        let change = |j: f64, frequency: f64| {
            let ramp = ((j - low) / (high - low)).clamp(0.0, 1.0);
            frequency / factor * ramp + frequency * (1.0 - ramp)
        };
        let stretched = |weight| yarn_scale(factor, weight);
        let (one, all) = (
            self.keys.real("mscale")?.unwrap_or(0.0),
            self.keys.real("mscale_all_dim")?.unwrap_or(0.0),
        );
        let usual = if one != 0.0 && all != 0.0 {
            stretched(one) / stretched(all)
        } else {
            stretched(1.0)
        };
        let scale = self.keys.real("attention_factor")?.unwrap_or(usual);
        Ok(self.each(change, scale))
    }
}

/// What YaRN multiplies cosines and sines with, by its authors' advice; of weight 1 in llama.cpp.
pub(in crate::learn) fn yarn_scale(factor: f64, weight: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * weight * factor.ln() + 1.0
    }
}

/// A divisor for each frequency, as GGUF keeps Llama 3's stretching in this tensor; no `config.json` has it.
pub(in crate::learn) const DIVISORS: &str = "rope_freqs.weight";

const KNOWN: [&str; 14] = [
    "rope_theta",
    "rope_type",
    "type",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "partial_rotary_factor",
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Frequencies and scale of transformers 5.24's `LlamaRotaryEmbedding` (`inv_freq`, `attention_scaling`) for heads
    /// of 16 elements, `max_position_embeddings = 256` and these `rope_parameters`.
    const KNOWN_ROPES: [(&str, [f32; 8], f32); 5] = [
        (
            r#"{"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}"#,
            [
                1.0,
                0.316_227_76,
                0.1,
                0.031_622_78,
                0.01,
                0.003_162_277_9,
                0.001,
                0.000_316_227_76,
            ],
            1.0,
        ),
        (
            r#"{"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}"#,
            [
                0.25,
                0.079_056_94,
                0.025,
                0.007_905_695,
                0.0025,
                0.000_790_569_47,
                0.000_25,
                0.000_079_056_95,
            ],
            1.0,
        ),
        (
            r#"{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64, "rope_theta": 500.0}"#,
            [
                1.0,
                0.459_863_28,
                0.097_616_63,
                0.012_156_156,
                0.005_590_17,
                0.002_570_714,
                0.001_182_177,
                0.000_543_639_8,
            ],
            1.0,
        ),
        (
            r#"{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64,
                "rope_theta": 10000.0}"#,
            [
                1.0,
                0.237_170_82,
                0.05,
                0.007_905_695,
                0.0025,
                0.000_790_569_47,
                0.000_25,
                0.000_079_056_95,
            ],
            1.138_629_4,
        ),
        (
            r#"{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0,
                "beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.8, "mscale_all_dim": 0.5, "truncate": false}"#,
            [
                1.0,
                0.148_490_25,
                0.025,
                0.007_905_695,
                0.0025,
                0.000_790_569_47,
                0.000_25,
                0.000_079_056_95,
            ],
            1.038_893,
        ),
    ];

    #[test]
    fn every_method_has_the_frequencies_of_transformers() {
        for (text, frequencies, scale) in KNOWN_ROPES {
            let Value::Object(json) =
                serde_json::from_str(&format!(r#"{{"rope_parameters": {text}}}"#)).unwrap()
            else {
                panic!("an object");
            };
            let path = Path::new("config.json");
            let rope = Rope::read(Keys { json: &json, path }, 16, 256).unwrap();
            assert!((rope.scale - scale).abs() < 1e-6, "{text}: {}", rope.scale);
            for (ours, theirs) in rope.frequencies.iter().zip(frequencies) {
                let apart = (ours - theirs).abs() / theirs;
                assert!(apart < 5e-7, "{text}: {ours}, transformers has {theirs}");
            }
        }
    }
}
