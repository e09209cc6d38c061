//! GGUF files as llama.cpp's converters write them: the model with the adapter merged in, or LoRA's factors alone.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use candle_core::quantized::gguf_file::Value as Key;

use super::container::{self, Numbers, Order, Tensor};
use super::{ExportError, Output, flattened, merged_tensors, only_lora};
use crate::learn::model::Model;
use crate::learn::model::adapted::AdapterTensors;
use crate::learn::model::config::Config;
use crate::learn::model::gguf::stored::{POSITIONS, stored_name, turned};
use crate::learn::model::rope::DIVISORS;
use crate::learn::vocabulary;
use crate::learn::weights::Weight;
use keys::{architecture, divisors, fits, general, shape};

mod keys;

/// Writes `model.gguf` into a new folder: the model, with the adapter merged in if there is one, and the tokenizer of
/// `source`.
pub fn merged(
    place: &Path,
    model: &Model,
    adapter: Option<&AdapterTensors>,
    source: &Path,
    numbers: Numbers,
) -> Result<(), ExportError> {
    let config = model.config();
    fits(config, source)?;
    let mut keys = general(config, source, "model", numbers);
    keys.extend(shape(config));
    keys.extend(vocabulary::write::keys(source, config)?);
    let mut all = merged_tensors(model, adapter)?;
    if let Some(divisors) = divisors(config) {
        let shape = vec![divisors.len()];
        all.insert(DIVISORS.to_owned(), Weight::owned(divisors, shape));
    }
    let tensor = |(name, weight): (String, Weight)| {
        let stored = stored_name(&name);
        let order = if turned(&name) {
            Order::Across
        } else {
            rows(config, &stored)
        };
        let kept = stored == POSITIONS;
        let tensor = Tensor {
            name: stored,
            weight,
            order,
            numbers,
        };
        tensor.in_format(if kept { Numbers::F32 } else { numbers })
    };
    let tensors: Vec<Tensor> = all.into_iter().map(tensor).collect();
    put(place, "model.gguf", &keys, &tensors)
}

/// Writes `adapter.gguf` into a new folder: LoRA's factors, for llama.cpp's `--lora` on the same model.
///
/// llama.cpp multiplies with `alpha / r`, one alpha for all: what a map's own scale is beside that goes into its B.
pub fn lora(
    place: &Path,
    model: &Model,
    adapter: &AdapterTensors,
    alpha: u32,
    source: &Path,
    numbers: Numbers,
) -> Result<(), ExportError> {
    let config = model.config();
    fits(config, source)?;
    let lora = only_lora(adapter)?;
    let mut keys = general(config, source, "adapter", numbers);
    keys.push(("adapter.type".into(), Key::String("lora".into())));
    #[expect(clippy::cast_precision_loss, reason = "an alpha is small")]
    let alpha = alpha as f32;
    keys.push(("adapter.lora.alpha".into(), Key::F32(alpha)));
    let mut tensors = Vec::with_capacity(2 * lora.factors.len());
    for (module, factors) in &lora.factors {
        let (a, mut b) = (flattened(&factors.a), flattened(&factors.b));
        let shapes = [factors.a.dims().to_vec(), factors.b.dims().to_vec()];
        #[expect(clippy::cast_precision_loss, reason = "a rank is small")]
        let usual = alpha / shapes[0][0] as f32;
        if (factors.scale - usual).abs() > f32::EPSILON * usual {
            for x in &mut b {
                *x *= factors.scale / usual;
            }
        }
        let stored = stored_name(&format!("{module}.weight"));
        for ((values, shape), factor) in [a, b].into_iter().zip(shapes).zip(["a", "b"]) {
            let weight = Weight::owned(values, shape);
            let order = match factor {
                "b" => rows(config, &stored),
                _ => Order::Same,
            };
            let name = format!("{stored}.lora_{factor}");
            let tensor = Tensor {
                name,
                weight,
                order,
                numbers,
            };
            tensors.push(tensor.in_format(numbers));
        }
    }
    put(place, "adapter.gguf", &keys, &tensors)
}

fn put(
    place: &Path,
    name: &str,
    keys: &[(String, Key)],
    tensors: &[Tensor],
) -> Result<(), ExportError> {
    if let Some(tensor) = tensors.iter().find(|tensor| !tensor.fits()) {
        return Err(ExportError::Halves(tensor.name.clone()));
    }
    let output = Output::begin(place)?;
    let path = output.path().join(name);
    let file = File::create(&path).map(BufWriter::new);
    let written = file.and_then(|mut file| container::write(&mut file, keys, tensors));
    written.map_err(|source| ExportError::Io { path, source })?;
    output.finish()
}

/// The order of a tensor's rows: llama.cpp reorders those of queries and keys of its llama.
fn rows(config: &Config, stored: &str) -> Order {
    if architecture(config) != "llama" {
        Order::Same
    } else if stored.contains("attn_q.") {
        Order::Neighbours(config.heads)
    } else if stored.contains("attn_k.") {
        Order::Neighbours(config.kv_heads)
    } else {
        Order::Same
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use candle_core::quantized::gguf_file::Content;
    use serde_json::Map;

    use super::*;
    use crate::learn::data::{Form, Place, Row, Tokens, Turn};
    use crate::learn::export::tests::{bind, logits, random_adapter};
    use crate::learn::fixture::{folder, gpt2, llama, random, tiny};

    fn near(ours: &[f32], theirs: &[f32], most: f32) {
        for (a, b) in ours.iter().zip(theirs) {
            assert!((a - b).abs() < most, "{a} and {b}");
        }
    }

    #[test]
    fn a_merged_model_comes_back_from_gguf_with_its_logits() {
        let llama3 = r#", "attention_bias": true, "mlp_bias": true, "rope_theta": 500.0, "rope_scaling":
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
             "original_max_position_embeddings": 32}"#;
        let linear = r#", "rope_scaling": {"rope_type": "linear", "factor": 4.0}"#;
        let yarn = r#", "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0,
            "mscale": 0.8, "mscale_all_dim": 0.5, "original_max_position_embeddings": 32}"#;
        let scaled =
            r#", "rope_parameters": {"rope_type": "yarn", "factor": 8.0, "rope_theta": 500.0}"#;
        let qwen = |kind: &str, more: &str| {
            random(&format!(
                r#"{{"model_type": "{kind}", "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32,
                "max_position_embeddings": 128, "tie_word_embeddings": true{more}}}"#
            ))
        };
        for model in [
            tiny(false),
            llama(true, llama3),
            llama(true, linear),
            qwen("mistral", r#", "sliding_window": null"#),
            qwen("qwen2", ""),
            qwen("qwen3", r#", "head_dim": 8"#),
            llama(false, yarn),
            qwen("qwen2", scaled),
            gpt2("gelu_new"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (adapter, values) = random_adapter(&model, "all-linear");
            let lora = bind(&adapter, &values);
            let want = logits(&model, Some(&lora));
            let place = folder.path().join("out");
            merged(&place, &model, Some(&lora), folder.path(), Numbers::F32).unwrap();
            let whole = Model::open(&place).unwrap();
            near(&logits(&whole, None), &want, 1e-4);
            // And once more, from the file: the numbers of its rotary positions go along.
            let again = folder.path().join("again");
            merged(&again, &whole, None, &place, Numbers::F32).unwrap();
            near(&logits(&Model::open(&again).unwrap(), None), &want, 1e-4);
        }
    }

    #[test]
    fn factors_alone_are_those_that_were_trained() {
        let model = tiny(true);
        let folder = tempfile::tempdir().unwrap();
        let (adapter, values) = random_adapter(&model, "q_proj,v_proj");
        let bound = bind(&adapter, &values);
        let place = folder.path().join("out");
        lora(&place, &model, &bound, 3, folder.path(), Numbers::F32).unwrap();
        let mut file = File::open(place.join("adapter.gguf")).unwrap();
        let content = Content::read(&mut file).unwrap();
        let word = |key: &str| content.metadata[key].to_string().unwrap().clone();
        assert_eq!(word("general.type"), "adapter");
        assert_eq!(word("adapter.type"), "lora");
        assert_eq!(word("general.architecture"), "llama");
        let alpha = content.metadata["adapter.lora.alpha"].to_f32().unwrap();
        assert_eq!(content.tensor_infos.len(), 8);
        let mut read = |name: &str| {
            let tensor = content.tensor(&mut file, name, &Device::Cpu).unwrap();
            let tensor = tensor.dequantize(&Device::Cpu).unwrap();
            (
                tensor.dims().to_vec(),
                tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            )
        };
        let factors = &only_lora(&bound).unwrap().factors;
        for (module, stored) in [
            ("model.layers.1.self_attn.q_proj", "blk.1.attn_q.weight"),
            ("model.layers.0.self_attn.v_proj", "blk.0.attn_v.weight"),
        ] {
            let ours = &factors[module];
            let (dims, a) = read(&format!("{stored}.lora_a"));
            assert_eq!(
                (dims, a),
                (ours.a.dims().to_vec(), flattened(&ours.a)),
                "{module}"
            );
            let (dims, b) = read(&format!("{stored}.lora_b"));
            assert_eq!(dims, ours.b.dims());
            let rank = dims[1];
            let mut want = flattened(&ours.b);
            if stored.contains("attn_q") {
                want = crate::learn::model::gguf::stored::neighbours(&want, dims[0], 4);
            }
            let scale = alpha / rank as f32;
            let (ours, theirs) = (
                want.iter().map(|x| x * ours.scale),
                b.iter().map(|x| x * scale),
            );
            near(&theirs.collect::<Vec<_>>(), &ours.collect::<Vec<_>>(), 1e-5);
        }
    }

    #[test]
    fn what_gguf_has_no_place_for_is_refused_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let yarn = r#", "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "truncate": false}"#;
        let window = r#", "model_type": "mistral", "sliding_window": 8"#;
        for (model, said) in [
            (gpt2("gelu"), "a gpt2 model with another activation"),
            (llama(true, yarn), "truncate"),
            (llama(true, window), "a sliding window"),
        ] {
            let (adapter, values) = random_adapter(&model, "all-linear");
            let bound = bind(&adapter, &values);
            let place = folder.path().join("out");
            let refused = [
                merged(&place, &model, Some(&bound), folder.path(), Numbers::F16),
                lora(&place, &model, &bound, 3, folder.path(), Numbers::F16),
            ];
            for refused in refused {
                let refused = refused.unwrap_err().to_string();
                assert!(refused.contains(said), "{refused}");
            }
        }
        let model = tiny(true);
        let (adapter, mut values) = random_adapter(&model, "all-linear");
        values.fill(1e5);
        let bound = bind(&adapter, &values);
        let place = folder.path().join("out");
        let refused = lora(&place, &model, &bound, 3, folder.path(), Numbers::F16);
        assert!(refused.unwrap_err().to_string().contains("--outtype"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// Tokens of a folder, and of the GGUF file made of it; or why there is none.
    fn both(tokenizer: &str) -> Result<[Tokens; 2], String> {
        let folder = folder();
        let at = folder.path();
        std::fs::write(at.join("tokenizer.json"), tokenizer).unwrap();
        let settings = r#"{"chat_template": "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
            "eos_token": "</s>"}"#;
        std::fs::write(at.join("tokenizer_config.json"), settings).unwrap();
        let model = Model::open(at).unwrap();
        let (adapter, values) = random_adapter(&model, "q_proj");
        let place = at.join("out");
        let written = merged(
            &place,
            &model,
            Some(&bind(&adapter, &values)),
            at,
            Numbers::F16,
        );
        written.map_err(|e| e.to_string())?;
        assert_eq!(
            std::fs::read_dir(&place).unwrap().count(),
            1,
            "the file alone"
        );
        Ok([Tokens::open(at).unwrap(), Tokens::open(&place).unwrap()])
    }

    const PIECES: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [
        {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
         "normalized": false, "special": true},
        {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
         "normalized": false, "special": true},
        {"id": 2, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false,
         "normalized": false, "special": true},
        {"id": 13, "content": "<u>", "single_word": false, "lstrip": false, "rstrip": false,
         "normalized": false, "special": false}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
          {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
          "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
          "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
          "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
          {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
          "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
          "vocab": {"<s>": 0, "</s>": 1, "<unk>": 2, "▁": 3, "a": 4, "b": 5, "c": 6, "ab": 7, "abc": 8, "▁a": 9,
            "bc": 10, "<0x64>": 11, "1": 12},
          "merges": [["b", "c"], ["a", "b"], ["a", "bc"], ["ab", "c"], ["▁", "a"]]}}"#;

    const TEXTS: [&str; 6] = [
        "abc",
        "a  abc bc d<u>1c",
        "  <s>ab</s> ",
        "",
        "é 1234 ab12",
        "it's\n\nI'LL a\tb  \n c",
    ];

    fn same(tokens: &[Tokens; 2]) {
        for text in TEXTS {
            let [ours, theirs] = [0, 1].map(|of| {
                let ids = tokens[of].prompt(text).unwrap();
                (tokens[of].decode(&ids).unwrap(), ids)
            });
            assert_eq!(ours, theirs, "{text:?}");
        }
        let turns = [Turn {
            role: "user".into(),
            content: "abc".into(),
        }];
        let file = Path::new("rows").into();
        let at = Place { file, line: 1 };
        let [ours, theirs] = [0, 1].map(|of| tokens[of].conversation_so_far(&turns, &at).unwrap());
        assert_eq!(ours, theirs);
        assert_eq!(tokens[0].ends(), tokens[1].ends());
        let row = Row {
            form: Form::Text("abc".into()),
            fields: Map::new(),
            at,
        };
        let [ours, theirs] = [0, 1].map(|of| tokens[of].tokenise(&row, 8).unwrap());
        assert_eq!(ours, theirs);
    }

    #[test]
    fn tokenizers_go_through_a_gguf_file_and_read_texts_as_before() {
        same(&both(PIECES).unwrap());
        let bare = PIECES.replace(r#"{"type": "Prepend", "prepend": "▁"},"#, "");
        let bare = bare.replace(
            r#", {"type": "Strip", "content": " ", "start": 1, "stop": 0}"#,
            "",
        );
        same(&both(&bare).unwrap());
    }

    #[test]
    fn tokenizers_that_llama_cpp_has_not_are_refused() {
        let bytes = r#"{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true}"#;
        let whole = PIECES.replace(r#""byte_fallback": true"#, r#""byte_fallback": false"#);
        let start = whole.find("\"normalizer\"").unwrap();
        let end = whole.find("\"post_processor\"").unwrap();
        let byte_level = |normalizer: &str, pre: &str| {
            let own = format!("\"normalizer\": {normalizer}, \"pre_tokenizer\": {pre}, ");
            [&whole[..start], &own, &whole[end..]].concat()
        };
        let digits = r#"{"type": "Digits", "individual_digits": false}"#;
        let ignoring = byte_level("null", bytes);
        let ignoring = ignoring.replace(r#""ignore_merges": false"#, r#""ignore_merges": true"#);
        let larger = PIECES.replace(r#""id": 13"#, r#""id": 33"#);
        for (tokenizer, said) in [
            (byte_level("null", digits), "no pre-tokenizer"),
            (ignoring, "ignore_merges"),
            (byte_level(r#"{"type": "NFKC"}"#, bytes), "its normalizer"),
            (
                PIECES.replace(r#""prepend": "▁""#, r#""prepend": "_""#),
                "its normalizer and pre",
            ),
            (
                PIECES.replace(r#", ["ab", "c"]"#, ""),
                "SentencePiece's scores",
            ),
            (larger, "has the id 33"),
        ] {
            let refused = both(&tokenizer).expect_err(said);
            assert!(refused.contains(said), "{refused}");
        }
        both(&byte_level("null", bytes)).unwrap();
    }
}
