//! The Llama family: RMSNorm, rotary positions, grouped queries, SwiGLU, tied or untied head.
//!
//! Its members differ in biases (Qwen2's queries, keys and values; Llama's by key), in norms of each head's queries
//! and keys (Qwen3), and in layers that see a sliding window only (Mistral; Qwen by key). Defaults of absent keys are
//! those of transformers' configuration classes.

use candle_core::Result;
use serde_json::Value;

use super::config::keys::{Keys, LARGEST};
use super::config::{Config, ConfigError, Sizes};
use super::parts::{Index, Ops, Part};
use super::rope::Rope;
use crate::learn::kernel::attention::{Heads, Sight};
use crate::learn::weights::affine::Layout;

/// What a Llama has beyond the sizes that every family has.
#[derive(Debug, Clone, PartialEq)]
pub struct Llama {
    /// How heads are turned.
    pub rope: Rope,
    /// Which of attention's maps have biases.
    pub biases: Biases,
    /// Whether the feed-forward maps have biases.
    pub inner_bias: bool,
    /// Whether each head's queries and keys are normed.
    pub head_norms: bool,
    /// What each layer's tokens see.
    pub sights: Vec<Sight>,
}

/// Which of attention's maps have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Biases {
    /// None.
    None,
    /// Queries, keys and values.
    Inputs,
    /// The output too.
    All,
}

impl Llama {
    /// Reads its part of a `config.json`.
    pub(super) fn read(keys: Keys<'_>) -> std::result::Result<(Sizes, Self), ConfigError> {
        let kind = keys.word("model_type").unwrap_or("llama");
        keys.only("hidden_act", &[Value::from("silu"), Value::from("swish")])?;
        for key in [
            "logits_scaling",
            "embedding_multiplier",
            "residual_multiplier",
        ] {
            keys.only(key, &[Value::from(1.0)])?;
        }
        keys.only("use_qk_norm", &[Value::from(false)])?;
        let (hidden, heads) = (keys.size("hidden_size")?, keys.size("num_attention_heads")?);
        let (kv_heads, head_dim, context) = match kind {
            "mistral" => (8, hidden / heads, 131_072),
            "qwen2" => (32, hidden / heads, 32_768),
            "qwen3" => (32, 128, 32_768),
            _ => (heads, hidden / heads, 2048),
        };
        let sizes = Sizes {
            hidden,
            inner: keys.size("intermediate_size")?,
            layers: keys.layers("num_hidden_layers", None)?,
            heads,
            kv_heads: keys.size_or("num_key_value_heads", kv_heads)?,
            head_dim: keys.size_or("head_dim", head_dim)?,
            context: keys.size_or("max_position_embeddings", context)?,
            eps: keys.epsilon("rms_norm_eps", 1e-6)?,
            tied: keys.flag_or("tie_word_embeddings", false)?,
        };
        let dim = sizes.head_dim;
        if dim == 0 || dim % 2 == 1 || dim > 1024 {
            return Err(keys.malformed(format!("heads of {dim} elements cannot be rotated")));
        }
        if heads * dim > LARGEST {
            let reason = format!("{heads} heads of {dim} elements are more than can be");
            return Err(keys.malformed(reason));
        }
        if sizes.context * dim > TURNS {
            let reason = format!(
                "the angles of {} positions of heads of {dim} elements would fill the memory",
                sizes.context
            );
            return Err(keys.malformed(reason));
        }
        if !heads.is_multiple_of(sizes.kv_heads) {
            let reason = "num_key_value_heads must divide num_attention_heads";
            return Err(keys.malformed(reason.into()));
        }
        let bias = keys.flag_or("attention_bias", false)?;
        let llama = Self {
            rope: Rope::read(keys, dim, sizes.context)?,
            biases: match kind {
                "qwen2" => Biases::Inputs,
                _ if bias => Biases::All,
                _ => Biases::None,
            },
            inner_bias: keys.flag_or("mlp_bias", false)?,
            head_norms: kind == "qwen3",
            sights: sights(keys, kind, sizes.layers)?,
        };
        if kind == "mistral" && bias || kind != "llama" && llama.inner_bias {
            let reason = format!("a {kind} model has no such biases");
            return Err(keys.malformed(reason));
        }
        Ok((sizes, llama))
    }

    /// Its tensors, in the order of their use.
    pub(super) fn parts(&self, config: &Config) -> Vec<Part> {
        let hidden = config.hidden;
        let (q, kv) = (
            config.heads * config.head_dim,
            config.kv_heads * config.head_dim,
        );
        let (inputs, output) = (self.biases != Biases::None, self.biases == Biases::All);
        let map = |module, out, inside, bias| Part::map(module, [out, inside], bias, Layout::OutIn);
        let table = [config.vocabulary, hidden];
        let mut parts = vec![Part::tensor(Self::EMBEDDING, table)];
        for layer in 0..config.layers {
            let at = |part: &str| config.in_layer(layer, part);
            parts.extend([
                map(at("self_attn.q_proj"), q, hidden, inputs),
                map(at("self_attn.k_proj"), kv, hidden, inputs),
                map(at("self_attn.v_proj"), kv, hidden, inputs),
                map(at("self_attn.o_proj"), hidden, q, output),
                map(at("mlp.gate_proj"), config.inner, hidden, self.inner_bias),
                map(at("mlp.up_proj"), config.inner, hidden, self.inner_bias),
                map(at("mlp.down_proj"), hidden, config.inner, self.inner_bias),
                Part::tensor(at("input_layernorm.weight"), [hidden]),
                Part::tensor(at("post_attention_layernorm.weight"), [hidden]),
            ]);
            if self.head_norms {
                for norm in ["self_attn.q_norm.weight", "self_attn.k_norm.weight"] {
                    parts.push(Part::tensor(at(norm), [config.head_dim]));
                }
            }
        }
        parts.push(Part::tensor(format!("{FINAL_NORM}.weight"), [hidden]));
        if !config.tied {
            parts.push(Part::tensor(HEAD, table));
        }
        parts
    }

    /// The matrix of the output head.
    pub(super) fn head(config: &Config) -> &'static str {
        if config.tied { Self::EMBEDDING } else { HEAD }
    }

    /// What checkpoints of the bare model leave off the names.
    pub(super) const PREFIX: &'static str = "model.";

    /// The embedding of the tokens.
    pub(super) const EMBEDDING: &'static str = "model.embed_tokens.weight";

    /// What the names of the layers begin with.
    pub(super) const LAYERS: &'static str = "model.layers";

    /// A layer's sublayers whose output joins the residual stream.
    pub(super) const JOINS: [&'static str; 2] = ["self_attn", "mlp"];

    /// What enters the first layer.
    pub(super) fn begin<O: Ops>(ops: &mut O) -> Result<O::Rows> {
        ops.embed(Self::EMBEDDING, Index::Token)
    }

    /// What leaves a layer.
    pub(super) fn layer<O: Ops>(
        &self,
        layer: usize,
        x: O::Rows,
        config: &Config,
        heads: &Heads,
        ops: &mut O,
    ) -> Result<O::Rows> {
        let heads = Heads {
            sight: self.sights[layer],
            ..heads.clone()
        };
        let at = |part: &str| config.in_layer(layer, part);
        let inside = ops.rms_norm(&x, &at("input_layernorm"), config.eps)?;
        let mut q = ops.linear(&inside, &at("self_attn.q_proj"))?;
        let mut k = ops.linear(&inside, &at("self_attn.k_proj"))?;
        let v = ops.linear(&inside, &at("self_attn.v_proj"))?;
        if self.head_norms {
            q = ops.rms_norm(&q, &at("self_attn.q_norm"), config.eps)?;
            k = ops.rms_norm(&k, &at("self_attn.k_norm"), config.eps)?;
        }
        let seen = ops.attend(layer, &heads, [q, k, v])?;
        let seen = ops.linear(&seen, &at("self_attn.o_proj"))?;
        let x = ops.join(x, seen, &at(Self::JOINS[0]))?;
        let inside = ops.rms_norm(&x, &at("post_attention_layernorm"), config.eps)?;
        let gate = ops.linear(&inside, &at("mlp.gate_proj"))?;
        let up = ops.linear(&inside, &at("mlp.up_proj"))?;
        let inner = ops.swiglu(&gate, &up)?;
        let inner = ops.linear(&inner, &at("mlp.down_proj"))?;
        ops.join(x, inner, &at(Self::JOINS[1]))
    }

    /// The normed hidden states before the head.
    pub(super) fn end<O: Ops>(x: &O::Rows, config: &Config, ops: &mut O) -> Result<O::Rows> {
        ops.rms_norm(x, FINAL_NORM, config.eps)
    }
}

/// What each layer's tokens see: `layer_types` where the file has them, else the rule of its kind.
fn sights(
    keys: Keys<'_>,
    kind: &str,
    layers: usize,
) -> std::result::Result<Vec<Sight>, ConfigError> {
    let window = match kind {
        "llama" => {
            keys.only("sliding_window", &[])?;
            None
        }
        "qwen2" | "qwen3" if !keys.flag_or("use_sliding_window", false)? => None,
        // Without the key the window is that of the first Mistral; with null there is none.
        _ if !keys.json.contains_key("sliding_window") => Some(4096),
        _ => keys.optional_size("sliding_window")?,
    };
    let from = match kind {
        "mistral" => 0,
        _ => keys.whole_or("max_window_layers", 28)?,
    };
    let named = match keys.value("layer_types") {
        Some(Value::Array(types)) if kind != "mistral" && types.len() == layers => types.as_slice(),
        Some(Value::Array(types)) if types.iter().all(|kind| kind == "full_attention") => &[],
        Some(other) => return Err(keys.unsupported("layer_types", other)),
        None => &[],
    };
    let sight = |layer: usize| {
        let slides = match named.get(layer).map(|kind| kind.as_str()) {
            None => layer >= from,
            Some(Some("sliding_attention")) => true,
            Some(Some("full_attention")) => false,
            Some(_) => return Err(keys.unsupported("layer_types", &named[layer])),
        };
        Ok(match window {
            Some(window) if slides => Sight::Window(window),
            _ => Sight::Causal,
        })
    };
    (0..layers).map(sight).collect()
}

/// Cosines and sines of all positions, which are computed when a model is opened: 1 GiB of them.
const TURNS: usize = 1 << 28;
const FINAL_NORM: &str = "model.norm";
const HEAD: &str = "lm_head.weight";
