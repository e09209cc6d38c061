//! Logs: `tracing` to stderr, as text or as JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A log filter that does not parse.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log (CONCLAVE_LOG) {filter:?} is no filter ({reason}); try error, warn, info, debug or conclave=debug"
)]
pub struct FilterError {
    filter: String,
    reason: String,
}

/// Starts logging for the whole process; a second start changes nothing.
pub fn start(filter: &str, format: Format) -> Result<(), FilterError> {
    // Gossip repeats itself on purpose; that it noticed is nobody's concern unless asked for.
    let quieted = format!("libp2p_gossipsub=error,{filter}");
    let parsed = EnvFilter::try_new(quieted).map_err(|error| FilterError {
        filter: filter.to_owned(),
        reason: error.to_string(),
    })?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let _already = match format {
        Format::Text => logs.try_init(),
        Format::Json => logs.json().try_init(),
    };
    Ok(())
}
