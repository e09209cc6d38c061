//! `conclave generate`: continues a text.

use std::path::PathBuf;

use serde_json::json;

use super::loading::{Loaded, flag, pool, threads};
use crate::cli::{print, print_json};
use crate::learn::data::Tokens;
use crate::learn::generate::{Sampling, generate};

const EXAMPLE: &str = "Example:
  conclave generate --model llama/ --adapter adapter/ --prompt 'Once upon a time'";

/// Generation.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The base model: a Hugging Face folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// A PEFT folder.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// What to continue; empty is the beginning of a text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    prompt: String,
    /// Most tokens to generate.
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    /// 0 takes the likeliest token always.
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Draw from the smallest set of tokens with this probability together.
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Threads to compute on; by default all.
    #[arg(long)]
    threads: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if !(args.temperature.is_finite() && args.temperature >= 0.0) {
        return Err(flag(format!(
            "--temperature {} must be 0 or more",
            args.temperature
        )));
    }
    if let Some(p) = args.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
        return Err(flag(format!("--top-p {p} must be above 0 and at most 1")));
    }
    let pool = pool(threads(args.threads)?)?;
    let (text, count) = text(args, &pool)?;
    if args.json {
        print_json(&json!({"text": text, "tokens": count}));
    } else {
        print(&text);
    }
    Ok(())
}

/// The prompt with what follows it, and how many tokens were generated.
fn text(args: &Args, pool: &rayon::ThreadPool) -> anyhow::Result<(String, usize)> {
    let loaded = Loaded::open(&args.model, args.adapter.as_deref())?;
    let tokens = Tokens::open(&args.model)?;
    let config = loaded.model.config();
    let mut ids = tokens.prompt(&args.prompt)?;
    if ids.is_empty() {
        return Err(flag(
            "--prompt is empty and this model has no token that begins a text; give some words",
        ));
    }
    if ids.len() > config.context {
        let (found, most) = (ids.len(), config.context);
        return Err(flag(format!(
            "--prompt has {found} tokens, the model takes {most}; shorten it"
        )));
    }
    let sampling = Sampling {
        temperature: args.temperature,
        top_p: args.top_p,
        max_tokens: args.max_tokens,
        seed: args.seed,
    };
    let lora = loaded.lora.as_ref();
    let new = pool.install(|| generate(&loaded.model, lora, &ids, &config.eos, &sampling));
    ids.extend_from_slice(&new);
    Ok((tokens.decode(&ids)?, new.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sample that the model's README gives: greedy decoding from the beginning of a text.
    const SAMPLE: &str = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. \
        One day, she saw a big, red ball. She wanted to play with it, but it was too high.\n\
        Lily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do. She said, \
        \"I want to play with your ball, but I can't find it.\"\n\
        Lily was sad and didn't know what to do. She said, \"I'm sorry, Lily. I didn't know what to do.\"";

    #[test]
    fn stories260k_tells_its_story_word_for_word() {
        let shared = std::env::var_os("CONCLAVE_SHARED").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
            PathBuf::from,
        );
        let model = shared.join("models/stories260K");
        if !model.exists() {
            crate::cli::note(&format!("SKIPPED: {} is not there", model.display()));
            return;
        }
        let args = Args {
            model,
            adapter: None,
            prompt: String::new(),
            max_tokens: 256,
            temperature: 0.0,
            top_p: None,
            seed: 0,
            threads: Some(1),
            json: false,
        };
        let (story, _) = text(&args, &pool(1).unwrap()).unwrap();
        assert!(story.trim_start().starts_with(SAMPLE), "{story}");
    }
}
