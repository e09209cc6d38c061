//! `conclave export`: an adapter as others read it, alone or merged into its model, or the model by itself.

use std::path::PathBuf;

use serde_json::json;

use super::loading::flag;
use crate::cli::{print, print_json};
use crate::learn::export::container::Numbers;
use crate::learn::export::{self, Output};
use crate::learn::model::Model;
use crate::learn::peft::Method;
use crate::learn::peft::folder::{self, Base};

const EXAMPLE: &str = "Examples:
  conclave export --model llama/ --adapter berlin/adapters/6 --format merged --out tuned/
  conclave export --model llama/ --adapter berlin/adapters/6 --format gguf --outtype q8_0 --out tuned/
  conclave export --model llama/ --format gguf --outtype q8_0 --out base/";

/// Export.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The base model: a Hugging Face folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The adapter: a PEFT folder, such as `adapters/<round>` of a node. Without one the model itself is written, as
    /// merged or gguf.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Take the adapter although it names another base: the same model in another number format.
    #[arg(long, requires = "adapter")]
    any_base: bool,
    /// What to write.
    #[arg(long, value_enum)]
    format: Format,
    /// Of gguf and gguf-lora: the number format of matrices, as llama.cpp's converters call it [default: f16]
    #[arg(long, value_enum)]
    outtype: Option<Numbers>,
    /// Where; it must not exist, or be empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `adapter_config.json` and `adapter_model.safetensors`, as Hugging Face PEFT reads them.
    Peft,
    /// A whole model in safetensors, with the tokenizer.
    Merged,
    /// A whole model in GGUF, with the tokenizer: `model.gguf`, as llama.cpp reads it.
    Gguf,
    /// LoRA's factors alone in GGUF: `adapter.gguf`, for llama.cpp's `--lora`.
    GgufLora,
}

/// Runs it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    Output::check(&args.out).map_err(|e| flag(format!("--out {e}")))?;
    let gguf = matches!(args.format, Format::Gguf | Format::GgufLora);
    if args.outtype.is_some() && !gguf {
        return Err(flag(
            "--outtype belongs to --format gguf and gguf-lora; leave it out",
        ));
    }
    let alone = matches!(args.format, Format::Peft | Format::GgufLora);
    if args.adapter.is_none() && alone {
        return Err(flag(
            "--format peft and gguf-lora write an adapter; give --adapter",
        ));
    }
    let numbers = args.outtype.unwrap_or(Numbers::F16);
    let mut model = Model::open(&args.model)?;
    let Some(folder) = &args.adapter else {
        if gguf {
            export::gguf::merged(&args.out, &model, None, &args.model, numbers)?;
        } else {
            export::merged(&args.out, &model, None, &args.model)?;
        }
        told(args, None);
        return Ok(());
    };
    let (adapter, values) = if args.any_base {
        folder::open_on_any(folder, &mut model)?
    } else {
        folder::open(folder, &mut model)?
    };
    let bound =
        || -> anyhow::Result<_> { Ok(adapter.bind(&adapter.flat().tensors(&values, |_| false)?)) };
    match args.format {
        Format::Peft => {
            let base = Base {
                name: &args.model.display().to_string(),
                identity: model.identity(),
            };
            export::peft(&args.out, &adapter, &values, base)?;
        }
        Format::Merged => export::merged(&args.out, &model, Some(&bound()?), &args.model)?,
        Format::Gguf => {
            let bound = bound()?;
            export::gguf::merged(&args.out, &model, Some(&bound), &args.model, numbers)?;
        }
        Format::GgufLora => {
            let alpha = match &adapter.spec().method {
                Method::Lora(lora) => lora.alpha,
                Method::Bottleneck(_) | Method::Prompt(_) => 1,
            };
            export::gguf::lora(&args.out, &model, &bound()?, alpha, &args.model, numbers)?;
        }
    }
    told(args, Some(adapter.flat().digest(&values).to_string()));
    Ok(())
}

/// Says what was written.
fn told(args: &Args, adapter_digest: Option<String>) {
    if args.json {
        print_json(&json!({"out": args.out, "adapter_digest": adapter_digest}));
        return;
    }
    let out = args.out.display();
    match adapter_digest {
        Some(digest) => print(&format!("{out} holds adapter {digest}")),
        None => print(&format!("{out} holds the model")),
    }
}
