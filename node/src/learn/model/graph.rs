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

/// A batch on its way through a model on the processor.
pub(super) struct Graph<'a>(pub(super) Carried<'a>);

/// What goes through a model, wherever that computes.
pub(super) struct Carried<'a> {
    pub(super) model: &'a Model,
    pub(super) batch: &'a Batch,
    pub(super) moving: &'a Moving,
}

/// A way to carry a batch through a model to its loss.
pub(super) trait Pass: Ops<Rows = Tensor> {
    /// What is carried.
    fn carried(&self) -> &Carried<'_>;

    /// Where it computes.
    fn device(&self) -> &Device;

    /// A frozen tensor of the model, where the pass computes.
    fn frozen(&self, name: &str) -> Result<Tensor>;

    /// `factor · Σ nll` of the scored tokens, given the hidden states before the head, and the exact score.
    fn token_loss(&self, hidden: &Tensor, factor: f32) -> Result<(Tensor, Score)>;

    /// A tensor of the model: the moving one, or the frozen one.
    fn tensor(&self, name: &str) -> Result<Tensor> {
        match self.carried().moving {
            Moving::All(weights) => Ok(weights[name].clone()),
            Moving::Nothing | Moving::Adapter(_) => self.frozen(name),
        }
    }

    /// The head of a classifier.
    fn label_head(&self) -> Result<LabelHead> {
        let Carried { model, moving, .. } = self.carried();
        let adapter = moving.adapter();
        if let Some(head) = adapter.and_then(|adapter| adapter.head.as_ref()) {
            return Ok(head.clone());
        }
        if !model.has(HEAD_WEIGHT) {
            candle_core::bail!(
                "the base is an encoder without a classification head; name an adapter that brings one"
            );
        }
        Ok(LabelHead {
            weight: self.tensor(HEAD_WEIGHT)?,
            bias: self.tensor(HEAD_BIAS)?,
        })
    }

    /// Rows of a table, one for each token; a soft prompt in front of each text where tokens are embedded.
    fn looked_up(&self, table: &str, index: Index) -> Result<Tensor> {
        let Carried {
            model,
            batch,
            moving,
        } = self.carried();
        let ids = index.of(batch);
        if let Moving::All(weights) = moving {
            return weights[table].index_select(&Tensor::new(&ids[..], self.device())?, 0);
        }
        let rows = model.rows(table, &ids);
        let width = rows.len() / ids.len();
        let rows = Tensor::from_vec(rows, (ids.len(), width), self.device())?;
        match moving.adapter().and_then(AdapterTensors::prompt) {
            Some(prompt) if index == Index::Token => batch.interleave(prompt, &rows),
            _ => Ok(rows),
        }
    }

    /// What the bottleneck behind a sublayer makes of its output, by a pass's own linear map and GELU.
    fn through_bottleneck(
        &self,
        y: Tensor,
        place: &str,
        linear: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
        gelu: impl Fn(&Tensor, Gelu) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let adapter = self.carried().moving.adapter();
        let Some((form, bottleneck)) = adapter.and_then(|adapter| adapter.behind(place)) else {
            return Ok(y);
        };
        let side = bottleneck.through(&y, linear, |x| match form {
            NonLinearity::Relu => x.relu(),
            NonLinearity::Gelu => gelu(x, Gelu::Exact),
            NonLinearity::Silu => x.silu(),
            NonLinearity::Tanh => x.tanh(),
        })?;
        y + side
    }
}

/// The three equal parts of each row.
pub(super) fn thirds(x: &Tensor) -> Result<[Tensor; 3]> {
    let width = x.dim(1)? / 3;
    let third = |i: usize| x.narrow(1, i * width, width)?.contiguous();
    Ok([third(0)?, third(1)?, third(2)?])
}

impl Pass for Graph<'_> {
    fn carried(&self) -> &Carried<'_> {
        &self.0
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn frozen(&self, name: &str) -> Result<Tensor> {
        let weight = self.0.model.weight(name);
        Tensor::from_slice(weight.values(), weight.shape(), &Device::Cpu)
    }

    fn token_loss(&self, hidden: &Tensor, factor: f32) -> Result<(Tensor, Score)> {
        let targets = self.0.batch.targets.clone();
        match self.0.moving {
            Moving::All(weights) => {
                let head = &weights[self.0.model.config.head()];
                head::free(hidden, head, targets, factor)
            }
            Moving::Nothing | Moving::Adapter(_) => {
                head::frozen(hidden, self.0.model.output_head(), targets, factor)
            }
        }
    }
}

impl Ops for Graph<'_> {
    type Rows = Tensor;

    fn embed(&mut self, table: &str, index: Index) -> Result<Tensor> {
        self.looked_up(table, index)
    }

    fn linear(&mut self, x: &Tensor, module: &str) -> Result<Tensor> {
        let map = self.0.model.map(module);
        match self.0.moving {
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
        thirds(x)
    }

    fn attend(&mut self, _: usize, heads: &Heads, [q, k, v]: [Tensor; 3]) -> Result<Tensor> {
        attention::attention(&q, &k, &v, heads, &self.0.batch.spans)
    }

    fn swiglu(&mut self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        swiglu::swiglu(gate, up)
    }

    fn gelu(&mut self, x: &Tensor, form: Gelu) -> Result<Tensor> {
        gelu::gelu(x, form)
    }

    fn firsts(&mut self, x: &Tensor) -> Result<Tensor> {
        x.index_select(&self.0.batch.firsts()?, 0)
    }

    fn tanh(&mut self, x: &Tensor) -> Result<Tensor> {
        x.tanh()
    }

    fn bottleneck(&mut self, y: Tensor, place: &str) -> Result<Tensor> {
        self.through_bottleneck(y, place, linear::free, gelu::gelu)
    }

    fn add(&mut self, x: Tensor, y: Tensor) -> Result<Tensor> {
        x + y
    }
}
