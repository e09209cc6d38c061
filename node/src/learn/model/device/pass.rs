//! A pass through a model on a device.

use std::sync::Arc;

use candle_core::{D, Result, Tensor};
use conclave_protocol::charter::NonLinearity;

use super::attention::{Grids, attention};
use super::given::{again, given};
use super::text::Growth;
use super::{Map, OnDevice, head};
use crate::learn::dropout::Dropout;
use crate::learn::fused::head::Score;
use crate::learn::kernel::attention::Heads;
use crate::learn::kernel::gelu::Gelu;
use crate::learn::model::adapted::{Factors, Moving};
use crate::learn::model::carried::Carried;
use crate::learn::model::parts::{Index, Ops};
use crate::learn::weights::affine::Layout;

/// A batch on its way through a model on a device.
pub(in crate::learn::model) struct DevicePass<'a> {
    carried: Carried<'a>,
    there: &'a OnDevice,
    seen: Seen<'a>,
}

/// What the tokens see.
enum Seen<'a> {
    /// Others of their example.
    Examples(Arc<Grids>),
    /// What went through before.
    Text(Growth<'a>),
}

impl<'a> DevicePass<'a> {
    /// Examples, each by itself.
    pub(in crate::learn::model) fn new(carried: Carried<'a>, there: &'a OnDevice) -> Result<Self> {
        let (batch, heads) = (carried.batch, &carried.model.heads);
        let grids = Arc::new(Grids::new(&batch.spans, heads, &there.device)?);
        let seen = Seen::Examples(grids);
        Ok(Self {
            carried,
            there,
            seen,
        })
    }

    /// One text behind what went through before.
    pub(super) fn behind(carried: Carried<'a>, there: &'a OnDevice, growth: Growth<'a>) -> Self {
        let seen = Seen::Text(growth);
        Self {
            carried,
            there,
            seen,
        }
    }
}

impl DevicePass<'_> {
    /// `factor · Σ nll` over the scored tokens as a graph to differentiate, and the exact score.
    pub(in crate::learn::model) fn loss(mut self, factor: f32) -> Result<(Tensor, Score)> {
        let model = self.carried.model;
        let x = model.stack(&mut self)?;
        self.end_loss(&x, factor)
    }

    /// The same, given what leaves the last layer.
    pub(in crate::learn::model) fn end_loss(
        &mut self,
        x: &Tensor,
        factor: f32,
    ) -> Result<(Tensor, Score)> {
        let model = self.carried.model;
        let hidden = model.end(x, self)?;
        let targets = &self.carried.batch.targets;
        if model.config.classifies() {
            // An example's label stands behind its tokens, as its one target.
            let head = self.carried.label_head(|name| Ok(self.frozen(name)))?;
            return head.loss(&hidden, &targets.tokens, factor);
        }
        head::loss(&hidden, &self.tensor(model.config.head())?, targets, factor)
    }

    /// Of a classifier the logits of each example: `(examples, labels)`.
    pub(in crate::learn::model) fn label_logits(mut self) -> Result<Tensor> {
        let hidden = self.carried.model.forward(&mut self)?;
        let head = self.carried.label_head(|name| Ok(self.frozen(name)))?;
        head.logits(&hidden)
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        self.carried.tensor(name, |name| Ok(self.frozen(name)))
    }

    fn frozen(&self, name: &str) -> Tensor {
        self.there.tensors[name].clone()
    }
}

impl Ops for DevicePass<'_> {
    type Rows = Tensor;

    fn embed(&mut self, table: &str, index: Index) -> Result<Tensor> {
        self.carried.looked_up(table, index, &self.there.device)
    }

    fn linear(&mut self, x: &Tensor, module: &str) -> Result<Tensor> {
        let map = self.there.maps[module].clone();
        if let Moving::All(weights) = self.carried.moving {
            let weight = &weights[&format!("{module}.weight")];
            let y = match map.layout {
                Layout::OutIn => free(x, weight)?,
                Layout::InOut => x.matmul(weight)?,
            };
            return match weights.get(&format!("{module}.bias")) {
                None => Ok(y),
                Some(bias) => y.broadcast_add(bias),
            };
        }
        let adapter = self.carried.moving.adapter();
        match adapter.and_then(|adapter| adapter.beside(module)) {
            None => frozen(x, map),
            Some((factors, dropout)) => lora(
                x,
                map,
                factors,
                dropout.map(|all| (all.clone(), module.to_owned())),
            ),
        }
    }

    fn rms_norm(&mut self, x: &Tensor, module: &str, eps: f32) -> Result<Tensor> {
        let weight = self.tensor(&format!("{module}.weight"))?;
        again([x, &weight], move |inputs| {
            let &[x, weight] = inputs else {
                candle_core::bail!("a norm has two inputs");
            };
            let rows = x.reshape(((), weight.elem_count()))?;
            let mean = rows.sqr()?.mean_keepdim(D::Minus1)?;
            rows.broadcast_div(&(mean + f64::from(eps))?.sqrt()?)?
                .broadcast_mul(weight)?
                .reshape(x.shape())
        })
    }

    fn layer_norm(&mut self, x: &Tensor, module: &str, eps: f32) -> Result<Tensor> {
        let weight = self.tensor(&format!("{module}.weight"))?;
        let bias = self.tensor(&format!("{module}.bias"))?;
        again([x, &weight, &bias], move |inputs| {
            let &[x, weight, bias] = inputs else {
                candle_core::bail!("a norm has three inputs");
            };
            let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
            let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
            centred
                .broadcast_div(&(variance + f64::from(eps))?.sqrt()?)?
                .broadcast_mul(weight)?
                .broadcast_add(bias)
        })
    }

    fn thirds(&mut self, x: &Tensor) -> Result<[Tensor; 3]> {
        let width = x.dim(1)? / 3;
        let third = |i: usize| x.narrow(1, i * width, width)?.contiguous();
        Ok([third(0)?, third(1)?, third(2)?])
    }

    fn attend(&mut self, layer: usize, heads: &Heads, [q, k, v]: [Tensor; 3]) -> Result<Tensor> {
        let qkv = [&q, &k, &v];
        match &mut self.seen {
            Seen::Examples(grids) => attention(qkv, heads, grids),
            Seen::Text(growth) => growth.attention(layer, qkv, heads),
        }
    }

    fn swiglu(&mut self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        again([gate, up], |inputs| inputs[0].silu()? * inputs[1])
    }

    fn gelu(&mut self, x: &Tensor, form: Gelu) -> Result<Tensor> {
        again([x], move |inputs| gelu(inputs[0], form))
    }

    fn firsts(&mut self, x: &Tensor) -> Result<Tensor> {
        let firsts = self.carried.batch.firsts()?.to_device(&self.there.device)?;
        x.index_select(&firsts, 0)
    }

    fn tanh(&mut self, x: &Tensor) -> Result<Tensor> {
        x.tanh()
    }

    fn bottleneck(&mut self, y: Tensor, place: &str) -> Result<Tensor> {
        let adapter = self.carried.moving.adapter();
        let Some((form, bottleneck)) = adapter.and_then(|adapter| adapter.behind(place)) else {
            return Ok(y);
        };
        let down = free(&y, &bottleneck.down)?.broadcast_add(&bottleneck.down_bias)?;
        let bent = match form {
            NonLinearity::Relu => down.relu(),
            NonLinearity::Gelu => gelu(&down, Gelu::Exact),
            NonLinearity::Silu => down.silu(),
            NonLinearity::Tanh => down.tanh(),
        };
        y + free(&bent?, &bottleneck.up)?.broadcast_add(&bottleneck.up_bias)?
    }

    fn add(&mut self, x: Tensor, y: Tensor) -> Result<Tensor> {
        x + y
    }
}

/// `x · Wᵀ + b`, without a gradient of `W`.
fn frozen(x: &Tensor, map: Map) -> Result<Tensor> {
    let value = map.apply(&x.detach())?;
    given([x], value, move |_, dy| Ok(vec![Some(map.apply_back(dy)?)]))
}

/// `x · Wᵀ + b + scale · (x · Aᵀ) · Bᵀ`, of which nothing but the sum is kept; what goes into the factors without what
/// is dropped in this place, which is drawn again for the gradient.
fn lora(
    x: &Tensor,
    map: Map,
    Factors { a, b, scale }: &Factors,
    dropped: Option<(Dropout, String)>,
) -> Result<Tensor> {
    let scale = f64::from(*scale);
    let mask = move |x: &Tensor| {
        let mask = dropped.as_ref().map(|(all, place)| all.mask(x, place));
        mask.transpose()
    };
    let masked = |x: &Tensor, mask: &Option<Tensor>| match mask {
        None => Ok(x.clone()),
        Some(mask) => x * mask,
    };
    let kept = masked(&x.detach(), &mask(x)?)?;
    let side = free(&free(&kept, &a.detach())?, &b.detach())?;
    let value = (map.apply(&x.detach())? + (side * scale)?)?;
    let [x_wanted, a_wanted, b_wanted] = [x, a, b].map(Tensor::track_op);
    given([x, a, b], value, move |inputs, dy| {
        let still: Vec<Tensor> = inputs.iter().map(|input| input.detach()).collect();
        let [x, a, b] = still.as_slice() else {
            candle_core::bail!("LoRA has three inputs, not {}", inputs.len());
        };
        let mask = mask(x)?;
        let kept = masked(x, &mask)?;
        let dy_scaled = (dy * scale)?;
        let d_hidden = dy_scaled.matmul(b)?;
        let of_x = || map.apply_back(dy)? + masked(&d_hidden.matmul(a)?, &mask)?;
        let of_a = || d_hidden.t()?.matmul(&kept);
        let of_b = || dy_scaled.t()?.matmul(&free(&kept, a)?);
        Ok(vec![
            x_wanted.then(of_x).transpose()?,
            a_wanted.then(of_a).transpose()?,
            b_wanted.then(of_b).transpose()?,
        ])
    })
}

/// `x · Wᵀ` where the weight `(out, in)` moves.
fn free(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)
}

fn gelu(x: &Tensor, form: Gelu) -> Result<Tensor> {
    match form {
        Gelu::Exact => x.gelu_erf(),
        Gelu::Tanh => x.gelu(),
    }
}
