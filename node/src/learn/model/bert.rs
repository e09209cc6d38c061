//! BERT with a classification head: tokens see both ways, LayerNorm after each sublayer, GELU, a pooler.
//!
//! The encoder turns an example into one row, that of its first token; the head turns this row into a number for each
//! label. A checkpoint of the bare encoder has no head: then it is trained from its start beside the adapter.

use candle_core::Result;
use serde_json::Value;

use super::config::keys::Keys;
use super::config::{Config, ConfigError, Sizes};
use super::parts::{Index, Ops, Part};
use crate::learn::kernel::attention::Heads;
use crate::learn::kernel::gelu::Gelu;
use crate::learn::weights::affine::Layout;

/// What a BERT has beyond the sizes that every family has.
#[derive(Debug, Clone, PartialEq)]
pub struct Bert {
    /// Its activation.
    pub gelu: Gelu,
    /// How many kinds of segments the embedding tells apart; ours are all of the first.
    pub segments: usize,
    /// Whether the checkpoint has a head.
    pub headed: bool,
}

impl Bert {
    /// Reads its part of a `config.json`.
    pub(super) fn read(keys: Keys<'_>) -> std::result::Result<(Sizes, Self), ConfigError> {
        keys.only("position_embedding_type", &[Value::from("absolute")])?;
        keys.only("is_decoder", &[Value::from(false)])?;
        keys.only("add_cross_attention", &[Value::from(false)])?;
        keys.only(
            "problem_type",
            &[Value::from("single_label_classification")],
        )?;
        let name = keys.word("hidden_act").unwrap_or("gelu");
        let refused = || keys.unsupported("hidden_act", &Value::from(name));
        let gelu = Gelu::named(name).ok_or_else(refused)?;
        let hidden = keys.size("hidden_size")?;
        let heads = keys.size("num_attention_heads")?;
        if !hidden.is_multiple_of(heads) {
            let reason = "num_attention_heads must divide hidden_size";
            return Err(keys.malformed(reason.into()));
        }
        let sizes = Sizes {
            hidden,
            inner: keys.size("intermediate_size")?,
            layers: keys.layers("num_hidden_layers", None)?,
            heads,
            kv_heads: heads,
            head_dim: hidden / heads,
            context: keys.size_or("max_position_embeddings", 512)?,
            eps: keys.epsilon("layer_norm_eps", 1e-12)?,
            tied: false,
        };
        let architecture = keys
            .value("architectures")
            .and_then(|list| list[0].as_str());
        let bert = Self {
            gelu,
            segments: keys.size_or("type_vocab_size", 2)?,
            headed: architecture == Some("BertForSequenceClassification"),
        };
        Ok((sizes, bert))
    }

    /// Its tensors, in the order of their use.
    pub(super) fn parts(&self, config: &Config) -> Vec<Part> {
        let hidden = config.hidden;
        let map = |module, out, inside| Part::map(module, [out, inside], true, Layout::OutIn);
        let mut parts = vec![
            Part::tensor(Self::EMBEDDING, [config.vocabulary, hidden]),
            Part::tensor(POSITIONS, [config.context, hidden]),
            Part::tensor(SEGMENTS, [self.segments, hidden]),
        ];
        parts.extend(Part::layer_norm(EMBEDDING_NORM, hidden));
        for layer in 0..config.layers {
            let at = |part: &str| config.in_layer(layer, part);
            for of in ["query", "key", "value"] {
                let module = at(&format!("attention.self.{of}"));
                parts.push(map(module, hidden, hidden));
            }
            parts.push(map(at("attention.output.dense"), hidden, hidden));
            parts.extend(Part::layer_norm(&at("attention.output.LayerNorm"), hidden));
            parts.push(map(at("intermediate.dense"), config.inner, hidden));
            parts.push(map(at("output.dense"), hidden, config.inner));
            parts.extend(Part::layer_norm(&at("output.LayerNorm"), hidden));
        }
        parts.push(map(POOLER.to_owned(), hidden, hidden));
        if self.headed {
            let labels = config.labels.len();
            parts.push(Part::tensor(HEAD_WEIGHT, [labels, hidden]));
            parts.push(Part::tensor(HEAD_BIAS, [labels]));
        }
        parts
    }

    /// What checkpoints of the bare model leave off the names.
    pub(super) const PREFIX: &'static str = "bert.";

    /// The embedding of the tokens.
    pub(super) const EMBEDDING: &'static str = "bert.embeddings.word_embeddings.weight";

    /// What the names of the layers begin with.
    pub(super) const LAYERS: &'static str = "bert.encoder.layer";

    /// A layer's sublayers whose output joins the residual stream.
    pub(super) const JOINS: [&'static str; 2] = ["attention.output", "output"];

    /// What enters the first layer.
    pub(super) fn begin<O: Ops>(config: &Config, ops: &mut O) -> Result<O::Rows> {
        let tokens = ops.embed(Self::EMBEDDING, Index::Token)?;
        let segments = ops.embed(SEGMENTS, Index::First)?;
        let positions = ops.embed(POSITIONS, Index::Position)?;
        let x = ops.add(tokens, segments)?;
        let x = ops.add(x, positions)?;
        ops.layer_norm(&x, EMBEDDING_NORM, config.eps)
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
        let q = ops.linear(&x, &at("attention.self.query"))?;
        let k = ops.linear(&x, &at("attention.self.key"))?;
        let v = ops.linear(&x, &at("attention.self.value"))?;
        let seen = ops.attend(layer, heads, [q, k, v])?;
        let seen = ops.linear(&seen, &at("attention.output.dense"))?;
        let joined = ops.join(x, seen, &at(Self::JOINS[0]))?;
        let x = ops.layer_norm(&joined, &at("attention.output.LayerNorm"), config.eps)?;
        let inner = ops.linear(&x, &at("intermediate.dense"))?;
        let inner = ops.gelu(&inner, self.gelu)?;
        let inner = ops.linear(&inner, &at("output.dense"))?;
        let joined = ops.join(x, inner, &at(Self::JOINS[1]))?;
        ops.layer_norm(&joined, &at("output.LayerNorm"), config.eps)
    }

    /// A row for each example.
    pub(super) fn end<O: Ops>(x: &O::Rows, ops: &mut O) -> Result<O::Rows> {
        let first = ops.firsts(x)?;
        let pooled = ops.linear(&first, POOLER)?;
        ops.tanh(&pooled)
    }
}

/// The matrix `(labels, hidden)` of the head.
pub const HEAD_WEIGHT: &str = "classifier.weight";
/// The bias of the head.
pub const HEAD_BIAS: &str = "classifier.bias";

const POSITIONS: &str = "bert.embeddings.position_embeddings.weight";
const SEGMENTS: &str = "bert.embeddings.token_type_embeddings.weight";
const EMBEDDING_NORM: &str = "bert.embeddings.LayerNorm";
const POOLER: &str = "bert.pooler.dense";
