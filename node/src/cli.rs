//! The command line: which commands there are, and how they end.
//!
//! Results go to stdout, everything else to stderr. With `--json` the last line of stdout is one JSON object. A
//! command that fails says why in one sentence that begins with `error: `, and ends with 1, or with 2 where a flag is
//! at fault.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::commands::{
    charter, chat, eval, export, generate, init, invite, join, ledger, peers, rounds, run,
    simulate, status, testnet, train,
};
use crate::telemetry::{self, Format};
use crate::testnet::children::stay_with;

/// Fine-tune a language model together, on data that stays where it is.
#[derive(Debug, Parser)]
#[command(name = "conclave", version, propagate_version = true)]
pub struct Cli {
    /// What is logged to stderr: error, warn, info, debug, trace, or a filter such as `conclave=debug`.
    #[arg(
        long,
        global = true,
        env = "CONCLAVE_LOG",
        value_name = "FILTER",
        default_value = "warn"
    )]
    pub log: String,

    /// How it is logged.
    #[arg(
        long,
        global = true,
        env = "CONCLAVE_LOG_FORMAT",
        value_enum,
        default_value = "text"
    )]
    pub log_format: Format,

    /// End when this process, the parent, ends.
    #[arg(long, hide = true, value_name = "PID")]
    pub child_of: Option<i32>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an identity and a data folder.
    Init(init::Args),
    /// Write, print or check the terms of a federation.
    Charter(charter::Args),
    /// Check the chain of decided rounds, without trusting anybody.
    Ledger(ledger::Args),
    /// Make a ticket by which a newcomer enters.
    Invite(invite::Args),
    /// Make a data folder from a ticket.
    Join(join::Args),
    /// Run this institution's node.
    Run(run::Args),
    /// Ask the running node how it is.
    Status(status::Args),
    /// Ask the running node whom it knows, and what it refused of whom.
    Peers(peers::Args),
    /// Ask the running node what each round decided: who was in, who was out, and why.
    Rounds(rounds::Args),
    /// Fine-tune alone, with the engine that federations use.
    Train(Box<train::Args>),
    /// Score a model, with or without an adapter, on rows.
    Eval(eval::Args),
    /// Continue a text.
    Generate(generate::Args),
    /// Talk with a model, with or without an adapter.
    Chat(chat::Args),
    /// Write an adapter as others read it.
    Export(export::Args),
    /// Run a whole federation on this machine, out of real processes.
    Testnet(testnet::Args),
    /// Run a federation in a deterministic world, where anything may go wrong.
    Simulate(simulate::Args),
}

/// A flag whose value parses but cannot be meant: the command ends with 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FlagError(pub String);

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    crate::learn::threads::settle();
    let cli = Cli::parse();
    if let Err(error) = telemetry::start(&cli.log, cli.log_format, cli.command.quiet()) {
        return fail(&anyhow::Error::new(FlagError(error.to_string())));
    }
    if let Some(parent) = cli.child_of
        && let Err(reason) = stay_with(parent)
    {
        return fail(&anyhow::anyhow!(reason));
    }
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

impl Command {
    /// Whom its log leaves out.
    const fn quiet(&self) -> telemetry::Quiet {
        match self {
            Self::Simulate(_) => telemetry::SIMULATION,
            _ => telemetry::NODE,
        }
    }

    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Init(args) => init::run(&args),
            Self::Charter(args) => charter::run(&args),
            Self::Ledger(args) => ledger::run(&args),
            Self::Invite(args) => invite::run(&args),
            Self::Join(args) => join::run(&args),
            Self::Run(args) => run::run(&args),
            Self::Status(args) => status::run(&args),
            Self::Peers(args) => peers::run(&args),
            Self::Rounds(args) => rounds::run(&args),
            Self::Train(args) => train::run(&args),
            Self::Eval(args) => eval::run(&args),
            Self::Generate(args) => generate::run(&args),
            Self::Chat(args) => chat::run(&args),
            Self::Export(args) => export::run(&args),
            Self::Testnet(args) => testnet::run(args),
            Self::Simulate(args) => simulate::run(&args),
        }
    }
}

/// Parses a span of time: `90s`, `30m`, `12h` or `7d`.
pub fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no span of time; write 90s, 30m, 12h or 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(wrong()),
    };
    let count = text
        .strip_suffix(unit)
        .and_then(|count| count.parse::<u64>().ok());
    let span = count.and_then(|count| count.checked_mul(seconds));
    let span = span.filter(|span| *span > 0).ok_or_else(wrong)?;
    Ok(Duration::from_secs(span))
}

/// Prints a line of results. A reader that went away is no failure.
pub fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    let _gone = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Prints the one JSON object of a command.
pub fn print_json(value: &serde_json::Value) {
    print(&value.to_string());
}

/// Prints a line of progress or warning to stderr.
pub fn note(line: &str) {
    let _gone = writeln!(std::io::stderr().lock(), "{line}");
}

fn fail(error: &anyhow::Error) -> ExitCode {
    note(&format!("error: {}", sentence(error)));
    if error.is::<FlagError>() {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// The error and its causes in one sentence; a cause that the sentence already tells is not told again.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn every_command_is_well_formed_and_shows_an_example() {
        let root = Cli::command();
        root.clone().debug_assert();
        let mut open = vec![root];
        while let Some(command) = open.pop() {
            let under: Vec<_> = command.get_subcommands().cloned().collect();
            if under.is_empty() {
                let help = command.clone().render_long_help().to_string();
                assert!(help.contains("Example"), "{}: {help}", command.get_name());
            }
            open.extend(under);
        }
    }

    #[test]
    fn spans_of_time_parse_and_the_rest_is_refused() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("12h", 43_200), ("7d", 604_800)] {
            assert_eq!(span(text), Ok(Duration::from_secs(seconds)));
        }
        for wrong in [
            "",
            "7",
            "d",
            "0d",
            "-1d",
            "7w",
            "7dd",
            "99999999999999999999d",
            "1.5h",
            "7é",
        ] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let inner = anyhow::anyhow!("no such file");
        let told = inner.context("cannot read rows: no such file; check the path");
        assert_eq!(
            sentence(&told),
            "cannot read rows: no such file; check the path"
        );
        let untold = anyhow::anyhow!("no such file").context("cannot read rows");
        assert_eq!(sentence(&untold), "cannot read rows: no such file");
    }
}
