//! `conclave rounds`: what each round decided, as the running node knows it: who was in, who was out, and why.

use std::path::PathBuf;

use serde_json::Value;

use crate::{cli, local};

const EXAMPLE: &str = "Example:
  conclave rounds --dir berlin
  conclave rounds --dir berlin --last 3 --json";

/// The flags of `rounds`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The data folder of the node.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Only so many of the newest rounds.
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Asks the node and prints its answer.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut answer: Value = local::ask(&args.dir, local::ROUNDS)?;
    if let (Some(last), Some(rounds)) = (args.last, answer["rounds"].as_array_mut()) {
        rounds.drain(..rounds.len().saturating_sub(last));
    }
    if args.json {
        cli::print_json(&answer);
        return Ok(());
    }
    let rounds = answer["rounds"].as_array().map_or(&[][..], Vec::as_slice);
    if rounds.is_empty() {
        cli::print("no round is decided yet");
    }
    for line in rounds.iter().flat_map(lines) {
        cli::print(&line);
    }
    Ok(())
}

/// A round for people.
fn lines(round: &Value) -> Vec<String> {
    let name = |member: &Value| {
        let key = member["member"].as_str().unwrap_or_default();
        let short = key.get(..8).unwrap_or_default();
        member["name"].as_str().unwrap_or(short).to_owned()
    };
    let list = |key: &str| round[key].as_array().map_or(&[][..], Vec::as_slice);
    let names = |key: &str| list(key).iter().map(name).collect::<Vec<_>>().join(", ");
    let mut lines = vec![format!(
        "round {} (height {}): {}, {} of {} members in: {}",
        round["round"],
        round["height"],
        round["outcome"].as_str().unwrap_or_default(),
        list("in").len(),
        round["members"],
        names("in"),
    )];
    for member in list("out") {
        let seen = member["seen_here"].as_str();
        lines.push(format!(
            "  out: {}: {}{}",
            name(member),
            member["why"].as_str().unwrap_or_default(),
            seen.map_or_else(String::new, |seen| format!(" ({seen})")),
        ));
    }
    if let Some(cause) = round["cause"].as_str() {
        lines.push(format!("  spent: {cause}"));
    }
    for (key, words) in [
        ("culprits", "excluded for a false dealing, with proof"),
        (
            "contradicted",
            "excluded for contradicting itself, with proof",
        ),
        ("silent", "withheld shares, and pauses"),
    ] {
        if !list(key).is_empty() {
            lines.push(format!("  {words}: {}", names(key)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_who_was_out_and_why() {
        let round = serde_json::json!({
            "round": 3, "height": 4, "outcome": "opened", "members": 3,
            "in": [{"name": "berlin"}, {"name": "rome"}],
            "out": [{"name": "oslo", "why": "its vector came too late", "seen_here": "not connected"}],
            "culprits": [], "contradicted": [{"name": "lima"}],
        });
        let text = lines(&round).join("\n");
        assert!(
            text.contains("opened, 2 of 3 members in: berlin, rome"),
            "{text}"
        );
        assert!(
            text.contains("out: oslo: its vector came too late (not connected)"),
            "{text}"
        );
    }
}
