//! `conclave charter new`: the terms from flags.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use conclave_crypto::sign::PublicKey;
use conclave_protocol::charter::{
    Adapter, Admission, Aggregation, Charter, Federation, Founder, Model, Rounds, Timers,
};
use rand::RngExt as _;

use super::super::loading::flag;
use super::super::method::MethodArgs;
use crate::learn::model::config::Config;
use crate::learn::model::{check, digest};
use crate::learn::peft;

const EXAMPLE: &str = "Example:
  conclave init --dir berlin     # prints a public key; likewise paris, rome
  conclave charter new --name clinics --model models/base \\
      --member berlin=9d1f… --member paris=04ac… --member rome=77e0… --out charter.toml";

/// The flags of `charter new`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// What the federation is called.
    #[arg(long)]
    name: String,
    /// The folder of the base model; the charter names it by its digest.
    #[arg(long)]
    model: PathBuf,
    /// A founder and the public key that its `conclave init` printed; at least three.
    #[arg(long = "member", value_name = "NAME=KEY", required = true, value_parser = founder)]
    members: Vec<Founder>,
    /// How many rounds are run.
    #[arg(long, default_value_t = 6)]
    rounds: u32,
    /// Optimiser steps of a member in a round.
    #[arg(long, default_value_t = 20)]
    local_steps: u32,
    #[command(flatten)]
    method: MethodArgs,
    /// Who may enter later: nobody, or whoever a member invites (`conclave invite`).
    #[arg(long, value_enum, default_value = "closed")]
    admission: Mode,
    /// Of the common initialisation of the adapter.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Be as impatient as one machine allows; for trying things out.
    #[arg(long)]
    testnet_timers: bool,
    /// Where to write it.
    #[arg(long, default_value = super::FILE)]
    out: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Who may enter later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Closed,
    Invite,
}

/// Writes the charter and prints its digest.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if args.out.exists() {
        bail!(
            "{} exists already and is not overwritten; name another file with --out",
            args.out.display()
        );
    }
    let adapter = Adapter {
        method: args.method.charter()?,
        seed: args.seed,
    };
    peft::fits(&adapter, &Config::read(&args.model)?, Some(&args.model)).map_err(flag)?;
    let charter = Charter {
        federation: Federation {
            name: args.name.clone(),
            protocol: 1,
            nonce: rand::rng().random(),
        },
        model: model(&args.model)?,
        adapter,
        round: Rounds {
            rounds: args.rounds,
            local_steps: args.local_steps,
            timers: if args.testnet_timers {
                Timers::testnet()
            } else {
                Timers::default()
            },
        },
        aggregation: Aggregation {
            members_max: Charter::default_members_max(args.members.len()),
            absent_rounds: if args.testnet_timers { 2 } else { 3 },
            ..Aggregation::default()
        },
        admission: match args.admission {
            Mode::Closed => Admission::Closed,
            Mode::Invite => Admission::Invite,
        },
        members: args.members.clone(),
    }
    .checked()
    .context("these terms make no charter")?;
    write(&args.out, &charter)?;
    super::report(&charter, args.json);
    Ok(())
}

/// What a charter says of a model folder.
pub fn model(folder: &Path) -> anyhow::Result<Model> {
    let config = Config::read(folder)?;
    check(folder)?;
    Ok(Model {
        digest: digest(folder)?,
        architecture: config.model_type().to_owned(),
    })
}

/// Writes a charter where there is none.
pub fn write(path: &Path, charter: &Charter) -> anyhow::Result<()> {
    let place = path.display();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                anyhow::anyhow!("{place} exists already and is not overwritten")
            }
            _ => anyhow::anyhow!("{place}: {error}"),
        })?;
    file.write_all(charter.to_toml().as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| place.to_string())
}

fn founder(text: &str) -> Result<Founder, String> {
    let (name, key) = text
        .split_once('=')
        .ok_or("write NAME=KEY, the key as `conclave init` printed it")?;
    let key: PublicKey = key
        .parse()
        .map_err(|error| format!("the key of {name}: {error} in hexadecimal digits"))?;
    Ok(Founder {
        name: name.to_owned(),
        key,
    })
}
