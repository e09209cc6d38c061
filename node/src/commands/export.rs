//! `conclave export`: an adapter as others read it, alone or merged into its model.

use std::path::PathBuf;

use serde_json::json;

use super::loading::flag;
use crate::cli::{print, print_json};
use crate::learn::export::{self, Output};
use crate::learn::model::Model;
use crate::learn::peft::folder::{self, Base};

const EXAMPLE: &str = "Example:
  conclave export --model llama/ --adapter berlin/adapters/6 --format merged --out tuned/";

/// Export.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The base model: a Hugging Face folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The adapter: a PEFT folder, such as `adapters/<round>` of a node.
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Take the adapter although it names another base: the same model in another number format.
    #[arg(long)]
    any_base: bool,
    /// What to write.
    #[arg(long, value_enum)]
    format: Format,
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
}

/// Runs it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    Output::check(&args.out).map_err(|e| flag(format!("--out {e}")))?;
    let mut model = Model::open(&args.model)?;
    let (adapter, values) = if args.any_base {
        folder::open_on_any(&args.adapter, &mut model)?
    } else {
        folder::open(&args.adapter, &mut model)?
    };
    match args.format {
        Format::Peft => {
            let base = Base {
                name: &args.model.display().to_string(),
                identity: model.identity(),
            };
            export::peft(&args.out, &adapter, &values, base)?;
        }
        Format::Merged => {
            let adapter = adapter.bind(&adapter.flat().tensors(&values, |_| false)?);
            export::merged(&args.out, &model, &adapter, &args.model)?;
        }
    }
    let digest = adapter.flat().digest(&values).to_string();
    if args.json {
        print_json(&json!({"out": args.out, "adapter_digest": digest}));
    } else {
        print(&format!("{} holds adapter {digest}", args.out.display()));
    }
    Ok(())
}
