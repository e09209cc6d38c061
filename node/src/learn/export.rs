//! Models and adapters out: a PEFT folder, the model with the adapter merged in, GGUF files. Output appears by rename.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::data::DataError;
use super::model::Model;
use super::model::adapted::{AdapterTensors, LoraTensors, MethodTensors};
use super::model::bert::{HEAD_BIAS, HEAD_WEIGHT};
use super::model::gguf::Gguf;
use super::peft::folder::{Base, FolderError, serialize};
use super::peft::{Adapter, folder};
use super::vocabulary::Vocabulary;
use super::weights::Weight;

pub mod container;
pub mod gguf;

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The place is taken.
    #[error("{0} is not empty; name a new folder, nothing is overwritten")]
    Taken(PathBuf),
    /// The place cannot be written.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// No merging.
    #[error("{0} cannot be merged into the weights; export it with --format peft")]
    Apart(&'static str),
    /// The adapter's files.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] DataError),
    /// llama.cpp would compute something else.
    #[error("{}: {what} cannot be written as GGUF; export with --format peft or merged", model.display())]
    NotInGguf {
        /// The model's folder.
        model: PathBuf,
        /// What it is.
        what: String,
    },
    /// Too large for sixteen bits.
    #[error("the tensor {0} holds values beyond f16; give --outtype bf16 or f32")]
    Halves(String),
    /// The model's rotary frequencies fit no `config.json`.
    #[error(
        "{0}: the model's rotary positions are stretched by numbers in its GGUF file, for which config.json has no \
         place; export with --format peft, or merge into the model's Hugging Face folder"
    )]
    Frequencies(PathBuf),
}

/// A folder in the making, beside its place; gone again unless [`Self::finish`] is called.
#[derive(Debug)]
pub struct Output {
    place: PathBuf,
    partial: PathBuf,
    finished: bool,
}

impl Output {
    /// Refuses a place that is taken: call it before any work.
    pub fn check(place: &Path) -> Result<(), ExportError> {
        let io = |source| ExportError::Io {
            path: place.to_owned(),
            source,
        };
        match fs::read_dir(place) {
            Ok(mut entries) => match entries.next() {
                None => Ok(()),
                Some(_) => Err(ExportError::Taken(place.to_owned())),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(io(e)),
        }
    }

    /// Makes the partial folder.
    pub fn begin(place: &Path) -> Result<Self, ExportError> {
        Self::check(place)?;
        let name = place
            .file_name()
            .map_or_else(|| "out".into(), std::ffi::OsStr::to_string_lossy);
        let partial = place.with_file_name(format!(".{name}.{}.partial", std::process::id()));
        fs::create_dir_all(&partial).map_err(|source| ExportError::Io {
            path: partial.clone(),
            source,
        })?;
        Ok(Self {
            place: place.to_owned(),
            partial,
            finished: false,
        })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Puts the folder in its place.
    pub fn finish(mut self) -> Result<(), ExportError> {
        let _not_there = fs::remove_dir(&self.place);
        fs::rename(&self.partial, &self.place).map_err(|source| ExportError::Io {
            path: self.place.clone(),
            source,
        })?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.finished {
            let _best_effort = fs::remove_dir_all(&self.partial);
        }
    }
}

/// Writes a PEFT folder.
pub fn peft(
    place: &Path,
    adapter: &Adapter,
    values: &[f32],
    base: Base<'_>,
) -> Result<(), ExportError> {
    let output = Output::begin(place)?;
    folder::write(output.path(), adapter, values, base)?;
    output.finish()
}

/// Writes the model, with `W + scale · B · A` in place of `W` if there is an adapter, and the tokenizer's files of
/// `source` beside it.
pub fn merged(
    place: &Path,
    model: &Model,
    adapter: Option<&AdapterTensors>,
    source: &Path,
) -> Result<(), ExportError> {
    if !model.config().fits_json() {
        return Err(ExportError::Frequencies(source.to_owned()));
    }
    let tensors = merged_tensors(model, adapter)?;
    let output = Output::begin(place)?;
    write_tensors(output.path(), model, &tensors)?;
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    ] {
        let (from, to) = (source.join(name), output.path().join(name));
        if from.exists() {
            fs::copy(&from, &to).map_err(|source| ExportError::Io { path: to, source })?;
        }
    }
    if let (false, Some(path)) = (source.join("tokenizer.json").exists(), Gguf::find(source)) {
        // A model without a tokenizer is merged all the same.
        if let Ok(vocabulary) = Vocabulary::of(&path) {
            let settings = format!("{:#}\n", vocabulary.settings).into_bytes();
            for (name, bytes) in [
                ("tokenizer.json", vocabulary.tokenizer),
                ("tokenizer_config.json", settings),
            ] {
                let to = output.path().join(name);
                fs::write(&to, bytes).map_err(|source| ExportError::Io { path: to, source })?;
            }
        }
    }
    output.finish()
}

/// LoRA's factors; other methods are no part of a weight.
fn only_lora(adapter: &AdapterTensors) -> Result<&LoraTensors, ExportError> {
    match &adapter.method {
        MethodTensors::Lora(lora) => Ok(lora),
        MethodTensors::Bottleneck(_) => Err(ExportError::Apart("a bottleneck adapter")),
        MethodTensors::Prompt(_) => Err(ExportError::Apart("a soft prompt")),
    }
}

/// The tensors of a model, with an adapter merged in if there is one.
fn merged_tensors(
    model: &Model,
    adapter: Option<&AdapterTensors>,
) -> Result<BTreeMap<String, Weight>, ExportError> {
    let mut tensors = model.tensors();
    let Some(adapter) = adapter else {
        return Ok(tensors);
    };
    let lora = only_lora(adapter)?;
    for (module, factors) in &lora.factors {
        let (a, b) = (flattened(&factors.a), flattened(&factors.b));
        let merged = model.map(module).merged(&a, &b, factors.scale);
        tensors.insert(format!("{module}.weight"), merged);
    }
    if let Some(head) = &adapter.head {
        let bias = head.bias.to_vec1();
        let bias = bias.expect("a head is of f32 on the CPU");
        let shapes = [head.weight.dims().to_vec(), vec![bias.len()]];
        let parts = [(HEAD_WEIGHT, flattened(&head.weight)), (HEAD_BIAS, bias)];
        for ((name, values), shape) in parts.into_iter().zip(shapes) {
            tensors.insert(name.to_owned(), Weight::owned(values, shape));
        }
    }
    Ok(tensors)
}

/// Writes `config.json` and `model.safetensors` into an existing folder.
pub fn write_model(place: &Path, model: &Model) -> Result<(), ExportError> {
    write_tensors(place, model, &model.tensors())
}

fn write_tensors(
    place: &Path,
    model: &Model,
    tensors: &BTreeMap<String, Weight>,
) -> Result<(), ExportError> {
    let views = tensors
        .iter()
        .map(|(name, w)| (name.clone(), w.shape().to_vec(), w.values()));
    for (name, bytes) in [
        ("config.json", model.config().to_json().into_bytes()),
        ("model.safetensors", serialize(views, &[])),
    ] {
        let path = place.join(name);
        fs::write(&path, bytes).map_err(|source| ExportError::Io { path, source })?;
    }
    Ok(())
}

fn flattened(factor: &candle_core::Tensor) -> Vec<f32> {
    let rows = factor.to_vec2::<f32>();
    rows.expect("factors are f32 matrices on the CPU").concat()
}

#[cfg(test)]
mod tests {
    use conclave_protocol::charter::NonLinearity;

    use super::*;
    use crate::learn::batch::Batch;
    use crate::learn::fixture::{attached, bert, bottleneck, gpt2, prompt, tiny};
    use crate::learn::model::adapted::Moving;
    use crate::learn::model::decode::Decoding;
    use crate::learn::peft::{AdapterSpec, Method, Pattern, uniform};

    fn base_of(model: &Model) -> Base<'static> {
        let identity = model.identity();
        Base {
            name: "base",
            identity,
        }
    }

    pub(super) fn logits(model: &Model, lora: Option<&AdapterTensors>) -> Vec<f32> {
        let ids = [1, 5, 9, 2];
        if model.config().classifies() {
            let moving = lora.map_or(Moving::Nothing, |lora| Moving::Adapter(lora.clone()));
            return model
                .label_logits(&Batch::text(&ids), &moving)
                .unwrap()
                .concat();
        }
        Decoding::new(model, lora).extend(&ids).unwrap()
    }

    /// An adapter on these maps, with random factors.
    pub(super) fn random_adapter(model: &Model, targets: &str) -> (Adapter, Vec<f32>) {
        let mut spec = AdapterSpec::lora(2, 3, targets.parse().unwrap(), 5);
        if let Method::Lora(lora) = &mut spec.method {
            lora.rslora = true;
            lora.ranks = Pattern(vec![("layers.1.*|h.1.*|layer.1.*".into(), 3)]);
            lora.alphas = Pattern(vec![(".*0.*".into(), 2)]);
        }
        let adapter = Adapter::new(spec, model.config()).unwrap();
        let mut values = vec![0.0; adapter.flat().len()];
        uniform([4; 32], 0.5, &mut values);
        (adapter, values)
    }

    pub(super) fn bind(adapter: &Adapter, values: &[f32]) -> AdapterTensors {
        adapter.bind(&adapter.flat().tensors(values, |_| false).unwrap())
    }

    #[test]
    fn exports_are_read_back_with_the_same_logits() {
        let model = tiny(false);
        let (adapter, values) = random_adapter(&model, "q_proj,v_proj,down_proj");
        let lora = bind(&adapter, &values);
        let want = logits(&model, Some(&lora));
        assert_ne!(want, logits(&model, None));
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("peft");
        peft(&place, &adapter, &values, base_of(&model)).unwrap();
        let (again, read) = folder::read(&place, model.config()).unwrap();
        assert_eq!(
            logits(&model, Some(&bind(&again, &read))),
            want,
            "identical, not close"
        );
        let place = folder.path().join("merged");
        merged(&place, &model, Some(&lora), folder.path()).unwrap();
        let whole = logits(&Model::open(&place).unwrap(), None);
        for (w, m) in want.iter().zip(&whole) {
            assert!((w - m).abs() < 1e-4, "{w} with the adapter, {m} merged");
        }
        let error = merged(&place, &model, Some(&lora), folder.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("not empty"), "{error}");
        let left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 2, "no partial folder stays: {left:?}");
    }

    #[test]
    fn what_is_no_part_of_a_weight_is_not_merged_and_nothing_is_written() {
        let (model, folder) = (tiny(true), tempfile::tempdir().unwrap());
        for (method, name) in [
            (bottleneck(2, NonLinearity::Tanh), "bottleneck"),
            (prompt(2), "soft prompt"),
        ] {
            let adapter = attached(method, &model);
            let bound = bind(&adapter, &adapter.initial(&model));
            let place = folder.path().join("merged");
            let said = merged(&place, &model, Some(&bound), folder.path()).unwrap_err();
            assert!(said.to_string().contains(name), "{said}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn gpt2_is_merged_read_back_and_understood_without_its_prefix() {
        let (model, folder) = (gpt2("gelu_new"), tempfile::tempdir().unwrap());
        let (adapter, values) = random_adapter(&model, "all-linear");
        let lora = bind(&adapter, &values);
        let want = logits(&model, Some(&lora));
        let place = folder.path().join("merged");
        merged(&place, &model, Some(&lora), folder.path()).unwrap();
        let whole = Model::open(&place).unwrap();
        for (w, m) in want.iter().zip(logits(&whole, None)) {
            assert!((w - m).abs() < 1e-4, "{w} with the adapter, {m} merged");
        }
        let tensors = whole.tensors();
        let bare = tensors.iter().map(|(name, w)| {
            let bare = name.strip_prefix("transformer.").unwrap();
            (bare.to_owned(), w.shape().to_vec(), w.values())
        });
        let place = folder.path().join("bare");
        fs::create_dir(&place).unwrap();
        fs::write(place.join("config.json"), model.config().to_json()).unwrap();
        fs::write(place.join("model.safetensors"), serialize(bare, &[])).unwrap();
        let again = Model::open(&place).unwrap();
        assert_eq!(logits(&again, None), logits(&whole, None));
        let place = folder.path().join("peft");
        peft(&place, &adapter, &values, base_of(&model)).unwrap();
        let config = fs::read_to_string(place.join("adapter_config.json")).unwrap();
        assert!(config.contains("\"fan_in_fan_out\": true"), "{config}");
        let (_, read) = folder::read(&place, model.config()).unwrap();
        assert_eq!(read, values);
    }

    #[test]
    fn a_classifier_goes_out_with_its_head_and_its_labels() {
        let (model, folder) = (bert(false), tempfile::tempdir().unwrap());
        let (adapter, values) = random_adapter(&model, "all-linear");
        let lora = bind(&adapter, &values);
        let want = logits(&model, Some(&lora));
        assert_eq!(want.len(), 3);
        let place = folder.path().join("peft");
        peft(&place, &adapter, &values, base_of(&model)).unwrap();
        let labels = folder::labels(&place).unwrap().unwrap();
        assert_eq!(labels, ["a", "b", "c"]);
        assert_eq!(folder::read(&place, model.config()).unwrap().1, values);
        fs::remove_file(place.join("labels.json")).unwrap();
        assert_eq!(folder::labels(&place).unwrap().unwrap()[2], "LABEL_2");
        let place = folder.path().join("merged");
        merged(&place, &model, Some(&lora), folder.path()).unwrap();
        let mut whole = Model::open(&place).unwrap();
        assert_eq!(whole.config().labels, labels);
        for (w, m) in want.iter().zip(logits(&whole, None)) {
            assert!((w - m).abs() < 1e-4, "{w} with the adapter, {m} merged");
        }
        let error = whole.set_labels(vec!["other".into()]).unwrap_err();
        assert!(error.to_string().contains("a, b, c"), "{error}");
        let error = tiny(true).set_labels(vec!["a".into()]).unwrap_err();
        assert!(error.to_string().contains("no encoder"), "{error}");
    }

    #[test]
    fn broken_model_folders_are_refused_by_file_and_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let refused = || Model::open(path).unwrap_err().to_string();
        assert!(refused().contains("config.json"));
        write_model(path, &tiny(true)).unwrap();
        let opened = Model::open(path).unwrap();
        assert_eq!(logits(&opened, None), logits(&tiny(true), None));
        assert_eq!(opened.identity(), tiny(true).identity());
        let config = fs::read_to_string(path.join("config.json")).unwrap();
        let untied = config.replace(
            "\"tie_word_embeddings\": true",
            "\"tie_word_embeddings\": false",
        );
        fs::write(path.join("config.json"), untied).unwrap();
        assert!(
            refused().contains("lm_head.weight is missing"),
            "{}",
            refused()
        );
        fs::write(
            path.join("config.json"),
            config.replace("\"vocab_size\": 32", "\"vocab_size\": 33"),
        )
        .unwrap();
        assert!(
            refused().contains("model.embed_tokens.weight has shape [32, 16]"),
            "{}",
            refused()
        );
        let bytes = fs::read(path.join("model.safetensors")).unwrap();
        fs::write(path.join("model.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
        assert!(
            refused().contains("not a whole safetensors file"),
            "{}",
            refused()
        );
        fs::write(path.join("model.safetensors"), b"").unwrap();
        assert!(refused().contains("model.safetensors"), "{}", refused());
        fs::remove_file(path.join("model.safetensors")).unwrap();
        assert!(refused().contains("no model.safetensors"), "{}", refused());
    }
}
