//! Texts in the making and chosen labels on a device against those on the processor, for each family, adapter and
//! precision that the processor can stand in for.

use std::path::Path;

use conclave_protocol::charter::NonLinearity;

use crate::learn::batch::Batch;
use crate::learn::choose::choose;
use crate::learn::data::Example;
use crate::learn::dropout::Dropout;
use crate::learn::export::write_model;
use crate::learn::fixture::{adapter, attached, bottleneck, filled_up_to, prompt};
use crate::learn::model::Model;
use crate::learn::model::adapted::{AdapterTensors, MethodTensors, Moving};
use crate::learn::model::config::Config;
use crate::learn::model::decode::Decoding;
use crate::learn::peft::{Adapter, uniform};
use crate::learn::sample::likeliest;
use crate::learn::weights::quantised::Precision;

/// Widths of 256 and 32: with four bits some maps are in blocks of 256, others in blocks of 32. Grouped queries.
fn llama(more: &str) -> String {
    format!(
        r#"{{"hidden_size": 256, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 32, "max_position_embeddings": 160, "bos_token_id": 0,
        "eos_token_id": 1{more}}}"#
    )
}

fn bert(more: &str) -> String {
    format!(
        r#"{{"model_type": "bert", "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 32, "max_position_embeddings": 160, "vocab_size": 32{more}}}"#
    )
}

const GPT2: &str = r#"{"model_type": "gpt2", "n_embd": 256, "n_layer": 2, "n_head": 4, "n_positions": 160,
    "vocab_size": 32, "n_inner": 32, "activation_function": "gelu_new", "bos_token_id": 0, "eos_token_id": 1}"#;

/// The model as the processor has it, and as if the processor were another device, with each kind of adapter and none.
fn everywhere(text: &str, check: impl Fn([&Model; 2], Option<&AdapterTensors>, &str)) {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::parse(text, Path::new("config.json")).unwrap();
    let bare = config.classifies() && config.outputs() == 0;
    // Larger ones would sharpen attention, and rounding would show.
    write_model(folder.path(), &filled_up_to(0.1, config)).unwrap();
    for precision in [Precision::F32, Precision::Q8, Precision::Q4] {
        let open = || {
            let mut model = Model::open_at(folder.path(), precision).unwrap();
            if bare {
                let labels = ["a", "b", "c"].map(str::to_owned);
                model.set_labels(labels.to_vec()).unwrap();
            }
            model
        };
        let (here, there) = (open(), open().elsewhere(precision));
        let bottlenecks = NonLinearity::ALL.map(|(_, form)| attached(bottleneck(5, form), &here));
        // What stands behind a sublayer knows nothing of the precision.
        let bottlenecks = bottlenecks
            .into_iter()
            .take(if precision == Precision::F32 { 4 } else { 1 });
        let adapters = [adapter(3, &here), attached(prompt(6), &here)];
        let adapters: Vec<Adapter> = adapters.into_iter().chain(bottlenecks).collect();
        let bound = adapters.iter().map(|adapter| {
            let mut values = vec![0.0; adapter.flat().len()];
            uniform([9; 32], 0.3, &mut values);
            adapter.bind(&adapter.flat().tensors(&values, |_| false).unwrap())
        });
        for bound in bound.map(Some).chain((!bare).then_some(None)) {
            let method = match bound.as_ref().map(|bound| &bound.method) {
                None => "nothing".to_owned(),
                Some(MethodTensors::Lora(_)) => "LoRA".to_owned(),
                Some(MethodTensors::Bottleneck(all)) => format!("{:?}", all.non_linearity),
                Some(MethodTensors::Prompt(_)) => "a prompt".to_owned(),
            };
            let what = format!("{text}, {precision:?}, {method}");
            check([&here, &there], bound.as_ref(), &what);
        }
    }
}

fn close(here: &[f32], there: &[f32], what: &str) {
    assert_eq!(here.len(), there.len(), "{what}");
    let largest = here.iter().fold(1.0f32, |most, x| most.max(x.abs()));
    for (here, there) in here.iter().zip(there) {
        let apart = (here - there).abs();
        assert!(apart <= 1e-5 * largest, "{what}: {here} and {there}");
    }
}

#[test]
fn texts_grow_on_a_device_as_they_do_on_the_processor() {
    for config in [
        llama(r#", "tie_word_embeddings": true"#),
        llama(r#", "attention_bias": true, "mlp_bias": true"#),
        llama(r#", "model_type": "qwen2""#),
        llama(r#", "model_type": "qwen3", "head_dim": 32"#),
        llama(r#", "model_type": "mistral", "sliding_window": 5"#),
        llama(
            r#", "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}"#,
        ),
        GPT2.to_owned(),
    ] {
        everywhere(&config, |models, adapter, what| {
            let mut texts = models.map(|model| Decoding::new(model, adapter));
            let mut both = |ids: &[u32], each: bool, kept: Option<usize>| {
                let [here, there] = texts.each_mut().map(|text| {
                    if let Some(kept) = kept {
                        text.rewind(kept);
                    }
                    let logits = if each {
                        text.extend_all(ids)
                    } else {
                        text.extend(ids)
                    };
                    logits.unwrap()
                });
                close(&here, &there, what);
                assert_eq!(likeliest(&here), likeliest(&there), "{what}");
                here
            };
            // So long that it goes through in parts.
            let ids: Vec<u32> = (0..100).map(|i| (i * 7 + i * i + 3) % 32).collect();
            assert_eq!(both(&ids[..3], true, None).len(), 3 * 32);
            let mut logits = both(&ids, false, Some(0));
            for _ in 0..4 {
                logits = both(&[likeliest(&logits)], false, None);
            }
            both(&ids[..9], true, Some(71));
            both(&ids[60..], true, Some(2));
            both(&ids[..1], false, Some(0));
            let rooms = texts.each_ref().map(Decoding::room);
            assert_eq!(rooms[0], rooms[1], "{what}");
            let choices = [vec![3, 1], vec![4, 5, 1], vec![6]];
            for prompt in ids.chunks(20).take(2) {
                let [here, there] = texts
                    .each_mut()
                    .map(|text| choose(text, prompt, &choices).unwrap());
                assert_eq!(here, there, "{what}");
            }
        });
    }
}

#[test]
fn what_is_dropped_is_drawn_again_for_the_gradient_on_a_device() {
    let example = |len: u32| Example {
        ids: (0..len).map(|i| (i * 5 + i * i) % 32).collect(),
        scored: (0..len).map(|i| i > 2).collect(),
    };
    let batch = Batch::pack(&[example(9), example(40)]);
    for config in [llama(""), GPT2.to_owned()] {
        let open = || {
            let config = Config::parse(&config, Path::new("config.json")).unwrap();
            filled_up_to(0.1, config)
        };
        let (here, there) = (open(), open().elsewhere(Precision::F32));
        let adapter = adapter(3, &here);
        let mut values = vec![0.0; adapter.flat().len()];
        uniform([9; 32], 0.3, &mut values);
        let gradient = |model: &Model, share: f64| {
            let tensors = adapter.flat().tensors(&values, |_| true).unwrap();
            let mut bound = adapter.bind(&tensors);
            if let MethodTensors::Lora(lora) = &mut bound.method {
                lora.dropout = Some(Dropout::new(share, [1; 32]));
            }
            let moving = Moving::Adapter(bound);
            let (found, score) = model.gradient(&batch, &moving, 0.1, false).unwrap();
            let mut sum = vec![0.0; adapter.flat().len()];
            let missing = adapter.flat().add_gradients(&tensors, &found, &mut sum);
            assert_eq!(missing.unwrap(), None);
            (score.nats, sum)
        };
        let [whole, here, there] = [(&here, 0.0), (&here, 0.4), (&there, 0.4)]
            .map(|(model, share)| gradient(model, share));
        assert!((here.0 - there.0).abs() < 1e-5 * here.0, "{config}");
        let apart = |a: f32, (b, c): (f32, &f32)| a.max((b - c).abs());
        let changed = whole.1.into_iter().zip(&here.1).fold(0.0, apart);
        assert!(changed > 1e-3, "{config}: {changed}");
        close(&here.1, &there.1, &config);
    }
}

#[test]
fn labels_are_told_apart_on_a_device_as_on_the_processor() {
    let labelled = |len: u32, step: u32| Example {
        ids: (0..len)
            .map(|i| (i * step + i * i) % 32)
            .chain([1])
            .collect(),
        scored: (0..=len).map(|i| i == len).collect(),
    };
    let examples = [9, 80, 70, 1].map(|len| labelled(len, len % 7));
    let batch = Batch::pack(&examples);
    for more in [
        r#", "architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b", "2": "c"}"#,
        r#", "architectures": ["BertModel"], "hidden_act": "gelu_new""#,
    ] {
        everywhere(&bert(more), |models, adapter, what| {
            let moving = || adapter.map_or(Moving::Nothing, |all| Moving::Adapter(all.clone()));
            let [here, there] = models.map(|model| model.label_logits(&batch, &moving()).unwrap());
            assert_eq!((here.len(), here[0].len()), (4, 3), "{what}");
            close(&here.concat(), &there.concat(), what);
            // Each by itself is told apart as it is among others.
            for (example, here) in examples.iter().zip(&here) {
                let alone = Batch::pack([example]);
                let [a, b] = models.map(|model| model.label_logits(&alone, &moving()).unwrap());
                close(here, &a[0], what);
                close(here, &b[0], what);
            }
        });
    }
}
