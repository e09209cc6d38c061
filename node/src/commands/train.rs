//! `conclave train`: fine-tuning alone, with the engine that federations use.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Context as _;
use conclave_crypto::digest::Digest;
use conclave_protocol::names::Factor;
use serde_json::json;

use super::loading::{flag, peak_rss_bytes};
use crate::cli::{note, print, print_json};
use crate::learn::data::{Example, histogram};
use crate::learn::export::{self, Output};
use crate::learn::model::Model;
use crate::learn::peft::{Adapter, AdapterSpec, Targets};
use crate::learn::prepare::prepare;
use crate::learn::trainer::{Run, Step, Subject, Trainer};
use crate::learn::training::Training;

const EXAMPLE: &str = "Example:
  conclave train --model llama/ --data notes.jsonl --out adapter/";

/// Solo training.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
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
    /// Where the adapter goes, as a PEFT folder; it must not exist, or be empty.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What is trained.
    #[arg(long, value_enum, default_value = "lora")]
    method: Method,
    /// Rank of the LoRA factors.
    #[arg(long, default_value_t = 8)]
    lora_r: u32,
    /// The side path counts alpha / r.
    #[arg(long, default_value_t = 16)]
    lora_alpha: u32,
    /// Which linear maps carry factors: all-linear (all but the output head) or names with commas between.
    #[arg(long, default_value = "all-linear")]
    target_modules: Targets,
    /// Peak of the schedule; by default 5e-3 under 10 million parameters, else 2e-4.
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Rows that go through the model at once.
    #[arg(long, default_value_t = 8)]
    micro_batch_size: u32,
    /// Micro-batches of a step.
    #[arg(long, default_value_t = 1)]
    gradient_accumulation_steps: u32,
    /// Rows are cut to this many tokens; by default the smaller of 512 and the model's context.
    #[arg(long)]
    sequence_len: Option<u32>,
    /// Fill each row with several examples up to the sequence length.
    #[arg(long)]
    sample_packing: bool,
    /// Optimiser steps.
    #[arg(long, default_value_t = 120)]
    steps: u32,
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

/// Ways to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// Low-rank factors beside the linear maps.
    Lora,
}

/// Runs it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let Method::Lora = args.method;
    let training = training(args);
    training.check().map_err(flag)?;
    if args.steps == 0 {
        return Err(flag("--steps must be at least 1"));
    }
    if let Some(out) = &args.out {
        Output::check(out).map_err(|e| flag(format!("--out {e}")))?;
    }
    let model = Model::open(&args.model)?;
    let adapter = Adapter::new(spec(args), model.config()).map_err(flag)?;
    let length = training.length_for(model.config());
    let vocabulary = model.config().vocabulary;
    let threads = super::loading::threads(args.threads)?;
    let trainer = Trainer::new(model, Subject::Lora(adapter), training, threads)?;
    let (examples, held_out) = if args.synthetic_tokens {
        (synthetic(vocabulary, length, args.seed), Vec::new())
    } else {
        let data = args.data.as_deref().context("--data is missing")?;
        let prepared = prepare(
            &args.model,
            data,
            args.eval_data.as_deref(),
            length,
            args.seed,
        )?;
        note(&format!(
            "the first example: {}",
            prepared.preview.trim_end()
        ));
        note(histogram(&prepared.examples).trim_end());
        if prepared.cut > 0 {
            note(&format!(
                "{} rows were longer than {length} tokens and were cut",
                prepared.cut
            ));
        }
        (prepared.examples, prepared.held_out)
    };
    let examples = trainer.admit(examples)?;
    let held_out = if held_out.is_empty() {
        held_out
    } else {
        trainer.admit(held_out)?
    };
    let mut values = trainer.initial();
    let before = trainer.evaluate(&values, &held_out)?.map(|m| m.loss);
    let steps = steps(&trainer, &mut values, &examples, args)?;
    let after = trainer.evaluate(&values, &held_out)?.map(|m| m.loss);
    let digest = trainer.flat().digest(&values);
    if let (Some(out), Subject::Lora(adapter)) = (&args.out, trainer.subject()) {
        export::peft(out, adapter, &values, &args.model.display().to_string())?;
        note(&format!("the adapter is in {}", out.display()));
    }
    report(args, &trainer, &steps, (before, after), &digest);
    Ok(())
}

fn training(args: &Args) -> Training {
    Training {
        learning_rate: args.learning_rate,
        micro_batch_size: args.micro_batch_size,
        gradient_accumulation_steps: args.gradient_accumulation_steps,
        sequence_len: args.sequence_len,
        sample_packing: args.sample_packing,
        seed: args.seed,
        ..Training::default()
    }
}

fn spec(args: &Args) -> AdapterSpec {
    AdapterSpec {
        r: args.lora_r,
        alpha: args.lora_alpha,
        targets: args.target_modules.clone(),
        seed: args.seed,
    }
}

fn steps(
    trainer: &Trainer,
    values: &mut [f32],
    examples: &[Example],
    args: &Args,
) -> anyhow::Result<Vec<Step>> {
    let total = u64::from(args.steps);
    let seed = Digest::of("conclave/v1/solo-batches", &[&args.seed.to_le_bytes()]);
    let run = Run {
        examples,
        factor: Factor::All,
        steps: 0..total,
        total,
        seed: *seed.as_bytes(),
    };
    let mut steps: Vec<Step> = Vec::new();
    trainer.run(values, &run, |step| {
        steps.push(step);
        let done = step.index + 1;
        if done % 10 == 0 || done == total {
            note(&format!("step {done}/{total}: loss {:.4}", step.loss));
        }
        ControlFlow::Continue(())
    })?;
    Ok(steps)
}

fn report(
    args: &Args,
    trainer: &Trainer,
    steps: &[Step],
    (before, after): (Option<f64>, Option<f64>),
    digest: &Digest,
) {
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
            "held-out loss {before:.4} before, {after:.4} after"
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

/// Rows that count up in sevens from each of 64 tokens: easy to learn, so that the loss moves.
fn synthetic(vocabulary: usize, length: usize, seed: u64) -> Vec<Example> {
    let small = u32::try_from(vocabulary.min(64)).expect("at most 64");
    let shift = u32::try_from(seed % 64).expect("below 64");
    let length = u32::try_from(length).expect("a context fits u32");
    let row = |start: u32| Example {
        ids: (0..length)
            .map(|i| (start + shift + i * 7) % small)
            .collect(),
        scored: (0..length).map(|i| i > 0).collect(),
    };
    (0..small).map(row).collect()
}
