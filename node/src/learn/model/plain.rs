//! The same model from candle's own differentiable operations: slow, and what the fused ones are checked against.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Result, Tensor};
use conclave_protocol::charter::NonLinearity;

use super::Model;
use super::adapted::{AdapterTensors, Factors, Moving};
use super::bert::HEAD_BIAS;
use super::config::Family;
use super::parts::{Index, Ops};
use super::rope::Rope;
use crate::learn::batch::Batch;
use crate::learn::kernel::attention::Heads;
use crate::learn::kernel::gelu::Gelu;
use crate::learn::weights::Weight;
use crate::learn::weights::affine::Layout;

mod checks;

fn turn(x: &Tensor, rope: &Rope) -> Result<Tensor> {
    let (_, tokens, dim) = x.dims3()?;
    let half = dim / 2;
    let mut angles = Vec::new();
    for position in 0..tokens {
        for j in 0..half {
            angles.push(position as f32 * rope.frequencies[j]);
        }
    }
    let angles = Tensor::from_vec(angles, (tokens, half), &Device::Cpu)?;
    let scale = f64::from(rope.scale);
    let (cos, sin) = ((angles.cos()? * scale)?, (angles.sin()? * scale)?);
    let (low, high) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let new_low = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
    let new_high = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
    Tensor::cat(&[new_low, new_high], 2)
}

fn norm(x: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + f64::from(eps))?.sqrt()?)?
        .broadcast_mul(w)
}

/// A batch on its way through candle's own operations.
struct Plain<'a> {
    model: &'a Model,
    batch: &'a Batch,
    moving: &'a Moving,
    weights: BTreeMap<String, Tensor>,
}

impl Ops for Plain<'_> {
    type Rows = Tensor;

    fn embed(&mut self, table: &str, index: Index) -> Result<Tensor> {
        let ids = index.of(self.batch);
        let table = &self.weights[table];
        let prompt = self.moving.adapter().and_then(AdapterTensors::prompt);
        let Some(prompt) = prompt.filter(|_| index == Index::Token) else {
            return table.index_select(&Tensor::new(&ids[..], &Device::Cpu)?, 0);
        };
        // The prompt as further words of the vocabulary.
        let (words, rows) = (table.dim(0)?, prompt.dim(0)?);
        let (mut all, mut next) = (Vec::new(), ids.iter());
        for span in self.batch.spans.iter() {
            all.extend((words..words + rows).map(|row| u32::try_from(row).unwrap()));
            all.extend(next.by_ref().take(span.len() - rows));
        }
        let table = Tensor::cat(&[table, prompt], 0)?;
        table.index_select(&Tensor::new(&all[..], &Device::Cpu)?, 0)
    }

    fn linear(&mut self, x: &Tensor, module: &str) -> Result<Tensor> {
        let weight = &self.weights[&format!("{module}.weight")];
        let mut y = match self.model.map(module).layout() {
            Layout::OutIn => x.matmul(&weight.t()?)?,
            Layout::InOut => x.matmul(weight)?,
        };
        if let Some(bias) = self.weights.get(&format!("{module}.bias")) {
            y = y.broadcast_add(bias)?;
        }
        let adapter = self.moving.adapter();
        match adapter.and_then(|adapter| adapter.beside(module)) {
            Some((Factors { a, b, scale }, _)) => {
                y + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * f64::from(*scale))?
            }
            None => Ok(y),
        }
    }

    fn rms_norm(&mut self, x: &Tensor, module: &str, eps: f32) -> Result<Tensor> {
        let weight = &self.weights[&format!("{module}.weight")];
        let groups = (x.elem_count() / weight.elem_count(), weight.elem_count());
        norm(&x.reshape(groups)?, weight, eps)?.reshape(x.shape())
    }

    fn layer_norm(&mut self, x: &Tensor, module: &str, eps: f32) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        centred
            .broadcast_div(&(variance + f64::from(eps))?.sqrt()?)?
            .broadcast_mul(&self.weights[&format!("{module}.weight")])?
            .broadcast_add(&self.weights[&format!("{module}.bias")])
    }

    fn thirds(&mut self, x: &Tensor) -> Result<[Tensor; 3]> {
        let parts = x.chunk(3, 1)?;
        Ok([0, 1, 2].map(|i| parts[i].clone()))
    }

    fn attend(&mut self, _: usize, heads: &Heads, [q, k, v]: [Tensor; 3]) -> Result<Tensor> {
        let turned = |x: Tensor| match &self.model.config.family {
            Family::Llama(llama) => turn(&x, &llama.rope),
            Family::Gpt2(_) | Family::Bert(_) => Ok(x),
        };
        let group = heads.heads / heads.kv_heads;
        let repeat = |x: Tensor| {
            let rows = (0..heads.heads).map(|h| x.narrow(0, h / group, 1));
            Tensor::cat(&rows.collect::<Result<Vec<Tensor>>>()?, 0)
        };
        let mut all = Vec::new();
        for span in self.batch.spans.iter() {
            let tokens = span.len();
            let split = |x: &Tensor, count: usize| {
                x.narrow(0, span.start, tokens)?
                    .reshape((tokens, count, heads.dim))?
                    .transpose(0, 1)?
                    .contiguous()
            };
            let q = turned(split(&q, heads.heads)?)?;
            let k = repeat(turned(split(&k, heads.kv_heads)?)?)?;
            let v = repeat(split(&v, heads.kv_heads)?)?;
            let mask = (0..tokens * tokens).map(|at| {
                let (row, column) = (at / tokens, at % tokens);
                let seen = heads.sight.of(row, tokens).contains(&column);
                if seen { 0.0f32 } else { -1e9 }
            });
            let mask = Tensor::from_vec(mask.collect(), (tokens, tokens), &Device::Cpu)?;
            let scores = (q.matmul(&k.t()?)? / (heads.dim as f64).sqrt())?;
            let p = candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
            let seen = p.matmul(&v)?.transpose(0, 1)?.contiguous()?;
            all.push(seen.reshape((tokens, heads.heads * heads.dim))?);
        }
        Tensor::cat(&all, 0)
    }

    fn swiglu(&mut self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        gate.silu()? * up
    }

    fn gelu(&mut self, x: &Tensor, form: Gelu) -> Result<Tensor> {
        match form {
            Gelu::Exact => x.gelu_erf(),
            Gelu::Tanh => x.gelu(),
        }
    }

    fn firsts(&mut self, x: &Tensor) -> Result<Tensor> {
        let rows = self.batch.spans.iter();
        let rows: Result<Vec<Tensor>> = rows.map(|span| x.narrow(0, span.start, 1)).collect();
        Tensor::cat(&rows?, 0)
    }

    fn tanh(&mut self, x: &Tensor) -> Result<Tensor> {
        x.tanh()
    }

    fn bottleneck(&mut self, y: Tensor, place: &str) -> Result<Tensor> {
        let adapter = self.moving.adapter();
        let Some((form, bottleneck)) = adapter.and_then(|adapter| adapter.behind(place)) else {
            return Ok(y);
        };
        let down = y.matmul(&bottleneck.down.t()?)?;
        let x = down.broadcast_add(&bottleneck.down_bias)?;
        let bent = match form {
            NonLinearity::Relu => x.maximum(0.0)?,
            NonLinearity::Gelu => x.gelu_erf()?,
            NonLinearity::Silu => (&x / (x.neg()?.exp()? + 1.0)?)?,
            NonLinearity::Tanh => {
                (((x * -2.0)?.exp()? + 1.0)?.recip()? * 2.0)?.affine(1.0, -1.0)?
            }
        };
        let up = bent.matmul(&bottleneck.up.t()?)?;
        (y + up)?.broadcast_add(&bottleneck.up_bias)
    }

    fn add(&mut self, x: Tensor, y: Tensor) -> Result<Tensor> {
        x + y
    }
}

/// The mean loss over the batch.
pub(crate) fn loss(model: &Model, batch: &Batch, moving: &Moving) -> Result<Tensor> {
    let tensor = |w: &Weight| Tensor::from_slice(w.values(), w.shape(), &Device::Cpu).unwrap();
    let weights = if let Moving::All(weights) = moving {
        weights.clone()
    } else {
        let tensors = model.tensors().into_iter();
        tensors.map(|(name, w)| (name, tensor(&w))).collect()
    };
    let config = model.config();
    let batch = &*moving.in_front(batch);
    let (head, bias) = match moving {
        Moving::Adapter(AdapterTensors {
            head: Some(head), ..
        }) => (head.weight.clone(), Some(head.bias.clone())),
        _ => (
            weights[config.head()].clone(),
            weights.get(HEAD_BIAS).cloned(),
        ),
    };
    let mut plain = Plain {
        model,
        batch,
        moving,
        weights,
    };
    let states = model.forward(&mut plain)?;
    let targets = Tensor::new(&batch.targets.tokens[..], &Device::Cpu)?;
    let mut logits = if config.labels.is_empty() {
        let rows = Tensor::new(&batch.targets.rows[..], &Device::Cpu)?;
        states.index_select(&rows, 0)?.matmul(&head.t()?)?
    } else {
        states.matmul(&head.t()?)?
    };
    if let Some(bias) = bias {
        logits = logits.broadcast_add(&bias)?;
    }
    candle_nn::loss::cross_entropy(&logits.to_dtype(DType::F32)?, &targets)
}
