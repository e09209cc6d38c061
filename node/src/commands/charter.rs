//! `conclave charter`: writes, prints and checks the terms of a federation.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use conclave_protocol::charter::{Charter, Method};
use serde_json::{Value, json};

use crate::cli;

pub mod new;

/// Where a charter stands in a data folder.
pub const FILE: &str = "charter.toml";

/// What to do with a charter.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write a charter that all members then copy, byte for byte.
    New(Box<new::Args>),
    /// Print a charter with every default written out.
    Show(Place),
    /// Check every term of a charter and print its digest: all members must see the same.
    Check(Place),
}

const PLACE_EXAMPLE: &str = "Example:
  conclave charter check charter.toml
  conclave charter show berlin/";

#[derive(Debug, clap::Args)]
#[command(after_help = PLACE_EXAMPLE)]
struct Place {
    /// The file, or a data folder that holds it.
    #[arg(default_value = FILE)]
    path: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.verb {
        Verb::New(args) => new::run(args),
        Verb::Show(place) => show(place),
        Verb::Check(place) => check(place),
    }
}

/// Reads the charter at a path, or in the folder there.
pub fn read(path: &Path) -> anyhow::Result<Charter> {
    let file = if path.is_dir() {
        path.join(FILE)
    } else {
        path.to_owned()
    };
    let place = file.display();
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!("{place} cannot be read; write one with `conclave charter new`, or name its path")
    })?;
    Charter::parse(&text).with_context(|| place.to_string())
}

fn show(place: &Place) -> anyhow::Result<()> {
    let charter = read(&place.path)?;
    if place.json {
        let terms: toml::Table =
            toml::from_str(&charter.to_toml()).context("the charter cannot be written as TOML")?;
        let mut object = serde_json::to_value(terms)?;
        object["digest"] = charter.digest().to_string().into();
        cli::print_json(&object);
    } else {
        cli::print(charter.to_toml().trim_end());
    }
    Ok(())
}

fn check(place: &Place) -> anyhow::Result<()> {
    let charter = read(&place.path)?;
    report(&charter, place.json);
    Ok(())
}

/// Says what a charter is.
fn report(charter: &Charter, json: bool) {
    if json {
        cli::print_json(&summary(charter));
        return;
    }
    cli::print(&charter.digest().to_string());
    let members: Vec<&str> = charter.members.iter().map(|m| m.name.as_str()).collect();
    cli::note(&format!(
        "{}: {} rounds of {} steps, {}, {} founders ({}). Every member must see this digest.",
        charter.federation.name,
        charter.round.rounds,
        charter.round.local_steps,
        method(&charter.adapter.method),
        members.len(),
        members.join(", "),
    ));
}

fn method(method: &Method) -> String {
    match method {
        Method::Lora(lora) => format!("LoRA r = {}", lora.r),
        Method::Bottleneck(terms) => {
            format!("bottlenecks of {} by {}", terms.size, terms.non_linearity)
        }
        Method::Prompt(terms) => format!("a soft prompt of {} rows", terms.virtual_tokens),
    }
}

fn summary(charter: &Charter) -> Value {
    json!({
        "digest": charter.digest().to_string(),
        "name": charter.federation.name,
        "model": { "digest": charter.model.digest.to_string(), "architecture": charter.model.architecture },
        "rounds": charter.round.rounds,
        "local_steps": charter.round.local_steps,
        "method": charter.adapter.method.name(),
        "lora_r": match &charter.adapter.method {
            Method::Lora(lora) => Some(lora.r),
            Method::Bottleneck(_) | Method::Prompt(_) => None,
        },
        "members": charter.members.iter().map(|member| json!({
            "name": member.name, "key": member.key.to_string(),
        })).collect::<Vec<_>>(),
    })
}
