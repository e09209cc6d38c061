//! The fused operations against the plain ones and against finite differences; decoding against the whole.

use std::collections::BTreeMap;

use candle_core::Tensor;
use conclave_protocol::charter::NonLinearity;
use conclave_protocol::names::Factor;

use super::loss;
use crate::learn::batch::Batch;
use crate::learn::data::Example;
use crate::learn::fixture::{adapter, attached, bert, bottleneck, gpt2, llama, prompt, tiny};
use crate::learn::flatten::Flat;
use crate::learn::model::Model;
use crate::learn::model::adapted::Moving;
use crate::learn::model::decode::Decoding;
use crate::learn::peft::{Adapter, Method, Prompt, uniform};
use crate::learn::weights::quantised::Precision;

/// Three examples: one scored in part, two longer than a block of attention's rows and about as long as each other.
fn examples() -> Vec<Example> {
    let make = |len: u32, step: u32, from: usize| Example {
        ids: (0..len).map(|i| (i * step + i * i) % 32).collect(),
        scored: (0..len as usize).map(|i| i >= from).collect(),
    };
    vec![make(9, 5, 4), make(80, 3, 1), make(70, 7, 1)]
}

/// Checks a model on the processor, and as if that were another device.
fn everywhere(model: Model, check: impl Fn(&Model)) {
    check(&model);
    check(&model.elsewhere(Precision::F32));
}

/// Mean loss and flat gradient by the operations that train, or by the plain ones.
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
    let (fused, score) = model.gradient(&batch, &moving, weight, false).unwrap();
    let slow = loss(model, &batch, &moving).unwrap();
    let f = score.nats / batch.scored() as f64;
    let s = f64::from(slow.to_scalar::<f32>().unwrap());
    assert!((f - s).abs() < 1e-5 * s.abs(), "loss {f}, {s} plain");
    assert_eq!(model.score(&batch, &moving).unwrap(), score);
    let slow = slow.backward().unwrap();
    let count = flat.layout().count(factor);
    let mut gradients = [vec![0.0; count], vec![0.0; count]];
    for (store, sum) in [&fused, &slow].iter().zip(&mut gradients) {
        assert_eq!(flat.add_gradients(&tensors, store, sum).unwrap(), None);
    }
    let mut begin = 0;
    for slot in flat.slots() {
        if !slot.belongs_to(factor) {
            let tensor = &tensors[&slot.name];
            let none = fused.get(tensor).is_none() && slow.get(tensor).is_none();
            assert!(none, "{} has a gradient and does not move", slot.name);
            continue;
        }
        let [f, s] = [0, 1].map(|i| &gradients[i][begin..begin + slot.range.len()]);
        begin += slot.range.len();
        let largest = s.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        assert!(largest > 0.0, "{} moves and has no gradient", slot.name);
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
    randomised(adapter(3, model))
}

fn randomised(adapter: Adapter) -> (Adapter, Vec<f32>) {
    let mut values = vec![0.0; adapter.flat().len()];
    uniform([9; 32], 0.3, &mut values);
    (adapter, values)
}

/// Bottlenecks of each non-linearity, and a soft prompt.
fn other_adapters(model: &Model) -> Vec<(Adapter, Vec<f32>)> {
    let bottlenecks = NonLinearity::ALL.map(|(_, non_linearity)| bottleneck(5, non_linearity));
    let methods = bottlenecks.into_iter().chain([prompt(6)]);
    let adapters = methods.map(|method| attached(method, model));
    adapters.map(randomised).collect()
}

#[test]
fn the_other_methods_have_the_plain_loss_and_gradients_and_decode_step_by_step() {
    for model in [
        tiny(true),
        llama(false, RELATIVES[3]),
        gpt2("gelu_new"),
        bert(true),
        bert(false),
    ] {
        everywhere(model, |model| {
            for (adapter, values) in other_adapters(model) {
                both(model, adapter.flat(), &values, Factor::All, |t| {
                    Moving::Adapter(adapter.bind(&t))
                });
                if !model.config().classifies() {
                    decodes_with(model, &adapter, &values);
                }
            }
        });
    }
}

#[test]
fn a_new_bottleneck_changes_nothing_and_a_prompt_reads_as_the_words_that_it_starts_from() {
    for model in [tiny(true), gpt2("gelu")] {
        let text = |ids: Vec<u32>, from: usize| {
            let scored = (0..ids.len()).map(|i| i >= from).collect();
            Batch::pack(&[Example { ids, scored }])
        };
        let nats = |batch: &Batch, adapter: Option<&Adapter>| {
            let moving = adapter.map_or(Moving::Nothing, |adapter| {
                let start = adapter.initial(&model);
                let tensors = adapter.flat().tensors(&start, |_| false).unwrap();
                Moving::Adapter(adapter.bind(&tensors))
            });
            model.score(batch, &moving).unwrap().nats
        };
        let (short, long) = (vec![9, 2, 7, 7, 30], vec![4, 8, 4, 9, 2, 7, 7, 30]);
        let base = nats(&text(short.clone(), 1), None);
        let adapter = attached(bottleneck(5, NonLinearity::Gelu), &model);
        assert_eq!(
            nats(&text(short.clone(), 1), Some(&adapter)).to_bits(),
            base.to_bits()
        );
        let start = Some(vec![4, 8]);
        let virtual_tokens = 3;
        let method = Method::Prompt(Prompt {
            virtual_tokens,
            start,
        });
        let adapter = attached(method, &model);
        let (soft, hard) = (
            nats(&text(short, 1), Some(&adapter)),
            nats(&text(long, 4), None),
        );
        assert!((soft - hard).abs() < 1e-5, "{soft} soft, {hard} as words");
        assert!((soft - base).abs() > 1e-3);
    }
}

#[test]
fn a_classifier_tells_labels_apart_behind_a_soft_prompt_as_it_trains() {
    let model = bert(true);
    for (adapter, values) in other_adapters(&model) {
        let tensors = adapter.flat().tensors(&values, |_| false).unwrap();
        let bound = adapter.bind(&tensors);
        let example = labelled().swap_remove(0);
        let (label, ids) = example.ids.split_last().unwrap();
        let moving = Moving::Adapter(bound);
        // The label stands behind the text when it is scored, and is not known otherwise.
        let logits = model.label_logits(&Batch::text(ids), &moving).unwrap();
        let logits = &logits[0];
        assert_eq!(logits.len(), 3);
        let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        let nats = sum.ln() - f64::from(logits[*label as usize]);
        let batch = Batch::pack([&example]);
        let score = model.score(&batch, &moving).unwrap();
        assert!(
            (score.nats - nats).abs() < 1e-4,
            "{} and {nats}",
            score.nats
        );
    }
}

#[test]
fn fused_lora_has_the_plain_loss_and_gradients() {
    for tied in [true, false] {
        everywhere(tiny(tied), |model| {
            let (adapter, values) = random_adapter(model);
            for factor in [Factor::A, Factor::B, Factor::All] {
                both(model, adapter.flat(), &values, factor, |t| {
                    Moving::Adapter(adapter.bind(&t))
                });
            }
        });
    }
}

#[test]
fn every_relative_of_llama_has_the_plain_loss_and_gradients() {
    for more in RELATIVES {
        everywhere(llama(false, more), |model| {
            let (adapter, values) = random_adapter(model);
            both(model, adapter.flat(), &values, Factor::All, |t| {
                Moving::Adapter(adapter.bind(&t))
            });
        });
    }
}

#[test]
fn gpt2_has_the_plain_loss_and_gradients() {
    for activation in ["gelu_new", "gelu"] {
        everywhere(gpt2(activation), |model| {
            let (adapter, values) = random_adapter(model);
            both(model, adapter.flat(), &values, Factor::All, |t| {
                Moving::Adapter(adapter.bind(&t))
            });
            decodes_as_the_whole(model);
        });
    }
    everywhere(gpt2("gelu_new"), all_weights);
}

/// Texts with a label behind each.
fn labelled() -> Vec<Example> {
    let mut examples = examples();
    for (example, label) in examples.iter_mut().zip([2, 0, 1]) {
        example.ids.push(label);
        example.scored.fill(false);
        example.scored.push(true);
    }
    examples
}

#[test]
fn bert_has_the_plain_loss_and_gradients() {
    for headed in [true, false] {
        everywhere(bert(headed), |model| {
            let (adapter, values) = random_adapter(model);
            let slots = adapter.flat().slots().iter();
            let head = slots.filter(|slot| slot.name.contains(".classifier."));
            assert_eq!(head.count(), 2);
            for factor in [Factor::A, Factor::B, Factor::All] {
                both(model, adapter.flat(), &values, factor, |t| {
                    Moving::Adapter(adapter.bind(&t))
                });
            }
        });
    }
    everywhere(bert(true), all_weights);
}

#[test]
fn free_weights_have_the_plain_loss_and_gradients() {
    for (tied, more) in [(true, ""), (false, ""), (true, RELATIVES[1])] {
        everywhere(llama(tied, more), all_weights);
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
    slopes_agree(&model, &adapter, &values);
    for (adapter, values) in other_adapters(&model) {
        slopes_agree(&model, &adapter, &values);
    }
}

fn slopes_agree(model: &Model, adapter: &Adapter, values: &[f32]) {
    let batch = Batch::pack(&examples());
    let score = |values: &[f32]| {
        let tensors = adapter.flat().tensors(values, |_| false).unwrap();
        let moving = Moving::Adapter(adapter.bind(&tensors));
        model.score(&batch, &moving).unwrap().nats
    };
    let tensors = adapter.flat().tensors(values, |_| true).unwrap();
    let moving = Moving::Adapter(adapter.bind(&tensors));
    let (store, _) = model.gradient(&batch, &moving, 1.0, false).unwrap();
    let mut gradient = vec![0.0; values.len()];
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
            let mut moved = values.to_vec();
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
    decodes_with(model, &adapter, &values);
}

fn decodes_with(model: &Model, adapter: &Adapter, values: &[f32]) {
    let tensors = adapter.flat().tensors(values, |_| false).unwrap();
    let bound = adapter.bind(&tensors);
    let ids: Vec<u32> = (0..40).map(|i| (i * 7 + 3) % 32).collect();
    let mut decoding = Decoding::new(model, Some(&bound));
    // Another text first, of which the beginning stays; then all is forgotten once.
    for kept in [2, 0] {
        decoding.extend_all(&[ids[0], ids[1], 30, 31]).unwrap();
        decoding.rewind(kept);
        assert_eq!(decoding.room(), adapter.room(model.config()) - kept);
        decoding.extend(&ids[kept..5]).unwrap();
        if kept > 0 {
            decoding.rewind(0);
        }
    }
    let mut nats = 0.0;
    for pair in ids[4..].windows(2).skip(1) {
        let logits = decoding.extend(&pair[..1]).unwrap();
        let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        nats += sum.ln() - f64::from(logits[pair[1] as usize]);
    }
    let mut scored = vec![false; 40];
    scored[6..].fill(true);
    let batch = Batch::pack(&[Example { ids, scored }]);
    let score = model.score(&batch, &Moving::Adapter(bound)).unwrap();
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
