//! Adapters as Hugging Face PEFT keeps them: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use conclave_crypto::digest::Digest;
use serde_json::{Value, json};

use super::{
    Adapter, AdapterError, AdapterSpec, Bottleneck, Lora, Method, Pattern, Prompt, Targets,
    head_names,
};
use crate::learn::model::Model;
use crate::learn::model::bert::HEAD_WEIGHT;
use crate::learn::model::config::{Config, ConfigError};
use crate::learn::weights::affine::Layout;
use crate::learn::weights::{Weight, Weights, WeightsError};

/// Why an adapter folder is refused.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file cannot be read or written.
    #[error("{path}: {source}; check the path and its permissions")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// `adapter_config.json` asks for what cannot be read.
    #[error("{path}: {reason}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What and where.
        reason: String,
    },
    /// The tensors cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// It does not fit the model.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// Its labels are not those of the model.
    #[error(transparent)]
    Labels(#[from] ConfigError),
    /// A tensor that the configuration does not name.
    #[error("{path}: the tensor {name} belongs to nothing that adapter_config.json names")]
    Stray {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// Trained on another base.
    #[error(
        "{folder}: the adapter was trained on another base ({trained:.12}) than the model given ({given:.12}); give \
         its own, or --any-base if both are the same model in different number formats"
    )]
    Base {
        /// The adapter's folder.
        folder: PathBuf,
        /// The base that its tensors name.
        trained: String,
        /// The one that it is to be put on.
        given: String,
    },
}

/// The base that an adapter was trained on.
#[derive(Debug, Clone, Copy)]
pub struct Base<'a> {
    /// Its name for PEFT.
    pub name: &'a str,
    /// What tells it from others: [`Model::identity`].
    pub identity: Digest,
}

/// Writes both files into an existing folder.
pub fn write(
    folder: &Path,
    adapter: &Adapter,
    values: &[f32],
    base: Base<'_>,
) -> Result<(), FolderError> {
    let (head, task) = if adapter.labels().is_empty() {
        (Value::Null, "CAUSAL_LM")
    } else {
        (json!(["classifier"]), "SEQ_CLS")
    };
    let mut config = match &adapter.spec().method {
        Method::Lora(lora) => json!({
            "alpha_pattern": lora.alphas.to_json(),
            "bias": "none",
            "fan_in_fan_out": adapter.maps()[0].layout == Layout::InOut,
            "init_lora_weights": true,
            "lora_alpha": lora.alpha,
            "lora_dropout": 0.0,
            "peft_type": LORA,
            "r": lora.r,
            "rank_pattern": lora.ranks.to_json(),
            "target_modules": lora.names(adapter.maps()),
            "use_dora": false,
            "use_rslora": lora.rslora,
        }),
        Method::Bottleneck(bottleneck) => bottleneck.to_json(),
        Method::Prompt(prompt) => prompt.to_json(),
    };
    config["base_model_name_or_path"] = json!(base.name);
    config["inference_mode"] = json!(true);
    config["modules_to_save"] = head;
    config["task_type"] = json!(task);
    put(&folder.join(CONFIG), format!("{config:#}\n").as_bytes())?;
    if !adapter.labels().is_empty() {
        let labels = json!(adapter.labels());
        put(&folder.join(LABELS), format!("{labels:#}\n").as_bytes())?;
    }
    let slots = adapter.flat().slots();
    let tensors = slots.iter().map(|slot| {
        (
            slot.name.clone(),
            slot.shape.clone(),
            &values[slot.range.clone()],
        )
    });
    let notes = [(BASE, base.identity.to_string())];
    put(&folder.join(TENSORS), &serialize(tensors, &notes))
}

/// What the head of an adapter tells apart; `None` where it has none. PEFT keeps no names: then they are numbers.
pub fn labels(folder: &Path) -> Result<Option<Vec<String>>, FolderError> {
    let path = folder.join(LABELS);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let mut weights = Weights::default();
            weights.add_file(&folder.join(TENSORS))?;
            let mut names = head_names(HEAD_WEIGHT).into_iter();
            return match names.find_map(|name| weights.shape(&name)) {
                None => Ok(None),
                Some(&[labels, width]) if width > 0 => {
                    Ok(Some((0..labels).map(|id| format!("LABEL_{id}")).collect()))
                }
                Some(shape) => Err(FolderError::Config {
                    path: folder.join(TENSORS),
                    reason: format!(
                        "the head has shape {shape:?}; it must have a row for each label"
                    ),
                }),
            };
        }
        Err(source) => return Err(FolderError::Io { path, source }),
    };
    let labels = serde_json::from_str(&text);
    labels.map(Some).map_err(|e| FolderError::Config {
        path,
        reason: format!("it must be a list of labels ({e})"),
    })
}

/// Reads an adapter for the model that it was trained on, which takes on the labels of its head. A folder that names no
/// base, such as PEFT's own, is taken at its word.
pub fn open(folder: &Path, model: &mut Model) -> Result<(Adapter, Vec<f32>), FolderError> {
    let given = model.identity().to_string();
    match Weights::note(&folder.join(TENSORS), BASE)? {
        Some(trained) if trained != given => Err(FolderError::Base {
            folder: folder.to_owned(),
            trained,
            given,
        }),
        _ => open_on_any(folder, model),
    }
}

/// The same, whichever base it was trained on.
pub fn open_on_any(folder: &Path, model: &mut Model) -> Result<(Adapter, Vec<f32>), FolderError> {
    if let Some(labels) = labels(folder)? {
        model.set_labels(labels)?;
    }
    read(folder, model.config())
}

/// Reads an adapter for a model: `(adapter, flat vector)`. The seed of A is not recorded and reads as 0.
pub fn read(folder: &Path, model: &Config) -> Result<(Adapter, Vec<f32>), FolderError> {
    let path = folder.join(CONFIG);
    let text = std::fs::read_to_string(&path).map_err(|source| FolderError::Io {
        path: path.clone(),
        source,
    })?;
    let mut method =
        parse(&text, model.classifies()).map_err(|reason| FolderError::Config { path, reason })?;
    if let Method::Lora(lora) = &mut method {
        lora.forget_others(model)?;
    }
    let adapter = Adapter::new(AdapterSpec { method, seed: 0 }, model)?;
    let path = folder.join(TENSORS);
    let mut weights = Weights::default();
    weights.add_file(&path)?;
    let known: BTreeMap<_, _> = adapter
        .flat()
        .slots()
        .iter()
        .map(|slot| (slot.name.as_str(), slot))
        .collect();
    if let Some(name) = weights.names().find(|name| !known.contains_key(name)) {
        let name = name.to_owned();
        return Err(FolderError::Stray { path, name });
    }
    let slots = adapter.flat().slots().iter();
    let found = slots.map(|slot| weights.take(folder, &slot.name, &slot.shape));
    // Room is made for what is there, not for what the configuration says.
    let found: Vec<_> = found.collect::<Result<_, _>>()?;
    let found: Vec<_> = found.iter().map(Weight::values).collect();
    Ok((adapter, found.concat()))
}

/// A safetensors file of f32 tensors, in the order given, with notes beside the one that torch wrote them.
pub fn serialize<'a>(
    tensors: impl IntoIterator<Item = (String, Vec<usize>, &'a [f32])>,
    notes: &[(&str, String)],
) -> Vec<u8> {
    let mut about = serde_json::Map::from_iter([("format".to_owned(), json!("pt"))]);
    about.extend(
        notes
            .iter()
            .map(|(key, note)| ((*key).to_owned(), json!(note))),
    );
    let mut header = serde_json::Map::from_iter([("__metadata__".to_owned(), about.into())]);
    let mut data = Vec::new();
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        let place = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name, place);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], &header, &data].concat()
}

fn parse(text: &str, classifies: bool) -> Result<Method, String> {
    let json: Value = serde_json::from_str(text)
        .map_err(|e| format!("no valid JSON ({e}); copy it again from its origin"))?;
    match json["peft_type"].as_str() {
        Some(LORA) => lora(&json, classifies).map(Method::Lora),
        Some(Bottleneck::TYPE) => Bottleneck::from_json(&json).map(Method::Bottleneck),
        Some(Prompt::TYPE) => Prompt::from_json(&json).map(Method::Prompt),
        _ => Err(format!(
            "peft_type is {}; only {LORA}, {} and {} can be read",
            json["peft_type"],
            Prompt::TYPE,
            Bottleneck::TYPE
        )),
    }
}

/// Keys of LoRA that may not be true here.
pub const FLAGS: [&str; 3] = ["use_dora", "lora_bias", "use_qalora"];
/// Keys of LoRA that may hold nothing here, but for the head of a classifier.
pub const PARTS: [&str; 6] = [
    "modules_to_save",
    "layers_to_transform",
    "exclude_modules",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
];

/// A whole number of a configuration.
pub(super) fn number(json: &Value, key: &str) -> Result<u32, String> {
    let value = json[key].as_u64().and_then(|n| u32::try_from(n).ok());
    value.ok_or_else(|| format!("{key} is {}; it must be a whole number", json[key]))
}

fn lora(json: &Value, classifies: bool) -> Result<Lora, String> {
    for key in FLAGS {
        if !matches!(json[key], Value::Null | Value::Bool(false)) {
            return Err(format!(
                "{key} = {} is not supported; only plain LoRA can be read",
                json[key]
            ));
        }
    }
    for key in PARTS {
        let empty = match &json[key] {
            Value::Null => true,
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => {
                let head = |name: &Value| HEADS.iter().any(|head| name == head);
                let heads = classifies && key == "modules_to_save";
                heads && list.iter().all(head) || list.is_empty()
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        };
        if !empty {
            return Err(format!(
                "{key} is set, which is not supported; only plain LoRA can be read"
            ));
        }
    }
    if !matches!(json["bias"].as_str(), None | Some("none")) {
        return Err(format!(
            "bias = {} is not supported; only none can be read",
            json["bias"]
        ));
    }
    let targets = match &json["target_modules"] {
        Value::String(name) => name.parse::<Targets>().map_err(|error| error.to_string())?,
        Value::Array(list) => {
            let names = list.iter().map(|name| name.as_str().map(str::to_owned));
            let names: Option<Vec<String>> = names.collect();
            Targets::Named(names.ok_or("target_modules must be a list of names")?)
        }
        other => {
            return Err(format!(
                "target_modules is {other}; it must be a list of names"
            ));
        }
    };
    Ok(Lora {
        r: number(json, "r")?,
        alpha: number(json, "lora_alpha")?,
        targets,
        rslora: match &json["use_rslora"] {
            Value::Null => false,
            Value::Bool(rslora) => *rslora,
            other => return Err(format!("use_rslora is {other}; it must be true or false")),
        },
        ranks: Pattern::from_json(&json["rank_pattern"], "rank_pattern")?,
        alphas: Pattern::from_json(&json["alpha_pattern"], "alpha_pattern")?,
    })
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    std::fs::write(path, bytes).map_err(|source| FolderError::Io {
        path: path.to_owned(),
        source,
    })
}

/// How PEFT calls LoRA.
const LORA: &str = "LORA";
/// The modules that PEFT saves whole for a classifier.
const HEADS: [&str; 2] = ["classifier", "score"];
/// The labels of a classifier's head; PEFT has no place for them.
const LABELS: &str = "labels.json";
const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
/// The note of its base beside the tensors, where readers of safetensors ignore it.
const BASE: &str = "conclave.base";

#[cfg(test)]
mod tests {
    use conclave_protocol::charter::NonLinearity;

    use super::super::prompt::EMBEDDINGS;
    use super::*;
    use crate::learn::fixture::{attached, llama, prompt, tiny};

    fn model() -> Config {
        let text = r#"{"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 16}"#;
        Config::parse(text, Path::new("config.json")).unwrap()
    }

    const BASE_OF_TESTS: Base<'_> = Base {
        name: "base",
        identity: Digest::ZERO,
    };

    fn written() -> (tempfile::TempDir, Adapter, Vec<f32>) {
        let spec = AdapterSpec::lora(2, 4, "q_proj,down_proj".parse().unwrap(), 3);
        let mut spec = spec;
        if let Method::Lora(lora) = &mut spec.method {
            lora.rslora = true;
            lora.ranks = Pattern(vec![("q_proj".into(), 3), (".*".into(), 1)]);
            lora.alphas = Pattern(vec![("down_proj".into(), 5)]);
        }
        let adapter = Adapter::new(spec, &model()).unwrap();
        let values: Vec<f32> = (0..adapter.flat().len()).map(|i| i as f32 / 7.0).collect();
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &adapter, &values, BASE_OF_TESTS).unwrap();
        (folder, adapter, values)
    }

    #[test]
    fn what_was_written_is_read_back_to_the_bit() {
        let (folder, adapter, values) = written();
        let (again, read_back) = read(folder.path(), &model()).unwrap();
        assert_eq!(read_back, values);
        assert_eq!(again.flat(), adapter.flat());
        assert_eq!(again.spec().method, adapter.spec().method);
        // A pattern for what has no factors means nothing, as in PEFT.
        let path = folder.path().join(CONFIG);
        let text = std::fs::read_to_string(&path).unwrap();
        let more = text.replacen(
            "\"rank_pattern\": {",
            "\"rank_pattern\": {\"k_proj\": 7,",
            1,
        );
        assert_ne!(more, text);
        std::fs::write(&path, more).unwrap();
        let again = read(folder.path(), &model()).unwrap().0;
        assert_eq!(again.spec().method, adapter.spec().method);
    }

    #[test]
    fn an_adapter_of_another_base_is_refused_and_one_of_no_known_base_is_taken() {
        let mut own = tiny(true);
        let adapter = attached(prompt(2), &own);
        let values = adapter.initial(&own);
        let folder = tempfile::tempdir().unwrap();
        let identity = own.identity();
        let base = Base {
            identity,
            ..BASE_OF_TESTS
        };
        write(folder.path(), &adapter, &values, base).unwrap();
        assert_eq!(open(folder.path(), &mut own).unwrap().1, values);
        let mut other = llama(true, ", \"rms_norm_eps\": 1e-5");
        assert_eq!(
            open(folder.path(), &mut other).unwrap().1,
            values,
            "the same weights"
        );
        let mut other = tiny(false);
        let said = open(folder.path(), &mut other).unwrap_err().to_string();
        assert!(
            said.contains("another base") && said.contains("--any-base"),
            "{said}"
        );
        assert_eq!(open_on_any(folder.path(), &mut other).unwrap().1, values);
        let path = folder.path().join(TENSORS);
        let bytes = std::fs::read(&path).unwrap();
        let key = bytes.windows(BASE.len()).position(|w| w == BASE.as_bytes());
        let mut unnamed = bytes;
        unnamed[key.unwrap()] = b'C';
        std::fs::write(&path, unnamed).unwrap();
        assert_eq!(open(folder.path(), &mut other).unwrap().1, values);
    }

    #[test]
    fn every_method_is_read_back_to_the_bit() {
        let non_linearity = NonLinearity::Silu;
        let methods = [
            Method::Bottleneck(Bottleneck {
                size: 3,
                non_linearity,
            }),
            Method::Prompt(Prompt {
                virtual_tokens: 5,
                start: None,
            }),
        ];
        for method in methods {
            let spec = AdapterSpec { method, seed: 0 };
            let adapter = Adapter::new(spec, &model()).unwrap();
            let values: Vec<f32> = (0..adapter.flat().len()).map(|i| i as f32 / 7.0).collect();
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &adapter, &values, BASE_OF_TESTS).unwrap();
            let (again, read_back) = read(folder.path(), &model()).unwrap();
            assert_eq!(read_back, values);
            assert_eq!(again.spec(), adapter.spec());
            // Another size than that of the tensors.
            let path = folder.path().join(CONFIG);
            let text = std::fs::read_to_string(&path).unwrap();
            let other = text.replace("tokens\": 5", "tokens\": 6");
            let other = other.replace("size\": 3", "size\": 4");
            assert_ne!(other, text);
            std::fs::write(&path, other).unwrap();
            let error = read(folder.path(), &model()).unwrap_err().to_string();
            assert!(error.contains("has shape"), "{error}");
            std::fs::write(&path, text.replace("peft_type\": \"", "peft_type\": \"X")).unwrap();
            let error = read(folder.path(), &model()).unwrap_err().to_string();
            assert!(error.contains("can be read"), "{error}");
        }
    }

    #[test]
    fn soft_prompts_of_other_shapes_are_refused_by_key() {
        for (key, value) in [
            ("num_transformer_submodules", json!(2)),
            ("num_virtual_tokens", json!("five")),
        ] {
            let mut config = Prompt {
                virtual_tokens: 5,
                start: None,
            }
            .to_json();
            config[key] = value;
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(CONFIG), config.to_string()).unwrap();
            let error = read(folder.path(), &model()).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn a_number_alone_makes_no_room() {
        let text = r#"{"hidden_size": 4194304, "intermediate_size": 12, "num_hidden_layers": 1,
            "num_attention_heads": 8, "head_dim": 2, "max_position_embeddings": 4194304, "vocab_size": 16}"#;
        let large = Config::parse(text, Path::new("config.json")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let prompt = Prompt {
            virtual_tokens: 4_194_303,
            start: None,
        };
        std::fs::write(folder.path().join(CONFIG), prompt.to_json().to_string()).unwrap();
        let rows = serialize([(EMBEDDINGS.to_owned(), vec![1, 2], &[0.5, 0.5][..])], &[]);
        std::fs::write(folder.path().join(TENSORS), rows).unwrap();
        let error = read(folder.path(), &large).unwrap_err().to_string();
        assert!(error.contains("has shape"), "{error}");
    }

    #[test]
    fn broken_folders_are_refused_in_one_sentence() {
        let (folder, adapter, mut values) = written();
        values[5] = f32::NAN;
        write(folder.path(), &adapter, &values, BASE_OF_TESTS).unwrap();
        let error = read(folder.path(), &model()).unwrap_err().to_string();
        assert!(error.contains("not finite"), "{error}");
        let tensors = folder.path().join(TENSORS);
        let bytes = std::fs::read(&tensors).unwrap();
        std::fs::write(&tensors, &bytes[..bytes.len() - 9]).unwrap();
        let error = read(folder.path(), &model()).unwrap_err().to_string();
        assert!(error.contains("not a whole safetensors file"), "{error}");
        let path = folder.path().join(CONFIG);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(
            &path,
            text.replace("\"use_dora\": false", "\"use_dora\": true"),
        )
        .unwrap();
        let error = read(folder.path(), &model()).unwrap_err().to_string();
        assert!(error.contains("use_dora"), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(read(folder.path(), &model()).is_err());
    }

    #[test]
    fn the_rows_of_a_head_are_its_labels() {
        let folder = tempfile::tempdir().unwrap();
        let head = |shape: &[usize], values: &[f32]| {
            let [name, _] = head_names(HEAD_WEIGHT);
            let tensor = (name, shape.to_vec(), values);
            std::fs::write(folder.path().join(TENSORS), serialize([tensor], &[])).unwrap();
            labels(folder.path())
        };
        let found = head(&[2, 1], &[0.5; 2]).unwrap().unwrap();
        assert_eq!(found, ["LABEL_0", "LABEL_1"]);
        for (shape, values) in [(&[][..], &[1.0][..]), (&[2], &[1.0; 2]), (&[9, 0], &[])] {
            let said = head(shape, values).unwrap_err().to_string();
            assert!(said.contains("it must have a row for each label"), "{said}");
        }
    }
}
