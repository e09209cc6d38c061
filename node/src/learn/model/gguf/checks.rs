//! GGUF files as llama.cpp writes them: read, kept in their blocks, refused.

use std::io::Cursor;

use candle_core::Tensor;
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};

use super::stored::neighbours;
use super::*;
use crate::learn::export::merged;
use crate::learn::fixture::{adapter, filled, llama, random};
use crate::learn::model::config::Config;
use crate::learn::model::decode::Decoding;
use crate::learn::model::{self, Model};

/// The bytes of a file as llama.cpp would write it; `stretch` becomes `rope_freqs.weight`.
fn written(model: &Model, dtype: GgmlDType, stretch: Option<&[f32]>) -> Vec<u8> {
    let config = model.config();
    let small = |n: usize| Value::U32(u32::try_from(n).unwrap());
    let metadata = [
        (
            "general.architecture",
            Value::String(config.model_type().into()),
        ),
        ("llama.embedding_length", small(config.hidden)),
        ("llama.feed_forward_length", small(config.inner)),
        ("llama.block_count", small(config.layers)),
        ("llama.attention.head_count", small(config.heads)),
        ("llama.attention.head_count_kv", small(config.kv_heads)),
        ("llama.context_length", small(config.context)),
        (
            "llama.attention.layer_norm_rms_epsilon",
            Value::F32(config.eps),
        ),
        ("tokenizer.ggml.bos_token_id", Value::U32(0)),
        ("tokenizer.ggml.eos_token_id", Value::U32(1)),
    ];
    let mut tensors = Vec::new();
    for (name, weight) in model.tensors() {
        let stored = stored_name(&name);
        let shape = weight.shape();
        let values = match &stored {
            q if q.contains("attn_q.") => neighbours(weight.values(), shape[0], config.heads),
            k if k.contains("attn_k.") => neighbours(weight.values(), shape[0], config.kv_heads),
            _ => weight.values().to_vec(),
        };
        let dtype = if shape.len() == 1 {
            GgmlDType::F32
        } else {
            dtype
        };
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        tensors.push((stored, QTensor::quantize(&tensor, dtype).unwrap()));
    }
    if let Some(stretch) = stretch {
        let tensor = Tensor::new(stretch, &Device::Cpu).unwrap();
        let tensor = QTensor::quantize(&tensor, GgmlDType::F32).unwrap();
        tensors.push((DIVISORS.into(), tensor));
    }
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (&**n, t)).collect();
    let mut bytes = Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
    bytes.into_inner()
}

fn folder(bytes: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.gguf"), bytes).unwrap();
    folder
}

fn logits(model: &Model) -> Vec<f32> {
    Decoding::new(model, None)
        .extend(&[1, 5, 9, 2, 30])
        .unwrap()
}

#[test]
fn a_file_in_f32_is_the_model_to_the_bit() {
    for (tied, more) in [
        (true, ""),
        (false, r#", "model_type": "llama", "attention_bias": true"#),
    ] {
        let model = llama(tied, more);
        let folder = folder(&written(&model, GgmlDType::F32, None));
        let again = Model::open(folder.path()).unwrap();
        assert_eq!(logits(&again), logits(&model));
        assert_eq!(again.config().eos, [1]);
        assert_eq!(again.config().parts(), model.config().parts());
        model::check(folder.path()).unwrap();
        let digest = model::digest(folder.path()).unwrap();
        std::fs::write(folder.path().join("config.json"), "unread").unwrap();
        assert_eq!(model::digest(folder.path()).unwrap(), digest);
        let half = written(&model, GgmlDType::F16, None);
        std::fs::remove_file(folder.path().join("model.gguf")).unwrap();
        std::fs::write(folder.path().join("other.gguf"), half).unwrap();
        assert_ne!(model::digest(folder.path()).unwrap(), digest);
    }
}

#[test]
fn quantised_files_come_close_and_frequencies_are_stretched() {
    let text = r#"{"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1,
        "num_attention_heads": 4, "vocab_size": 32, "max_position_embeddings": 32, "eos_token_id": 1"#;
    let model = random(&format!("{text}}}"));
    for (dtype, most) in [(GgmlDType::Q8_0, 0.01), (GgmlDType::Q4K, 0.12)] {
        let folder = folder(&written(&model, dtype, None));
        let again = Model::open(folder.path()).unwrap().tensors();
        for (name, weight) in model.tensors() {
            let size = weight.values().iter().map(|x| x * x).sum::<f32>();
            let pairs = weight.values().iter().zip(again[&name].values());
            let apart = pairs.map(|(w, g)| (w - g).powi(2)).sum::<f32>();
            let apart = (apart / size).sqrt();
            assert!(apart < most, "{name} in {dtype:?}: {apart}");
            assert_eq!(apart > 0.0, weight.shape().len() == 2, "{name}");
        }
    }
    let stretch: Vec<f32> = (0..32).map(|j| 1.0 + j as f32 / 4.0).collect();
    let stretched = format!(r#"{text}, "{DIVISORS}": {stretch:?}}}"#);
    let keys = serde_json::from_str(&stretched).unwrap();
    let config = Config::of(keys, Path::new("model.gguf")).unwrap();
    let stored = folder(&written(&model, GgmlDType::F32, Some(&stretch)));
    let opened = Model::open(stored.path()).unwrap();
    let got = logits(&opened);
    assert_eq!(got, logits(&filled(config)));
    assert_ne!(got, logits(&model));

    // A config.json has no place for them.
    let said = Config::parse(&stretched, Path::new("config.json")).unwrap_err();
    assert!(said.to_string().contains(DIVISORS), "{said}");
    let adapter = adapter(2, &opened);
    let tensors = adapter.flat().tensors(&adapter.initial(&opened), |_| false);
    let lora = adapter.bind(&tensors.unwrap());
    let place = stored.path().join("merged");
    let said = merged(&place, &opened, Some(&lora), stored.path()).unwrap_err();
    assert!(said.to_string().contains("--format peft"), "{said}");
    assert_eq!(std::fs::read_dir(stored.path()).unwrap().count(), 1);
}

/// The same file with the numbers in the blocks of its matrices halved: rounding these values again gives other scales.
fn halved(mut bytes: Vec<u8>, dtype: GgmlDType) -> Vec<u8> {
    let content = Content::read(&mut Cursor::new(&bytes)).unwrap();
    let infos = content.tensor_infos.values();
    let alike: Vec<_> = infos.filter(|info| info.ggml_dtype == dtype).collect();
    for info in alike {
        let begin = usize::try_from(content.tensor_data_offset + info.offset).unwrap();
        let blocks = info.shape.elem_count() / dtype.block_size();
        let bytes = &mut bytes[begin..][..blocks * dtype.type_size()];
        for block in bytes.chunks_exact_mut(dtype.type_size()) {
            if dtype == GgmlDType::Q8_0 {
                // Behind a scale of two bytes, numbers of eight bits.
                for x in &mut block[2..] {
                    *x = (x.cast_signed() / 2).cast_unsigned();
                }
            } else {
                // Behind two scales and twelve bytes of scales, two numbers of four bits in a byte.
                for x in &mut block[16..] {
                    *x = *x >> 1 & 0x77;
                }
            }
        }
    }
    bytes
}

#[test]
fn blocks_of_the_precision_asked_for_are_kept_as_they_lie() {
    let model = random(
        r#"{"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 32, "max_position_embeddings": 32, "eos_token_id": 1}"#,
    );
    for (dtype, precision, other) in [
        (GgmlDType::Q8_0, Precision::Q8, Precision::Q4),
        (GgmlDType::Q4K, Precision::Q4, Precision::Q8),
    ] {
        let folder = folder(&halved(written(&model, dtype, None), dtype));
        let open = |precision| Model::open_at(folder.path(), precision).unwrap();
        let (wide, held, other) = (open(Precision::F32), open(precision), open(other));
        assert_eq!(held.identity(), wide.identity());
        assert_eq!(logits(&held), logits(&wide), "{dtype:?}");
        assert_eq!(wide.config().maps().len(), 7);
        for map in wide.config().maps() {
            let [wide, held, other] = [&wide, &held, &other].map(|model| model.map(&map.module));
            assert_eq!(held.rounding().map(Quantised::form), Some(dtype));
            assert_eq!(held.weight().values(), wide.weight().values(), "{map:?}");
            let anew = wide.clone().rounded(precision);
            assert_ne!(anew.weight().values(), wide.weight().values());
            // What the file has in other blocks is rounded to those that are asked for.
            let form = other.rounding().map(Quantised::form);
            assert!(form.is_some_and(|form| form != dtype), "{form:?}");
        }
    }
}

#[test]
fn broken_files_are_refused_by_name() {
    let model = llama(true, "");
    let bytes = written(&model, GgmlDType::F32, None);
    let refused = |bytes: &[u8]| {
        let folder = folder(bytes);
        Model::open(folder.path()).unwrap_err().to_string()
    };
    assert!(refused(b"GGUF").contains("not a whole GGUF file"));
    let error = refused(&bytes[..bytes.len() - 2000]);
    assert!(error.contains("the tensor"), "{error}");
    let edited = |from: &str, to: &str| {
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes());
        let mut bytes = bytes.clone();
        bytes[at.unwrap()..][..to.len()].copy_from_slice(to.as_bytes());
        refused(&bytes)
    };
    let error = edited("blk.1.ffn_up.weight", "blk.1.ffn_xx.weight");
    assert!(error.contains("blk.1.ffn_up.weight is missing"), "{error}");
    let error = edited("llama.block_count", "llama.block_xxxxx");
    assert!(error.contains("llama.block_count is missing"), "{error}");
    let error = edited("\0\0llama", "\0\0mamba");
    assert!(error.contains("mamba"), "{error}");
}

#[test]
fn what_the_library_takes_for_granted_is_refused_in_one_sentence() {
    let said = |alignment: Value, shape: [u64; 2], turns: f32| {
        let metadata = [
            ("general.alignment", &alignment),
            ("general.architecture", &Value::String("llama".into())),
            ("llama.embedding_length", &Value::U32(8)),
            ("llama.feed_forward_length", &Value::U32(8)),
            ("llama.block_count", &Value::U32(1)),
            ("llama.attention.head_count", &Value::U32(2)),
            ("llama.context_length", &Value::U32(8)),
            ("llama.rope.freq_base", &Value::F32(turns)),
        ];
        let mut bytes = Cursor::new(Vec::new());
        gguf_file::write(&mut bytes, &metadata, &[]).unwrap();
        let mut bytes = bytes.into_inner();
        // Behind the keys, the last of which ends in no zero, two tensors that the library would not write.
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes.truncate(end + 1);
        bytes[8] = 2;
        let mut tensors = Vec::new();
        for (name, shape) in [("token_embd.weight", [8, 8]), (DIVISORS, shape)] {
            tensors.extend((name.len() as u64).to_le_bytes());
            tensors.extend(name.as_bytes());
            tensors.extend(2_u32.to_le_bytes());
            tensors.extend(shape.map(u64::to_le_bytes).as_flattened());
            tensors.extend([0; 12]);
        }
        let folder = folder(&[bytes.as_slice(), &tensors, &[0; 64]].concat());
        Config::read(folder.path()).unwrap_err().to_string()
    };
    let sound = || Value::U32(32);
    for zero in [Value::U32(0), Value::I8(0)] {
        let error = said(zero, [4, 1], 1e4);
        assert!(error.contains("its alignment cannot be"), "{error}");
    }
    for shape in [[1 << 32, 1 << 32], [1 << 63, 2], [0, 4], [1 << 40, 1 << 10]] {
        let error = said(sound(), shape, 1e4);
        assert!(error.contains("has the impossible shape"), "{error}");
    }
    let error = said(sound(), [1 << 30, 1], 1e4);
    assert!(error.contains("only"), "{error}");
    let error = said(sound(), [4, 1], f32::NAN);
    assert!(error.contains("llama.rope.freq_base"), "{error}");
}
