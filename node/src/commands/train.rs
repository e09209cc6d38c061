//! `conclave train`: fine-tuning alone, with the engine that federations use.

use std::path::PathBuf;

use anyhow::Context as _;
use conclave_crypto::digest::Digest;
use conclave_protocol::names::Factor;
use serde_json::json;

use super::loading::{flag, peak_rss_bytes};
use super::method::MethodArgs;
use crate::cli::{note, print, print_json};
use crate::learn::data::Excess;
use crate::learn::device::Device;
use crate::learn::examples::Examples;
use crate::learn::model::{self, Model};
use crate::learn::peft::folder::Base;
use crate::learn::peft::{Adapter, AdapterSpec};
use crate::learn::schedule::Scheduler;
use crate::learn::steps::{Run, Step};
use crate::learn::trainer::{Subject, Trainer};
use crate::learn::training::Training;
use crate::learn::weights::quantised::Precision;
use course::{Course, Ended};
use folder::Folder;
use rows::{rows, synthetic};
use show::Show;

mod course;
mod folder;
mod rows;
mod show;

const EXAMPLE: &str = "Examples:
  conclave train --model llama/ --data notes.jsonl --out adapter/
  conclave train --model llama/ --data notes.jsonl --method adapter --bottleneck-size 32 --out adapter/
  conclave train --model llama/ --data notes.jsonl --method prompt --learning-rate 0.03 --out adapter/
  conclave train --model llama/ --data notes.csv --eval-every 50 --early-stop 3 --out adapter/
  conclave train --model llama/ --data notes.parquet --checkpoint-every 100 --out adapter/
  conclave train --model llama/ --data notes.parquet --checkpoint-every 100 --out adapter/ --resume";

/// Solo training.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Args {
    /// The base model: a Hugging Face folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Rows to train on: JSON Lines or CSV (also `.gz`) or Parquet, a file or a folder of them.
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "synthetic_tokens"
    )]
    data: Option<PathBuf>,
    /// Rows that score; without it 5 % of the data is held out, from 40 rows on.
    #[arg(long, value_name = "PATH", conflicts_with = "synthetic_tokens")]
    eval_data: Option<PathBuf>,
    /// Learn the field `label` behind the text of each row, and nothing else.
    #[arg(long, conflicts_with = "synthetic_tokens")]
    labels: bool,
    /// Where the adapter goes, as a PEFT folder with `metrics.jsonl` and `loss.svg`; it must not exist, or be empty.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    method: MethodArgs,
    /// Peak of the schedule; by default 5e-3 under 10 million parameters, else 2e-4, of a classifier 2e-3; of a soft
    /// prompt 3e-2.
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Rows that go through the model at once.
    #[arg(long, default_value_t = 8)]
    micro_batch_size: u32,
    /// Micro-batches of a step.
    #[arg(long, default_value_t = 1)]
    gradient_accumulation_steps: u32,
    /// Most tokens of a row; by default the smaller of 512 and the model's context.
    #[arg(long)]
    sequence_len: Option<u32>,
    /// What becomes of longer rows.
    #[arg(long, value_enum, default_value = "truncate")]
    excess_length_strategy: Excess,
    /// Fill each row with several examples up to the sequence length.
    #[arg(long)]
    sample_packing: bool,
    /// How the learning rate falls after the warm-up.
    #[arg(long, value_enum, default_value = "cosine")]
    lr_scheduler: Scheduler,
    /// The share of all steps over which the learning rate rises.
    #[arg(long, value_name = "SHARE", default_value_t = 0.03)]
    warmup_ratio: f64,
    /// AdamW's decoupled decay.
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    weight_decay: f64,
    /// Gradients longer than this are scaled down to it.
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    max_grad_norm: f64,
    /// The share of the inputs of LoRA's factors that is zeroed at each step.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    lora_dropout: f64,
    /// Where to compute: auto, cpu, or cuda:0 in a program that was built for GPUs.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: Device,
    /// How the frozen linear maps are held in memory (QLoRA): the adapter stays in 32 bits.
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    /// Forget what a layer computed, and compute it again for the gradient: less memory, more time, the same bits.
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Optimiser steps.
    #[arg(long, default_value_t = 120)]
    steps: u32,
    /// Score the held-out rows after every N steps, and keep the adapter that scored best.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    eval_every: Option<u64>,
    /// Stop after this many scores in a row that were no better.
    #[arg(long, value_name = "PATIENCE", requires = "eval_every", value_parser = clap::value_parser!(u32).range(1..))]
    early_stop: Option<u32>,
    /// Write a checkpoint after every N steps, beside --out.
    #[arg(long, value_name = "N", requires = "out", value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_every: Option<u64>,
    /// Go on from the checkpoint of a run that did not end, with the same settings.
    #[arg(long, requires = "out")]
    resume: bool,
    /// Threads to compute on; by default all.
    #[arg(long)]
    threads: Option<usize>,
    /// Of the adapter's start, the held-out rows and the batches.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Train on made-up tokens: needs neither tokenizer nor data (benchmarks).
    #[arg(long, conflicts_with = "data")]
    synthetic_tokens: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let training = checked(args)?;
    let out = args.out.as_deref();
    let mut folder = out.map(|out| Folder::new(out, args.resume)).transpose()?;
    let device = training.device.open().map_err(flag)?;
    let mut model = Model::open_at(&args.model, training.precision)?;
    if model.config().classifies() && args.synthetic_tokens {
        return Err(flag(
            "--synthetic-tokens: the model is an encoder; give --data with text and label",
        ));
    }
    let spec = AdapterSpec {
        method: args.method.solo(&args.model)?,
        seed: args.seed,
    };
    // What a bare encoder tells apart is what its rows have, and these are read once.
    let mut read = None;
    if model.config().classes().is_some_and(<[String]>::is_empty) {
        let mut config = model.config().clone();
        // The room for a row is the same whatever the labels.
        config.set_labels(vec!["any".to_owned()])?;
        let adapter = Adapter::new(spec.clone(), &config).map_err(flag)?;
        let found = rows(args, &training, adapter.room(&config), Some(&[]))?;
        model.set_labels(found.classes.clone())?;
        read = Some(found);
    }
    let adapter = Adapter::new(spec, model.config()).map_err(flag)?;
    let threads = super::loading::threads(args.threads)?;
    let vocabulary = model.config().vocabulary;
    let trainer = Trainer::new(model, Subject::Adapter(adapter), training, threads, &device)?;
    let (examples, held_out): (Box<dyn Examples>, Box<dyn Examples>) = if args.synthetic_tokens {
        let length = trainer.training().length_for(trainer.context());
        (
            Box::new(synthetic(vocabulary, length, args.seed)),
            Box::new(Vec::new()),
        )
    } else {
        let (training, room) = (trainer.training(), trainer.context());
        let read = match read {
            Some(read) => read,
            None => rows(args, training, room, trainer.model().config().classes())?,
        };
        (Box::new(read.examples), Box::new(read.held_out))
    };
    trainer.admit(&*examples)?;
    if held_out.count() > 0 {
        trainer.admit(&*held_out)?;
    } else if args.eval_every.is_some() {
        return Err(flag(
            "--eval-every: no rows are held out to score; give --eval-data, or 40 rows or more",
        ));
    }
    let total = u64::from(args.steps);
    let seed = Digest::of("conclave/v1/solo-batches", &[&args.seed.to_le_bytes()]);
    let run = Run {
        examples: &*examples,
        factor: Factor::All,
        steps: 0..total,
        total,
        seed: *seed.as_bytes(),
    };
    let course = Course {
        trainer: &trainer,
        run: &run,
        held_out: &*held_out,
        eval_every: args.eval_every,
        patience: args.early_stop,
        checkpoint_every: args.checkpoint_every,
        settings: if args.checkpoint_every.is_some() || args.resume {
            settings(args, &trainer, [&*examples, &*held_out])?
        } else {
            Vec::new()
        },
    };
    let resumed = match &folder {
        Some(folder) if args.resume => Some(folder.checkpoint(&course.settings)?),
        _ => None,
    };
    let done = resumed.as_ref().map_or(0, |resumed| resumed.state.next);
    if resumed.is_some() {
        note(&format!("going on after step {done}"));
    }
    let show = Show::start(total, done);
    let ended = course.run(resumed, folder.as_mut(), &show);
    show.finish();
    let ended = ended?;
    if let (Some(folder), Subject::Adapter(adapter)) = (folder, trainer.subject()) {
        let base = Base {
            name: &args.model.display().to_string(),
            identity: trainer.model().identity(),
        };
        folder.finish(adapter, &ended.values, base, &ended.past)?;
        if let Some(out) = out {
            note(&format!("the adapter is in {}", out.display()));
        }
    }
    report(args, &trainer, &ended);
    Ok(())
}

/// The settings, after a look at all flags that no model is needed for.
fn checked(args: &Args) -> anyhow::Result<Training> {
    let training = training(args);
    training.check().map_err(flag)?;
    args.method.check()?;
    if args.lora_dropout > 0.0 && !args.method.is_lora() {
        return Err(flag(
            "--lora-dropout belongs to --method lora; leave it out",
        ));
    }
    if args.steps == 0 {
        return Err(flag("--steps must be at least 1"));
    }
    Ok(training)
}

fn training(args: &Args) -> Training {
    Training {
        learning_rate: args.learning_rate,
        micro_batch_size: args.micro_batch_size,
        gradient_accumulation_steps: args.gradient_accumulation_steps,
        sequence_len: args.sequence_len,
        excess_length_strategy: args.excess_length_strategy,
        sample_packing: args.sample_packing,
        lr_scheduler: args.lr_scheduler,
        warmup_ratio: args.warmup_ratio,
        weight_decay: args.weight_decay,
        max_grad_norm: args.max_grad_norm,
        lora_dropout: args.lora_dropout,
        device: args.device,
        precision: args.precision,
        gradient_checkpointing: args.gradient_checkpointing,
        seed: args.seed,
    }
}

/// Everything that the bits of a run depend on, by the name of its flag.
fn settings(
    args: &Args,
    trainer: &Trainer,
    [examples, held_out]: [&dyn Examples; 2],
) -> anyhow::Result<Vec<(String, String)>> {
    let keys = serde_json::to_value(trainer.training()).context("the settings as JSON")?;
    let mut settings: Vec<(String, String)> = Vec::new();
    let keys = keys.as_object().into_iter().flatten();
    let without = ["gradient_checkpointing", "device"];
    for (key, value) in keys.filter(|(key, _)| !without.contains(&key.as_str())) {
        settings.push((key.clone(), value.to_string()));
    }
    let watched = |every: Option<u64>| every.map_or_else(|| "none".to_owned(), |n| n.to_string());
    settings.extend(
        [
            ("adapter", format!("{:?}", trainer.subject().spec())),
            ("device", place(trainer.model().device()).to_owned()),
            ("steps", args.steps.to_string()),
            ("eval_every", watched(args.eval_every)),
            ("early_stop", watched(args.early_stop.map(u64::from))),
            ("model", model::digest(&args.model)?.to_string()),
            ("data", contents(examples)?.to_string()),
            ("held-out rows", contents(held_out)?.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    Ok(settings)
}

/// The kind of a device.
fn place(device: &candle_core::Device) -> &'static str {
    if device.is_cpu() { "cpu" } else { "cuda" }
}

/// A digest of all examples.
fn contents(examples: &dyn Examples) -> anyhow::Result<Digest> {
    let mut digest = Digest::of("conclave/v1/examples", &[]);
    for index in 0..examples.count() {
        let example = examples.example(index)?;
        let mut bytes = Vec::with_capacity(example.ids.len() * 5);
        for (id, scored) in example.ids.iter().zip(&example.scored) {
            bytes.extend(id.to_le_bytes());
            bytes.push(u8::from(*scored));
        }
        digest = Digest::of("conclave/v1/examples", &[digest.as_bytes(), &bytes]);
    }
    Ok(digest)
}

fn report(args: &Args, trainer: &Trainer, ended: &Ended) {
    let (steps, before, after) = (&ended.past.steps, ended.past.before, ended.after);
    let digest = trainer.flat().digest(&ended.values);
    let speed = speed(steps);
    let tokens: u64 = steps.iter().map(|step| step.tokens).sum();
    let losses: Vec<f64> = steps.iter().map(|step| step.loss).collect();
    if args.json {
        print_json(&json!({
            "steps": steps.len(),
            "tokens": tokens,
            "tokens_per_second": speed,
            "peak_rss_bytes": peak_rss_bytes(),
            "trainable_parameters": trainer.flat().len(),
            "losses": losses,
            "kept_step": ended.kept,
            "eval_loss_before": before,
            "eval_loss_after": after,
            "adapter_digest": digest.to_string(),
        }));
        return;
    }
    let last = losses.last().copied().unwrap_or(f64::NAN);
    print(&format!(
        "{} steps, {tokens} tokens, {speed:.0} tokens a second, last loss {last:.4}",
        steps.len()
    ));
    if let (Some(before), Some(after)) = (before, after) {
        print(&format!(
            "held-out loss {before:.4} before, {after:.4} after step {}",
            ended.kept
        ));
    }
    print(&format!("adapter {digest}"));
}

/// Median tokens a second over the steps after the second (over all of them, if there are no more).
fn speed(steps: &[Step]) -> f64 {
    let kept = if steps.len() > 2 { &steps[2..] } else { steps };
    #[expect(clippy::cast_precision_loss, reason = "token counts are small")]
    let mut speeds: Vec<f64> = kept
        .iter()
        .map(|step| step.tokens as f64 / step.time.as_secs_f64())
        .collect();
    speeds.sort_by(f64::total_cmp);
    match speeds.len() {
        0 => 0.0,
        n if n % 2 == 1 => speeds[n / 2],
        n => f64::midpoint(speeds[n / 2 - 1], speeds[n / 2]),
    }
}
