//! Makes the embedded base model: `base_model FOLDER [STEPS]`.
//!
//! A byte-level Llama trained by our own engine on the public part of the three generated scenarios.
//! Everything comes from fixed seeds, so that the same CPU features and thread count give the same
//! bytes.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use conclave::learn::data::{Chance, Example, Place, Row, Tokens};
use conclave::learn::flatten::Flat;
use conclave::learn::model::config::Config;
use conclave::learn::model::{self, Model};
use conclave::learn::steps::Run;
use conclave::learn::trainer::{Subject, Trainer};
use conclave::learn::training::Training;
use conclave::learn::weights::Weight;
use conclave::scenario::Scenario;
use conclave_protocol::names::Factor;
use half::f16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};

const HIDDEN: usize = 96;
const INNER: usize = 256;
const LAYERS: usize = 3;
const HEADS: usize = 4;
const CONTEXT: usize = 256;
const BOS: u32 = 256;
const EOS: u32 = 257;
const SEED: u64 = 20_260_101;
const ROWS: usize = 12_000;
const ROWS_HELD_OUT: usize = 200;
const BATCH: u32 = 16;
const STEPS: u64 = 1000;
const RATE: f64 = 3e-3;
const THREADS: usize = 2;

fn main() -> Result<()> {
    let mut given = std::env::args().skip(1);
    let Some(folder) = given.next().map(PathBuf::from) else {
        bail!("give the folder to write: base_model FOLDER [STEPS]");
    };
    let steps = given
        .next()
        .map_or(Ok(STEPS), |text| text.parse())
        .context("STEPS is no number")?;
    std::fs::create_dir_all(&folder)?;
    let config = config();
    std::fs::write(
        folder.join("config.json"),
        serde_json::to_string_pretty(&config)? + "\n",
    )?;
    std::fs::write(
        folder.join("tokenizer.json"),
        serde_json::to_string(&tokenizer())? + "\n",
    )?;

    let tokens = Tokens::open(&folder)?;
    let (train, held) = (
        examples(&tokens, SEED, ROWS)?,
        examples(&tokens, SEED + 1, ROWS_HELD_OUT)?,
    );
    let config = Config::read(&folder)?;
    let mut chance = Chance::new(SEED, 0);
    let start = Model::build(config, |name, shape| {
        Ok::<_, std::convert::Infallible>(initial(name, shape, &mut chance))
    })?;
    let shapes = start
        .tensors()
        .into_iter()
        .map(|(name, weight)| (name, weight.shape().to_vec()));
    let flat = Flat::new(shapes.collect::<Vec<_>>());
    let training = Training {
        learning_rate: Some(RATE),
        micro_batch_size: BATCH,
        sequence_len: Some(128),
        weight_decay: 0.01,
        ..Training::default()
    };
    let trainer = Trainer::new(start, Subject::All(flat), training, THREADS, &Device::Cpu)?;
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&SEED.to_le_bytes());
    let run = Run {
        examples: &train,
        factor: Factor::All,
        steps: 0..steps,
        total: steps,
        seed,
    };
    let mut log = std::io::stderr();
    let values = trainer.run(&trainer.initial(), &run, |step| {
        if step.index % 50 == 0 {
            let (index, loss) = (step.index, step.loss);
            let _written = writeln!(
                log,
                "step {index} of {steps}: loss {loss:.4}, {:?} a step",
                step.time
            );
        }
        ControlFlow::Continue(())
    })?;
    let measured = trainer
        .evaluate(&values, &held)?
        .context("held-out rows to score")?;
    write_weights(&folder, trainer.flat(), &values)?;
    write_readme(&folder, values.len(), steps, measured.loss)?;
    let mut out = std::io::stdout();
    let digest = model::digest(&folder)?;
    writeln!(
        out,
        "{}",
        json!({"digest": digest.to_string(), "parameters": values.len(), "loss": measured.loss})
    )?;
    Ok(())
}

/// Public rows of the three scenarios in turn, every token but the first scored.
fn examples(tokens: &Tokens, seed: u64, each: usize) -> Result<Vec<Example>> {
    let mut examples = Vec::with_capacity(each * Scenario::ALL.len());
    for scenario in Scenario::ALL {
        let file: Arc<Path> = Arc::from(Path::new(scenario.name()));
        for (line, text) in (1..).zip(scenario.general(seed, each)) {
            let row = Row::parse(
                &text,
                Place {
                    file: Arc::clone(&file),
                    line,
                },
            )?;
            let (mut example, cut) = tokens.tokenise(&row, 128)?;
            ensure!(
                !cut,
                "a row of {scenario} is longer than 128 tokens: {text}"
            );
            example
                .scored
                .iter_mut()
                .skip(1)
                .for_each(|scored| *scored = true);
            examples.push(example);
        }
    }
    Ok(examples)
}

/// Norms at 1; maps uniform with standard deviation 1/sqrt(inputs), smaller where they feed the
/// residual stream; the embedding with 0.05.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "small sizes; weights are f32"
)]
fn initial(name: &str, shape: &[usize], chance: &mut Chance) -> Weight {
    let len = shape.iter().product();
    let deviation = if name.contains("norm") {
        return Weight::owned(vec![1.0; len], shape.to_vec());
    } else if name.contains("embed") {
        0.05
    } else if name.contains("o_proj") || name.contains("down_proj") {
        1.0 / ((shape[1] * 2 * LAYERS) as f64).sqrt()
    } else {
        1.0 / (shape[1] as f64).sqrt()
    };
    let bound = deviation * 3.0_f64.sqrt();
    let values = (0..len)
        .map(|_| ((2.0 * chance.fraction() - 1.0) * bound) as f32)
        .collect();
    Weight::owned(values, shape.to_vec())
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": EOS + 1,
        "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false,
        "bos_token_id": BOS, "eos_token_id": EOS, "torch_dtype": "float16"
    })
}

/// One token a byte, in the spelling of byte-level tokenizers, then `<s>` and `</s>`.
fn tokenizer() -> Value {
    let mut vocab = Map::new();
    let mut strange = 256;
    for byte in 0..=255_u32 {
        let plain = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let letter = if plain { byte } else { strange };
        strange += u32::from(!plain);
        vocab.insert(
            char::from_u32(letter).unwrap_or_default().to_string(),
            byte.into(),
        );
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(BOS, "<s>"), special(EOS, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []}
    })
}

fn write_weights(folder: &Path, flat: &Flat, values: &[f32]) -> Result<()> {
    let mut bytes = BTreeMap::new();
    for slot in flat.slots() {
        let half = values[slot.range.clone()]
            .iter()
            .flat_map(|&value| f16::from_f32(value).to_le_bytes());
        bytes.insert(
            slot.name.clone(),
            (slot.shape.clone(), half.collect::<Vec<u8>>()),
        );
    }
    let mut views = BTreeMap::new();
    for (name, (shape, bytes)) in &bytes {
        views.insert(
            name.as_str(),
            TensorView::new(Dtype::F16, shape.clone(), bytes)?,
        );
    }
    std::fs::write(
        folder.join("model.safetensors"),
        safetensors::serialize(views, None)?,
    )?;
    Ok(())
}

fn write_readme(folder: &Path, parameters: usize, steps: u64, loss: f64) -> Result<()> {
    let text = format!(
        "# The embedded base model\n\n\
         Generated: a byte-level Llama of {parameters} parameters ({LAYERS} layers, hidden {HIDDEN}, f16), trained \
         by this project's own engine on the public part of its own generated scenarios, and on nothing else. \
         It knows a few invented sentences about clinics, banks and campuses and is good for nothing but \
         demonstrations.\n\n\
         * Recipe: `scripts/base-model` ({steps} steps of {BATCH} rows, {THREADS} threads).\n\
         * Held-out loss on fresh public rows: {loss:.4} nats a byte.\n\
         * The same CPU features and thread count give the same bytes; elsewhere the loss is within 1 %.\n"
    );
    std::fs::write(folder.join("README.md"), text)?;
    Ok(())
}
