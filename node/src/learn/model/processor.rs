//! The forward pass for training and scoring on the processor: a packed row of tokens over a tape of fused operations.

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var};
use conclave_protocol::charter::NonLinearity;

use super::Model;
use super::adapted::{Factors, Moving};
use super::carried::Carried;
use super::labels::LabelHead;
use super::parts::{Index, Ops};
use crate::learn::fused::head::{Matrix, Score};
use crate::learn::fused::linear::Free;
use crate::learn::fused::{Values, attention, each, layer_norm, linear, norm, rows, swiglu};
use crate::learn::kernel::attention::Heads;
use crate::learn::kernel::elementwise::sigmoid;
use crate::learn::kernel::gelu::Gelu;
use crate::learn::tape::{Rows, Tape};
use crate::learn::weights::affine::Layout;

/// A batch on its way through a model on the processor.
pub(super) struct ProcessorPass<'a> {
    carried: Carried<'a>,
    tape: Tape,
}

impl<'a> ProcessorPass<'a> {
    pub(super) fn new(carried: Carried<'a>) -> Self {
        let tape = Tape::default();
        Self { carried, tape }
    }

    /// The exact score.
    pub(super) fn score(mut self) -> Result<Score> {
        let model = self.carried.model;
        let x = model.stack(&mut self)?;
        self.end(x, 1.0)
    }

    /// The gradient by what moves, and the exact score; layer by layer if the layers are to be computed `again`.
    pub(super) fn gradient(mut self, factor: f32, again: bool) -> Result<(GradStore, Score)> {
        let model = self.carried.model;
        let score = if again {
            self.layer_by_layer(factor)?
        } else {
            let x = model.stack(&mut self)?;
            self.end(x, factor)?
        };
        Ok((self.tape.finish()?, score))
    }

    fn layer_by_layer(&mut self, factor: f32) -> Result<Score> {
        let model = self.carried.model;
        let mut x = model.begin(self)?;
        let begun = self.tape.mark();
        let mut inputs = Vec::with_capacity(model.config.layers);
        for layer in 0..model.config.layers {
            inputs.push(x.clone());
            x = model.layer(layer, x, self)?;
            self.tape.forget(begun);
        }
        let x = self.tape.leaf(&x);
        let place = x.place();
        let score = self.end(x, factor)?;
        self.tape.back(begun)?;
        let mut above = place.and_then(|place| self.tape.gradients().take(place));
        for (layer, input) in inputs.into_iter().enumerate().rev() {
            let Some(gradient) = above.take() else { break };
            // What enters the first layer is on the tape itself, where anything moves there.
            let x = if layer == 0 {
                input
            } else {
                self.tape.leaf(&input)
            };
            let place = x.place();
            let y = model.layer(layer, x, self)?.place();
            self.tape.gradients().add(y, gradient);
            self.tape.back(begun)?;
            above = place
                .filter(|_| layer > 0)
                .and_then(|place| self.tape.gradients().take(place));
        }
        Ok(score)
    }

    /// The score, given what leaves the last layer; the gradient of `factor · Σ nll` begins its way back.
    fn end(&mut self, x: Rows, factor: f32) -> Result<Score> {
        let model = self.carried.model;
        let hidden = model.end(&x, self)?;
        drop(x);
        let targets = self.carried.batch.targets.clone();
        if model.config.classifies() {
            // An example's label stands behind its tokens, as its one target.
            return self.label_score(&hidden, &targets.tokens, factor);
        }
        let wanted = hidden.place().is_some();
        let (score, dx) = match self.carried.moving {
            Moving::All(weights) => {
                let head = &weights[model.config.head()];
                let matrix = Matrix::Free(&Values::of(head)?, head.dims2()?.into());
                let wanted = [wanted, head.is_variable()];
                let (score, found) = matrix.score(&hidden, &targets, factor, wanted);
                if head.is_variable() {
                    self.tape.gradients().add_moving(head, found.weight)?;
                }
                (score, found.x)
            }
            Moving::Nothing | Moving::Adapter(_) => {
                let matrix = Matrix::Frozen(model.output_head());
                let (score, found) = matrix.score(&hidden, &targets, factor, [wanted, false]);
                (score, found.x)
            }
        };
        self.tape.gradients().add(hidden.place(), dx);
        Ok(score)
    }

    /// The same for a classifier, of which candle finds the head's gradients.
    fn label_score(&mut self, hidden: &Rows, labels: &[u32], factor: f32) -> Result<Score> {
        let head = self.label_head()?;
        let shape = (hidden.len() / hidden.width(), hidden.width());
        let rows = Var::from_slice(hidden, shape, &Device::Cpu)?;
        let (loss, score) = head.loss(rows.as_tensor(), labels, factor)?;
        let moves = head.weight.is_variable() || head.bias.is_variable();
        if moves || hidden.place().is_some() {
            let mut found = loss.backward()?;
            if let Some(dx) = found.remove(&rows) {
                let dx = dx.flatten_all()?.to_vec1::<f32>()?;
                self.tape.gradients().add(hidden.place(), dx);
            }
            self.tape.gradients().add_all(found)?;
        }
        Ok(score)
    }

    /// Of a classifier the logits of each example: `(examples, labels)`.
    pub(super) fn label_logits(mut self) -> Result<Tensor> {
        let hidden = self.carried.model.forward(&mut self)?;
        let shape = (hidden.len() / hidden.width(), hidden.width());
        let rows = Tensor::from_slice(&hidden, shape, &Device::Cpu)?;
        self.label_head()?.logits(&rows)
    }

    fn label_head(&self) -> Result<LabelHead> {
        let model = self.carried.model;
        self.carried.label_head(|name| frozen(model, name))
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let model = self.carried.model;
        self.carried.tensor(name, |name| frozen(model, name))
    }
}

/// A frozen tensor of the model.
fn frozen(model: &Model, name: &str) -> Result<Tensor> {
    let weight = model.weight(name);
    Tensor::from_slice(weight.values(), weight.shape(), &Device::Cpu)
}

/// A matrix as torch stores it, without more.
fn plain(weight: &Tensor) -> Free<'_> {
    Free {
        weight,
        layout: Layout::OutIn,
        bias: None,
        scale: 1.0,
    }
}

impl Ops for ProcessorPass<'_> {
    type Rows = Rows;

    fn embed(&mut self, table: &str, index: Index) -> Result<Rows> {
        let y = self.carried.looked_up(table, index, &Device::Cpu)?;
        let (shape, values) = (y.dims2()?, y.flatten_all()?.to_vec1()?);
        let wanted = y.track_op();
        Ok(self
            .tape
            .record(values, shape.1, wanted, move |dy, gradients| {
                let dy = Tensor::from_slice(&dy, shape, &Device::Cpu)?;
                let mut found = (y * &dy)?.backward()?;
                found.remove(&dy);
                gradients.add_all(found)
            }))
    }

    fn linear(&mut self, x: &Rows, module: &str) -> Result<Rows> {
        let Carried { model, moving, .. } = self.carried;
        let (map, tape) = (model.map(module), &mut self.tape);
        if let Moving::All(weights) = moving {
            let free = Free {
                weight: &weights[&format!("{module}.weight")],
                layout: map.layout(),
                bias: weights.get(&format!("{module}.bias")),
                scale: 1.0,
            };
            return linear::free(tape, x, &free);
        }
        match moving.adapter().and_then(|adapter| adapter.beside(module)) {
            None => Ok(linear::frozen(tape, x, map)),
            Some((Factors { a, b, scale }, None)) => linear::lora(tape, x, map, [a, b], *scale),
            Some((Factors { a, b, scale }, Some(dropout))) => {
                let kept = each::weighed(tape, x, dropout.factors(x.len(), module));
                let side = linear::free(tape, &kept, &plain(a))?;
                let scale = *scale;
                let side = linear::free(tape, &side, &Free { scale, ..plain(b) })?;
                let y = linear::frozen(tape, x, map);
                Ok(rows::add(tape, y, side))
            }
        }
    }

    fn rms_norm(&mut self, x: &Rows, module: &str, eps: f32) -> Result<Rows> {
        let weight = self.tensor(&format!("{module}.weight"))?;
        norm::norm(&mut self.tape, x, &weight, eps)
    }

    fn layer_norm(&mut self, x: &Rows, module: &str, eps: f32) -> Result<Rows> {
        let weight = self.tensor(&format!("{module}.weight"))?;
        let bias = self.tensor(&format!("{module}.bias"))?;
        layer_norm::layer_norm(&mut self.tape, x, [&weight, &bias], eps)
    }

    fn thirds(&mut self, x: &Rows) -> Result<[Rows; 3]> {
        Ok(rows::thirds(&mut self.tape, x))
    }

    fn attend(&mut self, _: usize, heads: &Heads, qkv: [Rows; 3]) -> Result<Rows> {
        let spans = &self.carried.batch.spans;
        Ok(attention::attention(&mut self.tape, qkv, heads, spans))
    }

    fn swiglu(&mut self, gate: &Rows, up: &Rows) -> Result<Rows> {
        Ok(swiglu::swiglu(&mut self.tape, gate, up))
    }

    fn gelu(&mut self, x: &Rows, form: Gelu) -> Result<Rows> {
        Ok(each::gelu(&mut self.tape, x, form))
    }

    fn firsts(&mut self, x: &Rows) -> Result<Rows> {
        let starts = self.carried.batch.spans.iter().map(|span| span.start);
        Ok(rows::select(&mut self.tape, x, starts.collect()))
    }

    fn tanh(&mut self, x: &Rows) -> Result<Rows> {
        let slope = |x: f32| 1.0 - x.tanh().powi(2);
        Ok(each::each(&mut self.tape, x, f32::tanh, slope))
    }

    fn bottleneck(&mut self, y: Rows, place: &str) -> Result<Rows> {
        let adapter = self.carried.moving.adapter();
        let Some((form, bottleneck)) = adapter.and_then(|adapter| adapter.behind(place)) else {
            return Ok(y);
        };
        let tape = &mut self.tape;
        let down = Free {
            bias: Some(&bottleneck.down_bias),
            ..plain(&bottleneck.down)
        };
        let x = linear::free(tape, &y, &down)?;
        let bent = match form {
            NonLinearity::Relu => {
                let slope = |x| if x > 0.0 { 1.0 } else { 0.0 };
                each::each(tape, &x, |x| x.max(0.0), slope)
            }
            NonLinearity::Gelu => each::gelu(tape, &x, Gelu::Exact),
            NonLinearity::Silu => {
                let slope = |x| {
                    let s = sigmoid(x);
                    s * (1.0 + x * (1.0 - s))
                };
                each::each(tape, &x, |x| x * sigmoid(x), slope)
            }
            NonLinearity::Tanh => self.tanh(&x)?,
        };
        let up = Free {
            bias: Some(&bottleneck.up_bias),
            ..plain(&bottleneck.up)
        };
        let side = linear::free(&mut self.tape, &bent, &up)?;
        self.add(y, side)
    }

    fn add(&mut self, x: Rows, y: Rows) -> Result<Rows> {
        Ok(rows::add(&mut self.tape, x, y))
    }
}
