//! `conclave invite`: a ticket by which a newcomer enters.

use std::path::PathBuf;
use std::time::Duration;

use conclave_crypto::sign::PublicKey;
use serde_json::json;

use super::charter;
use crate::cli;
use crate::ticket::{self, Terms};

const EXAMPLE: &str = "Examples:
  conclave invite --dir berlin
  conclave invite --dir berlin --expires 12h --uses 3
  conclave invite --dir berlin --for 9d1f…    # the key that the newcomer's `conclave init` printed";

/// The flags of `invite`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The data folder of a member; its node may be running.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// How long the ticket is good: 30m, 12h, 7d, or never.
    #[arg(long, default_value = "7d", value_parser = validity)]
    expires: Validity,
    /// How many newcomers may enter by it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// Only the holder of this key may use it.
    #[arg(long = "for", value_name = "KEY")]
    invitee: Option<PublicKey>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// How long from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Validity {
    /// As it was given.
    text: String,
    /// None is for ever.
    span: Option<Duration>,
}

/// Prints a ticket.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let charter = charter::read(&args.dir)?;
    let now = ticket::now_ms();
    let lasts = |span: Duration| {
        let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        now.saturating_add(ms)
    };
    let terms = Terms {
        uses: args.uses,
        expires: args.expires.span.map_or(0, lasts),
        invitee: args.invitee,
    };
    let made = ticket::issue(&args.dir, charter, &terms)?;
    if args.json {
        cli::print_json(&json!({
            "ticket": made.to_text(),
            "federation": made.charter.federation.name,
            "charter": made.charter.digest().to_string(),
            "uses": terms.uses,
            "expires_unix_ms": (terms.expires != 0).then_some(terms.expires),
            "for": terms.invitee.map(|key| key.to_string()),
            "addresses": made.addresses,
        }));
        return Ok(());
    }
    cli::print(&made.to_text());
    cli::note(&format!(
        "This ticket lets {} into {:?}; the newcomer runs `conclave join TICKET --data …`. It leads to {}{} and {}.",
        match (terms.uses, terms.invitee) {
            (_, Some(key)) => format!("the holder of the key {key}"),
            (1, None) => "one newcomer".to_owned(),
            (uses, None) => format!("{uses} newcomers"),
        },
        made.charter.federation.name,
        made.addresses.join(", "),
        if near(&made.addresses) {
            ": THIS MACHINE ALONE can call there; set `announce` in node.toml for others;"
        } else {
            ""
        },
        match args.expires.span {
            Some(_) => format!("is good for {} from now", args.expires.text),
            None => "never expires".to_owned(),
        },
    ));
    Ok(())
}

/// Whether nobody but this machine can call at any of them.
fn near(addresses: &[String]) -> bool {
    let mut parsed = addresses.iter().filter_map(|text| text.parse().ok());
    parsed.all(|address| ticket::is_near(&address))
}

/// Parses a span of time, or `never`.
fn validity(text: &str) -> Result<Validity, String> {
    let span = match text {
        "never" => None,
        text => Some(cli::span(text).map_err(|error| format!("{error}, or never"))?),
    };
    let text = text.to_owned();
    Ok(Validity { text, span })
}
