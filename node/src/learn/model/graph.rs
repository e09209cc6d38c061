//! The forward pass for training and scoring: a packed row of tokens through candle's graph, by fused operations.

use candle_core::{Device, Result, Tensor};

use super::parts::Ops;
use super::{Model, Moving};
use crate::learn::batch::Batch;
use crate::learn::fused::{attention, linear, norm, swiglu};
use crate::learn::kernel::attention::Heads;

/// A batch on its way through a model.
pub(super) struct Graph<'a> {
    pub(super) model: &'a Model,
    pub(super) batch: &'a Batch,
    pub(super) moving: &'a Moving,
}

impl Graph<'_> {
    /// A tensor of the model: the moving one, or the frozen one.
    fn tensor(&self, name: &str) -> Result<Tensor> {
        match self.moving {
            Moving::All(weights) => Ok(weights[name].clone()),
            Moving::Nothing | Moving::Lora(_) => {
                let weight = self.model.weight(name);
                Tensor::from_slice(weight.values(), weight.shape(), &Device::Cpu)
            }
        }
    }
}

impl Ops for Graph<'_> {
    type Rows = Tensor;

    fn embed(&mut self, table: &str) -> Result<Tensor> {
        if let Moving::All(weights) = self.moving {
            let ids = Tensor::new(&self.batch.ids[..], &Device::Cpu)?;
            return weights[table].index_select(&ids, 0);
        }
        let rows = self.model.rows(table, &self.batch.ids);
        let width = rows.len() / self.batch.ids.len();
        Tensor::from_vec(rows, (self.batch.ids.len(), width), &Device::Cpu)
    }

    fn linear(&mut self, x: &Tensor, module: &str) -> Result<Tensor> {
        let map = self.model.map(module);
        match self.moving {
            Moving::Nothing => linear::frozen(x, map),
            Moving::Lora(lora) => match lora.factors.get(module) {
                None => linear::frozen(x, map),
                Some((a, b)) => linear::lora(x, map, a, b, lora.scale),
            },
            Moving::All(weights) => {
                let y = linear::free(x, &weights[&format!("{module}.weight")])?;
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

    fn attend(&mut self, _: usize, heads: &Heads, [q, k, v]: [Tensor; 3]) -> Result<Tensor> {
        attention::attention(&q, &k, &v, heads, &self.batch.spans)
    }

    fn swiglu(&mut self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        swiglu::swiglu(gate, up)
    }

    fn join(&mut self, x: Tensor, y: Tensor) -> Result<Tensor> {
        x + y
    }
}
