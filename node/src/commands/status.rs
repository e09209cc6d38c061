//! `conclave status`: what the running node says of itself.

use std::path::PathBuf;

use serde_json::Value;

use crate::{cli, local};

const EXAMPLE: &str = "Example:
  conclave status --dir berlin
  conclave status --dir berlin --json";

/// The flags of `status`.
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
    let status: Value = local::status(&args.dir)?;
    if args.json {
        cli::print_json(&status);
    } else {
        for line in lines(&status) {
            cli::print(&line);
        }
    }
    Ok(())
}

/// The answer for people.
fn lines(status: &Value) -> Vec<String> {
    let text = |key: &str| match &status[key] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut lines = vec![
        format!("{} ({})", text("name"), text("member")),
        format!(
            "height {}, round {} of {}: {}",
            text("height"),
            text("round"),
            text("rounds"),
            text("phase")
        ),
        format!(
            "{} peers; {} rounds opened, {} null; contributed to {}",
            text("peers"),
            text("rounds_opened"),
            text("rounds_null"),
            text("rounds_contributed")
        ),
        format!(
            "sent {} bytes, received {}; {} warnings, {} messages refused",
            text("bytes_sent"),
            text("bytes_received"),
            text("warnings"),
            text("refused")
        ),
        format!("ledger head {}", text("ledger_head")),
        format!("adapter     {}", text("adapter_digest")),
    ];
    if let Some(progress) = status["progress"].as_object() {
        let part = |key: &str| {
            progress
                .get(key)
                .map_or_else(String::new, ToString::to_string)
        };
        lines.push(format!(
            "step {} of {}, loss {}",
            part("done"),
            part("of"),
            part("loss")
        ));
    }
    for (key, word) in [("waiting", "waiting: "), ("halted", "halted: ")] {
        if let Some(reason) = status[key].as_str() {
            lines.push(format!("{word}{reason}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_whom_a_node_waits_for() {
        let status = serde_json::json!({
            "name": "berlin", "round": 2, "rounds": 6, "phase": "train", "waiting": "2 of 5 members to connect",
            "progress": {"done": 3, "of": 20, "loss": 2.5},
        });
        let text = lines(&status).join("\n");
        assert!(text.contains("round 2 of 6: train"), "{text}");
        assert!(text.contains("step 3 of 20, loss 2.5"), "{text}");
        assert!(
            text.contains("waiting: 2 of 5 members to connect"),
            "{text}"
        );
    }
}
