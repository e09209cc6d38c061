//! `conclave peers`: whom the running node knows, how well they are connected, and what it refused of each.

use std::path::PathBuf;

use serde_json::Value;

use crate::report::number;
use crate::{cli, local};

const EXAMPLE: &str = "Example:
  conclave peers --dir berlin
  conclave peers --dir berlin --json";

/// The flags of `peers`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The data folder of the node.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Asks the node and prints its answer.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let answer: Value = local::ask(&args.dir, local::PEERS)?;
    if args.json {
        cli::print_json(&answer);
    } else {
        for line in lines(&answer) {
            cli::print(&line);
        }
    }
    Ok(())
}

/// The answer for people.
fn lines(answer: &Value) -> Vec<String> {
    let mut lines = vec![columns(&[
        "peer",
        "standing",
        "connected for",
        "heard before",
        "sent",
        "received",
        "refused",
    ])];
    lines.extend(answer["peers"].as_array().into_iter().flatten().map(line));
    match answer["strangers"].as_u64().unwrap_or_default() {
        0 => {}
        count => lines.push(format!(
            "{count} calls of strangers (who are no members and showed no invitation) were turned away"
        )),
    }
    lines
}

fn line(peer: &Value) -> String {
    let key = peer["member"].as_str().unwrap_or_default();
    let name = peer["name"].as_str();
    let short = key.get(..8).unwrap_or_default();
    let bytes = |key: &str| number::bytes(peer[key].as_u64().unwrap_or_default());
    let span = |key: &str| number::seconds(peer[key].as_f64().unwrap_or(f64::NAN));
    columns(&[
        name.unwrap_or(short),
        peer["standing"].as_str().unwrap_or_default(),
        &span("connected_seconds"),
        &span("last_heard_seconds"),
        &bytes("bytes_sent"),
        &bytes("bytes_received"),
        &refused(peer),
    ])
}

/// One line of the table, the head too.
fn columns(cells: &[&str; 7]) -> String {
    let [peer, standing, connected, heard, sent, received, refused] = cells;
    format!(
        "{peer:<20} {standing:<9} {connected:<14} {heard:<14} {sent:>10} {received:>10}  {refused}"
    )
}

/// How much was refused, by cause.
fn refused(peer: &Value) -> String {
    let causes = peer["refused_by_cause"].as_object();
    let words: Vec<String> = causes
        .into_iter()
        .flatten()
        .map(|(cause, count)| format!("{count} {cause}"))
        .collect();
    if words.is_empty() {
        "0".to_owned()
    } else {
        format!("{} ({})", peer["refused"], words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_misbehaves_is_seen_with_the_causes() {
        let answer = serde_json::json!({"strangers": 2, "peers": [
            {"member": "9d1f00aa55", "name": "rome", "standing": "member", "connected": true,
             "connected_seconds": 130.0, "last_heard_seconds": 0.4, "refused": 3,
             "refused_by_cause": {"rule": 2, "signature": 1}, "bytes_sent": 2048, "bytes_received": 0},
            {"member": "77e0aabbcc", "name": null, "standing": "newcomer", "connected": false,
             "connected_seconds": null, "last_heard_seconds": null, "refused": 0, "refused_by_cause": {}},
        ]});
        let text = lines(&answer).join("\n");
        assert!(
            text.contains("rome") && text.contains("3 (2 rule, 1 signature)"),
            "{text}"
        );
        assert!(
            text.contains("77e0aabb") && text.contains("newcomer"),
            "{text}"
        );
        assert!(text.contains("2 calls of strangers"), "{text}");
        assert!(
            text.contains("2 min 10 s") && text.contains("2.0 kB"),
            "{text}"
        );
    }
}
