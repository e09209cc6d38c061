//! GPT-2: LayerNorm before each sublayer, learned positions, one map for queries, keys and values, GELU.

use candle_core::Result;
use serde_json::Value;

use super::config::keys::Keys;
use super::config::{Config, ConfigError, Sizes};
use super::parts::{Index, Ops, Part};
use crate::learn::kernel::attention::Heads;
use crate::learn::kernel::gelu::Gelu;
use crate::learn::weights::affine::Layout;

/// What a GPT-2 has beyond the sizes that every family has.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpt2 {
    /// Its activation.
    pub gelu: Gelu,
}

impl Gpt2 {
    /// Reads its part of a `config.json`.
    pub(super) fn read(keys: Keys<'_>) -> std::result::Result<(Sizes, Self), ConfigError> {
        keys.only("scale_attn_weights", &[Value::from(true)])?;
        keys.only("scale_attn_by_inverse_layer_idx", &[Value::from(false)])?;
        keys.only("add_cross_attention", &[Value::from(false)])?;
        let name = keys.word("activation_function").unwrap_or("gelu_new");
        let refused = || keys.unsupported("activation_function", &Value::from(name));
        let gelu = Gelu::named(name).ok_or_else(refused)?;
        let hidden = keys.size_or("n_embd", 768)?;
        let heads = keys.size_or("n_head", 12)?;
        if !hidden.is_multiple_of(heads) {
            return Err(keys.malformed("n_head must divide n_embd".into()));
        }
        let sizes = Sizes {
            hidden,
            inner: keys.size_or("n_inner", 4 * hidden)?,
            layers: keys.layers("n_layer", Some(12))?,
            heads,
            kv_heads: heads,
            head_dim: hidden / heads,
            context: keys.size_or("n_positions", 1024)?,
            eps: keys.epsilon("layer_norm_epsilon", 1e-5)?,
            tied: keys.flag_or("tie_word_embeddings", true)?,
        };
        Ok((sizes, Self { gelu }))
    }

    /// Its tensors, in the order of their use.
    pub(super) fn parts(config: &Config) -> Vec<Part> {
        let hidden = config.hidden;
        let map = |module, out, inside| Part::map(module, [out, inside], true, Layout::InOut);
        let mut parts = vec![
            Part::tensor(Self::EMBEDDING, [config.vocabulary, hidden]),
            Part::tensor(POSITIONS, [config.context, hidden]),
        ];
        for layer in 0..config.layers {
            let at = |part: &str| config.in_layer(layer, part);
            parts.extend(Part::layer_norm(&at("ln_1"), hidden));
            parts.push(map(at("attn.c_attn"), 3 * hidden, hidden));
            parts.push(map(at("attn.c_proj"), hidden, hidden));
            parts.extend(Part::layer_norm(&at("ln_2"), hidden));
            parts.push(map(at("mlp.c_fc"), config.inner, hidden));
            parts.push(map(at("mlp.c_proj"), hidden, config.inner));
        }
        parts.extend(Part::layer_norm(FINAL_NORM, hidden));
        if !config.tied {
            parts.push(Part::tensor(HEAD, [config.vocabulary, hidden]));
        }
        parts
    }

    /// The matrix of the output head.
    pub(super) fn head(config: &Config) -> &'static str {
        if config.tied { Self::EMBEDDING } else { HEAD }
    }

    /// What checkpoints of the bare model leave off the names.
    pub(super) const PREFIX: &'static str = "transformer.";

    /// The embedding of the tokens.
    pub(super) const EMBEDDING: &'static str = "transformer.wte.weight";

    /// What the names of the layers begin with.
    pub(super) const LAYERS: &'static str = "transformer.h";

    /// A layer's sublayers whose output joins the residual stream.
    pub(super) const JOINS: [&'static str; 2] = ["attn", "mlp"];

    /// What enters the first layer.
    pub(super) fn begin<O: Ops>(ops: &mut O) -> Result<O::Rows> {
        let tokens = ops.embed(Self::EMBEDDING, Index::Token)?;
        let positions = ops.embed(POSITIONS, Index::Position)?;
        ops.add(tokens, positions)
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
        let at = |part: &str| config.in_layer(layer, part);
        let inside = ops.layer_norm(&x, &at("ln_1"), config.eps)?;
        let qkv = ops.linear(&inside, &at("attn.c_attn"))?;
        let qkv = ops.thirds(&qkv)?;
        let seen = ops.attend(layer, heads, qkv)?;
        let seen = ops.linear(&seen, &at("attn.c_proj"))?;
        let x = ops.join(x, seen, &at(Self::JOINS[0]))?;
        let inside = ops.layer_norm(&x, &at("ln_2"), config.eps)?;
        let inner = ops.linear(&inside, &at("mlp.c_fc"))?;
        let inner = ops.gelu(&inner, self.gelu)?;
        let inner = ops.linear(&inner, &at("mlp.c_proj"))?;
        ops.join(x, inner, &at(Self::JOINS[1]))
    }

    /// The normed hidden states before the head.
    pub(super) fn end<O: Ops>(x: &O::Rows, config: &Config, ops: &mut O) -> Result<O::Rows> {
        ops.layer_norm(x, FINAL_NORM, config.eps)
    }
}

const POSITIONS: &str = "transformer.wpe.weight";
const FINAL_NORM: &str = "transformer.ln_f";
const HEAD: &str = "lm_head.weight";
