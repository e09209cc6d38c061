//! GGUF files as llama.cpp's converters write them: the model with the adapter merged in, or LoRA's factors alone.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use candle_core::quantized::gguf_file::Value as Key;
use serde_json::Value;

use super::container::{self, Numbers, Tensor};
use super::{ExportError, Output, flattened, merged_tensors, only_lora};
use crate::learn::kernel::attention::Sight;
use crate::learn::model::Model;
use crate::learn::model::adapted::AdapterTensors;
use crate::learn::model::config::{Config, Family};
use crate::learn::model::gguf::stored_name;
use crate::learn::model::llama::Llama;
use crate::learn::model::rope::{DIVISORS, Rope};
use crate::learn::vocabulary;
use crate::learn::weights::Weight;

/// Writes `model.gguf` into a new folder: the model with the adapter merged in, and the tokenizer of `source`.
pub fn merged(
    place: &Path,
    model: &Model,
    adapter: &AdapterTensors,
    source: &Path,
    numbers: Numbers,
) -> Result<(), ExportError> {
    let config = model.config();
    let llama = fits(config, source)?;
    let mut keys = general(config, source, "model", numbers);
    keys.extend(shape(config, source, llama)?);
    keys.extend(vocabulary::write::keys(source, config)?);
    let tensors = merged_tensors(model, adapter)?.into_iter();
    let tensors = tensors.map(|(name, weight)| tensor(config, stored_name(&name), weight, numbers));
    let mut tensors: Vec<Tensor> = tensors.collect();
    if let Some(divisors) = divisors(config, &llama.rope) {
        let shape = vec![divisors.len()];
        let divisors = Weight::owned(divisors, shape);
        tensors.push(tensor(config, DIVISORS.to_owned(), divisors, numbers));
    }
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
            let heads = heads(config, &stored).filter(|_| factor == "b");
            tensors.push(Tensor {
                name: format!("{stored}.lora_{factor}"),
                numbers: numbers.of(weight.shape()),
                weight,
                heads,
            });
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

/// Refuses what llama.cpp would compute otherwise.
fn fits<'a>(config: &'a Config, source: &Path) -> Result<&'a Llama, ExportError> {
    let refuse = |what: &str| {
        Err(ExportError::NotInGguf {
            model: source.to_owned(),
            what: what.to_owned(),
        })
    };
    let Family::Llama(llama) = &config.family else {
        return refuse(&format!("a {} model", config.model_type()));
    };
    if llama
        .sights
        .iter()
        .any(|sight| matches!(sight, Sight::Window(_)))
    {
        return refuse("a model with a sliding window");
    }
    if (llama.rope.scale - 1.0).abs() > f32::EPSILON || rope(config).1 == "yarn" {
        return refuse("a model with positions stretched by YaRN");
    }
    Ok(llama)
}

fn general(config: &Config, source: &Path, kind: &str, numbers: Numbers) -> Vec<(String, Key)> {
    let name = std::path::absolute(source).unwrap_or_else(|_| source.to_owned());
    let name = name
        .file_name()
        .map_or_else(|| "model".into(), std::ffi::OsStr::to_string_lossy);
    let word = |word: &str| Key::String(word.to_owned());
    let keys = [
        ("architecture", word(architecture(config))),
        ("type", word(kind)),
        ("name", word(&name)),
        ("file_type", Key::U32(numbers.file_type())),
        ("quantization_version", Key::U32(2)),
    ];
    keys.map(|(key, value)| (format!("general.{key}"), value))
        .to_vec()
}

/// llama.cpp's name of the family: Mistral is a llama.
fn architecture(config: &Config) -> &str {
    match config.model_type() {
        "mistral" => "llama",
        other => other,
    }
}

/// The sizes of a model and how it turns positions.
fn shape(config: &Config, source: &Path, llama: &Llama) -> Result<Vec<(String, Key)>, ExportError> {
    let whole = |n: usize| Key::U32(u32::try_from(n).unwrap_or(u32::MAX));
    let (theta, kind, factor) = rope(config);
    let mut keys = vec![
        ("block_count", whole(config.layers)),
        ("context_length", whole(config.context)),
        ("embedding_length", whole(config.hidden)),
        ("feed_forward_length", whole(config.inner)),
        ("vocab_size", whole(config.vocabulary)),
        ("attention.head_count", whole(config.heads)),
        ("attention.head_count_kv", whole(config.kv_heads)),
        ("attention.key_length", whole(config.head_dim)),
        ("attention.value_length", whole(config.head_dim)),
        ("attention.layer_norm_rms_epsilon", Key::F32(config.eps)),
        ("rope.dimension_count", whole(config.head_dim)),
        ("rope.freq_base", Key::F32(theta)),
    ];
    match kind {
        "linear" => keys.extend([
            ("rope.scaling.type", Key::String("linear".into())),
            ("rope.scaling.factor", Key::F32(factor)),
        ]),
        "default" | "dynamic" | "llama3" => {}
        other => {
            return Err(ExportError::NotInGguf {
                model: source.to_owned(),
                what: format!("a model with {other} rotary positions"),
            });
        }
    }
    debug_assert_eq!(llama.rope.frequencies.len() * 2, config.head_dim);
    let family = architecture(config);
    Ok(keys
        .into_iter()
        .map(|(key, value)| (format!("{family}.{key}"), value))
        .collect())
}

/// The base of a model's rotary positions, how they are stretched, and by which factor.
#[expect(clippy::cast_possible_truncation, reason = "GGUF keeps them in f32")]
fn rope(config: &Config) -> (f32, &str, f32) {
    let source = config.source();
    let named = ["rope_parameters", "rope_scaling"];
    let named = named.map(|key| source.get(key));
    let rope = named.into_iter().flatten().find_map(Value::as_object);
    let get = |key: &str| rope.and_then(|rope| rope.get(key));
    let theta = get("rope_theta").or_else(|| source.get("rope_theta"));
    let theta = theta.and_then(Value::as_f64).unwrap_or(10_000.0);
    let kind = get("rope_type").or_else(|| get("type"));
    let kind = kind.and_then(Value::as_str).unwrap_or("default");
    let factor = get("factor").and_then(Value::as_f64).unwrap_or(1.0);
    (theta as f32, kind, factor as f32)
}

/// What Llama 3 divides its frequencies by: `rope_freqs.weight`.
fn divisors(config: &Config, stretched: &Rope) -> Option<Vec<f32>> {
    if let Some(Value::Array(given)) = config.source().get(DIVISORS) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "they were f32 in their file"
        )]
        let given = given.iter().filter_map(Value::as_f64).map(|x| x as f32);
        return Some(given.collect());
    }
    let (theta, kind, _) = rope(config);
    if kind != "llama3" {
        return None;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "heads are small"
    )]
    let divisor = |(pair, frequency): (usize, &f32)| {
        let power = -2.0 * pair as f64 / config.head_dim as f64;
        (f64::from(theta).powf(power) / f64::from(*frequency)) as f32
    };
    Some(
        stretched
            .frequencies
            .iter()
            .enumerate()
            .map(divisor)
            .collect(),
    )
}

fn tensor(config: &Config, name: String, weight: Weight, numbers: Numbers) -> Tensor {
    Tensor {
        heads: heads(config, &name),
        numbers: numbers.of(weight.shape()),
        name,
        weight,
    }
}

/// How many heads' rows llama.cpp reorders: of its llama those of queries and keys.
fn heads(config: &Config, stored: &str) -> Option<usize> {
    if architecture(config) != "llama" {
        return None;
    }
    if stored.contains("attn_q.") {
        Some(config.heads)
    } else if stored.contains("attn_k.") {
        Some(config.kv_heads)
    } else {
        None
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
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (adapter, values) = random_adapter(&model, "all-linear");
            let lora = bind(&adapter, &values);
            let want = logits(&model, Some(&lora));
            let place = folder.path().join("out");
            merged(&place, &model, &lora, folder.path(), Numbers::F32).unwrap();
            let whole = Model::open(&place).unwrap();
            near(&logits(&whole, None), &want, 1e-4);
            // And once more, from the file: the numbers of its rotary positions go along.
            let again = folder.path().join("again");
            let none = bind(&adapter, &vec![0.0; values.len()]);
            merged(&again, &whole, &none, &place, Numbers::F32).unwrap();
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
                want = crate::learn::model::gguf::neighbours(&want, dims[0], 4);
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
        let yarn = r#", "rope_scaling": {"rope_type": "yarn", "factor": 4.0}"#;
        let window = r#", "model_type": "mistral", "sliding_window": 8"#;
        for (model, said) in [
            (gpt2("gelu_new"), "a gpt2 model"),
            (llama(true, yarn), "YaRN"),
            (llama(true, window), "a sliding window"),
        ] {
            let (adapter, values) = random_adapter(&model, "all-linear");
            let bound = bind(&adapter, &values);
            let place = folder.path().join("out");
            let refused = [
                merged(&place, &model, &bound, folder.path(), Numbers::F16),
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
        let written = merged(&place, &model, &bind(&adapter, &values), at, Numbers::F16);
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
