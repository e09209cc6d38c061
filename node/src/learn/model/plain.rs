//! The same model from candle's own differentiable operations: slow, and what the fused ones are checked against.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Result, Tensor};
use conclave_protocol::names::Factor;

use super::bert::HEAD_BIAS;
use super::config::Family;
use super::parts::{Index, Ops};
use super::rope::Rope;
use super::{LoraTensors, Model, Moving};
use crate::learn::batch::Batch;
use crate::learn::data::Example;
use crate::learn::fixture::{bert, gpt2, llama, tiny};
use crate::learn::flatten::Flat;
use crate::learn::kernel::attention::Heads;
use crate::learn::kernel::gelu::Gelu;
use crate::learn::peft::{Adapter, AdapterSpec, uniform};
use crate::learn::weights::Weight;
use crate::learn::weights::affine::Layout;

/// Two examples, one scored in part, one longer than a block of attention's rows.
pub(crate) fn examples() -> Vec<Example> {
    let make = |len: u32, step: u32, from: usize| Example {
        ids: (0..len).map(|i| (i * step + i * i) % 32).collect(),
        scored: (0..len as usize).map(|i| i >= from).collect(),
    };
    vec![make(9, 5, 4), make(80, 3, 1)]
}

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
        let ids = match index {
            Index::Token => self.batch.ids.clone(),
            Index::Position => self.batch.positions(),
            Index::First => vec![0; self.batch.ids.len()],
        };
        self.weights[table].index_select(&Tensor::new(&ids[..], &Device::Cpu)?, 0)
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
        let Moving::Lora(lora) = self.moving else {
            return Ok(y);
        };
        match lora.factors.get(module) {
            Some((a, b)) => y + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * f64::from(lora.scale))?,
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
    let (head, bias) = match moving {
        Moving::Lora(LoraTensors {
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

/// Mean loss and flat gradient by the fused operations or the plain ones.
fn both(
    model: &Model,
    flat: &Flat,
    values: &[f32],
    factor: Factor,
    bind: impl Fn(BTreeMap<String, Tensor>) -> Moving,
) {
    let batch = if model.config().labels.is_empty() {
        Batch::pack(&examples())
    } else {
        Batch::pack(&labelled())
    };
    let tensors = flat
        .tensors(values, |slot| slot.belongs_to(factor))
        .unwrap();
    let moving = bind(tensors.clone());
    let weight = 1.0 / batch.scored() as f32;
    let (fused, score) = model.loss(&batch, &moving, weight).unwrap();
    let slow = loss(model, &batch, &moving).unwrap();
    let (f, s) = (
        fused.to_scalar::<f32>().unwrap(),
        slow.to_scalar::<f32>().unwrap(),
    );
    assert!((f - s).abs() < 1e-5 * s.abs(), "loss {f} fused, {s} plain");
    assert!((score.nats / batch.scored() as f64 - f64::from(s)).abs() < 1e-5 * f64::from(s));
    let mut gradients = [vec![0.0; flat.len()], vec![0.0; flat.len()]];
    for (loss, sum) in [fused, slow].iter().zip(&mut gradients) {
        let store = loss.backward().unwrap();
        assert_eq!(flat.add_gradients(&tensors, &store, sum).unwrap(), None);
    }
    for slot in flat.slots() {
        let [f, s] = [0, 1].map(|i| &gradients[i][slot.range.clone()]);
        let largest = s.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        let moved = slot.belongs_to(factor);
        assert_eq!(
            largest > 0.0,
            moved,
            "{} has a gradient exactly if it moves",
            slot.name
        );
        for (f, s) in f.iter().zip(s) {
            assert!(
                (f - s).abs() <= 1e-5 * largest.max(1.0),
                "{}: {f} fused, {s} plain",
                slot.name
            );
        }
    }
}

fn adapter(model: &Model) -> (Adapter, Vec<f32>) {
    let spec = AdapterSpec {
        r: 3,
        alpha: 6,
        targets: "all-linear".parse().unwrap(),
        seed: 1,
    };
    let adapter = Adapter::new(spec, model.config()).unwrap();
    let mut values = vec![0.0; adapter.flat().len()];
    uniform([9; 32], 0.3, &mut values);
    (adapter, values)
}

#[test]
fn fused_lora_has_the_plain_loss_and_gradients() {
    for tied in [true, false] {
        let model = tiny(tied);
        let (adapter, values) = adapter(&model);
        for factor in [Factor::A, Factor::B, Factor::All] {
            both(&model, adapter.flat(), &values, factor, |t| {
                Moving::Lora(adapter.bind(&t))
            });
        }
    }
}

#[test]
fn every_relative_of_llama_has_the_plain_loss_and_gradients() {
    for more in RELATIVES {
        let model = llama(false, more);
        let (adapter, values) = adapter(&model);
        both(&model, adapter.flat(), &values, Factor::All, |t| {
            Moving::Lora(adapter.bind(&t))
        });
    }
}

#[test]
fn gpt2_has_the_plain_loss_and_gradients() {
    for activation in ["gelu_new", "gelu"] {
        let model = gpt2(activation);
        let (adapter, values) = adapter(&model);
        both(&model, adapter.flat(), &values, Factor::All, |t| {
            Moving::Lora(adapter.bind(&t))
        });
        decodes_as_the_whole(&model);
    }
    all_weights(&gpt2("gelu_new"));
}

/// Two texts with a label behind each.
fn labelled() -> Vec<Example> {
    let mut examples = examples();
    for (example, label) in examples.iter_mut().zip([2, 0]) {
        example.ids.push(label);
        example.scored.fill(false);
        example.scored.push(true);
    }
    examples
}

#[test]
fn bert_has_the_plain_loss_and_gradients() {
    for headed in [true, false] {
        let model = bert(headed);
        let (adapter, values) = adapter(&model);
        let slots = adapter.flat().slots().iter();
        let head = slots.filter(|slot| slot.name.contains(".classifier."));
        assert_eq!(head.count(), 2);
        for factor in [Factor::A, Factor::B, Factor::All] {
            both(&model, adapter.flat(), &values, factor, |t| {
                Moving::Lora(adapter.bind(&t))
            });
        }
    }
    all_weights(&bert(true));
}

#[test]
fn free_weights_have_the_plain_loss_and_gradients() {
    for (tied, more) in [(true, ""), (false, ""), (true, RELATIVES[1])] {
        all_weights(&llama(tied, more));
    }
}

fn all_weights(model: &Model) {
    let tensors = model.tensors();
    let flat = Flat::new(tensors.iter().map(|(n, w)| (n.clone(), w.shape().to_vec())));
    let values: Vec<f32> = flat
        .slots()
        .iter()
        .flat_map(|s| tensors[&s.name].values().to_vec())
        .collect();
    both(model, &flat, &values, Factor::All, Moving::All);
}

#[test]
fn every_gradient_equals_finite_differences() {
    let model = tiny(true);
    let (adapter, values) = adapter(&model);
    let batch = Batch::pack(&examples());
    let score = |values: &[f32]| {
        let tensors = adapter.flat().tensors(values, |_| false).unwrap();
        let moving = Moving::Lora(adapter.bind(&tensors));
        model.loss(&batch, &moving, 1.0).unwrap().1.nats
    };
    let tensors = adapter.flat().tensors(&values, |_| true).unwrap();
    let moving = Moving::Lora(adapter.bind(&tensors));
    let (loss, _) = model.loss(&batch, &moving, 1.0).unwrap();
    let mut gradient = vec![0.0; values.len()];
    let store = loss.backward().unwrap();
    assert_eq!(
        adapter
            .flat()
            .add_gradients(&tensors, &store, &mut gradient)
            .unwrap(),
        None
    );
    for slot in adapter.flat().slots() {
        // Along the tensor's own gradient, where the slope is steepest.
        let g = &gradient[slot.range.clone()];
        let norm = g.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(norm > 1e-3, "{} has a gradient", slot.name);
        let at = |step: f32| {
            let mut moved = values.clone();
            for (x, g) in moved[slot.range.clone()].iter_mut().zip(g) {
                *x += step * g / norm;
            }
            score(&moved)
        };
        let slope = (at(2e-3) - at(-2e-3)) / 4e-3;
        let error = (slope - f64::from(norm)).abs() / f64::from(norm);
        assert!(
            error < 1e-2,
            "{}: slope {slope}, gradient {norm}",
            slot.name
        );
    }
}

#[test]
fn decoding_step_by_step_gives_the_logits_of_the_whole() {
    for more in RELATIVES {
        decodes_as_the_whole(&llama(false, more));
    }
}

fn decodes_as_the_whole(model: &Model) {
    let (adapter, values) = adapter(model);
    let tensors = adapter.flat().tensors(&values, |_| false).unwrap();
    let lora = adapter.bind(&tensors);
    let ids: Vec<u32> = (0..40).map(|i| (i * 7 + 3) % 32).collect();
    let mut decoding = super::decode::Decoding::new(model, Some(&lora));
    decoding.extend(&ids[..5]);
    let mut nats = 0.0;
    for pair in ids[4..].windows(2).skip(1) {
        let logits = decoding.extend(&pair[..1]);
        let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        nats += sum.ln() - f64::from(logits[pair[1] as usize]);
    }
    let mut scored = vec![false; 40];
    scored[6..].fill(true);
    let batch = Batch::pack(&[Example { ids, scored }]);
    let (_, score) = model.loss(&batch, &Moving::Lora(lora), 1.0).unwrap();
    assert!(
        (score.nats - nats).abs() < 1e-3,
        "{} packed, {nats} step by step",
        score.nats
    );
}

/// Llama's biases, Qwen2, Qwen3 with heads wider than the model has room for, Mistral, stretched rotary positions.
const RELATIVES: [&str; 6] = [
    r#", "attention_bias": true, "mlp_bias": true"#,
    r#", "model_type": "qwen2""#,
    r#", "model_type": "qwen3", "head_dim": 8"#,
    r#", "model_type": "mistral", "sliding_window": 5"#,
    r#", "model_type": "qwen2", "use_sliding_window": true, "sliding_window": 70, "max_window_layers": 1"#,
    r#", "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}"#,
];
