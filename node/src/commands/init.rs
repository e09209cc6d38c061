//! `conclave init`: an identity in a data folder.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;

use crate::{cli, keys};

const EXAMPLE: &str = "Example:
  conclave init --dir berlin
  # hand the printed public key to whoever writes the charter";

/// The flags of `init`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The data folder; made where absent.
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Makes the folder and the key, and prints the public half.
pub fn run(args: &Args) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("{} cannot be made a folder", args.dir.display()))?;
    let public = keys::create(&args.dir)?.public();
    if args.json {
        cli::print_json(&json!({ "key": public.to_string(), "dir": args.dir }));
    } else {
        cli::print(&public.to_string());
        cli::note(&format!(
            "This is the public key of {}; hand it around. {} stays secret.",
            args.dir.display(),
            args.dir.join(keys::FILE).display()
        ));
    }
    Ok(())
}
