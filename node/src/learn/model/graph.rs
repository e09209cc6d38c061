//! The forward pass for training and scoring: a packed row of tokens through candle's graph, by fused operations.

use candle_core::{Device, Result, Tensor};
use conclave_protocol::charter::NonLinearity;

use super::Model;
use super::adapted::{AdapterTensors, Factors, Moving};
use super::bert::{HEAD_BIAS, HEAD_WEIGHT};
use super::labels::LabelHead;
use super::parts::{Index, Ops};
use crate::learn::batch::Batch;
use crate::learn::fused::head::{self, Score};
use crate::learn::fused::{attention, gelu, layer_norm, linear, norm, swiglu};
use crate::learn::kernel::attention::Heads;
use crate::learn::kernel::gelu::Gelu;
use crate::learn::weights::affine::Layout;

/// A batch on its way through a model.
pub(super) struct Graph<'a> {
    pub(super) model: &'a Model,
    pub(super) batch: &'a Batch,
    pub(super) moving: &'a Moving,
}

/// A way to carry a batch through a model to its loss.
pub(super) trait Pass: Ops<Rows = Tensor> {
    /// The model.
    fn model(&self) -> &Model;

    /// What is carried.
    fn batch(&self) -> &Batch;

    /// What moves.
    fn moving(&self) -> &Moving;

    /// A frozen tensor of the model, where the pass computes.
    fn frozen(&self, name: &str) -> Result<Tensor>;

    /// `factor · Σ nll` of the scored tokens, given the hidden states before the head, and the exact score.
    fn token_loss(&self, hidden: &Tensor, factor: f32) -> Result<(Tensor, Score)>;

    /// A tensor of the model: the moving one, or the frozen one.
    fn tensor(&self, name: &str) -> Result<Tensor> {
        match self.moving() {
            Moving::All(weights) => Ok(weights[name].clone()),
            Moving::Nothing | Moving::Adapter(_) => self.frozen(name),
        }
    }

    /// The head of a classifier.
    fn label_head(&self) -> Result<LabelHead> {
        let adapter = self.moving().adapter();
        if let Some(head) = adapter.and_then(|adapter| adapter.head.as_ref()) {
            return Ok(head.clone());
        }
        if !self.model().has(HEAD_WEIGHT) {
            candle_core::bail!(
                "the base is an encoder without a classification head; name an adapter that brings one"
            );
        }
        Ok(LabelHead {
            weight: self.tensor(HEAD_WEIGHT)?,
            bias: self.tensor(HEAD_BIAS)?,
        })
    }
}

impl Pass for Graph<'_> {
    fn model(&self) -> &Model {
        self.model
    }

    fn batch(&self) -> &Batch {
        self.batch
    }

    fn moving(&self) -> &Moving {
        self.moving
    }

    fn frozen(&self, name: &str) -> Result<Tensor> {
        let weight = self.model.weight(name);
        Tensor::from_slice(weight.values(), weight.shape(), &Device::Cpu)
    }

    fn token_loss(&self, hidden: &Tensor, factor: f32) -> Result<(Tensor, Score)> {
        let targets = self.batch.targets.clone();
        match self.moving {
            Moving::All(weights) => {
                let head = &weights[self.model.config.head()];
                head::free(hidden, head, targets, factor)
            }
            Moving::Nothing | Moving::Adapter(_) => {
                head::frozen(hidden, self.model.output_head(), targets, factor)
            }
        }
    }
}

impl Ops for Graph<'_> {
    type Rows = Tensor;

    fn embed(&mut self, table: &str, index: Index) -> Result<Tensor> {
        let ids = index.of(self.batch);
        if let Moving::All(weights) = self.moving {
            return weights[table].index_select(&Tensor::new(&ids[..], &Device::Cpu)?, 0);
        }
        let rows = self.model.rows(table, &ids);
        let width = rows.len() / ids.len();
        let rows = Tensor::from_vec(rows, (ids.len(), width), &Device::Cpu)?;
        match self.moving.adapter().and_then(AdapterTensors::prompt) {
            Some(prompt) if index == Index::Token => self.batch.interleave(prompt, &rows),
            _ => Ok(rows),
        }
    }

    fn linear(&mut self, x: &Tensor, module: &str) -> Result<Tensor> {
        let map = self.model.map(module);
        match self.moving {
            Moving::Nothing => linear::frozen(x, map),
            Moving::Adapter(adapter) => match adapter.beside(module) {
                None => linear::frozen(x, map),
                Some((Factors { a, b, scale }, dropout)) => match dropout {
                    None => linear::lora(x, map, a, b, *scale),
                    Some(dropout) => {
                        let kept = dropout.drop(x, module)?;
                        let side = linear::free(&linear::free(&kept, a)?, b)?;
                        linear::frozen(x, map)? + (side * f64::from(*scale))?
                    }
                },
            },
            Moving::All(weights) => {
                let weight = &weights[&format!("{module}.weight")];
                let y = match map.layout() {
                    Layout::OutIn => linear::free(x, weight)?,
                    Layout::InOut => linear::free(x, &weight.t()?.contiguous()?)?,
                };
                match weights.get(&format!("{module}.bias")) {
                    None => Ok(y),
                    Some(bias) => y.broadcast_add(bias),
                }
            }
        }
    }

    fn rms_norm(&mut self, x: &Tensor, module: &str, eps: f32) -> Result<Tensor> {
        norm::norm(x, &self.tensor(&format!("{module}.weight"))?, eps)
    }

    fn layer_norm(&mut self, x: &Tensor, module: &str, eps: f32) -> Result<Tensor> {
        let weight = self.tensor(&format!("{module}.weight"))?;
        let bias = self.tensor(&format!("{module}.bias"))?;
        layer_norm::layer_norm(x, &weight, &bias, eps)
    }

    fn thirds(&mut self, x: &Tensor) -> Result<[Tensor; 3]> {
        let width = x.dim(1)? / 3;
        let third = |i: usize| x.narrow(1, i * width, width)?.contiguous();
        Ok([third(0)?, third(1)?, third(2)?])
    }

    fn attend(&mut self, _: usize, heads: &Heads, [q, k, v]: [Tensor; 3]) -> Result<Tensor> {
        attention::attention(&q, &k, &v, heads, &self.batch.spans)
    }

    fn swiglu(&mut self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        swiglu::swiglu(gate, up)
    }

    fn gelu(&mut self, x: &Tensor, form: Gelu) -> Result<Tensor> {
        gelu::gelu(x, form)
    }

    fn firsts(&mut self, x: &Tensor) -> Result<Tensor> {
        x.index_select(&self.batch.firsts()?, 0)
    }

    fn tanh(&mut self, x: &Tensor) -> Result<Tensor> {
        x.tanh()
    }

    fn bottleneck(&mut self, y: Tensor, place: &str) -> Result<Tensor> {
        let adapter = self.moving.adapter();
        let Some((form, bottleneck)) = adapter.and_then(|adapter| adapter.behind(place)) else {
            return Ok(y);
        };
        let side = bottleneck.through(&y, linear::free, |x| match form {
            NonLinearity::Relu => x.relu(),
            NonLinearity::Gelu => gelu::gelu(x, Gelu::Exact),
            NonLinearity::Silu => x.silu(),
            NonLinearity::Tanh => x.tanh(),
        })?;
        y + side
    }

    fn add(&mut self, x: Tensor, y: Tensor) -> Result<Tensor> {
        x + y
    }
}
