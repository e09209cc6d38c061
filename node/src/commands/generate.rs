//! `conclave generate`: continues a text.

use std::ops::ControlFlow;

use serde_json::json;

use super::loading::{flag, pool, threads};
use super::source::Source;
use super::writing::{Script, Writing, say};
use crate::cli::{print, print_json};
use crate::learn::data::Tokens;
use crate::learn::model::decode::Decoding;

const EXAMPLE: &str = "Examples:
  conclave generate --model llama/ --adapter adapter/ --prompt 'Once upon a time'
  conclave generate --dir berlin/ --compare --temperature 0.8 --top-p 0.95 --stop '###' --prompt 'The patient'";

/// Generation.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// What to continue; empty is the beginning of a text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    prompt: String,
    #[command(flatten)]
    writing: Writing,
    /// The model alone as well, before the model with its adapter.
    #[arg(long)]
    compare: bool,
    /// Threads to compute on; by default all.
    #[arg(long)]
    threads: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    args.writing.check()?;
    let (base, (text, count)) = pool(threads(args.threads)?)?.install(|| texts(args))?;
    if args.json {
        let mut object = json!({"text": text, "tokens": count});
        if let Some((text, count)) = base {
            object["base"] = json!({"text": text, "tokens": count});
        }
        print_json(&object);
    }
    Ok(())
}

/// A text with its prompt, and how many tokens were generated.
type Text = (String, usize);

/// Writes what is asked for: of the model alone, where that is to be compared, and of the whole. Shows it as it grows,
/// but for `--json`.
fn texts(args: &Args) -> anyhow::Result<(Option<Text>, Text)> {
    let (loaded, folder) = args.source.open_to_write()?;
    let tokens = Tokens::open(&folder)?;
    let ids = prompt(&tokens, &args.prompt, loaded.context())?;
    let adapter = loaded.adapter.as_ref();
    if args.compare && adapter.is_none() {
        return Err(flag("--compare needs an adapter; give --adapter or --dir"));
    }
    let one = |adapter| -> anyhow::Result<Text> {
        let shown = if args.json { "" } else { args.prompt.as_str() };
        say(shown);
        let mut script = Script::new(Decoding::new(&loaded.model, adapter));
        let mut sampler = args.writing.sampler();
        let written = script.write(&tokens, &ids, &args.writing, &mut sampler, |more| {
            if !args.json {
                say(more);
            }
            ControlFlow::Continue(())
        })?;
        if !args.json {
            print("");
        }
        Ok((format!("{}{}", args.prompt, written.0), written.1))
    };
    let base = if args.compare {
        heading(args, "the model alone:");
        let base = one(None)?;
        heading(args, "with the adapter:");
        Some(base)
    } else {
        None
    };
    Ok((base, one(adapter)?))
}

fn heading(args: &Args, words: &str) {
    if !args.json {
        print(words);
    }
}

/// The ids of a prompt, which must not be empty or too long.
fn prompt(tokens: &Tokens, text: &str, context: usize) -> anyhow::Result<Vec<u32>> {
    let ids = tokens.prompt(text)?;
    if ids.is_empty() {
        return Err(flag(
            "--prompt is empty and this model has no token that begins a text; give some words",
        ));
    }
    if ids.len() > context {
        let found = ids.len();
        return Err(flag(format!(
            "--prompt has {found} tokens, the model takes {context}; shorten it"
        )));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::learn::device::Device;
    use crate::learn::weights::quantised::Precision;

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
        let mut args = Args {
            source: Source {
                model: Some(model),
                adapter: None,
                dir: None,
                any_base: false,
                precision: Precision::F32,
                device: Device::Cpu,
            },
            prompt: String::new(),
            writing: Writing {
                max_tokens: 256,
                temperature: 0.0,
                top_p: None,
                stop: Vec::new(),
                seed: 0,
            },
            compare: false,
            threads: Some(1),
            json: true,
        };
        let (_, (story, _)) = texts(&args).unwrap();
        assert!(story.trim_start().starts_with(SAMPLE), "{story}");
        args.writing.stop = vec!["big, red".to_owned()];
        let (_, (cut, _)) = texts(&args).unwrap();
        let end = story.find("big, red").unwrap();
        assert_eq!(cut, story[..end], "the stop string ends it");
    }
}
