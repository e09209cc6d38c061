//! `conclave testnet`: a whole federation on this machine, out of real processes.

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use super::method::MethodArgs;
use crate::cli::{self, FlagError};
use crate::learn::data::Split;
use crate::scenario::Scenario;
use crate::testnet;
use crate::testnet::plan::{At, Plan, Rows};

const EXAMPLE: &str = "Examples:
  conclave testnet
  conclave testnet --scenario bank --kill 1@3 --join 1@4 --dir demo
  conclave testnet --method adapter --bottleneck-size 8
  conclave testnet --nodes 9 --model models/base --data data/medquad --split by:source --json";

/// The flags of `testnet`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// How many nodes; at least 3.
    #[arg(long, default_value_t = 5)]
    nodes: u32,
    /// How many rounds, won or not.
    #[arg(long, default_value_t = 6)]
    rounds: u32,
    /// Which generated federation: clinic, bank or campus; clinic where neither this nor --data is given.
    #[arg(long, conflicts_with = "data")]
    scenario: Option<Scenario>,
    /// The folder of a base model; the embedded one where absent.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Rows to deal to the nodes: a file or a folder.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// How they are dealt: iid, dirichlet:ALPHA or by:FIELD.
    #[arg(long, requires = "data", default_value = "iid")]
    split: Split,
    #[command(flatten)]
    method: MethodArgs,
    /// Optimiser steps of a node in a round.
    #[arg(long, default_value_t = 20)]
    local_steps: u32,
    /// Peak of each node's schedule; by default as in `train`.
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Where to put folders and reports: a new or empty folder; a new temporary one where absent.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Governs data, split, initialisation, batches and kills; never keys or masks.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Kill so many living nodes in that round, after they dealt and before they submit; may repeat.
    #[arg(long = "kill", value_name = "N@ROUND")]
    kills: Vec<At>,
    /// Start so many new nodes when that round begins, each with a ticket of its own; may repeat.
    #[arg(long = "join", value_name = "N@ROUND")]
    joins: Vec<At>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the testnet; ends well only if all living nodes agree and the loss fell.
pub fn run(args: Args) -> anyhow::Result<()> {
    let json = args.json;
    let plan = plan(args)?;
    plan.check().map_err(FlagError)?;
    let (report, dir) = testnet::run(&plan)?;
    if json {
        cli::print_json(&report.json());
        cli::note(&format!("report: {}", dir.join("report.html").display()));
    } else {
        cli::print(report.table().trim_end());
        cli::print(&format!("report: {}", dir.join("report.html").display()));
    }
    if !report.agreed {
        bail!(
            "the living nodes do not hold the same adapter and ledger; compare their logs in {}",
            dir.display()
        );
    }
    match (report.eval_loss_before, report.eval_loss_after) {
        (Some(before), Some(after)) if after < before => Ok(()),
        (Some(before), Some(after)) => bail!(
            "the held-out loss did not fall ({before:.4} before, {after:.4} after); see {}",
            dir.join("report.html").display()
        ),
        _ => bail!(
            "the held-out loss was not measured; see the logs in {}",
            dir.display()
        ),
    }
}

fn plan(args: Args) -> anyhow::Result<Plan> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    Ok(Plan {
        nodes: args.nodes,
        rounds: args.rounds,
        local_steps: args.local_steps,
        learning_rate: args.learning_rate,
        seed: args.seed,
        method: args.method.charter()?,
        model: args.model,
        rows: match args.data {
            Some(data) => Rows::Given {
                data,
                split: args.split,
            },
            None => Rows::Scenario(args.scenario.unwrap_or(Scenario::Clinic)),
        },
        kills: args.kills,
        joins: args.joins,
        dir: args.dir,
        program: std::env::current_exe().context("the path of this program is unknown")?,
        command: format!("conclave {}", words.join(" ")),
    })
}
