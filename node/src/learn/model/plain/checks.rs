//! The fused operations against the plain ones and against finite differences; decoding against the whole.

use std::collections::BTreeMap;

use candle_core::Tensor;
use conclave_protocol::names::Factor;

use super::loss;
use crate::learn::batch::Batch;
use crate::learn::data::Example;
use crate::learn::fixture::{adapter, bert, gpt2, llama, tiny};
use crate::learn::flatten::Flat;
use crate::learn::model::decode::Decoding;
use crate::learn::model::{Model, Moving};
use crate::learn::peft::{Adapter, uniform};

/// Two examples, one scored in part, one longer than a block of attention's rows.
fn examples() -> Vec<Example> {
    let make = |len: u32, step: u32, from: usize| Example {
        ids: (0..len).map(|i| (i * step + i * i) % 32).collect(),
        scored: (0..len as usize).map(|i| i >= from).collect(),
    };
    vec![make(9, 5, 4), make(80, 3, 1)]
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

fn random_adapter(model: &Model) -> (Adapter, Vec<f32>) {
    let adapter = adapter(3, model);
    let mut values = vec![0.0; adapter.flat().len()];
    uniform([9; 32], 0.3, &mut values);
    (adapter, values)
}

#[test]
fn fused_lora_has_the_plain_loss_and_gradients() {
    for tied in [true, false] {
        let model = tiny(tied);
        let (adapter, values) = random_adapter(&model);
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
        let (adapter, values) = random_adapter(&model);
        both(&model, adapter.flat(), &values, Factor::All, |t| {
            Moving::Lora(adapter.bind(&t))
        });
    }
}

#[test]
fn gpt2_has_the_plain_loss_and_gradients() {
    for activation in ["gelu_new", "gelu"] {
        let model = gpt2(activation);
        let (adapter, values) = random_adapter(&model);
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
        let (adapter, values) = random_adapter(&model);
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
    let (adapter, values) = random_adapter(&model);
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
    let (adapter, values) = random_adapter(model);
    let tensors = adapter.flat().tensors(&values, |_| false).unwrap();
    let lora = adapter.bind(&tensors);
    let ids: Vec<u32> = (0..40).map(|i| (i * 7 + 3) % 32).collect();
    let mut decoding = Decoding::new(model, Some(&lora));
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
