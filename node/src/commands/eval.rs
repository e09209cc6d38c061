//! `conclave eval`: the loss of a model, with or without an adapter, on rows.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;

use super::loading::{Loaded, threads};
use crate::cli::{note, print, print_json};
use crate::learn::data::{Tokens, read_rows};
use crate::learn::evaluate::evaluate;
use crate::learn::trainer::{TrainError, admit};
use crate::learn::training::Training;

const EXAMPLE: &str = "Example:
  conclave eval --model llama/ --adapter adapter/ --data held-out.jsonl";

/// Scoring.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The base model: a Hugging Face folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Rows to score: JSON Lines or CSV (also `.gz`) or Parquet, a file or a folder of them.
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// A PEFT folder.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Rows are cut to this many tokens; by default the smaller of 512 and the model's context.
    #[arg(long)]
    sequence_len: Option<u32>,
    /// Threads to compute on; by default all.
    #[arg(long)]
    threads: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let training = Training {
        sequence_len: args.sequence_len,
        ..Training::default()
    };
    training.check().map_err(super::loading::flag)?;
    let pool = super::loading::pool(threads(args.threads)?)?;
    let loaded = Loaded::open(&args.model, args.adapter.as_deref())?;
    let context = loaded.model.config().context;
    if let Some(asked) = args.sequence_len.filter(|len| *len as usize > context) {
        return Err(TrainError::Context {
            asked: asked as usize,
            context,
        }
        .into());
    }
    let length = training.length_for(loaded.model.config());
    let tokens = Tokens::open(&args.model)?;
    let rows = read_rows(&args.data)?;
    let tokenised = tokens.tokenise_all(&rows, length)?;
    if tokenised.cut > 0 {
        note(&format!(
            "{} rows were longer than {length} tokens and were cut",
            tokenised.cut
        ));
    }
    let examples = tokenised.placed();
    admit(loaded.model.config(), &examples)?;
    let measured = pool
        .install(|| evaluate(&loaded.model, &loaded.moving(), &examples))?
        .context("no token counts")?;
    if args.json {
        print_json(&json!({
            "examples": measured.examples,
            "tokens": measured.tokens,
            "loss": measured.loss,
            "perplexity": measured.perplexity,
            "accuracy": measured.accuracy,
        }));
    } else {
        print(&format!(
            "{} examples, {} scored tokens: loss {:.4}, perplexity {:.3}, accuracy {:.3}",
            measured.examples,
            measured.tokens,
            measured.loss,
            measured.perplexity,
            measured.accuracy
        ));
    }
    Ok(())
}
