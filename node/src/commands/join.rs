//! `conclave join`: a data folder from a ticket; `conclave run` then enters.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use conclave_crypto::digest::Digest;
use conclave_protocol::limits;
use serde_json::json;

use crate::learn::data::visit_rows;
use crate::learn::model;
use crate::scenario::base;
use crate::ticket::{self, Ticket, Wishes};
use crate::{cli, config};

const EXAMPLE: &str = "Examples:
  conclave join conclave1a2b3… --data notes.jsonl --model models/base --dir oslo
  conclave run --dir oslo
  pbpaste | conclave join - --dir oslo";

/// The flags of `join`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// What `conclave invite` printed; - reads it from stdin.
    ticket: String,
    /// Private rows: a file or a folder. They never leave.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// The folder of the base model that the charter names by its digest.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The data folder; made where absent.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// What the others will call this member; the folder's name where absent.
    #[arg(long)]
    name: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Checks the ticket, the model and the data, then writes the folder.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let ticket = Ticket::parse(&pasted(&args.ticket)?)?;
    let mut wishes = Wishes {
        name: args.name.clone().unwrap_or_else(|| name_of(&args.dir)),
        data: args.data.clone(),
        model: args.model.clone(),
    };
    // What costs nothing comes first: the model is hashed and the rows are read for a good ticket alone.
    ticket::check(&ticket, &args.dir, &wishes, ticket::now_ms())?;
    let named = config::NodeConfig::open(&args.dir)?.model;
    if let Some(folder) = &args.model {
        let (found, meant) = (model::digest(folder)?, ticket.charter.model.digest);
        if found != meant {
            bail!(
                "--model {}: its digest is {found}, but the charter was made for {meant}; use the charter's base model",
                folder.display()
            );
        }
    }
    if let Some(data) = &args.data {
        visit_rows(data, &mut |_| Ok(()))?;
    }
    if args.model.is_none() && named.is_none() && embedded()? == ticket.charter.model.digest {
        wishes.model = Some(args.dir.join("model"));
    }
    let key = ticket::accept(&ticket, &args.dir, &wishes, ticket::now_ms())?;
    if args.model.is_none()
        && let Some(folder) = &wishes.model
    {
        base::unpack(folder)?;
    }
    let settings = config::NodeConfig::open(&args.dir)?;
    let missing: Vec<&str> = [("model", &settings.model), ("data", &settings.data)]
        .into_iter()
        .filter_map(|(key, path)| path.is_none().then_some(key))
        .collect();
    if args.json {
        cli::print_json(&json!({
            "dir": args.dir,
            "name": wishes.name,
            "key": key.to_string(),
            "federation": ticket.charter.federation.name,
            "charter": ticket.charter.digest().to_string(),
            "missing": missing,
        }));
        return Ok(());
    }
    cli::print(&format!(
        "{} is ready to enter {:?} as {:?}: conclave run --dir {}",
        args.dir.display(),
        ticket.charter.federation.name,
        wishes.name,
        args.dir.display()
    ));
    if !missing.is_empty() {
        let (keys, file) = (missing.join(" and "), args.dir.join(config::FILE));
        cli::note(&format!("Set {keys} in {} first.", file.display()));
    }
    Ok(())
}

/// The digest of the embedded base model.
fn embedded() -> anyhow::Result<Digest> {
    let folder = tempfile::tempdir().context("no temporary folder can be made")?;
    base::unpack(folder.path())?;
    Ok(model::digest(folder.path())?)
}

/// The ticket as given, or from stdin.
fn pasted(argument: &str) -> anyhow::Result<String> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(TICKET_MAX)
        .read_to_string(&mut text)
        .context("the ticket cannot be read from stdin")?;
    Ok(text)
}

/// What a folder is called.
fn name_of(dir: &Path) -> String {
    let whole = std::path::absolute(dir).unwrap_or_default();
    let name = whole.file_name().unwrap_or_default().to_string_lossy();
    let mut name = name.into_owned();
    while name.len() > limits::NAME {
        name.pop();
    }
    if name.is_empty() {
        "newcomer".to_owned()
    } else {
        name
    }
}

/// Bytes of a pasted ticket that are read.
const TICKET_MAX: u64 = 4 << 20;
