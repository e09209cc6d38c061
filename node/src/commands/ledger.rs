//! `conclave ledger`: checks the chain of decided rounds offline, and writes it to one file for others to check.

pub mod file;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use conclave_protocol::charter::Charter;
use conclave_protocol::ledger::{self, Verified};
use serde_json::{Value, json};

use crate::cli;
use crate::commands::charter;
use crate::store;

/// What to do with a ledger.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check every record from the charter on: hashes, the quorum's signatures, rosters, results.
    Verify(Verify),
    /// Write the charter and all records to one file, which anybody can verify.
    Export(Export),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  conclave ledger verify berlin/
  conclave ledger verify ledger.conclave --json")]
struct Verify {
    /// A data folder (its node may be running), or an exported ledger.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  conclave ledger export berlin/ --out ledger.conclave")]
struct Export {
    /// The data folder (its node may be running).
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The file to write. An existing one is refused.
    #[arg(long)]
    out: PathBuf,
}

/// A charter with the records that were decided under it, unchecked.
#[derive(Debug)]
pub struct Chain {
    /// The terms.
    pub charter: Charter,
    /// Encoded records with their certificates, by height from 1.
    pub records: Vec<Vec<u8>>,
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.verb {
        Verb::Verify(args) => verify(args),
        Verb::Export(args) => export(args),
    }
}

fn verify(args: &Verify) -> anyhow::Result<()> {
    let chain = read(&args.path)?;
    let records = chain.records.iter().map(Vec::as_slice);
    let verified = ledger::verify_chain(&chain.charter, None, records).with_context(|| {
        let place = args.path.display();
        format!("the ledger of {place} does not hold; fetch it anew from another member")
    })?;
    if args.json {
        cli::print_json(&object(&chain.charter, &verified));
    } else {
        print(&chain.charter, &verified);
    }
    Ok(())
}

fn export(args: &Export) -> anyhow::Result<()> {
    let chain = read_folder(&args.dir)?;
    file::write(&args.out, &chain)?;
    cli::note(&format!(
        "{} records written to {}",
        chain.records.len(),
        args.out.display()
    ));
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Chain> {
    if path.is_file() {
        file::read(path)
    } else {
        read_folder(path)
    }
}

fn read_folder(dir: &Path) -> anyhow::Result<Chain> {
    let charter = charter::read(dir)?;
    let rows = store::read_ledger(dir)?;
    if rows.charter != charter.digest() {
        bail!(
            "{} was made for charter {}, but charter.toml there has the digest {}; put the old charter back",
            dir.join("db").display(),
            rows.charter,
            charter.digest()
        );
    }
    Ok(Chain {
        charter,
        records: rows.rows,
    })
}

fn object(charter: &Charter, verified: &Verified) -> Value {
    let members = verified.members.iter().map(|(_, key)| key.to_string());
    json!({
        "valid": true,
        "federation": charter.federation.name,
        "charter": charter.digest().to_string(),
        "ledger_head": verified.head.to_string(),
        "height": verified.height.0,
        "rounds_opened": verified.rounds_opened,
        "rounds_null": verified.rounds_null,
        "adapter_digest": verified.adapter.map(|digest| digest.to_string()),
        "members": members.collect::<Vec<_>>(),
        "finished": verified.finished,
    })
}

fn print(charter: &Charter, verified: &Verified) {
    let adapter = verified
        .adapter
        .map_or_else(|| "none yet".to_owned(), |digest| digest.to_string());
    cli::print(&format!(
        "The ledger of {} holds: {} records, {} rounds opened, {} null, {}.",
        charter.federation.name,
        verified.height.0,
        verified.rounds_opened,
        verified.rounds_null,
        if verified.finished {
            "finished"
        } else {
            "not finished"
        },
    ));
    cli::print(&format!("charter  {}", charter.digest()));
    cli::print(&format!("head     {}", verified.head));
    cli::print(&format!("adapter  {adapter}"));
    for (id, key) in &verified.members {
        cli::print(&format!("member   {} {key}", id.0));
    }
}
