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

/// How long from now on; none is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Validity(Option<Duration>);

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
        expires: args.expires.0.map_or(0, lasts),
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
        "This ticket lets {} into {:?}; the newcomer runs `conclave join TICKET --data …`. It leads to {}.",
        match (terms.uses, terms.invitee) {
            (_, Some(key)) => format!("the holder of the key {key}"),
            (1, None) => "one newcomer".to_owned(),
            (uses, None) => format!("{uses} newcomers"),
        },
        made.charter.federation.name,
        made.addresses.join(", "),
    ));
    Ok(())
}

/// Parses `30m`, `12h`, `7d` or `never`.
fn validity(text: &str) -> Result<Validity, String> {
    if text == "never" {
        return Ok(Validity(None));
    }
    let wrong = || format!("{text:?} is no span of time; write 30m, 12h, 7d or never");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(wrong()),
    };
    let count: u64 = text.trim_end_matches(unit).parse().map_err(|_| wrong())?;
    let span = count.checked_mul(seconds).filter(|span| *span > 0);
    Ok(Validity(Some(Duration::from_secs(span.ok_or_else(wrong)?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_parse_and_the_rest_is_refused() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("12h", 43_200), ("7d", 604_800)] {
            let expected = Validity(Some(Duration::from_secs(seconds)));
            assert_eq!(validity(text), Ok(expected));
        }
        assert_eq!(validity("never"), Ok(Validity(None)));
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
            assert!(validity(wrong).is_err(), "{wrong}");
        }
    }
}
